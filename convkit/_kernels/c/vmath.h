/* exp, expm1, log, log1p, tanh, sigmoid and the normal distribution on vectors.

   float: the argument is cut to a short interval in the manner of Cody and Waite ("Software
   Manual for the Elementary Functions", 1980): x - n * ln 2 with ln 2 in two parts, where n is
   the nearest integer to x / ln 2. On the interval a polynomial is used whose coefficients are
   the best in the sense of the largest relative error (found with Lawson's iteration, "Contributions
   to the Theory of Linear Least Maximum Approximation", 1961, and rounded to float). Errors
   against float64, in units in the last place: exp and expm1 1, tanh, sigmoid and log1p 2.5,
   silu 3.1, the normal distribution 7. tests/test_vmath.py measures them.
   double: the C library, lane by lane. It is there to check gradients with.

   NaN stays NaN. Kernels flush denormals, so results below 2^-126 come out as zero. */

/* -- helpers ---------------------------------------------------------------------------- */

#define VMATH_LANES 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

/* All ones in the first n lanes. */
CK_INLINE vint32 first_lanes_f(int n) {
    static const int32_t lanes[16] = {VMATH_LANES};
    return *(const vint32_u *)lanes < n;
}
CK_INLINE vint64 first_lanes_d(int n) {
    static const int64_t lanes[16] = {VMATH_LANES};
    return *(const vint64_u *)lanes < n;
}

/* The first n lanes; the others are zero. */
CK_INLINE vfloat keep_first_f(vfloat v, int n) { return (vfloat)((vint32)v & first_lanes_f(n)); }
CK_INLINE vdouble keep_first_d(vdouble v, int n) { return (vdouble)((vint64)v & first_lanes_d(n)); }

/* Loads or stores n lanes where n < VL, else all of them. */
CK_INLINE vfloat load_some_f(const float *p, ptrdiff_t n) {
    return n >= VL_F ? load_f(p) : load_part_f(p, (int)n);
}
CK_INLINE vdouble load_some_d(const double *p, ptrdiff_t n) {
    return n >= VL_D ? load_d(p) : load_part_d(p, (int)n);
}
CK_INLINE void store_some_f(float *p, vfloat v, ptrdiff_t n) {
    if (n >= VL_F)
        store_f(p, v);
    else
        store_part_f(p, v, (int)n);
}
CK_INLINE void store_some_d(double *p, vdouble v, ptrdiff_t n) {
    if (n >= VL_D)
        store_d(p, v);
    else
        store_part_d(p, v, (int)n);
}

/* Larger and smaller of two; where x is NaN, x. */
CK_INLINE vfloat at_least_f(vfloat x, vfloat low) { return max_f(low, x); }
CK_INLINE vdouble at_least_d(vdouble x, vdouble low) { return select_d(x < low, low, x); }
CK_INLINE vfloat at_most_f(vfloat x, vfloat high) { return min_f(high, x); }
CK_INLINE vdouble at_most_d(vdouble x, vdouble high) { return select_d(x > high, high, x); }

CK_INLINE vfloat abs_f(vfloat x) { return (vfloat)((vint32)x & 0x7fffffff); }
CK_INLINE vdouble abs_d(vdouble x) { return (vdouble)((vint64)x & 0x7fffffffffffffffLL); }

/* Sum of the lanes, halves first. */
CK_INLINE float sum_lanes_f(vfloat v) {
    float part[VL_F];
    store_f(part, v);
    for (int half = VL_F / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}
CK_INLINE double sum_lanes_d(vdouble v) {
    double part[VL_D];
    store_d(part, v);
    for (int half = VL_D / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}
CK_INLINE float max_lanes_f(vfloat v) {
    float m = v[0];
    for (int i = 1; i < VL_F; i++) m = v[i] > m ? v[i] : m;
    return m;
}
CK_INLINE double max_lanes_d(vdouble v) {
    double m = v[0];
    for (int i = 1; i < VL_D; i++) m = v[i] > m ? v[i] : m;
    return m;
}

/* The activations that other kernels apply on the way (enum ck_activation of gemm.h), but those
   from CK_ACT_UNARY on. */
CK_INLINE vfloat activate_f(int kind, vfloat alpha, vfloat beta, vfloat v) {
    const vfloat zero = {0};
    switch (kind) {
    case CK_ACT_RELU:
        return at_least_f(v, zero);
    case CK_ACT_CLAMP:
        return at_most_f(at_least_f(v, alpha), beta);
    case CK_ACT_LEAKY:
        return select_f(v < zero, v * alpha, v);
    default:
        return v;
    }
}
CK_INLINE vdouble activate_d(int kind, vdouble alpha, vdouble beta, vdouble v) {
    const vdouble zero = {0};
    switch (kind) {
    case CK_ACT_RELU:
        return at_least_d(v, zero);
    case CK_ACT_CLAMP:
        return at_most_d(at_least_d(v, alpha), beta);
    case CK_ACT_LEAKY:
        return select_d(v < zero, v * alpha, v);
    default:
        return v;
    }
}

/* -- float ------------------------------------------------------------------------------- */

/* Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits. */
#define VMATH_ROUND 12582912.0f
#define VMATH_ROUND_BITS 0x4b400000
#define VMATH_LOG2E 1.44269504088896341f
#define VMATH_LN2_HIGH 0.693145752f      /* 17 bits, so that n * high is exact */
#define VMATH_LN2_LOW 1.42860677e-6f

/* x = n ln 2 + r with |r| <= ln 2 / 2; returns exp(r) - 1 and sets n. */
CK_INLINE vfloat exp_reduced_f(vfloat x, vint32 *n) {
    vfloat rounded = x * VMATH_LOG2E + VMATH_ROUND;
    vfloat whole = rounded - VMATH_ROUND;
    vfloat r = x - whole * VMATH_LN2_HIGH;
    r = r - whole * VMATH_LN2_LOW;
    vfloat p = r * 0.0013814602280035615f + 0.008368715643882751f;
    p = p * r + 0.04166838899254799f;
    p = p * r + 0.1666652113199234f;
    p = p * r + 0.4999999403953552f;
    *n = (vint32)rounded - VMATH_ROUND_BITS;
    return r * r * p + r;
}

/* 2^n for -126 <= n <= 127. */
CK_INLINE vfloat power_of_two_f(vint32 n) { return (vfloat)((n + 127) << 23); }

CK_INLINE vfloat exp_f(vfloat x) {
    vint32 n;
    x = at_most_f(at_least_f(x, set_f(-104.0f)), set_f(89.0f));
    vfloat p = exp_reduced_f(x, &n) + 1.0f;
    /* In two steps: n itself may be 128, or below -126. */
    vint32 half = n >> 1;
    return p * power_of_two_f(half) * power_of_two_f(n - half);
}

/* exp(x) - 1 without loss near zero, for x below 88. */
CK_INLINE vfloat expm1_f(vfloat x) {
    vint32 n;
    x = at_most_f(at_least_f(x, set_f(-18.0f)), set_f(88.0f));
    vfloat p = exp_reduced_f(x, &n);
    vfloat scale = power_of_two_f(n);
    return scale * p + (scale - 1.0f);
}

CK_INLINE vfloat log_f(vfloat x) {
    vint32 bits = (vint32)x;
    vint32 n = (bits - 0x3f3504f3) >> 23; /* the fraction lies in [sqrt(1/2), sqrt(2)) */
    vfloat f = (vfloat)(bits - (n << 23)) - 1.0f;
    vfloat e = __builtin_convertvector(n, vfloat);
    vfloat p = f * -0.07634497433900833f + 0.1276157796382904f;
    p = p * f - 0.13160182535648346f;
    p = p * f + 0.14201757311820984f;
    p = p * f - 0.16623356938362122f;
    p = p * f + 0.20001226663589478f;
    p = p * f - 0.2500081956386566f;
    p = p * f + 0.3333333134651184f;
    vfloat square = f * f;
    vfloat small = p * f * square + e * VMATH_LN2_LOW - 0.5f * square;
    vfloat y = small + f + e * VMATH_LN2_HIGH;
    y = select_f(x == set_f(INFINITY), x, y);
    y = select_f(x <= set_f(0.0f), set_f(-INFINITY), y);
    return select_f((x < set_f(0.0f)) | (x != x), set_f(NAN), y);
}

/* log(1 + x) without loss near zero, for 0 <= x <= 1: what 1 + x rounded away is put back. */
CK_INLINE vfloat log1p_f(vfloat x) {
    vfloat sum = x + 1.0f;
    return log_f(sum) + (x - (sum - 1.0f)) / sum;
}

CK_INLINE vfloat tanh_f(vfloat x) {
    vfloat e = expm1_f(2.0f * at_most_f(abs_f(x), set_f(10.0f)));
    vint32 sign = (vint32)x & (int32_t)0x80000000;
    return (vfloat)((vint32)(e / (e + 2.0f)) | sign);
}

/* 1 / (1 + exp(-x)). The exponent is held where 2^n and the sum are finite normal numbers; the
   reciprocal is an estimate and one step of Newton's method, which is right to half a unit in the
   last place or little more, in a third of a division's time. */
CK_INLINE vfloat sigmoid_f(vfloat x) {
    vint32 n;
    vfloat p = exp_reduced_f(at_most_f(at_least_f(-x, set_f(-87.0f)), set_f(88.0f)), &n) + 1.0f;
    vfloat sum = (vfloat)((vint32)p + (n << 23)) + 1.0f;
#if CK_VBYTES == 64
    vfloat r = reciprocal_f(sum);
    return r + r * (1.0f - sum * r);
#else
    return 1.0f / sum;
#endif
}

/* The normal distribution function at x, and its density. With u = 1 / (1 + |x| / 4), the
   tail is density * u * polynomial(u): the form of Hastings ("Approximations for Digital
   Computers", 1955), with coefficients fitted as above to relative error on [0, 14.5]. The
   lower tail keeps its relative accuracy, which 1 + erf would cancel away. */
CK_INLINE vfloat normal_f(vfloat x, vfloat *density) {
    vfloat t = abs_f(x);
    vfloat u = 1.0f / (t * 0.25f + 1.0f);
    vfloat e = exp_f(-0.5f * t * t);
    vfloat p = u * 0.01689239591360092f - 0.06453712284564972f;
    p = p * u + 0.05587935820221901f;
    p = p * u + 0.02261105738580227f;
    p = p * u + 0.017734581604599953f;
    p = p * u + 0.08385130017995834f;
    p = p * u + 0.07301277667284012f;
    p = p * u + 0.09528786689043045f;
    p = p * u + 0.0995214581489563f;
    p = p * u + 0.09974633157253265f;
    vfloat tail = p * u * e;
    *density = e * 0.39894228040143268f;
    return select_f(x > set_f(0.0f), 1.0f - tail, tail);
}

/* -- double ------------------------------------------------------------------------------ */

#define VMATH_BY_LANE(name, expression)                            \
    CK_INLINE vdouble name(vdouble v) {                            \
        for (int i = 0; i < VL_D; i++) {                           \
            double x = v[i];                                       \
            v[i] = (expression);                                   \
        }                                                          \
        return v;                                                  \
    }
VMATH_BY_LANE(exp_d, exp(x))
VMATH_BY_LANE(expm1_d, expm1(x))
VMATH_BY_LANE(log_d, log(x))
VMATH_BY_LANE(log1p_d, log1p(x))
VMATH_BY_LANE(tanh_d, tanh(x))
VMATH_BY_LANE(sigmoid_d, 1.0 / (1.0 + exp(-x)))
VMATH_BY_LANE(normal_below_d, 0.5 * erfc(-0.70710678118654752440 * x))

CK_INLINE vdouble normal_d(vdouble x, vdouble *density) {
    *density = exp_d(-0.5 * x * x) * 0.39894228040143267794;
    return normal_below_d(x);
}

/* base^exponent for base >= 0; the exponent 0 gives 1. */
CK_INLINE vfloat power_f(vfloat base, vfloat exponent) {
    return select_f(exponent == set_f(0.0f), set_f(1.0f), exp_f(exponent * log_f(base)));
}
CK_INLINE vdouble power_d(vdouble base, vdouble exponent) {
    return select_d(exponent == set_d(0.0), set_d(1.0), exp_d(exponent * log_d(base)));
}
