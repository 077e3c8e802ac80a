/* Kernels that normalise every row by its own numbers. */
#include "real_f.h"
#include "rownorm.real.h"
#include "real_d.h"
#include "rownorm.real.h"
#include "real_end.h"

static const ck_rownorm_table rownorm_table = {
    .layer = {layer_rows_f, layer_rows_d},
    .layer_grad = {layer_grad_rows_f, layer_grad_rows_d},
    .layer_sums = {layer_sums_f, layer_sums_d},
    .lrn = {lrn_rows_f, lrn_rows_d},
    .lrn_grad = {lrn_grad_rows_f, lrn_grad_rows_d},
};
