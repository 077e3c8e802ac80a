/* Template of the kernels that gather moments, for one number type (see real_f.h).

   Sums run down a few pixels at a time in the arrays' own type, from a value near the mean, and
   are then added to those of the part in double. With GATHER_HALVES defined they may also be of
   bfloat16, in the same arithmetic. */

/* Adds the first `left` lanes of a vector to as many doubles. */
CK_INLINE void FN(add_wide)(double *to, V v, ptrdiff_t left) {
    T lanes[VL];
    FN(store)(lanes, v);
    if (left >= VL)
        for (int i = 0; i < VL; i++) to[i] += (double)lanes[i];
    else
        for (int i = 0; i < left; i++) to[i] += (double)lanes[i];
}

#define EACH(j) _Pragma("GCC unroll 4") for (int j = 0; j < nv; j++)
#define FROM(p, j) FN(load_some)((const T *)(p) + (j) * VL, left - (j) * VL)
#ifdef GATHER_HALVES
#define READ(p, j)                                                                                 \
    (halves ? load_some_half((const uint16_t *)(p) + (j) * VL, left - (j) * VL) : FROM(p, j))
#else
#define READ FROM
#endif

/* Vectors from channel c on, nv of them; `apart` pixels in sums of their own, so that one sum need
   not wait for the next: nv * apart is 4. */
CK_INLINE void FN(gather_vectors)(const ck_gather_args *g, ptrdiff_t c, int nv, int apart,
                                  ptrdiff_t left, int halves) {
    const ptrdiff_t size = halves ? sizeof(uint16_t) : sizeof(T);
    const ptrdiff_t row = g->row_step * size, pixel = g->pixel_step * size;
    const char *y = (const char *)g->y + c * size;
    T *shift = (T *)g->shift + c;
    V k[4], s[4], q[4];
    EACH(j) {
        k[j] = g->begin ? READ(y, j) : FROM(shift, j);
        if (g->begin) FN(store_some)(shift + j * VL, k[j], left - j * VL);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) s[i] = q[i] = (V){0};
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        const char *p = y + r * row;
        ptrdiff_t x = 0;
        for (; x + apart <= g->cols; x += apart, p += apart * pixel)
            _Pragma("GCC unroll 4") for (int u = 0; u < apart; u++) EACH(j) {
                const V d = READ(p + u * pixel, j) - k[j];
                s[u * nv + j] += d;
                q[u * nv + j] += d * d;
            }
        for (; x < g->cols; x++, p += pixel) EACH(j) {
            const V d = READ(p, j) - k[j];
            s[j] += d;
            q[j] += d * d;
        }
    }
    if (apart == 4) {
        s[0] = (s[0] + s[1]) + (s[2] + s[3]);
        q[0] = (q[0] + q[1]) + (q[2] + q[3]);
    }
    EACH(j) {
        FN(add_wide)(g->sum + c + j * VL, s[j], left - j * VL);
        FN(add_wide)(g->square + c + j * VL, q[j], left - j * VL);
    }
}

CK_INLINE void FN(gather_all)(const ck_gather_args *g, int halves) {
    ptrdiff_t c = 0;
    if (g->begin)
        for (ptrdiff_t i = 0; i < g->channels; i++) g->sum[i] = g->square[i] = 0;
    for (; c + 4 * VL <= g->channels; c += 4 * VL)
        FN(gather_vectors)(g, c, 4, 1, 4 * VL, halves);
    for (; c + VL <= g->channels; c += VL) FN(gather_vectors)(g, c, 1, 4, VL, halves);
    if (c < g->channels) FN(gather_vectors)(g, c, 1, 4, g->channels - c, halves);
}

static void FN(gather_add)(const ck_gather_args *g) {
#ifdef GATHER_HALVES
    if (g->halves) {
        FN(gather_all)(g, 1);
        return;
    }
#endif
    FN(gather_all)(g, 0);
}

/* Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983. */
static void FN(gather_merge)(double *mean, double *squares, double before, const void *shift,
                             const double *sum, const double *square, double count,
                             ptrdiff_t channels) {
    const double share = count / (before + count), weight = before * share;
    for (ptrdiff_t c = 0; c < channels; c++) {
        const double rest = sum[c] / count;
        const double delta = (double)((const T *)shift)[c] + rest - mean[c];
        mean[c] += delta * share;
        squares[c] += square[c] - rest * sum[c] + delta * delta * weight;
    }
}

#undef EACH
#undef FROM
#undef READ
