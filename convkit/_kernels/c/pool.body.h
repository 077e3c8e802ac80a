/* Max pooling, vectorised over channels.

   Forward keeps the largest value and its tap by PyTorch's rule: a tap replaces what is held
   when it is larger or NaN, so NaN passes on, and of equals the first stays. Backward visits
   each input once and asks every window over it whether this input was its tap: no element
   is written twice, so rows can be shared out freely. */
#include "lanes.h"

enum { POOL_NO_INDEX, POOL_BYTES, POOL_WORDS };

/* The entries of one axis for one target. */
typedef struct pool_list {
    int32_t n;
    const int32_t *source, *tap;
} pool_list;

CK_INLINE pool_list pool_list_of(const ck_axis *axis, ptrdiff_t target) {
    int32_t e = axis->begin[target];
    return (pool_list){axis->begin[target + 1] - e, axis->source + e, axis->tap + e};
}

#define POOL_UNROLL _Pragma("GCC unroll 3")

/* Windows that have code of their own: each is written out for what is kept beside the results.
   double is there to be right, and taps beyond a byte are rare. */
#define POOL_OWN(T, k, rows, columns)                                                              \
    (sizeof(T) == 4 && kind == (k) && h.n == (rows) && w.n == (columns))

/* Keeps, lane by lane, a tap's value and its number where it replaces what is held. */
#define POOL_KEEP(S, T, V, M, L)                                                                   \
    CK_INLINE void pool_keep_##S(V v, int32_t tap, int kind, V *best, M *at) {                     \
        M take = (v > *best) | (v != v);                                                           \
        *best = select_##S(take, v, *best);                                                        \
        if (kind != POOL_NO_INDEX) *at = select_index_##S(take, set_index_##S(tap), *at);          \
    }
#if CK_VBYTES == 64
/* The same with masks. Without a tap to keep, the larger of both, which is what is held where either is
   NaN, lacks only new values that are. */
#define POOL_KEEP_MASKED(S, V, M, MASK, BITS)                                                      \
    CK_INLINE void pool_keep_##S(V v, int32_t tap, int kind, V *best, M *at) {                     \
        const MASK nan = BITS##_cmp_ps_mask(v, v, _CMP_UNORD_Q);                                   \
        if (kind == POOL_NO_INDEX) {                                                               \
            *best = (V)BITS##_mask_mov_ps(BITS##_max_ps(v, *best), nan, v);                        \
            return;                                                                                \
        }                                                                                          \
        const MASK take = nan | BITS##_cmp_ps_mask(v, *best, _CMP_GT_OQ);                          \
        *best = (V)BITS##_mask_mov_ps(*best, take, v);                                             \
        *at = (M)BITS##_mask_set1_epi32(POOL_INTEGERS_##S(*at), take, tap);                        \
    }
#define POOL_INTEGERS_f(v) ((__m512i)(v))
#define POOL_INTEGERS_fq(v) ((__m128i)(v))
POOL_KEEP_MASKED(f, vfloat, vint32, __mmask16, _mm512)
POOL_KEEP_MASKED(fq, vfloat_q, vint32_q, __mmask8, _mm)
POOL_KEEP(f1, float, float, int32_t, 1)
#else
LANES_EACH_FLOAT(POOL_KEEP)
#endif
LANES_EACH_DOUBLE(POOL_KEEP)

#define POOL_TEMPLATE(S, T, V, M, L)                                                               \
    /* One output pixel; kind, nh and nw (the lists' lengths) are constants in POOL_OWN. */        \
    CK_INLINE void pool_max_pixel_##S(const ck_pool_args *p, const T *x, T *y, void *index,        \
                                      int kind, pool_list h, pool_list w, int nh, int nw) {        \
        const ptrdiff_t n = p->channels, row = p->w->sources * n;                                  \
        for (ptrdiff_t c = 0; c < n; c += L) {                                                     \
            if (c > n - L) c = n - L;                                                              \
            V best = load_##S(x + h.source[0] * row + w.source[0] * n + c);                        \
            M at = set_index_##S(h.tap[0] * p->window_w + w.tap[0]);                               \
            POOL_UNROLL for (int i = 0; i < nh; i++) {                                             \
                const T *line = x + h.source[i] * row + c;                                         \
                POOL_UNROLL for (int j = 0; j < nw; j++) {                                         \
                    if (i == 0 && j == 0) continue;                                                \
                    pool_keep_##S(load_##S(line + w.source[j] * n),                                \
                                  h.tap[i] * p->window_w + w.tap[j], kind, &best, &at);            \
                }                                                                                  \
            }                                                                                      \
            store_##S(y + c, best);                                                                \
            if (kind == POOL_BYTES) store_byte_##S((uint8_t *)index + c, at);                      \
            if (kind == POOL_WORDS) store_word_##S((int32_t *)index + c, at);                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* A window that lies in the padding altogether (dilation can do that): -inf, no tap. */       \
    static void pool_max_nothing_##S(ptrdiff_t n, T *y, void *index, int kind) {                   \
        for (ptrdiff_t c = 0; c < n; c++) y[c] = -(T)INFINITY;                                     \
        if (kind == POOL_BYTES) memset(index, 0, (size_t)n);                                       \
        if (kind == POOL_WORDS) memset(index, 0, (size_t)n * sizeof(int32_t));                     \
    }                                                                                              \
                                                                                                   \
    static void pool_max_forward_##S(const ck_pool_args *p, const T *x, T *y, char *index,         \
                                     ptrdiff_t row0, ptrdiff_t row1) {                             \
        const int kind = !index ? POOL_NO_INDEX : p->wide ? POOL_WORDS : POOL_BYTES;               \
        const ptrdiff_t n = p->channels, width = p->w->targets;                                    \
        const ptrdiff_t bytes = kind == POOL_WORDS ? (ptrdiff_t)sizeof(int32_t) : 1;               \
        for (ptrdiff_t r = row0; r < row1; r++) {                                                  \
            pool_list h = pool_list_of(p->h, r);                                                   \
            for (ptrdiff_t q = 0; q < width; q++) {                                                \
                pool_list w = pool_list_of(p->w, q);                                               \
                ptrdiff_t at = (r * width + q) * n;                                                \
                T *out = y + at;                                                                   \
                void *to = kind == POOL_NO_INDEX ? NULL : index + at * bytes;                      \
                if (POOL_OWN(T, POOL_NO_INDEX, 2, 2))                                              \
                    pool_max_pixel_##S(p, x, out, to, POOL_NO_INDEX, h, w, 2, 2);                  \
                else if (POOL_OWN(T, POOL_NO_INDEX, 3, 3))                                         \
                    pool_max_pixel_##S(p, x, out, to, POOL_NO_INDEX, h, w, 3, 3);                  \
                else if (POOL_OWN(T, POOL_BYTES, 2, 2))                                            \
                    pool_max_pixel_##S(p, x, out, to, POOL_BYTES, h, w, 2, 2);                     \
                else if (POOL_OWN(T, POOL_BYTES, 3, 3))                                            \
                    pool_max_pixel_##S(p, x, out, to, POOL_BYTES, h, w, 3, 3);                     \
                else if (h.n > 0 && w.n > 0)                                                       \
                    pool_max_pixel_##S(p, x, out, to, kind, h, w, h.n, w.n);                       \
                else                                                                               \
                    pool_max_nothing_##S(n, out, to, kind);                                        \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void pool_max_input_##S(const ck_pool_args *p, const T *gy, const void *index,       \
                                      int kind, T *gx, pool_list h, pool_list w, int nh, int nw) { \
        const ptrdiff_t n = p->channels, row = p->w->sources * n;                                  \
        const V zero = set_##S(0);                                                                 \
        for (ptrdiff_t c = 0; c < n; c += L) {                                                     \
            if (c > n - L) c = n - L;                                                              \
            V sum = zero;                                                                          \
            POOL_UNROLL for (int i = 0; i < nh; i++) {                                             \
                POOL_UNROLL for (int j = 0; j < nw; j++) {                                         \
                    ptrdiff_t at = h.source[i] * row + w.source[j] * n + c;                        \
                    M k = kind == POOL_BYTES ? load_byte_##S((const uint8_t *)index + at)          \
                                             : load_word_##S((const int32_t *)index + at);         \
                    M mine = k == set_index_##S(h.tap[i] * p->window_w + w.tap[j]);                \
                    sum += select_##S(mine, load_##S(gy + at), zero);                              \
                }                                                                                  \
            }                                                                                      \
            store_##S(gx + c, sum);                                                                \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void pool_max_backward_##S(const ck_pool_args *p, const T *gy, const void *index,       \
                                      T *gx, ptrdiff_t row0, ptrdiff_t row1) {                     \
        const int kind = p->wide ? POOL_WORDS : POOL_BYTES;                                        \
        const ptrdiff_t n = p->channels, width = p->w->targets;                                    \
        for (ptrdiff_t r = row0; r < row1; r++) {                                                  \
            pool_list h = pool_list_of(p->h, r);                                                   \
            for (ptrdiff_t q = 0; q < width; q++) {                                                \
                pool_list w = pool_list_of(p->w, q);                                               \
                T *out = gx + (r * width + q) * n;                                                 \
                if (POOL_OWN(T, POOL_BYTES, 1, 1))                                                 \
                    pool_max_input_##S(p, gy, index, POOL_BYTES, out, h, w, 1, 1);                 \
                else if (POOL_OWN(T, POOL_BYTES, 1, 2))                                            \
                    pool_max_input_##S(p, gy, index, POOL_BYTES, out, h, w, 1, 2);                 \
                else if (POOL_OWN(T, POOL_BYTES, 2, 1))                                            \
                    pool_max_input_##S(p, gy, index, POOL_BYTES, out, h, w, 2, 1);                 \
                else if (POOL_OWN(T, POOL_BYTES, 2, 2))                                            \
                    pool_max_input_##S(p, gy, index, POOL_BYTES, out, h, w, 2, 2);                 \
                else                                                                               \
                    pool_max_input_##S(p, gy, index, kind, out, h, w, h.n, w.n);                   \
            }                                                                                      \
        }                                                                                          \
    }

LANES_EACH_FLOAT(POOL_TEMPLATE)
LANES_EACH_DOUBLE(POOL_TEMPLATE)

#define POOL_ENTRY(name, CALL)                                                                     \
    static void pool_max_forward_##name(const ck_pool_args *p, const void *x, void *y,             \
                                        void *index, ptrdiff_t row0, ptrdiff_t row1) {             \
        CALL(pool_max_forward, p->channels, p, x, y, index, row0, row1);                           \
    }                                                                                              \
    static void pool_max_backward_##name(const ck_pool_args *p, const void *gy, const void *index, \
                                         void *gx, ptrdiff_t row0, ptrdiff_t row1) {               \
        CALL(pool_max_backward, p->channels, p, gy, index, gx, row0, row1);                        \
    }

POOL_ENTRY(f32, LANES_CALL_FLOAT)
POOL_ENTRY(f64, LANES_CALL_DOUBLE)

static const ck_pool_table pool_table = {
    .f32 = {pool_max_forward_f32, pool_max_backward_f32},
    .f64 = {pool_max_forward_f64, pool_max_backward_f64},
};
