/* Sums of products of bytes, unsigned A times signed B, exact in int32, for quantised layers:
   sum[m, n] = sum over i, k of A_i[m, k] * B_i[k, n], then what follows in the layer while the
   sums are at hand. All instruction sets give the same bits (sums wrap).

   A is reached as in gemm.h: block i starts at a + a_offsets[i], row m another m * lda on. */
#ifndef CK_INT8_H
#define CK_INT8_H

#include <stddef.h>
#include <stdint.h>

enum ck_int8_number { CK_INT8_NONE = 0, CK_INT8_BYTES = 1, CK_INT8_FLOAT = 2, CK_INT8_INT = 3 };

/* What becomes of a sum: v = (sum + offset) * scale + (r - residual_zero) * residual_scale,
   negative v times `alpha`, v held between `low` and `high`; a byte is v rounded to the nearest
   even integer plus `zero`, so scales and bounds are in steps of the result, and bounds are whole
   numbers that give a byte. Where `between` is not 0, `scale` is in steps of bytes that come between:
   before something is added, v is held between their bounds, rounded, and multiplied by `between`,
   their step in steps of the result. */
typedef struct ck_int8_finish {
    const int32_t *offset; /* per column, padded to whole blocks */
    const float *scale;    /* per column, padded; not read for int32 results */
    int result;            /* an enum ck_int8_number */
    int residual;          /* the same: none, bytes or floats */
    float residual_scale;
    int residual_zero, residual_flip; /* bytes r are read as r ^ flip */
    float between, between_low, between_high; /* read where there is a residual */
    float alpha, low, high;
    int zero, result_flip; /* bytes are stored as b ^ flip, where b counts from 0 */
} ck_int8_finish;

/* One tile's problem. Strides and offsets count bytes. */
typedef struct ck_int8_args {
    const char *a;
    const ptrdiff_t *a_offsets;
    ptrdiff_t lda;
    const char *b;           /* a packed block of columns */
    ptrdiff_t batch, k;      /* number of blocks; values of each, a multiple of `multiple` */
    int rows, n;             /* at most max_rows and `columns` of the kernels */
    char *c;
    ptrdiff_t ldc;
    const char *residual;
    ptrdiff_t ld_residual;
    const char *fetch; /* what to bring into the second-level cache, */
    ptrdiff_t fetch_step; /* so many bytes on with each `group` of k */
    ptrdiff_t jump; /* not 0: the second half of A's rows starts so far behind the first */
    ck_int8_finish finish;
} ck_int8_args;

/* A row of pixels of a depthwise layer for a block of 64 channels; the result is bytes, and nothing
   is added. Memory up to 64 bytes behind the rows is read. */
enum { CK_INT8_WALKED = 64, CK_INT8_WALK_ROWS = 8, CK_INT8_WALK_WIDTH = 4 };
typedef struct ck_int8_walk {
    const char *rows[CK_INT8_WALK_ROWS]; /* of the window; those beyond it, too, can be read */
    ptrdiff_t pixel;                     /* bytes from one pixel of a row to the next */
    ptrdiff_t stride, taps, width;       /* pixels; at least CK_INT8_WALK_WIDTH are made */
    int joined, n;                       /* groups of four rows; channels */
    /* [joined][taps][4][16][4], of which the last are four rows, and 4 x 16 the channels as
       `walk_order` of int8.pyx has them, as in the finish's arrays. */
    const char *b;
    char *c;
    ptrdiff_t ldc;
    ck_int8_finish finish;
} ck_int8_walk;

/* Rows of pixels of a layer for some blocks of columns, on tiles. Numbers of one row of A are found
   at a + row * row_step + position * lda + a_offsets[i], in `steps` steps of `depth` each. */
typedef struct ck_int8_panel {
    const char *a;
    const ptrdiff_t *a_offsets;
    ptrdiff_t lda, row_step;
    ptrdiff_t batch, steps, depth;
    const char *b;            /* the first block of columns */
    ptrdiff_t block_bytes;    /* to the next one */
    int n;                    /* columns in all */
    ptrdiff_t rows, positions; /* of each row */
    ptrdiff_t wide, width;    /* positions whose remainder by `wide` is below `width` are pixels */
    char *c;
    ptrdiff_t ldc;            /* pixels lie one behind the other */
    const char *residual;
    ptrdiff_t ld_residual;
    const char *fetch;        /* what to bring into the second-level cache, */
    ptrdiff_t fetch_step;     /* so many bytes with each step */
    ck_int8_finish finish;    /* from the first column on */
} ck_int8_panel;

/* B is packed in blocks of `columns` columns (half as many, where `halves` and the last block
   has no more); in a block, `group` neighbours in k of every column lie side by side, each as
   `bytes` bytes: [batch][k / group][columns][group]. */
typedef struct ck_int8_kernels {
    int max_rows, columns, group, bytes;
    int multiple; /* k is padded with zeros in B to a multiple of this */
    int halves;
    int half_rows; /* rows of half a tile, where `run` takes jumps (then in whole tiles only), or 0 */
    /* Brings n bytes, each ^ flip, to the form in which A is read. */
    void (*prepare)(const uint8_t *x, ptrdiff_t n, int flip, void *out);
    void (*run)(const ck_int8_args *);
    /* Depthwise: column n of the sums is made of A's column n alone. A holds `group` values in
       32 bits for each column, as `join` makes them of as many rows of n bytes. */
    void (*depthwise)(const ck_int8_args *);
    void (*copy)(const uint8_t *x, ptrdiff_t n, int flip, void *out); /* as bytes */
    void (*join)(const uint8_t *const *rows, ptrdiff_t n, void *out);
    void (*walk)(const ck_int8_walk *); /* or NULL */
    void (*panel)(const ck_int8_panel *); /* on tiles, instead of `run` and `depthwise` */
} ck_int8_kernels;

#endif
