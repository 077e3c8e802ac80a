/* Tile kernels: up to 2 x 2 accumulators in tiles 0 to 3, A in 4 and 5, B in 6 and 7.

   One step of the split form multiplies in three phases of four products, each phase on four
   accumulators, so that a product (52 cycles until its result, one started every 16) never
   waits for the one before it on the same accumulator:

     phase          loads                products
     low * high     A0 A1 low, B0 B1 high   4
     high * high    A0 A1 high              4
     high * low     B0 B1 low               4

   In this order each operand is loaded once: eight loads, which are as slow as products where
   the processor throttles its tiles. Each accumulator sums a step's products in this order,
   whatever the number of blocks.

   B streams by from the second-level cache, once for every 32 rows. Fetching its lines ahead costs
   more (loads go to the same ports) than it saves: the processor's own prefetching follows it.

   What is not a product (finishing the sums of the call before, converting the rows that the next
   calls read: `aside`) is done a little with each step. Done in one piece, it fills the window in
   which the processor looks for work, and the tiles stand still. */

#include "bfloat16.h"
#include "bfloat16.pool.h"
#include "depthwise.halves.h"
#include "tile.common.h"

/* Rows of A by way of a copy: zeros beyond `count` values and, for `finite`, instead of
   infinities and NaN. */
static const char *tile_guard(const ck_tile_args *g, const char *a, ptrdiff_t count, int finite,
                              char *copy) {
    const __m512i infinite = _mm512_set1_epi16(FLOAT_INFINITE >> 16);
    const __mmask32 inside = count >= CK_TILE_DEPTH ? 0xffffffffu : (1u << count) - 1;
    for (int m = 0; m < g->rows; m++, a += g->lda) {
        __m512i v = _mm512_maskz_loadu_epi16(inside, a);
        if (finite) {
            __m512i exponent = _mm512_and_si512(v, infinite);
            v = _mm512_maskz_mov_epi16(_mm512_cmpneq_epi16_mask(exponent, infinite), v);
        }
        _mm512_storeu_si512(copy + 64 * m, v);
    }
    return copy;
}

/* Loads a block of rows of A; the exact kernels read it by way of a copy. */
#define TILE_LOAD_A(tile, from, finite)                                                            \
    do {                                                                                           \
        if (exact)                                                                                 \
            amx_load(tile, tile_guard(g, from, g->k - s * g->depth, finite, copy), 64);            \
        else                                                                                       \
            amx_load(tile, from, lda);                                                             \
    } while (0)

#define TILE_LOAD_B(from)                                                                          \
    do {                                                                                           \
        amx_load(6, from, 64);                                                                     \
        if (nb > 1) amx_load(7, (from) + size, 64);                                                \
    } while (0)

#define TILE_MULTIPLY(product)                                                                     \
    do {                                                                                           \
        product(0, 4, 6);                                                                          \
        if (nb > 1) product(1, 4, 7);                                                              \
        if (mb > 1) product(2, 5, 6);                                                              \
        if (mb > 1 && nb > 1) product(3, 5, 7);                                                    \
    } while (0)

#define TILE_EACH_ACCUMULATOR(act)                                                                 \
    do {                                                                                           \
        act(0, 0, 0);                                                                              \
        if (nb > 1) act(1, 0, 1);                                                                  \
        if (mb > 1) act(2, 1, 0);                                                                  \
        if (mb > 1 && nb > 1) act(3, 1, 1);                                                        \
    } while (0)
#define TILE_CLEAR(tile, i, j) amx_zero(tile)
#define TILE_STORE(tile, i, j) amx_store(tile, sums + 16 * (32 * (i) + (j)), 32 * sizeof *sums)
/* The same, the second block's rows behind those of the first. */
#define TILE_STORE_ROWS(tile, i, j)                                                                \
    amx_store(tile, sums + 32 * g->rows * (i) + 16 * (j), 32 * sizeof *sums)

/* The first `n` of 16 values; nothing beyond is read. */
CK_INLINE vfloat tile_load(const float *from, int n) {
    return n < 16 ? load_part_f(from, n) : load_f(from);
}

/* The same of what is added to the sums. */
CK_INLINE vfloat tile_added(const void *from, ptrdiff_t at, int n, int narrow) {
    const uint16_t *narrowed = (const uint16_t *)from + at;
    if (!narrow) return tile_load((const float *)from + at, n);
    return (vfloat)bf16_floats(n < 16 ? _mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), narrowed)
                                      : _mm256_loadu_si256((const __m256i *)narrowed));
}

/* Stores the first `n` of 32 values. */
CK_INLINE void tile_store(void *c, ptrdiff_t at, vfloat v0, vfloat v1, int n, int narrow, int stream) {
    if (narrow) {
        const __m512i pair = bf16_rounded_pair((__m512)v0, (__m512)v1);
        void *to = (uint16_t *)c + at;
        if (n < 32)
            _mm512_mask_storeu_epi16(to, (1u << n) - 1, pair);
        else if (stream)
            _mm512_stream_si512(to, pair);
        else
            _mm512_storeu_si512(to, pair);
    } else {
        float *to = (float *)c + at;
        if (n < 32)
            store_f(to, v0), store_part_f(to + 16, v1, n - 16);
        else if (stream)
            stream_f(to, v0), stream_f(to + 16, v1);
        else
            store_f(to, v0), store_f(to + 16, v1);
    }
}

/* The same of 16 values. */
CK_INLINE void tile_store_half(void *c, ptrdiff_t at, vfloat v, int n, int narrow) {
    if (narrow) {
        const __m512i pair = bf16_rounded_pair((__m512)v, _mm512_setzero_ps());
        const __m256i half = _mm512_castsi512_si256(pair);
        uint16_t *to = (uint16_t *)c + at;
        if (n < 16)
            _mm256_mask_storeu_epi16(to, (__mmask16)((1u << n) - 1), half);
        else
            _mm256_storeu_si256((__m256i *)to, half);
    } else if (n < 16) {
        store_part_f((float *)c + at, v, n);
    } else {
        store_f((float *)c + at, v);
    }
}

enum { ADD_NOTHING, ADD_FLOATS, ADD_NARROW };

/* Adds what comes after the sums of `n` columns, of 17 to 32, and writes rows up to `last`, those that are
   wanted: loops almost without branches, for the usual activations. */
CK_INLINE void tile_wide_rows(const ck_tile_args *g, ck_tile_queue *q, int last, int n, int activation,
                              int residual, int narrow, int stream) {
    const vfloat nothing = set_f(-0.0f), alpha = set_f(g->alpha), beta = set_f(g->beta);
    const vfloat bias0 = q->bias ? load_f(q->bias) : nothing;
    const vfloat bias1 = q->bias ? tile_load(q->bias + 16, n - 16) : nothing;
    const float *sums = q->sums[q->filled] + 32 * q->done;
    for (int m = q->done; m < last; m++, sums += 32) {
        const ptrdiff_t at = q->c_rows[m];
        if (at < 0) continue;
        vfloat v0 = load_f(sums) + bias0, v1 = load_f(sums + 16) + bias1;
        if (residual) {
            v0 += tile_added(q->residual, at, 16, residual == ADD_NARROW);
            v1 += tile_added(q->residual, at + 16, n - 16, residual == ADD_NARROW);
        }
        v0 = activate_f(activation, alpha, beta, v0);
        v1 = activate_f(activation, alpha, beta, v1);
        tile_store(q->c, at, v0, v1, n, narrow, stream);
    }
    q->done = last;
}

/* The same of up to 16 columns. */
CK_INLINE void tile_half_rows(const ck_tile_args *g, ck_tile_queue *q, int last, int n, int activation,
                              int residual, int narrow) {
    const vfloat alpha = set_f(g->alpha), beta = set_f(g->beta);
    const vfloat bias = q->bias ? tile_load(q->bias, n) : set_f(-0.0f);
    const float *sums = q->sums[q->filled] + 32 * q->done;
    for (int m = q->done; m < last; m++, sums += 32) {
        const ptrdiff_t at = q->c_rows[m];
        if (at < 0) continue;
        vfloat v = load_f(sums) + bias;
        if (residual) v += tile_added(q->residual, at, n, residual == ADD_NARROW);
        tile_store_half(q->c, at, activate_f(activation, alpha, beta, v), n, narrow);
    }
    q->done = last;
}

#define TILE_USUAL_ROWS(activation, residual, narrow)                                              \
    static void tile_rows_##activation##residual##narrow(const ck_tile_args *g, ck_tile_queue *q,  \
                                                         int last) {                               \
        if (q->n == 32)                                                                            \
            tile_wide_rows(g, q, last, 32, activation, residual, narrow, g->stream);               \
        else if (q->n > 16)                                                                        \
            tile_wide_rows(g, q, last, q->n, activation, residual, narrow, 0);                     \
        else if (q->n == 16)                                                                       \
            tile_half_rows(g, q, last, 16, activation, residual, narrow);                          \
        else                                                                                       \
            tile_half_rows(g, q, last, q->n, activation, residual, narrow);                        \
    }
#define TILE_EACH_RESIDUAL(act, activation, narrow) \
    act(activation, 0, narrow) act(activation, 1, narrow) act(activation, 2, narrow)
TILE_EACH_RESIDUAL(TILE_USUAL_ROWS, 0, 0)
TILE_EACH_RESIDUAL(TILE_USUAL_ROWS, 0, 1)
TILE_EACH_RESIDUAL(TILE_USUAL_ROWS, 1, 0)
TILE_EACH_RESIDUAL(TILE_USUAL_ROWS, 1, 1)
TILE_EACH_RESIDUAL(TILE_USUAL_ROWS, 2, 0)
TILE_EACH_RESIDUAL(TILE_USUAL_ROWS, 2, 1)
#undef TILE_USUAL_ROWS

/* By activation (none, CK_ACT_RELU, CK_ACT_CLAMP), narrow results and residual. */
#define TILE_ROWS_NAME(activation, residual, narrow) tile_rows_##activation##residual##narrow,
#define TILE_ROWS_OF(activation)                                \
    {{TILE_EACH_RESIDUAL(TILE_ROWS_NAME, activation, 0)},       \
     {TILE_EACH_RESIDUAL(TILE_ROWS_NAME, activation, 1)}}
static const ck_tile_finish_fn tile_rows_usual[3][2][3] = {TILE_ROWS_OF(0), TILE_ROWS_OF(1),
                                                           TILE_ROWS_OF(2)};

/* The same for any columns and any activation, by way of a row of floats. */
static void tile_rows(const ck_tile_args *g, ck_tile_queue *q, int last) {
    const vfloat alpha = set_f(g->alpha), beta = set_f(g->beta);
    float more[32], row[32] __attribute__((aligned(64)));
    for (int m = q->done; m < last; m++) {
        const float *sums = q->sums[q->filled] + 32 * m, *added = NULL;
        const ptrdiff_t at = q->c_rows[m];
        if (at < 0) continue;
        if (q->residual && g->narrow_residual)
            added = bf16_widen((const uint16_t *)q->residual + at, q->n, more);
        else if (q->residual)
            added = (const float *)q->residual + at;
        for (int n = 0; n < q->n; n += 16) {
            const int left = q->n - n < 16 ? q->n - n : 16;
            vfloat v = load_f(sums + n);
            if (q->bias) v += load_part_f(q->bias + n, left);
            if (added) v += load_part_f(added + n, left);
            store_f(row + n, activate_f(g->activation, alpha, beta, v));
        }
        if (g->map) g->map(row, row, q->n, g->alpha, g->beta);
        if (g->narrow_c)
            bf16_convert(row, q->n, (uint16_t *)q->c + at, NULL);
        else
            memcpy((float *)q->c + at, row, (size_t)q->n * sizeof *row);
    }
    q->done = last;
}

static void tile_flush(const ck_tile_args *g) {
    ck_tile_queue *q = g->queue;
    if (q->done < q->rows) q->finish(g, q, q->rows);
    if (g->stream) stream_end();
}

/* Puts the sums that were just stored into the queue, which is empty. */
CK_INLINE void tile_wait(const ck_tile_args *g, int mb) {
    ck_tile_queue *q = g->queue;
    q->filled ^= 1;
    q->rows = mb * g->rows;
    q->done = 0;
    q->c_rows = g->c_rows;
    q->c = g->c;
    q->bias = g->bias;
    q->residual = g->residual;
    q->n = g->n;
    q->finish = g->activation <= CK_ACT_CLAMP
                    ? tile_rows_usual[g->activation][g->narrow_c][
                          !g->residual ? ADD_NOTHING : g->narrow_residual ? ADD_NARROW : ADD_FLOATS]
                    : tile_rows;
}

/* Fetches the lines that the results go to, unless they pass by the caches, and those of what is
   added to them. */
CK_INLINE void tile_fetch_results(const ck_tile_args *g, int mb, int nb) {
    const ptrdiff_t item = g->narrow_c ? 2 : 4, item_added = g->narrow_residual ? 2 : 4;
    const ptrdiff_t bytes = 16 * nb * item, bytes_added = g->residual ? 16 * nb * item_added : 0;
    for (int m = 0; m < mb * g->rows; m++) {
        const ptrdiff_t at = g->c_rows[m] < 0 ? g->c_rows[0] : g->c_rows[m];
        for (ptrdiff_t i = 0; !g->stream && i < bytes; i += 64)
            __builtin_prefetch((char *)g->c + at * item + i, 1, 3);
        for (ptrdiff_t i = 0; i < bytes_added; i += 64)
            __builtin_prefetch((const char *)g->residual + at * item_added + i, 0, 3);
    }
}

/* Fetches what of B is read `ahead` bytes later, unless that is 0. */
CK_INLINE void tile_fetch_b(const char *b, ptrdiff_t ahead, ptrdiff_t bytes) {
    if (ahead)
        for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch(b + ahead + i, 0, 2);
}

CK_INLINE void tile_run(const ck_tile_args *g, int mb, int nb, int split, int exact) {
    const ptrdiff_t lda = g->lda, low = g->a_low, step = g->a_step, size = 32 * g->depth;
    const char *b = g->b;
    char copy[exact ? 1024 : 1] __attribute__((aligned(64)));
    ck_tile_queue *q = g->queue;
    float *sums = q->sums[q->filled ^ 1];
    const ptrdiff_t steps = g->batch * g->steps;
    const int share = steps >= 32 ? 1 : (int)((q->rows + steps - 1) / steps);
    TILE_EACH_ACCUMULATOR(TILE_CLEAR);
    tile_fetch_results(g, mb, nb);
    for (ptrdiff_t i = 0; i < g->batch; i++) {
        const char *a0 = g->a + g->a_offsets[i], *a1 = a0 + g->a_next;
        for (ptrdiff_t s = 0; s < g->steps; s++) {
            if (split) {
                TILE_LOAD_A(4, a0 + low, 0);
                if (mb > 1) TILE_LOAD_A(5, a1 + low, 0);
                TILE_LOAD_B(b);
                TILE_MULTIPLY(amx_bf16);
                tile_fetch_b(b, g->b_ahead, nb * size);
            }
            TILE_LOAD_A(4, a0, 0);
            if (mb > 1) TILE_LOAD_A(5, a1, 0);
            if (!split) TILE_LOAD_B(b);
            TILE_MULTIPLY(amx_bf16);
            tile_fetch_b(b + split * nb * size, g->b_ahead, nb * size);
            if (split) {
                if (exact) TILE_LOAD_A(4, a0, 1);
                if (exact && mb > 1) TILE_LOAD_A(5, a1, 1);
                TILE_LOAD_B(b + nb * size);
                TILE_MULTIPLY(amx_bf16);
            }
            if (q->done < q->rows)
                q->finish(g, q, q->done + share < q->rows ? q->done + share : q->rows);
            if (g->aside) g->aside(g->of);
            a0 += step;
            a1 += step;
            b += (1 + split) * nb * size;
        }
    }
    TILE_EACH_ACCUMULATOR(TILE_STORE_ROWS);
    tile_wait(g, mb);
}

#define TILE_FUNCTION(name, mb, nb, split, exact)                                                  \
    static void name##_##mb##nb(const ck_tile_args *g) {                                           \
        tile_run(g, mb, nb, split, exact);                                                         \
    }
#define TILE_DEFINE(mb, nb)                                                                        \
    TILE_FUNCTION(tile_plain, mb, nb, 0, 0)                                                        \
    TILE_FUNCTION(tile_split, mb, nb, 1, 0)                                                        \
    TILE_FUNCTION(tile_plain_exact, mb, nb, 0, 1)                                                  \
    TILE_FUNCTION(tile_split_exact, mb, nb, 1, 1)
TILE_DEFINE(1, 1)
TILE_DEFINE(1, 2)
TILE_DEFINE(2, 1)
TILE_DEFINE(2, 2)

static void tile_configure(int rows, int depth) {
    ck_tile_config config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.rows[t] = (uint8_t)(t < 6 ? rows : depth / 2);
        config.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? 2 * depth : 64);
    }
    amx_configure(&config);
}

static void tile_release(void) { amx_release(); }

static int tile_copy(const void *x, ptrdiff_t n, void *high, ptrdiff_t low, float scale,
                     ptrdiff_t apart) {
    (void)low, (void)scale;
    return bf16_copy(x, n, high, apart);
}

static int tile_convert_plain(const void *x, ptrdiff_t n, void *high, ptrdiff_t low,
                              float scale, ptrdiff_t apart) {
    (void)low, (void)scale;
    return bf16_convert_apart(x, n, high, NULL, apart);
}

static int tile_convert_split(const void *x, ptrdiff_t n, void *high, ptrdiff_t low,
                              float scale, ptrdiff_t apart) {
    (void)scale;
    return bf16_convert_apart(x, n, high, (uint16_t *)((char *)high + low), apart);
}

static int tile_pack_plain(const float *rows, ptrdiff_t depth, void *high, ptrdiff_t low,
                           float scale) {
    float pairs[32];
    int infinite = 0;
    (void)low, (void)scale;
    for (ptrdiff_t d = 0; d < depth; d += 2) {
        tile_pairs(rows + 16 * d, pairs);
        infinite |= bf16_convert(pairs, 32, (uint16_t *)high + 16 * d, NULL);
    }
    return infinite;
}

static int tile_pack_split(const float *rows, ptrdiff_t depth, void *high, ptrdiff_t low,
                           float scale) {
    float pairs[32];
    int infinite = 0;
    (void)scale;
    for (ptrdiff_t d = 0; d < depth; d += 2) {
        uint16_t *to = (uint16_t *)high + 16 * d;
        tile_pairs(rows + 16 * d, pairs);
        infinite |= bf16_convert(pairs, 32, to, (uint16_t *)((char *)to + low));
    }
    return infinite;
}

static double tile_rounds(long steps) {
    enum { mb = 2, nb = 2 };
    static const char zeros[1024] __attribute__((aligned(64)));
    tile_configure(CK_TILE_ROWS, CK_TILE_DEPTH);
    TILE_EACH_ACCUMULATOR(TILE_CLEAR);
    amx_load(4, zeros, 64);
    amx_load(5, zeros, 64);
    amx_load(6, zeros, 64);
    amx_load(7, zeros, 64);
    for (long i = 0; i < steps; i++) TILE_MULTIPLY(amx_bf16);
    amx_release();
    return 4 * 2.0 * CK_TILE_ROWS * CK_TILE_COLUMNS * CK_TILE_DEPTH * (double)steps;
}

#define TILE_FORM(form)                                                             \
    {{tile_##form##_11, tile_##form##_12}, {tile_##form##_21, tile_##form##_22}}

const ck_tile_table ck_table_amx_tile = {
    .far_bytes = 16 << 20,
    .products_per_step = 128,
    .configure = tile_configure,
    .release = tile_release,
    .plain = {.planes = 1,
              .most_rows = CK_TILE_ROWS,
              .run = TILE_FORM(plain),
              .exact = TILE_FORM(plain_exact),
              .flush = tile_flush,
              .convert = tile_convert_plain,
              .copy = tile_copy,
              .pack = tile_pack_plain},
    .split = {.planes = 2,
              .most_rows = CK_TILE_ROWS,
              .run = TILE_FORM(split),
              .exact = TILE_FORM(split_exact),
              .flush = tile_flush,
              .convert = tile_convert_split,
              .pack = tile_pack_split},
    .depthwise = dw_half_band,
    .depthwise_block = dw_half_block,
    .depthwise_total = dw_half_total,
    .pool = {.max_forward = bf16_max_pool, .max_backward = bf16_max_back},
    .rounds = tile_rounds,
};
