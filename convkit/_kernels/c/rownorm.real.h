/* Template of the kernels that normalise every row by its own numbers (see real_f.h). */

/* -- layer norm ---------------------------------------------------------------------------- */

#define LOAD(p) FN(load_some)((p) + c, left)
#define OR(p, fallback) ((p) ? LOAD(p) : (fallback))
#define OVER_ROW for (ptrdiff_t c = 0, left = length; c < length; c += VL, left -= VL)

/* Mean and variance in two passes; the second also sums the deviations from the rounded mean,
   which puts right both results, as in norm.real.h. */
static void FN(layer_rows)(const void *px, const void *pw, const void *pb, void *py,
                           double *mean, double *inverse, ptrdiff_t rows, ptrdiff_t length,
                           double eps) {
    const T *weight = pw, *bias = pb;
    const V one = FN(set)((T)1), zero = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * length;
        T *y = (T *)py + r * length;
        double total = 0, rest = 0, squares = 0;
        SUM_ROW(total, length, LOAD(x))
        const V center = FN(set)((T)(total / (double)length));
        SUM_ROW(rest, length, LOAD(x) - center)
        SUM_ROW(squares, length, (LOAD(x) - center) * (LOAD(x) - center))
        rest /= (double)length;
        double variance = squares / (double)length - rest * rest;
        mean[r] = (double)center[0] + rest;
        inverse[r] = 1.0 / sqrt(variance + eps);
        const V scale = FN(set)((T)inverse[r]), shift = FN(set)((T)(-rest * inverse[r]));
        OVER_ROW {
            V normal = (LOAD(x) - center) * scale + shift;
            FN(store_some)(y + c, normal * OR(weight, one) + OR(bias, zero), left);
        }
    }
}

/* x normalised, from what forward left: (x - center) * scale + shift. */
#define NORMAL(p) ((LOAD(p) - center) * scale + shift)
#define OF_ROW(r)                                                                   \
    const V center = FN(set)((T)mean[r]), scale = FN(set)((T)inverse[r]);           \
    const V shift = FN(set)((T)(((double)center[0] - mean[r]) * inverse[r]));

/* With z the normalised x and g = gy * weight: gx = inverse * (g - mean(g) - z * mean(g z)). */
static void FN(layer_grad_rows)(const void *pg, const void *px, const void *pw,
                                const double *mean, const double *inverse, void *po,
                                ptrdiff_t rows, ptrdiff_t length) {
    const T *weight = pw;
    const V one = FN(set)((T)1);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *gy = (const T *)pg + r * length, *x = (const T *)px + r * length;
        T *gx = (T *)po + r * length;
        double sum = 0, product = 0;
        OF_ROW(r)
        SUM_ROW(sum, length, LOAD(gy) * OR(weight, one))
        SUM_ROW(product, length, LOAD(gy) * OR(weight, one) * NORMAL(x))
        const V first = FN(set)((T)(sum / (double)length));
        const V second = FN(set)((T)(product / (double)length));
        OVER_ROW {
            V v = LOAD(gy) * OR(weight, one) - first - NORMAL(x) * second;
            FN(store_some)(gx + c, v * scale, left);
        }
    }
}

static void FN(layer_sums)(const void *pg, const void *px, const double *mean,
                           const double *inverse, double *sum, double *product, ptrdiff_t rows,
                           ptrdiff_t length) {
    OVER_ROW {
        V s = {0}, p = {0};
        for (ptrdiff_t r = 0; r < rows; r++) {
            OF_ROW(r)
            V g = LOAD((const T *)pg + r * length);
            s += g;
            p += g * NORMAL((const T *)px + r * length);
        }
        for (int lane = 0; lane < VL && lane < left; lane++) {
            sum[c + lane] = (double)s[lane];
            product[c + lane] = (double)p[lane];
        }
    }
}

#undef NORMAL
#undef OF_ROW

/* -- local response norm ------------------------------------------------------------------- */

/* `buffer` holds `length` numbers with `before` zeros before and zeros behind: the sum of
   size neighbours of column c starts at its place in the buffer. */
CK_INLINE V FN(window)(const T *buffer, ptrdiff_t size, ptrdiff_t c, ptrdiff_t left) {
    V sum = {0};
    for (ptrdiff_t i = 0; i < size; i++) sum += FN(load_some)(buffer + c + i, left);
    return sum;
}

CK_INLINE void FN(clear_edges)(T *buffer, ptrdiff_t before, ptrdiff_t size, ptrdiff_t length) {
    memset(buffer, 0, (size_t)before * sizeof(T));
    memset(buffer + before + length, 0, (size_t)(size - before) * sizeof(T));
}

static void FN(lrn_rows)(const ck_lrn *o, const void *px, void *py, void *pbase, void *scratch,
                         ptrdiff_t rows, ptrdiff_t length) {
    T *squares = scratch;
    const ptrdiff_t before = o->size / 2;
    const V alpha = FN(set)((T)o->alpha), k = FN(set)((T)o->k), beta = FN(set)((T)-o->beta);
    FN(clear_edges)(squares, before, o->size, length);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * length;
        T *y = (T *)py + r * length, *kept = pbase ? (T *)pbase + r * length : NULL;
        OVER_ROW FN(store_some)(squares + before + c, LOAD(x) * LOAD(x), left);
        OVER_ROW {
            V base = FN(window)(squares, o->size, c, left) * alpha + k;
            if (kept) FN(store_some)(kept + c, base, left);
            FN(store_some)(y + c, LOAD(x) * FN(power)(base, beta), left);
        }
    }
}

/* gx = gy base^-beta - 2 alpha beta x sum(gy x base^(-beta - 1)), the sum over those rows'
   places whose window x lies in: the same window, mirrored. */
static void FN(lrn_grad_rows)(const ck_lrn *o, const void *pg, const void *px,
                              const void *pbase, void *po, void *scratch, ptrdiff_t rows,
                              ptrdiff_t length) {
    T *products = scratch;
    const ptrdiff_t before = (o->size - 1) / 2;
    const V beta = FN(set)((T)-o->beta), factor = FN(set)((T)(2.0 * o->alpha * o->beta));
    FN(clear_edges)(products, before, o->size, length);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *gy = (const T *)pg + r * length, *x = (const T *)px + r * length;
        const T *base = (const T *)pbase + r * length;
        T *gx = (T *)po + r * length;
        OVER_ROW {
            V direct = LOAD(gy) * FN(power)(LOAD(base), beta);
            FN(store_some)(gx + c, direct, left);
            FN(store_some)(products + before + c, direct * LOAD(x) / LOAD(base), left);
        }
        OVER_ROW {
            V around = FN(window)(products, o->size, c, left);
            FN(store_some)(gx + c, LOAD(gx) - factor * LOAD(x) * around, left);
        }
    }
}

#undef LOAD
#undef OR
#undef OVER_ROW
