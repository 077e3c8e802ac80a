"""Gradient of convolution weights: x transposed times the output's gradient, over pixels.

For each tap, the result is a matrix of input by output channels; the reduction runs over the
pixels for which the tap lies inside the input, so no padding is copied. Where there are few
input channels, the taps of a kernel row are taken together: their values are neighbours in
memory, and more rows fill a tile. Then rows of the input are copied with their padding, so
that every pixel has all taps.

Output rows of all samples form one list, which is cut into a few parts, and the result into
chunks that stay in the second-level cache. A task sums one part into one chunk, a strip of
rows at a time; partial results are then added in order. The cut depends on the problem, never
on the number of threads, so neither do the bits.

The result of a 1x1 kernel is computed in the order in which weights lie, as output by input
channels: with one part it needs no pass of its own. Other kernels' results are made of
vectors of output channels, which are transposed when the parts are joined.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels import memory
from convkit._kernels cimport dispatch
from convkit._kernels.gemm cimport (ck_gemm_args, ck_gemm_kernels, choose_width, kernels_for,
                                    part_start)
from convkit._kernels.lookahead cimport LookAhead, aim, look_at, spread
from convkit._kernels.maker cimport Maker, make, maker_of
from convkit._kernels.memory cimport give, take
from convkit._kernels.strips cimport Source, fill_strip
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

# Tasks of a problem, about, and bytes of result that one of them goes through.
cdef Py_ssize_t TASKS = 16
# Where there are too few pixels for parts, chunks of the result make up for them to so many.
cdef Py_ssize_t LEAST_TASKS = 8
cdef Py_ssize_t CHUNK_BYTES = 512 << 10
# A part has at least so many pixels: fewer do not make up for a partial result of their own.
cdef Py_ssize_t PART_PIXELS = 1024
# With fewer input channels than this, a kernel row's taps are taken together.
cdef Py_ssize_t FEW_CHANNELS = 8
# Pixels that a tile reduces over before it goes back to memory: at most so many, fewer where
# pixels are so large that a strip would not stay in the second-level cache, but enough to
# make little of loading and storing the tile.
cdef enum:
    STRIP_PIXELS = 384
    LINE = 64
cdef Py_ssize_t STRIP_BYTES = 768 << 10
cdef Py_ssize_t LEAST_STRIP_PIXELS = 96
# Numbers that are joined at a time where parts are added as they lie.
cdef Py_ssize_t JOIN_COUNT = 16 << 10


# One of the two factors: how its values lie, in elements.
cdef struct Side:
    const char* data
    Py_ssize_t pixel, row, sample     # from one output pixel, row, sample to the next
    Py_ssize_t channels               # of a group


# Output rows of a strip: where they begin in both factors, as one tap sees them.
cdef struct Rows:
    Py_ssize_t count
    ptrdiff_t left[STRIP_PIXELS]
    ptrdiff_t right[STRIP_PIXELS]


cdef struct Job:
    const ck_gemm_kernels* kernels
    const dispatch.ck_transpose_table* transpose
    char* partial
    char* target
    Py_ssize_t itemsize
    Side left, right                         # rows and columns of the result
    Side* x                                  # the one of them that taps move
    Py_ssize_t in_h, in_w, in_c, out_h, out_w, out_c
    Py_ssize_t groups, stride_h, stride_w
    Py_ssize_t n_rows, n_cols, taps
    const Py_ssize_t* rows
    const Py_ssize_t* cols
    Py_ssize_t all_rows                      # output rows of all samples
    Py_ssize_t pixels                        # of all samples, where they are laid in rows
    Py_ssize_t unit                          # rows of a strip
    Py_ssize_t parts, row_chunks, column_chunks
    Py_ssize_t columns, blocks               # of a block; blocks of a group
    Py_ssize_t part_size                     # elements of a partial result
    bint flat                                # whether pixels may be laid in any rows
    bint turned                              # whether rows are output channels
    bint in_order                            # whether partial results lie as the target does
    bint together                            # whether a kernel row's taps are one
    Source source                            # of strips with padding
    const Maker* maker                       # of x, where pixels are laid in rows; or NULL
    char* scratch
    Py_ssize_t scratch_bytes


# What the tiles of a strip fetch of the next one: where the task reads all channels of a factor,
# each tile a piece of memory; else some tiles each a line of every pixel.
cdef struct Fetch:
    LookAhead whole
    Py_ssize_t tiles, every                  # tiles run, and from line to line
    Py_ssize_t lines                         # that are left
    const char* line
    Py_ssize_t row, pixel                    # bytes from one to the next


# What a task works on.
cdef struct Task:
    Py_ssize_t first_row, last_row           # of the result, for each tap
    Py_ssize_t first_block, last_block       # of columns
    char* out
    ck_gemm_args args
    Fetch fetch
    Rows rows


cdef inline Py_ssize_t _first_inside(Py_ssize_t tap, Py_ssize_t stride) noexcept nogil:
    """The first output index whose tap lies at or after the input's start."""
    return (-tap + stride - 1) // stride if tap < 0 else 0


cdef inline Py_ssize_t _end_inside(Py_ssize_t tap, Py_ssize_t stride,
                                   Py_ssize_t size, Py_ssize_t out) noexcept nogil:
    """One past the last output index whose tap lies before the input's end."""
    if tap >= size:
        return 0
    return min(out, (size - 1 - tap) // stride + 1)


cdef void _list_rows(Job* job, Rows* rows, Py_ssize_t first, Py_ssize_t last,
                     Py_ssize_t tap) noexcept nogil:
    """List those of the output rows from `first` to `last` whose tap lies inside the input."""
    cdef Py_ssize_t top = _first_inside(tap, job.stride_h)
    cdef Py_ssize_t end = _end_inside(tap, job.stride_h, job.in_h, job.out_h)
    cdef Py_ssize_t sample = first // job.out_h, i = first % job.out_h, row
    rows.count = 0
    for row in range(first, last):
        if top <= i < end:
            rows.left[rows.count] = sample * job.left.sample + i * job.left.row
            rows.right[rows.count] = sample * job.right.sample + i * job.right.row
            rows.count += 1
        i += 1
        if i == job.out_h:
            i = 0
            sample += 1


cdef inline void _aim(Fetch* fetch, ck_gemm_args* args) noexcept nogil:
    """Give the next tile what to fetch."""
    fetch.tiles += 1
    if not fetch.lines or fetch.tiles % fetch.every:
        aim(&fetch.whole, args)
        return
    args.fetch = fetch.line
    args.fetch_block = fetch.row
    args.fetch_step = fetch.pixel
    fetch.line += LINE
    fetch.lines -= 1


cdef void _run_tiles(Job* job, Task* task, const char* a, Py_ssize_t a_step, char* out,
                     Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Add to rows `first` to `last` of one block of the result, tile by tile."""
    cdef ck_gemm_args* args = &task.args
    cdef int nv = (args.n + job.kernels.vector_length - 1) // job.kernels.vector_length
    cdef Py_ssize_t tiles = (last - first + job.kernels.max_mr[nv] - 1) // job.kernels.max_mr[nv]
    cdef Py_ssize_t each = (last - first) // tiles, wider = (last - first) % tiles, i, mr
    args.a = a + first * a_step
    args.c = out + first * args.ldc * job.itemsize
    for i in range(tiles):
        mr = each + (i < wider)
        _aim(&task.fetch, args)
        job.kernels.transposed[nv][mr](args)
        args.a = <const char*>args.a + mr * a_step
        args.c = <char*>args.c + mr * args.ldc * job.itemsize


cdef void _run_taps(Job* job, Task* task, Py_ssize_t b, Py_ssize_t r, Py_ssize_t last,
                    const char* strip) noexcept nogil:
    """Add the listed rows' share for the taps of kernel row `r` and one block of columns."""
    cdef ck_gemm_args* args = &task.args
    cdef Py_ssize_t size = job.itemsize, group = b // job.blocks
    cdef Py_ssize_t column = b % job.blocks * job.columns, c, left, right, shift
    cdef const char* a = job.left.data + group * job.left.channels * size
    cdef const char* out_b = job.right.data + (group * job.right.channels + column) * size
    cdef char* out
    args.n = <int>min(job.columns, job.right.channels - column)
    if job.in_order:
        out = task.out + (group * job.left.channels * job.right.channels + column) * size
    else:
        out = task.out + (b * job.taps + r * job.n_cols) * job.left.channels * job.columns * size
    if job.together:
        args.k = job.out_w
        args.b = out_b
        _run_tiles(job, task, strip, size, out, task.first_row, task.last_row)
        return
    for c in range(job.n_cols):
        left = _first_inside(job.cols[c], job.stride_w)
        right = _end_inside(job.cols[c], job.stride_w, job.in_w, job.out_w)
        if job.pixels:
            right = min(right, job.pixels - (last - 1) * job.out_w)
        if left < right:
            args.k = right - left
            shift = (job.rows[r] * job.in_w + job.cols[c]) * job.in_c * size
            args.b = out_b + left * job.right.pixel * size + (shift if job.x == &job.right else 0)
            _run_tiles(job, task, a + left * job.left.pixel * size
                       + (shift if job.x == &job.left else 0), size, out,
                       task.first_row, task.last_row)
        out += job.left.channels * job.columns * size


cdef void _copy_strip(Job* job, Rows* rows, Py_ssize_t first, Py_ssize_t last,
                      char* strip) noexcept nogil:
    """Copy the input rows of one sample's output rows `first` to `last` with their padding."""
    cdef Py_ssize_t sample = first // job.out_h, top = first % job.out_h, i
    fill_strip(&job.source, job.x.data + sample * job.x.sample * job.itemsize,
               top * job.stride_h + job.rows[0],
               (last - 1 - first) * job.stride_h + job.rows[job.n_rows - 1] - job.rows[0] + 1,
               strip)
    rows.count = last - first
    for i in range(rows.count):
        rows.left[i] = i * job.stride_h * job.source.strip_width * job.in_c
        rows.right[i] = sample * job.right.sample + (top + i) * job.right.row


cdef void _make_strip(Job* job, Rows* rows, Py_ssize_t row, char* strip) noexcept nogil:
    """Make a row's pixels of x, and have them found: by their distance from where x lies."""
    cdef Py_ssize_t pixel = row * job.out_w
    cdef ptrdiff_t* where = &rows.left[0] if job.x == &job.left else &rows.right[0]
    make(job.maker, job.x.data + pixel * job.in_c * job.itemsize, strip,
         min(job.out_w, job.pixels - pixel))
    where[0] = (strip - job.x.data) // job.itemsize


cdef void _look_at_side(Job* job, Fetch* fetch, const Side* side, Py_ssize_t chunks,
                        Py_ssize_t row, Py_ssize_t rows, Py_ssize_t channel,
                        Py_ssize_t channels) noexcept nogil:
    """Plan to fetch what lies under `rows` output rows from `row` on in one factor."""
    cdef Py_ssize_t size = job.itemsize
    cdef Py_ssize_t place = row // job.out_h * side.sample + row % job.out_h * side.row
    if chunks == 1:
        look_at(&fetch.whole, side.data + place * size, rows * side.row * size, side.data,
                side.data + job.all_rows // job.out_h * side.sample * size)
    elif not fetch.lines:
        fetch.line = side.data + (place + channel) * size
        fetch.lines = (channels * size + LINE - 1) // LINE
        fetch.row = side.row * size
        fetch.pixel = side.pixel * size


cdef void _look_ahead(Job* job, Task* task, Py_ssize_t row, Py_ssize_t end) noexcept nogil:
    """Plan to fetch the strip that begins at `row` while the one before it is computed.

    Where both factors are chunked, only the rows' is fetched: each of its lines serves fewer
    multiplications.
    """
    cdef Fetch* fetch = &task.fetch
    cdef Py_ssize_t rows = min(job.unit, end - row), group = task.first_block // job.blocks
    cdef Py_ssize_t tiles = (task.last_row - task.first_row) // job.kernels.max_mr[1] + 1
    tiles *= (task.last_block - task.first_block) * job.n_rows * (1 if job.together else job.n_cols)
    fetch.tiles = fetch.lines = fetch.whole.count = 0
    if rows > 0:
        _look_at_side(job, fetch, &job.left, job.row_chunks, row, rows,
                      group * job.left.channels + task.first_row, task.last_row - task.first_row)
        _look_at_side(job, fetch, &job.right, job.column_chunks, row, rows,
                      group * job.right.channels + task.first_block % job.blocks * job.columns,
                      (task.last_block - task.first_block) * job.columns)
    fetch.every = max(1, tiles // max(1, fetch.lines))
    spread(&fetch.whole, tiles, job.unit * job.out_w)


cdef void _start(Job* job, Task* task, Py_ssize_t index) noexcept nogil:
    """Set what is the same for all strips of a task."""
    cdef Py_ssize_t all_blocks = job.blocks * job.groups
    cdef Py_ssize_t rows = job.left.channels * (job.n_cols if job.together else 1)
    cdef Py_ssize_t chunk = index % job.row_chunks
    cdef ck_gemm_args* args = &task.args
    task.first_row = part_start(rows, job.row_chunks, chunk)
    task.last_row = part_start(rows, job.row_chunks, chunk + 1)
    chunk = index // job.row_chunks % job.column_chunks
    task.first_block = part_start(all_blocks, job.column_chunks, chunk)
    task.last_block = part_start(all_blocks, job.column_chunks, chunk + 1)
    memset(args, 0, sizeof(ck_gemm_args))
    args.lda = job.left.pixel
    args.ldb = job.right.pixel
    args.a_offsets = task.rows.left
    args.b_offsets = task.rows.right
    args.ldc = job.right.channels if job.in_order else job.columns


cdef void _sum_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Sum one part's strips into one chunk of its partial result."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t part = index // (job.row_chunks * job.column_chunks)
    cdef Py_ssize_t row = part_start(job.all_rows, job.parts, part)
    cdef Py_ssize_t end = part_start(job.all_rows, job.parts, part + 1)
    cdef Py_ssize_t block = job.taps * job.left.channels * job.columns * job.itemsize
    cdef Py_ssize_t last, b, r
    cdef char* scratch = job.scratch + slot * job.scratch_bytes
    cdef Task task
    _start(job, &task, index)
    task.out = job.partial + part * job.part_size * job.itemsize
    task.args.accumulate = not job.in_order
    if not job.in_order:
        memset(task.out + task.first_block * block, 0,
               (task.last_block - task.first_block) * block)
    while row < end:
        last = min(row + job.unit, end)
        if job.together:
            last = min(last, row - row % job.out_h + job.out_h)
            _copy_strip(job, &task.rows, row, last, scratch)
        _look_ahead(job, &task, last, end)
        for r in range(job.n_rows):
            if not job.together:
                _list_rows(job, &task.rows, row, last, job.rows[r])
            if job.maker != NULL:
                _make_strip(job, &task.rows, row, scratch)
            task.args.batch = task.rows.count
            for b in range(task.first_block, task.last_block):
                if task.rows.count:
                    _run_taps(job, &task, b, r, last, scratch
                              + (job.rows[r] - job.rows[0]) * job.source.strip_width
                              * job.source.pixel)
        task.args.accumulate = 1
        row = last


ctypedef fused real:
    float
    double


cdef void _add_parts(Job* job, Py_ssize_t index, real* partial, real* target) noexcept nogil:
    """Add up the parts of some numbers that lie as the target does."""
    cdef Py_ssize_t first = index * JOIN_COUNT, p, i
    cdef Py_ssize_t count = min(JOIN_COUNT, job.part_size - first)
    partial += first
    target += first
    for i in range(count):
        target[i] = partial[i] + partial[job.part_size + i]
    for p in range(2, job.parts):
        for i in range(count):
            target[i] += partial[p * job.part_size + i]


cdef void _add_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    if job.itemsize == 4:
        _add_parts[float](job, index, <float*>job.partial, <float*>job.target)
    else:
        _add_parts[double](job, index, <double*>job.partial, <double*>job.target)


cdef void _turn_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add up the parts of one block and write them along each column's own weights."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t lanes = job.kernels.vector_length, size = job.itemsize
    cdef Py_ssize_t depth = job.left.channels, weights = depth * job.taps
    cdef Py_ssize_t column = index % job.blocks * job.columns, first, start, i, tap, channel
    cdef Py_ssize_t end = min(column + job.columns, job.right.channels)
    cdef const char* block = job.partial + index * weights * job.columns * size
    cdef char* target = job.target + (index // job.blocks * job.right.channels + column) \
        * weights * size
    cdef const void* sources[16]
    cdef int count
    for first in range((end - column + lanes - 1) // lanes):
        start = tap = channel = 0
        while start < weights:
            count = <int>min(lanes, weights - start)
            for i in range(count):
                sources[i] = block + ((tap * depth + channel) * job.columns + first * lanes) * size
                tap += 1
                if tap == job.taps:
                    tap = 0
                    channel += 1
            job.transpose.from_vectors[size == 8](
                sources, job.parts, job.part_size, <int>min(lanes, end - column - first * lanes),
                count, target + (first * lanes * weights + start) * size, weights)
            start += count


cdef const char* _address(array):
    return <const char*>address(array)


cdef Py_ssize_t _strip_pixels(Job* job):
    """Return how many pixels a strip should have."""
    cdef Py_ssize_t by_bytes = STRIP_BYTES // (job.in_c * job.stride_w * job.itemsize)
    # Several tiles read from one line of the left factor: with short vectors, these and the
    # right factor's stay in the first-level cache.
    cdef Py_ssize_t most = STRIP_PIXELS if job.kernels.vector_length >= 16 else STRIP_PIXELS // 3
    return min(most, max(LEAST_STRIP_PIXELS, by_bytes))


cdef void _lay_in_rows(Job* job):
    """Lay the pixels of a pointwise problem in nearly equal rows, as many for every part."""
    cdef Py_ssize_t strip = _strip_pixels(job), rows
    job.pixels = job.all_rows * job.out_w
    rows = (job.pixels + strip - 1) // strip
    rows = (rows + job.parts - 1) // job.parts * job.parts
    job.in_w = job.out_w = (job.pixels + rows - 1) // rows
    job.in_h = job.out_h = job.all_rows = (job.pixels + job.out_w - 1) // job.out_w
    job.unit = 1


cdef void _cut(Job* job):
    """Choose parts and chunks."""
    cdef Py_ssize_t pixels = job.all_rows * job.out_w
    cdef Py_ssize_t rows = job.left.channels * (job.n_cols if job.together else 1)
    cdef Py_ssize_t all_blocks = job.blocks * job.groups
    cdef Py_ssize_t tiles = (rows + job.kernels.max_mr[1] - 1) // job.kernels.max_mr[1]
    cdef Py_ssize_t chunks = job.part_size * job.itemsize // CHUNK_BYTES + 1
    cdef Py_ssize_t n, m, most
    cdef double cost, best = -1
    job.parts = max(1, min((TASKS + chunks - 1) // chunks, pixels // PART_PIXELS))
    if not job.flat:
        job.parts = min(job.parts, job.all_rows)
    chunks = max(chunks, (LEAST_TASKS + job.parts - 1) // job.parts)
    # Each chunk of rows goes through all of the right factor, each chunk of columns through
    # all of the left one. Blocks of transposed results are not divided by rows.
    for n in range(1, all_blocks + 1):
        m = min(tiles, (chunks + n - 1) // n) if job.in_order else 1
        cost = n * job.left.channels + m * job.right.channels
        if n * m < chunks:
            cost += (chunks - n * m) * (job.left.channels + job.right.channels)
        # Chunks should be equal: what one is larger than the mean, others wait for.
        most = (all_blocks + n - 1) // n
        cost *= <double>most * n / all_blocks
        if best < 0 or cost < best:
            best = cost
            job.row_chunks, job.column_chunks = m, n


def reads_once(Py_ssize_t pixels, Py_ssize_t weights):
    """Tell whether `_cut` leaves a 1x1 kernel's result whole, so that x is gone through once."""
    return weights * 4 < CHUNK_BYTES and pixels >= LEAST_TASKS * PART_PIXELS


cdef void _take_together(Job* job):
    """Let the taps of a kernel row be one where there are few input channels."""
    job.together = (job.groups == 1 and job.in_c < FEW_CHANNELS and job.n_cols > 1
                    and job.cols[job.n_cols - 1] - job.cols[0] + 1 == job.n_cols)
    job.source = Source(job.in_h, job.in_w, job.in_c * job.itemsize, job.cols[0],
                        (job.out_w - 1) * job.stride_w + job.n_cols)
    job.scratch_bytes = ((job.unit - 1) * job.stride_h + job.rows[job.n_rows - 1] - job.rows[0]
                         + 1) * job.source.strip_width * job.source.pixel if job.together else 0


def run(x, gy, gw, rows, cols, stride, Py_ssize_t groups, int threads, *, bint taps_first=False,
        maker=None):
    """Sum x[pixel * stride + tap] times gy[pixel] over all pixels, for every tap.

    Parameters
    ----------
    x : ndarray (N, H, W, C)
        C-contiguous.
    gy : ndarray (N, H', W', O)
        C-contiguous.
    gw : ndarray
        Where the result goes, C-contiguous: (O, C / groups, taps), or with `taps_first`
        (groups, C / groups, O / groups), which is for a single tap.
    rows, cols : sequence of int
        Where the taps lie relative to a pixel's origin; ascending.
    stride : (int, int)
    groups : int
    threads : int
    maker : tuple, optional
        What float32 x is made by on the way (`maker.pxd`), for a 1x1 kernel.
    """
    cdef Job job
    cdef Py_ssize_t size = x.itemsize, samples
    cdef Side of_x, of_gy
    cdef Maker made
    job.kernels = kernels_for(size)
    job.transpose = dispatch.table().transpose
    job.itemsize = size
    samples, job.in_h, job.in_w, job.in_c = x.shape
    _, job.out_h, job.out_w, job.out_c = gy.shape
    job.groups = groups
    job.stride_h, job.stride_w = stride
    row_array, col_array = np.array(rows, np.intp), np.array(cols, np.intp)
    job.rows, job.cols = <const Py_ssize_t*>_address(row_array), <const Py_ssize_t*>_address(col_array)
    job.n_rows, job.n_cols = row_array.size, col_array.size
    job.taps = job.n_rows * job.n_cols
    job.all_rows = samples * job.out_h
    job.target = <char*>_address(gw)
    if not job.all_rows or not job.out_w or not gw.size:
        gw.fill(0)
        return

    # Every pixel has the single tap of a 1x1 kernel, so that nothing need be zero beforehand.
    job.in_order = job.taps == 1 and rows[0] == cols[0] == 0 \
        and (job.in_h - 1) // job.stride_h + 1 >= job.out_h \
        and (job.in_w - 1) // job.stride_w + 1 >= job.out_w
    if job.in_order and (job.stride_h, job.stride_w) != (1, 1):
        x = _every(x, gy.shape, job.stride_h, job.stride_w, threads)
        job.stride_h = job.stride_w = 1
        job.in_h, job.in_w = job.out_h, job.out_w
    job.flat = job.in_order and job.in_h == job.out_h and job.in_w == job.out_w
    job.turned = job.in_order and not taps_first
    job.left.channels, job.right.channels = job.in_c // groups, job.out_c // groups
    if job.turned:
        job.left.channels, job.right.channels = job.right.channels, job.left.channels
    job.unit = max(1, min(job.all_rows, _strip_pixels(&job) // job.out_w))
    _take_together(&job)
    cdef Py_ssize_t depth = job.left.channels * (job.n_cols if job.together else 1)
    cdef int width = choose_width(job.kernels, depth, job.right.channels)
    job.columns = width * job.kernels.vector_length
    job.blocks = (job.right.channels + job.columns - 1) // job.columns
    if job.in_order:
        job.part_size = groups * job.left.channels * job.right.channels
    else:
        job.part_size = groups * job.blocks * job.taps * job.left.channels * job.columns
    _cut(&job)
    job.pixels = 0
    if job.flat:
        _lay_in_rows(&job)
    of_x = Side(_address(x), job.stride_w * job.in_c, job.stride_h * job.in_w * job.in_c,
                job.in_h * job.in_w * job.in_c, job.in_c // groups)
    of_gy = Side(_address(gy), job.out_c, job.out_w * job.out_c, job.out_h * job.out_w * job.out_c,
                 job.out_c // groups)
    job.maker = NULL
    if maker is not None:
        if not job.flat or size != 4:
            raise ValueError("kernel called with a maker, but not for float32 and a 1x1 kernel")
        made = maker_of(maker, job.in_c)
        job.maker = &made
        job.scratch_bytes = job.out_w * job.in_c * size
    if job.turned:
        job.left, job.right, job.x = of_gy, of_x, &job.right
    else:
        job.left, job.right, job.x = of_x, of_gy, &job.left
    _sum(&job, threads)


cdef struct EveryJob:
    const char* x
    char* y
    Py_ssize_t pixel, in_h, in_w, out_h, out_w, stride_h, stride_w


cdef void _every_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Copy the pixels of one output row."""
    cdef EveryJob* job = <EveryJob*>ctx
    cdef const char* x = job.x + (index // job.out_h * job.in_h + index % job.out_h * job.stride_h) \
        * job.in_w * job.pixel
    cdef char* y = job.y + index * job.out_w * job.pixel
    cdef Py_ssize_t j
    for j in range(job.out_w):
        memcpy(y + j * job.pixel, x + j * job.stride_w * job.pixel, job.pixel)


cdef _every(x, shape, Py_ssize_t stride_h, Py_ssize_t stride_w, int threads):
    """Return every stride-th pixel of `x`, side by side: those that a 1x1 kernel reads."""
    cdef EveryJob job
    cdef Py_ssize_t rows = shape[0] * shape[1]
    picked = memory.empty((*shape[:3], x.shape[3]), x.dtype)
    job.x, job.y = _address(x), <char*>_address(picked)
    job.pixel = x.shape[3] * x.itemsize
    job.in_h, job.in_w = x.shape[1:3]
    job.out_h, job.out_w = shape[1:3]
    job.stride_h, job.stride_w = stride_h, stride_w
    cdef int team = threads_for(threads, rows, <double>picked.size)
    with nogil:
        parallel_for(_every_task, &job, rows, team)
    return picked


cdef _sum(Job* job, int threads):
    """Run the tasks and join their parts."""
    cdef Py_ssize_t tasks = job.parts * job.row_chunks * job.column_chunks
    cdef double work = <double>job.all_rows * job.out_w * job.part_size
    cdef int team = threads_for(threads, tasks, work / job.kernels.vector_length)
    cdef bint direct = job.in_order and job.parts == 1
    cdef Py_ssize_t bytes = 0 if direct else job.parts * job.part_size * job.itemsize
    cdef bint enough
    with nogil:
        job.partial = job.target if direct else <char*>take(bytes)
        job.scratch = <char*>take(team * job.scratch_bytes)
        enough = job.partial != NULL and job.scratch != NULL
        if enough:
            parallel_for(_sum_task, job, tasks, team)
            if not job.in_order:
                parallel_for(_turn_task, job, job.groups * job.blocks, team)
            elif not direct:
                parallel_for(_add_task, job, (job.part_size + JOIN_COUNT - 1) // JOIN_COUNT, team)
        if not direct:
            give(job.partial, bytes)
        give(job.scratch, team * job.scratch_bytes)
    if not enough:
        raise MemoryError(f"no memory for {bytes} bytes of partial sums")
