/* Function pointers of the kernels that normalise every row by its own numbers: layer norm
   and local response norm.

   Arrays are `rows` times `length`, contiguous. Index 0 of a pair is float, 1 is double. */
#ifndef CK_ROWNORM_H
#define CK_ROWNORM_H

#include <stddef.h>

/* y = x / (k + alpha * s)^beta, where s is the sum of x^2 over `size` neighbours in the row,
   from size / 2 before to (size - 1) / 2 after. */
typedef struct ck_lrn {
    ptrdiff_t size;
    double alpha, beta, k;
} ck_lrn;

typedef struct ck_rownorm_table {
    /* y = (x - mean) * inverse * weight + bias, with the mean of each row and inverse =
       1 / sqrt(variance + eps), which are written; weight and bias, of the row's length, may
       be NULL. */
    void (*layer[2])(const void *x, const void *weight, const void *bias, void *y, double *mean,
                     double *inverse, ptrdiff_t rows, ptrdiff_t length, double eps);
    /* The gradient of x, with mean and inverse as forward left them. */
    void (*layer_grad[2])(const void *gy, const void *x, const void *weight, const double *mean,
                          const double *inverse, void *gx, ptrdiff_t rows, ptrdiff_t length);
    /* For each column, the sums of gy and of gy * (x - mean) * inverse. */
    void (*layer_sums[2])(const void *gy, const void *x, const double *mean,
                          const double *inverse, double *sum, double *product, ptrdiff_t rows,
                          ptrdiff_t length);
    /* `base` gets k + alpha * s unless it is NULL; scratch holds length + size numbers. */
    void (*lrn[2])(const ck_lrn *o, const void *x, void *y, void *base, void *scratch,
                   ptrdiff_t rows, ptrdiff_t length);
    void (*lrn_grad[2])(const ck_lrn *o, const void *gy, const void *x, const void *base,
                        void *gx, void *scratch, ptrdiff_t rows, ptrdiff_t length);
} ck_rownorm_table;

#endif
