/* A run that overlaps the one before would wait for its stores, some 35 cycles. Runs are added to
   several rows in turn, so that the one that is waited for lies a few runs back. */

#define FOLD_TEMPLATE(T, V, S, L)                                                                  \
    CK_INLINE void fold_add_run_##S(T *t, const T *s, ptrdiff_t run) {                             \
        ptrdiff_t k = 0;                                                                           \
        for (; k + L <= run; k += L) store_##S(t + k, load_##S(t + k) + load_##S(s + k));          \
        if (k < run) {                                                                             \
            const int left = (int)(run - k);                                                       \
            store_part_##S(t + k, load_part_##S(t + k, left) + load_part_##S(s + k, left), left);  \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void fold_add_##S(void *planes, ptrdiff_t plane_step, ptrdiff_t step,                   \
                             const void *source, ptrdiff_t source_step, ptrdiff_t count,           \
                             ptrdiff_t run) {                                                      \
        for (ptrdiff_t i = 0; i < count; i++)                                                      \
            fold_add_run_##S((T *)planes + i % CK_FOLD_PLANES * plane_step + i * step,             \
                             (const T *)source + i * source_step, run);                            \
    }                                                                                              \
                                                                                                   \
    static void fold_total_##S(const void *planes, ptrdiff_t plane_step, ptrdiff_t n, void *out) { \
        const T *p = planes;                                                                       \
        for (ptrdiff_t k = 0; k < n; k += L) {                                                     \
            const int left = n - k < L ? (int)(n - k) : L;                                         \
            V sum = load_part_##S(p + k, left);                                                    \
            for (int plane = 1; plane < CK_FOLD_PLANES; plane++)                                   \
                sum += load_part_##S(p + plane * plane_step + k, left);                            \
            store_part_##S((T *)out + k, sum, left);                                               \
        }                                                                                          \
    }

FOLD_TEMPLATE(float, vfloat, f, VL_F)
FOLD_TEMPLATE(double, vdouble, d, VL_D)

static const ck_fold_table fold_table = {.add_runs = {fold_add_f, fold_add_d},
                                         .total = {fold_total_f, fold_total_d}};
