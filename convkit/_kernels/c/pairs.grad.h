/* Kernels of the weight's gradient for CPUs that multiply pairs of bfloat16 on vectors: the plain form
   of tilegrad.h, with its packing. Eight rows of a tile at a time, beside one or two column tiles. */

enum { PAIR_GRAD_ROWS = 8 };

/* `rows` lie in tiles of A `step` bytes apart. */
CK_INLINE void pair_grad(const ck_tilegrad_args *g, const char *rows, ptrdiff_t step, const char *b0,
                         const char *b1, float *c0, float *c1, int nb) {
    __m512 acc[PAIR_GRAD_ROWS][2];
    _Pragma("GCC unroll 8") for (int m = 0; m < PAIR_GRAD_ROWS; m++) {
        acc[m][0] = g->accumulate ? _mm512_loadu_ps(c0 + 16 * m) : _mm512_setzero_ps();
        if (nb > 1) acc[m][1] = g->accumulate ? _mm512_loadu_ps(c1 + 16 * m) : _mm512_setzero_ps();
    }
    for (ptrdiff_t k = g->steps; k > 0; k--, rows += step - 64) {
        for (int pair = 0; pair < CK_GRAD_PAIRS; pair++, rows += 4, b0 += 64, b1 += 64) {
            const __m512bh x0 = (__m512bh)_mm512_loadu_si512(b0);
            const __m512bh x1 = nb > 1 ? (__m512bh)_mm512_loadu_si512(b1) : x0;
            _Pragma("GCC unroll 8") for (int m = 0; m < PAIR_GRAD_ROWS; m++) {
                const __m512bh y = (__m512bh)tile_row_pair(rows + 64 * m, 0xffffffffu);
                acc[m][0] = _mm512_dpbf16_ps(acc[m][0], x0, y);
                if (nb > 1) acc[m][1] = _mm512_dpbf16_ps(acc[m][1], x1, y);
            }
        }
    }
    _Pragma("GCC unroll 8") for (int m = 0; m < PAIR_GRAD_ROWS; m++) {
        _mm512_storeu_ps(c0 + 16 * m, acc[m][0]);
        if (nb > 1) _mm512_storeu_ps(c1 + 16 * m, acc[m][1]);
    }
}

/* Some row blocks with some column tiles; then what is to be done beside the steps. */
static void pair_grad_run(const ck_tilegrad_args *g, int mb, int nb) {
    const ptrdiff_t tile = 64 * CK_GRAD_PAIRS, rows_bytes = 64 * PAIR_GRAD_ROWS;
    for (int i = 0; i < 2 * mb; i++) {
        const char *rows = g->a + i * rows_bytes;
        float *c = g->c + i * 16 * PAIR_GRAD_ROWS;
        for (int j = 0; j < nb; j += 2) {
            float *c0 = c + j * mb * CK_GRAD_TILE, *c1 = c0 + mb * CK_GRAD_TILE;
            if (nb - j > 1)
                pair_grad(g, rows, mb * tile, g->b[j], g->b[j + 1], c0, c1, 2);
            else
                pair_grad(g, rows, mb * tile, g->b[j], g->b[j], c0, c0, 1);
        }
    }
    for (ptrdiff_t k = 0; g->aside && k < g->steps; k++) g->aside(g->of);
}

#define PAIR_GRAD(mb, nb) \
    static void grad_pair_##mb##nb(const ck_tilegrad_args *g) { pair_grad_run(g, mb, nb); }
PAIR_GRAD(1, 1)
PAIR_GRAD(1, 2)
PAIR_GRAD(1, 3)
PAIR_GRAD(1, 4)
PAIR_GRAD(2, 1)
PAIR_GRAD(2, 2)

const ck_tilegrad_table ck_table_pairs_grad = {
    .plain = GRAD_PLAIN(pair),
    .join = grad_join,
    .settle = stream_end,
};
