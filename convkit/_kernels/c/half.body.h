/* The half form of tile.h on vectors with float16 arithmetic: twice float32's products.

   A vector holds the even and the odd k of 16 columns, as the tiles' pairs have them, and a
   row's pair is broadcast beside it: lane 2n + p sums the products of column n over every
   second k. Up to HALF_CHAIN products are summed in float16, then added to float32 sums:
   with 64, sums of equal products are off by 0.8% at most, and those of random ones by less
   than what rounding to bfloat16 costs.

   Values are scaled by powers of two so that magnitudes are below 16 in A and 32 in B
   (tiles.pyx): a chain stays below 2^15 and never overflows, and what is 2^28 times
   smaller than the largest is still there. Infinities and NaN take part as they are, and
   nothing beyond a reduction is used, so `run` is exact.

   The vectors' width is the tiles': 16 columns in 32 lanes. */

#include "tile.common.h"

enum {
    HALF_ROWS = 12,
    HALF_CHAIN = 64,
    HALF_ABS = 0x7fff,
    HALF_FLOAT_ABS = 0x7fffffff,
    HALF_FLOAT_INFINITE = 0x7f800000
};

/* One pair of k: every row times every block of columns. */
CK_INLINE void half_multiply(__m512h acc[HALF_ROWS][2], const char *a, ptrdiff_t lda,
                             const char *b, ptrdiff_t b_next, int rows, int nb, uint32_t mask) {
    const __m512h b0 = _mm512_loadu_ph(b), b1 = nb > 1 ? _mm512_loadu_ph(b + b_next) : b0;
    _Pragma("GCC unroll 12") for (int m = 0; m < rows; m++) {
        const __m512h x = (__m512h)tile_row_pair(a + m * lda, mask);
        acc[m][0] = _mm512_fmadd_ph(x, b0, acc[m][0]);
        if (nb > 1) acc[m][1] = _mm512_fmadd_ph(x, b1, acc[m][1]);
    }
}

/* A block's accumulators, and their float32 sums, row by row. */
typedef struct half_sums {
    __m512h part[HALF_ROWS][2];
    __m512 low[HALF_ROWS][2], high[HALF_ROWS][2];
    int begun;
} half_sums;

CK_INLINE void half_clear(__m512h acc[HALF_ROWS][2], int rows) {
    _Pragma("GCC unroll 12") for (int m = 0; m < rows; m++)
        acc[m][0] = acc[m][1] = _mm512_setzero_ph();
}

CK_INLINE void half_put_aside(half_sums *s, __m512h acc[HALF_ROWS][2], int rows, int nb) {
    _Pragma("GCC unroll 12") for (int m = 0; m < rows; m++)
        for (int j = 0; j < nb; j++) s->part[m][j] = acc[m][j];
}

/* The first and the last 16 lanes of an accumulator with what was summed before. */
CK_INLINE void half_total(const half_sums *s, int m, int j, __m512 *low, __m512 *high) {
    const __m256h *part = (const __m256h *)&s->part[m][j];
    *low = _mm512_cvtxph_ps(part[0]);
    *high = _mm512_cvtxph_ps(part[1]);
    if (s->begun) {
        *low = _mm512_add_ps(*low, s->low[m][j]);
        *high = _mm512_add_ps(*high, s->high[m][j]);
    }
}

static void half_flush(half_sums *s, int rows, int nb) {
    for (int m = 0; m < rows; m++)
        for (int j = 0; j < nb; j++) {
            __m512 low, high;
            half_total(s, m, j, &low, &high);
            s->low[m][j] = low;
            s->high[m][j] = high;
        }
    s->begun = 1;
}

/* Joins the sums over even and odd k, scales them, adds what comes after and writes rows. */
static void half_finish(const ck_tile_args *g, const ptrdiff_t *c_rows, const half_sums *s,
                        int nb) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                           30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const vfloat first = set_f(g->scale[0]), second = set_f(g->scale[1]);
    for (int m = 0; m < g->rows; m++) {
        const ptrdiff_t at = c_rows[m];
        if (at < 0) continue;
        for (int j = 0; j < nb; j++) {
            __m512 low, high;
            half_total(s, m, j, &low, &high);
            const vfloat sum = (vfloat)_mm512_add_ps(_mm512_permutex2var_ps(low, even, high),
                                                     _mm512_permutex2var_ps(low, odd, high));
            tile_put(g, at, 16 * j, sum * first * second);
        }
        float *c = (float *)g->c + at;
        if (g->map) g->map(c, c, g->n, g->alpha, g->beta);
    }
}

/* A block of rows that begins at `from`, whose results lie at `c_rows`. */
CK_INLINE void half_block(const ck_tile_args *g, const char *from, const ptrdiff_t *c_rows,
                          int rows, int nb) {
    const ptrdiff_t lda = g->lda, pairs = g->depth / 2, b_next = 32 * g->depth;
    const char *b = g->b;
    half_sums sums;
    __m512h acc[HALF_ROWS][2];
    ptrdiff_t chain = 0;
    sums.begun = 0;
    half_clear(acc, rows);
    for (ptrdiff_t i = 0; i < g->batch; i++) {
        const char *a = from + g->a_offsets[i];
        for (ptrdiff_t s = 0; s < g->steps; s++, a += 2 * g->depth, b += nb * b_next) {
            const ptrdiff_t left = g->k - s * g->depth;
            const ptrdiff_t whole = (left < g->depth ? left : g->depth) / 2;
            if (chain + pairs > HALF_CHAIN) {
                half_put_aside(&sums, acc, rows, nb);
                half_clear(acc, rows);
                half_flush(&sums, rows, nb);
                chain = 0;
            }
            for (ptrdiff_t p = 0; p < whole; p++)
                half_multiply(acc, a + 4 * p, lda, b + 64 * p, b_next, rows, nb, 0xffffffffu);
            if (left < g->depth && left % 2)
                half_multiply(acc, a + 4 * whole, lda, b + 64 * whole, b_next, rows, nb, 0xffffu);
            chain += pairs;
        }
    }
    half_put_aside(&sums, acc, rows, nb);
    half_finish(g, c_rows, &sums, nb);
}

/* A function for each number of rows: each is compiled with its accumulators in registers. */
#define HALF_EACH(do) \
    do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11) do(12)
#define HALF_ARGUMENTS const ck_tile_args *g, const char *from, const ptrdiff_t *c_rows
#define HALF_DEFINE(rows)                                                                \
    static void half_##rows##_1(HALF_ARGUMENTS) { half_block(g, from, c_rows, rows, 1); } \
    static void half_##rows##_2(HALF_ARGUMENTS) { half_block(g, from, c_rows, rows, 2); }
#define HALF_ENTRY(rows) {half_##rows##_1, half_##rows##_2},
HALF_EACH(HALF_DEFINE)
static void (*const half_blocks[HALF_ROWS][2])(HALF_ARGUMENTS) = {HALF_EACH(HALF_ENTRY)};

CK_INLINE void half_run(const ck_tile_args *g, int mb, int nb) {
    half_blocks[g->rows - 1][nb - 1](g, g->a, g->c_rows);
    if (mb > 1) half_blocks[g->rows - 1][nb - 1](g, g->a + g->a_next, g->c_rows + g->rows);
}

static void half_run_11(const ck_tile_args *g) { half_run(g, 1, 1); }
static void half_run_12(const ck_tile_args *g) { half_run(g, 1, 2); }
static void half_run_21(const ck_tile_args *g) { half_run(g, 2, 1); }
static void half_run_22(const ck_tile_args *g) { half_run(g, 2, 2); }

CK_INLINE __m512i half_magnitude(const float *x, __mmask16 wanted) {
    return _mm512_and_si512(_mm512_maskz_loadu_epi32(wanted, x),
                            _mm512_set1_epi32(HALF_FLOAT_ABS));
}

static uint32_t half_peak(const float *x, ptrdiff_t n, uint32_t peak) {
    const __m512i infinite = _mm512_set1_epi32(HALF_FLOAT_INFINITE);
    __m512i most[4] = {_mm512_set1_epi32((int)peak), _mm512_setzero_si512(),
                       _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (ptrdiff_t i = 0; i < n; i += 64)
        _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
            const ptrdiff_t left = n - i - 16 * j;
            const __mmask16 wanted = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
            most[j] = _mm512_max_epu32(most[j], half_magnitude(x + i + 16 * j, wanted));
        }
    for (int j = 1; j < 4; j++) most[0] = _mm512_max_epu32(most[0], most[j]);
    const uint32_t largest = _mm512_reduce_max_epu32(most[0]);
    if (largest < HALF_FLOAT_INFINITE) return largest;
    most[0] = _mm512_set1_epi32((int)peak);
    for (ptrdiff_t i = 0; i < n; i += 16) {
        const __m512i v = half_magnitude(x + i, n - i >= 16 ? 0xffff : (1u << (n - i)) - 1);
        most[0] = _mm512_mask_max_epu32(most[0], _mm512_cmplt_epu32_mask(v, infinite), most[0], v);
    }
    return _mm512_reduce_max_epu32(most[0]);
}

/* Values so large that they could round to what float32 has no number for are cut. */
CK_INLINE int half_cuts(float scale) { return scale <= 0x1p-123f; }
CK_INLINE __m256i half_round(__m512 v, int cut) {
    return cut ? _mm512_cvtps_ph(v, _MM_FROUND_TO_ZERO)
               : _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}

static int half_convert(const void *values, ptrdiff_t n, void *high, ptrdiff_t low, float scale,
                        ptrdiff_t apart) {
    const float *x = values;
    const __m512 factor = _mm512_set1_ps(scale);
    const int cut = half_cuts(scale);
    uint16_t *to = high;
    (void)low, (void)apart;
    for (ptrdiff_t i = 0; i < n; i += 16) {
        const __mmask16 wanted = n - i >= 16 ? 0xffff : (1u << (n - i)) - 1;
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(wanted, x + i), factor);
        _mm256_mask_storeu_epi16(to + i, wanted, half_round(v, cut));
    }
    return 0;
}

/* Weights too small for float16 become the smallest number there is, not zero, so that their
   products with infinities are not NaN. */
static int half_pack(const float *rows, ptrdiff_t depth, void *high, ptrdiff_t low, float scale) {
    const __m512 factor = _mm512_set1_ps(scale);
    const __m256i magnitude = _mm256_set1_epi16(HALF_ABS), least = _mm256_set1_epi16(1);
    const int cut = half_cuts(scale);
    float pairs[32];
    int infinite = 0;
    (void)low;
    for (ptrdiff_t d = 0; d < depth; d += 2) {
        tile_pairs(rows + 16 * d, pairs);
        for (int i = 0; i < 32; i += 16) {
            const __m512 v = _mm512_loadu_ps(pairs + i);
            const __m256i h = half_round(_mm512_mul_ps(v, factor), cut);
            const __mmask16 gone = _mm256_testn_epi16_mask(h, magnitude)
                                   & _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
            infinite |= _mm512_fpclass_ps_mask(v, 0x99); /* infinities and NaN */
            _mm256_storeu_si256((__m256i *)((uint16_t *)high + 16 * d + i),
                                _mm256_or_si256(h, _mm256_maskz_mov_epi16(gone, least)));
        }
    }
    return infinite != 0;
}

#define HALF_FORM {{half_run_11, half_run_12}, {half_run_21, half_run_22}}

const ck_tile_table ck_table_half = {
    .far_bytes = 16 << 20,
    .products_per_step = 128,
    .half = {.planes = 1,
             .most_rows = HALF_ROWS,
             .run = HALF_FORM,
             .exact = HALF_FORM,
             .convert = half_convert,
             .pack = half_pack,
             .peak = half_peak},
};
