"""Gradient of convolution weights: x transposed times the output's gradient, over pixels.

For each tap, rows of the result are input channels and columns output channels; the
reduction runs over the pixels for which the tap lies inside the input, so no padding is
copied. Where there are few input channels, the taps of a kernel row are taken together:
their values are neighbours in memory, and more rows fill a tile. Then strips of the input
are copied with their padding, so that every pixel has all taps.

The pixels are cut into strips of rows, strips into a few parts, and the result's
columns into blocks that stay in the second-level cache. Each part sums its strips in
order into its own partial result; the partial results are then added in order. The cut
depends on the problem, never on the number of threads, so neither do the bits.
"""

import numpy as np

from convkit._kernels import memory
from convkit._kernels.gemm cimport (ck_gemm_args, ck_gemm_kernels, choose_width, kernels_for,
                                    part_start)
from convkit._kernels.memory cimport give, take
from convkit._kernels.strips cimport Source, fill_strip
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

# Tasks for small results; partial sums are fewer where the result itself is large.
cdef Py_ssize_t TASKS = 16
cdef Py_ssize_t PARTIAL_BYTES = 4 << 20
cdef Py_ssize_t BLOCK_BYTES = 768 << 10
# Where there are fewer strips than this, columns are cut further.
cdef Py_ssize_t MIN_TASKS = 8
# With fewer input channels than this, a kernel row's taps are taken together.
cdef Py_ssize_t FEW_CHANNELS = 8
# Columns that are joined at a time.
cdef enum:
    JOIN_COLUMNS = 16
# Pixels that a tile reduces over before it goes back to memory: at most so many, fewer where
# pixels are so large that those of a strip lie on more pages than address translation
# keeps at hand, but enough to make little of loading and storing the tile.
cdef Py_ssize_t STRIP_PIXELS = 384
cdef Py_ssize_t STRIP_BYTES = 256 << 10
cdef Py_ssize_t LEAST_STRIP_PIXELS = 96


cdef struct Job:
    const ck_gemm_kernels* kernels
    const char* x
    const char* gy
    char* partial
    char* target
    Py_ssize_t itemsize
    Py_ssize_t samples, in_h, in_w, in_c, in_group
    Py_ssize_t out_h, out_w, out_c, out_group
    Py_ssize_t groups, stride_h, stride_w
    Py_ssize_t n_rows, n_cols
    const Py_ssize_t* rows
    const Py_ssize_t* cols
    const ptrdiff_t* offsets                 # of a strip's rows, in x
    Py_ssize_t strips, parts, chunks, blocks, columns, result_size
    Py_ssize_t group_step, column_step, depth_step
    const Py_ssize_t* tap_steps
    Py_ssize_t pixels                        # of all samples, where they are laid in rows
    bint together                            # whether a kernel row's taps are one
    Source source
    char* scratch
    Py_ssize_t scratch_bytes
    const ptrdiff_t* strip_offsets           # of a strip's rows, in the scratch copy


cdef inline Py_ssize_t _first_inside(Py_ssize_t tap, Py_ssize_t stride) noexcept nogil:
    """The first output index whose tap lies at or after the input's start."""
    return (-tap + stride - 1) // stride if tap < 0 else 0


cdef inline Py_ssize_t _end_inside(Py_ssize_t tap, Py_ssize_t stride,
                                   Py_ssize_t size, Py_ssize_t out) noexcept nogil:
    """One past the last output index whose tap lies before the input's end."""
    if tap >= size:
        return 0
    return min(out, (size - 1 - tap) // stride + 1)


cdef void _run_tiles(Job* job, ck_gemm_args* args, const char* x, char* out, Py_ssize_t rows,
                     int nv) noexcept nogil:
    """Add to `rows` rows of the result, which are neighbours in memory, tile by tile."""
    cdef Py_ssize_t tiles = (rows + job.kernels.max_mr[nv] - 1) // job.kernels.max_mr[nv]
    cdef Py_ssize_t i, stop, m = 0
    for i in range(tiles):
        stop = part_start(rows, tiles, i + 1)
        args.a = x + m * job.itemsize
        args.c = out + m * job.out_group * job.itemsize
        job.kernels.transposed[nv][stop - m](args)
        m = stop


cdef void _run_tap(Job* job, ck_gemm_args* args, const char* x, const char* gy, char* out,
                   Py_ssize_t first, Py_ssize_t last, Py_ssize_t row, Py_ssize_t col,
                   int nv) noexcept nogil:
    """Add one strip's share for one tap and one block of columns, all input channels."""
    cdef Py_ssize_t size = job.itemsize
    cdef Py_ssize_t top = max(first, _first_inside(row, job.stride_h))
    cdef Py_ssize_t end = min(last, _end_inside(row, job.stride_h, job.in_h, job.out_h))
    cdef Py_ssize_t left = _first_inside(col, job.stride_w)
    cdef Py_ssize_t right = _end_inside(col, job.stride_w, job.in_w, job.out_w)
    if job.pixels:
        right = min(right, job.pixels - first * job.out_w)
    if top >= end or left >= right:
        return
    args.batch = end - top
    args.k = right - left
    args.b = gy + (top * job.out_w + left) * job.out_c * size
    x += ((top * job.stride_h + row) * job.in_w + left * job.stride_w + col) * job.in_c * size
    _run_tiles(job, args, x, out, job.in_group, nv)


cdef void _run_row(Job* job, ck_gemm_args* args, const char* strip, const char* gy, char* out,
                   Py_ssize_t first, Py_ssize_t last, Py_ssize_t row, int nv) noexcept nogil:
    """Add one strip's share for all taps of a kernel row and one block of columns."""
    args.batch = last - first
    args.k = job.out_w
    args.b = gy + first * job.out_w * job.out_c * job.itemsize
    strip += (row - job.rows[0]) * job.source.strip_width * job.source.pixel
    _run_tiles(job, args, strip, out, job.n_cols * job.in_group, nv)


cdef void _sum_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Sum one part's strips into one chunk of columns of its partial result."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t chunk = index % job.chunks, part = index // job.chunks
    cdef Py_ssize_t all_blocks = job.blocks * job.groups, size = job.itemsize
    cdef Py_ssize_t units = job.samples * job.strips
    cdef Py_ssize_t unit, sample, b, group, column, r, c, first, last, m
    cdef char* partial = job.partial + part * job.result_size * size
    cdef char* strip = job.scratch + slot * job.scratch_bytes
    cdef char* out
    cdef const char* x
    cdef const char* gy
    cdef int nv
    cdef ck_gemm_args args
    args.a_offsets = job.strip_offsets if job.together else job.offsets
    args.lda = job.stride_w * job.in_c
    args.ldb = job.out_c
    args.b_step = job.out_w * job.out_c
    args.ldc = job.out_group
    args.accumulate = 1
    args.bias = NULL
    args.residual = NULL
    args.ld_residual = 0
    args.activation = 0
    args.alpha = 0
    args.beta = 0
    args.fetch = NULL
    args.fetch_step = 0
    for unit in range(part_start(units, job.parts, part), part_start(units, job.parts, part + 1)):
        sample = unit // job.strips
        first = part_start(job.out_h, job.strips, unit % job.strips)
        last = part_start(job.out_h, job.strips, unit % job.strips + 1)
        if job.together:
            fill_strip(&job.source, job.x + sample * job.in_h * job.in_w * job.source.pixel,
                       first * job.stride_h + job.rows[0],
                       (last - 1 - first) * job.stride_h + job.rows[job.n_rows - 1]
                       - job.rows[0] + 1, strip)
        for b in range(part_start(all_blocks, job.chunks, chunk),
                       part_start(all_blocks, job.chunks, chunk + 1)):
            group = b // job.blocks
            column = b % job.blocks * job.columns
            args.n = <int>min(job.columns, job.out_group - column)
            nv = (args.n + job.kernels.vector_length - 1) // job.kernels.vector_length
            x = job.x + (sample * job.in_h * job.in_w * job.in_c + group * job.in_group) * size
            gy = job.gy + (sample * job.out_h * job.out_w * job.out_c
                           + group * job.out_group + column) * size
            for r in range(job.n_rows):
                out = partial + ((group * job.n_rows + r) * job.n_cols * job.in_group
                                 * job.out_group + column) * size
                if job.together:
                    _run_row(job, &args, strip, gy, out, first, last, job.rows[r], nv)
                    continue
                for c in range(job.n_cols):
                    _run_tap(job, &args, x, gy, out, first, last, job.rows[r], job.cols[c], nv)
                    out += job.in_group * job.out_group * size


cdef void _zero_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    memset(job.partial + index * job.result_size * job.itemsize, 0,
           job.result_size * job.itemsize)


ctypedef fused real:
    float
    double


cdef void _join(Job* job, Py_ssize_t index, real* partial, real* target) noexcept nogil:
    """Add up the parts of JOIN_COLUMNS columns and write them where weights lie.

    Reads run along columns and writes along the columns' own weights, so that both stay
    within a few open cache lines.
    """
    cdef Py_ssize_t per_group = (job.out_group + JOIN_COLUMNS - 1) // JOIN_COLUMNS
    cdef Py_ssize_t group = index // per_group, first = index % per_group * JOIN_COLUMNS
    cdef Py_ssize_t count = min(JOIN_COLUMNS, job.out_group - first)
    cdef Py_ssize_t taps = job.n_rows * job.n_cols, tap, depth, n, p
    cdef real total[16]
    cdef real* source
    cdef real* out
    for depth in range(job.in_group):
        for tap in range(taps):
            source = partial + ((group * taps + tap) * job.in_group + depth) * job.out_group + first
            for n in range(count):
                total[n] = source[n]
            for p in range(1, job.parts):
                for n in range(count):
                    total[n] += source[p * job.result_size + n]
            out = target + group * job.group_step + depth * job.depth_step + job.tap_steps[tap] \
                + first * job.column_step
            for n in range(count):
                out[n * job.column_step] = total[n]


cdef void _join_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    if job.itemsize == 4:
        _join[float](job, index, <float*>job.partial, <float*>job.target)
    else:
        _join[double](job, index, <double*>job.partial, <double*>job.target)


cdef const char* _address(array):
    return <const char*><size_t>array.ctypes.data


cdef Py_ssize_t _strip_pixels(Job* job):
    """Return how many pixels a strip should have."""
    cdef Py_ssize_t by_bytes = STRIP_BYTES // (job.in_c * job.stride_w * job.itemsize)
    return min(STRIP_PIXELS, max(LEAST_STRIP_PIXELS, by_bytes))


cdef void _lay_in_rows(Job* job):
    """Lay the pixels of a pointwise problem in rows of one strip each, the last shorter."""
    job.pixels = job.samples * job.out_h * job.out_w
    job.samples = 1
    job.in_w = job.out_w = min(_strip_pixels(job), job.pixels)
    job.in_h = job.out_h = (job.pixels + job.out_w - 1) // job.out_w


def run(x, gy, gw, rows, cols, stride, Py_ssize_t groups, tap_steps, Py_ssize_t group_step,
        Py_ssize_t column_step, Py_ssize_t depth_step, int threads):
    """Sum x[pixel * stride + tap] times gy[pixel] over all pixels, for every tap.

    Parameters
    ----------
    x : ndarray (N, H, W, C)
        C-contiguous.
    gy : ndarray (N, H', W', O)
        C-contiguous.
    gw : ndarray
        Where the result goes; element (group, tap, depth, column) to ``group * group_step +
        tap_steps[tap] + depth * depth_step + column * column_step`` of the flat array.
    rows, cols : sequence of int
        Where the taps lie relative to a pixel's origin.
    stride : (int, int)
    groups : int
    threads : int
    """
    cdef Job job
    cdef Py_ssize_t size = x.itemsize, rows_per_strip, taps, units
    job.kernels = kernels_for(size)
    job.itemsize = size
    job.samples, job.in_h, job.in_w, job.in_c = x.shape
    _, job.out_h, job.out_w, job.out_c = gy.shape
    job.groups = groups
    job.in_group = job.in_c // groups
    job.out_group = job.out_c // groups
    job.stride_h, job.stride_w = stride
    row_array, col_array = np.array(rows, np.intp), np.array(cols, np.intp)
    job.rows, job.cols = <const Py_ssize_t*>_address(row_array), <const Py_ssize_t*>_address(col_array)
    job.n_rows, job.n_cols = row_array.size, col_array.size
    taps = job.n_rows * job.n_cols
    step_array = np.array(tap_steps, np.intp)
    job.tap_steps = <const Py_ssize_t*>_address(step_array)
    job.group_step, job.column_step, job.depth_step = group_step, column_step, depth_step
    job.x, job.gy, job.target = _address(x), _address(gy), <char*>_address(gw)
    job.result_size = groups * taps * job.in_group * job.out_group
    if not job.samples or not job.out_h or not job.out_w or not job.result_size:
        gw.fill(0)
        return

    job.pixels = 0
    if (job.n_rows == job.n_cols == 1 and rows[0] == cols[0] == 0 and job.stride_h == 1
            and job.stride_w == 1 and job.in_h == job.out_h and job.in_w == job.out_w):
        _lay_in_rows(&job)
    rows_per_strip = max(1, min(job.out_h, _strip_pixels(&job) // max(1, job.out_w)))
    job.strips = (job.out_h + rows_per_strip - 1) // rows_per_strip
    offsets = np.arange(rows_per_strip + 1, dtype=np.intp) * (job.stride_h * job.in_w * job.in_c)
    job.offsets = <const ptrdiff_t*>_address(offsets)
    job.together = (groups == 1 and job.in_c < FEW_CHANNELS and job.n_cols > 1
                    and cols[-1] - cols[0] + 1 == job.n_cols)
    job.source = Source(job.in_h, job.in_w, job.in_c * size, cols[0],
                        (job.out_w - 1) * job.stride_w + job.n_cols)
    strip_offsets = np.arange(rows_per_strip + 1, dtype=np.intp) \
        * (job.stride_h * job.source.strip_width * job.in_c)
    job.strip_offsets = <const ptrdiff_t*>_address(strip_offsets)
    job.scratch_bytes = ((rows_per_strip - 1) * job.stride_h + rows[-1] - rows[0] + 1) \
        * job.source.strip_width * job.source.pixel if job.together else 0
    cdef Py_ssize_t depth = job.in_group * (job.n_cols if job.together else 1)
    cdef int width = choose_width(job.kernels, depth, job.out_group)
    job.columns = width * job.kernels.vector_length
    job.blocks = (job.out_group + job.columns - 1) // job.columns
    units = job.samples * job.strips
    job.chunks = max(job.result_size * size // BLOCK_BYTES, (MIN_TASKS + units - 1) // units)
    job.chunks = max(1, min(job.blocks * groups, job.chunks))
    job.parts = max(MIN_TASKS // job.chunks, PARTIAL_BYTES // (job.result_size * size))
    job.parts = max(1, min(min(units, job.parts), TASKS // job.chunks))

    cdef double work = <double>job.samples * job.out_h * job.out_w * job.out_c * job.in_group * taps
    cdef int team = threads_for(threads, job.parts * job.chunks, work / job.kernels.vector_length)
    cdef Py_ssize_t bytes = job.parts * job.result_size * size
    cdef Py_ssize_t joins = groups * ((job.out_group + JOIN_COLUMNS - 1) // JOIN_COLUMNS)
    cdef bint enough
    with nogil:
        job.partial = <char*>take(bytes)
        job.scratch = <char*>take(team * job.scratch_bytes)
        enough = job.partial != NULL and job.scratch != NULL
        if enough:
            parallel_for(_zero_task, &job, job.parts, team)
            parallel_for(_sum_task, &job, job.parts * job.chunks, team)
            parallel_for(_join_task, &job, joins, team)
        give(job.partial, bytes)
        give(job.scratch, team * job.scratch_bytes)
    if not enough:
        raise MemoryError(f"no memory for {bytes} bytes of partial sums")


# Pixels whose sum is one partial sum of a bias gradient.
cdef Py_ssize_t SUM_PIXELS = 512


cdef struct SumJob:
    const char* gy
    char* partial
    Py_ssize_t itemsize, pixels, channels


cdef void _sum_pixels(SumJob* job, Py_ssize_t index, real* gy, real* partial) noexcept nogil:
    cdef Py_ssize_t first = index * SUM_PIXELS, c, i
    cdef Py_ssize_t last = min(first + SUM_PIXELS, job.pixels)
    partial += index * job.channels
    memset(partial, 0, job.channels * sizeof(real))
    for i in range(first, last):
        for c in range(job.channels):
            partial[c] += gy[i * job.channels + c]


cdef void _sum_pixels_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef SumJob* job = <SumJob*>ctx
    if job.itemsize == 4:
        _sum_pixels[float](job, index, <float*>job.gy, <float*>job.partial)
    else:
        _sum_pixels[double](job, index, <double*>job.gy, <double*>job.partial)


def sum_pixels(gy, int threads):
    """Return the sum over all but the last axis of a C-contiguous array: shape (C,).

    Blocks of 512 pixels are summed in order, their sums pairwise in float64.
    """
    cdef SumJob job
    job.channels = gy.shape[gy.ndim - 1]
    job.pixels = gy.size // job.channels if job.channels else 0
    job.itemsize = gy.itemsize
    job.gy = _address(gy)
    cdef Py_ssize_t tasks = (job.pixels + SUM_PIXELS - 1) // SUM_PIXELS
    partial = memory.empty((tasks, job.channels), gy.dtype)
    job.partial = <char*>_address(partial)
    cdef int team = threads_for(threads, tasks, <double>gy.size)
    with nogil:
        parallel_for(_sum_pixels_task, &job, tasks, team)
    return partial.sum(axis=0, dtype=np.float64).astype(gy.dtype)
