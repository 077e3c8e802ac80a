"""The gradient of a weight by Winograd convolution: the minimal filtering of `winograd` the other way.

Tiles of the input are transformed, and tiles of the output's gradient, which play the kernel's part;
for each position their products are summed over all tiles, and the sums are transformed back once.

As int16 (c/winograd.int16.h), the tiles of a stage are a run for each channel: a vector of channels of all
of them is transformed, and rounded with the scales that its tiles want.

Three ways through the work, by the problem's size. Where there are many tiles for the size of the sums,
ranges of tiles (parts) are summed apart, each by one thread, which finds in its own cache what it has
transformed. Where sums outweigh all tiles, these are transformed first, and a task is a block of the
weight: its sums over all tiles stay in a second-level cache until they are transformed back. Else all
threads work at one stage after another, and half of what a thread multiplies comes from the other's cache.
"""

import numpy as np

from convkit._kernels.gemm cimport (ck_gemm_args, ck_gemm_kernels, choose_width, kernels_for,
                                    part_start)
from convkit._kernels.memory cimport give, take
from convkit._kernels.threads cimport parallel_for, threads_for
from convkit._kernels.winograd_image cimport (
    HUGE_BYTES, PACK_DEPTHS, TRANSFORM_TILES, Source, address_or_null, ck_winograd_kernels,
    ck_winograd_runs_args, ck_winograd_sums_args, ck_winograd_table, ck_winograd_taps_args,
    depth_runs, describe_source, form_kernels, largest, own_kernels, positions_of, round_up,
    transform, winograd_table)
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t
from libc.string cimport memset

# Bounds on the output's gradient, and on the result, within which transforms lose nothing.
cdef float LEAST_GRADIENT = 2.0**-96
cdef float MOST_GRADIENT = 2.0**20
cdef float LEAST_RESULT = 2.0**-50
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
# Tiles of a run of int16, at most: their transformed pixels of 16 channels wait in a second-level
# cache for their scales.
cdef Py_ssize_t MOST_RUN = 96
# Numbers that one task adds up over the parts.
cdef Py_ssize_t JOIN_COUNT = 4096
# Sums of more bytes than a third-level cache is likely to keep are made block by block, where all
# transformed tiles take no more than these.
cdef Py_ssize_t MANY_SUMS = 16 << 20
cdef Py_ssize_t WHOLE_BYTES = 20 << 20
# Rows of such a block, as many as are transformed back at a time, and its bytes at most.
cdef Py_ssize_t BLOCK_ROWS = PACK_DEPTHS
cdef Py_ssize_t BLOCK_BYTES = 640 << 10


cdef struct GradientJob:
    const ck_winograd_kernels* kernels
    const ck_winograd_kernels* own        # of int16, or NULL: numbers are float32
    const ck_gemm_kernels* gemm
    Source x, gy
    Py_ssize_t x_blocks, gy_blocks        # of 16 channels, of int16
    Py_ssize_t block                      # floats of a block of one position of a stage
    ck_gemm_args product
    ck_winograd_taps_args taps
    Py_ssize_t vector, positions, in_c, out_c
    Py_ssize_t columns, blocks            # of the result, and of a block; blocks of columns
    Py_ssize_t chunks                     # tasks for one position
    Py_ssize_t total, stage               # tiles in all; tiles multiplied together, at most
    Py_ssize_t parts                      # ranges of tiles with sums of their own
    Py_ssize_t stages                     # that are transformed before the first is multiplied, or 1
    Py_ssize_t block_columns              # of a block of the weight, or 0: sums are not made so
    Py_ssize_t first, last                # tiles of the present stage
    float* v                              # transformed tiles of a stage
    float* d
    Py_ssize_t slot_step                  # floats from one thread's or stage's to the next
    Py_ssize_t v_floats                   # of a stage
    float* slices                         # a vector of channels of a stage's tiles, for each thread
    Py_ssize_t slice_step
    float* sums
    float* w
    Py_ssize_t row, position_step, part_step   # of the sums
    int32_t* gy_peaks
    int32_t* w_peaks


# A part of the sums: some rows (channels of x) and columns (of gy) of all positions.
cdef struct Sums:
    float* at                             # of the first position, row and column
    Py_ssize_t position_step, row         # floats between positions and between rows
    Py_ssize_t first_row, rows            # rows begin with a whole vector,
    Py_ssize_t first_column, columns      # columns with a whole block


cdef void _gather(GradientJob* job, Py_ssize_t first, Py_ssize_t last, float* v, float* d,
                  int slot) noexcept nogil:
    """Transform a few tiles of the input and of the output's gradient."""
    transform(&job.x, first, last, v, NULL)
    transform(&job.gy, first, last, d, job.gy_peaks + slot * job.vector)


cdef void _gather_int16(const GradientJob* job, Py_ssize_t first, Py_ssize_t last, Py_ssize_t block,
                        float* slice, float* v, float* d, int32_t* peaks) noexcept nogil:
    """Transform a vector of channels of all tiles of a stage, and round it: of x, and then of gy."""
    cdef bint gradient = block >= job.x_blocks
    cdef Source source = job.gy if gradient else job.x
    cdef Py_ssize_t channel
    cdef ck_winograd_runs_args runs
    if gradient:
        block -= job.x_blocks
    channel = block * job.vector
    source.proto.x += channel
    source.proto.channels = min(job.vector, source.channels - channel)
    source.proto.position_step = job.vector
    # A line more than positions take, so that tiles fall into different sets.
    source.step = source.proto.tile_step = (job.positions + 1) * job.vector
    transform(&source, first, last, slice, peaks)
    runs.from_ = slice
    runs.tile_step, runs.position_step = source.step, job.vector
    runs.tiles, runs.positions = last - first, job.positions
    runs.to = (d if gradient else v) + block * job.block
    runs.to_step = job.block * (job.gy_blocks if gradient else job.x_blocks)
    job.own.runs(&runs)


cdef void _add_int16(const GradientJob* job, const Sums* sums, Py_ssize_t position, Py_ssize_t tiles,
                     const float* v, const float* d, bint accumulate) noexcept nogil:
    """Add a stage's tiles to one position's sums."""
    cdef ck_winograd_sums_args args
    args.v = v + (position * job.x_blocks + sums.first_row // job.vector) * job.block
    args.d = d + (position * job.gy_blocks + sums.first_column // job.vector) * job.block
    args.block, args.pairs = job.block, (tiles + 1) // 2
    args.rows, args.columns = sums.rows, sums.columns
    args.sums = sums.at + position * sums.position_step
    args.row = sums.row
    args.accumulate = accumulate
    job.own.sums(&args)


cdef void _add_products(const GradientJob* job, const Sums* sums, Py_ssize_t position, Py_ssize_t tiles,
                        const float* v, const float* d, bint accumulate) noexcept nogil:
    """Add a stage's tiles to one position's sums."""
    cdef const ck_winograd_table* table = winograd_table()
    cdef Py_ssize_t b, column, rows, height
    cdef ck_gemm_args args = job.product
    cdef int nv
    if job.own != NULL:
        _add_int16(job, sums, position, tiles, v, d, accumulate)
        return
    args.k = tiles
    args.accumulate = accumulate
    args.ldc = sums.row
    v += position * job.x.proto.position_step + sums.first_row
    d += position * job.gy.proto.position_step + sums.first_column
    for b in range((sums.columns + job.columns - 1) // job.columns):
        column = b * job.columns
        nv = <int>((min(job.columns, sums.columns - column) + job.vector - 1) // job.vector)
        args.n = <int>(nv * job.vector)
        args.b = d + column
        args.a = v
        args.c = sums.at + position * sums.position_step + column
        rows = sums.rows
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
            args.c = <float*>args.c + height * sums.row


cdef inline Sums _whole_sums(const GradientJob* job, float* at, Py_ssize_t first_block,
                             Py_ssize_t last_block) noexcept nogil:
    """Describe some blocks of columns of all sums, which begin at `at`."""
    cdef Sums sums
    sums.first_row, sums.rows = 0, job.in_c
    sums.first_column = first_block * job.columns
    sums.columns = min(job.out_c, last_block * job.columns) - sums.first_column
    sums.at = at + sums.first_column
    sums.position_step, sums.row = job.position_step, job.row
    return sums


cdef inline Py_ssize_t _gathers(const GradientJob* job) noexcept nogil:
    """Return how many tasks transform a stage."""
    return ((job.stage + TRANSFORM_TILES - 1) // TRANSFORM_TILES if job.own == NULL
            else job.x_blocks + job.gy_blocks)


cdef void _gather_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform a few tiles of the stage, or a few channels of all of them; of all stages, where all
    are transformed first."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t gathers = _gathers(job), stage = index // gathers
    cdef Py_ssize_t tile = index % gathers * TRANSFORM_TILES
    cdef Py_ssize_t first = job.first + stage * job.stage, last = min(first + job.stage, job.last)
    cdef float* v = job.v + stage * job.slot_step
    cdef float* d = job.d + stage * job.slot_step
    if job.own != NULL:
        _gather_int16(job, first, last, index % gathers, job.slices + slot * job.slice_step, v, d,
                      job.gy_peaks + slot * job.vector)
    elif first + tile < last:
        _gather(job, first + tile, min(first + tile + TRANSFORM_TILES, last),
                v + tile * job.x.step, d + tile * job.gy.step, slot)


cdef void _sum_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add the stage's tiles to some columns of one position's sums."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t chunk = index % job.chunks
    cdef Sums sums = _whole_sums(job, job.sums, part_start(job.blocks, job.chunks, chunk),
                                 part_start(job.blocks, job.chunks, chunk + 1))
    _add_products(job, &sums, index // job.chunks, job.last - job.first, job.v, job.d, job.first > 0)


cdef void _part_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform and sum a range of tiles, stage by stage."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t first = part_start(job.total, job.parts, index), tile = first, last, position
    cdef Py_ssize_t end = part_start(job.total, job.parts, index + 1)
    cdef float* v = job.v + slot * job.slot_step
    cdef float* d = job.d + slot * job.slot_step
    cdef Py_ssize_t block
    cdef Sums sums = _whole_sums(job, job.sums + index * job.part_step, 0, job.blocks)
    while tile < end:
        last = min(tile + job.stage, end)
        if job.own != NULL:
            for block in range(job.x_blocks + job.gy_blocks):
                _gather_int16(job, tile, last, block, job.slices + slot * job.slice_step, v, d,
                              job.gy_peaks + slot * job.vector)
        else:
            _gather(job, tile, last, v, d, slot)
        for position in range(job.positions):
            _add_products(job, &sums, position, last - tile, v, d, tile > first)
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
    job.first = 0
    while job.first < job.total:
        job.last = min(job.first + job.stage, job.total)
        parallel_for(_gather_task, job, _gathers(job), team)
        parallel_for(_sum_task, job, tasks, team)
        job.first = job.last


cdef void _sum_parts(GradientJob* job, int team) noexcept nogil:
    """Transform and sum all tiles, each thread at a part of its own."""
    parallel_for(_part_task, job, job.parts, team)
    parallel_for(_join_task, job, (job.part_step + JOIN_COUNT - 1) // JOIN_COUNT,
                 threads_for(team, team, <double>job.part_step * job.parts))


cdef void _transform_back(const GradientJob* job, const Sums* sums, int slot) noexcept nogil:
    """Transform the rows, at most PACK_DEPTHS, of one vector of columns after another back."""
    cdef ck_winograd_taps_args args = job.taps
    cdef Py_ssize_t i, column
    args.position_step, args.row = sums.position_step, sums.row
    args.depth = sums.rows
    args.peak = job.w_peaks + slot * job.vector
    args.w += sums.first_column * args.column_step + sums.first_row * args.depth_step
    for i in range((sums.columns + job.vector - 1) // job.vector):
        column = i * job.vector
        args.sums = sums.at + column
        args.columns = min(job.vector, sums.columns - column)
        job.kernels.to_taps(&args)
        args.w += job.vector * args.column_step


cdef void _taps_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Transform one vector of columns back for a run of depths."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t vectors = job.row // job.vector
    cdef Sums sums = _whole_sums(job, job.sums, 0, job.blocks)
    sums.first_row = index // vectors * PACK_DEPTHS
    sums.rows = min(PACK_DEPTHS, job.in_c - sums.first_row)
    sums.first_column = index % vectors * job.vector
    sums.columns = min(job.vector, job.out_c - sums.first_column)
    sums.at += sums.first_row * job.row + sums.first_column
    _transform_back(job, &sums, slot)


cdef void _block_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Sum one block of the weight over all tiles, which are transformed, and transform it back."""
    cdef GradientJob* job = <GradientJob*>ctx
    cdef Py_ssize_t across = (job.out_c + job.block_columns - 1) // job.block_columns
    cdef Py_ssize_t position, stage
    cdef Sums sums
    sums.first_row = index // across * BLOCK_ROWS
    sums.rows = min(BLOCK_ROWS, job.in_c - sums.first_row)
    sums.first_column = index % across * job.block_columns
    sums.columns = min(job.block_columns, job.out_c - sums.first_column)
    sums.position_step, sums.row = _block_step(job), job.block_columns
    sums.at = job.sums + slot * job.positions * sums.position_step
    for position in range(job.positions):
        for stage in range(job.stages):
            _add_products(job, &sums, position, min(job.stage, job.total - stage * job.stage),
                          job.v + stage * job.slot_step, job.d + stage * job.slot_step, stage > 0)
    _transform_back(job, &sums, slot)


cdef inline Py_ssize_t _block_step(const GradientJob* job) noexcept nogil:
    """Return how many floats a position of a block takes: a vector more, for another set of a cache."""
    return BLOCK_ROWS * job.block_columns + job.vector


cdef Py_ssize_t _block_tasks(const GradientJob* job) noexcept nogil:
    return ((job.in_c + BLOCK_ROWS - 1) // BLOCK_ROWS
            * ((job.out_c + job.block_columns - 1) // job.block_columns))


cdef void _sum_blocks(GradientJob* job, int team) noexcept nogil:
    """Transform all tiles; then sum and transform back block by block."""
    job.first, job.last = 0, job.total
    parallel_for(_gather_task, job, job.stages * _gathers(job), team)
    parallel_for(_block_task, job, _block_tasks(job), team)


cdef void _choose_stage(GradientJob* job) noexcept nogil:
    """Set how many tiles are multiplied together, and whether block by block."""
    cdef Py_ssize_t each = 4 * (job.x.step + job.gy.step), bytes = PART_BYTES, most = MOST_STAGE_TILES
    job.stages, job.block_columns = 1, 0
    if job.own != NULL:
        each, most = 2 * job.positions * job.vector * (job.x_blocks + job.gy_blocks), MOST_RUN
    if job.parts == 1 and 4 * job.part_step >= MANY_SUMS and each * job.total <= WHOLE_BYTES:
        job.stages = (job.total + most - 1) // most
        job.stage = round_up((job.total + job.stages - 1) // job.stages, TRANSFORM_TILES)
        job.stages = (job.total + job.stage - 1) // job.stage
        job.block_columns = BLOCK_BYTES // (4 * job.positions * BLOCK_ROWS) // job.columns
        job.block_columns = max(<Py_ssize_t>1, job.block_columns) * job.columns
        return
    if job.parts == 1:
        bytes = max(LEAST_STAGE_BYTES, min(MOST_STAGE_BYTES, 8 * job.part_step))
    job.stage = min(most, bytes // each) // TRANSFORM_TILES * TRANSFORM_TILES
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
                parts=None, str form="float32"):
    """Sum x[i + r * dilation[0] + top, j + s * dilation[1] + left] times gy[i, j] over all pixels,
    for all taps (r, s).

    Tiles are summed position by position, in order, in stages. Parts, stages and blocks depend on the
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
    form : "float32" or "int16"
        Of the transformed numbers; int16 not for tiles of 2 and 3 taps.

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
    _describe_gradient(&job, x.shape[1:], gy.shape[1:], x.shape[0], form_kernels(tile, gw.shape[2], tile), top, left,
                       dilation, form)
    if parts is not None:
        _cut_gradient(&job, max(1, min(<Py_ssize_t>parts, job.total)))
    return _sum_gradient(&job, x, gy, gw, threads)


cdef int _describe_gradient(GradientJob* job, x_shape, gy_shape, Py_ssize_t samples,
                            const ck_winograd_kernels* kernels, Py_ssize_t top, Py_ssize_t left,
                            dilation, str form) except -1:
    """Describe the gradient of a weight, without its data."""
    job.kernels = kernels
    job.own = own_kernels(form, kernels)
    job.gemm = kernels_for(4)
    job.vector = winograd_table().vector_length
    job.positions = positions_of(kernels)
    job.x = describe_source(x_shape, kernels, False, top, left, gy_shape[:2], dilation)
    job.gy = describe_source(gy_shape, kernels, True, 0, 0, gy_shape[:2], dilation)
    job.in_c, job.out_c = x_shape[2], gy_shape[2]
    job.x_blocks = (job.in_c + job.vector - 1) // job.vector
    job.gy_blocks = (job.out_c + job.vector - 1) // job.vector
    job.columns = job.vector * (2 if job.own != NULL else
                                choose_width(job.gemm, job.in_c, job.out_c))
    job.blocks = (job.out_c + job.columns - 1) // job.columns
    job.chunks = min(job.blocks, 2)
    job.row = round_up(job.out_c, job.vector)
    job.position_step = job.in_c * job.row + job.vector
    memset(&job.product, 0, sizeof(ck_gemm_args))
    job.product.batch = 1
    job.product.lda = job.x.step
    job.product.ldb = job.gy.step
    job.taps.depth_step = kernels.taps * kernels.taps
    job.taps.column_step = job.taps.depth_step * job.in_c
    job.total = samples * job.x.per_sample
    job.part_step = job.positions * job.position_step
    _cut_gradient(job, _parts(job))
    return 0


cdef void _cut_gradient(GradientJob* job, Py_ssize_t parts) noexcept nogil:
    job.parts = parts
    _choose_stage(job)
    job.v_floats = job.stage * job.x.step
    job.slot_step = job.stage * (job.x.step + job.gy.step)
    job.slice_step = 0
    if job.own != NULL:
        job.block = ((job.stage + 1) // 2 + 1) * job.vector
        job.v_floats = job.positions * job.x_blocks * job.block
        job.slot_step = job.positions * (job.x_blocks + job.gy_blocks) * job.block
        job.slice_step = job.stage * (job.positions + 1) * job.vector


cdef tuple _sum_gradient(GradientJob* job, x, gy, gw, int threads):
    """Write the gradient that a job describes; return what `grad_weight` returns."""
    cdef ptrdiff_t no_offset = 0
    cdef double work = <double>job.total * job.positions * job.in_c * job.out_c / job.vector
    cdef Py_ssize_t tasks = job.parts if job.parts > 1 else \
        _block_tasks(job) if job.block_columns else job.positions * job.chunks
    cdef Py_ssize_t takes = job.row // job.vector * depth_runs(job.in_c)
    cdef int team = threads_for(threads, tasks, work)
    cdef Py_ssize_t zeros = round_up(max(job.in_c, job.out_c), job.vector)
    cdef Py_ssize_t scratch = job.slot_step * (team if job.parts > 1 else job.stages)
    cdef Py_ssize_t peaks = team * job.vector
    cdef Py_ssize_t slices = team * job.slice_step
    cdef Py_ssize_t sums = team * job.positions * _block_step(job) if job.block_columns else \
        job.parts * job.part_step
    cdef Py_ssize_t bytes = max(HUGE_BYTES, 4 * (scratch + slices + sums + zeros + 2 * peaks))
    cdef float gy_peak = 0, w_peak = 0
    job.x.proto.x = address_or_null(x)
    job.gy.proto.x = address_or_null(gy)
    job.taps.w = <float*>address_or_null(gw)
    job.product.a_offsets = &no_offset
    with nogil:
        job.v = <float*>take(bytes)
        if job.v != NULL:
            job.d = job.v + job.v_floats
            job.slices = job.v + scratch
            job.sums = job.slices + slices
            job.x.proto.zeros = job.gy.proto.zeros = job.sums + sums
            job.gy_peaks = <int32_t*>(job.x.proto.zeros + zeros)
            job.w_peaks = job.gy_peaks + peaks
            memset(<void*>job.x.proto.zeros, 0, 4 * (zeros + 2 * peaks))
            if job.block_columns:
                _sum_blocks(job, team)
            else:
                if job.parts > 1:
                    _sum_parts(job, team)
                else:
                    _sum_stages(job, tasks, team)
                parallel_for(_taps_task, job, takes,
                             threads_for(team, takes, <double>job.part_step))
            gy_peak, w_peak = largest(job.gy_peaks, peaks), largest(job.w_peaks, peaks)
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
    tile, taps, top, left, dilation, form
        As for `pack` and `grad_weight`.
    redo : callable
        ``redo(x, gy, gw, threads)`` computes the gradient in another way, where the values are
        such that transforms may have lost some.
    """

    cdef GradientJob _job
    cdef object _redo

    def __init__(self, tuple x_shape, tuple gy_shape, Py_ssize_t samples, int tile, int taps,
                 Py_ssize_t top, Py_ssize_t left, dilation, str form, redo):
        self._redo = redo
        _describe_gradient(&self._job, x_shape, gy_shape, samples, form_kernels(tile, taps, tile), top, left,
                           dilation, form)

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
