/* Depthwise convolution: one output row, and one row's share of the gradient of the weight. */
#ifndef CK_DEPTHWISE_H
#define CK_DEPTHWISE_H

#include <stddef.h>

/* One row of outputs: y[t, c] = sum over r, q of w[r, q, c] * x[r, first + t * stride +
   q * dilation, c], in the order of (r, q). Columns outside [0, width) are skipped. Steps and
   strides count elements for memory and columns for `stride` and `dilation`; pixels of x are
   `channels` apart. The same description serves the gradient of the input, where `w_step`
   and `w_row_step` are negative. */
typedef struct ck_depthwise_args {
    const void *x;
    ptrdiff_t x_row_step; /* between the rows that tap rows r read */
    ptrdiff_t width;      /* columns of x */
    const void *w;
    ptrdiff_t w_row_step, w_step;
    ptrdiff_t rows, taps; /* tap rows inside the input (0 is allowed), taps of each */
    ptrdiff_t first, stride, dilation;
    ptrdiff_t channels;
    ptrdiff_t from, to; /* the channels to compute; `from` is a multiple of the vector */
    void *y;
    ptrdiff_t columns, y_step;
    const void *bias;     /* `channels` values, or NULL */
    const void *residual; /* addressed like y, or NULL; must not be y */
    int activation;       /* enum ck_activation */
    double alpha, beta;
} ck_depthwise_args;

/* One row of gradients of y: sums[r, q, v] += sum over t of x[r, first + t * stride +
   q * dilation, v] * gy[t, v] for each vector v of channels; columns outside [0, width)
   are skipped. The last vector is moved back to end with the last channel. */
typedef struct ck_depthwise_sums_args {
    const void *x;
    ptrdiff_t x_row_step, width;
    const void *gy;
    ptrdiff_t columns;
    ptrdiff_t rows, taps;
    ptrdiff_t first, stride, dilation;
    ptrdiff_t channels;
    void *sums;
    ptrdiff_t sums_step; /* between taps: channels rounded up to whole vectors */
} ck_depthwise_sums_args;

typedef struct ck_depthwise_kernels {
    int vector_length;
    void (*row)(const ck_depthwise_args *);
    void (*row_sums)(const ck_depthwise_sums_args *);
    /* out[c] = total over blocks, in their order, of one tap's sums; blocks are `step`
       elements apart. */
    void (*total)(const void *sums, ptrdiff_t blocks, ptrdiff_t step, ptrdiff_t channels,
                  void *out);
} ck_depthwise_kernels;

typedef struct ck_depthwise_table {
    ck_depthwise_kernels f32, f64;
} ck_depthwise_table;

#endif
