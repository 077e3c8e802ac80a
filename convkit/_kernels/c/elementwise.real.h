/* Template of the elementwise kernels for one number type (see real_f.h). */

/* name(x): y in terms of x, a and b. */
#define UNARY_MAP(name, expression)                                                  \
    static void FN(name##_map)(const void *px, void *py, ptrdiff_t n, double pa,     \
                               double pb) {                                          \
        const V a = FN(set)((T)pa), b = FN(set)((T)pb), zero = {0};                  \
        (void)a, (void)b, (void)zero;                                                \
        for (ptrdiff_t i = 0; i < n; i += VL) {                                      \
            V x = FN(load_some)((const T *)px + i, n - i);                           \
            FN(store_some)((T *)py + i, (expression), n - i);                        \
        }                                                                            \
    }

/* name's gradient: gx in terms of g (the gradient of y), v (what was saved), a
   and b. */
#define UNARY_GRAD(name, expression)                                                          \
    static void FN(name##_grad)(const void *pg, const void *pv, void *px, ptrdiff_t n,        \
                                double pa, double pb) {                                       \
        const V a = FN(set)((T)pa), b = FN(set)((T)pb), zero = {0};                           \
        (void)a, (void)b, (void)zero;                                                         \
        for (ptrdiff_t i = 0; i < n; i += VL) {                                               \
            V g = FN(load_some)((const T *)pg + i, n - i);                                    \
            V v = FN(load_some)((const T *)pv + i, n - i);                                    \
            FN(store_some)((T *)px + i, (expression), n - i);                                 \
        }                                                                                     \
    }

#define C(x) FN(set)((T)(x))

UNARY_MAP(relu, FN(at_least)(x, zero))
UNARY_GRAD(relu, FN(select)(v <= zero, zero, g))

UNARY_MAP(relu6, FN(at_most)(FN(at_least)(x, zero), C(6)))
UNARY_GRAD(relu6, FN(select)((v > zero) & (v < C(6)), g, zero))

UNARY_MAP(leaky_relu, FN(select)(x > zero, x, x *a))
UNARY_GRAD(leaky_relu, FN(select)(v > zero, g, g *a))

UNARY_MAP(elu, FN(select)(x > zero, x, a *FN(expm1)(FN(at_most)(x, zero))))
UNARY_GRAD(elu, FN(select)(v > zero, g, g *a *FN(exp)(FN(at_most)(v, zero))))

UNARY_MAP(sigmoid, FN(sigmoid)(x))
UNARY_GRAD(sigmoid, g *v *(C(1) - v))

UNARY_MAP(tanh, FN(tanh)(x))
UNARY_GRAD(tanh, g *(C(1) - v * v))

CK_INLINE V FN(silu_slope)(V x) {
    V s = FN(sigmoid)(x);
    return s * (x * (C(1) - s) + C(1));
}
UNARY_MAP(silu, x *FN(sigmoid)(x))
UNARY_GRAD(silu, g *FN(silu_slope)(v))

/* Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: x times the normal
   distribution function, or 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is
   x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)). */
CK_INLINE V FN(gelu_value)(V x) {
    V density;
    return x * FN(normal)(x, &density);
}
CK_INLINE V FN(gelu_slope)(V x) {
    V density, below = FN(normal)(x, &density);
    return below + x * density;
}
UNARY_MAP(gelu, FN(gelu_value)(x))
UNARY_GRAD(gelu, g *FN(gelu_slope)(v))

#define GELU_INNER 1.59576912160573071176 /* 2 sqrt(2 / pi) */
#define GELU_CUBIC 0.044715
CK_INLINE V FN(gelu_tanh_value)(V x) {
    return x * FN(sigmoid)(x * (x * x * C(GELU_INNER * GELU_CUBIC) + C(GELU_INNER)));
}
CK_INLINE V FN(gelu_tanh_slope)(V x) {
    V square = x * x;
    V s = FN(sigmoid)(x * (square * C(GELU_INNER * GELU_CUBIC) + C(GELU_INNER)));
    V inner = square * C(3 * GELU_INNER * GELU_CUBIC) + C(GELU_INNER);
    return s + x * s * (C(1) - s) * inner;
}
UNARY_MAP(gelu_tanh, FN(gelu_tanh_value)(x))
UNARY_GRAD(gelu_tanh, g *FN(gelu_tanh_slope)(v))

/* Howard et al., "Searching for MobileNetV3", 2019. */
CK_INLINE V FN(relu6_of)(V x) { return FN(at_most)(FN(at_least)(x, C(0)), C(6)); }
UNARY_MAP(hardswish, x *(FN(relu6_of)(x + C(3)) * C(1.0 / 6)))
UNARY_GRAD(hardswish,
           FN(select)(v <= C(-3), zero, FN(select)(v >= C(3), g, g *(v / C(3) + C(0.5)))))

UNARY_MAP(hardsigmoid, FN(relu6_of)(x + C(3)) * C(1.0 / 6))
UNARY_GRAD(hardsigmoid, FN(select)((v > zero) & (v < C(1)), g / C(6), zero))

/* The Taylor series near zero, where 2 normal(sqrt(2) x) - 1 would cancel (Abramowitz and
   Stegun, "Handbook of Mathematical Functions", 7.1.5). */
#define ERF_SLOPE 1.12837916709551257390 /* 2 / sqrt(pi) */
CK_INLINE V FN(erf_value)(V x) {
    V q = -x * x, sum = C(1.0 / 3628800 / 21), density;
    sum = sum * q + C(1.0 / 362880 / 19);
    sum = sum * q + C(1.0 / 40320 / 17);
    sum = sum * q + C(1.0 / 5040 / 15);
    sum = sum * q + C(1.0 / 720 / 13);
    sum = sum * q + C(1.0 / 120 / 11);
    sum = sum * q + C(1.0 / 24 / 9);
    sum = sum * q + C(1.0 / 6 / 7);
    sum = sum * q + C(1.0 / 2 / 5);
    sum = sum * q + C(1.0 / 3);
    V near = (sum * q + C(1)) * x * C(ERF_SLOPE);
    V far = C(2) * FN(normal)(x * C(1.41421356237309504880), &density) - C(1);
    /* NaN is neither above nor below and takes `far`. */
    return FN(select)((x > C(-0.5)) & (x < C(0.5)), near, far);
}
UNARY_MAP(erf, FN(erf_value)(x))
UNARY_GRAD(erf, g *FN(exp)(-v * v) * C(ERF_SLOPE))

UNARY_MAP(hardtanh, FN(at_most)(FN(at_least)(x, a), b))
UNARY_GRAD(hardtanh, FN(select)((v <= a) | (v >= b), zero, g))

/* Klambauer et al., "Self-Normalizing Neural Networks", 2017. */
#define SELU_SCALE 1.0507009873554804934193349852946
#define SELU_ALPHA 1.6732632423543772848170429916717
UNARY_MAP(selu, FN(select)(x > zero, x *C(SELU_SCALE),
                           C(SELU_SCALE *SELU_ALPHA) * FN(expm1)(FN(at_most)(x, zero))))
UNARY_GRAD(selu, FN(select)(v > zero, g *C(SELU_SCALE),
                            g *C(SELU_SCALE *SELU_ALPHA) * FN(exp)(FN(at_most)(v, zero))))

/* Barron, "Continuously Differentiable Exponential Linear Units", 2017. */
UNARY_MAP(celu, FN(select)(x > zero, x, a *FN(expm1)(FN(at_most)(x, zero) / a)))
UNARY_GRAD(celu, FN(select)(v > zero, g, g *FN(exp)(FN(at_most)(v, zero) / a)))

/* log(1 + exp(x)), without overflow or loss on either side. */
CK_INLINE V FN(softplus_of)(V x) {
    return FN(at_least)(x, C(0)) + FN(log1p)(FN(exp)(-FN(abs)(x)));
}
UNARY_MAP(softplus, FN(select)(x *a > b, x, FN(softplus_of)(x *a) / a))
UNARY_GRAD(softplus, FN(select)(v *a > b, g, g *FN(sigmoid)(v *a)))

UNARY_MAP(logsigmoid, -FN(softplus_of)(-x))
UNARY_GRAD(logsigmoid, g *FN(sigmoid)(-v))

UNARY_MAP(softsign, x / (FN(abs)(x) + C(1)))
UNARY_GRAD(softsign, g / ((FN(abs)(v) + C(1)) * (FN(abs)(v) + C(1))))

/* Misra, "Mish", 2019: x tanh(softplus(x)). With e = exp(x) and n = e (e + 2), the tangent is
   n / (n + 2), and its slope 4 e (e + 1) / (n + 2)^2; above 20 it is 1 in both formats. */
CK_INLINE V FN(mish_exp)(V x) { return FN(exp)(FN(at_most)(x, C(20))); }
CK_INLINE V FN(mish_value)(V x) {
    V e = FN(mish_exp)(x), n = e * (e + C(2));
    return x * (n / (n + C(2)));
}
CK_INLINE V FN(mish_slope)(V x) {
    V e = FN(mish_exp)(x), n = e * (e + C(2)), root = n + C(2);
    return n / root + FN(at_most)(x, C(20)) * (C(4) * e * (e + C(1)) / (root * root));
}
UNARY_MAP(mish, FN(mish_value)(x))
UNARY_GRAD(mish, g *FN(mish_slope)(v))

static void FN(add_rows)(const void *pa, const void *pb, void *py, ptrdiff_t n, int activation,
                         double alpha, double beta) {
    const V low = C(alpha), high = C(beta);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        V sum = FN(load_some)((const T *)pa + i, n - i) + FN(load_some)((const T *)pb + i, n - i);
        FN(store_some)((T *)py + i, FN(activate)(activation, low, high, sum), n - i);
    }
}

/* One row; the steps are constants wherever it is inlined. */
#define BINARY_ROW(name, operator)                                                          \
    CK_INLINE void FN(name##_row)(const T *a, int step_a, const T *b, int step_b, T *y,     \
                                  ptrdiff_t n) {                                            \
        V one_a = FN(set)(*a), one_b = FN(set)(*b);                                         \
        for (ptrdiff_t i = 0; i < n; i += VL) {                                             \
            V va = step_a ? FN(load_some)(a + i, n - i) : one_a;                            \
            V vb = step_b ? FN(load_some)(b + i, n - i) : one_b;                            \
            FN(store_some)(y + i, va operator vb, n - i);                                   \
        }                                                                                   \
    }                                                                                       \
    static void FN(name##_rows)(const ck_binary_rows *block) {                              \
        const T *a = block->a, *b = block->b;                                               \
        T *y = block->y;                                                                    \
        ptrdiff_t n = block->n;                                                             \
        for (ptrdiff_t r = 0; r < block->rows; r++, y += n) {                               \
            if (block->step_a && block->step_b)                                             \
                FN(name##_row)(a, 1, b, 1, y, n);                                           \
            else if (block->step_a)                                                         \
                FN(name##_row)(a, 1, b, 0, y, n);                                           \
            else                                                                            \
                FN(name##_row)(a, 0, b, block->step_b, y, n);                               \
            a += block->row_a;                                                              \
            b += block->row_b;                                                              \
        }                                                                                   \
    }
BINARY_ROW(plus, +)
BINARY_ROW(minus, -)
BINARY_ROW(times, *)
BINARY_ROW(over, /)

#undef C
#undef BINARY_ROW
#undef UNARY_MAP
#undef UNARY_GRAD
#undef SELU_SCALE
#undef SELU_ALPHA
#undef GELU_INNER
#undef GELU_CUBIC
#undef ERF_SLOPE
