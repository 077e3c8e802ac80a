/* Depthwise convolution on rows of channels-last pixels, vectorised over channels.

   A tile is one vector of channels times up to 8 output columns. For the common kernel
   widths the tile walks along the input columns: every input vector is loaded once and
   multiplied into each output whose window holds it, with a row of weights in registers.
   Each output is still one chain of multiply-adds in the order of (row, tap), so tiles of
   every width, and the path for any other kernel, give the same bits.

   Where the channels are not a multiple of the vector, the last vector is moved back to end
   with the last channel (some channels are then computed twice, alike); fewer channels than
   one vector go through partial loads and stores. */

enum { DW_COLUMNS = 8 };

#define DW_UNROLL _Pragma("GCC unroll 32")
#define DW_VECTOR_START(c, L, channels) ((c) + (L) > (channels) ? (channels) - (L) : (c))

/* The outputs [lo, hi) among `columns` whose windows lie wholly inside the input. */
CK_INLINE void dw_inside(ptrdiff_t first, ptrdiff_t stride, ptrdiff_t reach, ptrdiff_t width,
                         ptrdiff_t columns, ptrdiff_t *lo, ptrdiff_t *hi) {
    ptrdiff_t from = first < 0 ? (-first + stride - 1) / stride : 0;
    ptrdiff_t room = width - 1 - reach - first;
    ptrdiff_t to = room < 0 ? 0 : room / stride + 1;
    *lo = from < columns ? from : columns;
    *hi = to < columns ? to : columns;
    if (*hi < *lo) *hi = *lo;
}

/* The taps [*q0, *q1) of a window starting at column `base` that lie inside the input. */
CK_INLINE void dw_taps_inside(ptrdiff_t base, ptrdiff_t dilation, ptrdiff_t width, ptrdiff_t taps,
                              ptrdiff_t *q0, ptrdiff_t *q1) {
    *q0 = base < 0 ? (-base + dilation - 1) / dilation : 0;
    *q1 = base < width ? (width - base + dilation - 1) / dilation : 0;
    if (*q1 > taps) *q1 = taps;
}

/* Bit i is set where column base + i is inside the input, for 0 <= i < count <= 32. */
CK_INLINE uint64_t dw_columns_inside(ptrdiff_t base, ptrdiff_t width, int count) {
    ptrdiff_t lo = base < 0 ? -base : 0, hi = width - base;
    if (lo >= count || hi <= lo) return 0;
    if (hi > count) hi = count;
    return (((uint64_t)1 << hi) - 1) & ~(((uint64_t)1 << lo) - 1);
}

#define DW_TEMPLATE(T, V, S, L)                                                                    \
    CK_INLINE V dw_load_##S(const T *p, int n) {                                                   \
        return n == L ? load_##S(p) : load_part_##S(p, n);                                         \
    }                                                                                              \
    CK_INLINE void dw_store_##S(T *p, V v, int n) {                                                \
        if (n == L)                                                                                \
            store_##S(p, v);                                                                       \
        else                                                                                       \
            store_part_##S(p, v, n);                                                               \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void dw_finish_##S(const ck_depthwise_args *g, ptrdiff_t c, int n, ptrdiff_t t0,     \
                                 int cols, V *acc) {                                               \
        const ptrdiff_t step = g->y_step;                                                          \
        T *y = (T *)g->y + t0 * step + c;                                                          \
        if (g->bias) {                                                                             \
            V bias = dw_load_##S((const T *)g->bias + c, n);                                       \
            DW_UNROLL for (int t = 0; t < cols; t++) acc[t] += bias;                               \
        }                                                                                          \
        if (g->residual) {                                                                         \
            const T *r = (const T *)g->residual + t0 * step + c;                                   \
            DW_UNROLL for (int t = 0; t < cols; t++) acc[t] += dw_load_##S(r + t * step, n);       \
        }                                                                                          \
        if (g->activation != CK_ACT_NONE) {                                                        \
            const ck_gemm_args a = {                                                               \
                .activation = g->activation, .alpha = g->alpha, .beta = g->beta};                  \
            DW_UNROLL for (int t = 0; t < cols; t++) acc[t] = gemm_activate_##S(&a, acc[t]);       \
        }                                                                                          \
        DW_UNROLL for (int t = 0; t < cols; t++) dw_store_##S(y + t * step, acc[t], n);            \
    }                                                                                              \
                                                                                                   \
    /* Output columns t0 ... t0 + cols with any kernel; taps [q0, q1) are inside for all. */       \
    CK_INLINE void dw_any_tile_##S(const ck_depthwise_args *g, ptrdiff_t c, int n, ptrdiff_t t0,   \
                                   int cols, ptrdiff_t q0, ptrdiff_t q1) {                         \
        V acc[DW_COLUMNS];                                                                         \
        const ptrdiff_t C = g->channels, step = g->stride * C;                                     \
        DW_UNROLL for (int t = 0; t < cols; t++) acc[t] = (V){0};                                  \
        for (ptrdiff_t r = 0; r < g->rows; r++) {                                                  \
            const T *x = (const T *)g->x + r * g->x_row_step + c;                                  \
            const T *w = (const T *)g->w + r * g->w_row_step + c;                                  \
            for (ptrdiff_t q = q0; q < q1; q++) {                                                  \
                const T *p = x + (g->first + t0 * g->stride + q * g->dilation) * C;                \
                V wv = dw_load_##S(w + q * g->w_step, n);                                          \
                DW_UNROLL for (int t = 0; t < cols; t++)                                           \
                    acc[t] += dw_load_##S(p + t * step, n) * wv;                                   \
            }                                                                                      \
        }                                                                                          \
        dw_finish_##S(g, c, n, t0, cols, acc);                                                     \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void dw_any_vector_##S(const ck_depthwise_args *g, ptrdiff_t c, int n,               \
                                     ptrdiff_t lo, ptrdiff_t hi) {                                 \
        ptrdiff_t t = 0;                                                                           \
        while (t < g->columns) {                                                                   \
            if (t >= lo && t + 4 <= hi) {                                                          \
                dw_any_tile_##S(g, c, n, t, 4, 0, g->taps);                                        \
                t += 4;                                                                            \
            } else {                                                                               \
                ptrdiff_t q0, q1;                                                                  \
                dw_taps_inside(g->first + t * g->stride, g->dilation, g->width, g->taps, &q0, &q1);\
                dw_any_tile_##S(g, c, n, t, 1, q0, q1);                                            \
                t += 1;                                                                            \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void dw_any_row_##S(const ck_depthwise_args *g) {                                       \
        ptrdiff_t lo, hi;                                                                          \
        dw_inside(g->first, g->stride, (g->taps - 1) * g->dilation, g->width, g->columns, &lo,     \
                  &hi);                                                                            \
        if (g->channels < L) {                                                                     \
            dw_any_vector_##S(g, 0, (int)g->channels, lo, hi);                                     \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t c = g->from; c < g->to; c += L)                                             \
            dw_any_vector_##S(g, DW_VECTOR_START(c, L, g->channels), L, lo, hi);                   \
    }                                                                                              \
                                                                                                   \
    /* sums of one tap over the columns [t0, t1): four chains, joined in pairs. */                 \
    CK_INLINE void dw_tap_sum_##S(const T *x, ptrdiff_t x_step, const T *gy, ptrdiff_t C,          \
                                  ptrdiff_t count, int n, T *sum) {                                \
        V acc[4] = {{0}, {0}, {0}, {0}};                                                           \
        ptrdiff_t t = 0;                                                                           \
        for (; t + 4 <= count; t += 4)                                                             \
            DW_UNROLL for (int k = 0; k < 4; k++)                                                  \
                acc[k] += dw_load_##S(x + (t + k) * x_step, n) * dw_load_##S(gy + (t + k) * C, n); \
        for (; t < count; t++)                                                                     \
            acc[0] += dw_load_##S(x + t * x_step, n) * dw_load_##S(gy + t * C, n);                 \
        store_##S(sum, load_##S(sum) + ((acc[0] + acc[1]) + (acc[2] + acc[3])));                   \
    }                                                                                              \
                                                                                                   \
    CK_INLINE void dw_any_sums_vector_##S(const ck_depthwise_sums_args *g, ptrdiff_t v,            \
                                          ptrdiff_t c, int n) {                                    \
        const ptrdiff_t C = g->channels;                                                           \
        for (ptrdiff_t q = 0; q < g->taps; q++) {                                                  \
            ptrdiff_t base = g->first + q * g->dilation, lo, hi;                                   \
            dw_inside(base, g->stride, 0, g->width, g->columns, &lo, &hi);                         \
            for (ptrdiff_t r = 0; r < g->rows && lo < hi; r++)                                     \
                dw_tap_sum_##S((const T *)g->x + r * g->x_row_step + (base + lo * g->stride) * C + c,\
                               g->stride * C, (const T *)g->gy + lo * C + c, C, hi - lo, n,        \
                               (T *)g->sums + (r * g->taps + q) * g->sums_step + v);               \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void dw_any_sums_##S(const ck_depthwise_sums_args *g) {                                 \
        if (g->channels < L) {                                                                     \
            dw_any_sums_vector_##S(g, 0, 0, (int)g->channels);                                     \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t v = 0; v < g->channels; v += L)                                             \
            dw_any_sums_vector_##S(g, v, DW_VECTOR_START(v, L, g->channels), L);                   \
    }                                                                                              \
                                                                                                   \
    static void dw_total_##S(const void *sums, ptrdiff_t blocks, ptrdiff_t step,                   \
                             ptrdiff_t channels, void *out) {                                      \
        for (ptrdiff_t v = 0; v < channels; v += L) {                                              \
            const T *p = (const T *)sums + v;                                                      \
            V total = {0};                                                                         \
            for (ptrdiff_t b = 0; b < blocks; b++) total += load_##S(p + b * step);                \
            if (channels < L)                                                                      \
                store_part_##S((T *)out, total, (int)channels);                                    \
            else                                                                                   \
                store_##S((T *)out + DW_VECTOR_START(v, L, channels), total);                      \
        }                                                                                          \
    }

DW_TEMPLATE(float, vfloat, f, VL_F)
DW_TEMPLATE(double, vdouble, d, VL_D)

/* Kernels of a known width and stride, undilated, in float32. Input columns are reached from a base pointer for every third one; the empty asm
   keeps the compiler from deriving the pointers from one another again. */
#define DW_POINTERS(p, start, count, C)                                  \
    const float *p[7];                                                   \
    DW_UNROLL for (int k = 0; k < ((count) + 2) / 3; k++) {              \
        p[k] = (start) + 3 * k * (C);                                    \
        __asm__("" : "+r"(p[k]));                                        \
    }
/* Keeps a loaded vector in its register: folded into each multiply-add that uses it, the
   load would be repeated, and loads are what these kernels have most of. */
#if defined(__x86_64__)
#define DW_KEEP(v) __asm__("" : "+v"(v))
#else
#define DW_KEEP(v) (void)0
#endif
#define DW_AT(p, i, C) (p[(i) / 3] + (i) % 3 * (C))

/* Columns [t0, t1), each with the taps that are inside the input. */
static void dw_columns(const ck_depthwise_args *g, ptrdiff_t t0, ptrdiff_t t1) {
    for (; t0 < t1; t0++) {
        ptrdiff_t q0, q1;
        dw_taps_inside(g->first + t0 * g->stride, 1, g->width, g->taps, &q0, &q1);
        if (g->channels < VL_F) {
            dw_any_tile_f(g, 0, (int)g->channels, t0, 1, q0, q1);
            continue;
        }
        for (ptrdiff_t c = g->from; c < g->to; c += VL_F)
            dw_any_tile_f(g, DW_VECTOR_START(c, VL_F, g->channels), VL_F, t0, 1, q0, q1);
    }
}

/* Output columns t0 ... t0 + cols of n channels; of the input columns that their windows
   span, the first `left` and the last `right` are outside. */
CK_INLINE void dw_tile(const ck_depthwise_args *g, ptrdiff_t c, int n, ptrdiff_t t0, int cols,
                       int taps, int stride, int left, int right) {
    const int count = (cols - 1) * stride + taps;
    const ptrdiff_t C = g->channels, w_step = g->w_step;
    const float *w = (const float *)g->w + c;
    vfloat acc[DW_COLUMNS];
    DW_UNROLL for (int t = 0; t < cols; t++) acc[t] = (vfloat){0};
    DW_POINTERS(p, (const float *)g->x + (g->first + t0 * stride) * C + c, count, C)
    for (ptrdiff_t r = g->rows; r > 0; r--) {
        vfloat wv[8];
        DW_UNROLL for (int q = 0; q < taps; q++) wv[q] = dw_load_f(w + q * w_step, n);
        DW_UNROLL for (int i = left; i < count - right; i++) {
            vfloat xv = dw_load_f(DW_AT(p, i, C), n);
            DW_KEEP(xv);
            DW_UNROLL for (int t = 0; t < cols; t++)
                if (i >= t * stride && i < t * stride + taps) acc[t] += xv * wv[i - t * stride];
        }
        DW_UNROLL for (int k = 0; k < (count + 2) / 3; k++) p[k] += g->x_row_step;
        w += g->w_row_step;
    }
    dw_finish_f(g, c, n, t0, cols, acc);
}

/* A strip of columns; one whose windows reach further out than half a kernel, or out of both
   sides unevenly, goes column by column. */
CK_INLINE void dw_strip(const ck_depthwise_args *g, ptrdiff_t t0, int cols, int taps, int stride) {
    const int count = (cols - 1) * stride + taps, half = taps / 2;
    const ptrdiff_t base = g->first + t0 * stride;
    const ptrdiff_t left = base < 0 ? -base : 0;
    const ptrdiff_t right = base + count > g->width ? base + count - g->width : 0;
    const int form = (left == half ? 2 : left ? 4 : 0) + (right == half ? 1 : right ? 4 : 0);
#define DW_EACH_VECTOR(left, right)                        \
    for (ptrdiff_t c = g->from; c < g->to; c += VL_F)      \
        dw_tile(g, DW_VECTOR_START(c, VL_F, g->channels), VL_F, t0, cols, taps, stride, left, right)
    if (g->channels < VL_F) {
        if (form == 0)
            dw_tile(g, 0, (int)g->channels, t0, cols, taps, stride, 0, 0);
        else
            dw_columns(g, t0, t0 + cols);
    } else if (form == 0)
        DW_EACH_VECTOR(0, 0);
    else if (form == 1)
        DW_EACH_VECTOR(0, half);
    else if (form == 2)
        DW_EACH_VECTOR(half, 0);
    else if (form == 3)
        DW_EACH_VECTOR(half, half);
    else
        dw_columns(g, t0, t0 + cols);
}

/* A row as strips of 8 columns or, so that none is thin, nearly 8. */
CK_INLINE void dw_row(const ck_depthwise_args *g, int taps, int stride) {
    const ptrdiff_t strips = (g->columns + DW_COLUMNS - 1) / DW_COLUMNS;
    for (ptrdiff_t s = 0; s < strips; s++) {
        ptrdiff_t t0 = g->columns * s / strips, t1 = g->columns * (s + 1) / strips;
        switch (t1 - t0) {
        case 8: dw_strip(g, t0, 8, taps, stride); break;
        case 7: dw_strip(g, t0, 7, taps, stride); break;
        case 6: dw_strip(g, t0, 6, taps, stride); break;
        case 5: dw_strip(g, t0, 5, taps, stride); break;
        case 4: dw_strip(g, t0, 4, taps, stride); break;
        default: dw_columns(g, t0, t1);
        }
    }
}

CK_INLINE void dw_sums_tile(const ck_depthwise_sums_args *g, const float *x, const float *gy,
                            ptrdiff_t t0, int cols, int rows, int taps, int stride,
                            vfloat acc[3][8]) {
    const ptrdiff_t C = g->channels, base = g->first + t0 * stride;
    const uint64_t inside = dw_columns_inside(base, g->width, (cols - 1) * stride + taps);
    vfloat gv[4];
    DW_UNROLL for (int t = 0; t < cols; t++) gv[t] = load_f(gy + (t0 + t) * C);
    ptrdiff_t at = base * C;
    DW_UNROLL for (int i = 0; i < (cols - 1) * stride + taps; i++) {
        if (inside >> i & 1) {
            DW_UNROLL for (int r = 0; r < rows; r++) {
                vfloat xv = load_f(x + r * g->x_row_step + at);
                DW_KEEP(xv);
                DW_UNROLL for (int t = 0; t < cols; t++)
                    if (i >= t * stride && i < t * stride + taps)
                        acc[r][i - t * stride] += xv * gv[t];
            }
        }
        at += C;
    }
}

/* Columns [t, t1). `rows` tap rows at once, so that rows * taps chains of sums hide each
   other's latency. */
CK_INLINE void dw_sums_vector(const ck_depthwise_sums_args *g, ptrdiff_t r0, int rows, int taps,
                              int stride, ptrdiff_t v, ptrdiff_t t, ptrdiff_t t1) {
    const ptrdiff_t c = DW_VECTOR_START(v, VL_F, g->channels);
    vfloat acc[3][8];
    float *sums = (float *)g->sums + r0 * taps * g->sums_step + v;
    const float *x = (const float *)g->x + r0 * g->x_row_step + c;
    const float *gy = (const float *)g->gy + c;
    DW_UNROLL for (int k = 0; k < rows * taps; k++)
        acc[k / taps][k % taps] = load_f(sums + k * g->sums_step);
    for (; t + 4 <= t1; t += 4) dw_sums_tile(g, x, gy, t, 4, rows, taps, stride, acc);
    for (; t < t1; t++) dw_sums_tile(g, x, gy, t, 1, rows, taps, stride, acc);
    DW_UNROLL for (int k = 0; k < rows * taps; k++)
        store_f(sums + k * g->sums_step, acc[k / taps][k % taps]);
}

/* Strips of columns outside, channels inside: the input then comes from memory in runs. */
CK_INLINE void dw_sums(const ck_depthwise_sums_args *g, int group, int taps, int stride) {
    enum { STRIP = 32 };
    for (ptrdiff_t t = 0; t < g->columns; t += STRIP) {
        const ptrdiff_t end = t + STRIP < g->columns ? t + STRIP : g->columns;
        for (ptrdiff_t v = 0; v < g->channels; v += VL_F) {
            ptrdiff_t r = 0;
            for (; r + group <= g->rows; r += group)
                dw_sums_vector(g, r, group, taps, stride, v, t, end);
            for (; r < g->rows; r++) dw_sums_vector(g, r, 1, taps, stride, v, t, end);
        }
    }
}

/* (taps, stride) that have kernels of their own: 3x3 and 5x5, and the halves into which a
   stride of 2 splits them in the gradient of the input. */
#define DW_WIDTHS(X) X(1, 1) X(2, 1) X(3, 1) X(5, 1) X(3, 2) X(5, 2)
#define DW_SUM_WIDTHS(X) X(3, 1, 3) X(3, 2, 3) X(5, 1, 2) X(5, 2, 2)

#define DW_DEFINE(taps, stride) \
    static void dw_row_##taps##_##stride(const ck_depthwise_args *g) { dw_row(g, taps, stride); }
#define DW_DEFINE_SUMS(taps, stride, group)                                  \
    static void dw_sums_##taps##_##stride(const ck_depthwise_sums_args *g) { \
        dw_sums(g, group, taps, stride);                                     \
    }
DW_WIDTHS(DW_DEFINE)
DW_SUM_WIDTHS(DW_DEFINE_SUMS)

#define DW_CALL(k, s) \
    if (g->taps == k && g->stride == s) { dw_row_##k##_##s(g); return; }
#define DW_CALL_SUMS(k, s, group) \
    if (g->taps == k && g->stride == s) { dw_sums_##k##_##s(g); return; }

static void dw_row_f32(const ck_depthwise_args *g) {
    if (g->dilation == 1) { DW_WIDTHS(DW_CALL) }
    dw_any_row_f(g);
}

static void dw_sums_f32(const ck_depthwise_sums_args *g) {
    if (g->channels >= VL_F && g->dilation == 1) { DW_SUM_WIDTHS(DW_CALL_SUMS) }
    dw_any_sums_f(g);
}

static const ck_depthwise_table depthwise_table = {
    .f32 = {.vector_length = VL_F,
            .row = dw_row_f32,
            .row_sums = dw_sums_f32,
            .total = dw_total_f},
    .f64 = {.vector_length = VL_D,
            .row = dw_any_row_d,
            .row_sums = dw_any_sums_d,
            .total = dw_total_d},
};
