/* Batch-reduce GEMM: C[m, n] (+)= sum over i, k of A_i[m, k] * B_i[k, n], one register tile. */
#ifndef CK_GEMM_H
#define CK_GEMM_H

#include <stddef.h>

/* Activations applied while the tile is still in registers. */
enum ck_activation {
    CK_ACT_NONE = 0,
    CK_ACT_RELU = 1,
    CK_ACT_CLAMP = 2, /* min(max(x, alpha), beta); NaN stays NaN */
    CK_ACT_LEAKY = 3, /* x >= 0 ? x : alpha * x */
    CK_ACT_UNARY = 16, /* from here on: number - CK_ACT_UNARY of enum ck_unary, on a whole tile */
};

/* One tile's problem. Strides and offsets count elements. */
typedef struct ck_gemm_args {
    const void *a;           /* block i of A starts at a + a_offsets[i] */
    const ptrdiff_t *a_offsets;
    ptrdiff_t lda;           /* plain: between rows m; transposed: between steps k */
    const void *b;           /* block i of B starts at b + i * b_step */
    ptrdiff_t b_step;
    const ptrdiff_t *b_offsets; /* transposed: or, where not NULL, at b + b_offsets[i] */
    ptrdiff_t ldb;           /* between steps k of B */
    ptrdiff_t batch;         /* number of blocks */
    ptrdiff_t k;             /* reduction length of each block */
    void *c;
    ptrdiff_t ldc;           /* between rows m of C */
    int n;                   /* columns of C to write, at most nv * vector length */
    int accumulate;          /* start from what C holds instead of zero */
    const void *bias;        /* n values added to each row, or NULL */
    const void *residual;    /* addressed like C with stride ld_residual, or NULL */
    ptrdiff_t ld_residual;
    int activation;
    double alpha, beta;      /* parameters of the activation */
    const void *fetch;       /* what later tiles need, brought to the second-level cache: the */
    ptrdiff_t fetch_step;    /* line at fetch + i * fetch_block + k * fetch_step (in bytes) */
    ptrdiff_t fetch_block;   /* at step k of block i; nothing where fetch is NULL */
} ck_gemm_args;

typedef void (*ck_gemm_fn)(const ck_gemm_args *);
typedef void (*ck_gemm_wide_fn)(const ck_gemm_args *, ptrdiff_t rows);

enum { CK_GEMM_MAX_NV = 4, CK_GEMM_MAX_MR = 14, CK_GEMM_MAX_WIDE = 8 };

/* Kernels for one number type: tile[nv][mr], with nv vectors of columns and mr rows.
   max_mr[nv] is 0 where no kernel of that width exists. `plain` reads A by rows (A[m, k]
   at a + m * lda + k); `transposed` reads it by columns (a + k * lda + m).

   wide[n], where it is not NULL, is for any number of rows from the vector length on, n columns and
   an lda of 1, with the bits of `plain`; it neither accumulates nor fetches. */
typedef struct ck_gemm_kernels {
    int vector_length;
    int max_mr[CK_GEMM_MAX_NV + 1];
    ck_gemm_fn plain[CK_GEMM_MAX_NV + 1][CK_GEMM_MAX_MR + 1];
    ck_gemm_fn transposed[CK_GEMM_MAX_NV + 1][CK_GEMM_MAX_MR + 1];
    ck_gemm_wide_fn wide[CK_GEMM_MAX_WIDE + 1];
} ck_gemm_kernels;

typedef struct ck_gemm_table {
    ck_gemm_kernels f32, f64;
    /* Runs `steps` rounds of independent multiply-adds; returns how many float
       operations that was. The measured peak that benchmarks compare with. */
    double (*fma_rounds)(long steps);
} ck_gemm_table;

#endif
