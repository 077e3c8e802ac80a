/* Winograd convolution on 16-bit integers: F(4x4, 3x3), F(2x2, 5x5) and F(4x4, 5x5), for CPUs that
   multiply pairs of them and add both products to 32-bit lanes (AVX-512 VNNI), twice as many as float32's multiply-adds.

   Transforms are those of winograd.body.h, in float32. What comes out is rounded to integers, run by
   run: 64 channels of a position of a tile, or of a position and column of weights, have a scale that
   makes their Euclidean norm at most INT16_NORM. So no sum of a run's products exceeds 2^30 in
   magnitude, however its values are distributed, by the inequality of Cauchy and Schwarz; where they
   are alike, values have 12 bits, where bfloat16 has 8. Sums within a run are exact; runs are scaled
   and added in float32, in order.

   An infinity or NaN, and a norm that overflows, make the scale one, and so sums of every pixel of the
   tile, whose peak tells (winograd.pyx). Runs whose squares vanish are zeros; a sample of such runs
   alone has a peak of zero, which tells, too. */

#include "gemm.shapes.h"
#include "transpose.body.h"
#include "winograd.gather.h"
#include "winograd.weights.h"

enum {
    INT16_RUN = 64,          /* channels with a common scale */
    INT16_POSITIONS = 64,    /* at most */
    INT16_ROOM = 80,         /* floats from one position of a run to the next: an odd number of lines */
    INT16_TILES = 2,         /* transformed at a time: what the first-level cache holds */
    INT16_ROWS = 14,         /* tiles whose sums fill the registers, beside two vectors of columns */
    INT16_DEPTH_FLOATS = 17, /* of a block of weights for each depth: a run's pairs, then its scales */
    INT16_SCALES = 16 * INT16_RUN,
    INT16_PAIRS = INT16_RUN / 2
};
#define INT16_NORM 32000.0f
#define INT16_LEAST_SQUARE 1.1754944e-38f /* what is less is denormal */

/* What values of so large norms (their squares) are multiplied with to become integers, and those with
   to become what they were. */
CK_INLINE __m512 int16_up(__m512 squares) {
    const __mmask16 there = _mm512_cmp_ps_mask(squares, _mm512_set1_ps(INT16_LEAST_SQUARE), _CMP_GE_OQ);
    return _mm512_maskz_div_ps(there, _mm512_set1_ps(INT16_NORM), _mm512_sqrt_ps(squares));
}
CK_INLINE __m512 int16_down(__m512 squares) {
    return _mm512_mul_ps(_mm512_sqrt_ps(squares), _mm512_set1_ps(1 / INT16_NORM));
}

/* The sums of 16 vectors' lanes, in as many lanes. */
CK_INLINE __m512 int16_sums(const __m512 *v) {
    __m512 two[8], four[4], eight[2];
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)
        two[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]),
                               _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++)
        eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x88),
                                 _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                         _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd));
}

/* -- pixels ------------------------------------------------------------------------------- */

/* Two vectors of floats, rounded to 32 integers that have 16 bits. */
CK_INLINE __m512i int16_round(__m512 a, __m512 b) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    return _mm512_permutexvar_epi64(order,
                                    _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b)));
}

/* Up to 16 positions of one run of a tile, of so many pairs of vectors, from floats; what each run is
   multiplied with goes to a whole vector of scales. */
CK_INLINE void int16_positions(const float *from, int count, ptrdiff_t pairs, float *to, ptrdiff_t step,
                               float *scales) {
    __m512 squares[16];
    float up[16];
    for (int p = 0; p < count; p++) {
        const float *v = from + p * INT16_ROOM;
        __m512 even = _mm512_setzero_ps(), odd = even;
        _Pragma("GCC unroll 2") for (ptrdiff_t j = 0; j < pairs; j++, v += 32) {
            const __m512 a = _mm512_load_ps(v), b = _mm512_load_ps(v + 16);
            even = _mm512_fmadd_ps(a, a, even);
            odd = _mm512_fmadd_ps(b, b, odd);
        }
        squares[p] = _mm512_add_ps(even, odd);
    }
    for (int p = count; p < 16; p++) squares[p] = _mm512_setzero_ps();
    const __m512 sums = int16_sums(squares);
    _mm512_storeu_ps(up, int16_up(sums));
    _mm512_storeu_ps(scales, int16_down(sums));
    for (int p = 0; p < count; p++, from += INT16_ROOM, to += step) {
        const __m512 by = _mm512_set1_ps(up[p]);
        _Pragma("GCC unroll 2") for (ptrdiff_t j = 0; j < pairs; j++)
            _mm512_storeu_si512(to + 16 * j,
                                int16_round(_mm512_mul_ps(_mm512_load_ps(from + 32 * j), by),
                                            _mm512_mul_ps(_mm512_load_ps(from + 32 * j + 16), by)));
    }
}

/* One run of one tile: all positions. An odd number of vectors is filled up with zeros. */
CK_INLINE void int16_tile(float *from, int positions, ptrdiff_t channels, float *to, ptrdiff_t step,
                          float *scales) {
    const ptrdiff_t vectors = (channels + 15) / 16;
    const int count = positions % 16 ? 12 : 16;
    for (int p = 0; vectors % 2 && p < positions; p++)
        _mm512_store_ps(from + p * INT16_ROOM + 16 * vectors, _mm512_setzero_ps());
    for (int p = 0; p < positions; p += count, from += count * INT16_ROOM, to += count * step)
        if (channels == INT16_RUN)
            int16_positions(from, count, 2, to, step, scales + p);
        else
            int16_positions(from, count, (vectors + 1) / 2, to, step, scales + p);
}

/* Tiles `hop` pixels apart, of which `gather` makes floats. */
CK_INLINE void int16_input(const ck_winograd_input_args *given, ck_winograd_input_fn gather, ptrdiff_t hop,
                           int positions) {
    float room[INT16_TILES * INT16_POSITIONS * INT16_ROOM] __attribute__((aligned(64)));
    ck_winograd_input_args g = *given;
    g.v = room;
    g.position_step = INT16_ROOM;
    g.tile_step = positions * INT16_ROOM;
    for (ptrdiff_t k = 0; k < given->tiles; k += INT16_TILES) {
        g.tiles = given->tiles - k < INT16_TILES ? given->tiles - k : INT16_TILES;
        g.offset = given->offset + hop * k * given->pixel_step;
        g.col_from = given->col_from - hop * k;
        g.col_to = given->col_to - hop * k;
        for (ptrdiff_t c = 0; c < given->channels; c += INT16_RUN) {
            g.x = given->x + c;
            g.channels = given->channels - c < INT16_RUN ? given->channels - c : INT16_RUN;
            gather(&g);
            for (ptrdiff_t t = 0; t < g.tiles; t++) {
                float *v = given->v + (k + t) * given->tile_step;
                int16_tile(room + t * g.tile_step, positions, g.channels, v + c / 2, given->position_step,
                           v + given->low + c / INT16_RUN * given->scale_step);
            }
        }
    }
}

/* -- weights ------------------------------------------------------------------------------ */

/* One run of one vector of channels or columns: pairs of rows, and then `scales`. Without a second row a
   pair has a zero. */
CK_INLINE void int16_pairs(const float *from, ptrdiff_t step, ptrdiff_t rows, float *to, ptrdiff_t to_step,
                           float *scales) {
    const float *v = from;
    __m512 squares = _mm512_setzero_ps();
    for (ptrdiff_t k = 0; k < rows; k++, v += step) {
        const __m512 x = _mm512_loadu_ps(v);
        squares = _mm512_fmadd_ps(x, x, squares);
    }
    const __m512 up = int16_up(squares);
    const __m512i low = _mm512_set1_epi32(0xffff);
    _mm512_storeu_ps(scales, int16_down(squares));
    for (ptrdiff_t k = 0; k < rows; k += 2, from += 2 * step, to += to_step) {
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from), up));
        const __m512i b = k + 1 == rows ? _mm512_setzero_si512()
                                        : _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + step), up));
        _mm512_storeu_si512(to, _mm512_or_si512(_mm512_and_si512(a, low), _mm512_slli_epi32(b, 16)));
    }
}

typedef vint32 (*int16_weights_fn)(const ck_winograd_weights_args *, ptrdiff_t, ptrdiff_t, float *, ptrdiff_t,
                                   vint32);

CK_INLINE void int16_weights(const ck_winograd_weights_args *g, int16_weights_fn vector, int positions) {
    enum { STEP = 16 * (INT16_RUN + 1) };
    float room[INT16_POSITIONS * STEP];
    vint32 peak = *(const vint32_u *)g->peak;
    for (ptrdiff_t first = 0; first < g->columns; first += VL_F) {
        for (ptrdiff_t k = 0; k < g->depth; k++)
            peak = vector(g, first, k, room + 16 * k, STEP, peak);
        for (int p = 0; p < positions; p++) {
            float *u = g->u + p * g->position_step + first;
            int16_pairs(room + p * STEP, 16, g->depth, u, 32, u + INT16_SCALES);
        }
    }
    *(vint32_u *)g->peak = peak;
}

/* -- products ----------------------------------------------------------------------------- */

/* Every third row has a pointer of its own. */
enum { INT16_POINTERS = (INT16_ROWS + 2) / 3 };

/* Every lane's two products, added to its sum. */
CK_INLINE vint32 int16_dot(vint32 sum, __m512i a, __m512i b) {
    return (vint32)_mm512_dpwssd_epi32((__m512i)sum, a, b);
}

/* Adds sums that are scaled to what there is, or begins with them. */
CK_INLINE void int16_put(float *to, vint32 sums, __m512 by, int add) {
    const __m512 v = _mm512_cvtepi32_ps((__m512i)sums);
    _mm512_storeu_ps(to, add ? _mm512_fmadd_ps(v, by, _mm512_loadu_ps(to)) : _mm512_mul_ps(v, by));
}

/* A run's sums, scaled by those of the tiles and of the columns, into `m`. */
CK_INLINE void int16_scale(vint32 acc[INT16_ROWS][2], const float *own, ptrdiff_t tile, const float *scales,
                           float *m, ptrdiff_t ldm, int add, int rows, int nb) {
    const __m512 s0 = _mm512_loadu_ps(scales), s1 = nb > 1 ? _mm512_loadu_ps(scales + 16) : s0;
    _Pragma("GCC unroll 14") for (int i = 0; i < rows; i++) {
        const __m512 by = _mm512_set1_ps(own[i * tile]);
        int16_put(m + i * ldm, acc[i][0], _mm512_mul_ps(by, s0), add);
        if (nb > 1) int16_put(m + i * ldm + 16, acc[i][1], _mm512_mul_ps(by, s1), add);
    }
}

/* One run of one position: so many tiles times one or two vectors of columns. */
CK_INLINE void int16_run(const char *a, ptrdiff_t lda, const float *own, const char *b, ptrdiff_t pairs,
                         const char *fetch, ptrdiff_t fetch_step, float *m, ptrdiff_t ldm, int add,
                         int rows, int nb) {
    vint32 acc[INT16_ROWS][2];
    const char *p[INT16_POINTERS];
    const float *scales = (const float *)b + INT16_SCALES;
    _Pragma("GCC unroll 14") for (int i = 0; i < rows; i++)
        acc[i][0] = acc[i][1] = (vint32){0};
    _Pragma("GCC unroll 5") for (int i = 0; 3 * i < rows; i++) {
        p[i] = a + 3 * i * lda;
        __asm__("" : "+r"(p[i]));
    }
    for (; pairs > 0; pairs--, b += 128) {
        const __m512i b0 = _mm512_loadu_si512(b), b1 = nb > 1 ? _mm512_loadu_si512(b + 64) : b0;
        __builtin_prefetch(fetch, 0, 2);
        fetch += fetch_step;
        _Pragma("GCC unroll 14") for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, p[i / 3] + i % 3 * lda, 4);
            const __m512i x = _mm512_set1_epi32(pair);
            acc[i][0] = int16_dot(acc[i][0], b0, x);
            if (nb > 1) acc[i][1] = int16_dot(acc[i][1], b1, x);
        }
        _Pragma("GCC unroll 5") for (int i = 0; 3 * i < rows; i++) p[i] += 4;
    }
    if (add)
        int16_scale(acc, own, lda / 4, scales, m, ldm, 1, rows, nb);
    else
        int16_scale(acc, own, lda / 4, scales, m, ldm, 0, rows, nb);
}

/* All runs of one position. */
#define INT16_KERNEL(rows, nb)                                                                       \
    static void int16_rows_##rows##x##nb(const ck_winograd_tiles_args *g, const char *a,             \
                                         const float *own, const char *b, float *m) {                \
        ptrdiff_t left = g->steps;                                                                   \
        for (int run = 0; left > 0; run++, left -= INT16_PAIRS, own += g->scale_step)                \
            int16_run(a + 2 * INT16_RUN * run, 4 * g->v_tile, own,                                   \
                      b + 4 * INT16_DEPTH_FLOATS * INT16_RUN * run,                                  \
                      left < INT16_PAIRS ? left : INT16_PAIRS,                                       \
                      g->fetch + run * INT16_PAIRS * g->fetch_step, g->fetch_step, m, g->m_tile,     \
                      run > 0, rows, nb);                                                            \
    }
GEMM_ROWS_4(INT16_KERNEL, 1)
GEMM_ROWS_14(INT16_KERNEL, 2)

/* Of one vector of columns, which few layers have, there are kernels of up to four rows. */
typedef void (*int16_rows_fn)(const ck_winograd_tiles_args *, const char *, const float *, const char *,
                              float *);
#define INT16_ENTRY(rows, nb) int16_rows_##rows##x##nb,
enum { INT16_NARROW = 4 };
static const int16_rows_fn int16_narrow[INT16_NARROW] = {GEMM_ROWS_4(INT16_ENTRY, 1)};
static const int16_rows_fn int16_wide[INT16_ROWS] = {GEMM_ROWS_14(INT16_ENTRY, 2)};

/* Of so many tiles as the registers hold, at most. */
static void wino_products_int16(const ck_winograd_tiles_args *g) {
    const int wide = g->columns > 16;
    const ptrdiff_t most = wide ? INT16_ROWS : INT16_NARROW;
    for (ptrdiff_t p = 0; p < g->positions; p++)
        for (ptrdiff_t t = 0; t < g->tiles; t += most) {
            const ptrdiff_t rows = g->tiles - t < most ? g->tiles - t : most;
            (wide ? int16_wide : int16_narrow)[rows - 1](
                g, (const char *)(g->v + p * g->v_position + t * g->v_tile), g->scales + p + t * g->v_tile,
                (const char *)(g->u + p * g->u_position), g->m + p * g->m_position + t * g->m_tile);
        }
}

/* -- gradients of weights ----------------------------------------------------------------- */

static void wino_runs_int16(const ck_winograd_runs_args *g) {
    for (ptrdiff_t p = 0; p < g->positions; p++) {
        float *to = g->to + p * g->to_step;
        int16_pairs(g->from + p * g->position_step, g->tile_step, g->tiles, to, 16,
                    to + (g->tiles + 1) / 2 * 16);
    }
}

enum { INT16_SUM_ROWS = 8 };

/* Eight rows of a block times one or two blocks of columns. */
CK_INLINE void int16_sum(const char *a, const float *own, const char *b0, const char *b1, ptrdiff_t pairs,
                         float *sums, ptrdiff_t row, int add, int nb) {
    vint32 acc[INT16_SUM_ROWS][2];
    _Pragma("GCC unroll 8") for (int i = 0; i < INT16_SUM_ROWS; i++) {
        acc[i][0] = acc[i][1] = (vint32){0};
        if (add) {
            __builtin_prefetch(sums + i * row, 1, 3);
            if (nb > 1) __builtin_prefetch(sums + i * row + 16, 1, 3);
        }
    }
    for (ptrdiff_t k = pairs; k > 0; k--, a += 64, b0 += 64, b1 += 64) {
        const __m512i x0 = _mm512_loadu_si512(b0), x1 = nb > 1 ? _mm512_loadu_si512(b1) : x0;
        _Pragma("GCC unroll 8") for (int i = 0; i < INT16_SUM_ROWS; i++) {
            int32_t pair;
            memcpy(&pair, a + 4 * i, 4);
            const __m512i y = _mm512_set1_epi32(pair);
            acc[i][0] = int16_dot(acc[i][0], x0, y);
            if (nb > 1) acc[i][1] = int16_dot(acc[i][1], x1, y);
        }
    }
    const __m512 s0 = _mm512_loadu_ps(b0), s1 = nb > 1 ? _mm512_loadu_ps(b1) : s0;
    _Pragma("GCC unroll 8") for (int i = 0; i < INT16_SUM_ROWS; i++) {
        const __m512 by = _mm512_set1_ps(own[i]);
        int16_put(sums + i * row, acc[i][0], _mm512_mul_ps(by, s0), add);
        if (nb > 1) int16_put(sums + i * row + 16, acc[i][1], _mm512_mul_ps(by, s1), add);
    }
}

/* So many rows of eight. */
static void int16_sum_rows(const char *a, const float *own, const char *b0, const char *b1, ptrdiff_t pairs,
                           float *sums, ptrdiff_t row, int add, int nb, ptrdiff_t rows) {
    float room[INT16_SUM_ROWS * 32];
    if (rows >= INT16_SUM_ROWS) {
        if (nb > 1 && add)
            int16_sum(a, own, b0, b1, pairs, sums, row, 1, 2);
        else if (nb > 1)
            int16_sum(a, own, b0, b1, pairs, sums, row, 0, 2);
        else if (add)
            int16_sum(a, own, b0, b1, pairs, sums, row, 1, 1);
        else
            int16_sum(a, own, b0, b1, pairs, sums, row, 0, 1);
        return;
    }
    for (ptrdiff_t i = 0; i < rows && add; i++) memcpy(room + 32 * i, sums + i * row, 64 * nb);
    int16_sum_rows(a, own, b0, b1, pairs, room, 32, add, nb, INT16_SUM_ROWS);
    for (ptrdiff_t i = 0; i < rows; i++) memcpy(sums + i * row, room + 32 * i, 64 * nb);
}

static void wino_sums_int16(const ck_winograd_sums_args *g) {
    for (ptrdiff_t o = 0; o < g->columns; o += 32) {
        const char *b0 = (const char *)(g->d + o / 16 * g->block), *b1 = b0 + 4 * g->block;
        for (ptrdiff_t c = 0; c < g->rows; c += INT16_SUM_ROWS) {
            const float *v = g->v + c / 16 * g->block, *scales = v + 16 * g->pairs + c % 16;
            int16_sum_rows((const char *)(v + c % 16), scales, b0, b1, g->pairs, g->sums + c * g->row + o,
                           g->row, g->accumulate, g->columns - o > 16 ? 2 : 1, g->rows - c);
        }
    }
}

/* -- forms -------------------------------------------------------------------------------- */

#define INT16_FORM(form, tile, taps, n)                                                  \
    WINO_GATHER(int16_floats_##form, n, tile, n, wino_input_##n, WINO_NO_PEAK)           \
    static void wino_input_int16_##form(const ck_winograd_input_args *g) {               \
        int16_input(g, int16_floats_##form, tile, (n) * (n));                            \
    }                                                                                    \
    WINO_WEIGHTS(form, taps, n)                                                          \
    static void wino_weights_int16_##form(const ck_winograd_weights_args *g) {           \
        int16_weights(g, wino_weights_vector_##form, (n) * (n));                         \
    }
INT16_FORM(f43, 4, 3, 6)
INT16_FORM(f25, 2, 5, 6)
INT16_FORM(f45, 4, 5, 8)

#define INT16_FORM_ENTRY(form, pixels, count)    \
    {.tile = pixels,                             \
     .taps = count,                              \
     .depths = INT16_RUN,                        \
     .depth_floats = INT16_DEPTH_FLOATS,         \
     .input = wino_input_int16_##form,           \
     .weights = wino_weights_int16_##form,       \
     .products = wino_products_int16,            \
     .most_tiles = INT16_ROWS,                   \
     .runs = wino_runs_int16,                    \
     .sums = wino_sums_int16}

const ck_winograd_kernels ck_table_vnni_winograd[CK_WINOGRAD_INT16_FORMS] = {
    INT16_FORM_ENTRY(f43, 4, 3), INT16_FORM_ENTRY(f25, 2, 5), INT16_FORM_ENTRY(f45, 4, 5)};
