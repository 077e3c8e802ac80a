/* Function pointers of the kernels that gather a convolution's moments while its output is still
   in cache. Index 0 of a pair is float, 1 is double. */
#ifndef CK_GATHER_H
#define CK_GATHER_H

#include <stddef.h>

/* Pixels of an output: `rows` of `cols`, steps in numbers, and some channels of each. */
typedef struct ck_gather_args {
    const void *y;
    ptrdiff_t rows, cols, row_step, pixel_step, channels;
    int begin;    /* whether these are the first of a part: then `shift` is set, else read */
    int halves;   /* whether y is of bfloat16: floats' kernels, where there may be tiles */
    void *shift;  /* a value of each channel near its mean: that of the part's first pixel */
    double *sum, *square; /* of what lies above `shift`, and of its squares */
} ck_gather_args;

typedef void (*ck_gather_add_fn)(const ck_gather_args *);
/* Takes a part of `count` values into mean and sum of squared deviations of `before` values. */
typedef void (*ck_gather_merge_fn)(double *mean, double *squares, double before, const void *shift,
                                   const double *sum, const double *square, double count,
                                   ptrdiff_t channels);

typedef struct ck_gather_table {
    ck_gather_add_fn add[2];
    ck_gather_merge_fn merge[2];
} ck_gather_table;

#endif
