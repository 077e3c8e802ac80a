/* Function pointers of the kernels over rows of channels: batch norm, affine, prelu.

   Arrays are `rows` times `columns`, contiguous, with one parameter for each column.
   Index 0 of a pair is float, 1 is double. */
#ifndef CK_NORM_H
#define CK_NORM_H

#include <stddef.h>
#include <stdint.h>

/* A gradient that has not gone back through an activation yet. Where `y`, the activation's
   value, is NULL, its argument is worked out again: (x - center) * scale + shift. What is
   outside (low, high) gets `leak` times the gradient; high NaN: no upper end. The switches are for
   what is kept as bfloat16 alone. */
typedef struct ck_norm_masked {
    const void *gy, *x, *y;
    const void *center, *scale, *shift;
    void *out; /* the gradient after the activation, or gx */
    double low, high;
    int gy_half, out_half; /* whether these are bfloat16 */
    int stream;            /* whether a float out is written past the caches, to whole lines */
} ck_norm_masked;

/* y = v * scale + shift + residual between low and high, v being x - center rounded to bfloat16,
   which is put into `kept`; where x is NULL, v is read from there. `rounded`: y as bfloat16.
   `residual`, and either of `y` and `rounded`, may be NULL. */
typedef struct ck_norm_kept {
    const float *x;
    const void *residual;
    uint16_t *kept, *rounded;
    float *y;
    const float *center, *scale, *shift;
    float low, high;
    int residual_half; /* whether it is bfloat16 */
    int rounds;        /* whether y gets the numbers of `rounded` */
    int stream;        /* as above, for y */
} ck_norm_kept;

typedef struct ck_norm_table {
    /* Mean and sum of squared deviations of each column. */
    void (*moments[2])(const void *x, ptrdiff_t rows, ptrdiff_t columns, double *mean,
                       double *squares);
    /* Takes `count_b` values with moments b into `count_a` values with moments a. */
    void (*merge_moments)(double *mean_a, double *squares_a, double count_a,
                          const double *mean_b, const double *squares_b, double count_b,
                          ptrdiff_t columns);
    /* y = activation((x - center) * scale + shift + residual); center and residual may be
       NULL (the latter always where the former is), y may be x. */
    void (*affine[2])(const void *x, const void *residual, void *y, ptrdiff_t rows,
                      ptrdiff_t columns, const void *center, const void *scale,
                      const void *shift, int activation, double alpha, double beta);
    /* Adds to each column's sums those of gy and of gy * (x - center). */
    void (*grad_sums[2])(const void *gy, const void *x, ptrdiff_t rows, ptrdiff_t columns,
                         const void *center, double *sum, double *product);
    /* gx = gy * scale + (x - center) * slope + shift. */
    void (*grad_input[2])(const void *gy, const void *x, void *gx, ptrdiff_t rows,
                          ptrdiff_t columns, const void *center, const void *scale,
                          const void *slope, const void *shift);
    /* The same two behind an activation; where `y` is there the sums
       also write `out`; gx is for a mask worked out anew. Index 2: gradients are float or bfloat16,
       x is what ck_norm_kept keeps, y is bfloat16. */
    void (*masked_sums[3])(const ck_norm_masked *, ptrdiff_t rows, ptrdiff_t columns, double *sum,
                           double *product);
    void (*masked_input[3])(const ck_norm_masked *, ptrdiff_t rows, ptrdiff_t columns,
                            const void *factor, const void *slope, const void *offset);
    void (*affine_kept)(const ck_norm_kept *, ptrdiff_t rows, ptrdiff_t columns);
    /* Floats as bfloat16 (halves.h), and back. */
    void (*narrow)(const float *x, uint16_t *y, ptrdiff_t n);
    void (*widen)(const uint16_t *x, float *y, ptrdiff_t n);
    /* y = x > 0 ? x : w * x. */
    void (*prelu[2])(const void *x, const void *w, void *y, ptrdiff_t rows, ptrdiff_t columns);
    /* Its gradients: gx, and each column's gradient of w, which is added to gw. */
    void (*prelu_grad[2])(const void *gy, const void *x, const void *w, void *gx, double *gw,
                          ptrdiff_t rows, ptrdiff_t columns);
} ck_norm_table;

#endif
