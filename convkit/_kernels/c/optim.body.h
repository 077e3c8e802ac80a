/* The optim kernels. */
static const ck_optim_table optim_table = {0};
