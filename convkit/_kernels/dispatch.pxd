"""C declarations of the kernel table, for the other extension modules."""

cdef extern from "table.h" nogil:
    ctypedef struct ck_gemm_table
    ctypedef struct ck_depthwise_table
    ctypedef struct ck_elementwise_table
    ctypedef struct ck_norm_table
    ctypedef struct ck_optim_table
    ctypedef struct ck_pool_table
    ctypedef struct ck_resample_table
    ctypedef struct ck_table:
        const char* name
        int vector_bytes
        const ck_gemm_table* gemm
        const ck_depthwise_table* depthwise
        const ck_elementwise_table* elementwise
        const ck_norm_table* norm
        const ck_optim_table* optim
        const ck_pool_table* pool
        const ck_resample_table* resample

# The table chosen at import; never NULL.
cdef const ck_table* table() noexcept nogil
