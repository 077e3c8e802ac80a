/* Kernels of the weight's gradient on tiles: up to four accumulators in tiles 0 to 3.

   The split form sums low * high, high * high and high * low of each step, in this order
   whatever the number of blocks, each phase on all accumulators in turn, so that no product
   waits for the one before it. Two by two blocks load eight tiles for twelve products:

     phase          loads                        products
     low * high     A0 A1 (low), B0 B1 (high)    4
     high * high    A0 A1 (high)                 4
     high * low     B0 B1 (low)                  4 */

#include "bfloat16.h"
#include "transpose.body.h"
#include "tilegrad.h"

/* Tiles of C in the order of memory: for each column tile those of the row blocks. */
#define GRAD_EACH_SUM(act)                                                                         \
    do {                                                                                           \
        act(0);                                                                                    \
        if (mb * nb > 1) act(1);                                                                   \
        if (mb * nb > 2) act(2);                                                                   \
        if (mb * nb > 3) act(3);                                                                   \
    } while (0)
#define GRAD_CLEAR(tile) amx_zero(tile)
#define GRAD_FETCH_SUM(tile) amx_load(tile, g->c + CK_GRAD_TILE * (tile), 64)
#define GRAD_STORE(tile) amx_store(tile, g->c + CK_GRAD_TILE * (tile), 64)

#define GRAD_BEGIN()                                                                               \
    do {                                                                                           \
        if (g->accumulate)                                                                         \
            GRAD_EACH_SUM(GRAD_FETCH_SUM);                                                         \
        else                                                                                       \
            GRAD_EACH_SUM(GRAD_CLEAR);                                                             \
    } while (0)

#define GRAD_ASIDE()                                                                               \
    do {                                                                                           \
        if (g->aside) g->aside(g->of);                                                             \
    } while (0)

/* Two row blocks and one or two column tiles. */
CK_INLINE void grad_run_two(const ck_tilegrad_args *g, int nb, int split) {
    enum { mb = 2 };
    const ptrdiff_t row = 64 * (1 + split), step = CK_GRAD_PAIRS * row;
    const char *a = g->a, *b0 = g->b[0], *b1 = g->b[1];
    GRAD_BEGIN();
    for (ptrdiff_t k = 0; k < g->steps; k++) {
        if (split) {
            amx_load(4, a + 2048, 64);
            amx_load(6, b0, row);
            amx_bf16(0, 4, 6);
            amx_load(5, a + 3072, 64);
            amx_bf16(1, 5, 6);
            if (nb > 1) {
                amx_load(7, b1, row);
                amx_bf16(2, 4, 7);
                amx_bf16(3, 5, 7);
            }
        }
        amx_load(4, a, 64);
        if (!split) amx_load(6, b0, row);
        amx_bf16(0, 4, 6);
        amx_load(5, a + 1024, 64);
        amx_bf16(1, 5, 6);
        if (nb > 1) {
            if (!split) amx_load(7, b1, row);
            amx_bf16(2, 4, 7);
            amx_bf16(3, 5, 7);
        }
        if (split) {
            amx_load(6, b0 + 64, row);
            amx_bf16(0, 4, 6);
            amx_bf16(1, 5, 6);
            if (nb > 1) {
                amx_load(7, b1 + 64, row);
                amx_bf16(2, 4, 7);
                amx_bf16(3, 5, 7);
            }
        }
        GRAD_ASIDE();
        a += 2 * step;
        b0 += step;
        b1 += step;
    }
    GRAD_EACH_SUM(GRAD_STORE);
}

/* Column tile j in tile `at`, times tile a of the row block. */
#define GRAD_COLUMN(j, at, a, part, load)                                                          \
    do {                                                                                           \
        if (nb > j) {                                                                              \
            if (load) amx_load(at, g->b[j] + offset + (part), row);                                \
            amx_bf16(j, a, at);                                                                    \
        }                                                                                          \
    } while (0)
#define GRAD_COLUMNS(a, part, load)                                                                \
    do {                                                                                           \
        GRAD_COLUMN(0, 6, a, part, load);                                                          \
        GRAD_COLUMN(1, 7, a, part, load);                                                          \
        GRAD_COLUMN(2, 6, a, part, load);                                                          \
        GRAD_COLUMN(3, 7, a, part, load);                                                          \
    } while (0)

/* One row block and up to four column tiles. */
CK_INLINE void grad_run_one(const ck_tilegrad_args *g, int nb, int split) {
    enum { mb = 1 };
    const ptrdiff_t row = 64 * (1 + split), step = CK_GRAD_PAIRS * row;
    const char *a = g->a;
    ptrdiff_t offset = 0;
    GRAD_BEGIN();
    for (ptrdiff_t k = 0; k < g->steps; k++) {
        amx_load(4, a, 64);
        if (split) {
            amx_load(5, a + 1024, 64);
            GRAD_COLUMNS(5, 0, 1);
            GRAD_COLUMNS(4, 0, nb > 2);
            GRAD_COLUMNS(4, 64, 1);
        } else {
            GRAD_COLUMNS(4, 0, 1);
        }
        GRAD_ASIDE();
        a += step;
        offset += step;
    }
    GRAD_EACH_SUM(GRAD_STORE);
}

#define GRAD_DEFINE(mb, nb, run)                                                                   \
    static void grad_plain_##mb##nb(const ck_tilegrad_args *g) { run(g, nb, 0); }                  \
    static void grad_split_##mb##nb(const ck_tilegrad_args *g) { run(g, nb, 1); }
GRAD_DEFINE(1, 1, grad_run_one)
GRAD_DEFINE(1, 2, grad_run_one)
GRAD_DEFINE(1, 3, grad_run_one)
GRAD_DEFINE(1, 4, grad_run_one)
GRAD_DEFINE(2, 1, grad_run_two)
GRAD_DEFINE(2, 2, grad_run_two)

/* Two pixels' values of 16 channels, side by side: their high parts and, unless plain, what
   those leave. */
typedef struct grad_pair {
    __m512i high, low;
} grad_pair;

/* What a call reads: its channels, and what it makes numbers by (loaded where `source` does). */
typedef struct grad_reader {
    ptrdiff_t channel;
    __mmask16 wanted;
    vfloat center, scale, shift, low, high;
    const char *blank;
} grad_reader;

CK_INLINE int grad_made(int source) { return source >= CK_GRAD_MADE_OF_FLOATS; }
CK_INLINE int grad_halves(int source) {
    return source == CK_GRAD_HALVES || source == CK_GRAD_MADE_OF_HALVES;
}

CK_INLINE grad_reader grad_open(ptrdiff_t channel, int channels, const ck_tilegrad_maker *maker,
                                int source) {
    grad_reader r = {.channel = channel, .wanted = (__mmask16)((1u << channels) - 1)};
    if (grad_made(source)) {
        if (!grad_halves(source)) r.center = load_part_f(maker->center + channel, channels);
        r.scale = load_part_f(maker->scale + channel, channels);
        r.shift = load_part_f(maker->shift + channel, channels);
        r.low = set_f(maker->low);
        r.high = set_f(maker->high);
        r.blank = maker->blank;
    }
    return r;
}

CK_INLINE __m256i grad_load_halves(const grad_reader *r, const char *pixel) {
    return _mm256_maskz_loadu_epi16(r->wanted, pixel + 2 * r->channel);
}

/* One pixel's numbers; in the arithmetic of norm.real.h and norm.kept.h, where they are made. */
CK_INLINE __m512 grad_load(const grad_reader *r, const char *pixel, int source) {
    vfloat v;
    if (grad_halves(source))
        v = (vfloat)bf16_floats(grad_load_halves(r, pixel));
    else
        v = (vfloat)_mm512_maskz_loadu_ps(r->wanted, pixel + 4 * r->channel);
    if (!grad_made(source)) return (__m512)v;
    if (!grad_halves(source)) v = v - r->center;
    v = at_most_f(at_least_f(v * r->scale + r->shift, r->low), r->high);
    return _mm512_maskz_mov_ps(pixel == r->blank ? 0 : r->wanted, (__m512)v);
}

CK_INLINE grad_pair grad_load_pair(const grad_reader *r, const char *const *pixels, int source,
                                   int split) {
    if (source == CK_GRAD_HALVES) {
        const __m512i first = _mm512_castsi256_si512(grad_load_halves(r, pixels[0]));
        return (grad_pair){.high = bf16_interleave(
                               _mm512_inserti64x4(first, grad_load_halves(r, pixels[1]), 1))};
    }
    const __m512 a = grad_load(r, pixels[0], source), b = grad_load(r, pixels[1], source);
    grad_pair pair = {.high = bf16_interleave(bf16_pair(a, b))};
    if (split) {
        const __m512i second = _mm512_set1_epi32((int)0xffff0000);
        const __m512 high_a = _mm512_castsi512_ps(_mm512_slli_epi32(pair.high, 16));
        const __m512 high_b = _mm512_castsi512_ps(_mm512_and_si512(pair.high, second));
        pair.low = bf16_interleave(bf16_pair(_mm512_sub_ps(a, high_a), _mm512_sub_ps(b, high_b)));
    }
    return pair;
}

/* The pair of the second pixel of one and the first of the next. */
CK_INLINE __m512i grad_between(__m512i before, __m512i after) {
    return _mm512_or_si512(_mm512_srli_epi32(before, 16), _mm512_slli_epi32(after, 16));
}

CK_INLINE __m512i grad_largest(__m512i largest, __m512i values) {
    return _mm512_max_epu16(largest, _mm512_and_si512(values, _mm512_set1_epi16(0x7fff)));
}

CK_INLINE uint32_t grad_peak(__m512i largest) {
    const __m512i low = _mm512_and_si512(largest, _mm512_set1_epi32(0xffff));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(low, _mm512_srli_epi32(largest, 16)));
}

CK_INLINE void grad_fetch_pair(const char *const *pixels, ptrdiff_t offset) {
    __builtin_prefetch(pixels[0] + offset, 0, 2);
    __builtin_prefetch(pixels[1] + offset, 0, 2);
}

CK_INLINE uint32_t grad_pairs(const char *const *pixels, const char *const *ahead,
                              ptrdiff_t channel, int channels, char *to, ptrdiff_t odd,
                              const ck_tilegrad_maker *maker, int source, int split) {
    const ptrdiff_t row = 64 * (1 + split), offset = (grad_halves(source) ? 2 : 4) * channel;
    const grad_reader r = grad_open(channel, channels, maker, source);
    __m512i largest = _mm512_setzero_si512();
    grad_pair pair = grad_load_pair(&r, pixels, source, split);
    for (int m = 0; m < CK_GRAD_PAIRS; m++, to += row) {
        largest = grad_largest(largest, pair.high);
        _mm512_storeu_si512(to, pair.high);
        if (split) _mm512_storeu_si512(to + 64, pair.low);
        grad_fetch_pair(ahead + 2 * m, offset);
        if (!odd && m == CK_GRAD_PAIRS - 1) break;
        const grad_pair next = grad_load_pair(&r, pixels + 2 * m + 2, source, split);
        if (odd) {
            _mm512_storeu_si512(to + odd, grad_between(pair.high, next.high));
            if (split) _mm512_storeu_si512(to + odd + 64, grad_between(pair.low, next.low));
        }
        pair = next;
    }
    return grad_peak(largest);
}

/* 16 pairs of 16 channels as 16 channels of 16 pairs. */
CK_INLINE void grad_turn(const __m512i *pairs, char *to) {
    vfloat v[16];
    for (int i = 0; i < 16; i++) v[i] = (vfloat)pairs[i];
    transpose_f(v);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + 64 * i, (__m512i)v[i]);
}

CK_INLINE uint32_t grad_turned(const char *const *pixels, const char *const *ahead,
                               ptrdiff_t channel, int channels, char *to, ptrdiff_t low,
                               int source, int split) {
    const ptrdiff_t offset = (grad_halves(source) ? 2 : 4) * channel;
    const grad_reader r = grad_open(channel, channels, NULL, source);
    __m512i largest = _mm512_setzero_si512(), highs[16], lows[16];
    for (int m = 0; m < CK_GRAD_PAIRS; m++) {
        const grad_pair pair = grad_load_pair(&r, pixels + 2 * m, source, split);
        largest = grad_largest(largest, pair.high);
        highs[m] = pair.high;
        if (split) lows[m] = pair.low;
        grad_fetch_pair(ahead + 2 * m, offset);
    }
    grad_turn(highs, to);
    if (split) grad_turn(lows, to + low);
    return grad_peak(largest);
}

/* Eight pixels' eight channels in each lane, as eight channels of eight pixels: in each round row i
   and row i + 4 are merged (as in transpose.body.h). */
CK_INLINE void grad_turn_lanes(__m512i *v) {
    _Pragma("GCC unroll 3") for (int round = 0; round < 3; round++) {
        __m512i merged[8];
        TRANSPOSE_EACH(i, 4) {
            merged[2 * i] = _mm512_unpacklo_epi16(v[i], v[i + 4]);
            merged[2 * i + 1] = _mm512_unpackhi_epi16(v[i], v[i + 4]);
        }
        TRANSPOSE_EACH(i, 8) v[i] = merged[i];
    }
}

/* Eight channels of every eighth of 32 pixels, side by side. */
CK_INLINE __m512i grad_load_lanes(const char *const *pixels, ptrdiff_t offset) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(pixels[0] + offset)));
    _Pragma("GCC unroll 3") for (int i = 1; i < 4; i++)
        v = _mm512_mask_broadcast_i32x4(
            v, (__mmask16)(15 << 4 * i),
            _mm_loadu_si128((const void *)(pixels[8 * i] + offset)));
    return v;
}

/* What a call for lines fetches ahead: its share of the pixels' lines, in the order of memory,
   which is faster than one line of each pixel. */
typedef struct grad_ahead {
    const char *const *pixel;
    ptrdiff_t at, end;
} grad_ahead;

CK_INLINE grad_ahead grad_share(const char *const *ahead, ptrdiff_t line, ptrdiff_t lines) {
    const ptrdiff_t first = CK_GRAD_PIXELS * line;
    return (grad_ahead){ahead + first / lines, first % lines * 64, lines * 64};
}

CK_INLINE void grad_fetch_line(grad_ahead *ahead) {
    __builtin_prefetch(*ahead->pixel + ahead->at, 0, 2);
    ahead->at += 64;
    if (ahead->at == ahead->end) {
        ahead->at = 0;
        ahead->pixel++;
    }
}

/* Half the shuffles of `grad_turn`: loads put pixels into lanes, and only those are turned. */
static uint32_t grad_turned_lines(const char *const *pixels, const char *const *next,
                                  ptrdiff_t line, ptrdiff_t lines, char *to, ptrdiff_t second) {
    __m512i largest = _mm512_setzero_si512(), v[8];
    grad_ahead ahead = grad_share(next, line, lines);
    for (int eight = 0; eight < 4; eight++) {
        char *const tile = to + eight / 2 * second + eight % 2 * 512;
        TRANSPOSE_EACH(i, 8) {
            v[i] = grad_load_lanes(pixels + i, 64 * line + 16 * eight);
            largest = grad_largest(largest, v[i]);
            grad_fetch_line(&ahead);
        }
        grad_turn_lanes(v);
        TRANSPOSE_EACH(i, 8) _mm512_storeu_si512(tile + 64 * i, v[i]);
    }
    return grad_peak(largest);
}

static uint32_t grad_pairs_lines(const char *const *pixels, const char *const *next,
                                 ptrdiff_t line, ptrdiff_t lines, char *to, ptrdiff_t second) {
    const grad_reader left = {.channel = 32 * line, .wanted = 0xffff};
    const grad_reader right = {.channel = 32 * line + 16, .wanted = 0xffff};
    __m512i largest = _mm512_setzero_si512();
    grad_ahead ahead = grad_share(next, line, lines);
    for (int m = 0; m < CK_GRAD_PAIRS; m++, pixels += 2, to += 64) {
        const grad_pair a = grad_load_pair(&left, pixels, CK_GRAD_HALVES, 0);
        const grad_pair b = grad_load_pair(&right, pixels, CK_GRAD_HALVES, 0);
        largest = grad_largest(grad_largest(largest, a.high), b.high);
        _mm512_storeu_si512(to, a.high);
        _mm512_storeu_si512(to + second, b.high);
        grad_fetch_line(&ahead);
        grad_fetch_line(&ahead);
    }
    return grad_peak(largest);
}

#define GRAD_PAIRS(name, source, split)                                                            \
    static uint32_t name(const char *const *pixels, const char *const *next, ptrdiff_t channel,    \
                         int channels, char *to, ptrdiff_t odd, const ck_tilegrad_maker *maker) {  \
        return grad_pairs(pixels, next, channel, channels, to, odd, maker, source, split);         \
    }
GRAD_PAIRS(grad_pairs_plain, CK_GRAD_FLOATS, 0)
GRAD_PAIRS(grad_pairs_halves, CK_GRAD_HALVES, 0)
GRAD_PAIRS(grad_pairs_plain_made, CK_GRAD_MADE_OF_FLOATS, 0)
GRAD_PAIRS(grad_pairs_halves_made, CK_GRAD_MADE_OF_HALVES, 0)
GRAD_PAIRS(grad_pairs_split, CK_GRAD_FLOATS, 1)
GRAD_PAIRS(grad_pairs_split_made, CK_GRAD_MADE_OF_FLOATS, 1)

#define GRAD_TURNED(name, source, split)                                                           \
    static uint32_t name(const char *const *pixels, const char *const *next, ptrdiff_t channel,    \
                         int channels, char *to, ptrdiff_t low) {                                  \
        return grad_turned(pixels, next, channel, channels, to, low, source, split);               \
    }
GRAD_TURNED(grad_turned_plain, CK_GRAD_FLOATS, 0)
GRAD_TURNED(grad_turned_halves, CK_GRAD_HALVES, 0)
GRAD_TURNED(grad_turned_split, CK_GRAD_FLOATS, 1)

static void grad_join(const float *sums, ptrdiff_t parts, ptrdiff_t part_step, int columns,
                      float *target, int stream) {
    vfloat total = load_f(sums);
    for (ptrdiff_t part = 1; part < parts; part++) total += load_f(sums + part * part_step);
    if (stream && columns == 16 && ((uintptr_t)target & 63) == 0)
        stream_f(target, total);
    else
        store_part_f(target, total, columns);
}

static void grad_configure(void) { tile_configure(CK_TILE_ROWS, CK_TILE_DEPTH); }

#define GRAD_FORM(form)                                                                            \
    {                                                                                              \
        {grad_##form##_11, grad_##form##_12, grad_##form##_13, grad_##form##_14}, {                \
            grad_##form##_21, grad_##form##_22                                                     \
        }                                                                                          \
    }

#define GRAD_PLAIN(kernels)                                                                        \
    {                                                                                              \
        .planes = 1, .run = GRAD_FORM(kernels),                                                    \
        .pairs = {grad_pairs_plain, grad_pairs_halves, grad_pairs_plain_made,                      \
                  grad_pairs_halves_made},                                                         \
        .turned = {grad_turned_plain, grad_turned_halves}, .pairs_lines = grad_pairs_lines,        \
        .turned_lines = grad_turned_lines                                                          \
    }

const ck_tilegrad_table ck_table_amx_grad = {
    .configure = grad_configure,
    .release = tile_release,
    .plain = GRAD_PLAIN(plain),
    .split = {.planes = 2,
              .run = GRAD_FORM(split),
              .pairs = {[CK_GRAD_FLOATS] = grad_pairs_split,
                        [CK_GRAD_MADE_OF_FLOATS] = grad_pairs_split_made},
              .turned = {[CK_GRAD_FLOATS] = grad_turned_split}},
    .join = grad_join,
    .settle = stream_end,
};
