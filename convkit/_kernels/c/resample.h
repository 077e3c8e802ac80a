/* Separable linear maps over (height, width) of one sample in memory order (height, width,
   channels): average pooling, interpolation and their gradients; copies for padding. */
#ifndef CK_RESAMPLE_H
#define CK_RESAMPLE_H

#include "axis.h"

typedef struct ck_resample_args {
    const ck_axis *h, *w;
    ptrdiff_t channels;
    double fill; /* value of targets that have no source */
} ck_resample_args;

/* Rows row0 <= row < row1 of the targets. */
typedef void (*ck_resample_fn)(const ck_resample_args *, const void *x, void *y, ptrdiff_t row0,
                               ptrdiff_t row1);

typedef struct ck_resample_kernels {
    ck_resample_fn gather; /* y = sum_i weight_h[i] * sum_j weight_w[j] * x[i, j] */
    ck_resample_fn copy;   /* y = x[i, j]: at most one source each, weights ignored */
} ck_resample_kernels;

typedef struct ck_resample_table {
    ck_resample_kernels f32, f64;
} ck_resample_table;

#endif
