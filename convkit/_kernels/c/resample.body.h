/* The resample kernels. */
static const ck_resample_table resample_table = {0};
