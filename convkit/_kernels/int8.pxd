"""C declarations of the kernels for bytes, for the other extension modules."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, uint8_t

cdef extern from "int8.h" nogil:
    int CK_INT8_NONE, CK_INT8_BYTES, CK_INT8_FLOAT, CK_INT8_INT
    ctypedef struct ck_int8_finish:
        const int32_t* offset
        const float* scale
        int result, residual
        float residual_scale
        int residual_zero, residual_flip
        float between, between_low, between_high
        float alpha, low, high
        int zero, result_flip
    ctypedef struct ck_int8_args:
        const char* a
        const ptrdiff_t* a_offsets
        ptrdiff_t lda
        const char* b
        ptrdiff_t batch, k
        int rows, n
        char* c
        ptrdiff_t ldc
        const char* residual
        ptrdiff_t ld_residual
        const char* fetch
        ptrdiff_t fetch_step, jump
        ck_int8_finish finish
    int CK_INT8_WALKED, CK_INT8_WALK_ROWS, CK_INT8_WALK_WIDTH
    ctypedef struct ck_int8_walk:
        const char* rows[8]
        ptrdiff_t pixel, stride, taps, width
        int joined, n
        const char* b
        char* c
        ptrdiff_t ldc
        ck_int8_finish finish
    ctypedef struct ck_int8_panel:
        const char* a
        const ptrdiff_t* a_offsets
        ptrdiff_t lda, row_step, batch, steps, depth
        const char* b
        ptrdiff_t block_bytes
        int n
        ptrdiff_t rows, positions, wide, width
        char* c
        ptrdiff_t ldc
        const char* residual
        ptrdiff_t ld_residual
        const char* fetch
        ptrdiff_t fetch_step
        ck_int8_finish finish
    ctypedef struct ck_int8_kernels:
        int max_rows, columns, group, bytes
        int multiple, halves, half_rows
        void (*prepare)(const uint8_t* x, ptrdiff_t n, int flip, void* out) noexcept nogil
        void (*run)(const ck_int8_args*) noexcept nogil
        void (*depthwise)(const ck_int8_args*) noexcept nogil
        void (*copy)(const uint8_t* x, ptrdiff_t n, int flip, void* out) noexcept nogil
        void (*join)(const uint8_t* const* rows, ptrdiff_t n, void* out) noexcept nogil
        void (*walk)(const ck_int8_walk*) noexcept nogil
        void (*panel)(const ck_int8_panel*) noexcept nogil


# How a step ends; made by `Finish`.
cdef class Finish:
    cdef ck_int8_finish form

cdef inline Py_ssize_t number_bytes(int number) noexcept nogil:
    """Bytes of a number of a kind."""
    return 1 if number == CK_INT8_BYTES else 4
