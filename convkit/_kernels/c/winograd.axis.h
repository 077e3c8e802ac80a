/* Winograd's minimal filtering, F(2x2, 3x3), F(4x4, 3x3), F(2x2, 5x5), F(4x4, 5x5), and F(2x2, 3x3) with stride 2:
   the transforms of one axis, vectorised over channels.

   y = A^T [(G w G^T) * (B^T x B)] A for tiles of n x n inputs, n = tile + taps - 1 (Winograd,
   "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
   Convolutional Neural Networks", 2016). Row p of B^T holds the coefficients of the product
   of (t - q) over all points q but p, row p of G the powers of p divided by the product of
   (p - q), column p of A^T the powers of p (Toom and Cook; Barabasz et al., "Error Analysis
   and Improving the Accuracy of Winograd Convolution for DNNs", 2018).

   The points are 0, 1, -1, infinity where n is 4, and 0, a, -a, b, -b, infinity with a = 5/8 and
   b = 3/2 where it is 6: every coefficient of B^T is exact in float32, and rounding errors are a
   quarter of those of the points 1 and 2. Rows of a pair +-p share their even and odd halves.
   B^T depends on the points alone, so F(4x4, 3x3) and F(2x2, 5x5) share it. Where n is 8 the points are
   0, 1/2, 1, 2, their negatives, and infinity.

   The gradient of the weight is F(taps x taps, tile x tile) with the same points: a tile of the
   output's gradient plays the kernel's part, and the tiles' products are summed before they are
   transformed back. There the division by (p - q) is left to the last step.

   With stride 2 a kernel's outer taps w0 and w2 meet every other pixel, and its middle tap w1 the ones
   between: y[0] = w0 d[0] + w1 d[1] + w2 d[2], y[1] = w0 d[2] + w1 d[3] + w2 d[4]. The former are
   F(2, 2), three products with the points 0, 1, infinity; the latter are two products with the same
   weight, so that 5 positions have 4 weights. The gradient of the input is the same turned around:
   two pixels between from w1, two others from F(2, 2). That of the weight would be no faster than
   direct sums: 25 products of 36 do not make up for transforming tiles 5 pixels wide.

   One sum has one order of operations wherever a tile lies: how tiles are cut into tasks
   changes no bit. */

#ifndef CK_WINOGRAD_AXIS_H
#define CK_WINOGRAD_AXIS_H

#define WINO_A 0.625f
#define WINO_B 1.5f
#define WINO_A2 (WINO_A * WINO_A)
#define WINO_B2 (WINO_B * WINO_B)
/* One over the products of (p - q) for p = 0, +-a and +-b. */
#define WINO_AT_0 (1 / (WINO_A2 * WINO_B2))
#define WINO_AT_A (0.5f / (WINO_A2 * (WINO_A2 - WINO_B2)))
#define WINO_AT_B (0.5f / (WINO_B2 * (WINO_B2 - WINO_A2)))
/* The same where n is 8: for 0 it is -1. */
#define WINO_AT_HALF (32 / 45.0f)
#define WINO_AT_1 (-2 / 9.0f)
#define WINO_AT_2 (1 / 90.0f)
#define WINO_UNROLL _Pragma("GCC unroll 8")
#define WINO_UNROLL_ROWS _Pragma("GCC unroll 8")
#define WINO_UNROLL_TAPS _Pragma("GCC unroll 25")

CK_INLINE void wino_input_4(const vfloat *d, vfloat *v) {
    v[0] = d[0] - d[2];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
}

/* Values at +-a and +-b, by their halves of even and of odd powers. */
CK_INLINE void wino_pairs(vfloat even_a, vfloat odd_a, vfloat even_b, vfloat odd_b, vfloat *v) {
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
}

CK_INLINE void wino_input_6(const vfloat *d, vfloat *v) {
    vfloat odd_a = d[3] - WINO_B2 * d[1], odd_b = d[3] - WINO_A2 * d[1];
    wino_pairs(d[4] - WINO_B2 * d[2], WINO_A * odd_a, d[4] - WINO_A2 * d[2], WINO_B * odd_b, v);
    v[0] = WINO_A2 * WINO_B2 * d[0] + (d[4] - (WINO_A2 + WINO_B2) * d[2]);
    v[5] = WINO_A2 * WINO_B2 * d[1] + (d[5] - (WINO_A2 + WINO_B2) * d[3]);
}

CK_INLINE void wino_triples(vfloat even_half, vfloat odd_half, vfloat even_1, vfloat odd_1, vfloat even_2,
                            vfloat odd_2, vfloat *v) {
    wino_pairs(even_half, odd_half, even_1, odd_1, v);
    v[5] = even_2 + odd_2;
    v[6] = even_2 - odd_2;
}

CK_INLINE void wino_input_8(const vfloat *d, vfloat *v) {
    wino_triples((d[6] - 5.0f * d[4]) + 4.0f * d[2], 0.5f * ((d[5] - 5.0f * d[3]) + 4.0f * d[1]),
                 (d[6] - 4.25f * d[4]) + d[2], (d[5] - 4.25f * d[3]) + d[1],
                 (d[6] - 1.25f * d[4]) + 0.25f * d[2], 2.0f * ((d[5] - 1.25f * d[3]) + 0.25f * d[1]), v);
    v[0] = (d[6] - d[0]) + 5.25f * (d[2] - d[4]);
    v[7] = (d[7] - d[1]) + 5.25f * (d[3] - d[5]);
}

CK_INLINE void wino_output_f23(const vfloat *m, vfloat *y) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
}

/* The columns of a pair +-p of A^T are divided by p, and the rows of G multiplied by it, so
   that y[1] needs no products. */
CK_INLINE void wino_output_f43(const vfloat *m, vfloat *y) {
    vfloat sum_a = m[1] + m[2], sum_b = m[3] + m[4];
    vfloat difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    y[0] = (m[0] + (1 / WINO_A) * sum_a) + (1 / WINO_B) * sum_b;
    y[1] = difference_a + difference_b;
    y[2] = WINO_A * sum_a + WINO_B * sum_b;
    y[3] = (m[5] + WINO_A2 * difference_a) + WINO_B2 * difference_b;
}

CK_INLINE void wino_output_f25(const vfloat *m, vfloat *y) {
    vfloat difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    y[0] = (m[0] + (m[1] + m[2])) + (m[3] + m[4]);
    y[1] = (m[5] + WINO_A * difference_a) + WINO_B * difference_b;
}

CK_INLINE void wino_output_f45(const vfloat *m, vfloat *y) {
    vfloat sum_half = m[1] + m[2], sum_1 = m[3] + m[4], sum_2 = m[5] + m[6];
    vfloat difference_half = m[1] - m[2], difference_1 = m[3] - m[4], difference_2 = m[5] - m[6];
    y[0] = (m[0] + sum_half) + (sum_1 + sum_2);
    y[1] = (0.5f * difference_half + difference_1) + 2.0f * difference_2;
    y[2] = (0.25f * sum_half + sum_1) + 4.0f * sum_2;
    y[3] = ((m[7] + 0.125f * difference_half) + difference_1) + 8.0f * difference_2;
}

CK_INLINE void wino_weights_f23(const vfloat *g, vfloat *u) {
    vfloat even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
}

CK_INLINE void wino_weights_f43(const vfloat *g, vfloat *u) {
    const float at_a = WINO_A * WINO_AT_A, at_b = WINO_B * WINO_AT_B;
    wino_pairs(at_a * (g[0] + WINO_A2 * g[2]), at_a * WINO_A * g[1],
               at_b * (g[0] + WINO_B2 * g[2]), at_b * WINO_B * g[1], u);
    u[0] = WINO_AT_0 * g[0];
    u[5] = g[2];
}

CK_INLINE void wino_weights_f25(const vfloat *g, vfloat *u) {
    wino_pairs(WINO_AT_A * (g[0] + WINO_A2 * (g[2] + WINO_A2 * g[4])),
               WINO_AT_A * WINO_A * (g[1] + WINO_A2 * g[3]),
               WINO_AT_B * (g[0] + WINO_B2 * (g[2] + WINO_B2 * g[4])),
               WINO_AT_B * WINO_B * (g[1] + WINO_B2 * g[3]), u);
    u[0] = WINO_AT_0 * g[0];
    u[5] = g[4];
}

CK_INLINE void wino_weights_f45(const vfloat *g, vfloat *u) {
    wino_triples(WINO_AT_HALF * (g[0] + 0.25f * (g[2] + 0.25f * g[4])),
                 0.5f * WINO_AT_HALF * (g[1] + 0.25f * g[3]),
                 WINO_AT_1 * (g[0] + (g[2] + g[4])), WINO_AT_1 * (g[1] + g[3]),
                 WINO_AT_2 * (g[0] + 4.0f * (g[2] + 4.0f * g[4])),
                 2.0f * WINO_AT_2 * (g[1] + 4.0f * g[3]), u);
    u[0] = -g[0];
    u[7] = g[4];
}

CK_INLINE void wino_gradient_f23(const vfloat *g, vfloat *d) {
    d[0] = g[0];
    d[1] = g[0] + g[1];
    d[2] = g[0] - g[1];
    d[3] = g[1];
}

CK_INLINE void wino_gradient_f43(const vfloat *g, vfloat *d) {
    wino_pairs(g[0] + WINO_A2 * g[2], WINO_A * (g[1] + WINO_A2 * g[3]),
               g[0] + WINO_B2 * g[2], WINO_B * (g[1] + WINO_B2 * g[3]), d);
    d[0] = g[0];
    d[5] = g[3];
}

CK_INLINE void wino_gradient_f25(const vfloat *g, vfloat *d) {
    wino_pairs(g[0], WINO_A * g[1], g[0], WINO_B * g[1], d);
    d[0] = g[0];
    d[5] = g[1];
}

CK_INLINE void wino_gradient_f45(const vfloat *g, vfloat *d) {
    wino_triples(g[0] + 0.25f * g[2], 0.5f * (g[1] + 0.25f * g[3]), g[0] + g[2], g[1] + g[3],
                 g[0] + 4.0f * g[2], 2.0f * (g[1] + 4.0f * g[3]), d);
    d[0] = g[0];
    d[7] = g[3];
}

CK_INLINE void wino_taps_f23(const vfloat *s, vfloat *w) {
    vfloat sum = 0.5f * (s[1] + s[2]);
    w[0] = s[0] + sum;
    w[1] = 0.5f * (s[1] - s[2]);
    w[2] = s[3] + sum;
}

CK_INLINE void wino_taps_f43(const vfloat *s, vfloat *w) {
    vfloat sum_a = WINO_AT_A * (s[1] + s[2]), difference_a = WINO_AT_A * (s[1] - s[2]);
    vfloat sum_b = WINO_AT_B * (s[3] + s[4]), difference_b = WINO_AT_B * (s[3] - s[4]);
    w[0] = WINO_AT_0 * s[0] + (sum_a + sum_b);
    w[1] = WINO_A * difference_a + WINO_B * difference_b;
    w[2] = s[5] + (WINO_A2 * sum_a + WINO_B2 * sum_b);
}

CK_INLINE void wino_taps_f25(const vfloat *s, vfloat *w) {
    vfloat sum_a = WINO_AT_A * (s[1] + s[2]), sum_b = WINO_AT_B * (s[3] + s[4]);
    vfloat difference_a = WINO_AT_A * WINO_A * (s[1] - s[2]);
    vfloat difference_b = WINO_AT_B * WINO_B * (s[3] - s[4]);
    w[0] = WINO_AT_0 * s[0] + (sum_a + sum_b);
    w[1] = difference_a + difference_b;
    w[2] = WINO_A2 * sum_a + WINO_B2 * sum_b;
    w[3] = WINO_A2 * difference_a + WINO_B2 * difference_b;
    w[4] = s[5] + (WINO_A2 * WINO_A2 * sum_a + WINO_B2 * WINO_B2 * sum_b);
}

CK_INLINE void wino_taps_f45(const vfloat *s, vfloat *w) {
    vfloat sum_half = WINO_AT_HALF * (s[1] + s[2]), difference_half = 0.5f * WINO_AT_HALF * (s[1] - s[2]);
    vfloat sum_1 = WINO_AT_1 * (s[3] + s[4]), difference_1 = WINO_AT_1 * (s[3] - s[4]);
    vfloat sum_2 = WINO_AT_2 * (s[5] + s[6]), difference_2 = 2.0f * WINO_AT_2 * (s[5] - s[6]);
    w[0] = (sum_half - s[0]) + (sum_1 + sum_2);
    w[1] = (difference_half + difference_1) + difference_2;
    w[2] = (0.25f * sum_half + sum_1) + 4.0f * sum_2;
    w[3] = (0.25f * difference_half + difference_1) + 4.0f * difference_2;
    w[4] = ((s[7] + 0.0625f * sum_half) + sum_1) + 16.0f * sum_2;
}

CK_INLINE void wino_input_s2(const vfloat *d, vfloat *v) {
    v[0] = d[0] - d[2];
    v[1] = d[2];
    v[2] = d[4] - d[2];
    v[3] = d[1];
    v[4] = d[3];
}

CK_INLINE void wino_output_s2(const vfloat *m, vfloat *y) {
    y[0] = (m[0] + m[1]) + m[3];
    y[1] = (m[1] + m[2]) + m[4];
}

CK_INLINE void wino_weights_s2(const vfloat *g, vfloat *u) {
    u[0] = g[0];
    u[1] = g[0] + g[2];
    u[2] = g[2];
    u[3] = g[1];
}

/* The gradient of the input, whose kernels are turned. */
CK_INLINE void wino_input_t2(const vfloat *d, vfloat *v) {
    v[0] = d[0] - d[1];
    v[1] = v[4] = d[1];
    v[2] = d[2] - d[1];
    v[3] = d[0];
}

CK_INLINE void wino_output_t2(const vfloat *m, vfloat *y) {
    y[0] = m[3];
    y[1] = m[0] + m[1];
    y[2] = m[4];
    y[3] = m[1] + m[2];
}

/* Raises the lanes of `peak` to the bits of |v|: infinities and NaN exceed all numbers. */
CK_INLINE vint32 wino_raise(vint32 peak, vfloat v) {
    vint32 bits = (vint32)v & 0x7fffffff;
#if CK_VBYTES == 64
    return (vint32)_mm512_max_epi32((__m512i)peak, (__m512i)bits);
#elif CK_VBYTES == 32
    return (vint32)_mm256_max_epi32((__m256i)peak, (__m256i)bits);
#else
    vint32 above = bits > peak;
    return (above & bits) | (~above & peak);
#endif
}

#endif
