/* Winograd convolution on tiles: F(2x2, 3x3) with transformed pixels and weights held as two bfloat16.

   The transforms are those of winograd.body.h. A transformed pixel is a row of high halves and then one
   of low halves, as many bytes as its floats would take, so that tiles are loaded from it as it lies.
   What is infinite, NaN or too large for bfloat16 comes out as an infinity or NaN somewhere in the
   output tile, whose peak tells (winograd.pyx). */

#include "bfloat16.h"
#include "winograd.weights.h"

/* 32 channels of a transformed pixel: a line of high halves, and one of low halves. */
CK_INLINE void wino_put_split(uint16_t *to, ptrdiff_t low, vfloat first, vfloat second) {
    const __m512 a = (__m512)first, b = (__m512)second;
    const __m512i high = bf16_pair(a, b);
    _mm512_storeu_si512(to, high);
    _mm512_storeu_si512(to + low, bf16_low_pair(a, b, high));
}

/* One row of positions of 32 channels: rows a and b of the tile together, then its columns. */
#define WINO_ROW(a, OP, b)                                                                         \
    do {                                                                                           \
        vfloat d[2][4], out[2][4];                                                                 \
        WINO_UNROLL for (int j = 0; j < 4; j++)                                                    \
            WINO_UNROLL for (int h = 0; h < 2; h++)                                                \
                d[h][j] = (vfloat)_mm512_maskz_loadu_ps(lanes[h], pixel[a][j] + c + 16 * h)        \
                    OP (vfloat)_mm512_maskz_loadu_ps(lanes[h], pixel[b][j] + c + 16 * h);          \
        WINO_UNROLL for (int h = 0; h < 2; h++) wino_input_4(d[h], out[h]);                        \
        WINO_UNROLL for (int q = 0; q < 4; q++, to += step)                                        \
            wino_put_split(to, low, out[0][q], out[1][q]);                                         \
    } while (0)

/* The rows of B^T are those of wino_input_4. Zeros fill what a tile holds beyond the channels. */
static void wino_input_split(const ck_winograd_input_args *g) {
    const ptrdiff_t step = 2 * g->position_step, low = g->low, channels = g->channels;
    for (ptrdiff_t k = 0; k < g->tiles; k++) {
        const float *pixel[4][4];
        for (int i = 0; i < 4; i++)
            for (ptrdiff_t j = 0, column = 2 * k; j < 4; j++, column++)
                pixel[i][j] = i >= g->row_from && i < g->row_to && column >= g->col_from
                                      && column < g->col_to
                                  ? g->x + (g->offset + i * g->row_step + column * g->pixel_step)
                                  : g->zeros;
        for (ptrdiff_t c = 0; c < channels; c += 32) {
            const uint32_t there = channels - c < 32 ? (1u << (channels - c)) - 1 : 0xffffffffu;
            const __mmask16 lanes[2] = {(__mmask16)there, (__mmask16)(there >> 16)};
            uint16_t *to = (uint16_t *)(g->v + k * g->tile_step) + c;
            WINO_ROW(0, -, 2);
            WINO_ROW(2, +, 1);
            WINO_ROW(2, -, 1);
            WINO_ROW(3, -, 1);
        }
    }
}

WINO_WEIGHTS(f23, 3, 4)

/* A tile of weights: 16 rows of a line, each of two depths of 16 columns. A step of 32 depths has the
   high tiles of both blocks of columns, then their low ones. */
enum { WINO_LINE = 16, WINO_TILE = 16 * WINO_LINE, WINO_STEP = 4 * WINO_TILE, WINO_DEPTH = 32 };

static void wino_weights_split(const ck_winograd_weights_args *g) {
    float even[16 * VL_F], odd[16 * VL_F];
    vint32 peak = *(const vint32_u *)g->peak;
    for (ptrdiff_t first = 0; first < g->columns; first += VL_F)
        for (ptrdiff_t k = 0; k < g->depth; k += 2) {
            float *u = g->u + k / WINO_DEPTH * WINO_STEP + k % WINO_DEPTH / 2 * WINO_LINE
                       + first / VL_F * WINO_TILE;
            peak = wino_weights_vector_f23(g, first, k, even, VL_F, peak);
            if (k + 1 < g->depth)
                peak = wino_weights_vector_f23(g, first, k + 1, odd, VL_F, peak);
            else
                memset(odd, 0, sizeof odd);
            for (int p = 0; p < 16; p++, u += g->position_step) {
                const __m512 a = _mm512_loadu_ps(even + p * VL_F), b = _mm512_loadu_ps(odd + p * VL_F);
                const __m512i high = bf16_pair(a, b);
                _mm512_storeu_si512(u, bf16_interleave(high));
                _mm512_storeu_si512(u + 2 * WINO_TILE, bf16_interleave(bf16_low_pair(a, b, high)));
            }
        }
    *(vint32_u *)g->peak = peak;
}

/* The products of one position: 16 or 32 rows (tiles of the image) with 16 or 32 columns, in the order
   of tile.body.h's split form. */
CK_INLINE void wino_position(const char *a, ptrdiff_t lda, ptrdiff_t low, const char *b, ptrdiff_t steps,
                             float *m, ptrdiff_t ldm, int mb, int nb) {
    const ptrdiff_t size = 1024, next = 16 * lda;
    TILE_EACH_ACCUMULATOR(TILE_CLEAR);
    for (; steps > 0; steps--, a += 64, b += 4 * size) {
        amx_load(4, a + low, lda);
        if (mb > 1) amx_load(5, a + next + low, lda);
        TILE_LOAD_B(b);
        TILE_MULTIPLY(amx_bf16);
        amx_load(4, a, lda);
        if (mb > 1) amx_load(5, a + next, lda);
        TILE_MULTIPLY(amx_bf16);
        TILE_LOAD_B(b + 2 * size);
        TILE_MULTIPLY(amx_bf16);
    }
#define WINO_STORE(tile, i, j) amx_store(tile, m + 16 * (i) * ldm + 16 * (j), 4 * ldm)
    TILE_EACH_ACCUMULATOR(WINO_STORE);
#undef WINO_STORE
}

/* Multiplies some positions of some tiles; rows of tiles up to a multiple of 16 are read and written. */
static void wino_products_split(const ck_winograd_tiles_args *g) {
    const ptrdiff_t lda = 4 * g->v_tile, low = 2 * g->low;
    tile_configure(CK_TILE_ROWS, CK_TILE_DEPTH);
    for (ptrdiff_t p = 0; p < g->positions; p++) {
        const char *b = (const char *)(g->u + p * g->u_position);
        for (ptrdiff_t t = 0; t < g->tiles; t += 32) {
            const char *a = (const char *)(g->v + p * g->v_position + t * g->v_tile);
            float *m = g->m + p * g->m_position + t * g->m_tile;
            if (g->tiles - t > 16 && g->columns > 16)
                wino_position(a, lda, low, b, g->steps, m, g->m_tile, 2, 2);
            else if (g->columns > 16)
                wino_position(a, lda, low, b, g->steps, m, g->m_tile, 1, 2);
            else if (g->tiles - t > 16)
                wino_position(a, lda, low, b, g->steps, m, g->m_tile, 2, 1);
            else
                wino_position(a, lda, low, b, g->steps, m, g->m_tile, 1, 1);
        }
    }
    amx_release();
}

/* One pixel of 16 channels: what is added, the activation, and its store. */
CK_INLINE vint32 wino_pixel(const ck_winograd_output_args *g, vfloat v, ptrdiff_t at, ptrdiff_t c,
                            int left, vint32 peak) {
    peak = wino_raise(peak, left >= VL_F ? v : keep_first_f(v, left));
    if (g->bias) v += load_part_f(g->bias + c, left);
    if (g->residual) v += load_part_f(g->residual + at, left);
    if (g->activation) v = activate_f(g->activation, set_f(g->alpha), set_f(g->beta), v);
    store_part_f(g->y + at, v, left);
    return peak;
}

/* wino_output_tile_f23 for products that lie position by position, and activations that are no
   functions. */
static void wino_output_tiles(const ck_winograd_output_args *given) {
    const ck_winograd_output_args args = *given, *g = &args; /* stores cannot change a copy */
    const ptrdiff_t step = g->position_step;
    vint32 peak = *(const vint32_u *)g->peak;
    for (ptrdiff_t first = 0; first < g->cols; first += 2)
        for (ptrdiff_t c = 0; c < g->channels; c += 16) {
            const int left = g->channels - c < 16 ? (int)(g->channels - c) : 16;
            const float *m = g->m + first / 2 * g->tile_step + c;
            const ptrdiff_t at = c + first * g->pixel_step;
            vfloat t[2][4], y[2][2];
            WINO_UNROLL for (int i = 0; i < 4; i++, m += 4 * step) {
                const vfloat row[4] = {load_f(m), load_f(m + step), load_f(m + 2 * step),
                                       load_f(m + 3 * step)};
                vfloat out[2];
                wino_output_f23(row, out);
                t[0][i] = out[0], t[1][i] = out[1];
            }
            wino_output_f23(t[0], y[0]);
            wino_output_f23(t[1], y[1]);
            WINO_UNROLL for (int j = 0; j < 2; j++)
                WINO_UNROLL for (int i = 0; i < 2; i++)
                    if (i < g->rows && first + j < g->cols)
                        peak = wino_pixel(g, y[j][i], at + i * g->row_step + j * g->pixel_step, c,
                                          left, peak);
        }
    *(vint32_u *)g->peak = peak;
}

const ck_winograd_kernels ck_table_amx_winograd = {
    .tile = 2,
    .taps = 3,
    .rows = 2 * CK_TILE_ROWS,
    .depths = WINO_DEPTH,
    .depth_floats = 2 * WINO_LINE,
    .input = wino_input_split,
    .output = wino_output_tiles,
    .weights = wino_weights_split,
    .products = wino_products_split,
};
