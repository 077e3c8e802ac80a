/* The depthwise kernels. */
static const ck_depthwise_table depthwise_table = {0};
