/* The pool kernels. */
static const ck_pool_table pool_table = {0};
