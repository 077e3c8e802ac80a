"""Direct convolution: loops around the batch-reduce GEMM, without an im2col matrix.

One engine serves the forward pass, the gradient of the input, transposed convolution, 1x1
convolution and linear layers. It computes, for a grid of pixels (i, j) of each sample,

    y[i * out_step + out_start, j * ...] = sum over taps (r, c) of
        x[i * stride + rows[r], j * stride + cols[c], :] @ weights[r, c]

with zeros outside x. The taps of a kernel row are neighbours in channels-last memory, so
they form one long reduction where dilation allows. Where a strip of the output reaches over
the border, its input rows are first copied into a scratch strip with the zeros in place;
all tiles then read with one stride, and no tile knows about padding. Where weights are so
large that they are gone through in chunks, each with all of the input, the whole input is
copied so beforehand.

Work is cut into (sample, strip of rows, chunk of output blocks). Each output element is
one chain of multiply-adds in the order of taps and channels, or a few chains of fixed length
that are added in order: the cut changes no bit.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels.gather cimport Gathered, add_pixels, first_column
from convkit._kernels.gemm cimport (CK_GEMM_MAX_WIDE, PackJob, Packed, Packing, ck_gemm_args, ck_gemm_fn,
                                    ck_gemm_kernels, ck_gemm_wide_fn, kernels_for, part_start)
from convkit._kernels.lookahead cimport LookAhead, aim, look_at, spread
from convkit._kernels.runner cimport launch, new_step
from convkit._kernels.strips cimport Source, fill_strip
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

# Bytes of a scratch strip, and of packed weights that one task goes through: together
# with the output strip they stay in a second-level cache of one MiB or more.
cdef Py_ssize_t STRIP_BYTES = 256 << 10
cdef Py_ssize_t CHUNK_BYTES = 512 << 10
# Bytes of input that pointwise problems go through for all weights at a time.
cdef Py_ssize_t ROW_BYTES = 64 << 10
# Work is cut into about this many tasks where that costs little, four times as many with several
# samples. No bit depends on it.
cdef Py_ssize_t TASKS = 8
# Multiply-adds in one chain at most. Rounding errors grow with a chain's length: 25088 terms (the first
# linear layer of VGG) were off by 2.8e-6 of the result's norm, 4608 (512 channels, 3x3) by 1.2e-6.
cdef Py_ssize_t CHAIN = 4608
# Lines so many bytes apart go to the same few places of a first-level cache, eight on many
# processors: a tile of 14 pixels of 1024 channels then reads each line again and again from the
# second level, at 60% of the speed. Rows of such pixels are copied with a line between any two.
cdef Py_ssize_t SAME_PLACE = 4096
cdef Py_ssize_t LINE = 64
# With fewer pixels in all, weights are read at the speed of memory: nothing is gained by
# fetching them ahead.
cdef Py_ssize_t LEAST_REUSE = 16


cdef void _run_parts(const ck_gemm_args* whole, ck_gemm_fn tile, Py_ssize_t size) noexcept nogil:
    """Run a tile as chains of at most CHAIN terms, each added to what C holds so far."""
    cdef ck_gemm_args part = whole[0]
    cdef Py_ssize_t pieces = (whole.k + CHAIN - 1) // CHAIN     # of one block
    cdef Py_ssize_t blocks = max(<Py_ssize_t>1, CHAIN // whole.k)
    cdef Py_ssize_t block = 0, piece, first
    part.bias = part.residual = NULL
    part.activation = 0
    while block < whole.batch:
        part.batch = min(blocks, whole.batch - block)
        part.a_offsets = whole.a_offsets + block
        for piece in range(pieces):
            first = part_start(whole.k, pieces, piece)
            part.k = part_start(whole.k, pieces, piece + 1) - first
            part.a = <const char*>whole.a + first * size
            part.b = <const char*>whole.b + (block * whole.b_step + first * whole.ldb) * size
            if whole.fetch != NULL:
                part.fetch = (<const char*>whole.fetch + block * whole.fetch_block
                              + first * whole.fetch_step)
            if piece == pieces - 1 and block + part.batch == whole.batch:
                part.bias = whole.bias
                part.residual = whole.residual
                part.activation = whole.activation
            tile(&part)
            part.accumulate = 1
        block += part.batch


cdef inline ck_gemm_wide_fn _wide(const Job* job, const ck_gemm_args* args,
                                  Py_ssize_t width) noexcept nogil:
    """Return the kernel for few outputs of pixels with one channel, or NULL."""
    if (args.n > CK_GEMM_MAX_WIDE or args.lda != 1 or args.accumulate or width < job.kernels.vector_length
            or args.batch * args.k > CHAIN):
        return NULL
    return job.kernels.wide[args.n]


cdef void _run_block(Job* job, ck_gemm_args* args, const char* a, char* y, const char* residual,
                     Py_ssize_t width, LookAhead* ahead) noexcept nogil:
    """Run the tiles of one row of pixels for one block of output channels."""
    cdef int nv = (args.n + job.kernels.vector_length - 1) // job.kernels.vector_length
    cdef Py_ssize_t tiles = (width + job.kernels.max_mr[nv] - 1) // job.kernels.max_mr[nv]
    cdef Py_ssize_t a_step = args.lda * job.itemsize
    cdef Py_ssize_t y_step = job.step_w * job.y_pixel * job.itemsize
    cdef Py_ssize_t each = width // tiles, wider = width % tiles, i, mr
    cdef ck_gemm_wide_fn wide = _wide(job, args, width)
    args.a = a
    args.c = y
    args.residual = residual
    if wide != NULL:
        wide(args, width)
        return
    for i in range(tiles):
        mr = each + (i < wider)
        aim(ahead, args)
        if args.batch * args.k <= CHAIN:
            job.kernels.plain[nv][mr](args)
        else:
            _run_parts(args, job.kernels.plain[nv][mr], job.itemsize)
        args.a = <const char*>args.a + mr * a_step
        args.c = <char*>args.c + mr * y_step
        if residual != NULL:
            args.residual = <const char*>args.residual + mr * y_step


cdef void _look_ahead(Job* job, LookAhead* ahead, Py_ssize_t sample, Py_ssize_t i,
                      Py_ssize_t first_block, Py_ssize_t last_block) noexcept nogil:
    """Plan what to fetch while grid row i is computed.

    That is the input and output of row i + 1, and, with the last sample of a chunk, a share
    of the next chunk's weights.
    """
    cdef Py_ssize_t x_row = job.in_w * job.x_pixel * job.itemsize
    cdef Py_ssize_t y_row = job.out_w * job.y_pixel * job.itemsize
    cdef Py_ssize_t block_bytes = job.block_size * job.itemsize, from_byte, to_byte
    cdef Py_ssize_t row = sample * job.in_h + i * job.stride_h + job.row_hi + 1
    cdef Py_ssize_t width = job.columns // job.kernels.vector_length
    cdef Py_ssize_t tiles = (job.grid_w + job.kernels.max_mr[width] - 1) // job.kernels.max_mr[width]
    ahead.count = 0
    look_at(ahead, job.x + row * x_row, job.stride_h * x_row,
            job.x, job.x + job.samples * job.in_h * x_row)
    if job.chunks == 1:
        row = sample * job.out_h + (i + 1) * job.step_h + job.start_h
        look_at(ahead, job.y + row * y_row, y_row,
                job.y, job.y + job.samples * job.out_h * y_row)
    elif sample == job.samples - 1 and job.reuse >= LEAST_REUSE:
        from_byte = part_start((last_block - first_block) * block_bytes, job.grid_h, i)
        to_byte = part_start((last_block - first_block) * block_bytes, job.grid_h, i + 1)
        look_at(ahead, job.weights + last_block * block_bytes + from_byte, to_byte - from_byte,
                job.weights, job.weights + job.all_blocks * block_bytes)
    spread(ahead, (last_block - first_block) * tiles, job.proto.batch * job.proto.k)


cdef void _run_row(Job* job, ck_gemm_args* args, const char* a, char* y, const char* residual,
                   Py_ssize_t width, Py_ssize_t first_block, Py_ssize_t last_block,
                   LookAhead* ahead) noexcept nogil:
    """Compute blocks of the output channels of one row of pixels, which begins at y."""
    cdef Py_ssize_t size = job.itemsize, b, group, column
    for b in range(first_block, last_block):
        group = b // job.blocks
        column = b % job.blocks * job.columns       # within the group
        args.n = <int>min(job.columns, job.out_group - column)
        args.ldb = (args.n + job.kernels.vector_length - 1) // job.kernels.vector_length \
            * job.kernels.vector_length
        args.b_step = args.k * args.ldb
        args.b = job.weights + b * job.block_size * size
        column = (column + group * job.out_group) * size
        args.bias = job.bias + column if job.bias != NULL else NULL
        _run_block(job, args, a + group * job.in_group * size, y + column,
                   residual + column if residual != NULL else NULL, width, ahead)


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    # Chunks are outermost, so that their weights stay in cache from sample to sample.
    cdef Py_ssize_t strip = index % job.strips
    cdef Py_ssize_t sample = index // job.strips % job.samples
    cdef Py_ssize_t chunk = index // (job.strips * job.samples)
    run_rows(job, sample, part_start(job.grid_h, job.strips, strip),
             part_start(job.grid_h, job.strips, strip + 1),
             part_start(job.all_blocks, job.chunks, chunk),
             part_start(job.all_blocks, job.chunks, chunk + 1),
             sample * job.strips + strip, job.scratch + slot * job.scratch_bytes)


cdef void run_rows(Job* job, Py_ssize_t sample, Py_ssize_t first, Py_ssize_t last,
                   Py_ssize_t first_block, Py_ssize_t last_block, Py_ssize_t part,
                   char* scratch) noexcept nogil:
    """Compute rows [first, last) of a sample's grid; `scratch` is for their padded input.

    `part` is what their moments are gathered in, where they are.
    """
    cdef Py_ssize_t size = job.itemsize
    cdef Py_ssize_t row_first = first * job.stride_h + job.row_lo
    cdef Py_ssize_t row_count = (last - 1 - first) * job.stride_h + job.row_hi - job.row_lo + 1
    cdef Py_ssize_t filled = row_count, needed
    cdef const char* x = job.x + sample * job.in_h * job.in_w * job.x_pixel * size
    cdef const char* a
    cdef const char* row
    cdef Py_ssize_t a_row, i, at, width
    cdef Py_ssize_t column = first_column(first_block, job.blocks, job.out_group, job.columns)
    cdef Py_ssize_t end = first_column(last_block, job.blocks, job.out_group, job.columns)
    cdef ck_gemm_args args = job.proto
    cdef LookAhead ahead
    if (row_first >= 0 and row_first + row_count <= job.in_h and job.col_lo >= 0
            and job.col_lo + job.strip_width <= job.in_w):
        a = x + (row_first * job.in_w + job.col_lo) * job.x_pixel * size
        a_row = job.stride_h * job.in_w * job.x_pixel * size
        args.a_offsets = job.offsets_x
    else:
        a = scratch
        a_row = job.stride_h * job.strip_width * job.in_c * size
        args.a_offsets = job.offsets_strip
        filled = 0
    # Row by row, all blocks of a row: the output is written in order, and the weights of a
    # block serve a row's tiles from the first-level cache where they fit it.
    for i in range(first, last):
        needed = (i - first) * job.stride_h + job.row_hi - job.row_lo + 1
        if filled < needed:
            fill_strip(&job.source, x, row_first + filled, needed - filled,
                       <char*>a + filled * job.strip_width * job.source.pixel)
            filled = needed
        _look_ahead(job, &ahead, sample, i, first_block, last_block)
        at = ((sample * job.out_h + i * job.step_h + job.start_h) * job.out_w
              + job.start_w) * job.y_pixel * size
        width = job.last_w if i == job.grid_h - 1 else job.grid_w
        row = a + (i - first) * a_row
        if job.apart:
            row = _spread_pixels(job, row, width, scratch)
        _run_row(job, &args, row, job.y + at,
                 job.residual + at if job.residual != NULL else NULL, width, first_block,
                 last_block, &ahead)
        if job.gathered != NULL:
            add_pixels(job.gathered, part, i == first, column, end - column,
                       job.y + at + column * size, 1, width, 0, job.step_w * job.y_pixel)


cdef const char* _spread_pixels(const Job* job, const char* row, Py_ssize_t width,
                                char* to) noexcept nogil:
    """Copy the pixels that a grid row reads, `apart` from each other; return where they lie."""
    cdef Py_ssize_t size = job.itemsize, i
    for i in range(width):
        memcpy(to + i * job.apart * size, row + i * job.stride_w * job.x_pixel * size,
               job.in_c * size)
    return to


cdef bint alone(Job* job) noexcept nogil:
    """Prepare for `run_rows` and `run_pixels` on one sample; return whether all of y is theirs."""
    job.samples = job.strips = job.chunks = 1
    job.last_w = job.grid_w
    job.reuse = job.grid_h * job.grid_w
    job.bias = job.residual = NULL
    job.gathered = NULL
    _set_distances(job)
    return (job.step_h == 1 and job.step_w == 1 and job.grid_h == job.out_h
            and job.grid_w == job.out_w)


cdef double multiply_adds(const Job* job) noexcept nogil:
    """Return how many vectors of products a sample takes."""
    return (<double>job.grid_h * job.grid_w * job.out_c * job.proto.batch * job.proto.k
            / job.kernels.vector_length)


cdef void run_pixels(Job* job, const char* x, char* y, const char* residual, Py_ssize_t pixels,
                     LookAhead* ahead) noexcept nogil:
    """Compute pixels of a pointwise problem, from x on into y."""
    cdef ck_gemm_args args = job.proto
    cdef Py_ssize_t tile = job.kernels.max_mr[job.width]
    args.a_offsets = job.offsets_x
    spread(ahead, job.all_blocks * ((pixels + tile - 1) // tile), job.proto.k)
    _run_row(job, &args, x, y, residual, pixels, 0, job.all_blocks, ahead)


cdef tuple _describe(Job* job, tuple x_shape, tuple y_shape, Py_ssize_t size, Packed weights, rows,
                     cols, stride, grid, step, start, int activation, double alpha, double beta):
    """Fill in all but the pointers to arrays and what depends on the number of samples.

    Shapes are those of a sample. Returns what must be kept as long as the job.
    """
    job.in_h, job.in_w, job.in_c = x_shape
    job.out_h, job.out_w, job.out_c = y_shape
    job.grid_h, job.grid_w = y_shape[:2] if grid is None else grid
    job.x_pixel = job.in_c
    job.y_pixel = job.out_c
    job.gathered = NULL
    job.itemsize = size
    job.kernels = kernels_for(size)
    job.weights = weights.pointer
    job.stride_h, job.stride_w = stride
    job.step_h, job.step_w = step
    job.start_h, job.start_w = start
    job.row_lo, job.row_hi = rows[0], rows[-1]
    job.col_lo, job.col_hi = cols[0], cols[-1]
    job.in_group = job.in_c // weights.groups
    job.out_group = job.out_c // weights.groups
    job.width = weights.width
    job.columns = weights.width * weights.vector
    job.blocks = weights.blocks
    job.all_blocks = weights.blocks * weights.groups
    job.block_size = weights.block_size()
    job.pointwise = _is_pointwise(job, len(rows), len(cols))
    job.strip_width = (job.grid_w - 1) * job.stride_w + job.col_hi - job.col_lo + 1

    # Neighbouring taps of a row are one reduction over all their channels.
    merged = weights.groups == 1 and job.col_hi - job.col_lo + 1 == len(cols)
    starts = [0] if merged else [c - cols[0] for c in cols]
    offsets_x = np.array([((r - rows[0]) * job.in_w + c) * job.in_c
                          for r in rows for c in starts], dtype=np.intp)
    offsets_strip = np.array([((r - rows[0]) * job.strip_width + c) * job.in_c
                              for r in rows for c in starts], dtype=np.intp)
    job.offsets_x = <const ptrdiff_t*>_address(offsets_x)
    job.offsets_strip = <const ptrdiff_t*>_address(offsets_strip)
    job.proto.batch = len(rows) * len(starts)
    job.proto.k = job.in_group * (len(cols) if merged else 1)
    job.proto.accumulate = 0
    job.proto.residual = NULL
    job.proto.activation = activation
    job.proto.alpha = alpha
    job.proto.beta = beta
    return weights, offsets_x, offsets_strip


cdef void _set_distances(Job* job) noexcept nogil:
    """Fill in what follows from the pixels' widths."""
    job.apart = 0
    job.source = Source(job.in_h, job.in_w, job.x_pixel * job.itemsize, job.col_lo,
                        job.strip_width)
    job.proto.lda = job.stride_w * job.x_pixel
    job.proto.ldc = job.proto.ld_residual = job.step_w * job.y_pixel


cdef void _for_samples(Job* job, Py_ssize_t samples, int threads) noexcept nogil:
    """Fill in what depends on the number of samples: rows, cut, threads, scratch."""
    cdef Py_ssize_t tasks
    job.samples = samples
    job.last_w = job.grid_w
    job.reuse = samples * job.grid_h * job.grid_w
    if job.pointwise:
        _lay_in_rows(job)
        job.strip_width = job.grid_w
    _cut(job)
    _set_distances(job)
    if _in_same_place(job):
        job.apart = job.proto.lda = job.in_c + LINE // job.itemsize
        job.scratch_bytes = (job.grid_w * job.apart * job.itemsize + 63) // 64 * 64
    tasks = job.samples * job.strips * job.chunks
    job.team = threads_for(threads, tasks, job.samples * multiply_adds(job))
    job.padded_bytes = 0
    if _pads_beforehand(job):
        job.scratch_bytes = 0
        job.padded_bytes = job.samples * _padded_rows(job) * job.strip_width * job.source.pixel
        job.padded_bytes = (job.padded_bytes + 63) // 64 * 64


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    _for_samples(&job, samples, threads)
    return job.padded_bytes + job.team * job.scratch_bytes


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x = at[0]
    job.bias = at[1]
    job.residual = at[2]
    job.y = at[3]
    _for_samples(&job, samples, threads)
    job.padded = scratch
    job.scratch = scratch + job.padded_bytes
    if job.padded_bytes:
        parallel_for(_pad_task, &job, job.samples, job.team)
        _use_padded(&job)
    parallel_for(_task, &job, job.samples * job.strips * job.chunks, job.team)
    return 0


def run(x, Packed weights, y, rows, cols, stride, *, grid=None, step=(1, 1), start=(0, 0),
        bias=None, residual=None, int activation=0, double alpha=0, double beta=0,
        Gathered gathered=None, int threads=1):
    """Compute every pixel of a grid of the output as a sum over taps.

    Parameters
    ----------
    x : ndarray (N, H, W, C)
        Input, C-contiguous.
    weights : Packed
        One tap for each pair of `rows` and `cols`, rows outermost.
    y : ndarray (N, H', W', O)
        Output, C-contiguous; pixels outside the grid are left alone.
    rows, cols : sequence of int
        Where the taps lie relative to a pixel's origin; ascending.
    stride : (int, int)
        Input pixels from one grid pixel to the next.
    grid : (int, int), optional
        Grid pixels; by default all of `y`.
    step, start : (int, int)
        Which pixels of `y` the grid's are.
    bias : ndarray (O,), optional
    residual : ndarray like y, optional
        Added before the activation.
    activation, alpha, beta
        As in c/gemm.h.
    gathered : Gathered, optional
        What the computed pixels' moments are gathered in.
    threads : int
    """
    cdef Job job
    if not (y.size and (grid is None or (grid[0] and grid[1]))):
        return
    kept = _describe(&job, x.shape[1:], y.shape[1:], x.itemsize, weights, rows, cols, stride,
                     grid, step, start, activation, alpha, beta)
    _convolve(&job, x, bias, residual, y, gathered, x.shape[0], threads)


cdef int _convolve(Job* job, x, bias, residual, y, Gathered gathered, Py_ssize_t samples,
                   int threads) except -1:
    """Compute what a job describes from arrays into `y`."""
    cdef Job cut
    cdef char* at[4]
    if gathered is not None:
        cut = job[0]
        _for_samples(&cut, samples, threads)
        job.gathered = gathered.begin(cut.samples * cut.strips, job.out_c, job.itemsize)
    at[0] = <char*>_address(x)
    at[1] = <char*>_address(bias)
    at[2] = <char*>_address(residual)
    at[3] = <char*>_address(y)
    return launch(run_step, scratch_size, job, at, samples, threads)


cdef class Convolution:
    """A problem's convolution, of which only what depends on the call is left to work out.

    Parameters
    ----------
    x_shape, y_shape : (int, int, int)
        Height, width and channels of a sample.
    packing : Packing
        Of its weights.
    rows, cols, stride, grid, step, start
        As for `run`.
    """

    cdef Job _job
    cdef Packing _packing
    cdef object _kept

    def __init__(self, tuple x_shape, tuple y_shape, Packing packing not None, rows, cols, stride,
                 grid=None, step=(1, 1), start=(0, 0)):
        cdef PackJob form = packing.job
        cdef Packed packed = packing.blank(&form)
        self._packing = packing
        self._kept = _describe(&self._job, x_shape, y_shape, form.itemsize, packed, rows, cols,
                               stride, grid, step, start, 0, 0, 0)[1:]

    def __call__(self, x, weight, y, cache, int threads, *, bias=None, residual=None,
                 int activation=0, double alpha=0, double beta=0, Gathered gathered=None):
        """Write the convolution of `x` into `y`; see `run`."""
        cdef Packed packed = self._packing.weights(weight, cache, threads)
        cdef Job job = self._job
        cdef Py_ssize_t samples = len(x)
        if samples:
            job.weights = packed.pointer
            job.proto.activation, job.proto.alpha, job.proto.beta = activation, alpha, beta
            _convolve(&job, x, bias, residual, y, gathered, samples, threads)


def step(x_shape, Packed weights, y_shape, itemsize, rows, cols, stride, *, grid=None,
         step=(1, 1), start=(0, 0), int activation=0, double alpha=0, double beta=0,
         x_pixel=None, y_pixel=None):
    """Return the same as a step of a Program, with operands x, bias, residual and y.

    Parameters
    ----------
    x_shape, y_shape : (int, int, int)
        Height, width and channels of a sample.
    itemsize : int
        Bytes of a number, 4 or 8.
    x_pixel, y_pixel : int, optional
        Numbers from one pixel to the next, where pixels are parts of wider ones; `x_pixel`
        for pointwise problems only.
    others
        As for `run`.
    """
    cdef Job job
    kept = _describe(&job, x_shape, y_shape, itemsize, weights, rows, cols, stride, grid, step,
                     start, activation, alpha, beta)
    if x_pixel is not None and x_pixel != job.in_c:
        if not job.pointwise:
            raise ValueError("only pointwise problems read parts of wider pixels")
        job.x_pixel = x_pixel
    job.y_pixel = job.out_c if y_pixel is None else y_pixel
    return new_step(run_step, scratch_size, &job, sizeof(Job), kept)


cdef void _pad_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Copy a sample with its padding."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t rows = _padded_rows(job)
    fill_strip(&job.source, job.x + index * job.in_h * job.in_w * job.source.pixel, job.row_lo,
               rows, job.padded + index * rows * job.strip_width * job.source.pixel)


cdef inline Py_ssize_t _padded_rows(Job* job) noexcept nogil:
    """Rows of a sample that the grid's taps touch."""
    return (job.grid_h - 1) * job.stride_h + job.row_hi - job.row_lo + 1


cdef bint _pads_beforehand(Job* job) noexcept nogil:
    """Tell whether to copy the whole input with its padding, rather than strip by strip."""
    return job.chunks > 1 and not _is_inside(job)


cdef inline bint _is_inside(Job* job) noexcept nogil:
    """Tell whether no tap reaches over the border."""
    return (job.row_lo >= 0 and job.row_lo + _padded_rows(job) <= job.in_h
            and job.col_lo >= 0 and job.col_lo + job.strip_width <= job.in_w)


cdef bint _in_same_place(Job* job) noexcept nogil:
    """Tell whether the pixels of a tile, of one tap, push each other out of the cache."""
    return (job.proto.lda * job.itemsize % SAME_PLACE == 0 and job.grid_w > 1
            and job.row_lo == job.row_hi and job.col_lo == job.col_hi and _is_inside(job))


cdef void _use_padded(Job* job) noexcept nogil:
    """Take the padded copy for the input."""
    job.x = job.padded
    job.in_h = _padded_rows(job)
    job.in_w = job.strip_width
    job.row_hi -= job.row_lo
    job.col_hi -= job.col_lo
    job.row_lo = job.col_lo = 0
    job.offsets_x = job.offsets_strip


cdef const char* _address(array):
    if array is None:
        return NULL
    return <const char*>address(array)


cdef bint _is_pointwise(Job* job, Py_ssize_t rows, Py_ssize_t cols):
    """Tell whether output pixel i is made of input pixel i alone, throughout."""
    return (rows == 1 and cols == 1 and job.row_lo == 0 and job.col_lo == 0
            and job.stride_h == 1 and job.stride_w == 1 and job.step_h == 1 and job.step_w == 1
            and job.grid_h == job.in_h == job.out_h and job.grid_w == job.in_w == job.out_w)


cdef void _lay_in_rows(Job* job) noexcept nogil:
    """Lay the pixels of all samples in rows of a few full tiles, the last one shorter.

    Few enough that a row's input stays in the second-level cache beside the weights.
    """
    cdef Py_ssize_t pixels = job.samples * job.in_h * job.in_w
    cdef Py_ssize_t tile = job.kernels.max_mr[job.width] * job.x_pixel * job.itemsize
    cdef Py_ssize_t row = job.kernels.max_mr[job.width] * max(<Py_ssize_t>1, min(<Py_ssize_t>8, ROW_BYTES // tile))
    job.samples = 1
    job.grid_w = job.in_w = job.out_w = min(row, pixels)
    job.grid_h = job.in_h = job.out_h = (pixels + job.grid_w - 1) // job.grid_w
    job.last_w = pixels - (job.grid_h - 1) * job.grid_w


cdef void _cut(Job* job) noexcept nogil:
    """Choose strips and chunks."""
    cdef Py_ssize_t tasks = TASKS * min(job.samples, <Py_ssize_t>4)
    cdef Py_ssize_t row_bytes = job.strip_width * job.x_pixel * job.itemsize
    cdef Py_ssize_t extra = job.row_hi - job.row_lo + 1 - job.stride_h
    cdef Py_ssize_t rows = (STRIP_BYTES // max(1, row_bytes) - extra) // job.stride_h
    rows = min(rows, max(4, (job.samples * job.grid_h + tasks - 1) // tasks))
    rows = max(1, min(rows, job.grid_h))
    job.strips = (job.grid_h + rows - 1) // rows
    rows = (job.grid_h + job.strips - 1) // job.strips
    job.scratch_bytes = ((rows * job.stride_h + max(extra, 0)) * row_bytes + 63) // 64 * 64
    cdef Py_ssize_t by_cache = job.all_blocks * job.block_size * job.itemsize // CHUNK_BYTES
    cdef Py_ssize_t by_tasks = (TASKS - 1) // (job.samples * job.strips) + 1
    job.chunks = max(1, min(job.all_blocks, max(by_cache, by_tasks)))
