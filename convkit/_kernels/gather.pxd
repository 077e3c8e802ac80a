"""Moments gathered while a convolution's output is in cache: see gather.pyx."""

from convkit._kernels.dispatch cimport ck_gather_add_fn


cdef struct Gather:
    ck_gather_add_fn add
    char* shifts                    # of each part, as many values as there are channels;
    double* sums                    # the same of sums from there on,
    double* squares                 # and of squares
    double* counts                  # values of each part
    Py_ssize_t channels, item       # and bytes of a shift
    bint halves                     # whether pixels are of bfloat16


cdef void add_pixels(const Gather* to, Py_ssize_t part, bint begin, Py_ssize_t column,
                     Py_ssize_t channels, const char* y, Py_ssize_t rows, Py_ssize_t cols,
                     Py_ssize_t row_step, Py_ssize_t pixel_step) noexcept nogil


# The first output channel of a block of columns, of which each group of channels has `blocks`.
cdef inline Py_ssize_t first_column(Py_ssize_t block, Py_ssize_t blocks, Py_ssize_t out_group,
                                    Py_ssize_t columns) noexcept nogil:
    return block // blocks * out_group + block % blocks * columns


# `begin` makes room for so many parts and channels of an output whose numbers have `item` bytes: 2
# for bfloat16, where there are tiles. Then pixels that `add_pixels` is given are such; steps from
# one to the next are in numbers.
cdef class Gathered:
    cdef Gather to
    cdef Py_ssize_t parts
    cdef object memory
    cdef Gather* begin(self, Py_ssize_t parts, Py_ssize_t channels, Py_ssize_t item) except NULL
