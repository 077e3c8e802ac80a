"""Winograd convolution: 3x3 kernels by F(2x2, 3x3), also with stride 2, or F(4x4, 3x3), 5x5 by F(2x2, 5x5) or F(4x4, 5x5).

The output is cut into tiles; those of all samples are numbered in one row. For each tile the
input is transformed (n x n positions of C values), every position is
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

On tiles of bfloat16 (c/winograd.tiles.h) one position of 32 of the image's tiles are the rows of two
tile products, so transformed input and products lie position by position. There, where the weights
outweigh what they are multiplied with, a group of tiles goes through one position after another, so
that weights are read once: a third way, with the same bits too.

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
from convkit._kernels.winograd_image cimport (
    HUGE_BYTES, INFINITE_BITS, LINE_BYTES, PACK_DEPTHS, TRANSFORM_TILES, CK_WINOGRAD_FEW, Place,
    Source, address_or_null, apart, beside, ck_winograd_kernels, ck_winograd_output_args,
    ck_winograd_product_args, ck_winograd_tiles_args, ck_winograd_weights_args, depth_runs,
    describe_source, first_col, first_row, form_kernels, largest, move_on, place_of,
    own_kernels, positions_of, round_up, spaced, top_row, transform, weights_at,
    winograd_table)
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

# Columns of a block of weights of 16-bit numbers.
cdef enum:
    BLOCK_COLUMNS = 32
# Channels that are multiplied in a step on tiles, and in a line of int16.
cdef enum:
    TILE_DEPTH = 32
# Bytes of transformed pixels of a block that is multiplied on tiles, where it has more than these.
cdef Py_ssize_t TILED_BYTES = 1 << 20
# Bytes of what goes through all positions one by one: transformed pixels and their products.
cdef Py_ssize_t GROUP_BYTES = 16 << 20
# Blocks of columns that are multiplied in one task then.
cdef Py_ssize_t POSITION_BLOCKS = 4
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
# Multiply-adds in the time that a transform takes for each number of either side, about.
cdef double TRANSFORM_WORK = 8.0
# Sums below this are so near the ends of float32's range that transforms, which multiply by up
# to 2^9 and add up to 2^16 products, may have flushed what matters to zero (it stays below
# 2^-24 of the largest result above); what overflows shows as an infinity.
cdef float LEAST_SUM = 2.0**-57
# Numbers below this are denormal: kernels read them as zeros.
cdef float LEAST_NORMAL = 2.0**-126
# Weights within these bounds are far enough from the ends of float32's range for the transforms.
cdef float LEAST_WEIGHT = 2.0**-20
cdef float MOST_WEIGHT = 2.0**20


cdef object _FLOAT = np.dtype(np.float32)


# -- weights -------------------------------------------------------------------------------


cdef class Weights:
    """Transformed weights, packed in blocks of columns; made by `pack`.

    Within a block: for each position, for each depth, the block's columns side by side; or on tiles
    what c/winograd.tiles.h says.
    """

    cdef readonly object array
    cdef readonly str form               # of numbers: "float32", "int16", or "split_bf16" on tiles
    cdef readonly int tile, taps, step   # of the kernels: see c/winograd.h
    cdef readonly Py_ssize_t columns, depth
    cdef readonly float peak             # the largest absolute weight; infinity for NaN too
    cdef readonly float least            # sums below this may have lost something
    cdef Py_ssize_t block_columns, blocks, block_size, position_step
    cdef float* pointer

    def bearable(self):
        """Tell whether the transforms keep what is in the weights; nothing is in denormal ones."""
        return self.least == 0 or LEAST_WEIGHT <= self.peak <= MOST_WEIGHT


cdef struct PackJob:
    void (*transform)(const ck_winograd_weights_args*) noexcept nogil
    Py_ssize_t row                       # of a block, or 0: as many as it has columns
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
    args.row = job.row if job.row else round_up(args.columns, job.vector)
    args.depth = min(PACK_DEPTHS, job.proto.depth - first)
    args.w += column * args.column_step + first * args.depth_step
    args.u = job.u + block * job.block_size + first * args.row
    args.peak = job.peaks + index * job.vector
    job.transform(&args)


def pack(source, int tile, int taps, int step, Py_ssize_t columns, Py_ssize_t depth, Py_ssize_t column_step,
         Py_ssize_t depth_step, bint turned, str form, int threads):
    """Transform and pack weights.

    Parameters
    ----------
    source : ndarray of float32, or what `gemm.parts_of` takes
        C-contiguous; the taps of (column, depth) start at ``column * column_step +
        depth * depth_step`` of the flat array.
    tile, taps, step : int
        Pixels of a tile's side and taps of the kernels', 2 or 4 and 3 or 5; and pixels of the
        input from one tile to the next: as many as `tile`, or with stride 2 and 3 taps for 2 pixels
        4, and for 4 pixels of the gradient of the input 2.
    columns, depth : int
        Output and input channels.
    column_step, depth_step : int
    turned : bool
        Whether the kernels are turned by 180 degrees, as the gradient of the input wants.
    form : str
        "float32"; "split_bf16": two bfloat16 for each number, multiplied on tiles (for 2 and 3); or
        "int16": integers, with a scale for each run of channels (not for 2 and 3).
    threads : int

    Returns
    -------
    Weights
    """
    cdef PackJob job
    cdef Weights weights = _start_packing(&job, form_kernels(tile, taps, step), form, columns, depth, column_step,
                                          depth_step, turned)
    cdef Py_ssize_t runs = depth_runs(depth), tasks = weights.blocks * runs
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


cdef inline double _packing_work(Weights weights):
    return <double>weights.blocks * weights.block_size * 2


cdef Weights _start_packing(PackJob* job, const ck_winograd_kernels* kernels, str form,
                            Py_ssize_t columns, Py_ssize_t depth, Py_ssize_t column_step,
                            Py_ssize_t depth_step, bint turned):
    """Describe the packing of all blocks, but for where weights and peaks lie; return its target."""
    cdef Py_ssize_t vector = winograd_table().vector_length
    cdef const ck_winograd_kernels* own = own_kernels(form, kernels)
    cdef Weights weights = Weights.__new__(Weights)
    weights.form = form
    weights.tile = kernels.tile
    weights.taps = kernels.taps
    weights.step = kernels.step
    weights.columns = columns
    weights.depth = depth
    weights.block_columns = BLOCK_COLUMNS if own != NULL else \
        vector * choose_width(kernels_for(4), 1 << 20, columns)
    weights.blocks = (columns + weights.block_columns - 1) // weights.block_columns
    # One vector more, so that the positions' stores fall into different sets of a cache.
    weights.position_step = vector + (depth * weights.block_columns if own == NULL
                                      else round_up(depth, own.depths) * own.depth_floats)
    weights.block_size = kernels.weight_side * kernels.weight_side * weights.position_step
    weights.array = empty((weights.blocks * weights.block_size,), _FLOAT)
    weights.pointer = <float*>address(weights.array)
    if own != NULL and own.rows and (depth % own.depths or columns % BLOCK_COLUMNS):
        weights.array.fill(0)            # what fills tiles up
    job.transform = kernels.weights if own == NULL else own.weights
    job.row = 0 if own == NULL else own.depth_floats
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
    weights.peak = largest(bits, count)
    weights.least = LEAST_SUM
    if weights.peak < LEAST_NORMAL:
        weights.array.fill(0)
        weights.least = 0    # sums of zeros are what they should be
    return weights


# -- convolution ---------------------------------------------------------------------------


cdef void _hold_16_bits(Source* source, const ck_winograd_kernels* own,
                        Py_ssize_t positions) noexcept nogil:
    """Lay transformed tiles out: on tiles as rows, one position after another (see `_for_samples`);
    of int16 as floats are, with the scales of all positions behind the last."""
    source.transform = own.input
    source.proto.low = round_up(source.channels, TILE_DEPTH)
    if own.rows:
        source.step = source.proto.tile_step = apart(source.proto.low)
        return
    source.proto.position_step = apart(source.proto.low // 2)
    source.proto.low = positions * source.proto.position_step
    source.proto.scale_step = round_up(positions, winograd_table().vector_length)
    source.step = source.proto.tile_step = apart(
        source.proto.low + (source.channels + own.depths - 1) // own.depths * source.proto.scale_step)


cdef struct Job:
    const ck_winograd_kernels* kernels
    const ck_winograd_kernels* own        # of 16-bit numbers, or NULL: numbers are float32
    bint on_tiles                         # whether products are made on tiles
    void (*transform_back)(const ck_winograd_output_args*) noexcept nogil
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
    Py_ssize_t v_block                    # floats of a block's transformed tiles
    bint by_position                      # whether weights are gone through position by position
    Py_ssize_t group                      # tiles that go through them together
    Py_ssize_t first, last                # tiles of the present group; else all
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


cdef inline Py_ssize_t _first_tile(const Job* job, Py_ssize_t block) noexcept nogil:
    """Return the first tile of a block; on tiles all blocks but the last are full ones."""
    if job.on_tiles:
        return min(block * job.tiles, job.total)
    return part_start(job.total, job.tile_blocks, block)


cdef inline float* _transformed(const Job* job, Py_ssize_t tile) noexcept nogil:
    """Return where a tile's first position is, if all are transformed before any is multiplied."""
    if job.on_tiles and not job.by_position:
        return job.v + tile // job.tiles * job.v_block + tile % job.tiles * job.source.step
    return job.v + (tile - job.first) * job.source.step


cdef inline void _describe_16_bits(ck_winograd_tiles_args* args, const Job* job,
                                   Py_ssize_t block) noexcept nogil:
    """Describe products with one block of columns of the weights, but for where anything lies."""
    args.v_position, args.v_tile = job.source.proto.position_step, job.source.step
    args.low, args.scale_step = job.source.proto.low, job.source.proto.scale_step
    args.u_position = job.weight_step
    args.m_position, args.m_tile = job.m_step, job.m_tile
    args.columns = min(job.block_columns, job.out_c - block * job.block_columns)


cdef inline void _begin_16_bits(ck_winograd_tiles_args* args, const Job* job, const float* v, float* m,
                                Py_ssize_t block, Py_ssize_t first) noexcept nogil:
    """Aim at the position `first` of the first tile."""
    args.v = v + first * job.source.proto.position_step
    args.scales = v + job.source.proto.low + first
    args.m = m + first * job.m_step
    args.u = job.u + block * job.block_size + first * job.weight_step


cdef void _multiply_on_tiles(const Job* job, Py_ssize_t count, const float* v, float* m,
                             Py_ssize_t block, Py_ssize_t first, Py_ssize_t positions) noexcept nogil:
    """Multiply some positions of `count` tiles with one block of columns of the weights."""
    cdef ck_winograd_tiles_args args
    _describe_16_bits(&args, job, block)
    _begin_16_bits(&args, job, v, m, block, first)
    args.positions, args.tiles = positions, count
    args.steps = job.source.proto.low // TILE_DEPTH
    job.own.products(&args)


cdef void _multiply_int16(const Job* job, Py_ssize_t count, const float* v, float* m,
                          Py_ssize_t block, LookAhead* ahead) noexcept nogil:
    """Multiply all positions of `count` tiles with one block of columns of the weights."""
    cdef ck_winograd_tiles_args args
    cdef ck_gemm_args aimed
    cdef const float* u
    cdef Py_ssize_t calls = (count + job.own.most_tiles - 1) // job.own.most_tiles, p, i
    cdef Py_ssize_t each = count // calls, more = count % calls
    aimed.k = (job.source.channels + 1) // 2
    _describe_16_bits(&args, job, block)
    args.positions, args.steps = 1, aimed.k
    for p in range(job.positions):
        _begin_16_bits(&args, job, v, m, block, p)
        u = args.u
        for i in range(calls):
            args.tiles = each + (i < more)
            if job.stream and i < 2:
                # The next weights, half with each of the first two calls.
                args.fetch = <const char*>(u + job.weight_step) + i * aimed.k * LINE_BYTES
                args.fetch_step = LINE_BYTES
            else:
                aim(ahead, &aimed)
                args.fetch, args.fetch_step = <const char*>aimed.fetch, aimed.fetch_step
                if args.fetch == NULL:
                    args.fetch, args.fetch_step = <const char*>u, 0
            job.own.products(&args)
            args.v += args.tiles * args.v_tile
            args.scales += args.tiles * args.v_tile
            args.m += args.tiles * args.m_tile


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
    cdef const float* u = job.u + block * job.block_size
    args.n = <int>(nv * job.vector)
    args.ldb = args.n
    for p in range(job.positions):
        k = 0
        for part in range(job.parts):
            args.b = u + weights_at(job.kernels, p) * job.weight_step + k * args.ldb
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
    cdef Place a = place_of(source, first), b = place_of(source, last)
    cdef Py_ssize_t to = a.sample * job.out_h + first_row(source, &a)
    cdef Py_ssize_t from_ = b.sample * source.height + max(0, top_row(source, &b))
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
    winograd_table().multiply[last - first](&args)


cdef void _look_ahead(Job* job, Py_ssize_t tile_block, Py_ssize_t chunk,
                      LookAhead* ahead) noexcept nogil:
    """Plan to fetch what this block will write, and what this thread's next block will read."""
    cdef const Source* source = &job.source
    cdef Py_ssize_t first = _first_tile(job, tile_block)
    cdef Py_ssize_t last = _first_tile(job, tile_block + 1) - 1
    cdef Place a = place_of(source, first), b = place_of(source, last)
    cdef Py_ssize_t row = job.out_w * job.y_pixel * 4
    cdef const char* base = <const char*>job.output.y
    cdef Py_ssize_t begin = a.sample * job.out_h + first_row(source, &a)
    cdef Py_ssize_t reach = job.tile * source.apart_h
    cdef Py_ssize_t end = b.sample * job.out_h + min(job.out_h, first_row(source, &b) + reach)
    cdef Py_ssize_t blocks = min(job.chunk, job.blocks - chunk * job.chunk)
    ahead.count = 0
    if chunk == 0:
        # All columns of the output: the block's later chunks write between those of the first.
        look_at(ahead, base + begin * row, (end - begin) * row, base, base + end * row)
        tile_block += 1
        if job.whole and tile_block < job.tile_blocks:
            first = _first_tile(job, tile_block)
            last = _first_tile(job, tile_block + 1) - 1
            a = place_of(source, first)
            b = place_of(source, last)
            row = source.width * source.pixel * 4
            base = <const char*>source.proto.x
            reach = source.size * source.apart_h
            begin = a.sample * source.height + max(0, top_row(source, &a))
            end = b.sample * source.height + min(source.height, top_row(source, &b) + reach)
            look_at(ahead, base + begin * row, (end - begin) * row, base, base + end * row)
    if job.own != NULL:
        spread(ahead, blocks * job.positions * ((last - first) // job.own.most_tiles + 1),
               (source.channels + 1) // 2)
    else:
        spread(ahead, blocks * job.positions * job.parts * ((last - first + 14) // 14),
               source.channels // job.parts)


cdef void _transform_output(Job* job, Py_ssize_t tile_block, const float* m, Py_ssize_t column,
                            Py_ssize_t columns, int32_t* peaks) noexcept nogil:
    """Transform columns of a block of tiles back; the first tile's products are at `m`.

    `peaks` has one vector for each sample from that of the first tile on.
    """
    cdef ck_winograd_output_args args = job.output
    cdef Py_ssize_t first = _first_tile(job, tile_block)
    cdef Py_ssize_t last = _first_tile(job, tile_block + 1)
    cdef Place place = place_of(&job.source, first)
    cdef Py_ssize_t first_sample = place.sample
    cdef Py_ssize_t row, col, at, tiles
    cdef bint begin = True
    args.channels = columns
    args.bias = job.output.bias + column if job.output.bias != NULL else NULL
    while first < last:
        row = first_row(&job.source, &place)
        col = first_col(&job.source, &place)
        at = ((place.sample * job.out_h + row) * job.out_w + col) * job.y_pixel + column
        tiles = beside(&job.source, &place, last - first)
        args.m = m
        args.rows = min(job.tile, spaced(job.out_h - row, job.source.apart_h))
        args.cols = min(job.tile * tiles, spaced(job.out_w - col, job.source.apart_w))
        args.y = job.output.y + at
        args.residual = job.output.residual + at if job.output.residual != NULL else NULL
        args.peak = peaks + (place.sample - first_sample) * job.vector
        job.transform_back(&args)
        if job.gathered != NULL and args.rows > 0 and args.cols > 0:
            add_pixels(job.gathered, tile_block, begin, column, columns, <const char*>args.y, args.rows,
                   args.cols, args.row_step, args.pixel_step)
            begin = False
        m += tiles * job.m_tile
        first += tiles
        move_on(&job.source, &place, tiles)


cdef void _columns(Job* job, Py_ssize_t tile_block, Py_ssize_t chunk, const float* v,
                   int slot, int32_t* peaks) noexcept nogil:
    """Multiply one block of tiles with one chunk of columns and transform back."""
    cdef Py_ssize_t first = _first_tile(job, tile_block)
    cdef Py_ssize_t last = _first_tile(job, tile_block + 1)
    cdef Py_ssize_t b, block = chunk * job.chunk
    cdef Py_ssize_t end = min(block + job.chunk, job.blocks)
    cdef Py_ssize_t column = block * job.block_columns
    cdef float* m = <float*>(job.m + slot * job.m_bytes)
    cdef LookAhead ahead
    if job.on_tiles:
        for b in range(block, end):
            _multiply_on_tiles(job, last - first, v, m + (b - block) * job.block_columns, b, 0,
                               job.positions)
    elif job.few:
        _multiply_few(job, first, last, v, m)
    else:
        _look_ahead(job, tile_block, chunk, &ahead)
        for b in range(block, end):
            if job.own != NULL:
                _multiply_int16(job, last - first, v, m + (b - block) * job.block_columns, b, &ahead)
            else:
                _multiply(job, last - first, v, m + (b - block) * job.block_columns, b, &ahead)
    _transform_output(job, tile_block, m, column,
                      min(end * job.block_columns, job.out_c) - column, peaks)


cdef void _block_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Take one block of tiles through all steps."""
    cdef Job* job = <Job*>ctx
    cdef float* v = <float*>(<char*>job.v + slot * job.v_bytes)
    cdef Py_ssize_t chunk
    transform(&job.source, _first_tile(job, index), _first_tile(job, index + 1), v, NULL)
    for chunk in range(job.chunks):
        _columns(job, index, chunk, v, slot, job.peaks + index * job.span * job.vector)


cdef void _input_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform the input of a few tiles."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t first = job.first + index * TRANSFORM_TILES
    transform(&job.source, first, min(first + TRANSFORM_TILES, job.last),
               _transformed(job, first), NULL)


cdef void _columns_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Take one chunk of columns of one block of tiles through the other steps."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t tile_block = index // job.chunks
    cdef Py_ssize_t first = _first_tile(job, tile_block)
    _columns(job, tile_block, index % job.chunks, _transformed(job, first), slot,
             job.peaks + index * job.span * job.vector)


cdef void _position_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Multiply one position of a group of tiles with some blocks of columns."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t chunks = (job.blocks + POSITION_BLOCKS - 1) // POSITION_BLOCKS, b
    cdef Py_ssize_t block = index % chunks * POSITION_BLOCKS
    for b in range(block, min(block + POSITION_BLOCKS, job.blocks)):
        _multiply_on_tiles(job, job.last - job.first, job.v,
                           <float*>job.m + b * job.block_columns, b, index // chunks, 1)


cdef void _output_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform all columns of a block of tiles back."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t block = job.first // job.tiles + index
    _transform_output(job, block, <float*>job.m + index * job.tiles * job.m_tile, 0, job.out_c,
                      job.peaks + block * job.span * job.vector)


cdef void _by_position(Job* job) noexcept nogil:
    """Take the tiles through the steps a group at a time; weights are read once for each."""
    cdef Py_ssize_t chunks = (job.blocks + POSITION_BLOCKS - 1) // POSITION_BLOCKS
    while job.last < job.total:
        job.first, job.last = job.last, min(job.last + job.group, job.total)
        parallel_for(_input_task, job,
                     (job.last - job.first + TRANSFORM_TILES - 1) // TRANSFORM_TILES, job.team)
        parallel_for(_position_task, job, job.positions * chunks, job.team)
        parallel_for(_output_task, job, (job.last - job.first + job.tiles - 1) // job.tiles,
                     job.team)


cdef Py_ssize_t _block_tiles(const Job* job) noexcept nogil:
    """Return how many tiles a block should have."""
    cdef Py_ssize_t rows = job.gemm.max_mr[job.block_columns // job.vector]
    cdef Py_ssize_t tiles = round_up(BLOCK_TILES, rows), share
    if job.on_tiles:
        rows = job.own.rows
        tiles = TILED_BYTES // (4 * job.positions * job.source.step) // rows * rows
        return max(rows, min(4 * rows, tiles))
    if job.few:
        return CK_WINOGRAD_FEW
    if not job.stream:
        share = (job.source.per_sample + BLOCKS_PER_SAMPLE - 1) // BLOCKS_PER_SAMPLE
        tiles = min(tiles, round_up(share, rows))
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
    job.kernels = form_kernels(weights.tile, weights.taps, weights.step)
    job.own = own_kernels(weights.form, job.kernels)
    job.on_tiles = job.own != NULL and job.own.rows > 0
    job.gemm = kernels_for(4)
    job.vector = winograd_table().vector_length
    job.tile = weights.tile
    job.positions = positions_of(job.kernels)
    job.source = describe_source(x_shape, job.kernels, False, top, left, (job.out_h, job.out_w), dilation,
                         x_pixel)
    if job.own != NULL:
        _hold_16_bits(&job.source, job.own, job.positions)
    _use(&job, weights)
    job.parts = (job.source.channels + MOST_CHANNELS - 1) // MOST_CHANNELS
    _finish_with(&job, activation, alpha, beta)
    memset(&job.product, 0, sizeof(ck_gemm_args))
    job.product.batch = 1
    job.product.k = job.source.channels // job.parts
    job.product.lda = job.source.step
    return job


cdef void _finish_with(Job* job, int activation, double alpha, double beta) noexcept:
    """Take the activation, and the kernel that transforms back and applies it."""
    job.output.activation, job.output.alpha, job.output.beta = activation, alpha, beta
    job.transform_back = job.kernels.output
    if job.on_tiles and activation < dispatch.CK_ACT_UNARY:
        job.transform_back = job.own.output


cdef void _use(Job* job, Weights weights) noexcept:
    """Take transformed weights."""
    job.least = weights.least
    job.u = weights.pointer
    job.block_columns = weights.block_columns
    job.blocks = weights.blocks
    job.block_size = weights.block_size
    job.weight_step = weights.position_step
    job.stream = job.blocks * job.block_size * 4 > WEIGHT_BYTES
    job.few = (job.own == NULL and job.out_c <= job.vector
               and job.kernels.side == job.kernels.weight_side
               and job.source.channels <= FEW_CHANNELS)


cdef size_t _for_samples(Job* job, Py_ssize_t samples, int threads) noexcept nogil:
    """Cut the work of so many samples; return how many bytes of scratch it takes.

    These are the samples' peaks, the tasks' peaks, and what `_run_job` says.
    """
    cdef double work
    cdef Py_ssize_t least
    job.samples = samples
    job.total = samples * job.source.per_sample
    job.tiles = _block_tiles(job)
    if not job.on_tiles:
        job.tiles = min(job.tiles, job.total)
    job.tile_blocks = (job.total + job.tiles - 1) // job.tiles
    # Where there is one block of columns, there is nothing to be gained by cutting it.
    least = LEAST_BLOCKS if job.blocks > 1 else 2
    job.whole = job.tile_blocks >= least if job.together < 0 else job.together
    job.chunk = PRODUCT_BYTES // (4 * job.positions * job.tiles * job.block_columns)
    if not job.whole:
        job.chunk = min(job.chunk, job.blocks * job.tile_blocks // LEAST_BLOCKS)
    job.chunk = max(<Py_ssize_t>1, min(job.blocks, job.chunk))
    job.chunks = (job.blocks + job.chunk - 1) // job.chunk
    job.m_step = apart(min(job.chunk * job.block_columns, job.out_c))
    job.m_tile = job.positions * job.m_step
    job.v_block = job.tiles * job.source.step
    job.m_bytes = job.tiles * job.m_tile * 4
    job.first, job.last = 0, job.total
    job.by_position = job.on_tiles and _weights_outweigh(job)
    if job.on_tiles:
        _lay_out_for_tiles(job)
    # A block of `tiles` tiles may begin with the last tile of a sample.
    job.span = (job.tiles + job.source.per_sample - 2) // job.source.per_sample + 1
    job.tasks = job.tile_blocks * (1 if job.whole else job.chunks)
    work = <double>job.total * job.positions * (
        job.source.channels * job.out_c + TRANSFORM_WORK * (job.source.channels + job.out_c)) / job.vector
    job.team = threads_for(threads, job.positions * job.blocks if job.by_position else job.tasks, work)
    job.v_bytes = job.v_block * 4
    job.output.position_step = job.m_step
    job.output.tile_step = job.m_tile
    job.output.row_step = job.source.apart_h * job.out_w * job.y_pixel
    job.output.pixel_step = job.source.apart_w * job.y_pixel
    job.product.ldc = job.m_tile
    return max(<size_t>HUGE_BYTES, _peak_bytes(job) + _all_v(job) + _all_m(job)
               + round_up(job.source.channels, job.vector) * 4)


cdef bint _weights_outweigh(const Job* job) noexcept nogil:
    """Tell whether it costs less to write and read all transformed tiles and products again than to
    read the weights for each block of tiles."""
    return (job.blocks * job.block_size * 4 // job.tiles
            > 8 * job.positions * (job.source.proto.low + job.out_c))


cdef void _lay_out_for_tiles(Job* job) noexcept nogil:
    """Lay transformed tiles, and their products, out position by position."""
    cdef Py_ssize_t tiles = job.tiles
    if job.by_position:
        job.whole = True
        job.tasks = job.tile_blocks
        job.chunks, job.chunk = 1, job.blocks
        job.group = GROUP_BYTES // (4 * job.positions * (job.source.step + job.out_c))
        job.group = max(<Py_ssize_t>1, job.group // job.tiles) * job.tiles
        tiles = min(job.group, round_up(job.total, job.own.rows))
        job.m_step = apart(job.out_c)
        job.last = 0
    # Positions a line more apart than their rows take: stores fall into different sets.
    job.m_tile, job.m_step = job.m_step, tiles * job.m_step + job.vector
    job.source.proto.position_step = tiles * job.source.step + job.vector
    job.v_block = job.positions * job.source.proto.position_step
    job.m_bytes = job.positions * job.m_step * 4


cdef inline size_t _peak_bytes(const Job* job) noexcept nogil:
    """Bytes of the samples' peaks, then of the tasks'."""
    return round_up(4 * job.samples, 64) + round_up(4 * job.tasks * job.span * job.vector, 64)


cdef inline size_t _all_v(const Job* job) noexcept nogil:
    """Bytes of transformed tiles: of each thread's block, or of all."""
    if job.by_position:
        return job.v_bytes
    if job.whole:
        return job.team * job.v_bytes
    return job.tile_blocks * job.v_bytes if job.on_tiles else job.total * job.source.step * 4


cdef inline size_t _all_m(const Job* job) noexcept nogil:
    """The same of products."""
    return job.m_bytes if job.by_position else job.team * job.m_bytes


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
    cdef Py_ssize_t i, zeros = round_up(job.source.channels, job.vector) * 4
    _for_samples(&job, samples, threads)
    job.source.proto.x = <const float*>at[0]
    job.output.bias = <const float*>at[1]
    job.output.residual = <const float*>at[2]
    job.output.y = <float*>at[3]
    job.product.a_offsets = &no_offset
    memset(scratch, 0, _peak_bytes(&job))
    job.peaks = <int32_t*>(scratch + round_up(4 * samples, 64))
    job.v = <float*>(scratch + _peak_bytes(&job))
    job.m = <char*>job.v + _all_v(&job)
    job.source.proto.zeros = <const float*>(job.m + _all_m(&job))
    memset(job.m + _all_m(&job), 0, zeros)
    if job.by_position:
        _by_position(&job)
    elif job.whole:
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
    activation. With stride 2 it is ``x[2 * i + r + top, 2 * j + s + left]``, and for its gradient
    ``x[k + top, l + left] @ weights[r, s]`` with ``i = 2 * k + 1 - r``, ``j = 2 * l + 1 - s``: see
    `pack`.

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
    at[0], at[1] = <char*>address_or_null(x), <char*>address_or_null(bias)
    at[2], at[3] = <char*>address_or_null(residual), <char*>address_or_null(y)
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
        Tile, taps, step, columns, depth, column step, depth step, turned and form, as for `pack`.
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
    cdef str _form

    def __init__(self, tuple x_shape, tuple y_shape, Py_ssize_t samples, tuple packing,
                 Py_ssize_t top, Py_ssize_t left, dilation, key, redo):
        cdef Weights form = Weights()
        (form.tile, form.taps, form.step, form.columns, form.depth, self._column_step,
         self._depth_step, self._turned, form.form) = packing
        self._form = form.form
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
            _finish_with(&job, activation, alpha, beta)
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
        weights = _start_packing(&job, self._job.kernels, self._form, self._job.out_c,
                                 self._job.source.channels, self._column_step, self._depth_step,
                                 self._turned)
        tasks = weights.blocks * depth_runs(weights.depth)
        size = tasks * job.vector * sizeof(int32_t)
        job.proto.w = address_or_null(weight)
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
        first = _first_tile(job, task * job.tile_blocks // job.tasks)
        for k in range(job.span):
            sample = first // job.source.per_sample + k
            if sample < job.samples:
                for i in range(job.vector):
                    of_sample[sample] = min(max(of_sample[sample], lanes[i]), INFINITE_BITS)
            lanes += job.vector


def outside(peaks, Weights weights):
    """Return the indices of samples whose peaks tell that another way must compute them."""
    cdef const float* values = address_or_null(peaks)
    cdef Py_ssize_t i, count = len(peaks)
    return [i for i in range(count) if not weights.least <= values[i] < INFINITY]
