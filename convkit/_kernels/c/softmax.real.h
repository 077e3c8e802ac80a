/* Template of softmax over rows for one number type (see real_f.h). The functions of one row
   serve cross entropy too.

   A row's largest number is taken out before exp, so that nothing overflows. */

/* The largest number of a row, NaN aside; minus infinity if there is none. */
CK_INLINE T FN(row_max)(const T *x, ptrdiff_t length) {
    const V lowest = FN(set)((T)-INFINITY);
    V most = lowest;
    for (ptrdiff_t c = 0; c < length; c += VL) {
        ptrdiff_t left = length - c;
        V v = FN(load_some)(x + c, left);
        if (left < VL) v = FN(select)(FN(first_lanes)((int)left), v, lowest);
        most = FN(select)(v > most, v, most);
    }
    return FN(max_lanes)(most);
}

/* exp(x - most), also stored in y unless that is NULL. */
CK_INLINE V FN(shifted_exp)(const T *x, T most, T *y, ptrdiff_t c, ptrdiff_t left) {
    V e = FN(exp)(FN(load_some)(x + c, left) - FN(set)(most));
    if (y) FN(store_some)(y + c, e, left);
    return e;
}

static void FN(softmax_rows)(const void *px, void *py, ptrdiff_t rows, ptrdiff_t length) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * length;
        T *y = (T *)py + r * length;
        T most = FN(row_max)(x, length);
        double total = 0;
        SUM_ROW(total, length, FN(shifted_exp)(x, most, y, c, left))
        V divisor = FN(set)((T)total);
        for (ptrdiff_t c = 0; c < length; c += VL)
            FN(store_some)(y + c, FN(load_some)(y + c, length - c) / divisor, length - c);
    }
}

static void FN(log_softmax_rows)(const void *px, void *py, ptrdiff_t rows, ptrdiff_t length) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * length;
        T *y = (T *)py + r * length;
        T most = FN(row_max)(x, length);
        double total = 0;
        SUM_ROW(total, length, FN(shifted_exp)(x, most, NULL, c, left))
        V high = FN(set)(most), low = FN(set)((T)log(total));
        for (ptrdiff_t c = 0; c < length; c += VL)
            FN(store_some)(y + c, FN(load_some)(x + c, length - c) - high - low, length - c);
    }
}

static void FN(softmax_grad_rows)(const void *pg, const void *py, void *px, ptrdiff_t rows,
                                  ptrdiff_t length) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *g = (const T *)pg + r * length, *y = (const T *)py + r * length;
        T *gx = (T *)px + r * length;
        double total = 0;
        SUM_ROW(total, length, FN(load_some)(g + c, left) * FN(load_some)(y + c, left))
        V mean = FN(set)((T)total);
        for (ptrdiff_t c = 0; c < length; c += VL) {
            ptrdiff_t left = length - c;
            V v = FN(load_some)(y + c, left) * (FN(load_some)(g + c, left) - mean);
            FN(store_some)(gx + c, v, left);
        }
    }
}

static void FN(log_softmax_grad_rows)(const void *pg, const void *py, void *px, ptrdiff_t rows,
                                      ptrdiff_t length) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        const T *g = (const T *)pg + r * length, *y = (const T *)py + r * length;
        T *gx = (T *)px + r * length;
        double total = 0;
        SUM_ROW(total, length, FN(load_some)(g + c, left))
        V all = FN(set)((T)total);
        for (ptrdiff_t c = 0; c < length; c += VL) {
            ptrdiff_t left = length - c;
            V p = FN(exp)(FN(load_some)(y + c, left));
            FN(store_some)(gx + c, FN(load_some)(g + c, left) - p * all, left);
        }
    }
}
