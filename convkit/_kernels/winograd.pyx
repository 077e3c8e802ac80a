"""Winograd convolution with stride 1: 3x3 kernels by F(2x2, 3x3) or F(4x4, 3x3), 5x5 by F(2x2, 5x5).

The output is cut into tiles; those of all samples are numbered in one row. For each tile the
input is transformed (n x n positions of C values, n = tile + taps - 1), every position is
multiplied with that position's transformed weights, and the products are transformed back,
with bias, residual and activation on the way. Everything of one tile is contiguous, so that
transforms write and read in order; the matrix product reads one position of up to 14 tiles
as the rows of its register tile.

A block of tiles goes through all three steps, some columns of the output at a time: its
transformed input and those columns' products stay in the second-level cache, and the
transformed weights, up to four times as large as the weights, stream by. Two ways, which give the
same bits: where there are many blocks, a task is a block, and transforms its input itself;
where there are few, the input of all is transformed first, and a task is a block and some of
the columns.

With a dilation of d, every d-th row and column is an image of its own (a phase) to which the
same kernels are applied undilated; tiles are numbered phase by phase.

A sum over channels is the same chain of multiply-adds wherever its tile lies, so neither the cut
into blocks nor the batch changes a bit of a sample's result.

Values beyond what the transforms can bear come back as a sample's peak: see `run`.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.gather cimport Gather, Gathered, add_pixels
from convkit._kernels.gemm cimport (ck_gemm_args, ck_gemm_fn, ck_gemm_kernels, choose_width,
                                    kernels_for, part_start)
from convkit._kernels.lookahead cimport LookAhead, aim, look_at, spread
from convkit._kernels.gemm import parts_of
from convkit._kernels.memory cimport empty, give, take
from convkit._kernels.runner cimport Step, new_step
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

cdef extern from "winograd.h" nogil:
    ctypedef struct ck_winograd_input_args:
        const float* x
        ptrdiff_t offset, row_step, pixel_step, row_from, row_to, col_from, col_to
        const float* zeros
        ptrdiff_t channels, tiles
        float* v
        ptrdiff_t position_step, tile_step
        int32_t* peak
    ctypedef struct ck_winograd_output_args:
        const float* m
        ptrdiff_t position_step, tile_step, channels
        float* y
        ptrdiff_t row_step, pixel_step, rows, cols
        const float* bias
        const float* residual
        int activation
        float alpha, beta
        int32_t* peak
    ctypedef struct ck_winograd_weights_args:
        const float* w
        ptrdiff_t column_step, depth_step
        int turned
        ptrdiff_t columns, depth
        float* u
        ptrdiff_t position_step, row
        int32_t* peak
    ctypedef struct ck_winograd_taps_args:
        const float* sums
        ptrdiff_t position_step, row, columns, depth
        float* w
        ptrdiff_t column_step, depth_step
        int32_t* peak
    ctypedef void (*ck_winograd_input_fn)(const ck_winograd_input_args*) noexcept nogil
    ctypedef struct ck_winograd_kernels:
        int tile, taps
        ck_winograd_input_fn input
        void (*output)(const ck_winograd_output_args*) noexcept nogil
        void (*weights)(const ck_winograd_weights_args*) noexcept nogil
        ck_winograd_input_fn gradient
        void (*to_taps)(const ck_winograd_taps_args*) noexcept nogil
    ctypedef struct ck_winograd_product_args:
        const float* v
        ptrdiff_t v_position, v_tile
        const float* u
        ptrdiff_t u_position
        float* m
        ptrdiff_t m_position, m_tile
        ptrdiff_t positions, depth
        const char* fetch[2]
        ptrdiff_t lines[2]
    ctypedef struct ck_winograd_table:
        int vector_length, tall_rows
        ck_gemm_fn tall
        void (*multiply[9])(const ck_winograd_product_args*) noexcept nogil
        ck_winograd_kernels forms[3]
    int CK_WINOGRAD_FORMS, CK_WINOGRAD_STRIP, CK_WINOGRAD_FEW

# Tiles of a block: two full register tiles or a little more, so that each position's weights
# are used twice; more would crowd the second-level cache.
cdef Py_ssize_t BLOCK_TILES = 28
# Longer sums over channels are cut into parts of at most so many, each rounded on its own: the
# error stops growing with the channels (half as large with 512), at 1% of the time.
cdef Py_ssize_t MOST_CHANNELS = 128
# Up to so many, into one vector of columns, a block has few tiles, multiplied in one call: with
# more, reading weights for so few costs more than calls do.
cdef Py_ssize_t FEW_CHANNELS = 32
# Bytes of products of a block that are held at a time.
cdef Py_ssize_t PRODUCT_BYTES = 128 << 10
# Transformed weights of this size stay in a second-level cache of one MiB or more; then blocks
# may be smaller, and a sample is cut into about this many.
cdef Py_ssize_t WEIGHT_BYTES = 640 << 10
cdef Py_ssize_t BLOCKS_PER_SAMPLE = 8
# Fewer blocks than this leave threads without work: their columns are cut too.
cdef Py_ssize_t LEAST_BLOCKS = 12
# Tiles that one task transforms where that is a step of its own.
cdef Py_ssize_t TRANSFORM_TILES = 4
# Depths that one task packs.
cdef Py_ssize_t PACK_DEPTHS = 64
# Sums below this are so near the ends of float32's range that transforms, which multiply by up
# to 2^7 and add up to 2^16 products, may have flushed what matters to zero (it stays below
# 2^-24 of the largest result above); what overflows shows as an infinity.
cdef float LEAST_SUM = 2.0**-60
# Numbers below this are denormal: kernels read them as zeros.
cdef float LEAST_NORMAL = 2.0**-126
cdef int32_t INFINITE_BITS = 0x7f800000
# Weights within these bounds are far enough from the ends of float32's range for the transforms.
cdef float LEAST_WEIGHT = 2.0**-20
cdef float MOST_WEIGHT = 2.0**20
# The same for the gradient of the weight: bounds on the output's gradient, and on the result.
cdef float LEAST_GRADIENT = 2.0**-96
cdef float MOST_GRADIENT = 2.0**20
cdef float LEAST_RESULT = 2.0**-50
# Rows of input that tiles side by side are made of stay in a first-level cache.
cdef Py_ssize_t STRIP_BYTES = 32 << 10
# Bytes of a cache line.
cdef Py_ssize_t LINE_BYTES = 64
# Scratch memory of this size lies in huge pages.
cdef Py_ssize_t HUGE_BYTES = 4 << 20


cdef object _FLOAT = np.dtype(np.float32)


cdef const ck_winograd_table* _table() noexcept nogil:
    return <const ck_winograd_table*>dispatch.table().winograd


cdef const ck_winograd_kernels* _form(int tile, int taps) except NULL:
    """Return the kernels of F(tile x tile, taps x taps)."""
    cdef int i
    for i in range(CK_WINOGRAD_FORMS):
        if _table().forms[i].tile == tile and _table().forms[i].taps == taps:
            return &_table().forms[i]
    raise ValueError(f"no transforms for F({tile}x{tile}, {taps}x{taps})")


cdef inline Py_ssize_t _side(const ck_winograd_kernels* kernels) noexcept nogil:
    """Return how many positions a transformed tile has on a side."""
    return kernels.tile + kernels.taps - 1


cdef inline Py_ssize_t _round_up(Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    return (n + step - 1) // step * step


# -- weights -------------------------------------------------------------------------------


cdef class Weights:
    """Transformed weights, packed in blocks of columns; made by `pack`.

    Within a block: for each position, for each depth, the block's columns side by side.
    """

    cdef readonly object array
    cdef readonly int tile, taps
    cdef readonly Py_ssize_t columns, depth
    cdef readonly float peak             # the largest absolute weight; infinity for NaN too
    cdef readonly float least            # sums below this may have lost something
    cdef Py_ssize_t block_columns, blocks, block_size, position_step
    cdef float* pointer

    def bearable(self):
        """Tell whether the transforms keep what is in the weights; nothing is in denormal ones."""
        return self.least == 0 or LEAST_WEIGHT <= self.peak <= MOST_WEIGHT


cdef struct PackJob:
    const ck_winograd_kernels* kernels
    ck_winograd_weights_args proto
    Py_ssize_t blocks, block_columns, block_size, vector
    float* u
    int32_t* peaks
    Py_ssize_t begin                     # the first block to pack


cdef void _pack_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform a run of depths of one block of columns."""
    cdef PackJob* job = <PackJob*>ctx
    cdef ck_winograd_weights_args args = job.proto
    cdef Py_ssize_t block = index % job.blocks + job.begin
    cdef Py_ssize_t first = index // job.blocks * PACK_DEPTHS
    cdef Py_ssize_t column = block * job.block_columns
    args.columns = min(job.block_columns, job.proto.columns - column)
    args.row = _round_up(args.columns, job.vector)
    args.depth = min(PACK_DEPTHS, job.proto.depth - first)
    args.w += column * args.column_step + first * args.depth_step
    args.u = job.u + block * job.block_size + first * args.row
    args.peak = job.peaks + index * job.vector
    job.kernels.weights(&args)


def pack(source, int tile, int taps, Py_ssize_t columns, Py_ssize_t depth, Py_ssize_t column_step,
         Py_ssize_t depth_step, bint turned, int threads):
    """Transform and pack weights.

    Parameters
    ----------
    source : ndarray of float32, or what `gemm.parts_of` takes
        C-contiguous; the taps of (column, depth) start at ``column * column_step +
        depth * depth_step`` of the flat array.
    tile, taps : int
        2 or 4 and 3, or 2 and 5: pixels of a tile's side, and taps of the kernels'.
    columns, depth : int
        Output and input channels.
    column_step, depth_step : int
    turned : bool
        Whether the kernels are turned by 180 degrees, as the gradient of the input wants.
    threads : int

    Returns
    -------
    Weights
    """
    cdef PackJob job
    cdef Weights weights = _start_packing(&job, _form(tile, taps), columns, depth, column_step,
                                          depth_step, turned)
    cdef Py_ssize_t runs = _runs(depth), tasks = weights.blocks * runs
    peaks = np.zeros((tasks, job.vector), np.int32)
    cdef int team = threads_for(threads, tasks, _packing_work(weights))
    cdef bint by_columns = column_step >= depth_step and source.shape[0] == columns
    for first, part in parts_of(source, weights.block_columns if by_columns else 0):
        job.proto.w = <const float*>(address(part) - <size_t>(first * column_step * 4))
        job.begin = first // weights.block_columns
        job.blocks = weights.blocks
        if by_columns:
            job.blocks = (len(part) + weights.block_columns - 1) // weights.block_columns
        job.peaks = <int32_t*>address(peaks) + job.begin * runs * job.vector
        tasks = job.blocks * runs
        with nogil:
            parallel_for(_pack_task, &job, tasks, team)
    return _with_peak(weights, <int32_t*>address(peaks), peaks.size)


cdef inline Py_ssize_t _runs(Py_ssize_t depth) noexcept nogil:
    """Return how many tasks pack a block of columns."""
    return (depth + PACK_DEPTHS - 1) // PACK_DEPTHS


cdef inline double _packing_work(Weights weights):
    return <double>weights.blocks * weights.block_size * 2


cdef Weights _start_packing(PackJob* job, const ck_winograd_kernels* kernels, Py_ssize_t columns,
                            Py_ssize_t depth, Py_ssize_t column_step, Py_ssize_t depth_step,
                            bint turned):
    """Describe the packing of all blocks, but for where weights and peaks lie; return its target."""
    cdef Py_ssize_t positions = _side(kernels) * _side(kernels), vector = _table().vector_length
    cdef Weights weights = Weights.__new__(Weights)
    weights.tile = kernels.tile
    weights.taps = kernels.taps
    weights.columns = columns
    weights.depth = depth
    weights.block_columns = vector * choose_width(kernels_for(4), 1 << 20, columns)
    weights.blocks = (columns + weights.block_columns - 1) // weights.block_columns
    # One vector more, so that the positions' stores fall into different sets of a cache.
    weights.position_step = depth * weights.block_columns + vector
    weights.block_size = positions * weights.position_step
    weights.array = empty((weights.blocks * weights.block_size,), _FLOAT)
    weights.pointer = <float*>address(weights.array)
    job.kernels = kernels
    job.block_columns = weights.block_columns
    job.block_size = weights.block_size
    job.vector = vector
    job.blocks = weights.blocks
    job.begin = 0
    job.u = weights.pointer
    job.proto.column_step = column_step
    job.proto.depth_step = depth_step
    job.proto.turned = turned
    job.proto.columns = columns
    job.proto.depth = depth
    job.proto.position_step = weights.position_step
    return weights


cdef Weights _with_peak(Weights weights, const int32_t* bits, Py_ssize_t count):
    """Return packed weights, after a look at the largest of them."""
    weights.peak = _largest(bits, count)
    weights.least = LEAST_SUM
    if weights.peak < LEAST_NORMAL:
        weights.array.fill(0)
        weights.least = 0    # sums of zeros are what they should be
    return weights


cdef float _largest(const int32_t* bits, Py_ssize_t count) noexcept nogil:
    """Return the largest of float32 numbers given by their bits, infinity where that is a NaN."""
    cdef int32_t largest = 0
    cdef float value
    cdef Py_ssize_t i
    for i in range(count):
        largest = max(largest, bits[i])
    largest = min(largest, INFINITE_BITS)
    memcpy(&value, &largest, sizeof(value))
    return value


# -- convolution ---------------------------------------------------------------------------


# An image whose tiles are transformed: the input, or the output's gradient.
cdef struct Source:
    ck_winograd_input_fn transform
    ck_winograd_input_args proto
    Py_ssize_t height, width, channels
    Py_ssize_t pixel                      # floats from one pixel to the next
    Py_ssize_t top, left                  # where the first tile begins
    Py_ssize_t size                       # pixels of a tile's side
    Py_ssize_t tile                       # pixels from one tile to the next
    Py_ssize_t apart_h, apart_w           # from one pixel of a tile to the next: the dilation
    Py_ssize_t tiles_h, tiles_w           # tiles in a column and in a row of a phase
    Py_ssize_t per_sample                 # tiles of a sample
    Py_ssize_t strip                      # tiles side by side that are transformed together, at most
    Py_ssize_t step                       # floats from one transformed tile to the next


# Where a tile lies: its phase, and its row and column among the phase's tiles.
cdef struct Place:
    Py_ssize_t sample, phase_h, row, phase_w, col


cdef inline Place _place(const Source* source, Py_ssize_t tile) noexcept nogil:
    cdef Place place
    place.col = tile % source.tiles_w
    tile //= source.tiles_w
    place.phase_w = tile % source.apart_w
    tile //= source.apart_w
    place.row = tile % source.tiles_h
    tile //= source.tiles_h
    place.phase_h = tile % source.apart_h
    place.sample = tile // source.apart_h
    return place


cdef inline Py_ssize_t _beside(const Source* source, const Place* place, Py_ssize_t tiles) noexcept nogil:
    """Return how many of the next tiles, at most `tiles`, lie side by side."""
    return min(tiles, source.tiles_w - place.col)


cdef inline void _move(const Source* source, Place* place, Py_ssize_t tiles) noexcept nogil:
    """Go on to the tile after some side by side; divisions for each would cost as much as a small
    transform."""
    place.col += tiles
    if place.col == source.tiles_w:
        place.col = 0
        place.phase_w += 1
        if place.phase_w == source.apart_w:
            place.phase_w = 0
            place.row += 1
            if place.row == source.tiles_h:
                place.row = 0
                place.phase_h += 1
                if place.phase_h == source.apart_h:
                    place.phase_h = 0
                    place.sample += 1


cdef inline Py_ssize_t _first_row(const Source* source, const Place* place) noexcept nogil:
    """Return the row of the tile's first output."""
    return place.row * source.tile * source.apart_h + place.phase_h


cdef inline Py_ssize_t _first_col(const Source* source, const Place* place) noexcept nogil:
    return place.col * source.tile * source.apart_w + place.phase_w


cdef inline Py_ssize_t _steps(Py_ssize_t room, Py_ssize_t apart) noexcept nogil:
    """Return how many pixels, `apart` from each other, lie in `room` from the first on."""
    return 0 if room <= 0 else room if apart == 1 else (room + apart - 1) // apart


cdef void _transform(const Source* source, Py_ssize_t first, Py_ssize_t last, float* v,
                     int32_t* peak) noexcept nogil:
    """Transform tiles [first, last); the first goes to `v`."""
    cdef ck_winograd_input_args args = source.proto
    cdef Place place = _place(source, first)
    cdef Py_ssize_t row, col
    args.peak = peak
    while first < last:
        row = _first_row(source, &place) + source.top
        col = _first_col(source, &place) + source.left
        args.tiles = _beside(source, &place, min(last - first, source.strip))
        args.offset = ((place.sample * source.height + row) * source.width + col) \
            * source.pixel
        args.row_from = _steps(-row, source.apart_h)
        args.row_to = _steps(source.height - row, source.apart_h)
        args.col_from = _steps(-col, source.apart_w)
        args.col_to = _steps(source.width - col, source.apart_w)
        args.v = v
        source.transform(&args)
        v += args.tiles * source.step
        first += args.tiles
        _move(source, &place, args.tiles)


cdef inline Py_ssize_t _apart(Py_ssize_t floats) noexcept nogil:
    """Return so many floats, or a vector more where they would be an even number of cache lines:
    what lies so far apart falls into different sets of a cache."""
    cdef Py_ssize_t vector = _table().vector_length
    floats = _round_up(floats, vector)
    return floats if 4 * floats % (2 * LINE_BYTES) else floats + vector


cdef Source _source(shape, const ck_winograd_kernels* kernels, bint gradient, Py_ssize_t top,
                    Py_ssize_t left, out_size, dilation, x_pixel=None):
    """Describe the tiles of the input, or of the output's gradient, that make `out_size` outputs.

    `shape` is that of a sample, (H, W, C).
    """
    cdef Source source
    cdef Py_ssize_t tile = kernels.tile
    source.height, source.width, source.channels = shape
    source.pixel = source.channels if x_pixel is None else x_pixel
    source.transform = kernels.gradient if gradient else kernels.input
    source.size = tile if gradient else _side(kernels)
    source.top, source.left, source.tile = top, left, tile
    source.apart_h, source.apart_w = dilation
    source.tiles_h = (_steps(out_size[0], source.apart_h) + tile - 1) // tile
    source.tiles_w = (_steps(out_size[1], source.apart_w) + tile - 1) // tile
    source.per_sample = source.apart_h * source.tiles_h * source.apart_w * source.tiles_w
    source.proto.row_step = source.apart_h * source.width * source.pixel
    source.proto.pixel_step = source.apart_w * source.pixel
    source.proto.channels = source.channels
    source.proto.position_step = _apart(source.channels)
    source.step = source.proto.tile_step = _side(kernels) * _side(kernels) * source.proto.position_step
    source.strip = STRIP_BYTES // max(<Py_ssize_t>1, 4 * source.channels * source.size) - source.size
    source.strip = max(<Py_ssize_t>1, min(<Py_ssize_t>CK_WINOGRAD_STRIP, source.strip // tile + 1))
    return source


cdef struct Job:
    const ck_winograd_kernels* kernels
    const ck_gemm_kernels* gemm
    Source source
    ck_winograd_output_args output
    ck_gemm_args product
    Py_ssize_t vector, tile, positions
    Py_ssize_t out_h, out_w, out_c
    Py_ssize_t y_pixel                    # floats from one pixel to the next, residual too
    int together                          # 0, 1, or -1 for what suits
    Py_ssize_t samples, tasks
    Py_ssize_t tiles                      # of a block, at most
    Py_ssize_t total                      # tiles in all
    float least                           # see Weights
    const float* u
    Py_ssize_t block_columns, blocks, block_size, weight_step
    Py_ssize_t m_step, m_tile             # floats between positions and between tiles
    Py_ssize_t chunk                      # blocks of columns whose products are held at once
    Py_ssize_t chunks
    Py_ssize_t parts                      # of a sum over channels
    Py_ssize_t tile_blocks                # blocks of tiles
    float* v                              # of all tiles, or of each thread's block
    char* m                               # of each thread's block
    Py_ssize_t v_bytes, m_bytes           # from one thread's to the next
    int team
    bint whole                            # whether a task takes all columns of its tiles
    bint stream                           # whether weights come from beyond the cache
    bint few                              # whether a block's products are one call
    Gather* gathered                      # or NULL; a part is a block of tiles
    int32_t* peaks
    Py_ssize_t span                       # samples that one task's tiles belong to, at most


cdef void _multiply(Job* job, Py_ssize_t count, const float* v, float* m,
                    Py_ssize_t block, LookAhead* ahead) noexcept nogil:
    """Multiply all positions of `count` tiles with one block of columns of the weights.

    `m` is where the first tile's products of this block begin.
    """
    cdef ck_gemm_args args = job.product
    cdef Py_ssize_t columns = min(job.block_columns, job.out_c - block * job.block_columns)
    cdef int nv = <int>((columns + job.vector - 1) // job.vector)
    cdef Py_ssize_t rows = (count + job.gemm.max_mr[nv] - 1) // job.gemm.max_mr[nv]
    cdef Py_ssize_t channels = job.source.channels, p, k, part, i, t, end
    cdef Py_ssize_t height = count // rows, taller = count % rows
    args.n = <int>(nv * job.vector)
    args.ldb = args.n
    for p in range(job.positions):
        k = 0
        for part in range(job.parts):
            args.b = job.u + block * job.block_size + p * job.weight_step + k * args.ldb
            args.k = part_start(channels, job.parts, part + 1) - k if job.parts > 1 else channels
            args.accumulate = part > 0
            t = 0
            for i in range(rows):
                end = t + height + (i < taller)
                args.a = v + t * job.source.step + p * job.source.proto.position_step + k
                args.c = m + t * job.m_tile + p * job.m_step
                if job.stream and i < 2:
                    # The next weights, half with each of the first two tiles.
                    args.fetch = <const char*>args.b + args.ldb * args.k * (i + 2) * 2
                    args.fetch_step = 2 * args.ldb
                else:
                    aim(ahead, &args)
                job.gemm.plain[nv][end - t](&args)
                t = end
            k += args.k


cdef void _multiply_few(Job* job, Py_ssize_t first, Py_ssize_t last, const float* v,
                        float* m) noexcept nogil:
    """Do the same at once for few tiles and one vector of columns.

    Meanwhile about what the block will write, and what as many tiles after it will read, is
    fetched.
    """
    cdef const Source* source = &job.source
    cdef ck_winograd_product_args args
    cdef Place a = _place(source, first), b = _place(source, last)
    cdef Py_ssize_t to = a.sample * job.out_h + _first_row(source, &a)
    cdef Py_ssize_t from_ = b.sample * source.height + _first_row(source, &b)
    cdef double share = <double>(last - first) / source.per_sample / job.positions / LINE_BYTES * 4
    args.v = v
    args.v_position = source.proto.position_step
    args.v_tile = source.step
    args.u = job.u
    args.u_position = job.weight_step
    args.m = m
    args.m_position = job.m_step
    args.m_tile = job.m_tile
    args.positions = job.positions
    args.depth = source.channels
    args.fetch[0] = <const char*>(job.output.y + to * job.out_w * job.y_pixel)
    args.lines[0] = <Py_ssize_t>(share * job.out_h * job.out_w * job.y_pixel) + 1
    args.fetch[1] = <const char*>(source.proto.x + from_ * source.width * source.pixel)
    args.lines[1] = <Py_ssize_t>(share * source.height * source.width * source.pixel) + 1
    _table().multiply[last - first](&args)


cdef void _look_ahead(Job* job, Py_ssize_t tile_block, Py_ssize_t chunk,
                      LookAhead* ahead) noexcept nogil:
    """Plan to fetch what this block will write, and what this thread's next block will read."""
    cdef const Source* source = &job.source
    cdef Py_ssize_t first = part_start(job.total, job.tile_blocks, tile_block)
    cdef Py_ssize_t last = part_start(job.total, job.tile_blocks, tile_block + 1) - 1
    cdef Place a = _place(source, first), b = _place(source, last)
    cdef Py_ssize_t row = job.out_w * job.y_pixel * 4
    cdef const char* base = <const char*>job.output.y
    cdef Py_ssize_t begin = a.sample * job.out_h + _first_row(source, &a)
    cdef Py_ssize_t reach = job.tile * source.apart_h
    cdef Py_ssize_t end = b.sample * job.out_h + min(job.out_h, _first_row(source, &b) + reach)
    cdef Py_ssize_t blocks = min(job.chunk, job.blocks - chunk * job.chunk)
    ahead.count = 0
    if chunk == 0:
        # All columns of the output: the block's later chunks write between those of the first.
        look_at(ahead, base + begin * row, (end - begin) * row, base, base + end * row)
        tile_block += job.team
        if job.whole and tile_block < job.tile_blocks:
            first = part_start(job.total, job.tile_blocks, tile_block)
            last = part_start(job.total, job.tile_blocks, tile_block + 1) - 1
            a = _place(source, first)
            b = _place(source, last)
            row = source.width * source.pixel * 4
            base = <const char*>source.proto.x
            reach = source.top + source.size * source.apart_h
            begin = a.sample * source.height + max(0, _first_row(source, &a) + source.top)
            end = b.sample * source.height + min(source.height, _first_row(source, &b) + reach)
            look_at(ahead, base + begin * row, (end - begin) * row, base, base + end * row)
    spread(ahead, blocks * job.positions * job.parts * ((last - first + 14) // 14),
           source.channels // job.parts)


cdef void _transform_output(Job* job, Py_ssize_t tile_block, const float* m, Py_ssize_t column,
                            Py_ssize_t columns, int32_t* peaks) noexcept nogil:
    """Transform columns of a block of tiles back; the first tile's products are at `m`.

    `peaks` has one vector for each sample from that of the first tile on.
    """
    cdef ck_winograd_output_args args = job.output
    cdef Py_ssize_t first = part_start(job.total, job.tile_blocks, tile_block)
    cdef Py_ssize_t last = part_start(job.total, job.tile_blocks, tile_block + 1)
    cdef Place place = _place(&job.source, first)
    cdef Py_ssize_t first_sample = place.sample
    cdef Py_ssize_t row, col, at, tiles
    cdef bint begin = True
    args.channels = columns
    args.bias = job.output.bias + column if job.output.bias != NULL else NULL
    while first < last:
        row = _first_row(&job.source, &place)
        col = _first_col(&job.source, &place)
        at = ((place.sample * job.out_h + row) * job.out_w + col) * job.y_pixel + column
        tiles = _beside(&job.source, &place, last - first)
        args.m = m
        args.rows = min(job.tile, _steps(job.out_h - row, job.source.apart_h))
        args.cols = min(job.tile * tiles, _steps(job.out_w - col, job.source.apart_w))
        args.y = job.output.y + at
        args.residual = job.output.residual + at if job.output.residual != NULL else NULL
        args.peak = peaks + (place.sample - first_sample) * job.vector
        job.kernels.output(&args)
        if job.gathered != NULL and args.rows > 0 and args.cols > 0:
            add_pixels(job.gathered, tile_block, begin, column, columns, <const char*>args.y, args.rows,
                   args.cols, args.row_step, args.pixel_step)
            begin = False
        m += tiles * job.m_tile
        first += tiles
        _move(&job.source, &place, tiles)


cdef void _columns(Job* job, Py_ssize_t tile_block, Py_ssize_t chunk, const float* v,
                   int slot, int32_t* peaks) noexcept nogil:
    """Multiply one block of tiles with one chunk of columns and transform back."""
    cdef Py_ssize_t first = part_start(job.total, job.tile_blocks, tile_block)
    cdef Py_ssize_t last = part_start(job.total, job.tile_blocks, tile_block + 1)
    cdef Py_ssize_t b, block = chunk * job.chunk
    cdef Py_ssize_t end = min(block + job.chunk, job.blocks)
    cdef Py_ssize_t column = block * job.block_columns
    cdef float* m = <float*>(job.m + slot * job.m_bytes)
    cdef LookAhead ahead
    if job.few:
        _multiply_few(job, first, last, v, m)
    else:
        _look_ahead(job, tile_block, chunk, &ahead)
        for b in range(block, end):
            _multiply(job, last - first, v, m + (b - block) * job.block_columns, b, &ahead)
    _transform_output(job, tile_block, m, column,
                      min(end * job.block_columns, job.out_c) - column, peaks)


cdef void _block_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Take one block of tiles through all steps."""
    cdef Job* job = <Job*>ctx
    cdef float* v = <float*>(<char*>job.v + slot * job.v_bytes)
    cdef Py_ssize_t chunk
    _transform(&job.source, part_start(job.total, job.tile_blocks, index),
               part_start(job.total, job.tile_blocks, index + 1), v, NULL)
    for chunk in range(job.chunks):
        _columns(job, index, chunk, v, slot, job.peaks + index * job.span * job.vector)


cdef void _input_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform the input of a few tiles."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t first = index * TRANSFORM_TILES
    _transform(&job.source, first, min(first + TRANSFORM_TILES, job.total),
               job.v + first * job.source.step, NULL)


cdef void _columns_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Take one chunk of columns of one block of tiles through the other steps."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t tile_block = index // job.chunks
    cdef Py_ssize_t first = part_start(job.total, job.tile_blocks, tile_block)
    _columns(job, tile_block, index % job.chunks, job.v + first * job.source.step, slot,
             job.peaks + index * job.span * job.vector)


cdef const float* _address(array):
    return NULL if array is None else <const float*>address(array)


cdef Py_ssize_t _block_tiles(const Job* job) noexcept nogil:
    """Return how many tiles a block should have."""
    cdef Py_ssize_t rows = job.gemm.max_mr[job.block_columns // job.vector]
    cdef Py_ssize_t tiles = _round_up(BLOCK_TILES, rows), share
    if job.few:
        return CK_WINOGRAD_FEW
    if not job.stream:
        share = (job.source.per_sample + BLOCKS_PER_SAMPLE - 1) // BLOCKS_PER_SAMPLE
        tiles = min(tiles, _round_up(share, rows))
    return tiles


cdef Job _describe(x_shape, Weights weights, y_shape, Py_ssize_t top, Py_ssize_t left, dilation,
                   int activation, double alpha, double beta, int together,
                   x_pixel=None) except *:
    """Describe a convolution between samples of two shapes, without their data."""
    cdef Job job
    job.out_h, job.out_w, job.out_c = y_shape
    job.y_pixel = job.out_c
    job.together = together
    job.gathered = NULL
    job.kernels = _form(weights.tile, weights.taps)
    job.gemm = kernels_for(4)
    job.vector = _table().vector_length
    job.tile = weights.tile
    job.positions = _side(job.kernels) * _side(job.kernels)
    job.source = _source(x_shape, job.kernels, False, top, left, (job.out_h, job.out_w), dilation,
                         x_pixel)
    _use(&job, weights)
    job.parts = (job.source.channels + MOST_CHANNELS - 1) // MOST_CHANNELS
    job.output.activation = activation
    job.output.alpha = alpha
    job.output.beta = beta
    memset(&job.product, 0, sizeof(ck_gemm_args))
    job.product.batch = 1
    job.product.k = job.source.channels // job.parts
    job.product.lda = job.source.step
    return job


cdef void _use(Job* job, Weights weights) noexcept:
    """Take transformed weights."""
    job.least = weights.least
    job.u = weights.pointer
    job.block_columns = weights.block_columns
    job.blocks = weights.blocks
    job.block_size = weights.block_size
    job.weight_step = weights.position_step
    job.stream = job.blocks * job.block_size * 4 > WEIGHT_BYTES
    job.few = job.out_c <= job.vector and job.source.channels <= FEW_CHANNELS


cdef size_t _for_samples(Job* job, Py_ssize_t samples, int threads) noexcept nogil:
    """Cut the work of so many samples; return how many bytes of scratch it takes.

    These are the samples' peaks, the tasks' peaks, and what `_run_job` says.
    """
    cdef double work
    job.samples = samples
    job.total = samples * job.source.per_sample
    job.tiles = min(_block_tiles(job), job.total)
    job.tile_blocks = (job.total + job.tiles - 1) // job.tiles
    job.whole = job.tile_blocks >= LEAST_BLOCKS if job.together < 0 else job.together
    job.chunk = PRODUCT_BYTES // (4 * job.positions * job.tiles * job.block_columns)
    job.chunk = max(<Py_ssize_t>1, min(job.blocks, job.chunk))
    job.chunks = (job.blocks + job.chunk - 1) // job.chunk
    job.m_step = _apart(min(job.chunk * job.block_columns, job.out_c))
    job.m_tile = job.positions * job.m_step
    # A block of `tiles` tiles may begin with the last tile of a sample.
    job.span = (job.tiles + job.source.per_sample - 2) // job.source.per_sample + 1
    job.tasks = job.tile_blocks * (1 if job.whole else job.chunks)
    work = <double>job.total * job.positions * job.source.channels * job.out_c / job.vector
    job.team = threads_for(threads, job.tasks, work)
    job.v_bytes = job.tiles * job.source.step * 4
    job.m_bytes = job.tiles * job.m_tile * 4
    job.output.position_step = job.m_step
    job.output.tile_step = job.m_tile
    job.output.row_step = job.source.apart_h * job.out_w * job.y_pixel
    job.output.pixel_step = job.source.apart_w * job.y_pixel
    job.product.ldc = job.m_tile
    return max(<size_t>HUGE_BYTES, _peak_bytes(job) + _all_v(job) + job.team * job.m_bytes
               + _round_up(job.source.channels, job.vector) * 4)


cdef inline size_t _peak_bytes(const Job* job) noexcept nogil:
    """Bytes of the samples' peaks, then of the tasks'."""
    return _round_up(4 * job.samples, 64) + _round_up(4 * job.tasks * job.span * job.vector, 64)


cdef inline size_t _all_v(const Job* job) noexcept nogil:
    """Bytes of transformed tiles: of each thread's block, or of all."""
    return job.team * job.v_bytes if job.whole else job.total * job.source.step * 4


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    return _for_samples(&job, samples, threads)


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    """Convolve; leave each sample's peak in the first floats of the scratch memory.

    Returns 1 where one of them is not between the weights' `least` and infinity.
    """
    cdef Job job = (<const Job*>params)[0]
    cdef ptrdiff_t no_offset = 0
    cdef Py_ssize_t i, zeros = _round_up(job.source.channels, job.vector) * 4
    _for_samples(&job, samples, threads)
    job.source.proto.x = <const float*>at[0]
    job.output.bias = <const float*>at[1]
    job.output.residual = <const float*>at[2]
    job.output.y = <float*>at[3]
    job.product.a_offsets = &no_offset
    memset(scratch, 0, _peak_bytes(&job))
    job.peaks = <int32_t*>(scratch + _round_up(4 * samples, 64))
    job.v = <float*>(scratch + _peak_bytes(&job))
    job.m = <char*>job.v + _all_v(&job)
    job.source.proto.zeros = <const float*>(job.m + job.team * job.m_bytes)
    memset(job.m + job.team * job.m_bytes, 0, zeros)
    if job.whole:
        parallel_for(_block_task, &job, job.tasks, job.team)
    else:
        parallel_for(_input_task, &job, (job.total + TRANSFORM_TILES - 1) // TRANSFORM_TILES,
                     job.team)
        parallel_for(_columns_task, &job, job.tasks, job.team)
    _sample_peaks(&job, <int32_t*>scratch)
    for i in range(samples):
        if not job.least <= (<float*>scratch)[i] < INFINITY:
            return 1
    return 0


def run(x, Weights weights, y, Py_ssize_t top, Py_ssize_t left, dilation=(1, 1), *, bias=None,
        residual=None, int activation=0, double alpha=0, double beta=0, Gathered gathered=None,
        int threads=1, together=None):
    """Convolve: ``y[i, j] = sum over r, s of x[i + r * dilation[0] + top,
    j + s * dilation[1] + left] @ weights[r, s]`` with zeros outside x, then bias, residual and
    activation.

    Parameters
    ----------
    x : ndarray (N, H, W, C) of float32
        C-contiguous.
    weights : Weights
    y : ndarray (N, H', W', O) of float32
        Output, C-contiguous.
    top, left : int
        Where the first output's taps begin in x; minus the padding.
    dilation : (int, int)
    bias : ndarray (O,), optional
    residual : ndarray like y, optional
        Added before the activation; must not share memory with y.
    activation, alpha, beta
        As in c/gemm.h.
    gathered : Gathered, optional
        What the result's moments are gathered in.
    threads : int
    together : bool, optional
        Whether a task takes all columns of a block of tiles; by default where there are
        blocks enough. Same bits.

    Returns
    -------
    ndarray (N,) of float32
        Each sample's largest absolute sum before bias, residual and activation; infinity
        where one is infinite or NaN. Transforms mix the values of a tile: an infinity spreads
        through it, differences of values near the ends of float32's range overflow or
        vanish. A sample whose peak tells of that is to be computed in another way.
    """
    cdef Py_ssize_t samples = x.shape[0]
    if not y.size:
        return np.zeros(samples, np.float32)
    cdef Job job = _describe(x.shape[1:], weights, y.shape[1:], top, left, dilation, activation,
                             alpha, beta, -1 if together is None else together)
    _gather_in(&job, gathered, samples, threads)
    return _convolve(&job, x, bias, residual, y, samples, threads, True)


cdef _gather_in(Job* job, Gathered gathered, Py_ssize_t samples, int threads):
    """Have the result's moments gathered, where they are wanted."""
    if gathered is not None:
        _for_samples(job, samples, threads)
        job.gathered = gathered.begin(job.tile_blocks, job.out_c, 4)


cdef object _convolve(const Job* job, x, bias, residual, y, Py_ssize_t samples, int threads,
                      bint always):
    """Convolve; return the samples' peaks, or None unless `always` where all are well."""
    cdef char* at[4]
    cdef size_t size
    cdef char* scratch
    cdef bint told = False
    cdef object peaks = None
    at[0], at[1] = <char*>_address(x), <char*>_address(bias)
    at[2], at[3] = <char*>_address(residual), <char*>_address(y)
    with nogil:
        size = scratch_size(job, samples, threads)
        scratch = <char*>take(size)
        if scratch != NULL:
            told = run_step(job, at, samples, threads, scratch)
    if scratch == NULL:
        raise MemoryError(f"no memory for {size} bytes of scratch")
    if told or always:
        peaks = np.empty(samples, np.float32)
        memcpy(<void*>address(peaks), scratch, 4 * samples)
    give(scratch, size)
    return peaks


cdef class Convolution:
    """A problem's convolution, of which only what depends on the call is left to work out.

    Parameters
    ----------
    x_shape, y_shape : (int, int, int)
        Height, width and channels of a sample.
    samples : int
    packing : tuple
        Tile, taps, columns, depth, column step, depth step and turned, as for `pack`.
    top, left, dilation
        As for `run`.
    key : object
        Under which a dictionary keeps transformed weights.
    redo : callable
        ``redo(peaks, weights, x, weight, y, cache, threads, epilogue)`` computes in another way
        samples that the transforms cannot bear: those that `outside` names, or where `peaks`
        is None all.
    """

    cdef Job _job
    cdef Py_ssize_t _samples, _column_step, _depth_step
    cdef bint _turned
    cdef object _key, _redo

    def __init__(self, tuple x_shape, tuple y_shape, Py_ssize_t samples, tuple packing,
                 Py_ssize_t top, Py_ssize_t left, dilation, key, redo):
        cdef Weights form = Weights()
        (form.tile, form.taps, form.columns, form.depth, self._column_step, self._depth_step,
         self._turned) = packing
        self._key, self._redo = key, redo
        self._samples = samples if y_shape[0] * y_shape[1] else 0
        self._job = _describe(x_shape, form, y_shape, top, left, dilation, 0, 0, 0, -1)

    def __call__(self, x, weight, y, cache, int threads, *, bias=None, residual=None,
                 int activation=0, double alpha=0, double beta=0, Gathered gathered=None):
        """Write the convolution of `x` into `y`; see `run`."""
        cdef Weights weights = self._weights(weight, cache, threads)
        cdef object peaks = None
        cdef Job job = self._job
        if not self._samples:
            return
        if weights.bearable():
            _use(&job, weights)
            job.output.activation, job.output.alpha, job.output.beta = activation, alpha, beta
            _gather_in(&job, gathered, self._samples, threads)
            peaks = _convolve(&job, x, bias, residual, y, self._samples, threads, False)
            if peaks is None:
                return
        self._redo(peaks, weights, x, weight, y, cache, threads, {
            "bias": bias, "residual": residual, "activation": activation, "alpha": alpha,
            "beta": beta, "gathered": gathered})

    cdef Weights _weights(self, weight, cache, int threads):
        """Return transformed weights: those that the cache has, or new ones."""
        cdef object known = None if cache is None else cache.get(self._key)
        cdef PackJob job
        cdef Weights weights
        cdef Py_ssize_t tasks
        cdef size_t size
        if known is not None:
            return known
        weights = _start_packing(&job, self._job.kernels, self._job.out_c, self._job.source.channels,
                                 self._column_step, self._depth_step, self._turned)
        tasks = weights.blocks * _runs(weights.depth)
        size = tasks * job.vector * sizeof(int32_t)
        job.proto.w = _address(weight)
        job.peaks = <int32_t*>take(size)
        if job.peaks == NULL:
            raise MemoryError(f"no memory for {size} bytes of scratch")
        memset(job.peaks, 0, size)
        cdef int team = threads_for(threads, tasks, _packing_work(weights))
        with nogil:
            parallel_for(_pack_task, &job, tasks, team)
        _with_peak(weights, job.peaks, tasks * job.vector)
        give(job.peaks, size)
        if cache is not None:
            cache[self._key] = weights
        return weights


def step(x_shape, Weights weights, y_shape, Py_ssize_t top, Py_ssize_t left, recover, *,
         dilation=(1, 1), int activation=0, double alpha=0, double beta=0, x_pixel=None,
         y_pixel=None):
    """Return the same as a step of a Program, with operands x, bias, residual and y.

    Parameters
    ----------
    x_shape, y_shape : (int, int, int)
        Height, width and channels of a sample.
    recover : callable
        Called, with the operands' addresses, where a sample's peak is not between the bounds
        of `outside`; the peaks are the first floats of the scratch memory.
    x_pixel, y_pixel : int, optional
        Numbers from one pixel to the next, where pixels are parts of wider ones.
    others
        As for `run`.
    """
    cdef Job job = _describe(x_shape, weights, y_shape, top, left, dilation, activation, alpha,
                             beta, -1, x_pixel)
    job.y_pixel = job.out_c if y_pixel is None else y_pixel
    cdef Step step = new_step(run_step, scratch_size, &job, sizeof(Job), weights)
    step.recover = recover
    return step


cdef void _sample_peaks(Job* job, int32_t* of_sample) noexcept nogil:
    """Set the bits of each sample's largest peak; infinity where they are those of a NaN."""
    cdef int32_t* lanes = job.peaks
    cdef Py_ssize_t task, k, i, first, sample
    for task in range(job.tasks):
        first = part_start(job.total, job.tile_blocks, task * job.tile_blocks // job.tasks)
        for k in range(job.span):
            sample = first // job.source.per_sample + k
            if sample < job.samples:
                for i in range(job.vector):
                    of_sample[sample] = min(max(of_sample[sample], lanes[i]), INFINITE_BITS)
            lanes += job.vector


def outside(peaks, Weights weights):
    """Return the indices of samples whose peaks tell that another way must compute them."""
    cdef const float* values = _address(peaks)
    cdef Py_ssize_t i, count = len(peaks)
    return [i for i in range(count) if not weights.least <= values[i] < INFINITY]


# -- gradient of the weight ----------------------------------------------------------------

# Bytes of transformed tiles that are multiplied together: as little as a second-level cache
# holds where the sums stay there too, else twice as many as those of the sums, which every
# stage loads and stores; but no more than a third-level cache holds.
cdef Py_ssize_t LEAST_STAGE_BYTES = 1 << 20
cdef Py_ssize_t MOST_STAGE_BYTES = 8 << 20
# A stage has at most so many tiles: a tile of the result that reduces over so many spends little
# on being loaded and stored.
cdef Py_ssize_t MOST_STAGE_TILES = 512
# Bytes of a part's stage, and of its sums at most: together in a second-level cache.
cdef Py_ssize_t PART_BYTES = 768 << 10
# A part has so many tiles for each tile's worth of sums (C * O sums beside C + O numbers of a
# tile), or loading, storing and joining sums would take more than a twentieth of the time; with
# fewer parts than the least, threads are better off at one stage together.
cdef Py_ssize_t PART_TILES = 12
cdef Py_ssize_t LEAST_PARTS = 4
cdef Py_ssize_t MOST_PARTS = 32
# Numbers that one task adds up over the parts.
cdef Py_ssize_t JOIN_COUNT = 4096


cdef struct GradientJob:
    const ck_winograd_kernels* kernels
    const ck_gemm_kernels* gemm
    Source x, gy
    ck_gemm_args product
    ck_winograd_taps_args taps
    Py_ssize_t vector, positions, in_c, out_c
    Py_ssize_t columns, blocks            # of the result, and of a block; blocks of columns
    Py_ssize_t chunks                     # tasks for one position
    Py_ssize_t total, stage               # tiles in all; tiles multiplied together, at most
    Py_ssize_t parts                      # ranges of tiles with sums of their own
    Py_ssize_t first, last                # tiles of the present stage
    float* v                              # transformed tiles of a stage
    float* d
    Py_ssize_t slot_step                  # floats from one thread's to the next
    float* sums
    float* w
    Py_ssize_t row, position_step, part_step   # of the sums
    int32_t* gy_peaks
    int32_t* w_peaks


cdef void _gather(GradientJob* job, Py_ssize_t first, Py_ssize_t last, float* v, float* d,
                  int slot) noexcept nogil:
    """Transform a few tiles of the input and of the output's gradient."""
    _transform(&job.x, first, last, v, NULL)
    _transform(&job.gy, first, last, d, job.gy_peaks + slot * job.vector)


cdef void _add_products(const GradientJob* job, Py_ssize_t position, Py_ssize_t first_block,
                        Py_ssize_t last_block, Py_ssize_t tiles, const float* v, const float* d,
                        float* sums, bint accumulate) noexcept nogil:
    """Add a stage's tiles to some blocks of columns of one position's sums."""
    cdef const ck_winograd_table* table = _table()
    cdef Py_ssize_t b, left, rows, height
    cdef ck_gemm_args args = job.product
    cdef int nv
    args.k = tiles
    args.accumulate = accumulate
    v += position * job.x.proto.position_step
    d += position * job.gy.proto.position_step
    sums += position * job.position_step
    for b in range(first_block, last_block):
        left = min(job.columns, job.out_c - b * job.columns)
        nv = <int>((left + job.vector - 1) // job.vector)
        args.n = <int>(nv * job.vector)
        args.b = d + b * job.columns
        args.a = v
        args.c = sums + b * job.columns
        rows = job.in_c
        while rows > 0:
            if nv == 1 and rows >= table.tall_rows:
                height = table.tall_rows
                table.tall(&args)
            else:
                # Nearly equal tiles of what is left.
                height = rows // ((rows + job.gemm.max_mr[nv] - 1) // job.gemm.max_mr[nv])
                job.gemm.transposed[nv][height](&args)
            rows -= height
            args.a = <const float*>args.a + height
            args.c = <float*>args.c + height * job.row


cdef void _gather_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform a few tiles of the stage."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t tile = index * TRANSFORM_TILES
    _gather(job, job.first + tile, min(job.first + tile + TRANSFORM_TILES, job.last),
            job.v + tile * job.x.step, job.d + tile * job.gy.step, slot)


cdef void _sum_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add the stage's tiles to some columns of one position's sums."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t chunk = index % job.chunks
    _add_products(job, index // job.chunks, part_start(job.blocks, job.chunks, chunk),
                  part_start(job.blocks, job.chunks, chunk + 1), job.last - job.first,
                  job.v, job.d, job.sums, job.first > 0)


cdef void _part_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform and sum a range of tiles, stage by stage."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t first = part_start(job.total, job.parts, index), tile = first, last, position
    cdef Py_ssize_t end = part_start(job.total, job.parts, index + 1)
    cdef float* v = job.v + slot * job.slot_step
    cdef float* d = job.d + slot * job.slot_step
    while tile < end:
        last = min(tile + job.stage, end)
        _gather(job, tile, last, v, d, slot)
        for position in range(job.positions):
            _add_products(job, position, 0, job.blocks, last - tile, v, d,
                          job.sums + index * job.part_step, tile > first)
        tile = last


cdef void _join_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add a run of the parts' sums to those of the first part, in order."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t i, part, first = index * JOIN_COUNT
    cdef Py_ssize_t count = min(JOIN_COUNT, job.part_step - first)
    cdef float* total = job.sums + first
    cdef const float* more
    for part in range(1, job.parts):
        more = total + part * job.part_step
        for i in range(count):
            total[i] += more[i]


cdef void _sum_stages(GradientJob* job, Py_ssize_t tasks, int team) noexcept nogil:
    """Transform and sum all tiles, all threads at one stage."""
    cdef Py_ssize_t gathers
    job.first = 0
    while job.first < job.total:
        job.last = min(job.first + job.stage, job.total)
        gathers = (job.last - job.first + TRANSFORM_TILES - 1) // TRANSFORM_TILES
        parallel_for(_gather_task, job, gathers, team)
        parallel_for(_sum_task, job, tasks, team)
        job.first = job.last


cdef void _sum_parts(GradientJob* job, int team) noexcept nogil:
    """Transform and sum all tiles, each thread at a part of its own."""
    parallel_for(_part_task, job, job.parts, team)
    parallel_for(_join_task, job, (job.part_step + JOIN_COUNT - 1) // JOIN_COUNT,
                 threads_for(team, team, <double>job.part_step * job.parts))


cdef void _taps_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform one vector of columns back for a run of depths."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef ck_winograd_taps_args args = job.taps
    cdef Py_ssize_t vectors = job.row // job.vector
    cdef Py_ssize_t column = index % vectors * job.vector, depth = index // vectors * PACK_DEPTHS
    args.sums = job.sums + depth * job.row + column
    args.columns = min(job.vector, job.out_c - column)
    args.depth = min(PACK_DEPTHS, job.in_c - depth)
    args.w += column * args.column_step + depth * args.depth_step
    args.peak = job.w_peaks + slot * job.vector
    job.kernels.to_taps(&args)


cdef void _choose_stage(GradientJob* job) noexcept nogil:
    """Set how many tiles are multiplied together."""
    cdef Py_ssize_t each = 4 * (job.x.step + job.gy.step), bytes = PART_BYTES
    if job.parts == 1:
        bytes = max(LEAST_STAGE_BYTES, min(MOST_STAGE_BYTES, 8 * job.part_step))
    job.stage = min(MOST_STAGE_TILES, bytes // each) // TRANSFORM_TILES * TRANSFORM_TILES
    job.stage = min(job.total, max(TRANSFORM_TILES, job.stage))


cdef Py_ssize_t _parts(const GradientJob* job) noexcept nogil:
    """Return how many ranges of tiles have sums of their own: a power of two, or 1 for few tiles
    and large sums."""
    cdef Py_ssize_t most = job.total * (job.in_c + job.out_c) // (PART_TILES * job.in_c
                                                                  * job.out_c)
    cdef Py_ssize_t parts = LEAST_PARTS
    if most < LEAST_PARTS or 4 * job.part_step > PART_BYTES:
        return 1
    while parts < MOST_PARTS and 2 * parts <= most:
        parts *= 2
    return parts


def grad_weight(x, gy, gw, int tile, Py_ssize_t top, Py_ssize_t left, dilation, int threads,
                parts=None):
    """Sum x[i + r * dilation[0] + top, j + s * dilation[1] + left] times gy[i, j] over all pixels,
    for all taps (r, s).

    Tiles are summed position by position, in order, in stages. Where there are many tiles for
    the size of the sums, ranges of tiles (parts) are summed apart, each by one thread, which
    finds in its own cache what it has transformed; else all threads work at one stage, where half
    of what a thread multiplies comes from the other's cache. Parts and stages depend on the
    problem alone, never on the number of threads.

    Parameters
    ----------
    x : ndarray (N, H, W, C) of float32
    gy : ndarray (N, H', W', O) of float32
    gw : ndarray (O, C, taps, taps) of float32
        The result. All three are C-contiguous.
    tile : int
        Pixels of a tile of `gy`, as for `pack`.
    top, left : int
        Where the first output's taps begin in x; minus the padding.
    dilation : (int, int)
    threads : int
    parts : int, optional
        Ranges of tiles, at least 1 and at most as many as tiles; by default as many as pay.
        Results differ by rounding.

    Returns
    -------
    tuple of two floats
        The largest absolute value of `gy` and of `gw`; infinity where one is infinite or NaN.
        See `run` for what they are good for.
    """
    cdef GradientJob job
    if not (x.size and gy.size):
        gw.fill(0)
        return 0.0, 0.0
    _describe_gradient(&job, x.shape[1:], gy.shape[1:], x.shape[0], _form(tile, gw.shape[2]), top, left,
                       dilation)
    if parts is not None:
        _cut_gradient(&job, max(1, min(<Py_ssize_t>parts, job.total)))
    return _sum_gradient(&job, x, gy, gw, threads)


cdef int _describe_gradient(GradientJob* job, x_shape, gy_shape, Py_ssize_t samples,
                            const ck_winograd_kernels* kernels, Py_ssize_t top, Py_ssize_t left,
                            dilation) except -1:
    """Describe the gradient of a weight, without its data."""
    job.kernels = kernels
    job.gemm = kernels_for(4)
    job.vector = _table().vector_length
    job.positions = _side(kernels) * _side(kernels)
    job.x = _source(x_shape, kernels, False, top, left, gy_shape[:2], dilation)
    job.gy = _source(gy_shape, kernels, True, 0, 0, gy_shape[:2], dilation)
    job.in_c, job.out_c = x_shape[2], gy_shape[2]
    job.columns = job.vector * choose_width(job.gemm, job.in_c, job.out_c)
    job.blocks = (job.out_c + job.columns - 1) // job.columns
    job.chunks = min(job.blocks, 2)
    job.row = _round_up(job.out_c, job.vector)
    job.position_step = job.in_c * job.row + job.vector
    memset(&job.product, 0, sizeof(ck_gemm_args))
    job.product.batch = 1
    job.product.lda = job.x.step
    job.product.ldb = job.gy.step
    job.product.ldc = job.row
    job.taps.position_step = job.position_step
    job.taps.row = job.row
    job.taps.depth_step = kernels.taps * kernels.taps
    job.taps.column_step = job.taps.depth_step * job.in_c
    job.total = samples * job.x.per_sample
    job.part_step = job.positions * job.position_step
    _cut_gradient(job, _parts(job))
    return 0


cdef void _cut_gradient(GradientJob* job, Py_ssize_t parts) noexcept nogil:
    job.parts = parts
    _choose_stage(job)
    job.slot_step = job.stage * (job.x.step + job.gy.step)


cdef tuple _sum_gradient(GradientJob* job, x, gy, gw, int threads):
    """Write the gradient that a job describes; return what `grad_weight` returns."""
    cdef ptrdiff_t no_offset = 0
    cdef double work = <double>job.total * job.positions * job.in_c * job.out_c / job.vector
    cdef Py_ssize_t tasks = job.parts if job.parts > 1 else job.positions * job.chunks
    cdef Py_ssize_t takes = job.row // job.vector * _runs(job.in_c)
    cdef int team = threads_for(threads, tasks, work)
    cdef Py_ssize_t zeros = _round_up(max(job.in_c, job.out_c), job.vector)
    cdef Py_ssize_t scratch = job.slot_step * (team if job.parts > 1 else 1)
    cdef Py_ssize_t peaks = team * job.vector
    cdef Py_ssize_t bytes = max(HUGE_BYTES, 4 * (scratch + job.parts * job.part_step + zeros + 2 * peaks))
    cdef float gy_peak = 0, w_peak = 0
    job.x.proto.x = _address(x)
    job.gy.proto.x = _address(gy)
    job.taps.w = <float*>_address(gw)
    job.product.a_offsets = &no_offset
    with nogil:
        job.v = <float*>take(bytes)
        if job.v != NULL:
            job.d = job.v + job.stage * job.x.step
            job.sums = job.v + scratch
            job.x.proto.zeros = job.gy.proto.zeros = job.sums + job.parts * job.part_step
            job.gy_peaks = <int32_t*>(job.x.proto.zeros + zeros)
            job.w_peaks = job.gy_peaks + peaks
            memset(<void*>job.x.proto.zeros, 0, 4 * (zeros + 2 * peaks))
            if job.parts > 1:
                _sum_parts(job, team)
            else:
                _sum_stages(job, tasks, team)
            parallel_for(_taps_task, job, takes,
                         threads_for(team, takes, <double>job.part_step))
            gy_peak, w_peak = _largest(job.gy_peaks, peaks), _largest(job.w_peaks, peaks)
            give(job.v, bytes)
    if job.v == NULL:
        raise MemoryError(f"no memory for {bytes} bytes of scratch")
    return gy_peak, w_peak


cdef class Gradient:
    """The gradient of a problem's weight, of which only what depends on the call is left.

    Parameters
    ----------
    x_shape, gy_shape : (int, int, int)
        Height, width and channels of a sample.
    samples : int
    tile, taps, top, left, dilation
        As for `pack` and `grad_weight`.
    redo : callable
        ``redo(x, gy, gw, threads)`` computes the gradient in another way, where the values are
        such that transforms may have lost some.
    """

    cdef GradientJob _job
    cdef object _redo

    def __init__(self, tuple x_shape, tuple gy_shape, Py_ssize_t samples, int tile, int taps,
                 Py_ssize_t top, Py_ssize_t left, dilation, redo):
        self._redo = redo
        _describe_gradient(&self._job, x_shape, gy_shape, samples, _form(tile, taps), top, left,
                           dilation)

    def __call__(self, x, gy, gw, int threads):
        """Write the gradient into `gw`."""
        cdef GradientJob job = self._job
        cdef float gy_peak, w_peak
        if job.total == 0:
            gw.fill(0)
            return
        gy_peak, w_peak = _sum_gradient(&job, x, gy, gw, threads)
        if not (LEAST_GRADIENT <= gy_peak <= MOST_GRADIENT and LEAST_RESULT <= w_peak < INFINITY):
            self._redo(x, gy, gw, threads)
