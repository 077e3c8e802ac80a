/* Batch-reduce GEMM register tiles: mr rows times nv vectors of columns in accumulators.

   Every step of the reduction loads nv vectors of B and broadcasts mr scalars of A. With 32
   registers the largest tiles are 14x2, 9x3 and 6x4: accumulators, B and one broadcast
   fit, and loads stay below two a cycle while both multiply-add ports are busy. Each output
   element is one chain of multiply-adds in the order of (i, k), whatever the tile's shape. */

#include "gemm.shapes.h"

#if CK_VECTOR_REGISTERS >= 32
#define GEMM_SHAPES(X) GEMM_ROWS_14(X, 1) GEMM_ROWS_14(X, 2) GEMM_ROWS_9(X, 3) GEMM_ROWS_6(X, 4)
#define GEMM_MAX_MR {0, 14, 14, 9, 6}
#else
#define GEMM_SHAPES(X) GEMM_ROWS_9(X, 1) GEMM_ROWS_6(X, 2) GEMM_ROWS_4(X, 3)
#define GEMM_MAX_MR {0, 9, 6, 4, 0}
#endif
/* double is there to be right: its largest tile is 4x2, eight chains, which is what hides the
   latency of a multiply-add on two ports, and a tenth of the code of float's. */
#define GEMM_SHAPES_D(X) GEMM_ROWS_4(X, 1) GEMM_ROWS_4(X, 2)
#define GEMM_MAX_MR_D {0, 4, 4, 0, 0}

/* Rows are reached from a base pointer for every third row, as base, base + lda and
   base + 2 * lda: 14 rows then need 5 pointers, and nothing spills. The empty asm keeps the
   compiler from deriving one pointer from another again. */
#define GEMM_ROW(p, m, lda) p[(m) / 3][((m) % 3) * (lda)]

/* Fetching ahead. A tile computes at the multiply-add rate from the second-level cache, but
   only where its operands arrive in time: each step asks for the B (and the strided A) of some
   steps later, and for a little of what later tiles need from beyond the second level. Spread
   over the steps this costs nothing; in bursts between tiles it fills the queue of misses. */
#define GEMM_NEAR_BYTES 1024
#define GEMM_NEAR_ROWS 8
#define GEMM_LINE 64
/* Tiles of fewer rows run at the speed of memory, with no time left to fetch for others. */
#define GEMM_FETCHES 3
/* The addresses may lie beyond the arrays, where fetching does nothing. */
#define GEMM_FETCH(g) ((g)->fetch ? (const char *)(g)->fetch : (const char *)(g)->b)
#define GEMM_FETCH_NEAR(p, bytes)                                                                  \
    GEMM_UNROLL for (ptrdiff_t line = 0; line < (ptrdiff_t)(bytes); line += GEMM_LINE)             \
        __builtin_prefetch((const char *)(p) + line, 0, 3)

#define GEMM_UNROLL _Pragma("GCC unroll 16")
#define GEMM_EACH(m, j) \
    GEMM_UNROLL for (int m = 0; m < mr; m++) GEMM_UNROLL for (int j = 0; j < nv; j++)

/* Columns missing from the last vector. Masks cost nothing with 64-byte vectors, where they are
   used always; elsewhere a tile with columns missing goes through memory. */
#define GEMM_MASKS (CK_VBYTES == 64)
#define GEMM_WHOLE(j) (!GEMM_MASKS || (j) < nv - 1)
#define GEMM_LOAD(S, L, p, j) \
    (GEMM_WHOLE(j) ? load_##S((p) + (j) * L) : load_part_##S((p) + (j) * L, left))
#define GEMM_STORE(S, L, p, j, v)                                                                  \
    (GEMM_WHOLE(j) ? store_##S((p) + (j) * L, v) : store_part_##S((p) + (j) * L, v, left))

#define GEMM_TEMPLATE(T, V, S, L)                                                                  \
    /* Of any kind, on some vectors side by side. */                                               \
    static __attribute__((noinline)) void gemm_activate_##S(int kind, double alpha, double beta,   \
                                                            int count, V *v) {                     \
        if (kind >= CK_ACT_UNARY) {                                                                \
            elementwise_table.unary[sizeof(T) == 8][kind - CK_ACT_UNARY](v, v, count * L, alpha,   \
                                                                         beta);                    \
            return;                                                                                \
        }                                                                                          \
        for (int i = 0; i < count; i++)                                                            \
            v[i] = activate_##S(kind, set_##S((T)alpha), set_##S((T)beta), v[i]);                  \
    }                                                                                              \
                                                                                                   \
    /* Through memory, one row and vector at a time. */                                            \
    static __attribute__((noinline)) void gemm_finish_part_##S(const ck_gemm_args *g, int mr,      \
                                                               int nv, const V *tile) {            \
        const T *bias = g->bias, *residual = g->residual;                                          \
        for (int m = 0; m < mr; m++) {                                                             \
            for (int j = 0; j * L < g->n; j++) {                                                   \
                int left = g->n - j * L < L ? g->n - j * L : L;                                    \
                T *out = (T *)g->c + m * g->ldc + j * L;                                           \
                V v = tile[m * nv + j];                                                            \
                if (g->accumulate) v += load_part_##S(out, left);                                  \
                if (bias) v += load_part_##S(bias + j * L, left);                                  \
                if (residual) v += load_part_##S(residual + m * g->ld_residual + j * L, left);     \
                gemm_activate_##S(g->activation, g->alpha, g->beta, 1, &v);                        \
                store_part_##S(out, v, left);                                                      \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void gemm_finish_##S(const ck_gemm_args *g, int mr, int nv, V acc[][4]) {            \
        if (!GEMM_MASKS && g->n < nv * L) {                                                        \
            V tile[CK_GEMM_MAX_MR * 4];                                                            \
            GEMM_EACH(m, j) tile[m * nv + j] = acc[m][j];                                          \
            gemm_finish_part_##S(g, mr, nv, tile);                                                 \
            return;                                                                                \
        }                                                                                          \
        const T *residual = g->residual;                                                           \
        const ptrdiff_t ldc = g->ldc, ldr = g->ld_residual;                                        \
        const int left = g->n - (nv - 1) * L; /* columns of the last vector */                     \
        T *c = g->c;                                                                               \
        if (g->accumulate) GEMM_EACH(m, j) acc[m][j] += GEMM_LOAD(S, L, c + m * ldc, j);           \
        if (g->bias) {                                                                             \
            V bias[4];                                                                             \
            GEMM_UNROLL for (int j = 0; j < nv; j++) bias[j] = GEMM_LOAD(S, L, (const T *)g->bias, j);\
            GEMM_EACH(m, j) acc[m][j] += bias[j];                                                  \
        }                                                                                          \
        if (residual) GEMM_EACH(m, j) acc[m][j] += GEMM_LOAD(S, L, residual + m * ldr, j);         \
        if (g->activation == CK_ACT_RELU) {                                                        \
            const V zero = {0};                                                                    \
            GEMM_EACH(m, j) acc[m][j] = select_##S(acc[m][j] < zero, zero, acc[m][j]);             \
        } else if (g->activation != CK_ACT_NONE) {                                                 \
            V tile[CK_GEMM_MAX_MR * 4];                                                            \
            GEMM_EACH(m, j) tile[m * nv + j] = acc[m][j];                                          \
            gemm_activate_##S(g->activation, g->alpha, g->beta, mr * nv, tile);                    \
            GEMM_EACH(m, j) acc[m][j] = tile[m * nv + j];                                          \
        }                                                                                          \
        GEMM_EACH(m, j) GEMM_STORE(S, L, c + m * ldc, j, acc[m][j]);                               \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void gemm_plain_##S(const ck_gemm_args *g, int mr, int nv) {                         \
        V acc[CK_GEMM_MAX_MR][4];                                                                  \
        GEMM_EACH(m, j) acc[m][j] = (V){0};                                                        \
        const ptrdiff_t lda = g->lda, ldb = g->ldb;                                                \
        const ptrdiff_t fetch_step = g->fetch ? g->fetch_step : 0;                                 \
        const ptrdiff_t fetch_block = g->fetch ? g->fetch_block : 0;                               \
        for (ptrdiff_t i = 0; i < g->batch; i++) {                                                 \
            const T *a = (const T *)g->a + g->a_offsets[i];                                        \
            const char *fetch = GEMM_FETCH(g) + i * fetch_block;                                   \
            const T *b = (const T *)g->b + i * g->b_step;                                          \
            const T *p[5];                                                                         \
            GEMM_UNROLL for (int q = 0; q < (mr + 2) / 3; q++) {                                   \
                p[q] = a + 3 * q * lda;                                                            \
                __asm__("" : "+r"(p[q]));                                                          \
            }                                                                                      \
            for (ptrdiff_t k = g->k; k > 0; k--) {                                                 \
                V bv[4];                                                                           \
                GEMM_UNROLL for (int j = 0; j < nv; j++) bv[j] = load_##S(b + j * L);              \
                GEMM_FETCH_NEAR((const char *)b + GEMM_NEAR_BYTES, nv * sizeof(V));                \
                if (mr >= GEMM_FETCHES) {                                                          \
                    __builtin_prefetch(fetch, 0, 2);                                               \
                    fetch += fetch_step;                                                           \
                }                                                                                  \
                GEMM_UNROLL for (int m = 0; m < mr; m++) {                                         \
                    V av = set_##S(GEMM_ROW(p, m, lda));                                           \
                    GEMM_UNROLL for (int j = 0; j < nv; j++)                                       \
                        acc[m][j] += av * bv[j];                                                   \
                }                                                                                  \
                GEMM_UNROLL for (int q = 0; q < (mr + 2) / 3; q++) p[q]++;                         \
                b += ldb;                                                                          \
            }                                                                                      \
        }                                                                                          \
        gemm_finish_##S(g, mr, nv, acc);                                                           \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void gemm_transposed_##S(const ck_gemm_args *g, int mr, int nv) {                    \
        V acc[CK_GEMM_MAX_MR][4];                                                                  \
        GEMM_EACH(m, j) acc[m][j] = (V){0};                                                        \
        const ptrdiff_t lda = g->lda, ldb = g->ldb;                                                \
        const ptrdiff_t fetch_step = g->fetch ? g->fetch_step : 0;                                 \
        const ptrdiff_t fetch_block = g->fetch ? g->fetch_block : 0;                               \
        /* The last rows' last vectors would reach beyond the array: they are read from a copy. */ \
        T edge[4 * L] = {0};                                                                       \
        const ptrdiff_t at_edge = g->n % L ? (nv * L - g->n - 1) / ldb + 1 : 0;                    \
        for (ptrdiff_t i = 0; i < g->batch; i++) {                                                 \
            const T *a = (const T *)g->a + g->a_offsets[i];                                        \
            const char *fetch = GEMM_FETCH(g) + i * fetch_block;                                   \
            const T *b = (const T *)g->b + (g->b_offsets ? g->b_offsets[i] : i * g->b_step);       \
            for (ptrdiff_t k = g->k; k > 0; k--) {                                                 \
                V bv[4];                                                                           \
                const T *row = b;                                                                  \
                if (k <= at_edge) row = memcpy(edge, b, (size_t)g->n * sizeof(T));                 \
                GEMM_UNROLL for (int j = 0; j < nv; j++) bv[j] = load_##S(row + j * L);            \
                if (mr >= GEMM_FETCHES) {                                                          \
                    GEMM_FETCH_NEAR(b + GEMM_NEAR_ROWS * ldb, nv * sizeof(V));                     \
                    GEMM_FETCH_NEAR(a + GEMM_NEAR_ROWS * lda, mr * sizeof(T));                     \
                    GEMM_FETCH_NEAR(a + GEMM_NEAR_ROWS * lda + mr - 1, 1);                         \
                }                                                                                  \
                __builtin_prefetch(fetch, 0, 2);                                                   \
                fetch += fetch_step;                                                               \
                GEMM_UNROLL for (int m = 0; m < mr; m++) {                                         \
                    V av = set_##S(a[m]);                                                          \
                    GEMM_UNROLL for (int j = 0; j < nv; j++)                                       \
                        acc[m][j] += av * bv[j];                                                   \
                }                                                                                  \
                a += lda;                                                                          \
                b += ldb;                                                                          \
            }                                                                                      \
        }                                                                                          \
        gemm_finish_##S(g, mr, nv, acc);                                                           \
    }

GEMM_TEMPLATE(float, vfloat, f, VL_F)
GEMM_TEMPLATE(double, vdouble, d, VL_D)

#define GEMM_DEFINE(S, mr, nv)                                                                     \
    static void gemm_plain_##S##_##mr##x##nv(const ck_gemm_args *g) { gemm_plain_##S(g, mr, nv); } \
    static void gemm_trans_##S##_##mr##x##nv(const ck_gemm_args *g) {                              \
        gemm_transposed_##S(g, mr, nv);                                                            \
    }
#define GEMM_DEFINE_F(mr, nv) GEMM_DEFINE(f, mr, nv)
#define GEMM_DEFINE_D(mr, nv) GEMM_DEFINE(d, mr, nv)
GEMM_SHAPES(GEMM_DEFINE_F)
GEMM_SHAPES_D(GEMM_DEFINE_D)

#include "gemm.wide.h"

/* Twelve (or, with 32 registers, 24) chains of multiply-adds that depend on nothing. Every
   loop over the chains is unrolled, and the constraint names all registers ("x" means the
   first 16 on x86): otherwise they live in memory, and the peak comes out at a third. */
#define GEMM_CHAINS (CK_VECTOR_REGISTERS >= 32 ? 24 : 12)
static double fma_rounds(long steps) {
    vfloat acc[GEMM_CHAINS], x = set_f(0.999f), y = set_f(0.001f);
    _Pragma("GCC unroll 24") for (int j = 0; j < GEMM_CHAINS; j++) acc[j] = set_f((float)j);
    for (long i = 0; i < steps; i++) {
        _Pragma("GCC unroll 24") for (int j = 0; j < GEMM_CHAINS; j++) {
            acc[j] = acc[j] * x + y;
            __asm__ volatile("" : GEMM_IN_REGISTER(acc[j]));
        }
    }
    vfloat sum = {0};
    _Pragma("GCC unroll 24") for (int j = 0; j < GEMM_CHAINS; j++) sum += acc[j];
    volatile float sink = sum[0];
    (void)sink;
    return 2.0 * GEMM_CHAINS * VL_F * (double)steps;
}

#define GEMM_ENTRY_PLAIN_F(mr, nv) [nv][mr] = gemm_plain_f_##mr##x##nv,
#define GEMM_ENTRY_PLAIN_D(mr, nv) [nv][mr] = gemm_plain_d_##mr##x##nv,
#define GEMM_ENTRY_TRANS_F(mr, nv) [nv][mr] = gemm_trans_f_##mr##x##nv,
#define GEMM_ENTRY_TRANS_D(mr, nv) [nv][mr] = gemm_trans_d_##mr##x##nv,

static const ck_gemm_table gemm_table = {
    .f32 = {.vector_length = VL_F,
            .max_mr = GEMM_MAX_MR,
            .plain = {GEMM_SHAPES(GEMM_ENTRY_PLAIN_F)},
            .transposed = {GEMM_SHAPES(GEMM_ENTRY_TRANS_F)},
            .wide = {WIDE_EACH(WIDE_ENTRY)}},
    .f64 = {.vector_length = VL_D,
            .max_mr = GEMM_MAX_MR_D,
            .plain = {GEMM_SHAPES_D(GEMM_ENTRY_PLAIN_D)},
            .transposed = {GEMM_SHAPES_D(GEMM_ENTRY_TRANS_D)}},
    .fma_rounds = fma_rounds,
};
