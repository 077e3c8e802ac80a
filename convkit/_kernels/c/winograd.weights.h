/* Transforming Winograd's weights, for every way in which transformed weights are held. */
#ifndef CK_WINOGRAD_WEIGHTS_H
#define CK_WINOGRAD_WEIGHTS_H

#include "winograd.axis.h"

/* Weights are fetched so many floats ahead: those of a column lie pages from those of the next. */
enum { WINO_AHEAD = 96 };

/* A vector of columns for each tap of one depth, zeros for columns that are not there. */
CK_INLINE void wino_taps_of(const float *from, ptrdiff_t column_step, ptrdiff_t there, int count,
                            int turned, vfloat *w) {
    if (VL_F >= count) {
        vfloat v[VL_F];
        for (ptrdiff_t o = 0; o < VL_F; o++, from += column_step) {
            v[o] = o < there ? load_part_f(from, count) : (vfloat){0};
            if (o < there) __builtin_prefetch(from + WINO_AHEAD, 0, 3);
        }
        transpose_f(v);
        WINO_UNROLL_TAPS for (int q = 0; q < count; q++) w[q] = turned ? v[count - 1 - q] : v[q];
        return;
    }
    float lanes[25][VL_F];
    if (there < VL_F) memset(lanes, 0, sizeof lanes);
    for (ptrdiff_t o = 0; o < there; o++, from += column_step)
        WINO_UNROLL_TAPS for (int q = 0; q < count; q++)
            lanes[q][o] = from[turned ? count - 1 - q : q];
    WINO_UNROLL_TAPS for (int q = 0; q < count; q++) w[q] = load_f(lanes[q]);
}

/* One depth of up to VL_F columns from `first` on, transformed: n x n vectors, `step` floats apart. */
#define WINO_WEIGHTS(form, taps, n)                                                                \
    CK_INLINE vint32 wino_weights_vector_##form(const ck_winograd_weights_args *g,                 \
                                                ptrdiff_t first, ptrdiff_t k, float *u,            \
                                                ptrdiff_t step, vint32 peak) {                     \
        enum { COUNT = (taps) * (taps) };                                                          \
        const ptrdiff_t there = g->columns - first < VL_F ? g->columns - first : VL_F;             \
        vfloat w[COUNT], t[n][taps];                                                               \
        wino_taps_of(g->w + first * g->column_step + k * g->depth_step, g->column_step, there,     \
                     COUNT, g->turned, w);                                                         \
        WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) peak = wino_raise(peak, w[q]);            \
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
        return peak;                                                                               \
    }

#endif
