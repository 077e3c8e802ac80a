/* The elementwise kernels. */
static const ck_elementwise_table elementwise_table = {0};
