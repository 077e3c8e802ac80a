/* Batch-reduce GEMM on tiles: float results from products of 16-bit numbers.

   C[m, n] = sum over i, k of A_i[m, k] * B_i[k, n], where A and B are held as one plane of
   bfloat16 (the plain form) or as two, high and low, whose sum is the float to 16 bits (the
   split form: high * high + high * low + low * high), with float32 sums; or as one plane of
   float16 times powers of two (the half form), with short sums in float16, added up in
   float32. */
#ifndef CK_TILE_H
#define CK_TILE_H

#include <stddef.h>
#include <stdint.h>

#include "depthwise.h"
#include "elementwise.h"
#include "pool.h"

/* The 64-byte operand of LDTILECFG. */
typedef struct ck_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} ck_tile_config;

enum { CK_TILE_ROWS = 16, CK_TILE_COLUMNS = 16, CK_TILE_DEPTH = 32 };

/* Up to two blocks of rows times two blocks of 16 columns. Strides and offsets of A and B
   count bytes, those of C elements.

   B is packed by steps of the reduction: for each block i and step, the high tiles of the
   column blocks, then (split) their low ones; a tile holds pairs of k, 16 columns side by
   side, zeros where k or a column is missing. */
typedef struct ck_tile_args {
    const char *a;              /* first row of the first block of rows, high plane */
    ptrdiff_t a_next;           /* to the second block of rows */
    ptrdiff_t a_low;            /* to the low plane */
    const ptrdiff_t *a_offsets; /* block i of A starts at a + a_offsets[i] */
    ptrdiff_t lda;
    const char *b;
    ptrdiff_t b_ahead;          /* B is fetched so many bytes before it is read, or 0 */
    ptrdiff_t batch, k;         /* number of blocks, reduction length of each */
    ptrdiff_t steps, depth;     /* each block in `steps` steps of `depth` (even, at most 32) */
    ptrdiff_t a_step;           /* bytes from one step of A to the next */
    int rows;                   /* of each block, at most 16: as configured */
    int n;                      /* columns to write, at most 32 */
    void *c;                    /* floats, or bfloat16 where `narrow_c` */
    const ptrdiff_t *c_rows;    /* where each row lies in C; negative: it is not wanted */
    float scale[2];             /* factors of sums, one after the other: half form */
    const float *bias;          /* n values, or NULL */
    const void *residual;       /* addressed like C, or NULL; bfloat16 where `narrow_residual` */
    int narrow_c, narrow_residual;  /* in the plain form alone */
    int stream;                 /* whole rows of results go past the caches, to whole lines */
    struct ck_tile_queue *queue;    /* the caller's own, where the form has `flush` */
    void (*aside)(void *of);    /* called with each step: other work that fits between products */
    void *of;
    int activation;             /* enum ck_activation, below CK_ACT_UNARY */
    float alpha, beta;
    ck_unary_fn map;            /* an activation of another kind, or NULL */
} ck_tile_args;

typedef void (*ck_tile_fn)(const ck_tile_args *);

struct ck_tile_queue;
typedef void (*ck_tile_finish_fn)(const ck_tile_args *, struct ck_tile_queue *, int last);

/* Sums of one call's blocks that wait to be finished and written while the next call multiplies:
   the two kinds of work use different parts of a core, but only where they alternate. What `args`
   point to (c_rows, bias, residual) must stay as it is until the next call has returned. */
typedef struct ck_tile_queue {
    float sums[2][2 * 16 * 32] __attribute__((aligned(64)));
    int filled;                 /* which of them the last call wrote */
    int rows, done;             /* of those sums; all are done before the first call */
    const ptrdiff_t *c_rows;
    void *c;
    const float *bias;
    const void *residual;
    int n;
    ck_tile_finish_fn finish;
} ck_tile_queue;

/* Kernels for one form, by [blocks of rows - 1][blocks of columns - 1]. `run` may read, and
   multiply by zero, up to 31 values of A beyond each reduction: they must be finite. Where A
   may hold infinities or NaN, `exact` gives what float32 would: it reads nothing beyond, and
   multiplies infinities by high parts only. On finite values both give the same bits. */
typedef struct ck_tile_form {
    int planes;
    int most_rows;              /* of a block */
    int least_rows;             /* of which it is worth to be cut so; 0: a block takes one time */
    ck_tile_fn run[2][2], exact[2][2];
    /* Finishes what waits in the queue; NULL in forms that leave nothing there. */
    ck_tile_fn flush;
    /* Converts n floats, times a scale in the half form, the low plane `low` bytes after the
       high one; tells whether any was infinite or NaN, unless `run` is exact. Finite values
       stay finite. Each 32 values go `apart` values from the 32 before them (side by side in the
       half form). */
    int (*convert)(const void *x, ptrdiff_t n, void *high, ptrdiff_t low, float scale,
                   ptrdiff_t apart);
    /* The same of n bfloat16, as they are; NULL but in the plain form. */
    int (*copy)(const void *x, ptrdiff_t n, void *high, ptrdiff_t low, float scale,
                ptrdiff_t apart);
    /* The same of `depth` rows of 16 weights, into a tile of B; always tells. */
    int (*pack)(const float *rows, ptrdiff_t depth, void *high, ptrdiff_t low, float scale);
    /* The largest bits of finite magnitudes, or `peak` where that is larger. NULL in forms
       that need no scale. */
    uint32_t (*peak)(const float *x, ptrdiff_t n, uint32_t peak);
} ck_tile_form;

typedef struct ck_tile_table {
    /* Sets the calling thread's tiles for blocks of `rows` rows and steps of `depth`. Both are NULL where
       products are made on vectors. */
    void (*configure)(int rows, int depth);
    void (*release)(void);
    ck_tile_form plain, split, half;
    /* Largest values of windows of bfloat16. */
    ck_pool_kernels pool;
    /* Depthwise convolution of bfloat16 of at least CK_DW_HALVES channels; weights and bias are
       floats. Else as `band` of depthwise.h. */
    ck_depthwise_band_fn (*depthwise)(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t up);
    /* The gradient of its weight, of bfloat16 on both sides, and the total of blocks of sums: these are
       in an order of their own, and there are as many as channels in whole times CK_DW_HALVES. */
    ck_depthwise_block_fn (*depthwise_block)(ptrdiff_t taps, ptrdiff_t stride);
    void (*depthwise_total)(const void *sums, ptrdiff_t blocks, ptrdiff_t step, ptrdiff_t channels,
                            void *out);
    /* Runs rounds of independent products of full tiles; returns how many float operations
       that was. The measured peak that benchmarks compare with. */
    double (*rounds)(long steps);
    /* From so many bytes of input and output on, outputs are stored past the caches. */
    ptrdiff_t far_bytes;
    /* Multiply-adds of a product in the time of one elementary operation, about. */
    double products_per_step;
} ck_tile_table;

#endif
