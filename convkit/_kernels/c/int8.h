/* Matrix products of bytes with exact int32 sums: C[m, n] = sum over k of A[m, k] * B[k, n],
   A unsigned or signed, B signed. All instruction sets give the same bits (sums wrap). */
#ifndef CK_INT8_H
#define CK_INT8_H

#include <stddef.h>
#include <stdint.h>

/* One tile's problem. */
typedef struct ck_int8_args {
    const void *a;         /* rows as `prepare` made them */
    ptrdiff_t lda;         /* bytes between them */
    const void *b;         /* a packed block of columns */
    ptrdiff_t k;           /* reduction length, a multiple of `multiple` */
    const int32_t *offset; /* added to each row (n values), or NULL */
    int32_t *c;
    ptrdiff_t ldc;         /* elements between rows */
    int rows, n;           /* at most `rows` and `columns` of the kernels */
} ck_int8_args;

/* B is packed in blocks of `columns` columns; in a block, `group` neighbours in k of every
   column lie side by side, each as `bytes` bytes: [k / group][columns][group]. */
typedef struct ck_int8_kernels {
    int rows, columns, group, bytes;
    int multiple; /* k is padded with zeros to a multiple of this */
    int shifted;  /* signed A is held with 128 added: subtract 128 times B's column sums */
    /* Brings `rows` rows of k bytes to the form that the tiles read, each `padded` long. */
    void (*prepare)(const uint8_t *a, ptrdiff_t lda, ptrdiff_t rows, ptrdiff_t k,
                    ptrdiff_t padded, int is_signed, void *out);
    void (*run[2])(const ck_int8_args *); /* A unsigned, A signed */
} ck_int8_kernels;

#endif
