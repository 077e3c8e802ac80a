/* The gradient of the weight of depthwise convolution, of the numbers of depthwise.walk.h. Sums of
   vectors that are loaded together lie one after the other. */

/* How many vectors of channels the gradient of the weight walks along at once, for the reason given
   in depthwise.walk.h: as many as the registers hold the sums of. */
#define DW_SUMS_MOST 2
#define DW_SUMS_ABREAST(taps, lanes) \
    ((taps) == 3 && !(lanes) && CK_VECTOR_REGISTERS >= 32 ? DW_SUMS_MOST : 1)

typedef vfloat dw_tap_sums[DW_SUMS_MOST][DW_WINDOW][DW_WINDOW];

/* The gradient of the weight: the same walk along the gradient of the output, whose columns
   under way are kept instead; the sums of `group` tap rows stay in registers along a row. */
CK_INLINE void dw_sums_step(const ck_depthwise_block *g, const dw_number *x, const dw_number *gy,
                            ptrdiff_t t, unsigned inside, int group, int taps, int stride,
                            const vint32 *lanes, int check, int wide, const ptrdiff_t *shift,
                            vfloat window[DW_SUMS_MOST][DW_WINDOW], dw_tap_sums acc) {
    const int live = (taps + stride - 1) / stride;
    const ptrdiff_t i = t * stride - g->left + taps - stride, C = g->channels;
    if (!check || t + live - 1 < g->columns)
        DW_UNROLL for (int k = 0; k < wide; k++)
            window[k][live - 1] = dw_load(gy + (t + live - 1) * C + shift[k], k);
    x += i * C;
    DW_UNROLL for (int e = 0; e < stride; e++) {
        if (check && (i + e < 0 || i + e >= g->width)) continue;
        DW_UNROLL for (int r = 0; r < group; r++) {
            if (!(inside >> r & 1)) continue;
            DW_UNROLL for (int k = 0; k < wide; k++) {
                vfloat xv = dw_load(x + r * g->width * C + e * C + shift[k], k);
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

CK_INLINE void dw_sums_row(const ck_depthwise_block *g, const dw_number *x, const dw_number *gy,
                           unsigned inside, int group, int taps, int stride, const vint32 *lanes,
                           int wide, const ptrdiff_t *shift, dw_tap_sums acc) {
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
        shift[k] = DW_VECTOR_START(v + k / DW_TOGETHER * DW_LINE, DW_LINE, C);
        DW_UNROLL for (int i = 0; i < group * taps; i++)
            acc[k][i / taps][i % taps] = load_f(sums + i * g->sums_step + k * VL_F);
    }
    dw_sums_row(g, (const dw_number *)g->x + at * g->width * C,
                (const dw_number *)g->gy + row * g->columns * C, inside, group, taps, stride, lanes,
                wide, shift, acc);
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
        for (; v + (abreast - DW_TOGETHER) * VL_F < g->channels; v += abreast * VL_F)
            dw_sums_vectors(g, row, v, (int)r0, group, taps, stride, lanes, abreast);
        for (; v < g->channels; v += DW_LINE)
            dw_sums_vectors(g, row, v, (int)r0, group, taps, stride, lanes, DW_TOGETHER);
    }
}

CK_INLINE void dw_sums_walk(const ck_depthwise_block *g, int group, int taps, int stride,
                            const vint32 *lanes) {
    int r = 0;
    for (; r + group <= taps; r += group) dw_sums_rows(g, r, group, taps, stride, lanes);
    if (taps % group == 1) dw_sums_rows(g, r, 1, taps, stride, lanes);
    if (taps % group == 2) dw_sums_rows(g, r, 2, taps, stride, lanes);
}

/* Function `dw_sums_TAPS_STRIDE` of a form, and its choice among those of a window. */
#define DW_DEFINE_SUMS(taps, stride, group)                               \
    static void dw_sums_##taps##_##stride(const ck_depthwise_block *g) {  \
        dw_sums_walk(g, group, taps, stride, NULL);                             \
    }
#define DW_CHOOSE_SUMS(k, s, group) \
    if (taps == k && stride == s) return dw_sums_##k##_##s;
