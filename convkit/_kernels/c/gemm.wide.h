/* Few columns of C: vectors along the rows of C instead of along its columns.

   A tile of gemm.body.h holds a row's columns in the lanes of a vector, of which six output channels
   leave ten of sixteen idle. Where neighbouring rows of A lie one element apart (pixels of one
   channel), a vector holds one column of neighbouring rows, and half the lanes' number of columns or
   fewer take half the multiply-adds or fewer. Each element of C is the same chain of multiply-adds as
   in a tile: the same bits. */

#define WIDE_MOST (VL_F / 2)

/* Which row of a block, and which column, each lane of the block's vectors of C holds where rows follow
   each other without a gap. */
typedef struct wide_order {
    vint32 row[WIDE_MOST], column[WIDE_MOST];
} wide_order;

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

static const int32_t wide_lanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

CK_INLINE void wide_describe(wide_order *order, int nc) {
    for (int t = 0; t < nc; t++) {
        const vint32 at = *(const vint32_u *)wide_lanes + t * VL_F;
        const vfloat row = (__builtin_convertvector(at, vfloat) + 0.5f) * (1.0f / (float)nc);
        order->row[t] = __builtin_convertvector(row, vint32);
        order->column[t] = at - order->row[t] * nc;
    }
}

/* v, and in the lanes where `column` is j, lane `row` of `from`. */
CK_INLINE vfloat wide_take(vfloat v, vint32 column, int j, vint32 row, vfloat from) {
#if CK_VBYTES == 64
    const __mmask16 mine = _mm512_cmpeq_epi32_mask((__m512i)column, _mm512_set1_epi32(j));
    return (vfloat)_mm512_mask_permutexvar_ps((__m512)v, mine, (__m512i)row, (__m512)from);
#else
    return select_f(column == j, permute_f(from, row), v);
#endif
}

/* The same as `wide_finish` where rows follow each other without a gap: as many vectors as there are
   columns, none with an idle lane. */
CK_INLINE void wide_finish_whole(const ck_gemm_args *g, ptrdiff_t at, int begin, const vfloat *acc,
                                 const wide_order *order, int nc) {
    const float *bias = g->bias, *residual = g->residual;
    const vfloat zero = {0};
    const int skipped = begin * nc; /* numbers that are written already */
    float *c = (float *)g->c + at * nc;
    vfloat sums[WIDE_MOST], v[WIDE_MOST];
    GEMM_UNROLL for (int j = 0; j < nc; j++) sums[j] = bias ? acc[j] + set_f(bias[j]) : acc[j];
    GEMM_UNROLL for (int t = 0; t < nc; t++) {
        v[t] = permute_f(sums[0], order->row[t]);
        GEMM_UNROLL for (int j = 1; j < nc; j++)
            v[t] = wide_take(v[t], order->column[t], j, order->row[t], sums[j]);
    }
    if (residual)
        GEMM_UNROLL for (int t = 0; t < nc; t++) v[t] += load_f(residual + at * nc + t * VL_F);
    if (g->activation == CK_ACT_RELU)
        GEMM_UNROLL for (int t = 0; t < nc; t++) v[t] = select_f(v[t] < zero, zero, v[t]);
    else if (g->activation != CK_ACT_NONE)
        gemm_activate_f(g->activation, g->alpha, g->beta, nc, v);
    for (int t = skipped / VL_F; t < nc; t++) {
        const vint32 done = *(const vint32_u *)wide_lanes < skipped - t * VL_F;
        store_f(c + t * VL_F, t * VL_F < skipped ? select_f(done, load_f(c + t * VL_F), v[t]) : v[t]);
    }
}

/* Finishes both of two blocks, which may overlap. */
CK_INLINE void wide_finish_two(const ck_gemm_args *g, ptrdiff_t done, ptrdiff_t first, ptrdiff_t second,
                               vfloat acc[2][WIDE_MOST], const wide_order *order, int nc) {
    for (int i = 0; i < (second > first ? 2 : 1); i++) {
        const ptrdiff_t at = i ? second : first;
        const int begin = (int)((i ? first + VL_F : done) - at);
        if (order)
            wide_finish_whole(g, at, begin, acc[i], order, nc);
        else
            wide_finish(g, at, begin, acc[i]);
    }
}

/* Rows 0 to `rows` - 1, of which there are at least VL_F. The last blocks end with the last row: rows
   they share with blocks before are written once. */
CK_INLINE void gemm_wide(const ck_gemm_args *g, ptrdiff_t rows, int nc) {
    wide_order order;
    const int whole = CK_HAVE_PERMUTE && g->ldc == nc && (!g->residual || g->ld_residual == nc);
    if (whole) wide_describe(&order, nc);
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
        vfloat sums[2][WIDE_MOST]; /* apart, so that those in registers stay there */
        GEMM_UNROLL for (int j = 0; j < nc; j++) {
            sums[0][j] = acc[0][j];
            sums[1][j] = acc[1][j];
        }
        wide_finish_two(g, done, first, second, sums, whole ? &order : NULL, nc);
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
