/* Max pooling over one sample in memory order (height, width, channels). */
#ifndef CK_POOL_H
#define CK_POOL_H

#include "axis.h"

/* Forward reads x, writes y and, unless index is NULL, which tap of its window each output
   took: tap_h * window_w + tap_w, in bytes or, where `wide`, in int32. Backward reads y as
   the gradient of the outputs with the index, and writes x as the gradient of the inputs;
   its axes are the transposed ones. */
typedef struct ck_pool_args {
    const ck_axis *h, *w;
    ptrdiff_t channels;
    int32_t window_w; /* taps along the width */
    int wide;
} ck_pool_args;

/* Rows row0 <= row < row1 of the targets. */
typedef struct ck_pool_kernels {
    void (*max_forward)(const ck_pool_args *, const void *x, void *y, void *index, ptrdiff_t row0,
                        ptrdiff_t row1);
    void (*max_backward)(const ck_pool_args *, const void *gy, const void *index, void *gx,
                         ptrdiff_t row0, ptrdiff_t row1);
} ck_pool_kernels;

typedef struct ck_pool_table {
    ck_pool_kernels f32, f64;
} ck_pool_table;

#endif
