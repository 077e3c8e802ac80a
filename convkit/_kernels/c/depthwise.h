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

/* Pairs of rows of outputs in float32, by a kernel for one square window. Output column t's
   window begins at input column first + t * stride; columns outside [0, width) are skipped.
   In the gradient of a convolution of stride 2, x is the gradient of the output: input column
   t reaches the output columns from first + 2 * t on, and the first row of a pair is one that
   an even tap row reaches from the last of the pair's input rows. */
enum { CK_DW_ROWS = 2, CK_DW_HALVES = 32 };
typedef struct ck_depthwise_band {
    const void *x; /* the first pair's first input row, which may be outside the input */
    ptrdiff_t x_row_step, x_pair_step, x_step, width, first;
    const void *w;
    ptrdiff_t w_row_step, w_step;
    void *y; /* the first pair's first row */
    ptrdiff_t y_row_step, y_step, columns;
    ptrdiff_t channels, pairs;
    ptrdiff_t group; /* grouped kernels: channels in and out of a group */
    /* Input rows are numbered from `top` on, `top_dilation` apart, from pair to pair top_step
       apart: those in [0, height) are read. Output rows are numbered from `row` on, row_step
       apart: those in [row_low, row_high) are written. */
    ptrdiff_t top, top_step, top_dilation, height;
    ptrdiff_t row, row_step, row_low, row_high;
    unsigned rows_inside, rows_wanted; /* the kernel's own: the rows of one pair, as bits */
    const void *bias;                  /* `channels` values, or NULL */
    int clamp;                         /* whether results are held within [low, high] */
    float low, high;
    int stream;                        /* store past the caches: y lies on whole vectors */
} ck_depthwise_band;
typedef void (*ck_depthwise_band_fn)(const ck_depthwise_band *);

/* Rows [start, stop) of the gradient gy of one sample's output, in float32; sums as in
   ck_depthwise_sums_args, for all tap rows. */
typedef struct ck_depthwise_block {
    const void *x, *gy;
    ptrdiff_t height, width, columns, channels;
    ptrdiff_t start, stop, top, left;
    void *sums;
    ptrdiff_t sums_step;
    ptrdiff_t group; /* grouped kernels, as above: all taps' sums for input 0, then for 1, ... */
} ck_depthwise_block;
typedef void (*ck_depthwise_block_fn)(const ck_depthwise_block *);

typedef struct ck_depthwise_table {
    ck_depthwise_kernels f32, f64;
    /* Kernels for taps x taps windows, or NULL where there is none. `band` wants at least a
       vector of channels; `up` is the stride of the convolution whose gradient it is, else
       1. `flat_band` wants fewer, stride 1, and weights and bias that repeat along 2 *
       vector_length values. `block` wants at least a vector of channels. */
    ck_depthwise_band_fn (*band)(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t up);
    ck_depthwise_band_fn (*flat_band)(ptrdiff_t taps);
    ck_depthwise_block_fn (*block)(ptrdiff_t taps, ptrdiff_t stride);
    /* The same for convolutions in groups of 2, 4, ... channels, at most a vector. For each
       vector of output channels, weights are packed as [input of the group][tap][lane]. */
    ck_depthwise_band_fn (*grouped_band)(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t up);
    ck_depthwise_block_fn (*grouped_block)(ptrdiff_t taps, ptrdiff_t stride);
} ck_depthwise_table;

#endif
