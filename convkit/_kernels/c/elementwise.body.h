/* The elementwise kernels. Every loop has one body for whole and part vectors, so that an
   element's bits do not depend on where in an array it lies. */
#include "real_f.h"
#include "elementwise.real.h"
#include "real_d.h"
#include "elementwise.real.h"
#include "real_end.h"

#define UNARY_TABLE(suffix, S)                          \
    {                                                   \
        [CK_RELU] = CK_CAT(relu##suffix, S),            \
        [CK_RELU6] = CK_CAT(relu6##suffix, S),          \
        [CK_LEAKY_RELU] = CK_CAT(leaky_relu##suffix, S),\
        [CK_ELU] = CK_CAT(elu##suffix, S),              \
        [CK_SIGMOID] = CK_CAT(sigmoid##suffix, S),      \
        [CK_TANH] = CK_CAT(tanh##suffix, S),            \
        [CK_SILU] = CK_CAT(silu##suffix, S),            \
        [CK_GELU] = CK_CAT(gelu##suffix, S),            \
        [CK_GELU_TANH] = CK_CAT(gelu_tanh##suffix, S),  \
        [CK_HARDSWISH] = CK_CAT(hardswish##suffix, S),  \
        [CK_HARDSIGMOID] = CK_CAT(hardsigmoid##suffix, S), \
        [CK_ERF] = CK_CAT(erf##suffix, S),              \
        [CK_HARDTANH] = CK_CAT(hardtanh##suffix, S),    \
        [CK_SELU] = CK_CAT(selu##suffix, S),            \
        [CK_CELU] = CK_CAT(celu##suffix, S),            \
        [CK_SOFTPLUS] = CK_CAT(softplus##suffix, S),    \
        [CK_LOGSIGMOID] = CK_CAT(logsigmoid##suffix, S), \
        [CK_SOFTSIGN] = CK_CAT(softsign##suffix, S),    \
        [CK_MISH] = CK_CAT(mish##suffix, S),            \
    }

static const ck_elementwise_table elementwise_table = {
    .unary = {UNARY_TABLE(_map, _f), UNARY_TABLE(_map, _d)},
    .unary_grad = {UNARY_TABLE(_grad, _f), UNARY_TABLE(_grad, _d)},
    .add = {add_rows_f, add_rows_d},
    .binary = {{plus_rows_f, minus_rows_f, times_rows_f, over_rows_f},
               {plus_rows_d, minus_rows_d, times_rows_d, over_rows_d}},
};
