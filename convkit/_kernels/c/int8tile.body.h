/* Byte products on tiles: 2 x 2 accumulators of 16 x 16 int32, 64 values of k a step. */

#include "int8.bytes.h"

static void int8_prepare(const uint8_t *a, ptrdiff_t lda, ptrdiff_t rows, ptrdiff_t k,
                         ptrdiff_t padded, int is_signed, void *out) {
    (void)is_signed;
    int8_prepare_bytes(a, lda, rows, k, padded, 0, out);
}

static void int8_finish(const ck_int8_args *g, const int32_t *sums) {
    for (int m = 0; m < g->rows; m++) {
        for (int n = 0; n < g->n; n += 16) {
            const int left = g->n - n < 16 ? g->n - n : 16;
            /* A move of bits: integers in float clothes. */
            store_part_f((float *)(g->c + m * g->ldc + n),
                         load_f((const float *)(sums + 32 * m + n)), left);
        }
    }
}

CK_INLINE void int8_run(const ck_int8_args *g, int mb, int nb, int is_signed) {
    const char *a0 = g->a, *a1 = a0 + CK_TILE_ROWS * g->lda, *b = g->b;
    const ptrdiff_t lda = g->lda;
    int32_t sums[2 * 16 * 32] __attribute__((aligned(64)));
    tile_configure(g->rows < CK_TILE_ROWS ? g->rows : CK_TILE_ROWS, CK_TILE_DEPTH);
    TILE_EACH_ACCUMULATOR(TILE_CLEAR);
    for (ptrdiff_t k = 0; k < g->k; k += 64, a0 += 64, a1 += 64, b += 64 * 32) {
        amx_load(4, a0, lda);
        if (mb > 1) amx_load(5, a1, lda);
        amx_load(6, b, 128);
        if (nb > 1) amx_load(7, b + 64, 128);
        if (is_signed)
            TILE_MULTIPLY(amx_s8);
        else
            TILE_MULTIPLY(amx_u8);
    }
    TILE_EACH_ACCUMULATOR(TILE_STORE);
    amx_release();
    int8_finish(g, sums);
}

#define INT8_BY_BLOCKS(name, is_signed)                                \
    static void name(const ck_int8_args *g) {                          \
        if (g->rows > CK_TILE_ROWS && g->n > CK_TILE_COLUMNS)          \
            int8_run(g, 2, 2, is_signed);                              \
        else if (g->rows > CK_TILE_ROWS)                               \
            int8_run(g, 2, 1, is_signed);                              \
        else if (g->n > CK_TILE_COLUMNS)                               \
            int8_run(g, 1, 2, is_signed);                              \
        else                                                           \
            int8_run(g, 1, 1, is_signed);                              \
    }
INT8_BY_BLOCKS(int8_run_unsigned, 0)
INT8_BY_BLOCKS(int8_run_signed, 1)

const ck_int8_kernels ck_table_amx_int8 = {
    .rows = 2 * CK_TILE_ROWS,
    .columns = 2 * CK_TILE_COLUMNS,
    .group = 4,
    .bytes = 1,
    .multiple = 64,
    .shifted = 0,
    .prepare = int8_prepare,
    .run = {int8_run_unsigned, int8_run_signed},
};
