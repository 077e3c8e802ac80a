"""Depthwise convolution as the steps around it see it: see depthwise.pyx."""

from convkit._kernels.dispatch cimport ck_unary_fn
from convkit._kernels.gather cimport Gather
from convkit._kernels.maker cimport Maker
from convkit._kernels.threads cimport task_fn

# Adds up blocks of sums of one tap: see `ck_depthwise_kernels`.
ctypedef void (*total_fn)(const void* sums, Py_ssize_t blocks, Py_ssize_t step, Py_ssize_t channels,
                          void* out) noexcept nogil

cdef extern from "depthwise.h" nogil:
    ctypedef struct ck_depthwise_args:
        const void* x
        Py_ssize_t x_row_step, width
        const void* w
        Py_ssize_t w_row_step, w_step, rows, taps, first, stride, dilation, channels
        Py_ssize_t from_ "from", to
        void* y
        Py_ssize_t columns, y_step
        const void* bias
        const void* residual
        int activation
        double alpha, beta
    ctypedef struct ck_depthwise_sums_args:
        const void* x
        Py_ssize_t x_row_step, width
        const void* gy
        Py_ssize_t columns, rows, taps, first, stride, dilation, channels
        void* sums
        Py_ssize_t sums_step
    ctypedef struct ck_depthwise_kernels:
        int vector_length
        void (*row)(const ck_depthwise_args*) noexcept nogil
        void (*row_sums)(const ck_depthwise_sums_args*) noexcept nogil
        total_fn total
    int CK_DW_ROWS
    ctypedef struct ck_depthwise_band:
        const void* x
        Py_ssize_t x_row_step, x_pair_step, x_step, width, first
        const void* w
        Py_ssize_t w_row_step, w_step
        void* y
        Py_ssize_t y_row_step, y_step, columns, channels, pairs, group
        Py_ssize_t top, top_step, top_dilation, height, row, row_step, row_low, row_high
        const void* bias
        int clamp
        float low, high
        int stream
    ctypedef void (*ck_depthwise_band_fn)(const ck_depthwise_band*) noexcept nogil
    ctypedef struct ck_depthwise_block:
        const void* x
        const void* gy
        Py_ssize_t height, width, columns, channels, start, stop, top, left
        void* sums
        Py_ssize_t sums_step, group
    ctypedef void (*ck_depthwise_block_fn)(const ck_depthwise_block*) noexcept nogil
    ctypedef struct ck_depthwise_table:
        ck_depthwise_kernels f32, f64
        ck_depthwise_band_fn (*band)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        ck_depthwise_band_fn (*flat_band)(Py_ssize_t) noexcept nogil
        ck_depthwise_block_fn (*block)(Py_ssize_t, Py_ssize_t) noexcept nogil
        ck_depthwise_band_fn (*grouped_band)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        ck_depthwise_block_fn (*grouped_block)(Py_ssize_t, Py_ssize_t) noexcept nogil
    int CK_DW_HALVES

cdef extern from "tile.h" nogil:
    ctypedef struct ck_tile_table:
        ck_depthwise_band_fn (*depthwise)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        ck_depthwise_block_fn (*depthwise_block)(Py_ssize_t, Py_ssize_t) noexcept nogil
        total_fn depthwise_total


cdef struct Columns:
    # The taps of one residue class of columns in the gradient of the input.
    Py_ssize_t first, taps, last_tap


cdef struct Problem:
    const ck_depthwise_kernels* kernels
    char* x
    char* w
    char* y
    char* bias
    char* residual
    # Bytes of a number, and of one where x, the residual and y are bfloat16.
    Py_ssize_t item, x_item, residual_item, y_item
    Py_ssize_t n, h, width, oh, ow, c, kh, kw
    Py_ssize_t stride_h, stride_w, top, left, dilation_h, dilation_w
    int activation
    ck_unary_fn map     # what follows as a pass over each block of rows, or NULL
    double alpha, beta
    # The cut: tasks of `block` rows of a sample, or of `samples` whole samples.
    Py_ssize_t block, blocks, samples
    # Channels for which a task walks its rows at once.
    Py_ssize_t channels
    # The gradient of the input: residue classes of columns, and their count.
    Columns* phases
    Py_ssize_t phase_count, period_h, period_w
    # The kernels of the window, NULL where it has none: they take its rows in pairs.
    ck_depthwise_band_fn band
    ck_depthwise_block_fn sum_block
    total_fn total
    Py_ssize_t w_row_step, w_step, up
    # Channels in and out of a group; 1 is depthwise.
    Py_ssize_t group
    # Weights, then bias, for fewer channels than a vector: each repeats along `repeats` values
    # (0 where they are used as they are). Whether the window is turned by 180 degrees.
    float* repeated
    Py_ssize_t repeats
    bint turned
    # The gradient of the weight: sums[task][kh * kw][sums_step]
    char* sums
    Py_ssize_t sums_step, tasks, sum_item   # bytes of the numbers that are multiplied
    # The gradient of the weight: what x and y are made by, or NULL.
    const Maker* maker
    const Maker* y_maker
    # Tasks that work on floats where arrays are bfloat16, or NULL; whether that is the gradient of
    # the input.
    task_fn on_floats
    bint backward
    # Room for the rows of x, of the residual and of y that a task turns into floats: for each
    # thread so many bytes, and how many of them are for each.
    char* made
    Py_ssize_t made_bytes, made_x, made_residual
    # Whether y is stored past the caches: see FAR_BYTES.
    bint far
    # What the output's moments are gathered in, a part for each block of rows; or NULL.
    Gather* gathered


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil
cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil
# Output rows [start, stop) of a sample, by the kernels for pairs of rows.
cdef void gather_rows(const Problem* p, Py_ssize_t n, Py_ssize_t start,
                      Py_ssize_t stop) noexcept nogil
