/* Template of the gradients behind an activation (see norm.real.h), for one way in which what they
   read of the norm's input and of the activation's value is kept: CENTRED(r, j) is the input less the
   center `m`, VALUE(r, j) the value, MASKED(name) a function's name. */

/* `anew`: a constant wherever it is inlined; a mask that was kept is put to use once. */
CK_INLINE void MASKED(masked_sums_columns)(const ck_norm_masked *run, int anew, ptrdiff_t rows,
                                           ptrdiff_t columns, ptrdiff_t c, int nv,
                                           ptrdiff_t left, double *sum, double *product) {
    const FN(mask) mask = FN(mask_of)(run);
    V s[4], p[4], m[4], scale[4], shift[4];
    EACH(j) {
        s[j] = p[j] = (V){0};
        m[j] = AT(run->center, 0, j);
        scale[j] = anew ? AT(run->scale, 0, j) : (V){0};
        shift[j] = anew ? AT(run->shift, 0, j) : (V){0};
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V x = CENTRED(r, j);
        V v = anew ? x * scale[j] + shift[j] : VALUE(r, j);
        V g = FN(through)(&mask, v, AT(run->gy, r, j));
        if (!anew) PUT_AT(run->out, g);
        s[j] += g;
        p[j] += g * x;
    }
    EACH(j) for (int lane = 0; lane < VL && j * VL + lane < left; lane++) {
        sum[c + j * VL + lane] = (double)s[j][lane];
        product[c + j * VL + lane] = (double)p[j][lane];
    }
}
static void MASKED(masked_sums)(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                                double *sum, double *product) {
#define ANEW(nv, left) \
    MASKED(masked_sums_columns)(run, 1, rows, columns, c, nv, left, sum, product)
#define KEPT(nv, left) \
    MASKED(masked_sums_columns)(run, 0, rows, columns, c, nv, left, sum, product)
    if (run->y) OVER_COLUMNS(KEPT)
    else OVER_COLUMNS(ANEW)
#undef ANEW
#undef KEPT
}

CK_INLINE void MASKED(masked_input_columns)(const ck_norm_masked *run, ptrdiff_t rows,
                                            ptrdiff_t columns, const void *factor,
                                            const void *slope, const void *offset, ptrdiff_t c,
                                            int nv, ptrdiff_t left) {
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
        V g = FN(through)(&mask, x * scale[j] + shift[j], AT(run->gy, r, j));
        V v = x * s[j] + b[j];
        PUT_AT(run->out, g * a[j] + v);
    }
}
static void MASKED(masked_input)(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                                 const void *factor, const void *slope, const void *offset) {
#define CALL(nv, left) \
    MASKED(masked_input_columns)(run, rows, columns, factor, slope, offset, c, nv, left)
    OVER_COLUMNS(CALL)
#undef CALL
}

#undef CENTRED
#undef VALUE
#undef MASKED
