/* Function pointers of the softmax family: over rows of `length` numbers that lie together.
   Index 0 of a pair is float, 1 is double. */
#ifndef CK_SOFTMAX_H
#define CK_SOFTMAX_H

#include <stddef.h>

/* y may be x. */
typedef void (*ck_softmax_fn)(const void *x, void *y, ptrdiff_t rows, ptrdiff_t length);
/* gx from gy and the values y; gx may be either. */
typedef void (*ck_softmax_grad_fn)(const void *gy, const void *y, void *gx, ptrdiff_t rows,
                                   ptrdiff_t length);

typedef struct ck_softmax_table {
    ck_softmax_fn softmax[2], log_softmax[2];
    ck_softmax_grad_fn softmax_grad[2], log_softmax_grad[2];
} ck_softmax_table;

#endif
