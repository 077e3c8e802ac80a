"""Convolution and linear layers on bytes, with exact int32 sums, for quantised inference.

Loops as in `direct`: a task computes some rows of output pixels for some blocks of output
channels, from a strip of the input that it copies with its padding (which holds the input's
zero point), or from the input as it lies. Weights are packed once. Activations count as
unsigned: signed ones are read with their highest bit flipped, that is with 128 added, and so
is their zero point, whose part in the sums is taken away with the bias.

On tiles (AMX), pixels of all rows of a strip are one sequence, in blocks of 32 pixels and 32
channels, and finishing one block's sums goes beside the products of the next one
(c/int8tile.body.h).

Depthwise convolution multiplies joined rows: each 32-bit word holds the values of a channel in as
many rows as one instruction multiplies, so that a column of the window is one instruction. Where
there are byte products, rows are joined in registers (c/int8.walk.h), else in memory.

All instruction sets give the same bits: sums are whole numbers (modulo 2^32), and what follows
rounds everywhere alike. So any cut of the work gives the same bits, too.
"""

import numpy as np

from convkit._kernels import memory
from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.dispatch import has_vnni
from convkit._kernels.gemm cimport part_start
from convkit._kernels.runner cimport launch, new_step
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.string cimport memset

# Bytes of a strip of input, of packed weights that a task goes through, of those that it goes
# through a row of pixels at a time, of those that tiles take to each block of pixels (they stay in
# the first-level cache), and of the input of a row of pixels where every pixel stands alone; tasks
# for each thread that a call is cut into where that costs little; weights that are packed at a
# time.
cdef Py_ssize_t STRIP_BYTES = 256 << 10
cdef Py_ssize_t CHUNK_BYTES = 512 << 10
cdef Py_ssize_t PASS_BYTES = 128 << 10
cdef Py_ssize_t TILED_BYTES = 32 << 10
cdef Py_ssize_t ROW_BYTES = 128 << 10
cdef Py_ssize_t TASKS = 8
cdef Py_ssize_t PACKED_AT_A_TIME = 256 << 10
# Tiles may read so many bytes beyond a strip, times weights of zero.
cdef Py_ssize_t SLACK = 64
# Rows of a window that depthwise kernels join in one word, at most.
cdef enum:
    MOST_JOINED = 4

cdef bint HAVE_VNNI = has_vnni()

NUMBERS = {None: CK_INT8_NONE, "uint8": CK_INT8_BYTES, "int8": CK_INT8_BYTES,
           "float32": CK_INT8_FLOAT, "int32": CK_INT8_INT}


cdef const ck_int8_kernels* _kernels(bint vnni, bint filled) noexcept nogil:
    """Return the fastest kernels; tiles where these would be filled."""
    cdef const dispatch.ck_table* table = dispatch.table()
    if table.int8_tile != NULL and vnni and filled:
        return <const ck_int8_kernels*>table.int8_tile
    if table.int8_vnni != NULL and vnni and HAVE_VNNI:
        return <const ck_int8_kernels*>table.int8_vnni
    return <const ck_int8_kernels*>table.int8


def form(bint vnni=True):
    """Return what the kernels in use multiply: "tiles", "bytes" or "16-bit pairs"."""
    cdef const ck_int8_kernels* kernels = _kernels(vnni, True)
    if kernels.depthwise == NULL:
        return "tiles"
    return "bytes" if kernels.bytes == 1 else "16-bit pairs"


# -- how a step ends ------------------------------------------------------------------------


cdef class Finish:
    """What becomes of a step's values before they are stored (c/int8.h).

    Parameters
    ----------
    result : {"uint8", "int8", "float32", "int32"}
    zero : int
        The result's zero point.
    residual : {None, "uint8", "int8", "float32"}
        What is added.
    residual_scale, residual_zero
        Its scale, in steps of the result, and its zero point.
    alpha : float
        What negative values are multiplied by.
    low, high : float
        Bounds of the value, in steps of the result.
    between : Finish, optional
        How sums become bytes before the residual is added to what these stand for.
    between_scale : float
        The step of those bytes, in steps of the result.
    """

    def __init__(self, result, int zero=0, residual=None, float residual_scale=1,
                 int residual_zero=0, float alpha=1, float low=-np.inf, float high=np.inf,
                 Finish between=None, float between_scale=0):
        cdef int flip = 0x80 if residual == "int8" else 0
        self.form.offset = NULL
        self.form.scale = NULL
        self.form.result = NUMBERS[result]
        self.form.zero = zero
        self.form.residual = NUMBERS[residual]
        self.form.residual_scale = residual_scale
        self.form.residual_zero = residual_zero + flip
        self.form.residual_flip = flip
        self.form.between = self.form.between_low = self.form.between_high = 0
        if between is not None:
            self.form.between = between_scale
            self.form.between_low, self.form.between_high = between.form.low, between.form.high
        self.form.alpha = alpha
        self.form.low = low
        self.form.high = high
        self.form.result_flip = 0x80 if result == "int8" else 0
        if self.form.result == CK_INT8_BYTES:
            least = -self.form.result_flip - zero
            self.form.low, self.form.high = np.rint(np.clip((low, high), least, least + 255))


# -- one convolution ------------------------------------------------------------------------


cdef struct Job:
    const ck_int8_kernels* kernels
    ck_int8_args proto             # what all tiles share
    const uint8_t* x
    const char* weights
    const char* residual
    char* y
    char* scratch
    Py_ssize_t scratch_bytes
    Py_ssize_t samples, in_h, in_w, in_c, in_group
    Py_ssize_t out_h, out_w, out_c, out_group       # whole output, channels per group
    Py_ssize_t x_pixel, y_pixel, residual_pixel     # bytes from one pixel to the next
    Py_ssize_t y_item, residual_item                # bytes of a number
    Py_ssize_t grid_h, grid_w, last_w               # rows of pixels; those of the last
    Py_ssize_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w
    Py_ssize_t strip_width, strips, chunks
    Py_ssize_t blocks, all_blocks, block_bytes, pass_blocks
    Py_ssize_t row_bytes                            # of a strip, as it is prepared
    Py_ssize_t joined                               # groups of rows joined in memory (depthwise)
    ck_int8_walk walk                               # what all rows share, where rows are walked
    ck_int8_panel panel                             # what all tasks share, on tiles
    Py_ssize_t phase_rows                           # of a strip, with a remainder by stride_h
    int flip, zero, team
    bint pointwise, picks, depthwise, walks         # picks: 1x1 with strides
    bint whole                                      # whether no tile reads beyond its pixels
    bint tiled, straight                            # straight: tiles read the image as it lies
    ptrdiff_t offsets_x[512]                        # of the taps, in x itself
    ptrdiff_t offsets_strip[512]                    # of the taps, in a strip


cdef void _fill(Job* job, char* target, Py_ssize_t pixels) noexcept nogil:
    """Write pixels of padding."""
    cdef Py_ssize_t i, count = pixels * job.in_c
    if job.kernels.bytes == 1 or job.depthwise:
        memset(target, job.zero, count)
    else:
        for i in range(count):
            (<uint16_t*>target)[i] = <uint16_t>job.zero


cdef void _fill_rows(Job* job, const uint8_t* image, Py_ssize_t first, Py_ssize_t count,
                     char* strip) noexcept nogil:
    """Copy image rows from `first` on into a strip, with the zero point around the image."""
    cdef Py_ssize_t left = max(0, min(job.pad_w, job.strip_width))
    cdef Py_ssize_t inside = max(0, min(job.in_w, job.strip_width - left))
    cdef Py_ssize_t pixel = job.row_bytes // job.strip_width, row, i
    cdef const uint8_t* source
    for row in range(first, first + count):
        if row < 0 or row >= job.in_h:
            _fill(job, strip, job.strip_width)
        else:
            _fill(job, strip, left)
            source = image + row * job.in_w * job.x_pixel
            if job.x_pixel != job.in_c:
                for i in range(inside):
                    _prepare(job, source + i * job.x_pixel, job.in_c, strip + (left + i) * pixel)
            else:
                if job.pointwise and row == job.in_h - 1:
                    inside = min(inside, job.last_w)
                _prepare(job, source, inside * job.in_c, strip + left * pixel)
            _fill(job, strip + (left + inside) * pixel, job.strip_width - left - inside)
        strip += job.row_bytes


cdef inline void _prepare(Job* job, const uint8_t* x, Py_ssize_t count, char* out) noexcept nogil:
    if job.depthwise:
        job.kernels.copy(x, count, job.flip, out)
    else:
        job.kernels.prepare(x, count, job.flip, out)


# What tiles fetch ahead of its use: a piece each, so many bytes with each step.
cdef struct Ahead:
    const char* at
    Py_ssize_t left, piece, step
    bint by_block                   # whether each block fetches the next one


cdef void _look(Job* job, Ahead* ahead, const char* at, Py_ssize_t size,
                Py_ssize_t tiles) noexcept nogil:
    """Let so many tiles fetch `size` bytes; the others fetch nothing."""
    cdef Py_ssize_t steps = job.proto.batch * job.proto.k // job.kernels.group
    ahead.at, ahead.left = at, size
    ahead.step = min(<Py_ssize_t>64, (size + tiles * steps - 1) // (tiles * steps))
    ahead.piece = ahead.step * steps


cdef inline Py_ssize_t _tiles(const Job* job, Py_ssize_t width) noexcept nogil:
    return (width + job.kernels.max_rows - 1) // job.kernels.max_rows


cdef void _run_row(Job* job, ck_int8_args* args, Py_ssize_t width, Ahead* ahead) noexcept nogil:
    """Run the tiles of one row of pixels for one block of output channels."""
    cdef Py_ssize_t tiles = _tiles(job, width)
    cdef Py_ssize_t each = width // tiles, wider = width % tiles, i
    for i in range(tiles):
        args.rows = <int>(each + (i < wider))
        args.fetch, args.fetch_step = args.b, 0
        if ahead.left > 0:
            args.fetch, args.fetch_step = ahead.at, ahead.step
            ahead.at += ahead.piece
            ahead.left -= ahead.piece
        if job.depthwise:
            job.kernels.depthwise(args)
        else:
            job.kernels.run(args)
        args.a += args.rows * args.lda
        args.c += args.rows * args.ldc
        args.residual += args.rows * args.ld_residual


cdef void _run_blocks(Job* job, ck_int8_args* args, const char* a, Py_ssize_t a_pixel,
                      Py_ssize_t pixel, Py_ssize_t width, Py_ssize_t first, Py_ssize_t last,
                      Ahead* ahead) noexcept nogil:
    """Compute `width` output pixels in a row, from `pixel` on, for blocks of columns."""
    cdef Py_ssize_t b, group, column, offset
    for b in range(first, last):
        group = b // job.blocks
        column = b % job.blocks * job.kernels.columns       # within the group
        args.n = <int>min(<Py_ssize_t>job.kernels.columns, job.out_group - column)
        offset = b * job.kernels.columns
        args.b = job.weights + b * job.block_bytes
        args.finish.offset = job.proto.finish.offset + offset
        args.finish.scale = job.proto.finish.scale + offset
        args.a = a + (column if job.depthwise else group * job.in_group) * a_pixel
        column += group * job.out_group
        args.c = job.y + pixel * job.y_pixel + column * job.y_item
        args.residual = job.residual + (pixel * job.residual_pixel + column * job.residual_item
                                        if job.residual != NULL else 0)
        if ahead.by_block:
            _look(job, ahead, args.b + job.block_bytes,
                  job.block_bytes if b + 1 < job.all_blocks else 0, _tiles(job, width))
        _run_row(job, args, width, ahead)


cdef inline Py_ssize_t _reach(const Job* job) noexcept nogil:
    """Return how many rows of the input an output row is made of, with those between."""
    return (job.kernel_h - 1) * job.dilation_h + 1


cdef void _walk_row(Job* job, const char* ring, Py_ssize_t first, Py_ssize_t pixel) noexcept nogil:
    """Compute a row of a depthwise layer's pixels, 64 channels at a time."""
    cdef Py_ssize_t b, i, tap
    cdef ck_int8_walk args = job.walk
    for b in range(job.all_blocks):
        for i in range(4 * args.joined):
            # Beyond the window any row will do: its weights are zero.
            tap = i if i < job.kernel_h else 0
            args.rows[i] = (ring + (first + tap * job.dilation_h) % _reach(job) * job.row_bytes
                            + CK_INT8_WALKED * b)
        args.n = <int>min(<Py_ssize_t>CK_INT8_WALKED, job.out_c - CK_INT8_WALKED * b)
        args.b = job.weights + b * job.block_bytes
        args.finish.offset = job.proto.finish.offset + CK_INT8_WALKED * b
        args.finish.scale = job.proto.finish.scale + CK_INT8_WALKED * b
        args.c = job.y + pixel * job.y_pixel + CK_INT8_WALKED * b
        job.kernels.walk(&args)


cdef void _walk_strip(Job* job, const uint8_t* image, char* ring, Py_ssize_t pixel,
                      Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Compute rows of a depthwise layer, from as many rows of the input as one of them needs."""
    cdef Py_ssize_t reach = _reach(job), begin = first * job.stride_h - job.pad_h
    cdef Py_ssize_t filled = 0, start, row
    for row in range(first, last):
        start = (row - first) * job.stride_h
        for filled in range(max(filled, start), start + reach):
            _fill_rows(job, image, begin + filled, 1, ring + filled % reach * job.row_bytes)
        filled = start + reach
        _walk_row(job, ring, start, pixel + row * job.out_w)


cdef void _pick(Job* job, const uint8_t* image, Py_ssize_t first, Py_ssize_t last,
                char* strip) noexcept nogil:
    """Copy the pixels that a 1x1 layer with strides reads for rows of its result."""
    cdef Py_ssize_t row, column
    cdef const uint8_t* source
    for row in range(first, last):
        source = image + row * job.stride_h * job.in_w * job.x_pixel
        for column in range(job.out_w):
            _prepare(job, source + column * job.stride_w * job.x_pixel, job.in_c, strip)
            strip += job.in_c * job.kernels.bytes


cdef void _picked_strip(Job* job, const uint8_t* image, char* strip, Py_ssize_t pixel,
                        Py_ssize_t first, Py_ssize_t last, Py_ssize_t first_block,
                        Py_ssize_t last_block) noexcept nogil:
    """Compute rows of a 1x1 layer with strides, as one row of the pixels that it reads."""
    cdef Py_ssize_t width = job.out_w
    cdef ck_int8_args args = job.proto
    cdef Ahead ahead
    _pick(job, image, first, last, strip)
    ahead.by_block = True
    _run_blocks(job, &args, strip, job.kernels.bytes, pixel + first * width,
                (last - first) * width, first_block, last_block, &ahead)


cdef void _fill_phases(Job* job, const uint8_t* image, Py_ssize_t first, Py_ssize_t rows,
                       char* strip) noexcept nogil:
    """Copy image rows into a strip: those of each remainder by the stride lie together.

    So the rows that a tap reads for one row of pixels after the other are neighbours.
    """
    cdef Py_ssize_t row
    for row in range(rows):
        _fill_rows(job, image, first + row, 1,
                   strip + (row % job.stride_h * job.phase_rows + row // job.stride_h)
                   * job.row_bytes)


cdef void _tiled_strip(Job* job, const uint8_t* image, char* strip, Py_ssize_t pixel,
                       Py_ssize_t first, Py_ssize_t last, Py_ssize_t block,
                       Py_ssize_t last_block) noexcept nogil:
    """Compute rows of output pixels for blocks of columns on tiles, some blocks at a time.

    Rows are one sequence of positions, of which those that are no pixels are computed in vain,
    unless that would be more than what whole tiles for each row compute in vain.
    """
    cdef Py_ssize_t row_first = first * job.stride_h - job.pad_h, end, column, group, size, steps
    cdef Py_ssize_t count = last - first
    cdef const char* a = strip
    cdef ck_int8_panel panel = job.panel
    if job.straight:
        a = <const char*>image + first * job.in_w * job.x_pixel
    elif job.picks:
        _pick(job, image, first, last, strip)
    elif job.pointwise:
        _fill_rows(job, image, first, count, strip)
    else:
        _fill_phases(job, image, row_first, (count - 1) * job.stride_h + _reach(job), strip)
    panel.rows, panel.positions = count, job.out_w
    if panel.wide <= (job.out_w + 31) // 32 * 32:
        panel.rows, panel.positions = 1, (count - 1) * panel.wide + job.out_w
        if job.pointwise and last == job.grid_h:
            panel.positions += job.last_w - job.out_w
    while block < last_block:
        group = block // job.blocks
        end = min(block + job.pass_blocks, last_block, (group + 1) * job.blocks)
        column = block % job.blocks * job.kernels.columns       # within the group
        panel.a = a + group * job.in_group
        panel.n = <int>min((end - block) * job.kernels.columns, job.out_group - column)
        panel.b = job.weights + block * job.block_bytes
        panel.finish.offset = job.proto.finish.offset + block * job.kernels.columns
        panel.finish.scale = job.proto.finish.scale + block * job.kernels.columns
        column += group * job.out_group
        panel.c = job.y + pixel * job.y_pixel + column * job.y_item
        panel.residual = job.residual + (pixel * job.residual_pixel + column * job.residual_item
                                         if job.residual != NULL else 0)
        size = min(end - block, job.all_blocks - end) * job.block_bytes
        steps = ((panel.positions + 31) // 32 * panel.rows * (end - block)
                 * panel.batch * panel.steps)
        panel.fetch = job.weights + end * job.block_bytes
        panel.fetch_step = (size + 64 * steps - 1) // (64 * steps) * 64
        job.kernels.panel(&panel)
        block = end


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    # Chunks are outermost, so that their weights stay in cache from sample to sample.
    cdef Py_ssize_t strip = index % job.strips
    cdef Py_ssize_t sample = index // job.strips % job.samples
    cdef Py_ssize_t chunk = index // (job.strips * job.samples)
    cdef Py_ssize_t first = part_start(job.grid_h, job.strips, strip)
    cdef Py_ssize_t last = part_start(job.grid_h, job.strips, strip + 1)
    cdef Py_ssize_t block = part_start(job.all_blocks, job.chunks, chunk)
    cdef Py_ssize_t last_block = part_start(job.all_blocks, job.chunks, chunk + 1)
    cdef Py_ssize_t row_first = first * job.stride_h - job.pad_h
    cdef Py_ssize_t rows = (last - 1 - first) * job.stride_h + _reach(job)
    cdef Py_ssize_t filled = 0, pixel = sample * job.out_h * job.out_w
    cdef const uint8_t* image = job.x + sample * job.in_h * job.in_w * job.x_pixel
    cdef char* memory = job.scratch + slot * job.scratch_bytes
    cdef Py_ssize_t end
    if job.walks:
        _walk_strip(job, image, memory, pixel, first, last)
        return
    if job.tiled:
        _tiled_strip(job, image, memory, pixel + first * job.out_w, first, last, block, last_block)
        return
    if job.picks:
        _picked_strip(job, image, memory, pixel, first, last, block, last_block)
        return
    # Without a copy, where that can be.
    if (job.whole and not job.depthwise and row_first >= 0 and row_first + rows <= job.in_h
            and job.pad_w == 0 and job.strip_width <= job.in_w):
        memory = NULL
    while block < last_block:
        end = min(block + job.pass_blocks, last_block)
        filled = _run_pass(job, image, memory, pixel, first, last, block, end, filled)
        block = end


cdef Py_ssize_t _run_pass(Job* job, const uint8_t* image, char* strip, Py_ssize_t pixel,
                          Py_ssize_t first, Py_ssize_t last, Py_ssize_t block,
                          Py_ssize_t end, Py_ssize_t filled) noexcept nogil:
    """Compute rows of output pixels for blocks of columns; return how many rows are in the strip.

    From the strip, of which so many rows are filled already, or from the image where it is NULL.
    """
    cdef Py_ssize_t needed, width, count, row = first, reach = _reach(job)
    cdef Py_ssize_t rows = (last - 1 - first) * job.stride_h + reach
    cdef Py_ssize_t a_row = (job.in_w * job.x_pixel if strip == NULL else job.row_bytes)
    cdef Py_ssize_t a_pixel = 1 if strip == NULL else 4 if job.depthwise else job.kernels.bytes
    cdef const char* a
    cdef Ahead ahead
    cdef ck_int8_args args = job.proto
    if strip == NULL:
        args.a_offsets, args.lda = job.offsets_x, job.stride_w * job.x_pixel
    _look(job, &ahead, job.weights + end * job.block_bytes,
          min(end - block, job.all_blocks - end) * job.block_bytes,
          (end - block) * (last - first) * _tiles(job, job.grid_w))
    ahead.by_block = False
    while row < last:
        # Two short rows fill a tile.
        count = 2 if job.out_w == job.kernels.half_rows and row + 1 < last and not job.pointwise \
            and not job.depthwise else 1
        args.jump = job.stride_h * a_row if count == 2 else 0
        needed = (row + count - 1 - first) * job.stride_h + reach
        if strip != NULL and filled < needed:
            _fill_rows(job, image, first * job.stride_h - job.pad_h + filled, needed - filled,
                       strip + filled * job.row_bytes)
            filled = needed
        if strip == NULL:
            a = <const char*>image + row * job.stride_h * a_row
        else:
            a = strip + (row - first) * job.stride_h * job.row_bytes
        if job.depthwise:
            _join_rows(job, a, strip + rows * job.row_bytes)
            a = strip + rows * job.row_bytes
        width = job.last_w if row == job.grid_h - 1 else count * job.grid_w
        if job.pointwise:
            # Weights are new to the first row, to the others their own pixels.
            ahead.by_block = row == first
            if not ahead.by_block:
                _look(job, &ahead, a + a_row, a_row if strip == NULL and row + 1 < last else 0,
                      (end - block) * _tiles(job, width))
        _run_blocks(job, &args, a, a_pixel, pixel + row * job.out_w, width, block, end, &ahead)
        row += count
    return filled


cdef void _join_rows(Job* job, const char* strip, char* out) noexcept nogil:
    """Join the rows of a window, as many to a word as one instruction multiplies."""
    cdef const uint8_t* rows[MOST_JOINED]
    cdef Py_ssize_t part, r, tap
    for part in range(job.joined):
        for r in range(job.kernels.group):
            tap = part * job.kernels.group + r
            # Beyond the window any row will do: its weights are zero.
            tap = tap if tap < job.kernel_h else 0
            rows[r] = <const uint8_t*>strip + tap * job.dilation_h * job.row_bytes
        job.kernels.join(rows, job.row_bytes, out + part * 4 * job.row_bytes)


cdef void _for_samples(Job* job, Py_ssize_t samples, int threads) noexcept nogil:
    """Fill in what depends on the number of samples: rows, cut, threads, scratch."""
    cdef Py_ssize_t pixels, row, tasks, extra, rows, most, cut
    cdef Py_ssize_t step = 1 if job.picks else job.stride_h     # from row to row of a strip
    # In products of vectors: those of the sums, and what finishing a result, or joining rows for
    # one, takes as long as.
    cdef double work = <double>samples * job.out_h * job.out_w * (
        job.all_blocks * job.block_bytes / 64. + job.out_c * (1. if job.depthwise else 0.5))
    cut = TASKS * threads_for(threads, threads, work)
    if cut == TASKS:
        cut = 1
    job.samples = samples
    job.grid_h, job.grid_w = job.out_h, job.out_w
    job.last_w = job.grid_w
    if job.pointwise:
        # The pixels of all samples in rows of a few full tiles, the last one shorter.
        pixels = samples * job.out_h * job.out_w
        most = max(<Py_ssize_t>1, ROW_BYTES // (job.kernels.max_rows * job.in_c))
        row = job.kernels.max_rows * min(<Py_ssize_t>8, most)
        job.samples = 1
        job.grid_w = job.in_w = job.out_w = min(row, pixels)
        job.grid_h = job.in_h = job.out_h = (pixels + job.grid_w - 1) // job.grid_w
        job.last_w = pixels - (job.grid_h - 1) * job.grid_w
        job.strip_width = job.grid_w
        job.row_bytes = job.strip_width * job.in_c * job.kernels.bytes
        job.panel.wide = job.panel.width = job.grid_w
    tasks = (cut + job.samples - 1) // job.samples
    extra = max(<Py_ssize_t>0, _reach(job) - step)
    rows = job.grid_h if job.walks else (STRIP_BYTES // job.row_bytes - extra) // step
    rows = min(rows, max(<Py_ssize_t>4, (job.grid_h + tasks - 1) // tasks))
    rows = max(<Py_ssize_t>1, min(rows, job.grid_h))
    job.strips = (job.grid_h + rows - 1) // rows
    rows = (job.grid_h + job.strips - 1) // job.strips
    job.scratch_bytes = (rows * step + extra + 4 * job.joined) * job.row_bytes
    if job.walks:
        job.scratch_bytes = _reach(job) * job.row_bytes
    if job.tiled and not job.pointwise and not job.picks:
        job.phase_rows = (rows * step + extra + step - 1) // step
        job.scratch_bytes = job.phase_rows * step * job.row_bytes
    job.scratch_bytes = (job.scratch_bytes + SLACK + 63) // 64 * 64
    job.chunks = 1
    if not job.depthwise:
        most = job.all_blocks * job.block_bytes // CHUNK_BYTES
        tasks = (cut - 1) // (job.samples * job.strips) + 1
        job.chunks = max(<Py_ssize_t>1, min(job.all_blocks, max(most, tasks)))
    tasks = job.samples * job.strips * job.chunks
    job.team = threads_for(threads, tasks, work)


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    _for_samples(&job, samples, threads)
    return job.team * job.scratch_bytes


cdef void _reach_taps(Job* job) noexcept nogil:
    """Fill in where tiles find the taps."""
    cdef Py_ssize_t row, column, i = 0, columns = job.proto.batch // job.kernel_h, at
    for row in range(job.kernel_h):
        at = row * job.dilation_h
        at = (at % job.stride_h * job.phase_rows + at // job.stride_h) * job.row_bytes
        for column in range(columns):
            job.offsets_strip[i] = at + column * job.dilation_w * job.in_c
            i += 1
    job.panel.a_offsets = job.offsets_strip
    if job.straight:
        job.panel.a_offsets = job.offsets_x


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x = <const uint8_t*>at[0]
    job.residual = at[1]
    job.y = at[2]
    job.scratch = scratch
    job.proto.a_offsets = job.offsets_strip
    _for_samples(&job, samples, threads)
    if job.tiled:
        _reach_taps(&job)
    parallel_for(_task, &job, job.samples * job.strips * job.chunks, job.team)
    return 0


cdef class Conv:
    """A quantised convolution, packed for the instruction set in use; a linear layer is one.

    Parameters
    ----------
    weight : ndarray (O, C / groups, kernel_h, kernel_w), int8
    finish : Finish
        How it ends.
    groups : int
    stride, dilation : (int, int)
    padding : (int, int)
        Rows above and columns to the left; what lies below and to the right follows from the
        output's size.
    signed, zero
        Whether the input is int8 rather than uint8, and its zero point.
    scale : ndarray (O,), float32
        What the sum of each output channel is multiplied by: scales of input and weight, in
        steps of the result. Not read for int32 results.
    bias : ndarray (O,), int32, optional
        Added to the sums.
    vnni : bool
        Whether byte instructions may be used; tests compare both ways.
    """

    cdef Job job
    cdef readonly object kept
    cdef readonly Py_ssize_t packed_bytes

    def __init__(self, weight, Finish finish, Py_ssize_t groups=1, stride=(1, 1),
                 padding=(0, 0), dilation=(1, 1), bint signed=False, int zero=0, scale=None,
                 bias=None, bint vnni=True):
        cdef Job* job = &self.job
        if weight.dtype != np.int8 or weight.ndim != 4 or 0 in weight.shape \
                or weight.shape[0] % groups:
            raise ValueError(f"expected int8 weights of shape (O, I, kH, kW), got {weight.dtype} "
                             f"of shape {weight.shape} in {groups} groups")
        job.out_c, job.in_group, job.kernel_h, job.kernel_w = weight.shape
        job.in_c = job.in_group * groups
        job.out_group = job.out_c // groups
        job.depthwise = groups > 1 and job.in_group == 1 and job.out_group == 1
        # Neighbouring taps of a row are one reduction over all their channels.
        merged = groups == 1 and (dilation[1] == 1 or job.kernel_w == 1)
        k = job.in_group * (job.kernel_w if merged else 1)
        # A step of tiles that is a quarter full takes as long as its products on vectors.
        job.kernels = _kernels(vnni, not job.depthwise and k > 16 * _steps(k))
        job.stride_h, job.stride_w = stride
        job.dilation_h, job.dilation_w = dilation
        job.pad_h, job.pad_w = padding
        job.flip = 0x80 if signed else 0
        job.zero = zero + job.flip
        sums = weight.reshape(job.out_c, -1).sum(axis=1, dtype=np.int64)
        offset = (0 if bias is None else bias.astype(np.int64)) - job.zero * sums
        job.walks = (job.depthwise and job.kernels.walk != NULL and job.dilation_w == 1
                     and finish.form.result == CK_INT8_BYTES and not finish.form.residual
                     and job.kernel_h <= CK_INT8_WALK_ROWS)
        if job.walks:
            self._pack_walk(weight[:, 0], finish, offset, scale)
            return
        if job.depthwise:
            job.joined = (job.kernel_h + job.kernels.group - 1) // job.kernels.group
            form = _joined(weight[:, 0], job.joined, job.kernels.group)
            groups, job.out_group, k = 1, job.out_c, job.kernels.group
        else:
            form = weight.transpose(0, 2, 3, 1)
        job.tiled = job.kernels.panel != NULL
        steps = _steps(k) if job.tiled else 1
        padded = steps * _up(-(-k // steps), job.kernels.multiple)
        packed = _pack(form, groups, k, padded, job.kernels)
        job.proto.batch, job.proto.k = form[0].size // k, padded
        job.panel.batch, job.panel.steps = job.proto.batch, steps
        job.panel.depth = padded // steps
        if job.proto.batch > 512:
            raise ValueError(f"expected a kernel of at most 512 taps, got {job.proto.batch}")
        job.whole = (job.kernels.bytes == 1 and not job.flip and job.proto.k == k)
        job.blocks = packed.shape[1]
        job.all_blocks = groups * job.blocks
        job.block_bytes = packed.strides[1]
        job.weights = <const char*>address(packed)
        job.proto.finish = finish.form
        offset = _padded(offset.astype(np.int32), groups, job.all_blocks * job.kernels.columns)
        scale = _padded(np.zeros(job.out_c, np.float32) if scale is None else scale, groups,
                        job.all_blocks * job.kernels.columns)
        job.proto.finish.offset = <const int32_t*>address(offset)
        job.proto.finish.scale = <const float*>address(scale)
        job.y_item = number_bytes(finish.form.result)
        job.residual_item = number_bytes(finish.form.residual)
        self.packed_bytes = packed.nbytes
        self.kept = packed, offset, scale

    cdef int _pack_walk(self, weight, Finish finish, offset, scale) except -1:
        """Pack a depthwise layer's weights (C, kH, kW) for kernels that walk."""
        cdef Job* job = &self.job
        order = _walk_order(job.out_c)
        job.all_blocks = order.size // CK_INT8_WALKED
        job.walk.joined = (job.kernel_h + 3) // 4
        job.walk.taps, job.walk.stride, job.walk.pixel = job.kernel_w, job.stride_w, job.in_c
        full = np.zeros((order.size, 4 * job.walk.joined, job.kernel_w), np.int8)
        full[:job.out_c, :job.kernel_h] = weight
        packed = np.ascontiguousarray(full[order].reshape(
            job.all_blocks, CK_INT8_WALKED, job.walk.joined, 4, job.kernel_w)
            .transpose(0, 2, 4, 1, 3))
        job.block_bytes = packed.strides[0]
        job.weights = <const char*>address(packed)
        offset = _padded(offset.astype(np.int32), 1, order.size)[0, order]
        scale = _padded(scale, 1, order.size)[0, order]
        job.walk.finish = finish.form
        job.proto.finish.offset = <const int32_t*>address(offset)
        job.proto.finish.scale = <const float*>address(scale)
        job.y_item = 1
        self.packed_bytes = packed.nbytes
        self.kept = packed, offset, scale
        return 0

    cdef int _describe(self, Job* job, Py_ssize_t in_h, Py_ssize_t in_w, Py_ssize_t out_h,
                       Py_ssize_t out_w, x_pixel, y_pixel, residual_pixel) except -1:
        """Fill in what depends on the sizes of a sample; pixels in numbers."""
        cdef Py_ssize_t row, column, i = 0, parts, starts
        job[0] = self.job
        job.in_h, job.in_w, job.out_h, job.out_w = in_h, in_w, out_h, out_w
        job.x_pixel = job.in_c if x_pixel is None else x_pixel
        job.y_pixel = (job.out_c if y_pixel is None else y_pixel) * job.y_item
        job.residual_pixel = (job.out_c if residual_pixel is None
                              else residual_pixel) * job.residual_item
        job.pointwise = (job.kernel_h == job.kernel_w == job.stride_h == job.stride_w == 1
                         and job.pad_h == job.pad_w == 0 and not job.depthwise
                         and in_h == out_h and in_w == out_w)
        job.picks = (job.kernel_h == job.kernel_w == 1 and job.stride_h * job.stride_w > 1
                     and job.pad_h == job.pad_w == 0 and not job.depthwise
                     and (out_h - 1) * job.stride_h < in_h and (out_w - 1) * job.stride_w < in_w)
        job.pass_blocks = (job.all_blocks if job.pointwise or job.depthwise
                           else max(1, PASS_BYTES // job.block_bytes))
        job.strip_width = (out_w - 1) * job.stride_w + (job.kernel_w - 1) * job.dilation_w + 1
        if job.picks:
            job.strip_width = out_w
        if job.walks:
            job.walk.width, job.walk.ldc = out_w, job.y_pixel
            job.strip_width = max(job.strip_width, job.kernel_w
                                  + (CK_INT8_WALK_WIDTH - 1) * job.stride_w)
        if job.tiled and not job.picks:
            job.strip_width = _up(job.strip_width, job.stride_w)
        job.row_bytes = job.strip_width * job.in_c * (1 if job.depthwise else job.kernels.bytes)
        parts = job.joined if job.depthwise else job.kernel_h
        starts = 0 if job.walks else job.proto.batch // parts
        for row in range(parts):
            for column in range(starts):
                if job.depthwise:
                    job.offsets_strip[i] = 4 * (row * job.row_bytes
                                                + column * job.dilation_w * job.in_c)
                else:
                    job.offsets_x[i] = (row * job.dilation_h * in_w
                                        + column * job.dilation_w) * job.x_pixel
                    job.offsets_strip[i] = (row * job.dilation_h * job.row_bytes
                                            + column * job.dilation_w * job.in_c
                                            * job.kernels.bytes)
                i += 1
        if job.x_pixel != job.in_c:
            job.whole = job.whole and job.kernel_w == 1
        job.proto.lda = (1 if job.picks else job.stride_w) * job.in_c * (
            4 if job.depthwise else job.kernels.bytes)
        job.proto.ldc = job.y_pixel
        job.proto.ld_residual = job.residual_pixel
        if job.tiled:
            self._describe_tiles(job)
        return 0

    cdef int _describe_tiles(self, Job* job) except -1:
        """Fill in what tiles take: where rows of A lie, in x itself where that can be."""
        cdef ck_int8_panel* panel = &job.panel
        job.straight = (job.whole and job.stride_h == job.stride_w == 1
                        and job.pad_h == job.pad_w == 0
                        and job.out_h + _reach(job) - 1 <= job.in_h
                        and job.strip_width <= job.in_w)
        job.pass_blocks = max(1, TILED_BYTES // job.block_bytes)
        panel.lda = job.x_pixel if job.straight else job.proto.lda
        panel.wide = job.in_w if job.straight else job.strip_width
        if not job.straight and not job.picks:
            panel.wide //= job.stride_w
        panel.row_step = panel.wide * panel.lda
        panel.width, panel.ldc, panel.ld_residual = job.out_w, job.y_pixel, job.residual_pixel
        panel.finish, panel.block_bytes = job.proto.finish, job.block_bytes
        return 0

    def run(self, x, residual, y, int threads=1):
        """Compute y (N, H', W', O) from x (N, H, W, C) and what is added to it, or None.

        All are C-contiguous, of the types that the layer was made for.
        """
        cdef Job job
        cdef char* at[3]
        if (x.itemsize != 1 or x.shape[3] != self.job.in_c or not x.flags.c_contiguous
                or not y.flags.c_contiguous or y.shape[3] != self.job.out_c
                or y.itemsize != self.job.y_item or x.shape[0] != y.shape[0]):
            raise ValueError(f"expected C-contiguous bytes (N, H, W, {self.job.in_c}) and a result "
                             f"(N, H, W, {self.job.out_c}), got {x.dtype} of shape {x.shape} "
                             f"and {y.dtype} of shape {y.shape}")
        if (residual is None) != (self.job.proto.finish.residual == CK_INT8_NONE) or (
                residual is not None and (residual.shape != y.shape
                                          or residual.itemsize != self.job.residual_item
                                          or not residual.flags.c_contiguous)):
            raise ValueError("expected the residual that the layer was made for, like its result")
        if not y.size:
            return
        self._describe(&job, x.shape[1], x.shape[2], y.shape[1], y.shape[2], None, None, None)
        at[0] = <char*>address(x)
        at[1] = <char*><size_t>(0 if residual is None else address(residual))
        at[2] = <char*>address(y)
        launch(run_step, scratch_size, &job, at, x.shape[0], threads)

    def step(self, in_size, out_size, x_pixel=None, y_pixel=None, residual_pixel=None):
        """Return the same as a step of a Program, with operands x, residual and y.

        Sizes are (height, width); pixels are numbers from one pixel to the next, where pixels
        are parts of wider ones.
        """
        cdef Job job
        self._describe(&job, in_size[0], in_size[1], out_size[0], out_size[1], x_pixel, y_pixel,
                       residual_pixel)
        return new_step(run_step, scratch_size, &job, sizeof(Job), self)


cdef Py_ssize_t _up(Py_ssize_t count, Py_ssize_t multiple):
    return (count + multiple - 1) // multiple * multiple


def _joined(weight, Py_ssize_t parts, Py_ssize_t group):
    """Return depthwise weights (C, kH, kW) as (C, parts * kW, group)."""
    channels, kernel_h, kernel_w = weight.shape
    full = np.zeros((channels, parts * group, kernel_w), np.int8)
    full[:, :kernel_h] = weight
    full = full.reshape(channels, parts, group, kernel_w).transpose(0, 1, 3, 2)
    return full.reshape(channels, parts * kernel_w, group)


def _walk_order(channels):
    """Return which channel is where in each block of 64 that walking kernels take.

    Lanes of 16 bytes hold 16 channels, and vector j of a tile's four those of index 4 j on. A last
    block of 32 or 16 channels, or fewer, holds them two or four times.
    """
    order = np.arange(CK_INT8_WALKED).reshape(4, 4, 4).transpose(1, 0, 2).reshape(-1)
    blocks = _up(channels, CK_INT8_WALKED) // CK_INT8_WALKED
    order = order + CK_INT8_WALKED * np.arange(blocks)[:, None]
    left = channels - CK_INT8_WALKED * (blocks - 1)
    order[-1] -= order[-1] % CK_INT8_WALKED - order[-1] % max(16, 1 << (left - 1).bit_length())
    return order.reshape(-1)


cdef Py_ssize_t _steps(Py_ssize_t k):
    """Return in how many steps of at most 64 bytes, if can be of whole words, tiles multiply k."""
    cdef Py_ssize_t least = _up(k, 64) // 64
    return least + 1 if k % (4 * least) and k % (4 * least + 4) == 0 else least


cdef _pack(form, Py_ssize_t groups, Py_ssize_t k, Py_ssize_t padded,
           const ck_int8_kernels* kernels):
    """Return weights (groups * O, ..., k in all) in tile order: (groups, blocks, bytes)."""
    cdef Py_ssize_t columns = len(form) // groups, batch = form[0].size // k
    cdef Py_ssize_t blocks = _up(columns, kernels.columns) // kernels.columns
    cdef Py_ssize_t group, first, begin, stop
    # A few blocks at a time: what they are made of then stays in the cache.
    cdef Py_ssize_t step = max(1, PACKED_AT_A_TIME // (kernels.columns * batch * padded))
    dtype = np.dtype(np.int8 if kernels.bytes == 1 else np.int16)
    packed = memory.empty((groups, blocks, batch * padded * dtype.itemsize // 4, kernels.columns),
                          np.int32)
    for group in range(groups):
        for first in range(0, blocks, step):
            count = min(step, blocks - first)
            begin, stop = first * kernels.columns, min((first + step) * kernels.columns, columns)
            full = np.zeros((count * kernels.columns, batch, padded), dtype)
            full[:stop - begin, :, :k] = form[group * columns + begin:group * columns + stop] \
                .reshape(stop - begin, batch, k)
            # Words of a group of values move as one.
            packed[group, first:first + count] = full.view(np.int32).reshape(
                count, kernels.columns, -1).transpose(0, 2, 1)
    cdef Py_ssize_t half = kernels.columns // 2
    if kernels.halves and columns - (blocks - 1) * kernels.columns <= half:
        narrow = packed[:, -1, :, :half].copy().reshape(groups, -1)
        packed[:, -1].reshape(groups, -1)[:, :narrow.shape[1]] = narrow
    return packed.reshape(groups, blocks, -1)


def _padded(values, groups, total):
    """Return one value per output channel laid out like the packed columns."""
    out = memory.empty((groups, total // groups), values.dtype)
    out[...] = 0
    out[:, :values.size // groups] = values.reshape(groups, -1)
    return out
