/* What batch norm keeps of its input as bfloat16: the passes that write it, and those that read it.
   Other arrays of theirs may be bfloat16 as well. They wait for memory, so that they ask for each
   vector how it is held: a copy of the code for each combination would not be faster. And they walk
   along the rows, as memory is read: down the columns (norm.real.h) they took up to 1.7 times as
   long, with so few bytes of a row at a time. */

CK_INLINE V load_either(const void *p, int half, ptrdiff_t at, ptrdiff_t left) {
    return half ? load_some_half((const uint16_t *)p + at, left)
                : load_some_f((const float *)p + at, left);
}

/* `stream`: whole vectors go past the caches, so that memory is not read before it is written. That
   gains nothing where vectors are half a line. */
CK_INLINE void put_float(float *p, V v, ptrdiff_t left, int stream) {
    if (stream && left >= VL) stream_f(p, v);
    else store_some_f(p, v, left);
}
/* `exact`, a constant wherever this is inlined: whether the numbers are bfloat16 if `half`. */
CK_INLINE void put_either(void *p, int half, int exact, ptrdiff_t at, V v, ptrdiff_t left,
                          int stream) {
    if (half) store_some_half((uint16_t *)p + at, exact ? cut(v) : narrow(v), left);
    else put_float((float *)p + at, v, left, stream);
}

#define OF(p) load_some_f((const float *)(p) + c, left)
#define HALVES(p) load_some_half((const uint16_t *)(p) + at, left)
#define PUT_HALVES(p, h) store_some_half((p) + at, (h), left)

/* Steps load before they compute, lest a branch in between keep a product and a sum from becoming
   one instruction in some vectors only. */

/* Row after row, as memory is read fastest, `call`ed for the vector at column c, `at` in the array;
   only the last of a row may be a part. */
#define EACH_VECTOR(begin, end, call)                                        \
    for (ptrdiff_t r = 0; r < rows; r++) {                                   \
        ptrdiff_t c = (begin);                                               \
        for (; c + VL <= (end); c += VL) call(c, r * columns + c, VL);       \
        if (c < (end)) call(c, r * columns + c, (end) - c);                  \
    }

/* through_f; in instructions, as GCC takes one more. */
CK_INLINE V past(const mask_f *m, V v, V g) {
#if CK_VBYTES == 64
    const __mmask16 above = _mm512_cmp_ps_mask((__m512)v, (__m512)m->low, _CMP_NLE_UQ);
    return (V)_mm512_maskz_mov_ps(
        _mm512_mask_cmp_ps_mask(above, (__m512)v, (__m512)m->high, _CMP_NGE_UQ), (__m512)g);
#else
    return through_f(m, v, g);
#endif
}

/* Columns whose sums are held on the stack. */
enum { PANEL = 1024 };

/* `half`, whether the gradient is bfloat16, and `kept`, whether the activation's value is there:
   constants wherever these are inlined. */
CK_INLINE void masked_sums_step(const ck_norm_masked *run, const mask_f *mask, int half, int kept,
                                ptrdiff_t c, ptrdiff_t at, ptrdiff_t left, V *sum, V *product) {
    const V x = HALVES(run->x), gy = load_either(run->gy, half, at, left);
    const V y = kept ? HALVES(run->y) : (V){0};
    const V scale = kept ? y : OF(run->scale), shift = kept ? y : OF(run->shift);
    const V g = past(mask, kept ? y : x * scale + shift, gy);
    if (kept) put_either(run->out, half, 1, at, g, left, run->stream);
    *sum += g;
    *product += g * x;
}
CK_INLINE void masked_sums_panel(const ck_norm_masked *all, int half, int kept, ptrdiff_t rows,
                                 ptrdiff_t columns, ptrdiff_t begin, ptrdiff_t end, double *sum,
                                 double *product) {
    const ck_norm_masked own = *all, *run = &own; /* which stores cannot change */
    const mask_f mask = mask_of_f(run);
    V sums[PANEL / VL], products[PANEL / VL];
    for (ptrdiff_t i = 0; i < end - begin; i += VL) sums[i / VL] = products[i / VL] = (V){0};
#define CALL(c, at, left)                                                                   \
    masked_sums_step(run, &mask, half, kept, c, at, left, sums + ((c) - begin) / VL,        \
                     products + ((c) - begin) / VL)
    EACH_VECTOR(begin, end, CALL)
#undef CALL
    add_doubles_f((const float *)sums, end - begin, sum + begin);
    add_doubles_f((const float *)products, end - begin, product + begin);
}
static void masked_sums_kept(const ck_norm_masked *run, ptrdiff_t rows, ptrdiff_t columns,
                             double *sum, double *product) {
#define SUMS(half, kept) \
    masked_sums_panel(run, half, kept, rows, columns, begin, end, sum, product)
    for (ptrdiff_t begin = 0; begin < columns; begin += PANEL) {
        const ptrdiff_t end = begin + PANEL < columns ? begin + PANEL : columns;
        if (run->gy_half && run->y) SUMS(1, 1);
        else if (run->gy_half) SUMS(1, 0);
        else if (run->y) SUMS(0, 1);
        else SUMS(0, 0);
    }
#undef SUMS
    if (run->stream) stream_end();
}

CK_INLINE void masked_input_step(const ck_norm_masked *run, const mask_f *mask, int half,
                                 const void *factor, const void *slope, const void *offset,
                                 ptrdiff_t c, ptrdiff_t at, ptrdiff_t left) {
    const V x = HALVES(run->x), gy = load_either(run->gy, half, at, left);
    const V scale = OF(run->scale), shift = OF(run->shift);
    const V a = OF(factor), s = OF(slope), b = OF(offset);
    const V g = past(mask, x * scale + shift, gy), v = x * s + b;
    put_either(run->out, run->out_half, 0, at, g * a + v, left, run->stream);
}
static void masked_input_kept(const ck_norm_masked *all, ptrdiff_t rows, ptrdiff_t columns,
                              const void *factor, const void *slope, const void *offset) {
    const ck_norm_masked own = *all, *run = &own;
    const mask_f mask = mask_of_f(run);
#define CALL(c, at, left) \
    masked_input_step(run, &mask, run->gy_half, factor, slope, offset, c, at, left)
    EACH_VECTOR(0, columns, CALL)
#undef CALL
    if (run->stream) stream_end();
}

CK_INLINE void affine_kept_step(const ck_norm_kept *run, V low, V high, ptrdiff_t c, ptrdiff_t at,
                                ptrdiff_t left) {
    const V scale = OF(run->scale), shift = OF(run->shift);
    V v;
    if (run->x) {
        const vhalf h = narrow(load_some_f(run->x + at, left) - OF(run->center));
        PUT_HALVES(run->kept, h);
        v = widen(h);
    } else v = HALVES(run->kept);
    v = v * scale + shift;
    if (run->residual) v += load_either(run->residual, run->residual_half, at, left);
    v = at_most_f(at_least_f(v, low), high);
    if (run->rounded || run->rounds) {
        const vhalf h = narrow(v);
        if (run->rounded) PUT_HALVES(run->rounded, h);
        if (run->rounds) v = widen(h);
    }
    if (run->y) put_float(run->y + at, v, left, run->stream);
}
static void affine_kept(const ck_norm_kept *all, ptrdiff_t rows, ptrdiff_t columns) {
    const ck_norm_kept own = *all, *run = &own;
    const V low = set_f(run->low), high = set_f(run->high);
#define CALL(c, at, left) affine_kept_step(run, low, high, c, at, left)
    EACH_VECTOR(0, columns, CALL)
#undef CALL
    if (run->stream) stream_end();
}

static void narrow_run(const float *x, uint16_t *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const V v = load_some_f(x + i, n - i);
        store_some_half(y + i, narrow(select_f(v != v, v + v, v)), n - i);
    }
}
static void widen_run(const uint16_t *x, float *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += VL) store_some_f(y + i, load_some_half(x + i, n - i), n - i);
}

#undef OF
#undef EACH_VECTOR
#undef HALVES
#undef PUT_HALVES
