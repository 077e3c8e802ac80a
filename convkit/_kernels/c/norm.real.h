/* Template of the kernels over rows of channels for one number type (see real_f.h).

   Reductions go down a few vectors of columns at a time with the sums in registers; a block
   of rows is small enough to be in the cache when it is read a second time. */

/* Adds n numbers to doubles; once for each block, so that size counts. */
typedef T FN(some) __attribute__((vector_size(VL_D * sizeof(T)), aligned(sizeof(T)), may_alias));
static __attribute__((noinline)) void FN(add_doubles)(const T *from, ptrdiff_t n, double *to) {
    ptrdiff_t i = 0;
    for (; i + VL_D <= n; i += VL_D)
        store_d(to + i, load_d(to + i)
                            + __builtin_convertvector(*(const FN(some) *)(from + i), vdouble));
    for (; i < n; i++) to[i] += (double)from[i];
}
/* From a copy of the sums, which would not stay in registers if their own place were known. */
CK_INLINE void FN(add_sums)(const V *v, int nv, ptrdiff_t n, double *to) {
    V copy[4];
    EACH(j) copy[j] = v[j];
    FN(add_doubles)((const T *)copy, n < nv * VL ? n : nv * VL, to);
}

/* Corrected two-pass sums: the second pass also sums the deviations from the rounded mean,
   which puts right both results (the reference is at merge_moments). */
CK_INLINE void FN(moments_columns)(const void *x, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t c,
                                   int nv, ptrdiff_t left, double *mean, double *squares) {
    V sum[4], square[4], center[4];
    EACH(j) sum[j] = (V){0};
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) sum[j] += AT(x, r, j);
    EACH(j) {
        center[j] = sum[j] / FN(set)((T)rows);
        sum[j] = square[j] = (V){0};
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V d = AT(x, r, j) - center[j];
        sum[j] += d;
        square[j] += d * d;
    }
    EACH(j) for (int lane = 0; lane < VL && j * VL + lane < left; lane++) {
        double rest = (double)sum[j][lane] / (double)rows;
        mean[c + j * VL + lane] = (double)center[j][lane] + rest;
        squares[c + j * VL + lane] = (double)square[j][lane] - rest * (double)sum[j][lane];
    }
}
static void FN(moments)(const void *x, ptrdiff_t rows, ptrdiff_t columns, double *mean,
                        double *squares) {
#define CALL(nv, left) FN(moments_columns)(x, rows, columns, c, nv, left, mean, squares)
    OVER_COLUMNS(CALL)
#undef CALL
}

CK_INLINE void FN(grad_sums_columns)(const void *gy, const void *x, ptrdiff_t rows,
                                     ptrdiff_t columns, ptrdiff_t c, int nv, ptrdiff_t left,
                                     const void *center, double *sum, double *product) {
    V s[4], p[4], m[4];
    EACH(j) {
        s[j] = p[j] = (V){0};
        m[j] = AT(center, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V g = AT(gy, r, j);
        s[j] += g;
        p[j] += g * (AT(x, r, j) - m[j]);
    }
    FN(add_sums)(s, nv, left, sum + c);
    FN(add_sums)(p, nv, left, product + c);
}
static void FN(grad_sums)(const void *gy, const void *x, ptrdiff_t rows, ptrdiff_t columns,
                          const void *center, double *sum, double *product) {
#define CALL(nv, left) \
    FN(grad_sums_columns)(gy, x, rows, columns, c, nv, left, center, sum, product)
    OVER_COLUMNS(CALL)
#undef CALL
}

/* Maps go down the columns as well, with the parameters in registers. */
#define OF(p) (p ? AT(p, 0, j) : (V){0})

/* `residual`, `center`, `kind` (0, 1 or any other): constants wherever it is inlined. */
CK_INLINE void FN(affine_columns)(const void *x, const void *residual, void *y, ptrdiff_t rows,
                                  ptrdiff_t columns, const void *center, const void *scale,
                                  const void *shift, int kind, int activation, V low, V high,
                                  ptrdiff_t c, int nv, ptrdiff_t left) {
    V m[4], a[4], b[4];
    EACH(j) {
        m[j] = OF(center);
        a[j] = AT(scale, 0, j);
        b[j] = AT(shift, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V v = AT(x, r, j);
        v = (center ? v - m[j] : v) * a[j] + b[j];
        if (residual) v += AT(residual, r, j);
        if (kind == 1) v = FN(at_least)(v, (V){0});
        if (kind > 1) v = FN(activate)(activation, low, high, v);
        PUT_AT(y, v);
    }
}
static void FN(affine_rows)(const void *x, const void *residual, void *y, ptrdiff_t rows,
                            ptrdiff_t columns, const void *center, const void *scale,
                            const void *shift, int activation, double alpha, double beta) {
    const V low = FN(set)((T)alpha), high = FN(set)((T)beta);
#define AFFINE(kind, residual, center)                                                        \
    FN(affine_columns)(x, residual, y, rows, columns, center, scale, shift, kind, activation, \
                       low, high, c, nv, left)
#define BY_KIND(nv_, left_)                                            \
    {                                                                  \
        const int nv = nv_;                                            \
        const ptrdiff_t left = left_;                                  \
        if (!center) AFFINE(2, NULL, NULL);                            \
        else if (activation > CK_ACT_RELU) AFFINE(2, residual, center); \
        else if (residual && activation) AFFINE(1, residual, center);  \
        else if (activation) AFFINE(1, NULL, center);                  \
        else AFFINE(0, residual, center);                              \
    }
    OVER_COLUMNS(BY_KIND)
#undef BY_KIND
#undef AFFINE
}

CK_INLINE void FN(grad_input_columns)(const void *gy, const void *x, void *gx, ptrdiff_t rows,
                                      ptrdiff_t columns, const void *center, const void *scale,
                                      const void *slope, const void *shift, ptrdiff_t c, int nv,
                                      ptrdiff_t left) {
    V m[4], a[4], s[4], b[4];
    EACH(j) {
        m[j] = AT(center, 0, j);
        a[j] = AT(scale, 0, j);
        s[j] = AT(slope, 0, j);
        b[j] = AT(shift, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V v = (AT(x, r, j) - m[j]) * s[j] + b[j];
        PUT_AT(gx, AT(gy, r, j) * a[j] + v);
    }
}
static void FN(grad_input)(const void *gy, const void *x, void *gx, ptrdiff_t rows,
                           ptrdiff_t columns, const void *center, const void *scale,
                           const void *slope, const void *shift) {
#define CALL(nv, left) \
    FN(grad_input_columns)(gy, x, gx, rows, columns, center, scale, slope, shift, c, nv, left)
    OVER_COLUMNS(CALL)
#undef CALL
}

/* Gradients through an activation: the mask is of its value, or of its argument worked out
   anew, in the very arithmetic of affine_rows. */
typedef struct FN(mask) {
    V low, high;
} FN(mask);
CK_INLINE FN(mask) FN(mask_of)(const ck_norm_masked *m) {
    return (FN(mask)){FN(set)((T)m->low), FN(set)((T)m->high)};
}
CK_INLINE V FN(through)(const FN(mask) *m, V v, V g) {
    return FN(select)((v <= m->low) | (v >= m->high), (V){0}, g);
}

/* A mask that was kept is put to use once. */
CK_INLINE void FN(masked_sums_columns)(const ck_norm_masked *run, ptrdiff_t rows,
                                           ptrdiff_t columns, ptrdiff_t c, int nv,
                                           ptrdiff_t left, double *sum, double *product) {
    const FN(mask) mask = FN(mask_of)(run);
    V s[4], p[4], m[4], scale[4], shift[4];
    EACH(j) {
        s[j] = p[j] = (V){0};
        m[j] = AT(run->center, 0, j);
        scale[j] = AT(run->scale, 0, j);
        shift[j] = AT(run->shift, 0, j);
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V x = AT(run->x, r, j) - m[j];
        V v = run->y ? AT(run->y, r, j) : x * scale[j] + shift[j];
        V g = FN(through)(&mask, v, AT(run->gy, r, j));
        if (run->out) PUT_AT(run->out, g);
        s[j] += g;
        p[j] += g * x;
    }
    FN(add_sums)(s, nv, left, sum + c);
    FN(add_sums)(p, nv, left, product + c);
}
static void FN(masked_sums)(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                                double *sum, double *product) {
#define CALL(nv, left) FN(masked_sums_columns)(run, rows, columns, c, nv, left, sum, product)
    OVER_COLUMNS(CALL)
#undef CALL
}

CK_INLINE void FN(masked_input_columns)(const ck_norm_masked *run, ptrdiff_t rows,
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
        V x = AT(run->x, r, j) - m[j];
        V g = FN(through)(&mask, x * scale[j] + shift[j], AT(run->gy, r, j));
        V v = x * s[j] + b[j];
        PUT_AT(run->out, g * a[j] + v);
    }
}
static void FN(masked_input)(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                                 const void *factor, const void *slope, const void *offset) {
#define CALL(nv, left) \
    FN(masked_input_columns)(run, rows, columns, factor, slope, offset, c, nv, left)
    OVER_COLUMNS(CALL)
#undef CALL
}

/* One row's worth of vectors, for PReLU; parameters from the cache. */
#define OVER_ROWS \
    for (ptrdiff_t r = 0; r < rows; r++) for (ptrdiff_t c = 0; c < columns; c += VL)
#define HERE(p) FN(load_some)((const T *)(p) + r * columns + c, columns - c)
#define OF_COLUMN(p) FN(load_some)((const T *)(p) + c, columns - c)
#define PUT(p, v) FN(store_some)((T *)(p) + r * columns + c, (v), columns - c)

static void FN(prelu_rows)(const void *x, const void *w, void *y, ptrdiff_t rows,
                           ptrdiff_t columns) {
    OVER_ROWS {
        V v = HERE(x);
        PUT(y, FN(select)(v > (V){0}, v, OF_COLUMN(w) * v));
    }
}

CK_INLINE void FN(prelu_grad_columns)(const void *gy, const void *x, const void *w, void *gx,
                                      double *gw, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t c,
                                      int nv, ptrdiff_t left) {
    const V zero = {0};
    V slope[4], sum[4];
    EACH(j) {
        slope[j] = AT(w, 0, j);
        sum[j] = zero;
    }
    for (ptrdiff_t r = 0; r < rows; r++) EACH(j) {
        V g = AT(gy, r, j), v = AT(x, r, j);
        FN(store_some)((T *)gx + r * columns + c + j * VL, FN(select)(v > zero, g, slope[j] * g),
                       left - j * VL);
        sum[j] += FN(select)(v > zero, zero, v * g);
    }
    FN(add_sums)(sum, nv, left, gw + c);
}
static void FN(prelu_grad_rows)(const void *gy, const void *x, const void *w, void *gx, double *gw,
                                ptrdiff_t rows, ptrdiff_t columns) {
#define CALL(nv, left) FN(prelu_grad_columns)(gy, x, w, gx, gw, rows, columns, c, nv, left)
    OVER_COLUMNS(CALL)
#undef CALL
}

#undef OF
#undef OVER_ROWS
#undef HERE
#undef OF_COLUMN
#undef PUT
