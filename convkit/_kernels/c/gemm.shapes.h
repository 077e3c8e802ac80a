/* Lists of row counts of register tiles, and how inline assembly says "in a register". */
#ifndef CK_GEMM_SHAPES_H
#define CK_GEMM_SHAPES_H

#define GEMM_ROWS_4(X, nv) X(1, nv) X(2, nv) X(3, nv) X(4, nv)
#define GEMM_ROWS_6(X, nv) GEMM_ROWS_4(X, nv) X(5, nv) X(6, nv)
#define GEMM_ROWS_9(X, nv) GEMM_ROWS_6(X, nv) X(7, nv) X(8, nv) X(9, nv)
#define GEMM_ROWS_14(X, nv) \
    GEMM_ROWS_9(X, nv) X(10, nv) X(11, nv) X(12, nv) X(13, nv) X(14, nv)

#if defined(__x86_64__)
#define GEMM_IN_REGISTER "+v"
#elif defined(__aarch64__)
#define GEMM_IN_REGISTER "+w"
#else
#define GEMM_IN_REGISTER "+m"
#endif

#endif
