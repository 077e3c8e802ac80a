/* Steps on quantised arrays other than sums of products: conversions, sums of two, pooling. */
#ifndef CK_QUANT_H
#define CK_QUANT_H

#include "axis.h"
#include "int8.h"

/* y = finish(scale * (a - a_zero), b as the residual) for n values; a of type `number`. The
   finish's column arrays are not read. */
typedef struct ck_quant_args {
    int number;      /* CK_INT8_BYTES or CK_INT8_FLOAT */
    int zero, flip;  /* of a's bytes, which are read as a ^ flip */
    float scale;     /* a's in steps of the result; where `divide`, a is divided by it */
    int divide;
    ck_int8_finish finish;
} ck_quant_args;

/* Windows over one sample in memory order (height, width, channels); rows row0 <= row < row1. */
typedef struct ck_quant_pool {
    const ck_axis *h, *w;
    ptrdiff_t channels;
    int flip, zero;     /* bytes are read as x ^ flip */
    const float *h_part, *w_part; /* mean: product of the two is what a sum is multiplied by */
    ck_int8_finish finish;
} ck_quant_pool;

typedef struct ck_quant_table {
    void (*convert)(const ck_quant_args *, const char *a, const char *b, char *y, ptrdiff_t n);
    void (*look_up)(const uint8_t *table, const uint8_t *x, uint8_t *y, ptrdiff_t n);
    void (*max_pool)(const ck_quant_pool *, const uint8_t *x, uint8_t *y, ptrdiff_t row0,
                     ptrdiff_t row1);
    void (*mean_pool)(const ck_quant_pool *, const uint8_t *x, char *y, ptrdiff_t row0,
                      ptrdiff_t row1);
} ck_quant_table;

#endif
