/* Depthwise convolution on rows of channels-last pixels, vectorised over channels.

   Here are the kernels for any window, in both number types: a tile is one vector of channels
   times a few output columns, each output one chain of multiply-adds in the order of (row,
   tap). The common windows in float32 are in depthwise.forms.h.

   Where the channels are not a multiple of the vector, the last vector is moved back to end
   with the last channel (some channels are then computed twice, alike); fewer channels than
   one vector go through partial loads and stores. */

#include "depthwise.walk.h"

enum { DW_COLUMNS = 4 };

/* The outputs [lo, hi) among `columns` whose windows lie wholly inside the input. */
CK_INLINE void dw_inside(ptrdiff_t first, ptrdiff_t stride, ptrdiff_t reach, ptrdiff_t width,
                         ptrdiff_t columns, ptrdiff_t *lo, ptrdiff_t *hi) {
    ptrdiff_t from = first < 0 ? (-first + stride - 1) / stride : 0;
    ptrdiff_t room = width - 1 - reach - first;
    ptrdiff_t to = room < 0 ? 0 : room / stride + 1;
    *lo = from < columns ? from : columns;
    *hi = to < columns ? to : columns;
    if (*hi < *lo) *hi = *lo;
}

/* The taps [*q0, *q1) of a window starting at column `base` that lie inside the input. */
CK_INLINE void dw_taps_inside(ptrdiff_t base, ptrdiff_t dilation, ptrdiff_t width, ptrdiff_t taps,
                              ptrdiff_t *q0, ptrdiff_t *q1) {
    *q0 = base < 0 ? (-base + dilation - 1) / dilation : 0;
    *q1 = base < width ? (width - base + dilation - 1) / dilation : 0;
    if (*q1 > taps) *q1 = taps;
}

#define DW_TEMPLATE(T, V, S, L)                                                                    \
    CK_INLINE V dw_load_##S(const T *p, int n) {                                                   \
        return n == L ? load_##S(p) : load_part_##S(p, n);                                         \
    }                                                                                              \
    CK_INLINE void dw_store_##S(T *p, V v, int n) {                                                \
        if (n == L)                                                                                \
            store_##S(p, v);                                                                       \
        else                                                                                       \
            store_part_##S(p, v, n);                                                               \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void dw_finish_##S(const ck_depthwise_args *g, ptrdiff_t c, int n, ptrdiff_t t0,     \
                                 int cols, V *acc) {                                               \
        const ptrdiff_t step = g->y_step;                                                          \
        T *y = (T *)g->y + t0 * step + c;                                                          \
        if (g->bias) {                                                                             \
            V bias = dw_load_##S((const T *)g->bias + c, n);                                       \
            DW_UNROLL for (int t = 0; t < cols; t++) acc[t] += bias;                               \
        }                                                                                          \
        if (g->residual) {                                                                         \
            const T *r = (const T *)g->residual + t0 * step + c;                                   \
            DW_UNROLL for (int t = 0; t < cols; t++) acc[t] += dw_load_##S(r + t * step, n);       \
        }                                                                                          \
        if (g->activation != CK_ACT_NONE) {                                                        \
            V out[DW_COLUMNS];                                                                     \
            DW_UNROLL for (int t = 0; t < cols; t++) out[t] = acc[t];                              \
            gemm_activate_##S(g->activation, g->alpha, g->beta, cols, out);                        \
            DW_UNROLL for (int t = 0; t < cols; t++) acc[t] = out[t];                              \
        }                                                                                          \
        DW_UNROLL for (int t = 0; t < cols; t++) dw_store_##S(y + t * step, acc[t], n);            \
    }                                                                                              \
                                                                                                   \
    /* Output columns t0 ... t0 + cols with any kernel; taps [q0, q1) are inside for all. */       \
    CK_INLINE void dw_any_tile_##S(const ck_depthwise_args *g, ptrdiff_t c, int n, ptrdiff_t t0,   \
                                   int cols, ptrdiff_t q0, ptrdiff_t q1) {                         \
        V acc[DW_COLUMNS];                                                                         \
        const ptrdiff_t C = g->channels, step = g->stride * C;                                     \
        DW_UNROLL for (int t = 0; t < cols; t++) acc[t] = (V){0};                                  \
        for (ptrdiff_t r = 0; r < g->rows; r++) {                                                  \
            const T *x = (const T *)g->x + r * g->x_row_step + c;                                  \
            const T *w = (const T *)g->w + r * g->w_row_step + c;                                  \
            for (ptrdiff_t q = q0; q < q1; q++) {                                                  \
                const T *p = x + (g->first + t0 * g->stride + q * g->dilation) * C;                \
                V wv = dw_load_##S(w + q * g->w_step, n);                                          \
                DW_UNROLL for (int t = 0; t < cols; t++)                                           \
                    acc[t] += dw_load_##S(p + t * step, n) * wv;                                   \
            }                                                                                      \
        }                                                                                          \
        dw_finish_##S(g, c, n, t0, cols, acc);                                                     \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void dw_any_vector_##S(const ck_depthwise_args *g, ptrdiff_t c, int n,               \
                                     ptrdiff_t lo, ptrdiff_t hi) {                                 \
        ptrdiff_t t = 0;                                                                           \
        while (t < g->columns) {                                                                   \
            if (t >= lo && t + DW_COLUMNS <= hi) {                                                          \
                dw_any_tile_##S(g, c, n, t, DW_COLUMNS, 0, g->taps);                               \
                t += DW_COLUMNS;                                                                            \
            } else {                                                                               \
                ptrdiff_t q0, q1;                                                                  \
                dw_taps_inside(g->first + t * g->stride, g->dilation, g->width, g->taps, &q0, &q1);\
                dw_any_tile_##S(g, c, n, t, 1, q0, q1);                                            \
                t += 1;                                                                            \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void dw_any_row_##S(const ck_depthwise_args *g) {                                       \
        ptrdiff_t lo, hi;                                                                          \
        dw_inside(g->first, g->stride, (g->taps - 1) * g->dilation, g->width, g->columns, &lo,     \
                  &hi);                                                                            \
        if (g->channels < L) {                                                                     \
            dw_any_vector_##S(g, 0, (int)g->channels, lo, hi);                                     \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t c = g->from; c < g->to; c += L)                                             \
            dw_any_vector_##S(g, DW_VECTOR_START(c, L, g->channels), L, lo, hi);                   \
    }                                                                                              \
                                                                                                   \
    /* sums of one tap over the columns [t0, t1): four chains, joined in pairs. */                 \
    CK_INLINE void dw_tap_sum_##S(const T *x, ptrdiff_t x_step, const T *gy, ptrdiff_t C,          \
                                  ptrdiff_t count, int n, T *sum) {                                \
        V acc[4] = {{0}, {0}, {0}, {0}};                                                           \
        ptrdiff_t t = 0;                                                                           \
        for (; t + 4 <= count; t += 4)                                                             \
            DW_UNROLL for (int k = 0; k < 4; k++)                                                  \
                acc[k] += dw_load_##S(x + (t + k) * x_step, n) * dw_load_##S(gy + (t + k) * C, n); \
        for (; t < count; t++)                                                                     \
            acc[0] += dw_load_##S(x + t * x_step, n) * dw_load_##S(gy + t * C, n);                 \
        store_##S(sum, load_##S(sum) + ((acc[0] + acc[1]) + (acc[2] + acc[3])));                   \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void dw_any_sums_vector_##S(const ck_depthwise_sums_args *g, ptrdiff_t v,            \
                                          ptrdiff_t c, int n) {                                    \
        const ptrdiff_t C = g->channels;                                                           \
        for (ptrdiff_t q = 0; q < g->taps; q++) {                                                  \
            ptrdiff_t base = g->first + q * g->dilation, lo, hi;                                   \
            dw_inside(base, g->stride, 0, g->width, g->columns, &lo, &hi);                         \
            for (ptrdiff_t r = 0; r < g->rows && lo < hi; r++)                                     \
                dw_tap_sum_##S((const T *)g->x + r * g->x_row_step + (base + lo * g->stride) * C + c,\
                               g->stride * C, (const T *)g->gy + lo * C + c, C, hi - lo, n,        \
                               (T *)g->sums + (r * g->taps + q) * g->sums_step + v);               \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void dw_any_sums_##S(const ck_depthwise_sums_args *g) {                                 \
        if (g->channels < L) {                                                                     \
            dw_any_sums_vector_##S(g, 0, 0, (int)g->channels);                                     \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t v = 0; v < g->channels; v += L)                                             \
            dw_any_sums_vector_##S(g, v, DW_VECTOR_START(v, L, g->channels), L);                   \
    }                                                                                              \
                                                                                                   \
    static void dw_total_##S(const void *sums, ptrdiff_t blocks, ptrdiff_t step,                   \
                             ptrdiff_t channels, void *out) {                                      \
        for (ptrdiff_t v = 0; v < channels; v += L) {                                              \
            const T *p = (const T *)sums + v;                                                      \
            V total = {0};                                                                         \
            for (ptrdiff_t b = 0; b < blocks; b++) total += load_##S(p + b * step);                \
            if (channels < L)                                                                      \
                store_part_##S((T *)out, total, (int)channels);                                    \
            else                                                                                   \
                store_##S((T *)out + DW_VECTOR_START(v, L, channels), total);                      \
        }                                                                                          \
    }

DW_TEMPLATE(float, vfloat, f, VL_F)
DW_TEMPLATE(double, vdouble, d, VL_D)

#include "depthwise.forms.h"

static const ck_depthwise_table depthwise_table = {
    .f32 = {.vector_length = VL_F,
            .row = dw_any_row_f,
            .row_sums = dw_any_sums_f,
            .total = dw_total_f},
    .f64 = {.vector_length = VL_D,
            .row = dw_any_row_d,
            .row_sums = dw_any_sums_d,
            .total = dw_total_d},
    .band = dw_band,
    .flat_band = dw_flat_band,
    .block = dw_block,
    .grouped_band = dw_grouped_band,
    .grouped_block = dw_grouped_block,
};
