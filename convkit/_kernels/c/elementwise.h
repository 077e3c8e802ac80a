/* Function pointers of the elementwise family. Index 0 of a pair is float, 1 is double. */
#ifndef CK_ELEMENTWISE_H
#define CK_ELEMENTWISE_H

#include <stddef.h>

/* Functions of one variable; `a` and `b` are parameters that some have. */
enum ck_unary {
    CK_RELU,
    CK_RELU6,
    CK_LEAKY_RELU, /* a: slope below zero */
    CK_ELU,        /* a: alpha */
    CK_SIGMOID,
    CK_TANH,
    CK_SILU,
    CK_GELU,
    CK_GELU_TANH,
    CK_HARDSWISH,
    CK_HARDSIGMOID,
    CK_ERF,
    CK_HARDTANH, /* a, b: limits */
    CK_SELU,
    CK_CELU,     /* a: alpha */
    CK_SOFTPLUS, /* a: beta, b: threshold */
    CK_LOGSIGMOID,
    CK_SOFTSIGN,
    CK_MISH,
    CK_UNARY_COUNT
};

/* y[i] = f(x[i]); y may be x. */
typedef void (*ck_unary_fn)(const void *x, void *y, ptrdiff_t n, double a, double b);

/* gx[i] = gy[i] * f'. `saved` is y for relu, relu6, sigmoid, tanh and hardsigmoid, x for the
   others; for leaky_relu anything whose sign is x's. */
typedef void (*ck_unary_grad_fn)(const void *gy, const void *saved, void *gx, ptrdiff_t n,
                                 double a, double b);

/* y = activation(a + b), with a ck_activation of gemm.h; y may be a or b. */
typedef void (*ck_add_fn)(const void *a, const void *b, void *y, ptrdiff_t n, int activation,
                          double alpha, double beta);

/* Arithmetic of two arrays. */
enum ck_binary { CK_ADD, CK_SUB, CK_MUL, CK_DIV, CK_BINARY_COUNT };

/* A block of rows of n numbers: y[r][i] = a[r * row_a + i * step_a] op b[...], y dense. A step is
   1, or 0 where one number serves a whole row; rows are counted in numbers too. */
typedef struct ck_binary_rows {
    const void *a, *b;
    void *y;
    ptrdiff_t rows, n, row_a, row_b;
    int step_a, step_b;
} ck_binary_rows;
typedef void (*ck_binary_fn)(const ck_binary_rows *block);

typedef struct ck_elementwise_table {
    ck_unary_fn unary[2][CK_UNARY_COUNT];
    ck_unary_grad_fn unary_grad[2][CK_UNARY_COUNT];
    ck_add_fn add[2];
    ck_binary_fn binary[2][CK_BINARY_COUNT];
} ck_elementwise_table;

#endif
