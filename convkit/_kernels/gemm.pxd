"""C declarations of the batch-reduce GEMM, and the choice of its tile."""

from convkit._kernels.dispatch cimport ck_transpose_table
from libc.stddef cimport ptrdiff_t

cdef extern from "gemm.h" nogil:
    ctypedef struct ck_gemm_args:
        const void* a
        const ptrdiff_t* a_offsets
        ptrdiff_t lda
        const void* b
        ptrdiff_t b_step
        const ptrdiff_t* b_offsets
        ptrdiff_t ldb
        ptrdiff_t batch
        ptrdiff_t k
        void* c
        ptrdiff_t ldc
        int n
        int accumulate
        const void* bias
        const void* residual
        ptrdiff_t ld_residual
        int activation
        double alpha
        double beta
        const void* fetch
        ptrdiff_t fetch_step
        ptrdiff_t fetch_block
    ctypedef void (*ck_gemm_fn)(const ck_gemm_args*) noexcept nogil
    ctypedef void (*ck_gemm_wide_fn)(const ck_gemm_args*, ptrdiff_t rows) noexcept nogil
    int CK_GEMM_MAX_WIDE
    ctypedef struct ck_gemm_kernels:
        int vector_length
        int max_mr[5]
        ck_gemm_fn plain[5][15]
        ck_gemm_fn transposed[5][15]
        ck_gemm_wide_fn wide[9]
    ctypedef struct ck_gemm_table:
        ck_gemm_kernels f32
        ck_gemm_kernels f64
        double (*fma_rounds)(long steps) noexcept nogil

# Kernels for arrays of 4-byte or 8-byte floats.
cdef const ck_gemm_kernels* kernels_for(Py_ssize_t itemsize) noexcept nogil

# How many vectors wide tiles should be for rows of `width` pixels and `columns` outputs.
cdef int choose_width(const ck_gemm_kernels* kernels, Py_ssize_t width,
                      Py_ssize_t columns) noexcept nogil


cdef struct PackJob:
    const ck_transpose_table* transpose
    const char* source
    char* target
    Py_ssize_t itemsize, vector, width, columns, blocks, depth, taps, block_size
    Py_ssize_t group_step, column_step, depth_step
    const Py_ssize_t* tap_steps
    const Py_ssize_t* places    # of the tap at each step below `span`, or -1
    Py_ssize_t span, begin      # the first block to pack

# Packs one block of one group; `ctx` is a PackJob.
cdef void pack_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil


# Where part i of `parts` nearly equal parts of `total` begins.
cdef inline Py_ssize_t part_start(Py_ssize_t total, Py_ssize_t parts, Py_ssize_t i) noexcept nogil:
    return total // parts * i + min(i, total % parts)


cdef class Packed:
    cdef readonly object array          # the packed values, flat
    cdef readonly Py_ssize_t groups, taps, depth, columns
    cdef readonly int width, vector     # vectors per block, elements per vector
    cdef readonly Py_ssize_t blocks     # per group
    cdef readonly Py_ssize_t itemsize
    cdef char* pointer

    # Elements from one block to the next.
    cdef inline Py_ssize_t block_size(self) noexcept nogil:
        return self.taps * self.depth * self.width * self.vector


cdef class Packing:
    cdef PackJob job                    # but for the source and the target
    cdef object dtype, key, kept
    cdef Py_ssize_t groups

    cdef double work(self)
    cdef Packed blank(self, PackJob* job)
    cdef Packed weights(self, source, cache, int threads)
