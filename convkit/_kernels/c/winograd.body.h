/* Winograd convolution on vectors: products of few tiles, and whole tiles and weights transformed, for
   F(2x2, 3x3), F(4x4, 3x3), F(2x2, 5x5), F(4x4, 5x5), and F(2x2, 3x3) with stride 2 and the gradient of its input. */

#include "winograd.gather.h"
#include "winograd.weights.h"

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

/* Products of n x n positions back to tile x tile pixels. */
#define WINO_OUTPUT(form, tile, n)                                                                 \
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
    }

/* Weights of a block of columns to n x n positions. */
#define WINO_BLOCK(form, taps, n)                                                                  \
    WINO_WEIGHTS(form, taps, n)                                                                    \
                                                                                                   \
    static void wino_weights_block_##form(const ck_winograd_weights_args *g) {                     \
        vint32 peak = *(const vint32_u *)g->peak;                                                  \
        for (ptrdiff_t first = 0; first < g->row; first += VL_F)                                   \
            for (ptrdiff_t k = 0; k < g->depth; k++)                                               \
                peak = wino_weights_vector_##form(g, first, k, g->u + k * g->row + first,          \
                                                  g->position_step, peak);                         \
        *(vint32_u *)g->peak = peak;                                                               \
    }

/* Sums of n x n positions back to taps x taps weights. */
#define WINO_TAPS(form, taps, n)                                                                   \
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

/* The kernels of F(tile x tile, taps x taps) with n x n positions. */
#define WINO_FORM(form, tile, taps, n)                                                             \
    WINO_GATHER(wino_input_tile_##form, n, tile, n, wino_input_##n, WINO_NO_PEAK)                  \
    WINO_GATHER(wino_gradient_tile_##form, tile, tile, n, wino_gradient_##form, WINO_PEAK)         \
    WINO_OUTPUT(form, tile, n)                                                                     \
    WINO_BLOCK(form, taps, n)                                                                      \
    WINO_TAPS(form, taps, n)

WINO_FORM(f23, 2, 3, 4)
WINO_FORM(f43, 4, 3, 6)
WINO_FORM(f25, 2, 5, 6)
WINO_FORM(f45, 4, 5, 8)
/* With stride 2: tiles 4 pixels apart make 2 x 2, and tiles of their gradient, 2 apart, 4 x 4. */
WINO_GATHER(wino_input_tile_s2, 5, 4, 5, wino_input_s2, WINO_NO_PEAK)
WINO_OUTPUT(s2, 2, 5)
WINO_BLOCK(s2, 3, 4)
WINO_GATHER(wino_input_tile_t2, 3, 2, 5, wino_input_t2, WINO_NO_PEAK)
WINO_OUTPUT(t2, 4, 5)

#define WINO_ENTRY(form, pixels, count, n)  \
    {.tile = pixels,                        \
     .taps = count,                         \
     .step = pixels,                        \
     .size = n,                             \
     .side = n,                             \
     .weight_side = n,                      \
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
    .forms = {WINO_ENTRY(f23, 2, 3, 4),
              WINO_ENTRY(f43, 4, 3, 6),
              WINO_ENTRY(f25, 2, 5, 6),
              WINO_ENTRY(f45, 4, 5, 8),
              {.tile = 2,
               .taps = 3,
               .step = 4,
               .size = 5,
               .side = 5,
               .weight_side = 4,
               .input = wino_input_tile_s2,
               .output = wino_output_tile_s2,
               .weights = wino_weights_block_s2},
              {.tile = 4,
               .taps = 3,
               .step = 2,
               .size = 3,
               .side = 5,
               .weight_side = 4,
               .input = wino_input_tile_t2,
               .output = wino_output_tile_t2,
               .weights = wino_weights_block_s2}},
};
