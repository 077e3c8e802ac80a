/* Function pointers of the losses. Index 0 of a pair is float, 1 is double. */
#ifndef CK_LOSS_H
#define CK_LOSS_H

#include <stddef.h>
#include <stdint.h>

/* Cross entropy of rows of `classes` numbers with the shares that the classes have in each
   row's target. With target classes, share[c] = (c == target) * (1 - smoothing) * weight[c]
   + smoothing / classes * weight[c]; with probabilities, share[c] = weight[c] *
   (probability[c] * (1 - smoothing) + smoothing / classes). A row's loss is the sum of
   share[c] * (most + log_sum - x[c]), where most is the row's largest number and log_sum the
   logarithm of the sum of exp(x[c] - most). Rows whose target is `ignore` or no class have
   shares of zero. */
typedef struct ck_cross_entropy {
    ptrdiff_t classes;
    const void *x;              /* rows by classes */
    const int64_t *target;      /* per row, or NULL */
    const void *probabilities;  /* rows by classes, or NULL */
    const void *weight;         /* per class, or NULL for ones */
    int64_t ignore;
    double smoothing;
    void *most, *log_sum;       /* per row: written forward, read backward */
    void *losses;               /* per row, or NULL */
    const void *gy;             /* per row, or NULL for ones */
    double factor;              /* of gy */
    void *gx, *g_probabilities; /* rows by classes, or NULL */
} ck_cross_entropy;

/* Works on rows [begin, end). Forward adds to sums[0] the losses and to sums[1] the class
   weights of the targets that count (with probabilities, the number of rows). */
typedef void (*ck_cross_entropy_fn)(const ck_cross_entropy *args, ptrdiff_t begin, ptrdiff_t end,
                                    double *sums);
typedef void (*ck_cross_entropy_grad_fn)(const ck_cross_entropy *args, ptrdiff_t begin,
                                         ptrdiff_t end);

/* Losses of single numbers x with targets t. */
enum ck_pointwise_loss {
    CK_LOSS_MSE,
    CK_LOSS_BCE_LOGITS,
    CK_LOSS_BCE,
    CK_LOSS_L1,
    CK_LOSS_HUBER,     /* a: where the parabola ends */
    CK_LOSS_SMOOTH_L1, /* a: the same; not zero */
    CK_LOSS_KL,
    CK_LOSS_KL_LOG,    /* with the logarithm of the target */
    CK_LOSS_HINGE,     /* a: margin */
    CK_LOSS_FOCAL,     /* a: share of the positive, or below zero; b: exponent */
    CK_LOSS_COUNT
};

/* A loss of single numbers, over n of them. */
typedef struct ck_pointwise {
    const void *x, *target;
    const void *weight, *pos_weight; /* binary cross entropies only; NULL for ones */
    double a, b;                     /* parameters that some losses have */
    void *losses;                    /* or NULL */
    const void *gy;                  /* or NULL for ones */
    double factor;                   /* of gy */
    void *gx, *g_target;             /* or NULL */
} ck_pointwise;

/* Works on numbers [begin, end); returns the sum of the losses. */
typedef double (*ck_pointwise_fn)(const ck_pointwise *args, ptrdiff_t begin, ptrdiff_t end);
typedef void (*ck_pointwise_grad_fn)(const ck_pointwise *args, ptrdiff_t begin, ptrdiff_t end);

typedef struct ck_loss_table {
    ck_cross_entropy_fn cross_entropy[2];
    ck_cross_entropy_grad_fn cross_entropy_grad[2];
    ck_pointwise_fn pointwise[2][CK_LOSS_COUNT];
    ck_pointwise_grad_fn pointwise_grad[2][CK_LOSS_COUNT];
} ck_loss_table;

#endif
