/* The plain form of tile.h on vectors, for CPUs that have no tiles but start as many products of
   bfloat16 pairs (AVX512-BF16) a cycle as float32's multiply-adds, with twice the terms.

   Tiles' packed weights hold pairs of k, 16 columns side by side: a row's pair is broadcast beside
   such a line. What lies beyond a reduction is not used, so that `run` is exact. */

/* Rows of a block, and of two that are multiplied at a time: at most, and at least. */
enum { PAIR_ROWS = 14, PAIR_HALF = 7, PAIR_HALF_LEAST = 4 };

/* Rows are reached from a pointer for every third of them; `half`, where it is not 0, begins anew. */
#define PAIR_POINTERS 6
CK_INLINE int pair_pointer(int m, int half) {
    return half && m >= half ? (half + 2) / 3 + (m - half) / 3 : m / 3;
}
CK_INLINE int pair_beyond(int m, int half) { return (half && m >= half ? m - half : m) % 3; }

/* One pair of k: every row times every block of columns. */
CK_INLINE void pair_multiply(__m512 acc[PAIR_ROWS][2], const char *const p[PAIR_POINTERS], ptrdiff_t lda,
                             const char *b, ptrdiff_t b_next, int rows, int half, int nb, uint32_t mask) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b);
    const __m512bh b1 = nb > 1 ? (__m512bh)_mm512_loadu_si512(b + b_next) : b0;
    _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
        const __m512bh x =
            (__m512bh)tile_row_pair(p[pair_pointer(m, half)] + pair_beyond(m, half) * lda, mask);
        acc[m][0] = _mm512_dpbf16_ps(acc[m][0], b0, x);
        if (nb > 1) acc[m][1] = _mm512_dpbf16_ps(acc[m][1], b1, x);
    }
}

/* Tells whether blocks are finished from their registers: whole vectors of columns, and activations
   that are bounds. */
CK_INLINE int pair_simple(const ck_tile_args *g, int nb) {
    return g->activation <= CK_ACT_CLAMP && g->n == 16 * nb;
}

/* Adds what comes after the sums, up to their activation. Rows that are not wanted are left out by masks,
   not by branches, beside which accumulators would not stay in registers. */
CK_INLINE void pair_add(const ck_tile_args *g, const ptrdiff_t *c_rows, __m512 acc[PAIR_ROWS][2], int rows,
                        int nb) {
    if (g->bias) {
        const __m512 bias0 = _mm512_loadu_ps(g->bias), bias1 = nb > 1 ? _mm512_loadu_ps(g->bias + 16) : bias0;
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
            acc[m][0] += bias0;
            if (nb > 1) acc[m][1] += bias1;
        }
    }
    if (g->residual && g->narrow_residual) {
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
            const uint16_t *added = (const uint16_t *)g->residual + c_rows[m];
            const __mmask16 wanted = c_rows[m] < 0 ? 0 : 0xffff;
            acc[m][0] += bf16_floats(_mm256_maskz_loadu_epi16(wanted, added));
            if (nb > 1) acc[m][1] += bf16_floats(_mm256_maskz_loadu_epi16(wanted, added + 16));
        }
    } else if (g->residual) {
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
            const float *added = (const float *)g->residual + c_rows[m];
            const __mmask16 wanted = c_rows[m] < 0 ? 0 : 0xffff;
            acc[m][0] += _mm512_maskz_loadu_ps(wanted, added);
            if (nb > 1) acc[m][1] += _mm512_maskz_loadu_ps(wanted, added + 16);
        }
    }
    if (g->activation) {
        const vfloat low = set_f(g->activation == CK_ACT_CLAMP ? g->alpha : 0);
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
            acc[m][0] = (__m512)at_least_f((vfloat)acc[m][0], low);
            if (nb > 1) acc[m][1] = (__m512)at_least_f((vfloat)acc[m][1], low);
        }
    }
    if (g->activation == CK_ACT_CLAMP) {
        const vfloat high = set_f(g->beta);
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
            acc[m][0] = (__m512)at_most_f((vfloat)acc[m][0], high);
            if (nb > 1) acc[m][1] = (__m512)at_most_f((vfloat)acc[m][1], high);
        }
    }
}

/* Writes rows that are wanted. Returns whether a bfloat16 became infinite. */
CK_INLINE int pair_store(const ck_tile_args *g, const ptrdiff_t *c_rows, __m512 acc[PAIR_ROWS][2], int rows,
                         int nb, int narrow, int stream) {
    const __m512i infinity = _mm512_set1_epi16(FLOAT_INFINITE >> 16);
    const __m512i magnitude = _mm512_set1_epi16(FLOAT_ABS >> 16);
    __mmask32 infinite = 0;
    _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
        if (c_rows[m] < 0) continue;
        if (narrow) {
            const __m512i pair = bf16_pair(acc[m][0], nb > 1 ? acc[m][1] : _mm512_setzero_ps());
            uint16_t *to = (uint16_t *)g->c + c_rows[m];
            infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(pair, magnitude), infinity);
            if (nb == 1)
                _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(pair));
            else if (stream)
                _mm512_stream_si512((void *)to, pair);
            else
                _mm512_storeu_si512(to, pair);
        } else {
            float *to = (float *)g->c + c_rows[m];
            if (stream)
                _mm512_stream_ps(to, acc[m][0]), _mm512_stream_ps(to + 16, acc[m][1]);
            else
                _mm512_storeu_ps(to, acc[m][0]);
            if (!stream && nb > 1) _mm512_storeu_ps(to + 16, acc[m][1]);
        }
    }
    return infinite != 0;
}

/* Writes rows as bfloat16 once more: what is finite stays so. */
static void pair_settle(const ck_tile_args *g, const ptrdiff_t *c_rows, const float *values, int rows) {
    for (int m = 0; m < rows; m++, values += 32) {
        if (c_rows[m] < 0) continue;
        if (g->n > 16)
            tile_store(g->c, c_rows[m], load_f(values), load_f(values + 16), 32, 1, 0);
        else
            tile_store_half(g->c, c_rows[m], load_f(values), 16, 1);
    }
}

/* The values of a block, in rows of 32. */
CK_INLINE void pair_keep(__m512 acc[PAIR_ROWS][2], float *to, int rows, int nb) {
    _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
        _mm512_storeu_ps(to + 32 * m, acc[m][0]);
        if (nb > 1) _mm512_storeu_ps(to + 32 * m + 16, acc[m][1]);
    }
}

/* Finishes a block from its registers; `room` is for its values. */
CK_INLINE void pair_finish(const ck_tile_args *g, const ptrdiff_t *c_rows, __m512 acc[PAIR_ROWS][2],
                           float *room, int rows, int nb) {
    pair_add(g, c_rows, acc, rows, nb);
    if (!g->narrow_c) {
        if (g->stream && nb > 1)
            pair_store(g, c_rows, acc, rows, nb, 0, 1);
        else
            pair_store(g, c_rows, acc, rows, nb, 0, 0);
    } else if (g->stream && nb > 1 ? pair_store(g, c_rows, acc, rows, nb, 1, 1)
                                   : pair_store(g, c_rows, acc, rows, nb, 1, 0)) {
        pair_keep(acc, room, rows, nb);
        pair_settle(g, c_rows, room, rows);
    }
}

/* Fetches the lines that a block's rows are finished from or written to, of 16 or 32 bits a value, while
   products are made: rows lie pages apart, and the second-level cache has room for them. */
CK_INLINE void pair_fetch(const char *values, int narrow, const ptrdiff_t *c_rows, int rows, int nb) {
    if (narrow) {
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++)
            _mm_prefetch(values + 2 * c_rows[m], _MM_HINT_T1);
    } else {
        _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++) {
            _mm_prefetch(values + 4 * c_rows[m], _MM_HINT_T1);
            if (nb > 1) _mm_prefetch(values + 4 * c_rows[m] + 64, _MM_HINT_T1);
        }
    }
}

/* The sums of a block of rows that begins at `from`, or of two of `half` rows, finished where `c_rows`
   tells where they go. */
CK_INLINE void pair_block(const ck_tile_args *g, const char *from, float *sums, const ptrdiff_t *c_rows,
                          int rows, int half, int nb) {
    const ptrdiff_t lda = g->lda, b_next = 32 * g->depth, ahead = g->b_ahead;
    const int pointers = pair_pointer(rows - 1, half) + 1;
    const char *b = g->b;
    __m512 acc[PAIR_ROWS][2];
    _Pragma("GCC unroll 14") for (int m = 0; m < rows; m++)
        acc[m][0] = acc[m][1] = _mm512_setzero_ps();
    if (c_rows) {
        if (!g->stream) pair_fetch(g->c, g->narrow_c, c_rows, rows, nb);
        if (g->residual) pair_fetch(g->residual, g->narrow_residual, c_rows, rows, nb);
    }
    for (ptrdiff_t i = 0; i < g->batch; i++) {
        const char *a = from + g->a_offsets[i];
        for (ptrdiff_t s = 0; s < g->steps; s++, a += g->a_step, b += nb * b_next) {
            const ptrdiff_t left = g->k - s * g->depth, count = left < g->depth ? left : g->depth;
            const char *p[PAIR_POINTERS], *line = b;
            _Pragma("GCC unroll 6") for (int q = 0; q < pointers; q++) {
                const int second = half && q >= (half + 2) / 3;
                p[q] = second ? a + g->a_next + 3 * (q - (half + 2) / 3) * lda : a + 3 * q * lda;
                __asm__("" : "+r"(p[q]));
            }
            for (ptrdiff_t k = count / 2; k > 0; k--, line += 64) {
                pair_multiply(acc, p, lda, line, b_next, rows, half, nb, 0xffffffffu);
                __builtin_prefetch(line + ahead, 0, 2);
                if (nb > 1) __builtin_prefetch(line + ahead + b_next, 0, 2);
                _Pragma("GCC unroll 6") for (int q = 0; q < pointers; q++) p[q] += 4;
            }
            if (count % 2) pair_multiply(acc, p, lda, line, b_next, rows, half, nb, 0xffffu);
        }
    }
    if (c_rows)
        pair_finish(g, c_rows, acc, sums, rows, nb);
    else
        pair_keep(acc, sums, rows, nb);
}

/* A function for each number of rows, compiled with its accumulators in registers. Blocks that are cut
   to one size have seven rows or more; fewer are put together. */
#define PAIR_EACH(X) \
    X(1, 1) X(2, 1) X(4, 1) X(7, 1) X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1) X(13, 1) X(14, 1) \
    X(1, 2) X(2, 2) X(4, 2) X(7, 2) X(8, 2) X(9, 2) X(10, 2) X(11, 2) X(12, 2) X(13, 2) X(14, 2)
#define PAIR_EACH_TWO(X) X(4) X(5) X(6) X(7)
#define PAIR_ARGUMENTS const ck_tile_args *g, const char *from, float *sums, const ptrdiff_t *c_rows
#define PAIR_DEFINE(rows, nb) \
    static void pair_##rows##x##nb(PAIR_ARGUMENTS) { pair_block(g, from, sums, c_rows, rows, 0, nb); }
#define PAIR_DEFINE_TWO(rows) \
    static void pair_two_##rows(PAIR_ARGUMENTS) { pair_block(g, from, sums, c_rows, 2 * (rows), rows, 2); }
#define PAIR_ENTRY(rows, nb) [nb - 1][rows] = pair_##rows##x##nb,
#define PAIR_ENTRY_TWO(rows) [rows] = pair_two_##rows,
PAIR_EACH(PAIR_DEFINE)
PAIR_EACH_TWO(PAIR_DEFINE_TWO)
static void (*const pair_blocks[2][PAIR_ROWS + 1])(PAIR_ARGUMENTS) = {PAIR_EACH(PAIR_ENTRY)};
static void (*const pair_two[PAIR_HALF + 1])(PAIR_ARGUMENTS) = {PAIR_EACH_TWO(PAIR_ENTRY_TWO)};

/* A block of any number of rows. */
static void pair_rows(PAIR_ARGUMENTS, int nb) {
    for (int done = 0, rows; done < g->rows; done += rows) {
        for (rows = g->rows - done; !pair_blocks[nb - 1][rows]; rows--) {}
        pair_blocks[nb - 1][rows](g, from + done * g->lda, sums + 32 * done, c_rows ? c_rows + done : NULL);
    }
}

CK_INLINE void pair_run(const ck_tile_args *g, int mb, int nb) {
    ck_tile_queue *q = g->queue;
    float *sums = q->sums[q->filled ^ 1];
    const ptrdiff_t *c_rows = pair_simple(g, nb) ? g->c_rows : NULL;
    if (mb > 1 && nb > 1 && g->rows <= PAIR_HALF && pair_two[g->rows]) {
        pair_two[g->rows](g, g->a, sums, c_rows);
    } else {
        pair_rows(g, g->a, sums, c_rows, nb);
        if (mb > 1)
            pair_rows(g, g->a + g->a_next, sums + 32 * g->rows, c_rows ? c_rows + g->rows : NULL, nb);
    }
    if (c_rows) return;
    /* Vectors are what multiplies and what finishes: nothing is gained by waiting. */
    tile_wait(g, mb);
    q->finish(g, q, q->rows);
}

static void pair_run_11(const ck_tile_args *g) { pair_run(g, 1, 1); }
static void pair_run_12(const ck_tile_args *g) { pair_run(g, 1, 2); }
static void pair_run_21(const ck_tile_args *g) { pair_run(g, 2, 1); }
static void pair_run_22(const ck_tile_args *g) { pair_run(g, 2, 2); }

/* The measured peak, as fma_rounds of gemm.body.h. */
static double pair_rounds(long steps) {
    enum { CHAINS = 24 };
    __m512 acc[CHAINS];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    _Pragma("GCC unroll 24") for (int j = 0; j < CHAINS; j++) acc[j] = _mm512_setzero_ps();
    for (long i = 0; i < steps; i++)
        _Pragma("GCC unroll 24") for (int j = 0; j < CHAINS; j++) {
            acc[j] = _mm512_dpbf16_ps(acc[j], x, x);
            __asm__ volatile("" : "+v"(acc[j]));
        }
    return 4.0 * CHAINS * 16 * (double)steps;
}

#define PAIR_FORM {{pair_run_11, pair_run_12}, {pair_run_21, pair_run_22}}

/* Layers of ResNet-50 of 4 to 16 MB take 0.76 to 0.99 of the time so on Zen 4, the network 0.95. */
const ck_tile_table ck_table_pairs = {
    .far_bytes = 4 << 20,
    .products_per_step = 32,
    .plain = {.planes = 1,
              .most_rows = PAIR_ROWS,
              .least_rows = PAIR_HALF_LEAST,
              .run = PAIR_FORM,
              .exact = PAIR_FORM,
              .flush = tile_flush,
              .convert = tile_convert_plain,
              .copy = tile_copy,
              .pack = tile_pack_plain},
    .depthwise = dw_half_band,
    .depthwise_block = dw_half_block,
    .depthwise_total = dw_half_total,
    .pool = {.max_forward = bf16_max_pool, .max_backward = bf16_max_back},
    .rounds = pair_rounds,
};
