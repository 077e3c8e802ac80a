/* Adding runs of numbers to overlapping places: the inner loop of im2col's transpose. */
#ifndef CK_FOLD_H
#define CK_FOLD_H

#include <stddef.h>

/* Rows of sums that runs are added to in turn. */
enum { CK_FOLD_PLANES = 4 };

/* [0] float, [1] double. Row p of sums lies at planes + p * plane_step. */
typedef struct ck_fold_table {
    /* Row i % CK_FOLD_PLANES at i * step + k += source[i * source_step + k], for i < count and
       k < run. */
    void (*add_runs[2])(void *planes, ptrdiff_t plane_step, ptrdiff_t step, const void *source,
                        ptrdiff_t source_step, ptrdiff_t count, ptrdiff_t run);
    /* out[k] = the sum of all rows at k, for k < n. */
    void (*total[2])(const void *planes, ptrdiff_t plane_step, ptrdiff_t n, void *out);
} ck_fold_table;

#endif
