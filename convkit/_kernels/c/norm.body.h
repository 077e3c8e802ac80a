/* Kernels over rows of channels: batch norm, affine, prelu. */
#include "halves.h"

/* Vectors j of nv at column c; only the last of an array's columns may be a part. */
#define EACH(j) _Pragma("GCC unroll 4") for (int j = 0; j < nv; j++)
#define AT(p, r, j) FN(load_some)((const T *)(p) + (r) * columns + c + (j) * VL, left - (j) * VL)
#define OVER_COLUMNS(call)                                        \
    {                                                             \
        ptrdiff_t c = 0;                                          \
        for (; c + 4 * VL <= columns; c += 4 * VL) call(4, 4 * VL); \
        for (; c < columns; c += VL) call(1, columns - c);        \
    }

#define PUT_AT(p, v) \
    FN(store_some)((T *)(p) + r * columns + c + j * VL, (v), left - j * VL)

#include "real_d.h"
#include "norm.real.h"
#include "real_f.h"
#include "norm.real.h"
#include "norm.kept.h"
#include "real_end.h"
#undef PUT_AT
#undef EACH
#undef AT
#undef OVER_COLUMNS

/* Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983. */
static void merge_moments(double *mean_a, double *squares_a, double count_a, const double *mean_b,
                          const double *squares_b, double count_b, ptrdiff_t columns) {
    const double share = count_b / (count_a + count_b), weight = count_a * share;
    for (ptrdiff_t c = 0; c < columns; c++) {
        double delta = mean_b[c] - mean_a[c];
        mean_a[c] += delta * share;
        squares_a[c] += squares_b[c] + delta * delta * weight;
    }
}

static const ck_norm_table norm_table = {
    .moments = {moments_f, moments_d},
    .merge_moments = merge_moments,
    .affine = {affine_rows_f, affine_rows_d},
    .grad_sums = {grad_sums_f, grad_sums_d},
    .grad_input = {grad_input_f, grad_input_d},
    .masked_sums = {masked_sums_f, masked_sums_d, masked_sums_kept},
    .masked_input = {masked_input_f, masked_input_d, masked_input_kept},
    .affine_kept = affine_kept,
    .narrow = narrow_run,
    .widen = widen_run,
    .prelu = {prelu_rows_f, prelu_rows_d},
    .prelu_grad = {prelu_grad_rows_f, prelu_grad_rows_d},
};
