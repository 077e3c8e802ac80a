"""A convolution on tiles of 16-bit numbers as the steps around it see it: see tiles.pyx."""

from convkit._kernels.dispatch cimport ck_unary_fn
from convkit._kernels.gather cimport Gather
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint32_t

cdef extern from "tile.h" nogil:
    ctypedef struct ck_tile_args:
        const char* a
        ptrdiff_t a_next
        ptrdiff_t a_low
        const ptrdiff_t* a_offsets
        ptrdiff_t lda
        const char* b
        ptrdiff_t b_ahead
        ptrdiff_t batch, k
        ptrdiff_t steps, depth
        ptrdiff_t a_step
        int rows
        int n
        void* c
        const ptrdiff_t* c_rows
        float scale[2]
        const float* bias
        const void* residual
        bint narrow_c, narrow_residual
        bint stream
        ck_tile_queue* queue
        void (*aside)(void* of) noexcept nogil
        void* of
        int activation
        float alpha, beta
        ck_unary_fn map
    ctypedef struct ck_tile_queue:
        int filled, rows, done
    ctypedef void (*ck_tile_fn)(const ck_tile_args*) noexcept nogil
    ctypedef struct ck_tile_form:
        int planes, most_rows
        ck_tile_fn run[2][2]
        ck_tile_fn exact[2][2]
        ck_tile_fn flush
        int (*convert)(const void* x, ptrdiff_t n, void* high, ptrdiff_t low,
                       float scale, ptrdiff_t apart) noexcept nogil
        int (*copy)(const void* x, ptrdiff_t n, void* high, ptrdiff_t low,
                    float scale, ptrdiff_t apart) noexcept nogil
        int (*pack)(const float* rows, ptrdiff_t depth, void* high, ptrdiff_t low,
                    float scale) noexcept nogil
        uint32_t (*peak)(const float* x, ptrdiff_t n, uint32_t peak) noexcept nogil
    ctypedef struct ck_tile_table:
        ptrdiff_t far_bytes
        void (*configure)(int rows, int depth) noexcept nogil
        void (*release)() noexcept nogil
        ck_tile_form plain
        ck_tile_form split
        ck_tile_form half
    int CK_TILE_ROWS, CK_TILE_COLUMNS, CK_TILE_DEPTH


cdef struct Job:
    const ck_tile_table* table
    const ck_tile_form* form
    ck_tile_args proto             # what all tiles share
    const char* x
    const char* weights
    const float* bias
    const char* residual
    char* y
    Py_ssize_t x_item, residual_item, y_item        # bytes of a value: float, or bfloat16
    char* scratch
    Py_ssize_t scratch_bytes
    Py_ssize_t samples, in_h, in_w, in_c, in_group
    Py_ssize_t out_h, out_w, out_c, out_group       # whole output, channels per group
    Py_ssize_t grid_h, grid_w, last_w               # pixels computed; of the last row
    Py_ssize_t stride_h, stride_w, row_lo, row_hi, col_lo, strip_width
    Py_ssize_t x_sample, x_row, x_column            # values from one to the next in x
    Py_ssize_t step_h, step_w, start_h, start_w
    Py_ssize_t strips, chunks, blocks, all_blocks, block_bytes
    Py_ssize_t pitch                                # positions of a row
    Py_ssize_t row_values                           # values of a row in a strip
    Py_ssize_t plane_values                         # values of all rows of one phase
    Py_ssize_t strip_values                         # values of a strip, one plane of bfloat16
    Py_ssize_t y_pixel                              # values from one pixel to the next
    Py_ssize_t taps_h, taps_w                       # rows of taps, reductions of each
    int shift                                       # of the weights
    const Py_ssize_t* taps                          # their places in rows, then in columns
    ptrdiff_t* offsets                              # the same in a strip
    bint pointwise
    bint direct                                     # tiles are loaded from x as it lies
    bint as_tiles                                   # blocks of positions are laid out as tiles
    int team
    bint gathers                                    # whether moments are gathered
    Gather* gathered                                # or NULL; a part is a strip of a sample


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil
cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil
# Whether each pixel of the output is made of its own in x alone, side by side, with one thread's
# registers: what `run_pixels` takes.
cdef bint alone(const Job* job) noexcept nogil
cdef double multiply_adds(const Job* job) noexcept nogil
# Bytes of scratch that `run_pixels` wants for so many pixels.
cdef size_t pixels_scratch(const Job* job, Py_ssize_t pixels) noexcept nogil
# Computes some pixels of the output of a job that is `alone`.
cdef void run_pixels(const Job* job, const char* x, char* y, const char* residual,
                     Py_ssize_t pixels, char* scratch) noexcept nogil
