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

/* name's value and its slopes by x and by t: expressions of x, t, d = x - t, a, b, zero and
   one. */
#define POINTWISE(name, value, slope_x, slope_t)                                                \
    CK_INLINE V FN(name##_value)(const ck_pointwise *o, ptrdiff_t at, ptrdiff_t c,              \
                                 ptrdiff_t left) {                                              \
        const V zero = {0}, one = FN(set)((T)1), a = FN(set)((T)o->a), b = FN(set)((T)o->b);    \
        const V x = FROM(o->x, zero), t = FROM(o->target, zero), d = x - t;                     \
        (void)one, (void)a, (void)b, (void)d;                                                   \
        V loss = (value);                                                                       \
        if (o->weight) loss *= FROM(o->weight, one);                                            \
        if (o->losses) FN(store_some)((T *)o->losses + at + c, loss, left);                     \
        return loss;                                                                            \
    }                                                                                           \
    static double FN(name##_sum)(const ck_pointwise *o, ptrdiff_t begin, ptrdiff_t end) {       \
        double total = 0;                                                                       \
        SUM_ROW(total, end - begin, FN(name##_value)(o, begin, c, left))                        \
        return total;                                                                           \
    }                                                                                           \
    static void FN(name##_slopes)(const ck_pointwise *o, ptrdiff_t at, ptrdiff_t end) {         \
        const V zero = {0}, one = FN(set)((T)1), a = FN(set)((T)o->a), b = FN(set)((T)o->b);    \
        const V factor = FN(set)((T)o->factor);                                                 \
        (void)a, (void)b;                                                                       \
        for (ptrdiff_t c = 0, left = end - at; left > 0; c += VL, left -= VL) {                 \
            const V x = FROM(o->x, zero), t = FROM(o->target, zero), d = x - t;                 \
            const V g = FROM(o->gy, one) * factor * FROM(o->weight, one);                       \
            (void)d;                                                                            \
            if (o->gx) FN(store_some)((T *)o->gx + at + c, g * (slope_x), left);                \
            if (o->g_target) FN(store_some)((T *)o->g_target + at + c, g * (slope_t), left);    \
        }                                                                                       \
    }

POINTWISE(mse, d *d, d + d, -(d + d))

/* 1, 0 or -1; NaN stays. */
CK_INLINE V FN(sign)(V x) {
    const V zero = {0}, one = FN(set)((T)1);
    return FN(select)(x > zero, one, FN(select)(x < zero, -one, x));
}
POINTWISE(l1, FN(abs)(d), FN(sign)(d), -FN(sign)(d))

/* Huber, "Robust Estimation of a Location Parameter", 1964: a parabola between -a and a, and
   its tangents. */
CK_INLINE V FN(huber_of)(V d, V a) {
    const V half = FN(set)((T)0.5), size = FN(abs)(d);
    return FN(select)(size > a, a * (size - half * a), half * d * d);
}
CK_INLINE V FN(huber_slope)(V d, V a) { return FN(at_most)(FN(at_least)(d, -a), a); }
POINTWISE(huber, FN(huber_of)(d, a), FN(huber_slope)(d, a), -FN(huber_slope)(d, a))
POINTWISE(smooth_l1, FN(huber_of)(d, a) / a, FN(huber_slope)(d, a) / a,
          -FN(huber_slope)(d, a) / a)

/* Kullback and Leibler's divergence of exp(x) from t: t (log t - x), 0 where t is 0. */
POINTWISE(kl, FN(select)(t == zero, zero, t *(FN(log)(t) - x)), -t,
          FN(select)(t == zero, -x, FN(log)(t) + one - x))
POINTWISE(kl_log, FN(exp)(t) * (t - x), -FN(exp)(t), FN(exp)(t) * (t - x + one))

/* Targets are -1 and 1. */
CK_INLINE V FN(step)(V x) { return FN(select)(x > (V){0}, FN(set)((T)1), (V){0}); }
POINTWISE(hinge, FN(at_least)(a - t * x, zero), -t *FN(step)(a - t * x), -x *FN(step)(a - t * x))

/* With positive = 1 + (pos_weight - 1) t, the loss is (1 - t) x + positive log(1 + exp(-x)).
   Since log(1 + exp(-x)) = log1p(exp(-|x|)) + max(-x, 0), what is linear in x comes to
   (1 - t) x above zero and to -pos_weight t x below, so that nothing cancels. By x:
   (1 - t) - positive * s(-x) = positive * s(x) - pos_weight * t, with s the sigmoid. */
CK_INLINE V FN(log1p_exp)(V x) { return FN(log1p)(FN(exp)(-FN(abs)(x))); }
CK_INLINE V FN(bce_logits_of)(V x, V t, V pos) {
    const V zero = {0}, one = FN(set)((T)1);
    V linear = FN(select)(x < zero, -pos * t, one - t) * x;
    return ((pos - one) * t + one) * FN(log1p_exp)(x) + linear;
}
CK_INLINE V FN(bce_logits_by_x)(V x, V t, V pos) {
    const V one = FN(set)((T)1);
    return ((pos - one) * t + one) * FN(sigmoid)(x) - pos * t;
}
CK_INLINE V FN(bce_logits_by_t)(V x, V pos) {
    const V zero = {0}, one = FN(set)((T)1);
    return (pos - one) * (FN(log1p_exp)(x) + FN(at_least)(-x, zero)) - x;
}
#define POS FROM(o->pos_weight, one)
POINTWISE(bce_logits, FN(bce_logits_of)(x, t, POS), FN(bce_logits_by_x)(x, t, POS),
          FN(bce_logits_by_t)(x, POS))

/* x is a probability. Logarithms below -100 count as -100, and the slope's divisor is at
   least 1e-12, as in PyTorch. 1 - x loses what x has below the last place of 1: it is put
   back behind the logarithm. */
CK_INLINE V FN(log_of_rest)(V x) {
    const V zero = {0}, one = FN(set)((T)1), rest = one - x;
    V lost = ((one - rest) - x) / rest;
    return FN(log)(rest) + FN(select)(rest > zero, lost, zero);
}
CK_INLINE V FN(bce_of)(V x, V t) {
    const V one = FN(set)((T)1), least = FN(set)((T)-100);
    return (t - one) * FN(at_least)(FN(log_of_rest)(x), least)
           - t * FN(at_least)(FN(log)(x), least);
}
POINTWISE(bce, FN(bce_of)(x, t), d / FN(at_least)((one - x) * x, FN(set)((T)1e-12)),
          FN(at_least)(FN(log_of_rest)(x), FN(set)((T)-100))
              - FN(at_least)(FN(log)(x), FN(set)((T)-100)))

/* Lin et al., "Focal Loss for Dense Object Detection", 2017: binary cross entropy times
   share * miss^b, where miss is the probability of the wrong answer. With p the sigmoid,
   miss' = (1 - 2 t) p (1 - p). */
CK_INLINE V FN(focal_share)(V t, V a) {
    const V zero = {0}, one = FN(set)((T)1);
    return FN(select)(a < zero, one, a * t + (one - a) * (one - t));
}
CK_INLINE V FN(focal_miss)(V x, V t) {
    const V one = FN(set)((T)1);
    return t * FN(sigmoid)(-x) + (one - t) * FN(sigmoid)(x);
}
CK_INLINE V FN(focal_of)(V x, V t, V a, V b) {
    const V one = FN(set)((T)1);
    return FN(focal_share)(t, a) * FN(power)(FN(focal_miss)(x, t), b)
           * FN(bce_logits_of)(x, t, one);
}
CK_INLINE V FN(focal_slope)(V x, V t, V a, V b) {
    const V zero = {0}, one = FN(set)((T)1);
    V p = FN(sigmoid)(x), miss = FN(focal_miss)(x, t);
    V turn = FN(select)(miss > zero, (one - t - t) * p * FN(sigmoid)(-x) / miss, zero);
    return FN(focal_share)(t, a) * FN(power)(miss, b)
           * (FN(bce_logits_by_x)(x, t, one) + b * turn * FN(bce_logits_of)(x, t, one));
}
POINTWISE(focal, FN(focal_of)(x, t, a, b), FN(focal_slope)(x, t, a, b), zero)

#undef POS
#undef POINTWISE
#undef FROM
