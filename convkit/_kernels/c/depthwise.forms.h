/* The forms of depthwise.walk.h's walks in float32, and what else there is for such windows: fewer
   channels than a vector, and the gradient of the weight. */

#include "depthwise.sums.h"

/* Fewer channels than a vector, stride 1: vectors run over pixels and channels alike. Weights
   and bias repeat along 2 * VL_F values, so that a vector that begins with any channel finds
   its own side by side. */
CK_INLINE void dw_flat_vector(const ck_depthwise_band *g, ptrdiff_t at, int taps) {
    const ptrdiff_t C = g->channels, phase = at % C;
    const float *x = (const float *)g->x + g->first * C + at;
    const float *w = (const float *)g->w + phase;
    const vfloat bias = g->bias ? load_f((const float *)g->bias + phase) : (vfloat){0};
    vfloat acc[CK_DW_ROWS] = {bias, bias};
    for (int q = 0; q < taps; q++) {
        DW_UNROLL for (int n = 0; n <= taps; n++) {
            if (!(g->rows_inside >> n & 1)) continue;
            vfloat xv = load_f(x + n * g->x_row_step + q * g->x_step);
            DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++)
                if (n >= o && n - o < taps)
                    acc[o] += xv * load_f(w + (n - o) * g->w_row_step + q * g->w_step);
        }
    }
    DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++)
        if (g->rows_wanted >> o & 1)
            store_f((float *)g->y + o * g->y_row_step + at, dw_clamped(g, acc[o]));
}

/* The output columns [t0, t1), each with the taps that are inside. */
CK_INLINE void dw_flat_edge(const ck_depthwise_band *g, ptrdiff_t t0, ptrdiff_t t1, int taps) {
    const ptrdiff_t C = g->channels, dilation = g->x_step / C;
    const int n = (int)C;
    for (; t0 < t1; t0++) {
        const ptrdiff_t base = g->first + t0;
        ptrdiff_t q0, q1;
        dw_taps_inside(base, dilation, g->width, taps, &q0, &q1);
        for (int o = 0; o < CK_DW_ROWS; o++) {
            if (!(g->rows_wanted >> o & 1)) continue;
            vfloat acc = g->bias ? load_f(g->bias) : (vfloat){0};
            for (ptrdiff_t q = q0; q < q1; q++)
                for (int r = 0; r < taps; r++)
                    if (g->rows_inside >> (r + o) & 1)
                        acc += load_part_f((const float *)g->x + (r + o) * g->x_row_step +
                                               base * C + q * g->x_step, n) *
                               load_f((const float *)g->w + r * g->w_row_step + q * g->w_step);
            store_part_f((float *)g->y + o * g->y_row_step + t0 * C, dw_clamped(g, acc), n);
        }
    }
}

CK_INLINE void dw_flat(const ck_depthwise_band *band, int taps) {
    const ptrdiff_t C = band->channels;
    ck_depthwise_band g = *band;
    ptrdiff_t lo, hi;
    dw_inside(g.first, 1, (taps - 1) * (g.x_step / C), g.width, g.columns, &lo, &hi);
    if ((hi - lo) * C < VL_F) lo = hi = g.columns;
    for (ptrdiff_t k = 0; k < band->pairs; k++) {
        dw_pair(band, k, taps + 1, taps, &g);
        dw_flat_edge(&g, 0, lo, taps);
        for (ptrdiff_t at = lo * C; at < hi * C; at += VL_F)
            dw_flat_vector(&g, DW_VECTOR_START(at, VL_F, hi * C), taps);
        dw_flat_edge(&g, hi, g.columns, taps);
    }
}

/* One input of all groups at a time: its sums are those of a depthwise convolution. */
CK_INLINE void dw_group_sums(const ck_depthwise_block *block, int taps, int stride) {
    ck_depthwise_block g = *block;
    vint32 lanes = dw_group_lanes(g.group);
    for (ptrdiff_t i = 0; i < g.group; i++) {
        dw_sums_walk(&g, taps, taps, stride, &lanes);
        g.sums = (float *)g.sums + taps * taps * g.sums_step;
        lanes += 1;
    }
}

/* How many rows of taps of 5 fit the registers with the columns under way. */
#if CK_VECTOR_REGISTERS >= 32
#define DW_GROUP_5 5
#else
#define DW_GROUP_5 2
#endif

#define DW_FORMS(X) X(3, 1, 1) X(3, 2, 1) X(5, 1, 1) X(5, 2, 1) X(7, 1, 1) X(3, 1, 2) X(5, 1, 2)
#define DW_FLAT_FORMS(X) X(3) X(5)
#define DW_SUM_FORMS(X) X(3, 1, 3) X(3, 2, 3) X(5, 1, DW_GROUP_5) X(5, 2, DW_GROUP_5)

#define DW_DEFINE_FLAT(taps) \
    static void dw_flat_##taps(const ck_depthwise_band *g) { dw_flat(g, taps); }
DW_FORMS(DW_DEFINE)
DW_FLAT_FORMS(DW_DEFINE_FLAT)
DW_SUM_FORMS(DW_DEFINE_SUMS)

static ck_depthwise_band_fn dw_band(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t up) {
    DW_FORMS(DW_CHOOSE)
    return NULL;
}

#define DW_CHOOSE_FLAT(k) \
    if (taps == k) return dw_flat_##k;
static ck_depthwise_band_fn dw_flat_band(ptrdiff_t taps) {
    DW_FLAT_FORMS(DW_CHOOSE_FLAT)
    return NULL;
}

static ck_depthwise_block_fn dw_block(ptrdiff_t taps, ptrdiff_t stride) {
    DW_SUM_FORMS(DW_CHOOSE_SUMS)
    return NULL;
}

#if CK_HAVE_PERMUTE
#define DW_GROUPED_FORMS(X) X(1, 1, 1) X(3, 1, 1) X(3, 2, 1) X(3, 1, 2)
#define DW_GROUPED_SUM_FORMS(X) X(1, 1) X(3, 1) X(3, 2)
#else
#define DW_GROUPED_FORMS(X)
#define DW_GROUPED_SUM_FORMS(X)
#endif

#define DW_DEFINE_GROUPED(taps, stride, up)                                             \
    static void dw_grouped_walk_##taps##_##stride##_##up(const ck_depthwise_band *g) {  \
        dw_walk(g, taps, stride, up, 1);                                                \
    }
#define DW_DEFINE_GROUPED_SUMS(taps, stride)                                      \
    static void dw_grouped_sums_##taps##_##stride(const ck_depthwise_block *g) {  \
        dw_group_sums(g, taps, stride);                                           \
    }
DW_GROUPED_FORMS(DW_DEFINE_GROUPED)
DW_GROUPED_SUM_FORMS(DW_DEFINE_GROUPED_SUMS)

#define DW_CHOOSE_GROUPED(k, s, u) \
    if (taps == k && stride == s && up == u) return dw_grouped_walk_##k##_##s##_##u;
static ck_depthwise_band_fn dw_grouped_band(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t up) {
    DW_GROUPED_FORMS(DW_CHOOSE_GROUPED)
    return NULL;
}

#define DW_CHOOSE_GROUPED_SUMS(k, s) \
    if (taps == k && stride == s) return dw_grouped_sums_##k##_##s;
static ck_depthwise_block_fn dw_grouped_block(ptrdiff_t taps, ptrdiff_t stride) {
    DW_GROUPED_SUM_FORMS(DW_CHOOSE_GROUPED_SUMS)
    return NULL;
}
