/* Template of the gradients behind an activation (see norm.real.h), for one way in which what they
   read and write is kept: CENTRED(r, j) is the norm's input less the center `m`, VALUE(r, j) the
   activation's value, GRADIENT(r, j) its gradient, PUT_RESULT(v, exact) stores what is
   as exact as the gradient, or is not, MASKED(name) is a function's name. */

/* A mask that was kept is put to use once. */
CK_INLINE void MASKED(masked_sums_columns)(const ck_norm_masked *all, ptrdiff_t rows,
                                           ptrdiff_t columns, ptrdiff_t c, int nv,
                                           ptrdiff_t left, double *sum, double *product) {
    const ck_norm_masked own = *all, *run = &own; /* which stores cannot change */
    const FN(mask) mask = FN(mask_of)(run);
    V s[4], p[4], m[4], scale[4], shift[4];
    EACH(j) {
        s[j] = p[j] = (V){0};
        m[j] = AT(run->center, 0, j);
        scale[j] = AT(run->scale, 0, j);
        shift[j] = AT(run->shift, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V x = CENTRED(r, j);
        V v = run->y ? VALUE(r, j) : x * scale[j] + shift[j];
        V g = FN(through)(&mask, v, GRADIENT(r, j));
        if (run->out) PUT_RESULT(g, 1);
        s[j] += g;
        p[j] += g * x;
    }
    FN(put_doubles)(s, nv, left, sum + c);
    FN(put_doubles)(p, nv, left, product + c);
}
static void MASKED(masked_sums)(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                                double *sum, double *product) {
#define CALL(nv, left) MASKED(masked_sums_columns)(run, rows, columns, c, nv, left, sum, product)
    OVER_COLUMNS(CALL)
#undef CALL
    if (run->stream) stream_end();
}

CK_INLINE void MASKED(masked_input_columns)(const ck_norm_masked *all, ptrdiff_t rows,
                                            ptrdiff_t columns, const void *factor,
                                            const void *slope, const void *offset, ptrdiff_t c,
                                            int nv, ptrdiff_t left) {
    const ck_norm_masked own = *all, *run = &own;
    const FN(mask) mask = FN(mask_of)(run);
    V m[4], scale[4], shift[4], a[4], s[4], b[4];
    EACH(j) {
        m[j] = AT(run->center, 0, j);
        scale[j] = AT(run->scale, 0, j);
        shift[j] = AT(run->shift, 0, j);
        a[j] = AT(factor, 0, j);
        s[j] = AT(slope, 0, j);
        b[j] = AT(offset, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V x = CENTRED(r, j);
        V g = FN(through)(&mask, x * scale[j] + shift[j], GRADIENT(r, j));
        V v = x * s[j] + b[j];
        PUT_RESULT(g * a[j] + v, 0);
    }
}
static void MASKED(masked_input)(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                                 const void *factor, const void *slope, const void *offset) {
#define CALL(nv, left) \
    MASKED(masked_input_columns)(run, rows, columns, factor, slope, offset, c, nv, left)
    OVER_COLUMNS(CALL)
#undef CALL
    if (run->stream) stream_end();
}

#undef CENTRED
#undef VALUE
#undef GRADIENT
#undef PUT_RESULT
#undef MASKED
