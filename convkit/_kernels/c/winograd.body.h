/* Winograd's minimal filtering, F(2x2, 3x3), F(4x4, 3x3) and F(2x2, 5x5), vectorised over channels.

   y = A^T [(G w G^T) * (B^T x B)] A for tiles of n x n inputs, n = tile + taps - 1 (Winograd,
   "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
   Convolutional Neural Networks", 2016). Row p of B^T holds the coefficients of the product
   of (t - q) over all points q but p, row p of G the powers of p divided by the product of
   (p - q), column p of A^T the powers of p (Toom and Cook; Barabasz et al., "Error Analysis
   and Improving the Accuracy of Winograd Convolution for DNNs", 2018).

   The points are 0, 1, -1, infinity where n is 4, and 0, a, -a, b, -b, infinity with a = 5/8 and
   b = 3/2 where it is 6: every coefficient of B^T is exact in float32, and rounding errors are a
   quarter of those of the points 1 and 2. Rows of a pair +-p share their even and odd halves.
   B^T depends on the points alone, so F(4x4, 3x3) and F(2x2, 5x5) share it.

   The gradient of the weight is F(taps x taps, tile x tile) with the same points: a tile of the
   output's gradient plays the kernel's part, and the tiles' products are summed before they are
   transformed back. There the division by (p - q) is left to the last step.

   One sum has one order of operations wherever a tile lies: how tiles are cut into tasks
   changes no bit. */

#define WINO_A 0.625f
#define WINO_B 1.5f
#define WINO_A2 (WINO_A * WINO_A)
#define WINO_B2 (WINO_B * WINO_B)
/* One over the products of (p - q) for p = 0, +-a and +-b. */
#define WINO_AT_0 (1 / (WINO_A2 * WINO_B2))
#define WINO_AT_A (0.5f / (WINO_A2 * (WINO_A2 - WINO_B2)))
#define WINO_AT_B (0.5f / (WINO_B2 * (WINO_B2 - WINO_A2)))
#define WINO_UNROLL _Pragma("GCC unroll 6")
#define WINO_UNROLL_ROWS _Pragma("GCC unroll 8")
#define WINO_UNROLL_TAPS _Pragma("GCC unroll 25")

/* -- one axis ----------------------------------------------------------------------------- */

CK_INLINE void wino_input_4(const vfloat *d, vfloat *v) {
    v[0] = d[0] - d[2];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
}

/* Values at +-a and +-b, by their halves of even and of odd powers. */
CK_INLINE void wino_pairs(vfloat even_a, vfloat odd_a, vfloat even_b, vfloat odd_b, vfloat *v) {
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
}

CK_INLINE void wino_input_6(const vfloat *d, vfloat *v) {
    vfloat odd_a = d[3] - WINO_B2 * d[1], odd_b = d[3] - WINO_A2 * d[1];
    wino_pairs(d[4] - WINO_B2 * d[2], WINO_A * odd_a, d[4] - WINO_A2 * d[2], WINO_B * odd_b, v);
    v[0] = WINO_A2 * WINO_B2 * d[0] + (d[4] - (WINO_A2 + WINO_B2) * d[2]);
    v[5] = WINO_A2 * WINO_B2 * d[1] + (d[5] - (WINO_A2 + WINO_B2) * d[3]);
}

CK_INLINE void wino_output_f23(const vfloat *m, vfloat *y) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
}

/* The columns of a pair +-p of A^T are divided by p, and the rows of G multiplied by it, so
   that y[1] needs no products. */
CK_INLINE void wino_output_f43(const vfloat *m, vfloat *y) {
    vfloat sum_a = m[1] + m[2], sum_b = m[3] + m[4];
    vfloat difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    y[0] = (m[0] + (1 / WINO_A) * sum_a) + (1 / WINO_B) * sum_b;
    y[1] = difference_a + difference_b;
    y[2] = WINO_A * sum_a + WINO_B * sum_b;
    y[3] = (m[5] + WINO_A2 * difference_a) + WINO_B2 * difference_b;
}

CK_INLINE void wino_output_f25(const vfloat *m, vfloat *y) {
    vfloat difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    y[0] = (m[0] + (m[1] + m[2])) + (m[3] + m[4]);
    y[1] = (m[5] + WINO_A * difference_a) + WINO_B * difference_b;
}

CK_INLINE void wino_weights_f23(const vfloat *g, vfloat *u) {
    vfloat even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
}

CK_INLINE void wino_weights_f43(const vfloat *g, vfloat *u) {
    const float at_a = WINO_A * WINO_AT_A, at_b = WINO_B * WINO_AT_B;
    wino_pairs(at_a * (g[0] + WINO_A2 * g[2]), at_a * WINO_A * g[1],
               at_b * (g[0] + WINO_B2 * g[2]), at_b * WINO_B * g[1], u);
    u[0] = WINO_AT_0 * g[0];
    u[5] = g[2];
}

CK_INLINE void wino_weights_f25(const vfloat *g, vfloat *u) {
    wino_pairs(WINO_AT_A * (g[0] + WINO_A2 * (g[2] + WINO_A2 * g[4])),
               WINO_AT_A * WINO_A * (g[1] + WINO_A2 * g[3]),
               WINO_AT_B * (g[0] + WINO_B2 * (g[2] + WINO_B2 * g[4])),
               WINO_AT_B * WINO_B * (g[1] + WINO_B2 * g[3]), u);
    u[0] = WINO_AT_0 * g[0];
    u[5] = g[4];
}

CK_INLINE void wino_gradient_f23(const vfloat *g, vfloat *d) {
    d[0] = g[0];
    d[1] = g[0] + g[1];
    d[2] = g[0] - g[1];
    d[3] = g[1];
}

CK_INLINE void wino_gradient_f43(const vfloat *g, vfloat *d) {
    wino_pairs(g[0] + WINO_A2 * g[2], WINO_A * (g[1] + WINO_A2 * g[3]),
               g[0] + WINO_B2 * g[2], WINO_B * (g[1] + WINO_B2 * g[3]), d);
    d[0] = g[0];
    d[5] = g[3];
}

CK_INLINE void wino_gradient_f25(const vfloat *g, vfloat *d) {
    wino_pairs(g[0], WINO_A * g[1], g[0], WINO_B * g[1], d);
    d[0] = g[0];
    d[5] = g[1];
}

CK_INLINE void wino_taps_f23(const vfloat *s, vfloat *w) {
    vfloat sum = 0.5f * (s[1] + s[2]);
    w[0] = s[0] + sum;
    w[1] = 0.5f * (s[1] - s[2]);
    w[2] = s[3] + sum;
}

CK_INLINE void wino_taps_f43(const vfloat *s, vfloat *w) {
    vfloat sum_a = WINO_AT_A * (s[1] + s[2]), difference_a = WINO_AT_A * (s[1] - s[2]);
    vfloat sum_b = WINO_AT_B * (s[3] + s[4]), difference_b = WINO_AT_B * (s[3] - s[4]);
    w[0] = WINO_AT_0 * s[0] + (sum_a + sum_b);
    w[1] = WINO_A * difference_a + WINO_B * difference_b;
    w[2] = s[5] + (WINO_A2 * sum_a + WINO_B2 * sum_b);
}

CK_INLINE void wino_taps_f25(const vfloat *s, vfloat *w) {
    vfloat sum_a = WINO_AT_A * (s[1] + s[2]), sum_b = WINO_AT_B * (s[3] + s[4]);
    vfloat difference_a = WINO_AT_A * WINO_A * (s[1] - s[2]);
    vfloat difference_b = WINO_AT_B * WINO_B * (s[3] - s[4]);
    w[0] = WINO_AT_0 * s[0] + (sum_a + sum_b);
    w[1] = difference_a + difference_b;
    w[2] = WINO_A2 * sum_a + WINO_B2 * sum_b;
    w[3] = WINO_A2 * difference_a + WINO_B2 * difference_b;
    w[4] = s[5] + (WINO_A2 * WINO_A2 * sum_a + WINO_B2 * WINO_B2 * sum_b);
}

/* Raises the lanes of `peak` to the bits of |v|: infinities and NaN exceed all numbers. */
CK_INLINE vint32 wino_raise(vint32 peak, vfloat v) {
    vint32 bits = (vint32)v & 0x7fffffff;
#if CK_VBYTES == 64
    return (vint32)_mm512_max_epi32((__m512i)peak, (__m512i)bits);
#elif CK_VBYTES == 32
    return (vint32)_mm256_max_epi32((__m256i)peak, (__m256i)bits);
#else
    vint32 above = bits > peak;
    return (above & bits) | (~above & peak);
#endif
}

/* -- products ----------------------------------------------------------------------------- */

/* The register tiles of gemm.body.h take a call for each position, which costs as much as half of
   a sum over 16 channels; and each step of theirs fetches two lines, which is one load in nine. The
   addresses fetched may lie beyond the arrays, where fetching does nothing. */
#define WINO_MULTIPLY(count)                                                                       \
    static void wino_multiply_##count(const ck_winograd_product_args *given) {                     \
        const ck_winograd_product_args g = *given;                                                 \
        const float *v = g.v, *u = g.u;                                                            \
        const char *fetch[2] = {g.fetch[0], g.fetch[1]};                                           \
        float *m = g.m;                                                                            \
        for (ptrdiff_t p = g.positions; p > 0; p--) {                                              \
            vfloat sum[count];                                                                     \
            const float *a[count], *b = u;                                                         \
            WINO_UNROLL_ROWS for (int t = 0; t < (count); t++) {                                   \
                sum[t] = (vfloat){0};                                                              \
                a[t] = v + t * g.v_tile;                                                           \
                __asm__("" : "+r"(a[t]));                                                          \
            }                                                                                      \
            for (ptrdiff_t k = 0; k < g.depth; k++, b += VL_F) {                                   \
                const vfloat w = load_f(b);                                                        \
                WINO_UNROLL_ROWS for (int t = 0; t < (count); t++) sum[t] += set_f(a[t][k]) * w;   \
            }                                                                                      \
            WINO_UNROLL_ROWS for (int t = 0; t < (count); t++) store_f(m + t * g.m_tile, sum[t]);  \
            for (int q = 0; q < 2; q++)                                                            \
                for (ptrdiff_t line = g.lines[q]; line > 0; line--, fetch[q] += GEMM_LINE)         \
                    __builtin_prefetch(fetch[q], 0, 2);                                            \
            v += g.v_position;                                                                     \
            u += g.u_position;                                                                     \
            m += g.m_position;                                                                     \
        }                                                                                          \
    }
#define WINO_COUNTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
WINO_COUNTS(WINO_MULTIPLY)

/* For the gradient of the weight of so many channels: a line of both factors is read in a step, and
   fetched once, where tiles of fewer rows do so for each of theirs. */
#define WINO_TALL (CK_VECTOR_REGISTERS >= 32 ? 16 : 8)
#define WINO_UNROLL_TALL _Pragma("GCC unroll 16")
static void wino_tall(const ck_gemm_args *given) {
    const ck_gemm_args g = *given;
    const float *a = (const float *)g.a + g.a_offsets[0], *b = g.b;
    float *c = g.c;
    vfloat sum[WINO_TALL];
    WINO_UNROLL_TALL for (int m = 0; m < WINO_TALL; m++)
        sum[m] = g.accumulate ? load_f(c + m * g.ldc) : (vfloat){0};
    for (ptrdiff_t k = g.k; k > 0; k--, a += g.lda, b += g.ldb) {
        const vfloat w = load_f(b);
        __builtin_prefetch(a + GEMM_NEAR_ROWS * g.lda, 0, 3);
        __builtin_prefetch(b + GEMM_NEAR_ROWS * g.ldb, 0, 3);
        WINO_UNROLL_TALL for (int m = 0; m < WINO_TALL; m++) sum[m] += set_f(a[m]) * w;
    }
    WINO_UNROLL_TALL for (int m = 0; m < WINO_TALL; m++) store_f(c + m * g.ldc, sum[m]);
}

/* -- whole tiles -------------------------------------------------------------------------- */

/* A kernel that gathers tiles of m x m pixels, `tile` apart, and transforms them to n x n positions.
   Columns that two tiles share are transformed once. */
#define WINO_GATHER(name, m, tile, n, transform, PEAK)                                             \
    static void name(const ck_winograd_input_args *given) {                                        \
        const ck_winograd_input_args args = *given, *g = &args; /* stores cannot change a copy */  \
        enum { MOST = (CK_WINOGRAD_STRIP - 1) * (tile) + (m) };                                    \
        const ptrdiff_t cols = (g->tiles - 1) * (tile) + (m);                                      \
        const ptrdiff_t from = g->col_from < 0 ? 0 : g->col_from < cols ? g->col_from : cols;      \
        const ptrdiff_t to = g->col_to > cols ? cols : g->col_to > from ? g->col_to : from;        \
        const float *first[m];                                                                     \
        ptrdiff_t step[m];                                                                         \
        for (int i = 0; i < (m); i++) {                                                            \
            const int inside = i >= g->row_from && i < g->row_to && from < to;                     \
            step[i] = inside ? g->pixel_step : 0;                                                  \
            first[i] = inside ? g->x + (g->offset + i * g->row_step + from * g->pixel_step)        \
                              : g->zeros;                                                          \
        }                                                                                          \
        for (ptrdiff_t c = 0; c < g->channels; c += VL_F) {                                        \
            vfloat t[MOST][n];                                                                     \
            const ptrdiff_t left = g->channels - c;                                                \
            const float *p[m];                                                                     \
            ptrdiff_t j = 0;                                                                       \
            WINO_UNROLL for (int i = 0; i < (m); i++) {                                            \
                p[i] = first[i] + c;                                                               \
                __asm__("" : "+r"(p[i])); /* keeps pointers out of vectors */                      \
            }                                                                                      \
            for (ptrdiff_t k = 0; k < g->tiles; k++) {                                             \
                float *v = g->v + k * g->tile_step + c;                                            \
                for (const ptrdiff_t end = k * (tile) + (m); j < end; j++) {                       \
                    vfloat d[m];                                                                   \
                    if (j < from || j >= to) {                                                     \
                        WINO_UNROLL for (int i = 0; i < (n); i++) t[j][i] = (vfloat){0};           \
                        continue;                                                                  \
                    }                                                                              \
                    if (left >= VL_F)                                                              \
                        WINO_UNROLL for (int i = 0; i < (m); i++) d[i] = load_f(p[i]);             \
                    else                                                                           \
                        WINO_UNROLL for (int i = 0; i < (m); i++)                                  \
                            d[i] = load_part_f(p[i], (int)left);                                   \
                    WINO_UNROLL for (int i = 0; i < (m); i++) {                                    \
                        p[i] += step[i];                                                           \
                        __asm__("" : "+r"(p[i]));                                                  \
                    }                                                                              \
                    PEAK(d, m)                                                                     \
                    transform(d, t[j]);                                                            \
                }                                                                                  \
                for (int i = 0; i < (n); i++) {                                                    \
                    vfloat d[m], out[n];                                                           \
                    WINO_UNROLL for (int q = 0; q < (m); q++) d[q] = t[k * (tile) + q][i];         \
                    transform(d, out);                                                             \
                    WINO_UNROLL for (int q = 0; q < (n); q++)                                      \
                        store_f(v + q * g->position_step, out[q]);                                 \
                    v += (n) * g->position_step;                                                   \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

#define WINO_NO_PEAK(d, m)
#define WINO_PEAK(d, m)                                                    \
    vint32 peak = *(const vint32_u *)g->peak;                              \
    WINO_UNROLL for (int i = 0; i < (m); i++) peak = wino_raise(peak, d[i]); \
    *(vint32_u *)g->peak = peak;

/* One column of an output tile: epilogue and stores of `rows` pixels. */
CK_INLINE vint32 wino_finish(const ck_winograd_output_args *g, int tile, const vfloat *y,
                             ptrdiff_t offset, ptrdiff_t c, vint32 peak) {
    const ptrdiff_t left = g->channels - c;
    const int function = g->activation >= CK_ACT_UNARY;
    vfloat values[4] = {0};
    WINO_UNROLL for (int i = 0; i < tile; i++) {
        if (i >= g->rows) break;
        vfloat v = y[i];
        const ptrdiff_t at = offset + i * g->row_step;
        peak = wino_raise(peak, left >= VL_F ? v : keep_first_f(v, (int)left));
        if (g->bias) v += load_some_f(g->bias + c, left);
        if (g->residual) v += load_some_f(g->residual + at, left);
        if (g->activation != CK_ACT_NONE)
            v = activate_f(g->activation, set_f(g->alpha), set_f(g->beta), v);
        if (function)
            values[i] = v;
        else
            store_some_f(g->y + at, v, left);
    }
    if (function) {
        gemm_activate_f(g->activation, g->alpha, g->beta, tile, values);
        for (int i = 0; i < g->rows && i < tile; i++)
            store_some_f(g->y + offset + i * g->row_step, values[i], left);
    }
    return peak;
}

/* The same where there is nothing to add and the vector is whole. */
CK_INLINE vint32 wino_store(const ck_winograd_output_args *g, int tile, const vfloat *y,
                            float *to, vint32 peak) {
    WINO_UNROLL for (int i = 0; i < tile; i++) {
        if (i >= g->rows) break;
        peak = wino_raise(peak, y[i]);
        store_f(to, y[i]);
        to += g->row_step;
    }
    return peak;
}

/* The kernels of F(tile x tile, taps x taps). */
#define WINO_FORM(form, tile, taps, n)                                                             \
    WINO_GATHER(wino_input_tile_##form, n, tile, n, wino_input_##n, WINO_NO_PEAK)                  \
    WINO_GATHER(wino_gradient_tile_##form, tile, tile, n, wino_gradient_##form, WINO_PEAK)               \
                                                                                                   \
    static void wino_output_tile_##form(const ck_winograd_output_args *given) {                    \
        /* A copy, for stores to the output cannot change it. */                                   \
        const ck_winograd_output_args args = *given, *g = &args;                                   \
        const int plain = !g->bias && !g->residual && g->activation == CK_ACT_NONE;                \
        vint32 peak = *(const vint32_u *)g->peak;                                                  \
        for (ptrdiff_t c = 0; c < g->channels; c += VL_F) {                                        \
            for (ptrdiff_t first = 0; first < g->cols; first += (tile)) {                          \
                vfloat t[tile][n];                                                                 \
                const float *m = g->m + first / (tile) * g->tile_step + c;                         \
                const ptrdiff_t cols = g->cols - first;                                            \
                for (int i = 0; i < (n); i++) {                                                    \
                    vfloat row[n], out[tile];                                                      \
                    WINO_UNROLL for (int j = 0; j < (n); j++)                                      \
                        row[j] = load_f(m + j * g->position_step);                                 \
                    wino_output_##form(row, out);                                                  \
                    WINO_UNROLL for (int j = 0; j < (tile); j++) t[j][i] = out[j];                 \
                    m += (n) * g->position_step;                                                   \
                }                                                                                  \
                for (int j = 0; j < (tile) && j < cols; j++) {                                     \
                    vfloat out[tile];                                                              \
                    wino_output_##form(t[j], out);                                                 \
                    const ptrdiff_t at = c + (first + j) * g->pixel_step;                          \
                    if (plain && g->channels - c >= VL_F)                                          \
                        peak = wino_store(g, tile, out, g->y + at, peak);                          \
                    else                                                                           \
                        peak = wino_finish(g, tile, out, at, c, peak);                             \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        *(vint32_u *)g->peak = peak;                                                               \
    }  \
                                                                                                   \
    /* One vector of columns at one depth. */                                                      \
    CK_INLINE void wino_weights_vector_##form(const vfloat *w, float *u, ptrdiff_t step) {         \
        vfloat t[n][taps];                                                                         \
        WINO_UNROLL for (int j = 0; j < (taps); j++) {                                             \
            vfloat d[taps], out[n];                                                                \
            WINO_UNROLL for (int i = 0; i < (taps); i++) d[i] = w[i * (taps) + j];                 \
            wino_weights_##form(d, out);                                                           \
            WINO_UNROLL for (int i = 0; i < (n); i++) t[i][j] = out[i];                            \
        }                                                                                          \
        for (int i = 0; i < (n); i++) {                                                            \
            vfloat out[n];                                                                         \
            wino_weights_##form(t[i], out);                                                        \
            WINO_UNROLL for (int j = 0; j < (n); j++) store_f(u + j * step, out[j]);               \
            u += (n) * step;                                                                       \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void wino_weights_block_##form(const ck_winograd_weights_args *g) {                     \
        enum { COUNT = (taps) * (taps) };                                                          \
        vint32 peak = *(const vint32_u *)g->peak;                                                  \
        for (ptrdiff_t first = 0; first < g->row; first += VL_F) {                                 \
            const ptrdiff_t there = g->columns - first < VL_F ? g->columns - first : VL_F;         \
            for (ptrdiff_t k = 0; k < g->depth; k++) {                                             \
                float lanes[COUNT][VL_F];                                                          \
                vfloat w[COUNT];                                                                   \
                if (there < VL_F) memset(lanes, 0, sizeof lanes);                                  \
                for (ptrdiff_t o = 0; o < there; o++) {                                            \
                    const float *from = g->w + (first + o) * g->column_step + k * g->depth_step;   \
                    if (g->turned)                                                                 \
                        WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++)                           \
                            lanes[q][o] = from[COUNT - 1 - q];                                     \
                    else                                                                           \
                        WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) lanes[q][o] = from[q];    \
                }                                                                                  \
                WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) {                                 \
                    w[q] = load_f(lanes[q]);                                                       \
                    peak = wino_raise(peak, w[q]);                                                 \
                }                                                                                  \
                wino_weights_vector_##form(w, g->u + k * g->row + first, g->position_step);        \
            }                                                                                      \
        }                                                                                          \
        *(vint32_u *)g->peak = peak;                                                               \
    }                                                                                              \
                                                                                                   \
    static void wino_taps_block_##form(const ck_winograd_taps_args *g) {                           \
        enum { COUNT = (taps) * (taps) };                                                          \
        vint32 peak = *(const vint32_u *)g->peak;                                                  \
        for (ptrdiff_t k = 0; k < g->depth; k++) {                                                 \
            const float *s = g->sums + k * g->row;                                                 \
            vfloat t[taps][n];                                                                     \
            float lanes[COUNT][VL_F];                                                              \
            for (int i = 0; i < (n); i++) {                                                        \
                vfloat d[n], out[taps];                                                            \
                WINO_UNROLL for (int j = 0; j < (n); j++) d[j] = load_f(s + j * g->position_step); \
                wino_taps_##form(d, out);                                                          \
                WINO_UNROLL for (int j = 0; j < (taps); j++) t[j][i] = out[j];                     \
                s += (n) * g->position_step;                                                       \
            }                                                                                      \
            for (int j = 0; j < (taps); j++) {                                                     \
                vfloat out[taps];                                                                  \
                wino_taps_##form(t[j], out);                                                       \
                WINO_UNROLL for (int i = 0; i < (taps); i++) {                                     \
                    peak = wino_raise(peak, out[i]);                                               \
                    store_f(lanes[(taps) * i + j], out[i]);                                        \
                }                                                                                  \
            }                                                                                      \
            float *w = g->w + k * g->depth_step;                                                   \
            for (ptrdiff_t o = 0; o < g->columns; o++, w += g->column_step)                        \
                WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) w[q] = lanes[q][o];               \
        }                                                                                          \
        *(vint32_u *)g->peak = peak;                                                               \
    }

WINO_FORM(f23, 2, 3, 4)
WINO_FORM(f43, 4, 3, 6)
WINO_FORM(f25, 2, 5, 6)

#define WINO_ENTRY(form, size, count, n)    \
    {.tile = size,                          \
     .taps = count,                         \
     .input = wino_input_tile_##form,       \
     .output = wino_output_tile_##form,     \
     .weights = wino_weights_block_##form,  \
     .gradient = wino_gradient_tile_##form, \
     .to_taps = wino_taps_block_##form}

#define WINO_MULTIPLY_ENTRY(count) [count] = wino_multiply_##count,
static const ck_winograd_table winograd_table = {
    .vector_length = VL_F,
    .tall_rows = WINO_TALL,
    .tall = wino_tall,
    .multiply = {WINO_COUNTS(WINO_MULTIPLY_ENTRY)},
    .forms = {WINO_ENTRY(f23, 2, 3, 4), WINO_ENTRY(f43, 4, 3, 6), WINO_ENTRY(f25, 2, 5, 6)},
};
