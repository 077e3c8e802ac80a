"""One direct convolution as the steps around it see it: see direct.pyx."""

from convkit._kernels.gather cimport Gather
from convkit._kernels.gemm cimport ck_gemm_args, ck_gemm_kernels
from convkit._kernels.lookahead cimport LookAhead
from convkit._kernels.strips cimport Source
from libc.stddef cimport ptrdiff_t


cdef struct Job:
    const ck_gemm_kernels* kernels
    ck_gemm_args proto             # what all tiles share
    const char* x
    const char* weights
    const char* bias
    const char* residual
    char* y
    char* scratch
    char* padded
    Py_ssize_t itemsize, scratch_bytes, padded_bytes
    Py_ssize_t samples, in_h, in_w, in_c, in_group
    Py_ssize_t out_h, out_w, out_c, out_group       # whole output, channels per group
    Py_ssize_t x_pixel, y_pixel     # numbers from one pixel to the next; residual as y
    Py_ssize_t grid_h, grid_w                       # pixels computed
    Py_ssize_t stride_h, stride_w, row_lo, row_hi, col_lo, col_hi
    Py_ssize_t step_h, step_w, start_h, start_w
    Py_ssize_t strips, chunks
    Py_ssize_t reuse                                # pixels in all: uses of each weight
    Py_ssize_t columns, blocks, all_blocks, block_size  # of packed weights
    Py_ssize_t last_w                               # pixels of the grid's last row
    const ptrdiff_t* offsets_x                      # of the taps, in x itself
    const ptrdiff_t* offsets_strip                  # of the taps, in a scratch strip
    Py_ssize_t strip_width
    Py_ssize_t apart                # numbers between pixels of rows that are copied; 0: none are
    int width, team                                 # vectors of a packed block; threads
    bint pointwise
    Source source
    Gather* gathered                # or NULL; a part is a strip of a sample


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil
cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil
cdef bint alone(Job* job) noexcept nogil
cdef double multiply_adds(const Job* job) noexcept nogil
cdef void run_rows(Job* job, Py_ssize_t sample, Py_ssize_t first, Py_ssize_t last,
                   Py_ssize_t first_block, Py_ssize_t last_block, Py_ssize_t part,
                   char* scratch) noexcept nogil
cdef void run_pixels(Job* job, const char* x, char* y, const char* residual, Py_ssize_t pixels,
                     LookAhead* ahead) noexcept nogil
