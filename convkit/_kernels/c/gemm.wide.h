/* Few columns of C: vectors along the rows of C instead of along its columns.

   A tile of gemm.body.h holds a row's columns in the lanes of a vector, of which six output channels
   leave ten of sixteen idle. Where neighbouring rows of A lie one element apart (pixels of one
   channel), a vector holds one column of neighbouring rows, and half the lanes' number of columns or
   fewer take half the multiply-adds or fewer. Each element of C is the same chain of multiply-adds as
   in a tile: the same bits. */

#define WIDE_MOST (VL_F / 2)

/* Finishes and writes rows `begin` to VL_F - 1 of a block that begins with row `at`. */
static __attribute__((noinline)) void wide_finish(const ck_gemm_args *g, ptrdiff_t at, int begin,
                                                  const vfloat *acc) {
    const int nc = g->n;
    const float *bias = g->bias, *residual = g->residual;
    const vfloat zero = {0};
    vfloat v[VL_F];
    TRANSPOSE_EACH(j, VL_F) {
        v[j] = zero;
        if (j < nc) v[j] = bias ? acc[j] + set_f(bias[j]) : acc[j];
    }
    transpose_f(v);
    if (residual)
        for (int m = begin; m < VL_F; m++)
            v[m] += load_part_f(residual + (at + m) * g->ld_residual, nc);
    if (g->activation == CK_ACT_RELU)
        TRANSPOSE_EACH(m, VL_F) v[m] = select_f(v[m] < zero, zero, v[m]);
    else if (g->activation != CK_ACT_NONE)
        gemm_activate_f(g->activation, g->alpha, g->beta, VL_F, v);
    float *c = (float *)g->c + at * g->ldc;
    for (int m = begin; m < VL_F; m++) store_part_f(c + m * g->ldc, v[m], nc);
}

/* Rows 0 to `rows` - 1, of which there are at least VL_F. The last blocks end with the last row: rows
   they share with blocks before are written once. */
CK_INLINE void gemm_wide(const ck_gemm_args *g, ptrdiff_t rows, int nc) {
    for (ptrdiff_t done = 0; done < rows;) {
        const ptrdiff_t last = rows - VL_F;
        const ptrdiff_t first = done < last ? done : last;
        const ptrdiff_t second = first + VL_F < last ? first + VL_F : last;
        vfloat acc[2][WIDE_MOST];
        GEMM_UNROLL for (int j = 0; j < nc; j++) acc[0][j] = acc[1][j] = (vfloat){0};
        for (ptrdiff_t i = 0; i < g->batch; i++) {
            const float *a = (const float *)g->a + g->a_offsets[i];
            const float *b = (const float *)g->b + i * g->b_step;
            for (ptrdiff_t k = 0; k < g->k; k++, b += g->ldb) {
                const vfloat a0 = load_f(a + first + k), a1 = load_f(a + second + k);
                GEMM_UNROLL for (int j = 0; j < nc; j++) {
                    const vfloat bv = set_f(b[j]);
                    acc[0][j] += a0 * bv;
                    acc[1][j] += a1 * bv;
                }
            }
        }
        wide_finish(g, first, (int)(done - first), acc[0]);
        if (second > first) wide_finish(g, second, (int)(first + VL_F - second), acc[1]);
        done = second + VL_F;
    }
}

#define WIDE_FUNCTION(nc) \
    static void gemm_wide_##nc(const ck_gemm_args *g, ptrdiff_t rows) { gemm_wide(g, rows, nc); }
#define WIDE_ENTRY(nc) [nc] = gemm_wide_##nc,
#if CK_VBYTES == 64
#define WIDE_EACH(act) act(1) act(2) act(3) act(4) act(5) act(6) act(7) act(8)
#elif CK_VBYTES == 32
#define WIDE_EACH(act) act(1) act(2) act(3) act(4)
#else
#define WIDE_EACH(act) act(1) act(2)
#endif
WIDE_EACH(WIDE_FUNCTION)
