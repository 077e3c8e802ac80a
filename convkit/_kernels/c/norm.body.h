/* The norm kernels. */
static const ck_norm_table norm_table = {0};
