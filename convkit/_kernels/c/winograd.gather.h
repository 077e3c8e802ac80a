/* Gathering tiles of the image and transforming them, for every way in which transformed pixels are held. */
#ifndef CK_WINOGRAD_GATHER_H
#define CK_WINOGRAD_GATHER_H

#include "winograd.axis.h"

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
                float *v = g->v + k * g->tile_step;                                                \
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
                        store_f(v + q * g->position_step + c, out[q]);                             \
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

#endif
