/* Depthwise convolution for square kernels of 3, 5 and 7 taps: walks along rows.

   A walk follows a few vectors of channels along two output rows at once. Each step loads the
   next input column of all input rows that the two rows need, multiplies each vector into
   every output whose window holds it, and stores the outputs that are complete. What is
   under way waits in registers, so that the input columns a window shares with the next ones
   are loaded once, and nothing is set up again until the row's end. All vectors of channels walk along a pair of
   rows before the next pair: memory is read and written in its order. An output is one chain of
   multiply-adds that begins with the bias.

   Columns and rows outside the input are skipped, not multiplied as zeros: infinite weights
   must not make NaN of padding. Which rows are there is a mask that stays the same along a
   walk; columns are checked at both ends only.

   Convolutions in groups of a few channels walk the same way: a vector holds several groups,
   and each input vector is multiplied once for every input of a group, with the vector's
   lanes permuted so that all outputs of a group see that input.

   A unit has the walks of floats or, with DW_HALVES, those of bfloat16 (depthwise.halves.h): these
   go along pairs of vectors, the even and the odd ones of a line of channels. Sums are floats, and
   made in the same order. */

#define DW_UNROLL _Pragma("GCC unroll 32")
#define DW_VECTOR_START(c, L, channels) ((c) + (L) > (channels) ? (channels) - (L) : (c))

/* A loaded vector stays in its register: folded into each multiply-add that uses it, the
   load would be repeated, and loads are what these kernels have most of. */
#if defined(__x86_64__)
#define DW_KEEP(v) __asm__("" : "+v"(v))
#else
#define DW_KEEP(v) (void)0
#endif

enum { DW_WINDOW = 7, DW_TAPS = DW_WINDOW * DW_WINDOW };

typedef vfloat dw_sums[CK_DW_ROWS][DW_WINDOW];

/* What tells floats from bfloat16. DW_TOGETHER vectors are loaded and stored at once; `k` is one of
   them. `dw_output` is where number `at` of the output lies, `dw_put` writes there. */
#ifndef DW_HALVES
enum { DW_TOGETHER = 1 };
typedef float dw_number;

CK_INLINE vfloat dw_load(const dw_number *x, int k) { return (void)k, load_f(x); }
CK_INLINE vfloat dw_load_floats(const float *p, int k) { return (void)k, load_f(p); }
CK_INLINE void *dw_output(const ck_depthwise_band *g, ptrdiff_t at) { return (float *)g->y + at; }
CK_INLINE void dw_put(const ck_depthwise_band *g, ptrdiff_t at, const vfloat *v) {
    if (g->stream)
        stream_f(dw_output(g, at), *v);
    else
        store_f(dw_output(g, at), *v);
}
#endif

/* How many times DW_TOGETHER vectors of channels walk side by side: they read and write lines that
   follow each other, which come from beyond the second-level cache up to 1.6 times as fast as every
   other line. Their weights do not fit the registers and come from the first-level cache. */
#define DW_MOST (DW_TOGETHER > 1 ? 2 : CK_VBYTES == 64 ? 3 : CK_VBYTES == 32 ? 2 : 1)
#define DW_ABREAST(taps, up, grouped) ((taps) == 3 && (up) == 1 && !(grouped) ? DW_MOST : 1)
#define DW_VECTORS (DW_TOGETHER * DW_MOST)
#define DW_LINE (DW_TOGETHER * VL_F)

CK_INLINE vfloat dw_clamped(const ck_depthwise_band *g, vfloat v) {
    return g->clamp ? min_f(set_f(g->high), max_f(set_f(g->low), v)) : v;
}

/* Bit i is set where low <= base + i * step < high, for i < count. */
CK_INLINE unsigned dw_bits(ptrdiff_t base, ptrdiff_t step, ptrdiff_t low, ptrdiff_t high,
                           int count) {
    unsigned bits = 0;
    for (int i = 0; i < count; i++, base += step) bits |= (unsigned)(base >= low && base < high) << i;
    return bits;
}

/* Points at pair k of a band's rows. `rows` is how many input rows a pair needs, and `alone`
   how many its first output row needs, where the second is not wanted. */
CK_INLINE void dw_pair(const ck_depthwise_band *band, ptrdiff_t k, int rows, int alone,
                       ck_depthwise_band *g) {
    g->rows_wanted = dw_bits(band->row + k * CK_DW_ROWS * band->row_step, band->row_step,
                             band->row_low, band->row_high, CK_DW_ROWS);
    g->rows_inside = dw_bits(band->top + k * band->top_step, band->top_dilation, 0, band->height,
                             g->rows_wanted == 1 ? alone : rows);
    g->x = (const dw_number *)band->x + k * band->x_pair_step;
    g->y = dw_output(band, k * CK_DW_ROWS * band->y_row_step);
}

/* For each lane, the first lane of its group. */
CK_INLINE vint32 dw_group_lanes(ptrdiff_t group) {
    vint32 lanes;
    for (int i = 0; i < VL_F; i++) lanes[i] = i & ~((int)group - 1);
    return lanes;
}

/* Multiplies input column x (of it vector k) into the outputs under way. acc[o][m] is row o of the output
   column m columns after the one to be stored next; `last` is the tap that this column is
   for acc[.][0]. `up` > 1 is the gradient of a strided convolution: then acc[o][m] are
   neighbouring columns of one step, and tap m goes to each. */
CK_INLINE void dw_column(const ck_depthwise_band *g, const dw_number *x, int k, int taps,
                         int stride, int up, int last, const vfloat *w, dw_sums acc) {
    const int rows = up > 1 ? (taps + 1) / 2 : stride + taps;
    DW_UNROLL for (int n = 0; n < rows; n++) {
        if (!(g->rows_inside >> n & 1)) continue;
        vfloat xv = dw_load(x + n * g->x_row_step, k);
        DW_KEEP(xv);
        DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++) {
            const int r = up > 1 ? o + 2 * (rows - 1 - n) : n - stride * o;
            if (r < 0 || r >= taps) continue;
            DW_UNROLL for (int m = 0; m < taps; m++) {
                const int q = up > 1 ? m : last - stride * m;
                if (q >= 0) acc[o][m] += xv * w[r * taps + q];
            }
        }
    }
}

/* The same for groups, one of their inputs after another. Weights come from memory, each row
   of taps once for both rows of outputs: loads are what bounds these kernels. */
CK_INLINE void dw_grouped_column(const ck_depthwise_band *g, const dw_number *x, int taps,
                                 int stride, int up, int last, vint32 lanes, dw_sums acc) {
    const int rows = up > 1 ? (taps + 1) / 2 : stride + taps;
    const float *w = g->w;
    for (ptrdiff_t i = g->group; i > 0; i--, w += taps * taps * VL_F, lanes += 1) {
        vfloat xv[DW_WINDOW + 2];
        DW_UNROLL for (int n = 0; n < rows; n++)
            xv[n] = g->rows_inside >> n & 1 ? permute_f(dw_load(x + n * g->x_row_step, 0), lanes)
                                            : (vfloat){0};
        DW_UNROLL for (int r = 0; r < taps; r++) {
            vfloat wv[DW_WINDOW];
            DW_UNROLL for (int q = 0; q < taps; q++) wv[q] = load_f(w + (r * taps + q) * VL_F);
            DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++) {
                const int n = up > 1 ? rows - 1 - (r - o) / 2 : r + stride * o;
                if (up > 1 && (r < o || (r - o) % 2)) continue;
                if (!(g->rows_inside >> n & 1)) continue;
                DW_UNROLL for (int m = 0; m < taps; m++) {
                    const int q = up > 1 ? m : last - stride * m;
                    if (q >= 0) acc[o][m] += xv[n] * wv[q];
                }
            }
        }
    }
}

/* Multiplies input column x of DW_TOGETHER vectors into their outputs under way. */
CK_INLINE void dw_columns(const ck_depthwise_band *g, const dw_number *x, int taps, int stride,
                          int up, int last, int grouped, const vfloat w[][DW_TAPS], vint32 lanes,
                          dw_sums acc[]) {
    if (grouped)
        dw_grouped_column(g, x, taps, stride, up, last, lanes, acc[0]);
    else
        DW_UNROLL for (int k = 0; k < DW_TOGETHER; k++)
            dw_column(g, x, k, taps, stride, up, last, w[k], acc[k]);
}

/* Stores the `count` first columns under way of DW_TOGETHER vectors, the first of them `shift`
   channels on (only columns within the row, where `check`), and moves the rest up. */
CK_INLINE void dw_complete(const ck_depthwise_band *g, ptrdiff_t column, int shift, int count,
                           int live, int check, const vfloat *fresh, dw_sums acc[]) {
    DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++) {
        DW_UNROLL for (int m = 0; m < count; m++)
            if ((g->rows_wanted >> o & 1) &&
                (!check || (column + m >= 0 && column + m < g->columns))) {
                vfloat done[DW_TOGETHER];
                DW_UNROLL for (int k = 0; k < DW_TOGETHER; k++) done[k] = dw_clamped(g, acc[k][o][m]);
                dw_put(g, o * g->y_row_step + (column + m) * g->y_step + shift, done);
            }
        DW_UNROLL for (int k = 0; k < DW_TOGETHER; k++)
            DW_UNROLL for (int m = 0; m < live; m++)
                acc[k][o][m] = m + count < live ? acc[k][o][m + count] : fresh[k];
    }
}

/* Step t completes output column t: it reads the last `stride` columns of its window. */
CK_INLINE void dw_gather_step(const ck_depthwise_band *g, ptrdiff_t t, int shift, int taps,
                              int stride, int grouped, int check, const vfloat w[][DW_TAPS],
                              vint32 lanes, const vfloat *bias, dw_sums acc[]) {
    const ptrdiff_t i = g->first + t * stride + taps - stride;
    const dw_number *x = (const dw_number *)g->x + i * g->x_step + shift;
    DW_UNROLL for (int e = 0; e < stride; e++)
        if (!check || (i + e >= 0 && i + e < g->width))
            dw_columns(g, x + e * g->x_step, taps, stride, 1, taps - stride + e, grouped, w, lanes,
                       acc);
    dw_complete(g, t, shift, 1, (taps + stride - 1) / stride, check, bias, acc);
}

/* Steps [t, to) of `nv` vectors of channels side by side. */
CK_INLINE ptrdiff_t dw_gather_steps(const ck_depthwise_band *g, ptrdiff_t t, ptrdiff_t to, int nv,
                                    int taps, int stride, int grouped, int check,
                                    const vfloat w[][DW_TAPS], vint32 lanes, const vfloat *bias,
                                    dw_sums acc[]) {
    for (; t < to; t++)
        DW_UNROLL for (int j = 0; j < nv; j += DW_TOGETHER)
            dw_gather_step(g, t, j * VL_F, taps, stride, grouped, check, w + j, lanes, bias + j,
                           acc + j);
    return t;
}

CK_INLINE void dw_gather(const ck_depthwise_band *g, int nv, int taps, int stride, int grouped,
                         const vfloat w[][DW_TAPS], vint32 lanes, const vfloat *bias,
                         dw_sums acc[]) {
    /* Outputs [from, to) have their last columns, and so all that steps read, inside. */
    ptrdiff_t from = (-g->first - taps + stride + stride - 1) / stride;
    ptrdiff_t to = (g->width - taps - g->first + stride) / stride, t = 1 - (taps + stride - 1) / stride;
    if (from < 0) from = 0;
    if (to > g->columns) to = g->columns;
    if (from > g->columns) from = g->columns;
    for (int end = 0; end < 2; end++) { /* both ends' steps are one piece of code */
        t = dw_gather_steps(g, t, end ? g->columns : from, nv, taps, stride, grouped, 1, w, lanes,
                            bias, acc);
        if (!end) t = dw_gather_steps(g, t, to, nv, taps, stride, grouped, 0, w, lanes, bias, acc);
    }
}

/* Step t adds input column t to the taps output columns that saw it, of which it completes
   the first two. */
CK_INLINE void dw_scatter_step(const ck_depthwise_band *g, ptrdiff_t t, int taps, int grouped,
                               int check, const vfloat w[][DW_TAPS], vint32 lanes,
                               const vfloat *bias, dw_sums acc[]) {
    const dw_number *x = (const dw_number *)g->x + t * g->x_step;
    if (!check || t < g->width) dw_columns(g, x, taps, 1, 2, 0, grouped, w, lanes, acc);
    dw_complete(g, g->first + 2 * t, 0, 2, taps, check, bias, acc);
}

CK_INLINE void dw_scatter(const ck_depthwise_band *g, int taps, int grouped,
                          const vfloat w[][DW_TAPS], vint32 lanes, const vfloat *bias,
                          dw_sums acc[]) {
    const ptrdiff_t steps = (g->columns - g->first + 1) / 2;
    ptrdiff_t t = 0, from = (1 - g->first) / 2, to = (g->columns - g->first) / 2;
    if (to > g->width) to = g->width;
    if (from > steps) from = steps;
    for (int end = 0; end < 2; end++) {
        for (const ptrdiff_t stop = end ? steps : from; t < stop; t++)
            dw_scatter_step(g, t, taps, grouped, 1, w, lanes, bias, acc);
        if (!end)
            for (; t < to; t++) dw_scatter_step(g, t, taps, grouped, 0, w, lanes, bias, acc);
    }
}

/* One pair of output rows, for the `nv` vectors of channels that begin with v or, the last
   ones, end with the last channel. */
CK_INLINE void dw_pair_walk(const ck_depthwise_band *g, ptrdiff_t v, int nv, int taps, int stride,
                            int up, int grouped, vint32 lanes) {
    const ptrdiff_t c = nv > DW_TOGETHER ? v : DW_VECTOR_START(v, DW_LINE, g->channels);
    ck_depthwise_band own = *g;
    vfloat w[DW_VECTORS][DW_TAPS], bias[DW_VECTORS];
    dw_sums acc[DW_VECTORS];
    own.x = (const dw_number *)g->x + c;
    own.y = dw_output(g, c);
    if (grouped) own.w = (const float *)g->w + v * g->group * taps * taps;
    DW_UNROLL for (int j = 0; j < nv; j++) {
        const ptrdiff_t at = c + j / DW_TOGETHER * DW_LINE;
        const int k = j % DW_TOGETHER;
        bias[j] = g->bias ? dw_load_floats((const float *)g->bias + at, k) : (vfloat){0};
        if (!grouped)
            DW_UNROLL for (int i = 0; i < taps * taps; i++)
                w[j][i] = dw_load_floats((const float *)g->w + i / taps * g->w_row_step +
                                         i % taps * g->w_step + at, k);
        DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++)
            DW_UNROLL for (int m = 0; m < taps; m++) acc[j][o][m] = bias[j];
    }
    if (up > 1)
        dw_scatter(&own, taps, grouped, w, lanes, bias, acc);
    else
        dw_gather(&own, nv, taps, stride, grouped, w, lanes, bias, acc);
}

CK_INLINE void dw_walk(const ck_depthwise_band *band, int taps, int stride, int up,
                       int grouped) {
    const int rows = up > 1 ? (taps + 1) / 2 : stride + taps, alone = up > 1 ? rows : taps;
    const vint32 lanes = grouped ? dw_group_lanes(band->group) : (vint32){0};
    ck_depthwise_band g = *band;
    for (ptrdiff_t k = 0; k < band->pairs; k++) {
        ptrdiff_t v = 0;
        dw_pair(band, k, rows, alone, &g);
        if (DW_ABREAST(taps, up, grouped) == 3)
            for (; v + 3 * DW_LINE <= band->channels; v += 3 * DW_LINE)
                dw_pair_walk(&g, v, 3 * DW_TOGETHER, taps, stride, up, grouped, lanes);
        if (DW_ABREAST(taps, up, grouped) >= 2)
            for (; v + 2 * DW_LINE <= band->channels; v += 2 * DW_LINE)
                dw_pair_walk(&g, v, 2 * DW_TOGETHER, taps, stride, up, grouped, lanes);
        for (; v < band->channels; v += DW_LINE)
            dw_pair_walk(&g, v, DW_TOGETHER, taps, stride, up, grouped, lanes);
    }
    if (band->stream) stream_end();
}

/* Function `dw_walk_TAPS_STRIDE_UP` of a form, and its choice among those of a window. */
#define DW_DEFINE(taps, stride, up)                                               \
    static void dw_walk_##taps##_##stride##_##up(const ck_depthwise_band *g) {    \
        dw_walk(g, taps, stride, up, 0);                                          \
    }
#define DW_CHOOSE(k, s, u) \
    if (taps == k && stride == s && up == u) return dw_walk_##k##_##s##_##u;
