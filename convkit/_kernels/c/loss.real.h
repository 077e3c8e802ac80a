/* Template of the losses for one number type (see real_f.h). */

/* -- cross entropy ------------------------------------------------------------------------ */

/* The class of row r, or -1 where the row does not count. */
CK_INLINE ptrdiff_t FN(target_of)(const ck_cross_entropy *a, ptrdiff_t r) {
    int64_t t = a->target[r];
    return t == a->ignore || t < 0 || t >= a->classes ? -1 : (ptrdiff_t)t;
}

CK_INLINE double FN(weight_of)(const ck_cross_entropy *a, ptrdiff_t c) {
    return a->weight ? (double)((const T *)a->weight)[c] : 1.0;
}

/* The shares of classes c, c + 1, ... but for the target class itself. */
CK_INLINE V FN(shares)(const ck_cross_entropy *a, ptrdiff_t r, ptrdiff_t c, ptrdiff_t left) {
    V share = FN(set)((T)(a->smoothing / (double)a->classes));
    if (a->probabilities) {
        const T *p = (const T *)a->probabilities + r * a->classes;
        share += FN(load_some)(p + c, left) * FN(set)((T)(1.0 - a->smoothing));
    }
    return a->weight ? share * FN(load_some)((const T *)a->weight + c, left) : share;
}

/* Whether classes other than the target's have a share at all. */
CK_INLINE int FN(is_spread)(const ck_cross_entropy *a) {
    return a->probabilities || a->smoothing != 0;
}

static void FN(cross_entropy)(const ck_cross_entropy *a, ptrdiff_t begin, ptrdiff_t end,
                              double *sums) {
    const ptrdiff_t classes = a->classes;
    for (ptrdiff_t r = begin; r < end; r++) {
        const T *x = (const T *)a->x + r * classes;
        ptrdiff_t target = a->target ? FN(target_of)(a, r) : 0;
        double loss = 0, total = 0;
        T most = FN(row_max)(x, classes);
        SUM_ROW(total, classes, FN(shifted_exp)(x, most, NULL, c, left))
        double log_sum = log(total);
        if (target >= 0 && FN(is_spread)(a)) {
            double share = 0, product = 0;
            SUM_ROW(share, classes, FN(shares)(a, r, c, left))
            SUM_ROW(product, classes,
                    FN(shares)(a, r, c, left) * (FN(load_some)(x + c, left) - FN(set)(most)))
            loss = share * log_sum - product;
        }
        if (a->target && target >= 0) {
            double weight = FN(weight_of)(a, target);
            loss += (1.0 - a->smoothing) * weight * (log_sum - ((double)x[target] - (double)most));
            sums[1] += weight;
        } else if (!a->target) {
            sums[1] += 1.0;
        }
        sums[0] += loss;
        ((T *)a->most)[r] = most;
        ((T *)a->log_sum)[r] = (T)log_sum;
        if (a->losses) ((T *)a->losses)[r] = (T)loss;
    }
}

static void FN(cross_entropy_grad)(const ck_cross_entropy *a, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t classes = a->classes;
    for (ptrdiff_t r = begin; r < end; r++) {
        const T *x = (const T *)a->x + r * classes;
        T *gx = a->gx ? (T *)a->gx + r * classes : NULL;
        T *gp = a->g_probabilities ? (T *)a->g_probabilities + r * classes : NULL;
        ptrdiff_t target = a->target ? FN(target_of)(a, r) : 0;
        if (target < 0) {
            if (gx) memset(gx, 0, (size_t)classes * sizeof(T));
            continue;
        }
        double factor = a->factor * (a->gy ? (double)((const T *)a->gy)[r] : 1.0);
        double own = a->target ? (1.0 - a->smoothing) * FN(weight_of)(a, target) : 0, share = 0;
        if (FN(is_spread)(a)) SUM_ROW(share, classes, FN(shares)(a, r, c, left))
        const V most = FN(set)(((const T *)a->most)[r]), low = FN(set)(((const T *)a->log_sum)[r]);
        const V all = FN(set)((T)(factor * (share + own))), g = FN(set)((T)factor);
        const V g_probability = FN(set)((T)(-factor * (1.0 - a->smoothing)));
        for (ptrdiff_t c = 0; c < classes; c += VL) {
            ptrdiff_t left = classes - c;
            V log_p = FN(load_some)(x + c, left) - most - low;
            if (gx) {
                V v = all * FN(exp)(log_p);
                if (FN(is_spread)(a)) v -= g * FN(shares)(a, r, c, left);
                FN(store_some)(gx + c, v, left);
            }
            if (gp) {
                V v = g_probability * log_p;
                if (a->weight) v *= FN(load_some)((const T *)a->weight + c, left);
                FN(store_some)(gp + c, v, left);
            }
        }
        if (gx && a->target) gx[target] -= (T)(factor * own);
    }
}

/* -- losses of single numbers --------------------------------------------------------------- */

#define FROM(p, fallback) ((p) ? FN(load_some)((const T *)(p) + at + c, left) : (fallback))

CK_INLINE V FN(squared)(const ck_pointwise *a, ptrdiff_t at, ptrdiff_t c, ptrdiff_t left) {
    const V zero = {0};
    V d = FROM(a->x, zero) - FROM(a->target, zero);
    V loss = d * d;
    if (a->losses) FN(store_some)((T *)a->losses + at + c, loss, left);
    return loss;
}
static double FN(mse)(const ck_pointwise *a, ptrdiff_t begin, ptrdiff_t end) {
    double total = 0;
    SUM_ROW(total, end - begin, FN(squared)(a, begin, c, left))
    return total;
}
static void FN(mse_grad)(const ck_pointwise *a, ptrdiff_t at, ptrdiff_t end) {
    const V zero = {0}, one = FN(set)((T)1), factor = FN(set)((T)(2.0 * a->factor));
    for (ptrdiff_t c = 0, left = end - at; left > 0; c += VL, left -= VL) {
        V d = FROM(a->x, zero) - FROM(a->target, zero);
        V g = d * (FROM(a->gy, one) * factor);
        if (a->gx) FN(store_some)((T *)a->gx + at + c, g, left);
        if (a->g_target) FN(store_some)((T *)a->g_target + at + c, -g, left);
    }
}

/* With positive = 1 + (pos_weight - 1) t, the loss is (1 - t) x + positive log(1 + exp(-x)).
   Since log(1 + exp(-x)) = log1p(exp(-|x|)) + max(-x, 0), what is linear in x comes to
   (1 - t) x above zero and to -pos_weight t x below, so that nothing cancels. */
CK_INLINE V FN(log1p_exp)(V x) { return FN(log1p)(FN(exp)(-FN(abs)(x))); }
CK_INLINE V FN(binary)(const ck_pointwise *a, ptrdiff_t at, ptrdiff_t c, ptrdiff_t left) {
    const V zero = {0}, one = FN(set)((T)1);
    V x = FROM(a->x, zero), t = FROM(a->target, zero);
    V pos = FROM(a->pos_weight, one), positive = (pos - one) * t + one;
    V linear = FN(select)(x < zero, -pos * t, one - t) * x;
    V loss = positive * FN(log1p_exp)(x) + linear;
    if (a->weight) loss *= FROM(a->weight, one);
    if (a->losses) FN(store_some)((T *)a->losses + at + c, loss, left);
    return loss;
}
static double FN(bce)(const ck_pointwise *a, ptrdiff_t begin, ptrdiff_t end) {
    double total = 0;
    SUM_ROW(total, end - begin, FN(binary)(a, begin, c, left))
    return total;
}
/* By x: (1 - t) - positive * s(-x) = positive * s(x) - pos_weight * t, with s the sigmoid. */
static void FN(bce_grad)(const ck_pointwise *a, ptrdiff_t at, ptrdiff_t end) {
    const V zero = {0}, one = FN(set)((T)1), factor = FN(set)((T)a->factor);
    for (ptrdiff_t c = 0, left = end - at; left > 0; c += VL, left -= VL) {
        V x = FROM(a->x, zero), t = FROM(a->target, zero), pos = FROM(a->pos_weight, one);
        V g = FROM(a->gy, one) * factor * FROM(a->weight, one);
        if (a->gx) {
            V positive = (pos - one) * t + one;
            V slope = positive * FN(sigmoid)(x) - pos * t;
            FN(store_some)((T *)a->gx + at + c, g * slope, left);
        }
        if (a->g_target) {
            V softplus = FN(log1p_exp)(x) + FN(at_least)(-x, zero);
            V slope = (pos - one) * softplus - x;
            FN(store_some)((T *)a->g_target + at + c, g * slope, left);
        }
    }
}

#undef FROM
