/* Function pointers of the optim family: updates of parameters, in place. */
#ifndef CK_OPTIM_H
#define CK_OPTIM_H

#include <stddef.h>

/* `count` elements of a parameter, its gradient and what the optimiser keeps for it; all in
   the same order in memory, none overlapping another. */
typedef struct ck_optim_slice {
    void *param;
    const void *grad;
    void *state[3];
    ptrdiff_t count;
} ck_optim_slice;

/* state[0] is the momentum buffer, NULL without momentum; `fresh` means that it holds
   nothing yet and takes the gradient as it is. */
typedef struct ck_sgd_settings {
    double lr, momentum, dampening, weight_decay;
    int nesterov, fresh;
} ck_sgd_settings;

/* state: running mean of gradients, of their squares, and the largest of the latter so far
   (NULL without amsgrad). `shrink` is the factor of decoupled weight decay, 1 without.
   The update is step_size * mean / (sqrt(square) / root_correction + eps). */
typedef struct ck_adam_settings {
    double step_size, root_correction, beta1, beta2, eps, weight_decay, shrink;
} ck_adam_settings;

/* state[0]: sum of squared gradients. The update is lr * gradient / (sqrt(sum) + eps). */
typedef struct ck_adagrad_settings {
    double lr, eps, weight_decay;
} ck_adagrad_settings;

/* state: running means of squared gradients and of squared updates. */
typedef struct ck_adadelta_settings {
    double lr, rho, eps, weight_decay;
} ck_adadelta_settings;

/* state: running mean of squared gradients, momentum buffer (NULL without momentum), running
   mean of gradients (NULL unless centred). */
typedef struct ck_rmsprop_settings {
    double lr, alpha, eps, weight_decay, momentum;
} ck_rmsprop_settings;

typedef union ck_optim_settings {
    ck_sgd_settings sgd;
    ck_adam_settings adam;
    ck_adagrad_settings adagrad;
    ck_adadelta_settings adadelta;
    ck_rmsprop_settings rmsprop;
    double scale;
} ck_optim_settings;

typedef void (*ck_optim_fn)(const ck_optim_slice *, const ck_optim_settings *);

/* Index 0 of a pair is float, 1 is double. */
typedef struct ck_optim_table {
    ck_optim_fn sgd[2], adam[2], adagrad[2], adadelta[2], rmsprop[2];
    /* Adds the squares of `param`'s elements, in double, to *(double *)state[0]. */
    ck_optim_fn squares[2];
    /* param *= settings->scale. */
    ck_optim_fn scale[2];
} ck_optim_table;

#endif
