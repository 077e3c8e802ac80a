/* Transforming Winograd's weights, for every way in which transformed weights are held. */
#ifndef CK_WINOGRAD_WEIGHTS_H
#define CK_WINOGRAD_WEIGHTS_H

#include "winograd.axis.h"

/* One depth of up to VL_F columns from `first` on, transformed: n x n vectors, `step` floats apart. */
#define WINO_WEIGHTS(form, taps, n)                                                                \
    CK_INLINE vint32 wino_weights_vector_##form(const ck_winograd_weights_args *g,                 \
                                                ptrdiff_t first, ptrdiff_t k, float *u,            \
                                                ptrdiff_t step, vint32 peak) {                     \
        enum { COUNT = (taps) * (taps) };                                                          \
        const ptrdiff_t there = g->columns - first < VL_F ? g->columns - first : VL_F;             \
        float lanes[COUNT][VL_F];                                                                  \
        vfloat w[COUNT], t[n][taps];                                                               \
        if (there < VL_F) memset(lanes, 0, sizeof lanes);                                          \
        for (ptrdiff_t o = 0; o < there; o++) {                                                    \
            const float *from = g->w + (first + o) * g->column_step + k * g->depth_step;           \
            if (g->turned)                                                                         \
                WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) lanes[q][o] = from[COUNT - 1 - q]; \
            else                                                                                   \
                WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) lanes[q][o] = from[q];            \
        }                                                                                          \
        WINO_UNROLL_TAPS for (int q = 0; q < COUNT; q++) {                                         \
            w[q] = load_f(lanes[q]);                                                               \
            peak = wino_raise(peak, w[q]);                                                         \
        }                                                                                          \
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
