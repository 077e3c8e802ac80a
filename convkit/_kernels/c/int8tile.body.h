/* Byte products on tiles: 2 x 2 accumulators of 16 x 16 int32, 64 values of k a step. */

#include "gemm.shapes.h"
#include "int8.finish.h"

/* Sums begin with the offsets: a step of 0 reads them into every row. */
#define INT8_BEGIN(tile, i, j) amx_load(tile, g->finish.offset + 16 * (j), 0)

CK_INLINE void int8_run(const ck_int8_args *g, int mb, int nb) {
    const char *b = g->b;
    const ptrdiff_t lda = g->lda;
    int32_t sums[2 * 16 * 32] __attribute__((aligned(64)));
    tile_configure(g->rows < CK_TILE_ROWS ? g->rows : CK_TILE_ROWS, CK_TILE_DEPTH);
    TILE_EACH_ACCUMULATOR(INT8_BEGIN);
    for (ptrdiff_t i = 0; i < g->batch; i++) {
        const char *a0 = g->a + g->a_offsets[i];
        /* The second block ends with the last row: it may repeat rows of the first. */
        const char *a1 = a0 + (g->rows - CK_TILE_ROWS) * lda;
        for (ptrdiff_t k = 0; k < g->k; k += 64, a0 += 64, a1 += 64, b += 64 * 32) {
            amx_load(4, a0, lda);
            if (mb > 1) amx_load(5, a1, lda);
            amx_load(6, b, 128);
            if (nb > 1) amx_load(7, b + 64, 128);
            TILE_MULTIPLY(amx_u8);
        }
    }
    TILE_EACH_ACCUMULATOR(TILE_STORE);
    amx_release();
    if (mb > 1 && g->rows < 2 * CK_TILE_ROWS) /* rows 16 on of the sums */
        memmove(sums + 16 * 32, sums + (2 * CK_TILE_ROWS + CK_TILE_ROWS - g->rows) * 32,
                (size_t)(g->rows - CK_TILE_ROWS) * 32 * sizeof *sums);
    int8_finish(g, sums, 2);
}

static void int8_run_blocks(const ck_int8_args *g) {
    if (g->rows > CK_TILE_ROWS && g->n > CK_TILE_COLUMNS)
        int8_run(g, 2, 2);
    else if (g->rows > CK_TILE_ROWS)
        int8_run(g, 2, 1);
    else if (g->n > CK_TILE_COLUMNS)
        int8_run(g, 1, 2);
    else
        int8_run(g, 1, 1);
}

const ck_int8_kernels ck_table_amx_int8 = {
    .max_rows = 2 * CK_TILE_ROWS,
    .columns = 2 * CK_TILE_COLUMNS,
    .group = 4,
    .bytes = 1,
    .multiple = 64,
    .halves = 0,
    .prepare = int8_copy,
    .run = int8_run_blocks,
};
