/* Winograd convolution with 3x3 and 5x5 kernels: the transforms of tiles and weights. */
#ifndef CK_WINOGRAD_H
#define CK_WINOGRAD_H

#include <stddef.h>
#include <stdint.h>

#include "gemm.h"

/* There are F(2x2, 3x3), F(4x4, 3x3), F(2x2, 5x5) and F(4x4, 5x5): tile, then taps; and F(2x2, 3x3) with stride 2,
   with a form of its own for the gradient of the input. Of integers there are the three with 6 x 6
   positions or more. Steps count elements throughout; position
   (i, j) of a transformed tile of n x n has the number i * n + j. */
enum { CK_WINOGRAD_FORMS = 6, CK_WINOGRAD_INT16_FORMS = 3 };

/* Input tiles of n x n pixels side by side: v[position] = B^T x B; or tiles of the output's
   gradient, which for the gradient of the weight plays the kernel's part. */
enum { CK_WINOGRAD_STRIP = 8 };
typedef struct ck_winograd_input_args {
    const float *x;       /* the image */
    ptrdiff_t offset;     /* of the first tile's first pixel; may point outside the image */
    ptrdiff_t row_step, pixel_step;
    ptrdiff_t row_from, row_to, col_from, col_to; /* the part of the tiles inside the image */
    const float *zeros;   /* `channels` zeros, read for rows outside */
    ptrdiff_t channels;
    ptrdiff_t tiles;      /* at most CK_WINOGRAD_STRIP */
    float *v;             /* whole vectors are written: `position_step` has room for them */
    ptrdiff_t position_step, tile_step;
    ptrdiff_t low;        /* on tiles: 16-bit numbers from a pixel's high halves to its low ones; of
                             int16: floats from a tile to its scales, a row of all positions for each */
    ptrdiff_t scale_step; /* run of channels, so far apart and filled up to whole vectors */
    int32_t *peak;        /* of a gradient: one vector, raised to the bits of the largest |x| */
} ck_winograd_input_args;

/* Products of few tiles with one vector of columns, all positions in one call:
   m[position][tile] = sum over k of v[position][tile][k] * u[position][k], in order. */
enum { CK_WINOGRAD_FEW = 8 };
typedef struct ck_winograd_product_args {
    const float *v;
    ptrdiff_t v_position, v_tile;
    const float *u;       /* a vector for each k */
    ptrdiff_t u_position;
    float *m;
    ptrdiff_t m_position, m_tile;
    ptrdiff_t positions, depth;
    const char *fetch[2]; /* what is needed next, brought to the second-level cache meanwhile: */
    ptrdiff_t lines[2];   /* so many cache lines of each with every position */
} ck_winograd_product_args;

/* Products of 16-bit numbers with 16 or 32 columns, some positions in one call; steps count floats. On
   tiles, rows of v and m are there for a multiple of 16 of the image's. */
typedef struct ck_winograd_tiles_args {
    const float *v;
    ptrdiff_t v_position, v_tile, low;
    const float *scales;  /* of int16: the first tile's, of its first run at this position; */
    ptrdiff_t scale_step; /* from one run's to the next; between tiles it is `v_tile`, too */
    const float *u;       /* see winograd.tiles.h and winograd.int16.h */
    ptrdiff_t u_position;
    float *m;
    ptrdiff_t m_position, m_tile;
    ptrdiff_t positions, tiles, columns;
    ptrdiff_t steps;      /* of 32 channels on tiles, of two of int16 */
    const char *fetch;    /* of int16, of so many tiles as its registers hold: brought to the second-level */
    ptrdiff_t fetch_step; /* cache meanwhile, a line with each step */
} ck_winograd_tiles_args;

/* Transformed tiles of 16 channels as int16, for the gradient of the weight: at each position pairs of
   tiles, then a scale for each channel. Steps count floats; without a second tile a pair has a zero. */
typedef struct ck_winograd_runs_args {
    const float *from;
    ptrdiff_t tile_step, position_step;
    ptrdiff_t tiles, positions;
    float *to;
    ptrdiff_t to_step;    /* between positions */
} ck_winograd_runs_args;

/* Of one position: sums[row][column] (+)= sum over the tiles of v[row] times d[column]. */
typedef struct ck_winograd_sums_args {
    const float *v, *d;   /* blocks of 16 channels as above, */
    ptrdiff_t block;      /* so many floats from one to the next */
    ptrdiff_t pairs, rows, columns;
    float *sums;
    ptrdiff_t row;        /* floats between rows, which are whole vectors */
    int accumulate;
} ck_winograd_sums_args;

/* Output tiles side by side: y = A^T m A, then bias, residual and activation. */
typedef struct ck_winograd_output_args {
    const float *m;
    ptrdiff_t position_step, tile_step;
    ptrdiff_t channels;
    float *y;
    ptrdiff_t row_step, pixel_step;
    ptrdiff_t rows, cols; /* how many of the tiles' rows and columns there are in y */
    const float *bias;    /* `channels` values, or NULL */
    const float *residual;/* addressed like y, or NULL; must not be y */
    int activation;       /* enum ck_activation */
    float alpha, beta;
    int32_t *peak;        /* one vector: raised to the bits of the largest |A^T m A| written */
} ck_winograd_output_args;

/* Weights of `columns` outputs: u[position][depth][column] = G w G^T, missing columns zero. */
typedef struct ck_winograd_weights_args {
    const float *w;
    ptrdiff_t column_step, depth_step; /* the taps of a kernel are neighbours */
    int turned;           /* whether the kernels are turned by 180 degrees */
    ptrdiff_t columns, depth;
    float *u;
    ptrdiff_t position_step, row; /* between positions and between depths; whole vectors */
    int32_t *peak;        /* one vector: raised to the bits of the largest |w| */
} ck_winograd_weights_args;

/* Back from sums over tiles to weights: w[column, depth] = A^T sums A. At most one
   vector of columns. */
typedef struct ck_winograd_taps_args {
    const float *sums;    /* sums[position][depth][column] */
    ptrdiff_t position_step, row; /* between positions and between depths */
    ptrdiff_t columns, depth;
    float *w;
    ptrdiff_t column_step, depth_step; /* the taps of a kernel are neighbours */
    int32_t *peak;        /* one vector: raised to the bits of the largest |w| */
} ck_winograd_taps_args;

typedef void (*ck_winograd_input_fn)(const ck_winograd_input_args *);

typedef struct ck_winograd_kernels {
    int tile, taps;       /* pixels of a side of a tile of the output, and taps of the kernel's */
    int step, size;       /* pixels of the input from one tile to the next, and of a tile's side */
    int side;             /* positions of a transformed tile's side */
    /* The same of weights. Where positions are more, each from `weight_side` on has the weights of the
       last of these. */
    int weight_side;
    /* Of 16-bit numbers, which have `input`, `weights` and, on tiles, `output` of their own; else NULL. */
    void (*products)(const ck_winograd_tiles_args *);
    int rows;             /* on tiles: how many of the image's are multiplied at a time, position by position; */
    int most_tiles;       /* elsewhere how many in a call, at most */
    int depths;           /* channels are multiplied so many at a time, */
    int depth_floats;     /* and each takes so many floats of a block of weights */
    ck_winograd_input_fn input;
    void (*output)(const ck_winograd_output_args *);
    void (*weights)(const ck_winograd_weights_args *);
    /* Of int16, for the gradient of the weight; else NULL. */
    void (*runs)(const ck_winograd_runs_args *);
    void (*sums)(const ck_winograd_sums_args *);
    /* For the gradient of the weight, or NULL: not of 16-bit numbers, nor with stride 2. */
    ck_winograd_input_fn gradient;
    void (*to_taps)(const ck_winograd_taps_args *);
} ck_winograd_kernels;

typedef struct ck_winograd_table {
    int vector_length;
    int tall_rows;
    ck_gemm_fn tall; /* as `transposed`, of tall_rows rows and one vector without epilogue */
    void (*multiply[CK_WINOGRAD_FEW + 1])(const ck_winograd_product_args *); /* by tiles */
    ck_winograd_kernels forms[CK_WINOGRAD_FORMS];
} ck_winograd_table;

#endif
