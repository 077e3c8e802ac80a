/* Depthwise convolution in float32 for square kernels of 3, 5 and 7 taps: walks along rows.

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
   lanes permuted so that all outputs of a group see that input. */

/* A loaded vector stays in its register: folded into each multiply-add that uses it, the
   load would be repeated, and loads are what these kernels have most of. */
#if defined(__x86_64__)
#define DW_KEEP(v) __asm__("" : "+v"(v))
#else
#define DW_KEEP(v) (void)0
#endif

enum { DW_WINDOW = 7, DW_TAPS = DW_WINDOW * DW_WINDOW };

typedef vfloat dw_sums[CK_DW_ROWS][DW_WINDOW];

/* How many vectors of channels walk side by side: they read and write lines that follow each
   other, which come from beyond the second-level cache up to 1.6 times as fast as every other
   line. Their weights do not fit the registers and come from the first-level cache. */
#define DW_MOST (CK_VBYTES == 64 ? 3 : CK_VBYTES == 32 ? 2 : 1)
#define DW_ABREAST(taps, up, grouped) ((taps) == 3 && (up) == 1 && !(grouped) ? DW_MOST : 1)

CK_INLINE vfloat dw_clamped(const ck_depthwise_band *g, vfloat v) {
    return g->clamp ? min_f(set_f(g->high), max_f(set_f(g->low), v)) : v;
}

CK_INLINE void dw_store(const ck_depthwise_band *g, float *y, vfloat v) {
    if (g->stream)
        stream_f(y, v);
    else
        store_f(y, v);
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
    g->x = (const float *)band->x + k * band->x_pair_step;
    g->y = (float *)band->y + k * CK_DW_ROWS * band->y_row_step;
}

/* For each lane, the first lane of its group. */
CK_INLINE vint32 dw_group_lanes(ptrdiff_t group) {
    vint32 lanes;
    for (int i = 0; i < VL_F; i++) lanes[i] = i & ~((int)group - 1);
    return lanes;
}

/* Multiplies input column x into the outputs under way. acc[o][m] is row o of the output
   column m columns after the one to be stored next; `last` is the tap that this column is
   for acc[.][0]. `up` > 1 is the gradient of a strided convolution: then acc[o][m] are
   neighbouring columns of one step, and tap m goes to each. */
CK_INLINE void dw_column(const ck_depthwise_band *g, const float *x, int taps, int stride, int up,
                         int last, const vfloat *w, dw_sums acc) {
    const int rows = up > 1 ? (taps + 1) / 2 : stride + taps;
    DW_UNROLL for (int n = 0; n < rows; n++) {
        if (!(g->rows_inside >> n & 1)) continue;
        vfloat xv = load_f(x + n * g->x_row_step);
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
CK_INLINE void dw_grouped_column(const ck_depthwise_band *g, const float *x, int taps, int stride,
                                 int up, int last, vint32 lanes, dw_sums acc) {
    const int rows = up > 1 ? (taps + 1) / 2 : stride + taps;
    const float *w = g->w;
    for (ptrdiff_t i = g->group; i > 0; i--, w += taps * taps * VL_F, lanes += 1) {
        vfloat xv[DW_WINDOW + 2];
        DW_UNROLL for (int n = 0; n < rows; n++)
            xv[n] = g->rows_inside >> n & 1 ? permute_f(load_f(x + n * g->x_row_step), lanes)
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

/* Stores the `count` first columns under way (only those within the row, where `check`) and
   moves the rest up. */
CK_INLINE void dw_complete(const ck_depthwise_band *g, ptrdiff_t column, int shift, int count,
                           int live, int check, vfloat fresh, dw_sums acc) {
    float *y = (float *)g->y + column * g->y_step + shift;
    DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++) {
        DW_UNROLL for (int m = 0; m < count; m++)
            if ((g->rows_wanted >> o & 1) &&
                (!check || (column + m >= 0 && column + m < g->columns)))
                dw_store(g, y + o * g->y_row_step + m * g->y_step, dw_clamped(g, acc[o][m]));
        DW_UNROLL for (int m = 0; m < live; m++)
            acc[o][m] = m + count < live ? acc[o][m + count] : fresh;
    }
}

/* Step t completes output column t: it reads the last `stride` columns of its window. */
CK_INLINE void dw_gather_step(const ck_depthwise_band *g, ptrdiff_t t, int shift, int taps,
                              int stride, int grouped, int check, const vfloat *w, vint32 lanes,
                              vfloat bias, dw_sums acc) {
    const ptrdiff_t i = g->first + t * stride + taps - stride;
    const float *x = (const float *)g->x + i * g->x_step + shift;
    DW_UNROLL for (int e = 0; e < stride; e++)
        if (!check || (i + e >= 0 && i + e < g->width)) {
            if (grouped)
                dw_grouped_column(g, x + e * g->x_step, taps, stride, 1, taps - stride + e, lanes,
                                  acc);
            else
                dw_column(g, x + e * g->x_step, taps, stride, 1, taps - stride + e, w, acc);
        }
    dw_complete(g, t, shift, 1, (taps + stride - 1) / stride, check, bias, acc);
}

/* Steps [t, to) of `nv` vectors of channels side by side. */
CK_INLINE ptrdiff_t dw_gather_steps(const ck_depthwise_band *g, ptrdiff_t t, ptrdiff_t to, int nv,
                                    int taps, int stride, int grouped, int check,
                                    const vfloat w[][DW_TAPS], vint32 lanes, const vfloat *bias,
                                    dw_sums acc[]) {
    for (; t < to; t++)
        DW_UNROLL for (int j = 0; j < nv; j++)
            dw_gather_step(g, t, j * VL_F, taps, stride, grouped, check, w[j], lanes, bias[j], acc[j]);
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
                               int check, const vfloat *w, vint32 lanes, vfloat bias,
                               dw_sums acc) {
    const float *x = (const float *)g->x + t * g->x_step;
    if (!check || t < g->width) {
        if (grouped)
            dw_grouped_column(g, x, taps, 1, 2, 0, lanes, acc);
        else
            dw_column(g, x, taps, 1, 2, 0, w, acc);
    }
    dw_complete(g, g->first + 2 * t, 0, 2, taps, check, bias, acc);
}

CK_INLINE void dw_scatter(const ck_depthwise_band *g, int taps, int grouped, const vfloat *w,
                          vint32 lanes, vfloat bias, dw_sums acc) {
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
   one, end with the last channel. */
CK_INLINE void dw_pair_walk(const ck_depthwise_band *g, ptrdiff_t v, int nv, int taps, int stride,
                            int up, int grouped, vint32 lanes) {
    const ptrdiff_t c = nv > 1 ? v : DW_VECTOR_START(v, VL_F, g->channels);
    ck_depthwise_band own = *g;
    vfloat w[3][DW_TAPS], bias[3];
    dw_sums acc[3];
    own.x = (const float *)g->x + c;
    own.y = (float *)g->y + c;
    if (grouped) own.w = (const float *)g->w + v * g->group * taps * taps;
    DW_UNROLL for (int j = 0; j < nv; j++) {
        bias[j] = g->bias ? load_f((const float *)g->bias + c + j * VL_F) : (vfloat){0};
        if (!grouped)
            DW_UNROLL for (int k = 0; k < taps * taps; k++)
                w[j][k] = load_f((const float *)g->w + k / taps * g->w_row_step +
                                 k % taps * g->w_step + c + j * VL_F);
        DW_UNROLL for (int o = 0; o < CK_DW_ROWS; o++)
            DW_UNROLL for (int m = 0; m < taps; m++) acc[j][o][m] = bias[j];
    }
    if (up > 1)
        dw_scatter(&own, taps, grouped, w[0], lanes, bias[0], acc[0]);
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
            for (; v + 3 * VL_F <= band->channels; v += 3 * VL_F)
                dw_pair_walk(&g, v, 3, taps, stride, up, grouped, lanes);
        if (DW_ABREAST(taps, up, grouped) >= 2)
            for (; v + 2 * VL_F <= band->channels; v += 2 * VL_F)
                dw_pair_walk(&g, v, 2, taps, stride, up, grouped, lanes);
        for (; v < band->channels; v += VL_F)
            dw_pair_walk(&g, v, 1, taps, stride, up, grouped, lanes);
    }
    if (band->stream) stream_end();
}

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

/* How many vectors of channels the gradient of the weight walks along at once, for the reason given
   above: as many as the registers hold the sums of. */
#define DW_SUMS_MOST 2
#define DW_SUMS_ABREAST(taps, lanes) \
    ((taps) == 3 && !(lanes) && CK_VECTOR_REGISTERS >= 32 ? DW_SUMS_MOST : 1)

typedef vfloat dw_tap_sums[DW_SUMS_MOST][DW_WINDOW][DW_WINDOW];

/* The gradient of the weight: the same walk along the gradient of the output, whose columns
   under way are kept instead; the sums of `group` tap rows stay in registers along a row. */
CK_INLINE void dw_sums_step(const ck_depthwise_block *g, const float *x, const float *gy,
                            ptrdiff_t t, unsigned inside, int group, int taps, int stride,
                            const vint32 *lanes, int check, int wide, const ptrdiff_t *shift,
                            vfloat window[DW_SUMS_MOST][DW_WINDOW], dw_tap_sums acc) {
    const int live = (taps + stride - 1) / stride;
    const ptrdiff_t i = t * stride - g->left + taps - stride, C = g->channels;
    if (!check || t + live - 1 < g->columns)
        DW_UNROLL for (int k = 0; k < wide; k++)
            window[k][live - 1] = load_f(gy + (t + live - 1) * C + shift[k]);
    x += i * C;
    DW_UNROLL for (int e = 0; e < stride; e++) {
        if (check && (i + e < 0 || i + e >= g->width)) continue;
        DW_UNROLL for (int r = 0; r < group; r++) {
            if (!(inside >> r & 1)) continue;
            DW_UNROLL for (int k = 0; k < wide; k++) {
                vfloat xv = load_f(x + r * g->width * C + e * C + shift[k]);
                if (lanes) xv = permute_f(xv, *lanes);
                DW_KEEP(xv);
                DW_UNROLL for (int m = 0; m < live; m++) {
                    const int q = taps - stride + e - stride * m;
                    if (q >= 0 && (!check || (t + m >= 0 && t + m < g->columns)))
                        acc[k][r][q] += xv * window[k][m];
                }
            }
        }
    }
    DW_UNROLL for (int k = 0; k < wide; k++)
        DW_UNROLL for (int m = 0; m + 1 < live; m++) window[k][m] = window[k][m + 1];
}

CK_INLINE void dw_sums_row(const ck_depthwise_block *g, const float *x, const float *gy,
                           unsigned inside, int group, int taps, int stride,
                           const vint32 *lanes, int wide, const ptrdiff_t *shift, dw_tap_sums acc) {
    const int live = (taps + stride - 1) / stride;
    vfloat window[DW_SUMS_MOST][DW_WINDOW] = {{{0}}};
    ptrdiff_t from = (g->left - taps + stride + stride - 1) / stride, t = 1 - live;
    ptrdiff_t to = (g->width - taps + g->left + stride) / stride;
    if (from < 0) from = 0;
    if (to > g->columns - live + 1) to = g->columns - live + 1;
    for (; t < from && t < g->columns; t++)
        dw_sums_step(g, x, gy, t, inside, group, taps, stride, lanes, 1, wide, shift, window, acc);
    for (; t < to; t++)
        dw_sums_step(g, x, gy, t, inside, group, taps, stride, lanes, 0, wide, shift, window, acc);
    for (; t < g->columns; t++)
        dw_sums_step(g, x, gy, t, inside, group, taps, stride, lanes, 1, wide, shift, window, acc);
}

/* Tap rows [r0, r0 + group) of `wide` vectors of channels from v on, along a row of the output. */
CK_INLINE void dw_sums_vectors(const ck_depthwise_block *g, ptrdiff_t row, ptrdiff_t v, int r0,
                               int group, int taps, int stride, const vint32 *lanes, int wide) {
    const ptrdiff_t C = g->channels, at = row * stride - g->top + r0;
    float *sums = (float *)g->sums + r0 * taps * g->sums_step + v;
    ptrdiff_t shift[DW_SUMS_MOST];
    dw_tap_sums acc;
    unsigned inside = 0;
    for (int r = 0; r < group; r++) inside |= (unsigned)(at + r >= 0 && at + r < g->height) << r;
    DW_UNROLL for (int k = 0; k < wide; k++) {
        shift[k] = DW_VECTOR_START(v + k * VL_F, VL_F, C);
        DW_UNROLL for (int i = 0; i < group * taps; i++)
            acc[k][i / taps][i % taps] = load_f(sums + i * g->sums_step + k * VL_F);
    }
    dw_sums_row(g, (const float *)g->x + at * g->width * C, (const float *)g->gy + row * g->columns * C,
                inside, group, taps, stride, lanes, wide, shift, acc);
    DW_UNROLL for (int k = 0; k < wide; k++)
        DW_UNROLL for (int i = 0; i < group * taps; i++)
            store_f(sums + i * g->sums_step + k * VL_F, acc[k][i / taps][i % taps]);
}

/* The same of all channels, over the block's rows: memory is read in its order. */
CK_INLINE void dw_sums_rows(const ck_depthwise_block *g, ptrdiff_t r0, int group, int taps,
                            int stride, const vint32 *lanes) {
    const int abreast = DW_SUMS_ABREAST(taps, lanes);
    for (ptrdiff_t row = g->start; row < g->stop; row++) {
        ptrdiff_t v = 0;
        for (; v + (abreast - 1) * VL_F < g->channels; v += abreast * VL_F)
            dw_sums_vectors(g, row, v, (int)r0, group, taps, stride, lanes, abreast);
        for (; v < g->channels; v += VL_F)
            dw_sums_vectors(g, row, v, (int)r0, group, taps, stride, lanes, 1);
    }
}

CK_INLINE void dw_sums_walk(const ck_depthwise_block *g, int group, int taps, int stride,
                            const vint32 *lanes) {
    int r = 0;
    for (; r + group <= taps; r += group) dw_sums_rows(g, r, group, taps, stride, lanes);
    if (taps % group == 1) dw_sums_rows(g, r, 1, taps, stride, lanes);
    if (taps % group == 2) dw_sums_rows(g, r, 2, taps, stride, lanes);
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

#define DW_DEFINE(taps, stride, up)                                               \
    static void dw_walk_##taps##_##stride##_##up(const ck_depthwise_band *g) {    \
        dw_walk(g, taps, stride, up, 0);                                             \
    }
#define DW_DEFINE_FLAT(taps) \
    static void dw_flat_##taps(const ck_depthwise_band *g) { dw_flat(g, taps); }
#define DW_DEFINE_SUMS(taps, stride, group)                               \
    static void dw_sums_##taps##_##stride(const ck_depthwise_block *g) {  \
        dw_sums_walk(g, group, taps, stride, NULL);                             \
    }
DW_FORMS(DW_DEFINE)
DW_FLAT_FORMS(DW_DEFINE_FLAT)
DW_SUM_FORMS(DW_DEFINE_SUMS)

#define DW_CHOOSE(k, s, u) \
    if (taps == k && stride == s && up == u) return dw_walk_##k##_##s##_##u;
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

#define DW_CHOOSE_SUMS(k, s, group) \
    if (taps == k && stride == s) return dw_sums_##k##_##s;
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
