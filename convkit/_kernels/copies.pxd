"""Copies between memory layouts, for the other extension modules."""

cimport numpy as cnp

cdef enum:
    MOST_AXES = 32

# A copy of one sample's elements from one set of strides (in bytes) to another. The last axis
# is the innermost of the target, the one before it the innermost of the rest of the source.
cdef struct Copy:
    int axes
    Py_ssize_t item
    Py_ssize_t size[MOST_AXES]
    Py_ssize_t source[MOST_AXES]
    Py_ssize_t target[MOST_AXES]
    Py_ssize_t source_sample, target_sample
    Py_ssize_t outer, pieces, each     # blocks before the last two axes; cuts of the last but one
    const char* x
    char* y


# Sorts and joins the axes of a copy whose axes, sizes, strides and item are set; cuts the work.
# Sizes must not be 0.
cdef void arrange(Copy* copy) noexcept nogil

# Copies samples of an arranged copy.
cdef void copy_samples(Copy* copy, const char* x, char* y, Py_ssize_t samples,
                       int threads) noexcept nogil

# Copies x to y, of the same shape; what is small or of an odd type by NumPy.
cdef int copy_array(cnp.ndarray y, cnp.ndarray x, int threads) except -1
