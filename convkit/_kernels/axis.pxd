"""One axis of a windowed operation, for the other extension modules."""

from libc.stdint cimport int32_t

cdef extern from "axis.h" nogil:
    ctypedef struct ck_axis:
        Py_ssize_t targets, sources
        const int32_t* begin
        const int32_t* source
        const int32_t* tap
        const float* weight_f
        const double* weight_d
        Py_ssize_t runs
        const int32_t* run_target
        const int32_t* run_source

cdef class Axis:
    cdef ck_axis lists
    cdef readonly Py_ssize_t targets
    cdef readonly Py_ssize_t sources
    cdef readonly Py_ssize_t entries
    cdef readonly bint has_weights
    cdef readonly bint has_taps
    cdef tuple _arrays
    cdef Axis _transposed

# How many rows of `row_bytes` bytes read and written one task takes: a function of one
# sample's problem alone.
cdef Py_ssize_t rows_per_task(Py_ssize_t rows, double row_bytes) noexcept nogil
