/* What batch norm keeps of its input as bfloat16: the passes that write it, and those that read it. */
#define HALVES(p, r, j) \
    load_some_half((const uint16_t *)(p) + (r) * columns + c + (j) * VL, left - (j) * VL)
#define PUT_HALVES(p, h) \
    store_some_half((p) + r * columns + c + j * VL, (h), left - j * VL)

#define CENTRED(r, j) ((void)m[j], HALVES(run->x, r, j))
#define VALUE(r, j) HALVES(run->y, r, j)
#define MASKED(name) name##_kept
#include "norm.masked.h"

/* `fresh`, whether there is an x: a constant wherever it is inlined. */
CK_INLINE void affine_kept_columns(const ck_norm_kept *all, int fresh, ptrdiff_t rows,
                                   ptrdiff_t columns, ptrdiff_t c, int nv, ptrdiff_t left) {
    const ck_norm_kept own = *all, *run = &own; /* which stores cannot change */
    const V low = set_f(run->low), high = set_f(run->high);
    V m[4], a[4], b[4];
    EACH(j) {
        m[j] = fresh ? AT(run->center, 0, j) : (V){0};
        a[j] = AT(run->scale, 0, j);
        b[j] = AT(run->shift, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V v;
        if (fresh) {
            vhalf h = narrow(AT(run->x, r, j) - m[j]);
            PUT_HALVES(run->kept, h);
            v = widen(h);
        } else v = HALVES(run->kept, r, j);
        v = v * a[j] + b[j];
        if (run->residual) v += AT(run->residual, r, j);
        v = at_most_f(at_least_f(v, low), high);
        PUT_AT(run->y, v);
        if (run->rounded) PUT_HALVES(run->rounded, narrow(v));
    }
}
static void affine_kept(const ck_norm_kept *run, ptrdiff_t rows, ptrdiff_t columns) {
#define FRESH(nv, left) affine_kept_columns(run, 1, rows, columns, c, nv, left)
#define KEPT(nv, left) affine_kept_columns(run, 0, rows, columns, c, nv, left)
    if (run->x) OVER_COLUMNS(FRESH)
    else OVER_COLUMNS(KEPT)
#undef FRESH
#undef KEPT
}

static void narrow_run(const float *x, uint16_t *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL)
        store_some_half(y + i, narrow(load_some_f(x + i, n - i)), n - i);
}
static void widen_run(const uint16_t *x, float *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL) store_some_f(y + i, load_some_half(x + i, n - i), n - i);
}

#undef HALVES
#undef PUT_HALVES
