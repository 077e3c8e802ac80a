/* Weighted gathers along two axes, vectorised over channels.

   A target is summed along the width first, then along the height. That is PyTorch's order
   for bilinear interpolation, and it keeps the rounding error of averages over large windows
   down to that of one row plus one column. */
#include "lanes.h"

#define RESAMPLE_UNROLL _Pragma("GCC unroll 4")

#define RESAMPLE_TEMPLATE(S, T, V, M, L, W)                                                        \
    typedef struct resample_list_##S {                                                             \
        int32_t n;                                                                                 \
        const int32_t *source;                                                                     \
        const T *weight;                                                                           \
    } resample_list_##S;                                                                           \
                                                                                                   \
    CK_INLINE resample_list_##S resample_list_of_##S(const ck_axis *axis, ptrdiff_t target) {      \
        int32_t e = axis->begin[target];                                                           \
        return (resample_list_##S){axis->begin[target + 1] - e, axis->source + e, axis->W + e};    \
    }                                                                                              \
                                                                                                   \
    /* nv vectors of channels of one target. */                                                    \
    CK_INLINE void resample_vectors_##S(const T *x, T *y, ptrdiff_t n, ptrdiff_t row,              \
                                        resample_list_##S h, resample_list_##S w, int nh, int nw,  \
                                        int nv) {                                                  \
        V sum[4];                                                                                  \
        RESAMPLE_UNROLL for (int v = 0; v < nv; v++) sum[v] = set_##S(0);                          \
        RESAMPLE_UNROLL for (int i = 0; i < nh; i++) {                                             \
            const T *line = x + h.source[i] * row;                                                 \
            V part[4];                                                                             \
            RESAMPLE_UNROLL for (int v = 0; v < nv; v++) part[v] = set_##S(0);                     \
            RESAMPLE_UNROLL for (int j = 0; j < nw; j++) {                                         \
                const T *from = line + w.source[j] * n;                                            \
                V weight = set_##S(w.weight[j]);                                                   \
                RESAMPLE_UNROLL for (int v = 0; v < nv; v++)                                       \
                    part[v] += weight * load_##S(from + v * L);                                    \
            }                                                                                      \
            V weight = set_##S(h.weight[i]);                                                       \
            RESAMPLE_UNROLL for (int v = 0; v < nv; v++) sum[v] += weight * part[v];               \
        }                                                                                          \
        RESAMPLE_UNROLL for (int v = 0; v < nv; v++) store_##S(y + v * L, sum[v]);                 \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void resample_pixel_##S(const ck_resample_args *p, const T *x, T *y,                 \
                                      resample_list_##S h, resample_list_##S w, int nh, int nw) {  \
        const ptrdiff_t n = p->channels, row = p->w->sources * n;                                  \
        ptrdiff_t c = 0;                                                                           \
        for (; c + 4 * L <= n; c += 4 * L)                                                         \
            resample_vectors_##S(x + c, y + c, n, row, h, w, nh, nw, 4);                           \
        for (; c < n; c += L) {                                                                    \
            if (c > n - L) c = n - L;                                                              \
            resample_vectors_##S(x + c, y + c, n, row, h, w, nh, nw, 1);                           \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void resample_gather_##S(const ck_resample_args *p, const T *x, T *y, ptrdiff_t row0,   \
                                    ptrdiff_t row1) {                                              \
        const ptrdiff_t n = p->channels, width = p->w->targets;                                    \
        for (ptrdiff_t r = row0; r < row1; r++) {                                                  \
            resample_list_##S h = resample_list_of_##S(p->h, r);                                   \
            for (ptrdiff_t q = 0; q < width; q++) {                                                \
                resample_list_##S w = resample_list_of_##S(p->w, q);                               \
                T *out = y + (r * width + q) * n;                                                  \
                if (h.n == 2 && w.n == 2)                                                          \
                    resample_pixel_##S(p, x, out, h, w, 2, 2);                                     \
                else if (h.n == 1 && w.n == 1)                                                     \
                    resample_pixel_##S(p, x, out, h, w, 1, 1);                                     \
                else if (h.n > 0 && w.n > 0)                                                       \
                    resample_pixel_##S(p, x, out, h, w, h.n, w.n);                                 \
                else                                                                               \
                    for (ptrdiff_t c = 0; c < n; c++) out[c] = (T)p->fill;                         \
            }                                                                                      \
        }                                                                                          \
    }

#define RESAMPLE_FLOAT(S, T, V, M, L) RESAMPLE_TEMPLATE(S, T, V, M, L, weight_f)
#define RESAMPLE_DOUBLE(S, T, V, M, L) RESAMPLE_TEMPLATE(S, T, V, M, L, weight_d)
LANES_EACH_FLOAT(RESAMPLE_FLOAT)
LANES_EACH_DOUBLE(RESAMPLE_DOUBLE)

/* Whether target r > 0 has the same source as the one before it. */
CK_INLINE int resample_repeats(const ck_axis *h, ptrdiff_t r) {
    const int32_t *e = h->begin + r;
    if (e[0] == e[-1] || e[1] == e[0]) return e[0] == e[-1] && e[1] == e[0];
    return h->source[e[0]] == h->source[e[-1]];
}

#define RESAMPLE_ENTRY(name, T, CALL)                                                              \
    static void resample_gather_##name(const ck_resample_args *p, const void *x, void *y,          \
                                       ptrdiff_t row0, ptrdiff_t row1) {                           \
        CALL(resample_gather, p->channels, p, x, y, row0, row1);                                   \
    }                                                                                              \
                                                                                                   \
    static void resample_copy_##name(const ck_resample_args *p, const void *x, void *y,            \
                                     ptrdiff_t row0, ptrdiff_t row1) {                             \
        const ptrdiff_t n = p->channels;                                                           \
        const ptrdiff_t length = p->w->targets * n;                                                \
        T *out = (T *)y + row0 * length;                                                           \
        for (ptrdiff_t r = row0; r < row1; r++) {                                                  \
            int empty = p->h->begin[r] == p->h->begin[r + 1];                                      \
            if (r > row0 && resample_repeats(p->h, r)) {                                           \
                memcpy(out, out - length, (size_t)length * sizeof(T));                             \
                out += length;                                                                     \
                continue;                                                                          \
            }                                                                                      \
            const T *line =                                                                        \
                empty ? x : (const T *)x + p->h->source[p->h->begin[r]] * p->w->sources * n;       \
            for (ptrdiff_t i = 0; i < p->w->runs; i++) {                                           \
                const ptrdiff_t from = p->w->run_source[i];                                        \
                const ptrdiff_t count = (p->w->run_target[i + 1] - p->w->run_target[i]) * n;       \
                if (empty || from < 0)                                                             \
                    for (ptrdiff_t c = 0; c < count; c++) out[c] = (T)p->fill;                     \
                else                                                                               \
                    memcpy(out, line + from * n, (size_t)count * sizeof(T));                       \
                out += count;                                                                      \
            }                                                                                      \
        }                                                                                          \
    }

RESAMPLE_ENTRY(f32, float, LANES_CALL_FLOAT)
RESAMPLE_ENTRY(f64, double, LANES_CALL_DOUBLE)

static const ck_resample_table resample_table = {
    .f32 = {resample_gather_f32, resample_copy_f32},
    .f64 = {resample_gather_f64, resample_copy_f64},
};
