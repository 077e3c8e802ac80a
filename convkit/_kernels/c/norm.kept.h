/* What batch norm keeps of its input as bfloat16: the passes that write it, and those that read it.
   Other arrays of theirs may be bfloat16 as well. They wait for memory, so that they ask for each
   vector how it is held: a copy of the code for each combination would not be faster. */

CK_INLINE V load_either(const void *p, int half, ptrdiff_t at, ptrdiff_t left) {
    return half ? load_some_half((const uint16_t *)p + at, left)
                : load_some_f((const float *)p + at, left);
}

/* `stream`: whole vectors go past the caches, so that memory is not read before it is written. */
CK_INLINE void put_float(float *p, V v, ptrdiff_t left, int stream) {
    if (stream && left >= VL) stream_f(p, v);
    else store_some_f(p, v, left);
}
CK_INLINE void put_half(uint16_t *p, vhalf h, ptrdiff_t left, int stream) {
#if CK_VBYTES == 64
    if (stream && left >= VL) _mm256_stream_si256((__m256i *)p, (__m256i)h);
    else
#elif CK_VBYTES == 32
    if (stream && left >= VL) _mm_stream_si128((__m128i *)p, (__m128i)h);
    else
#endif
        store_some_half(p, h, left);
}
/* `exact`, a constant wherever this is inlined: whether the numbers are bfloat16 if `half`. */
CK_INLINE void put_either(void *p, int half, int exact, ptrdiff_t at, V v, ptrdiff_t left,
                          int stream) {
    if (half) put_half((uint16_t *)p + at, exact ? cut(v) : narrow(v), left, stream);
    else put_float((float *)p + at, v, left, stream);
}

#define INDEX(j) (r * columns + c + (j) * VL)
#define HALVES(p, r, j) \
    load_some_half((const uint16_t *)(p) + (r) * columns + c + (j) * VL, left - (j) * VL)
#define PUT_HALVES(p, h) put_half((p) + INDEX(j), (h), left - j * VL, run->stream)

#define CENTRED(r, j) ((void)m[j], HALVES(run->x, r, j))
#define VALUE(r, j) HALVES(run->y, r, j)
#define GRADIENT(r, j) load_either(run->gy, run->gy_half, INDEX(j), left - (j) * VL)
#define PUT_RESULT(v, exact) \
    put_either(run->out, run->out_half, exact, INDEX(j), (v), left - j * VL, run->stream)
#define MASKED(name) name##_kept
#include "norm.masked.h"

CK_INLINE void affine_kept_columns(const ck_norm_kept *all, ptrdiff_t rows, ptrdiff_t columns,
                                   ptrdiff_t c, int nv, ptrdiff_t left) {
    const ck_norm_kept own = *all, *run = &own; /* which stores cannot change */
    const V low = set_f(run->low), high = set_f(run->high);
    V m[4], a[4], b[4];
    EACH(j) {
        m[j] = AT(run->center, 0, j);
        a[j] = AT(run->scale, 0, j);
        b[j] = AT(run->shift, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V v;
        if (run->x) {
            vhalf h = narrow(AT(run->x, r, j) - m[j]);
            PUT_HALVES(run->kept, h);
            v = widen(h);
        } else v = HALVES(run->kept, r, j);
        v = v * a[j] + b[j];
        if (run->residual)
            v += load_either(run->residual, run->residual_half, INDEX(j), left - j * VL);
        v = at_most_f(at_least_f(v, low), high);
        if (run->rounded || run->rounds) {
            const vhalf h = narrow(v);
            if (run->rounded) PUT_HALVES(run->rounded, h);
            if (run->rounds) v = widen(h);
        }
        if (run->y) put_float(run->y + INDEX(j), v, left - j * VL, run->stream);
    }
}
static void affine_kept(const ck_norm_kept *run, ptrdiff_t rows, ptrdiff_t columns) {
#define CALL(nv, left) affine_kept_columns(run, rows, columns, c, nv, left)
    OVER_COLUMNS(CALL)
#undef CALL
    if (run->stream) stream_end();
}

static void narrow_run(const float *x, uint16_t *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL)
        store_some_half(y + i, narrow(load_some_f(x + i, n - i)), n - i);
}
static void widen_run(const uint16_t *x, float *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL) store_some_f(y + i, load_some_half(x + i, n - i), n - i);
}

#undef INDEX
#undef HALVES
#undef PUT_HALVES
