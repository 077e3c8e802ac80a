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

typedef struct ck_optim_kernels {
    void (*sgd)(const ck_optim_slice *, const ck_sgd_settings *);
    void (*adam)(const ck_optim_slice *, const ck_adam_settings *);
} ck_optim_kernels;

typedef struct ck_optim_table {
    ck_optim_kernels f32, f64;
} ck_optim_table;

#endif
