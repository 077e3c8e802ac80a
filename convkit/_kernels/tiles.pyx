"""Convolution on tiles of 16-bit numbers: the loops of `direct`, from converted strips.

The same engine for the forward pass, the gradient of the input, transposed convolution, 1x1
convolution and linear layers. A float is held as one bfloat16 (AMX, or vectors of AVX512-BF16),
as a high and a low one (AMX), or as one float16 (AVX512-FP16; c/tile.h); the strip of input that
a task reads is converted while it is copied with its zero padding, row by row, just before the
tiles need it.

Tiles want 16 rows, and a row of pixels is seldom a multiple of that. In the strip, rows that
are one stride apart lie behind each other (those between them in planes of their own), so
that all output pixels of a strip are one sequence of positions at one distance, however
narrow the map. Between the end of a row and the start of the next lie a few positions that
straddle both; they are computed and not written.

Rows of A may be read up to 31 values beyond a reduction, times weights of zero; what lies
there is finite, or the exact kernels run, which read nothing beyond (c/tile.h). Both give
the same bits, so that an infinity changes nothing but the outputs that see it.

float16 has few exponents: a strip and a layer's weights are scaled by powers of two, found from
their largest magnitudes, and sums are scaled back.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.dispatch cimport activation_map, ck_transpose_table, ck_unary_fn
from convkit._kernels.gather cimport Gather, Gathered, add_pixels, first_column
from convkit._kernels.gemm cimport part_start
from convkit._kernels.gemm import parts_of
from convkit._kernels.runner cimport Step, launch, new_step
from convkit._kernels.threads cimport parallel_for, threads_for
from convkit._kernels import memory
from libc.stddef cimport ptrdiff_t
from libc.math cimport ldexpf
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

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
        int planes, most_rows, least_rows
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
        double products_per_step
        void (*configure)(int rows, int depth) noexcept nogil
        void (*release)() noexcept nogil
        ck_tile_form plain
        ck_tile_form split
        ck_tile_form half
    int CK_TILE_ROWS, CK_TILE_COLUMNS, CK_TILE_DEPTH

cdef extern from * nogil:
    void __builtin_prefetch(const void*, int, int)

# As in `direct`: bytes of a strip, bytes of packed weights that a task goes through, and tasks
# that a sample is cut into where that costs little.
cdef Py_ssize_t STRIP_BYTES = 256 << 10
# Bytes of a strip up to which it is not cut for more tasks than there need be.
cdef Py_ssize_t NEAR_BYTES = 64 << 10
cdef Py_ssize_t CHUNK_BYTES = 512 << 10
# Chunks of fewer bytes are cut only for tasks that there need be.
cdef Py_ssize_t LEAST_CHUNK_BYTES = 128 << 10
cdef Py_ssize_t TASKS_PER_SAMPLE = 8
# Tasks in all, and for each of several threads, from which on samples are not cut for more. The
# second is for results that do not depend on the cut.
cdef Py_ssize_t MOST_TASKS = 64
cdef Py_ssize_t TASKS_PER_THREAD = 8
# Positions of a strip at least, where there are as many: four blocks of rows.
cdef Py_ssize_t POSITIONS = 64
# Pixels converted at a time where every pixel stands alone: two blocks of rows.
cdef Py_ssize_t PIXELS = 32
# Where strips are scaled, tasks that a sample is cut into: each chunk of weights costs a passage
# over the strip.
cdef Py_ssize_t SCALED_TASKS_PER_SAMPLE = 4
# Bytes of weights that the second-level caches do not keep from call to call. Where each thread
# goes through such weights only a few times, tiles of them are fetched so many bytes ahead.
cdef Py_ssize_t FAR_WEIGHTS = 1 << 20
cdef Py_ssize_t FEW_TIMES = 2
cdef Py_ssize_t AHEAD = 8 << 10
# More values than there are.
cdef Py_ssize_t EVERYTHING = 1 << 60
# Values are converted beside products so many at a time, or a multiple of it.
cdef Py_ssize_t PIECE = 64
# Bytes of weights that come to products in the time of one elementary operation, about.
cdef double BYTES_PER_STEP = 4
# Which of x, residual and y are held as bfloat16.
NOTHING_NARROW = (False, False, False)
# Columns of a packed block, and values of a tile of A.
cdef Py_ssize_t COLUMNS = 2 * CK_TILE_COLUMNS
cdef Py_ssize_t TILE = CK_TILE_ROWS * CK_TILE_DEPTH
# From so many steps of a reduction on, pixels that stand alone are laid out as tiles, so that a tile's
# rows do not lie pages apart. Bytes of a strip of these.
cdef Py_ssize_t LEAST_STEPS = 32
cdef Py_ssize_t TILED_BYTES = 512 << 10
# Bytes from one line to the next of the same set of a first-level cache.
cdef Py_ssize_t PAGE = 4 << 10


# Exponents of the largest magnitudes of strips and of weights, where they are scaled: their
# products do not overflow a float16 sum (c/half.body.h).
cdef int STRIP_EXPONENT = 3
cdef int WEIGHT_EXPONENT = 4


cdef int _shift(uint32_t peak, int exponent) noexcept nogil:
    """Return by which power of two values are scaled, from the bits of the largest magnitude."""
    return min(exponent + 127 - <int>(peak >> 23), 127)



# -- weights --------------------------------------------------------------------------------


cdef class Packed:
    """Weights in tile order; made by `pack`."""

    cdef readonly object array              # uint16, flat
    cdef readonly bint finite               # no weight is infinite or NaN
    cdef readonly Py_ssize_t groups, columns, blocks    # columns and blocks of a group
    cdef readonly Py_ssize_t batch, k, steps, depth, merged
    cdef readonly str name                  # of the form
    cdef int shift                          # weights are scaled by two to this power
    cdef const ck_tile_table* table
    cdef const ck_tile_form* form
    cdef char* pointer

    cdef int find(self, str name) except -1:
        """Find the kernels of a form by its name."""
        half = name == "fp16"
        self.name = name
        self.table = <const ck_tile_table*>(dispatch.table().half if half
                                            else dispatch.table().tile)
        if self.table == NULL:
            raise RuntimeError(f"expected an instruction set with products of {name}")
        self.form = &self.table.half if half else &self.table.plain if name == "bf16" \
            else &self.table.split
        return 0

    cdef Py_ssize_t step_bytes(self, Py_ssize_t column_blocks) noexcept nogil:
        """Bytes of one step of the reduction for so many blocks of 16 columns."""
        return 2 * CK_TILE_COLUMNS * self.depth * self.form.planes * column_blocks

    cdef Py_ssize_t block_bytes(self) noexcept nogil:
        """Bytes from one block of 32 columns to the next."""
        return self.batch * self.steps * self.step_bytes(2)


# Blocks that are packed at a time, at most, of weights that are read part by part.
cdef Py_ssize_t MOST_BLOCKS = 8


# Taps that are gathered at a time where they lie side by side, and values that are fetched before:
# they lie pages apart in one direction, where the processor does not see what comes next.
cdef enum:
    MOST_BESIDE = 16
    VALUES_AHEAD = 16
# The same where a column's or a row's values are all that lie side by side: floats of each column, and
# tiles of rows.
cdef enum:
    FLOATS_AHEAD = 96
    TILES_AHEAD = 3


cdef struct PackJob:
    const float* source
    const Py_ssize_t* offsets      # of each value of the reduction
    const ck_tile_form* form
    char* target
    Py_ssize_t columns, blocks, batch, k, steps, depth, block_bytes, group_step, column_step
    int* infinite                  # per block
    float scale
    const ck_transpose_table* transpose
    bint run                       # a column's values of the reduction lie side by side
    Py_ssize_t begin               # the first block to pack
    Py_ssize_t beside              # taps of a value that lie side by side, or 0: see `_pack_taps`
    int taps[MOST_BESIDE]          # which of the reduction's taps these are, or -1
    Py_ssize_t n_taps, merged, values, depth_step       # values of a tap


cdef void _gather_weights(const PackJob* job, const float* source, const Py_ssize_t* offsets,
                          Py_ssize_t k, Py_ssize_t columns, float* rows) noexcept nogil:
    """Copy the weights of one tile: a row of 16 columns for each value of the reduction."""
    cdef Py_ssize_t column, d, first
    if k < job.depth or columns < CK_TILE_COLUMNS:
        memset(rows, 0, job.depth * CK_TILE_COLUMNS * 4)
    if job.run:
        for first in range(0, k, 16):
            _turn_weights(job, source + offsets[first], columns, min(16, k - first),
                          rows + first * CK_TILE_COLUMNS)
    elif job.column_step == 1:
        _copy_weights(source, offsets, k, columns, rows)
    else:
        for d in range(k):
            for column in range(columns):
                rows[d * CK_TILE_COLUMNS + column] = source[column * job.column_step + offsets[d]]


cdef inline void _turn_weights(const PackJob* job, const float* source, Py_ssize_t columns,
                               Py_ssize_t values, float* rows) noexcept nogil:
    """Copy up to 16 values of each column, which lie side by side."""
    cdef void* targets[16]
    cdef Py_ssize_t i
    for i in range(columns):
        __builtin_prefetch(source + i * job.column_step + FLOATS_AHEAD, 0, 2)
    for i in range(16):
        targets[i] = rows + i * CK_TILE_COLUMNS
    job.transpose.to_vectors[0](source, job.column_step, <int>columns, <int>values, targets)


cdef inline void _copy_weights(const float* source, const Py_ssize_t* offsets, Py_ssize_t k,
                               Py_ssize_t columns, float* rows) noexcept nogil:
    """Copy the columns of each value of the reduction, which lie side by side."""
    cdef Py_ssize_t d, ahead = TILES_AHEAD * (offsets[k - 1] - offsets[0])
    for d in range(k):
        # Rows may lie pages apart.
        __builtin_prefetch(source + offsets[d] + ahead, 0, 2)
        if columns == CK_TILE_COLUMNS:
            memcpy(rows + d * CK_TILE_COLUMNS, source + offsets[d], 64)     # no call
        else:
            memcpy(rows + d * CK_TILE_COLUMNS, source + offsets[d], columns * 4)


cdef int _pack_taps(const PackJob* job, const float* source, Py_ssize_t columns, Py_ssize_t tiles,
                    char* target) noexcept nogil:
    """Pack one tile's columns where all taps of a value lie side by side: all from the same lines.

    Returns whether a weight is infinite or NaN.
    """
    cdef float rows[MOST_BESIDE * 32 * 16]
    cdef void* targets[MOST_BESIDE]
    cdef Py_ssize_t tile = CK_TILE_COLUMNS * job.depth, first = 0, d, i, step
    cdef int infinite = 0
    while first < job.values:
        for d in range(job.depth):
            for i in range(columns):
                __builtin_prefetch(source + (first + d + VALUES_AHEAD) * job.depth_step
                                   + i * job.column_step, 0, 2)
            for i in range(job.beside):
                targets[i] = NULL if job.taps[i] < 0 \
                    else rows + job.taps[i] * tile + d * CK_TILE_COLUMNS
            job.transpose.to_vectors[0](source + (first + d) * job.depth_step, job.column_step,
                                        <int>columns, <int>job.beside, targets)
        for i in range(job.n_taps):
            step = i // job.merged * job.steps + (i % job.merged * job.values + first) // job.depth
            infinite |= job.form.pack(rows + i * tile, job.depth,
                                      target + step * 2 * tiles * tile * job.form.planes,
                                      2 * tiles * tile, job.scale)
        first += job.depth
    return infinite


cdef int _find_taps(PackJob* job, steps, Py_ssize_t merged, Py_ssize_t depth,
                    Py_ssize_t depth_step) except -1:
    """Describe taps that lie side by side, of reductions whose steps are of one tap each."""
    cdef Py_ssize_t beside = min(job.column_step, depth_step), i
    job.beside = 0
    if not 1 < beside <= MOST_BESIDE or depth % job.depth or max(steps) >= beside:
        return 0
    job.beside, job.n_taps = beside, len(steps)
    job.merged, job.values, job.depth_step = merged, depth, depth_step
    for i in range(beside):
        job.taps[i] = -1
    for i in range(job.n_taps):
        job.taps[<Py_ssize_t>steps[i]] = <int>i
    return 0


cdef void _pack_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Pack one block of up to 32 columns of one group."""
    cdef PackJob* job = <PackJob*>ctx
    index += job.begin
    cdef Py_ssize_t group = index // job.blocks
    cdef Py_ssize_t first = index % job.blocks * COLUMNS
    cdef Py_ssize_t tiles = 2 if job.columns - first > CK_TILE_COLUMNS else 1
    cdef Py_ssize_t size = CK_TILE_COLUMNS * job.depth
    cdef Py_ssize_t i, step, tile, column
    cdef char* target = job.target + index * job.block_bytes
    cdef const float* source = job.source + group * job.group_step
    cdef float rows[32 * 16]
    job.infinite[index] = 0
    if job.beside:
        for tile in range(tiles):
            column = first + tile * CK_TILE_COLUMNS
            job.infinite[index] |= _pack_taps(job, source + column * job.column_step,
                                              min(CK_TILE_COLUMNS, job.columns - column), tiles,
                                              target + 2 * tile * size)
        return
    for i in range(job.batch):
        for step in range(job.steps):
            for tile in range(tiles):
                column = first + tile * CK_TILE_COLUMNS
                _gather_weights(job, source + column * job.column_step,
                                job.offsets + i * job.k + step * job.depth,
                                min(job.depth, job.k - step * job.depth),
                                min(CK_TILE_COLUMNS, job.columns - column), rows)
                job.infinite[index] |= job.form.pack(rows, job.depth, target + 2 * tile * size,
                                                     2 * tiles * size, job.scale)
            target += 2 * tiles * size * job.form.planes


def pack(source, Py_ssize_t groups, Py_ssize_t columns, Py_ssize_t depth, tap_steps,
         Py_ssize_t merged, Py_ssize_t group_step, Py_ssize_t column_step,
         Py_ssize_t depth_step, str form, int threads, Packed like=None):
    """Pack float32 weights for tiles.

    Element (group, tap, depth, column) is read at ``group * group_step + tap_steps[tap] +
    depth * depth_step + column * column_step`` of the flat C-contiguous `source`, which may also
    be what `gemm.parts_of` takes.

    Parameters
    ----------
    merged : int
        How many neighbouring taps form one reduction; divides the number of taps. More
        than 1 only with one group.
    form : "bf16", "split_bf16" or "fp16"
    threads : int
    like : Packed, optional
        The same weights in another order: they are not looked through again for their scale.

    Returns
    -------
    Packed
    """
    steps = np.array(tap_steps, dtype=np.intp)
    cdef Packed packed = Packed.__new__(Packed)
    packed.find(form)
    packed.groups = groups
    packed.columns = columns
    packed.blocks = (columns + COLUMNS - 1) // COLUMNS
    packed.merged = merged
    packed.batch = steps.size // merged
    packed.k = merged * depth
    packed.steps = (packed.k + CK_TILE_DEPTH - 1) // CK_TILE_DEPTH
    # Steps of equal depth: the last is not mostly zeros.
    packed.depth = (packed.k + packed.steps - 1) // packed.steps
    packed.depth += packed.depth % 2
    packed.array = memory.empty((groups * packed.blocks * packed.block_bytes() // 2,), np.uint16)
    packed.pointer = <char*>address(packed.array)
    offsets = np.ascontiguousarray(
        (steps[:, None] + depth_step * np.arange(depth, dtype=np.intp)).ravel())
    infinite = np.empty(groups * packed.blocks, np.intc)
    cdef PackJob job
    job.offsets = <const Py_ssize_t*>address(offsets)
    job.form = packed.form
    packed.shift = _shift(_peak(source, job.form), WEIGHT_EXPONENT) if like is None else like.shift
    job.scale = ldexpf(1, packed.shift)
    job.transpose = dispatch.table().transpose
    job.run = depth_step == 1 and packed.merged == 1
    job.target = packed.pointer
    job.columns = columns
    job.blocks = packed.blocks
    job.batch = packed.batch
    job.k = packed.k
    job.steps = packed.steps
    job.depth = packed.depth
    job.block_bytes = packed.block_bytes()
    job.group_step = group_step
    job.column_step = column_step
    _find_taps(&job, tap_steps, merged, depth, depth_step)
    job.infinite = <int*>address(infinite)
    cdef int team = threads_for(threads, groups * packed.blocks, <double>packed.array.size * 4)
    cdef Py_ssize_t count = groups * packed.blocks
    cdef bint by_columns = groups == 1 and column_step >= depth_step and source.shape[0] == columns
    for first, part in parts_of(source, COLUMNS * min(team, MOST_BLOCKS) if by_columns else 0):
        job.source = <const float*>(address(part) - <size_t>(first * column_step * 4))
        job.begin = first // COLUMNS
        if by_columns:
            count = (len(part) + COLUMNS - 1) // COLUMNS
        with nogil:
            parallel_for(_pack_task, &job, count, team)
    packed.finite = not infinite.any()
    return packed


cdef uint32_t _peak(source, const ck_tile_form* form) except? 0xffffffff:
    """Return the bits of the largest finite magnitude of weights, for a form that scales them."""
    cdef uint32_t peak = 0
    cdef const float* values
    cdef Py_ssize_t n
    if form.peak != NULL:
        for _, part in parts_of(source, COLUMNS * MOST_BLOCKS):
            values, n = <const float*>address(part), part.size
            with nogil:
                peak = form.peak(values, n, peak)
    return peak


# -- convolution ----------------------------------------------------------------------------


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
    Py_ssize_t in_row, row_block                    # blocks of a row and their size, or 0: see `_cut_row`
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


cdef struct Pair:
    # Two blocks of positions of a strip.
    ptrdiff_t rows[32]              # where their results go
    Py_ssize_t at, next             # the first position, and from there to the second block's
    int tiles                       # blocks there are
    Py_ssize_t done                 # the grid row up to which results are there after them


cdef int _strip_shift(Job* job, const char* image, Py_ssize_t row,
                      Py_ssize_t last) noexcept nogil:
    """Return by which power of two rows of an image are scaled."""
    row, last = max(row, 0), min(last, job.in_h)
    cdef Py_ssize_t n = max(0, last - row) * job.in_w * job.in_c
    return _shift(job.form.peak(<const float*>image + row * job.x_row, n, 0), STRIP_EXPONENT)


cdef struct Filling:
    # How far a task's strip is converted.
    const Job* job
    const char* image
    int (*convert)(const void* x, ptrdiff_t n, void* high, ptrdiff_t low,
                   float scale, ptrdiff_t apart) noexcept nogil
    char* strip
    Py_ssize_t block                # positions of a block, where blocks are laid out as tiles
    Py_ssize_t row_first            # of the image, the strip's row 0
    Py_ssize_t row, at              # rows that are done, and values of the next one
    Py_ssize_t last                 # rows to convert
    Py_ssize_t piece                # values to convert with each step of the products
    float scale
    bint infinite                   # whether there was an infinity or NaN


cdef void _begin_row(Filling* f, Py_ssize_t* inside, Py_ssize_t* target,
                     Py_ssize_t* source) noexcept nogil:
    """Find what of an image row goes into the next row of the strip; where it begins, write zeros
    around it.
    """
    cdef const Job* job = f.job
    cdef Py_ssize_t row = f.row_first + f.row
    cdef Py_ssize_t left = max(0, min(-job.col_lo, job.strip_width)) * job.in_c
    cdef Py_ssize_t skip = max(0, job.col_lo)
    # Only where pixels of all samples are laid in rows is the last row a shorter one.
    cdef Py_ssize_t width = job.last_w if (row == job.in_h - 1
                                           and job.last_w < job.grid_w) else job.in_w
    cdef Py_ssize_t at = (f.row % job.stride_h * job.plane_values
                          + f.row // job.stride_h * job.row_values)
    cdef Py_ssize_t plane
    cdef uint16_t* to
    inside[0] = max(0, min(width - skip, job.strip_width - left // job.in_c)) * job.in_c
    if row < 0 or row >= job.in_h:
        left, inside[0] = 0, 0
    target[0] = at + left
    source[0] = row * job.x_row + skip * job.x_column
    if f.at:
        return
    for plane in range(job.form.planes):
        to = <uint16_t*>f.strip + plane * job.strip_values + at
        memset(to, 0, left * 2)
        # What lies behind the row is read, times zero, until the next row is there.
        memset(to + left + inside[0], 0,
               (job.row_values - left - inside[0] + CK_TILE_DEPTH) * 2)


cdef void _fill(Filling* f, Py_ssize_t values) noexcept nogil:
    """Convert so many more values of the image, or what is left of the rows to convert."""
    cdef const Job* job = f.job
    cdef Py_ssize_t inside, target, source, count
    while f.row < f.last and values > 0:
        _begin_row(f, &inside, &target, &source)
        count = min(inside - f.at, values)
        if job.x_column != job.in_c:            # pixels that are read lie apart
            count = min(count, job.in_c - f.at % job.in_c)
            source += f.at // job.in_c * (job.x_column - job.in_c)
        if count:
            f.infinite |= f.convert(
                f.image + (source + f.at) * job.x_item, count,
                <uint16_t*>f.strip + target + f.at, 2 * job.strip_values, f.scale,
                CK_TILE_DEPTH) != 0
        values -= max(count, <Py_ssize_t>CK_TILE_DEPTH)
        f.at += count
        if f.at == inside:
            f.row += 1
            f.at = 0


cdef void _fill_tiles(Filling* f, Py_ssize_t values) noexcept nogil:
    """The same where blocks of positions are laid out as tiles."""
    cdef const Job* job = f.job
    cdef Py_ssize_t width, position, channel, target, count
    while f.row < f.last and values > 0:
        width = job.last_w if f.row_first + f.row == job.in_h - 1 else job.in_w
        position, channel = f.row * job.in_w + f.at // job.in_c, f.at % job.in_c
        count = min(job.in_c - channel, values)
        target = (position // f.block * job.proto.steps + channel // CK_TILE_DEPTH) * TILE \
            + position % f.block * CK_TILE_DEPTH
        f.infinite |= f.convert(
            f.image + ((f.row_first + f.row) * job.x_row + f.at) * job.x_item, count,
            <uint16_t*>f.strip + target, 2 * job.strip_values, f.scale, TILE) != 0
        values -= count
        f.at += count
        if f.at == width * job.in_c:
            f.row += 1
            f.at = 0


cdef void _fill_piece(void* filling) noexcept nogil:
    """Convert a piece of what the next blocks of positions need."""
    cdef Filling* f = <Filling*>filling
    if f.row < f.last:
        if f.job.as_tiles:
            _fill_tiles(f, f.piece)
        else:
            _fill(f, f.piece)


cdef void _run_blocks(Job* job, ck_tile_args* args, int tiles, bint infinite,
                      Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Multiply one or two blocks of positions with some blocks of columns."""
    cdef const char* a = args.a
    cdef Py_ssize_t b, group, column
    cdef int wide
    for b in range(first, last):
        group = b // job.blocks
        column = b % job.blocks * COLUMNS           # within the group
        args.n = <int>min(COLUMNS, job.out_group - column)
        wide = args.n > CK_TILE_COLUMNS
        args.a = a + 2 * group * job.in_group
        args.b = job.weights + b * job.block_bytes
        column += group * job.out_group
        args.c = job.y + column * job.y_item
        args.bias = job.bias + column if job.bias != NULL else NULL
        args.residual = NULL if job.residual == NULL else \
            job.residual + column * job.residual_item
        if infinite:
            job.form.exact[tiles - 1][wide](args)
        else:
            job.form.run[tiles - 1][wide](args)


cdef void _gather_rows(const Job* job, Py_ssize_t part, Py_ssize_t origin, Py_ssize_t row,
                       Py_ssize_t stop, bint begin, Py_ssize_t first_block,
                       Py_ssize_t last_block) noexcept nogil:
    """Gather the moments of rows that a task has finished."""
    cdef Py_ssize_t column = first_column(first_block, job.blocks, job.out_group, COLUMNS)
    cdef Py_ssize_t channels = first_column(last_block, job.blocks, job.out_group,
                                            COLUMNS) - column
    while row < stop:
        add_pixels(job.gathered, part, begin, column, channels, job.y + (
            (origin + row * job.step_h * job.out_w) * job.y_pixel + column) * job.y_item, 1,
            job.last_w if row == job.grid_h - 1 else job.grid_w, 0, job.step_w * job.y_pixel)
        begin = False
        row += 1


cdef void _spread(Filling* f, ck_tile_args* args, Py_ssize_t blocks) noexcept nogil:
    """Have the rows that the next blocks need converted while so many blocks are multiplied."""
    cdef const Job* job = f.job
    cdef Py_ssize_t values = (f.last - f.row) * job.in_w * job.in_c
    cdef Py_ssize_t steps = blocks * args.batch * args.steps
    # Where a reduction is shorter than its steps, products read, times zero, into rows that are not
    # needed yet: nothing may be there of which it is not known whether it is finite.
    if f.row < f.last and args.k == args.steps * args.depth:
        args.aside = _fill_piece
        f.piece = (values // steps + PIECE) // PIECE * PIECE


# Pairs of blocks of positions of a strip that is laid out as tiles, at most.
cdef enum:
    MOST_PAIRS = 4


cdef struct Task:
    # A strip of a sample, times a chunk of the weights.
    Job* job
    ck_tile_args args
    ck_tile_queue queue
    Filling filling
    # The next pair, this one, and the one whose last results wait in the queue, in turns; or all.
    Pair pairs[MOST_PAIRS]
    Py_ssize_t first, last          # rows of the grid
    Py_ssize_t origin               # the grid's first pixel in y
    Py_ssize_t positions, blocks
    Py_ssize_t part                 # of the gathered moments


cdef Py_ssize_t _place_rows(const Task* t, ptrdiff_t* rows, Py_ssize_t at) noexcept nogil:
    """Find where a block's positions, from the strip's `at` on, lie in y; return the last row."""
    cdef const Job* job = t.job
    cdef Py_ssize_t row = t.first + at // job.pitch, column = at % job.pitch, real = row
    cdef Py_ssize_t count = t.args.rows, width, run, m
    cdef ptrdiff_t place, step = job.step_w * job.y_pixel
    while True:
        # A run of pixels, then the positions that straddle this row and the next.
        width = job.last_w if row == job.grid_h - 1 else job.grid_w
        run = max(0, min(count, width - column))
        place = (t.origin + row * job.step_h * job.out_w + column * job.step_w) * job.y_pixel
        for m in range(run):
            rows[m] = place + m * step
        if run:
            real = row
        rows += run
        count -= run
        run = count if row + 1 == t.last else min(count, job.pitch - max(column, width))
        for m in range(run):
            rows[m] = -1
        rows += run
        count -= run
        if not count:
            return real
        column = 0
        row += 1


cdef void _leave_out(ptrdiff_t* rows, Py_ssize_t count) noexcept nogil:
    """Write nothing to a block's first rows, which the block before has written.

    Where results are added to what lies in y, they would be added twice.
    """
    cdef Py_ssize_t m
    for m in range(count):
        rows[m] = -1


cdef Py_ssize_t _block_at(const Task* t, Py_ssize_t i, Py_ssize_t* before) noexcept nogil:
    """Return the first position of block i of a strip, and how many of its own the block before has.

    The last block, of a row or of all positions, is moved back to end where these do.
    """
    cdef const Job* job = t.job
    cdef Py_ssize_t rows = t.args.rows, row = 0, last = t.positions - rows
    if job.in_row:
        row, i, last = i // job.in_row * job.pitch, i % job.in_row, job.grid_w - rows
    elif job.as_tiles:                  # blocks lie apart
        last = EVERYTHING
    before[0] = max(0, i * rows - last)
    return row + i * rows - before[0]


cdef Py_ssize_t _place_pair(const Task* t, Py_ssize_t i, Pair* pair) noexcept nogil:
    """Place blocks i and i + 1 of a strip; return how many of its rows they read."""
    cdef const Job* job = t.job
    cdef Py_ssize_t needed, second, before, rows = t.args.rows
    pair.at = second = _block_at(t, i, &before)
    pair.tiles = 2 if i + 1 < t.blocks else 1
    needed = _place_rows(t, pair.rows, pair.at)
    _leave_out(pair.rows, before)
    if pair.tiles == 2:
        second = _block_at(t, i + 1, &before)
        needed = _place_rows(t, pair.rows + rows, second)
        _leave_out(pair.rows + rows, before)
    pair.next = second - pair.at
    if i + 2 >= t.blocks:
        pair.done = t.last
    else:
        pair.done = t.first + ((i + 2) // job.in_row if job.in_row else (second + rows) // job.pitch)
    return (needed - t.first) * job.stride_h + job.row_hi - job.row_lo + 1


cdef void _begin(Task* t, Job* job, Py_ssize_t sample, Py_ssize_t strip,
                 char* scratch) noexcept nogil:
    """Set a task up."""
    cdef Filling* filling = &t.filling
    cdef int shift
    t.job = job
    t.args = job.proto
    t.first = part_start(job.grid_h, job.strips, strip)
    t.last = part_start(job.grid_h, job.strips, strip + 1)
    t.origin = (sample * job.out_h + job.start_h) * job.out_w + job.start_w
    t.positions = (t.last - 1 - t.first) * job.pitch
    t.positions += job.last_w if t.last == job.grid_h else job.grid_w
    # Blocks of equal size: the last is not mostly rows of the one before.
    if job.in_row:
        t.blocks = (t.last - t.first) * job.in_row
        t.args.rows = <int>job.row_block
    else:
        t.blocks = (t.positions + job.form.most_rows - 1) // job.form.most_rows
        t.args.rows = <int>((t.positions + t.blocks - 1) // t.blocks)
    t.part = sample * job.strips + strip
    t.queue.filled = t.queue.rows = t.queue.done = 0
    t.args.queue = &t.queue
    t.args.of = filling
    filling.job = job
    filling.image = job.x + sample * job.x_sample * job.x_item
    filling.convert = job.form.convert if job.x_item == sizeof(float) else job.form.copy
    filling.strip = scratch
    filling.row_first = t.first * job.stride_h + job.row_lo
    filling.row = filling.at = 0
    filling.block = t.args.rows
    filling.infinite = False
    filling.scale = 1
    if job.form.peak != NULL:
        shift = _strip_shift(job, filling.image, filling.row_first,
                             (t.last - 1) * job.stride_h + job.row_hi + 1)
        filling.scale = ldexpf(1, shift)
        shift += job.shift
        t.args.scale[0] = ldexpf(1, -(shift // 2))
        t.args.scale[1] = ldexpf(1, -(shift - shift // 2))


cdef void _multiply(Task* t, Py_ssize_t first_block, Py_ssize_t last_block) noexcept nogil:
    """Multiply all pairs of blocks of positions with some blocks of columns."""
    cdef Job* job = t.job
    cdef ck_tile_args* args = &t.args
    cdef Pair* pair
    cdef Py_ssize_t i, done, gathered = t.first
    cdef bint infinite
    t.filling.last = _place_pair(t, 0, &t.pairs[0])
    for i in range(0, t.blocks, 2):
        pair = &t.pairs[i // 2 % 3]
        args.aside = NULL
        if job.direct:
            # No product is read beyond a reduction, so that `run` is exact.
            infinite = False
            args.a = job.x + (t.first * job.grid_w + pair.at) * args.lda
        else:
            _fill(&t.filling, EVERYTHING)
            infinite = t.filling.infinite
            args.a = t.filling.strip + pair.at * args.lda
        if i + 2 < t.blocks:
            t.filling.last = _place_pair(t, i + 2, &t.pairs[(i // 2 + 1) % 3])
            if not job.direct:
                _spread(&t.filling, args, last_block - first_block)
        args.a_next = pair.next * args.lda
        args.c_rows = pair.rows
        args.b_ahead = job.proto.b_ahead if i == 0 else 0
        _run_blocks(job, args, pair.tiles, infinite, first_block, last_block)
        if job.gathered != NULL and i > 0:
            # Of the pair before: this one's last results wait in the queue.
            done = t.pairs[(i // 2 - 1) % 3].done
            _gather_rows(job, t.part, t.origin, gathered, done, gathered == t.first, first_block,
                         last_block)
            gathered = done
    if job.form.flush != NULL:
        job.form.flush(args)
    if job.gathered != NULL:
        _gather_rows(job, t.part, t.origin, gathered, t.last, gathered == t.first, first_block,
                     last_block)


cdef void _multiply_tiles(Task* t, Py_ssize_t first_block, Py_ssize_t last_block) noexcept nogil:
    """The same as `_multiply`, of a strip that is laid out as tiles.

    It is converted while the first block of columns is multiplied. Then all of its positions are
    multiplied with one block of columns after the other: these come from the last cache only once.
    Rows of the last block that are no positions hold anything: their sums go nowhere.
    """
    cdef Job* job = t.job
    cdef ck_tile_args* args = &t.args
    cdef Pair* pair
    cdef Py_ssize_t i, b, pair_bytes = job.proto.steps * 4 * TILE
    args.a_next = job.proto.steps * 2 * TILE
    t.filling.last = _place_pair(t, 0, &t.pairs[0])
    for b in range(first_block, last_block):
        for i in range(0, t.blocks, 2):
            pair = &t.pairs[i // 2]
            args.aside = NULL
            if b == first_block:
                _fill_tiles(&t.filling, EVERYTHING)
                if i + 2 < t.blocks:
                    t.filling.last = _place_pair(t, i + 2, pair + 1)
                    _spread(&t.filling, args, 1)
            args.b_ahead = job.proto.b_ahead if i == 0 else 0
            args.a = t.filling.strip + i // 2 * pair_bytes
            args.c_rows = pair.rows
            _run_blocks(job, args, pair.tiles, t.filling.infinite, b, b + 1)
    job.form.flush(args)
    if job.gathered != NULL:
        _gather_rows(job, t.part, t.origin, t.first, t.last, True, first_block, last_block)


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    # Chunks are outermost, so that their weights stay in cache from sample to sample.
    cdef Py_ssize_t strip = index % job.strips
    cdef Py_ssize_t sample = index // job.strips % job.samples
    cdef Py_ssize_t chunk = index // (job.strips * job.samples)
    cdef Task task
    _begin(&task, job, sample, strip, job.scratch + slot * job.scratch_bytes)
    cdef Py_ssize_t first = part_start(job.all_blocks, job.chunks, chunk)
    cdef Py_ssize_t last = part_start(job.all_blocks, job.chunks, chunk + 1)
    if job.table.configure != NULL:
        job.table.configure(task.args.rows, <int>task.args.depth)
    if job.as_tiles:
        _multiply_tiles(&task, first, last)
    else:
        _multiply(&task, first, last)
    if job.table.release != NULL:
        job.table.release()


cdef tuple _describe(Job* job, x_shape, Packed weights, y_shape, rows, cols, stride, grid, step,
                     start, int activation, double alpha, double beta, narrow=NOTHING_NARROW):
    """Fill in all but the pointers to arrays and what depends on the number of samples.

    Shapes are those of a sample. Returns what must be kept as long as the job.
    """
    if any(narrow) and weights.form.copy == NULL:
        raise ValueError(f"bfloat16 operands are for products of bf16, not of {weights.name}")
    job.x_item, job.residual_item, job.y_item = [2 if n else 4 for n in narrow]
    job.in_h, job.in_w, job.in_c = x_shape
    job.out_h, job.out_w, job.out_c = y_shape
    job.y_pixel = job.out_c
    job.gathers = False
    job.gathered = NULL
    job.grid_h, job.grid_w = y_shape[:2] if grid is None else grid
    job.table = weights.table
    job.form = weights.form
    job.shift = weights.shift
    job.weights = weights.pointer
    job.x_sample, job.x_row, job.x_column = (
        job.in_h * job.in_w * job.in_c, job.in_w * job.in_c, job.in_c)
    job.stride_h, job.stride_w = stride
    job.step_h, job.step_w = step
    job.start_h, job.start_w = start
    job.row_lo, job.row_hi = rows[0], rows[-1]
    job.col_lo = cols[0]
    if len(rows) == len(cols) == 1 and job.form.peak == NULL:
        _pick(job)
    job.in_group = job.in_c // weights.groups
    job.out_group = job.out_c // weights.groups
    job.blocks = weights.blocks
    job.all_blocks = weights.blocks * weights.groups
    job.block_bytes = weights.block_bytes()
    job.pointwise = _is_pointwise(job, len(rows), len(cols))
    tileable = (job.pointwise and job.form.peak == NULL and weights.groups == 1
                and weights.steps >= LEAST_STEPS and weights.k == weights.steps * CK_TILE_DEPTH)
    # Vectors read a row's numbers one by one, which pixels pages apart would push out of the cache.
    apart = job.form.least_rows and 2 * job.in_c % PAGE == 0
    job.direct = (job.pointwise and narrow[0] and weights.k == weights.steps * weights.depth
                  and not (tileable and apart))
    job.as_tiles = tileable and not job.direct
    job.strip_width = (job.grid_w - 1) * job.stride_w + cols[-1] - cols[0] + 1
    starts = cols[::weights.merged]
    taps = np.array([*[r - rows[0] for r in rows], *[c - cols[0] for c in starts]], np.intp)
    job.taps = <const Py_ssize_t*>address(taps)
    job.taps_h, job.taps_w = len(rows), len(starts)
    job.proto.batch = weights.batch
    job.proto.k = weights.k
    job.proto.steps = weights.steps
    job.proto.depth = weights.depth
    job.proto.a_step = 2 * (TILE if job.as_tiles else weights.depth)
    job.proto.narrow_residual, job.proto.narrow_c = narrow[1], narrow[2]
    job.proto.activation = activation
    job.proto.map = activation_map(activation, False)
    job.proto.alpha = <float>alpha
    job.proto.beta = <float>beta
    return weights, taps


cdef size_t _for_samples(Job* job, Py_ssize_t samples, int threads) noexcept nogil:
    """Fill in what depends on the number of samples; return the bytes of scratch.

    These are the threads' strips, then the taps' offsets.
    """
    cdef Py_ssize_t tasks
    job.samples = samples
    job.last_w = job.grid_w
    # Scales are a sample's own, so that pixels of several samples are never in one strip.
    if job.pointwise and job.form.peak == NULL:
        _lay_in_rows(job)
        job.strip_width = job.grid_w
    _cut(job, threads)
    job.proto.a_low = 2 * job.strip_values
    job.proto.lda = 2 * (CK_TILE_DEPTH if job.as_tiles else job.stride_w * job.in_c)
    tasks = job.samples * job.strips * job.chunks
    job.team = threads_for(threads, tasks, _work(job))
    job.proto.b_ahead = AHEAD if (job.all_blocks * job.block_bytes > FAR_WEIGHTS
                                  and job.samples * job.strips <= FEW_TIMES * job.team) else 0
    return job.team * job.scratch_bytes + job.taps_h * job.taps_w * sizeof(ptrdiff_t)


cdef double _work(const Job* job) noexcept nogil:
    """Return what a call costs, for `threads_for`."""
    cdef double products = (<double>job.samples * job.grid_h * job.grid_w * job.out_c
                            * job.proto.batch * job.proto.k)
    return (products * (2 * job.form.planes - 1) / job.table.products_per_step
            + <double>job.all_blocks * job.block_bytes / BYTES_PER_STEP)


cdef void _place_taps(Job* job) noexcept nogil:
    """Find where the taps lie in a strip, in bytes."""
    cdef Py_ssize_t r, c, row
    for r in range(job.taps_h):
        row = job.taps[r] % job.stride_h * job.plane_values \
            + job.taps[r] // job.stride_h * job.row_values
        for c in range(job.taps_w):
            job.offsets[r * job.taps_w + c] = 2 * (row + job.taps[job.taps_h + c] * job.in_c)


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    return _for_samples(&job, samples, threads)


cdef bint _is_far(const Job* job) noexcept nogil:
    """Tell whether results are stored past the caches, which would read their memory first."""
    cdef Py_ssize_t moved = job.samples * (job.in_h * job.in_w * job.in_c * job.x_item
                                           + job.out_h * job.out_w * job.out_c * job.y_item)
    cdef Py_ssize_t line = 64 // job.y_item
    return (moved >= job.table.far_bytes and job.gathered == NULL and <size_t>job.y % 64 == 0
            and job.y_pixel % line == 0 and job.out_group % line == 0)


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    _for_samples(&job, samples, threads)
    job.x = at[0]
    job.bias = <const float*>at[1]
    job.residual = at[2]
    job.y = at[3]
    job.proto.stream = _is_far(&job)
    job.scratch = scratch
    job.offsets = <ptrdiff_t*>(scratch + job.team * job.scratch_bytes)
    _place_taps(&job)
    job.proto.a_offsets = job.offsets
    parallel_for(_task, &job, job.samples * job.strips * job.chunks, job.team)
    return 0


def run(x, Packed weights, y, rows, cols, stride, *, grid=None, step=(1, 1), start=(0, 0),
        bias=None, residual=None, int activation=0, double alpha=0, double beta=0,
        Gathered gathered=None, int threads=1):
    """Compute every pixel of a grid of the output as a sum over taps.

    Arguments as for `direct.run`. x, residual and y are float32 or, with weights of the form
    "bf16", bfloat16 (uint16), each by itself.
    """
    cdef Job job, cut
    cdef char* at[4]
    if not (y.size and (grid is None or (grid[0] and grid[1]))):
        return
    kept = _describe(&job, x.shape[1:], weights, y.shape[1:], rows, cols, stride, grid, step,
                     start, activation, alpha, beta,
                     tuple([a is not None and a.itemsize == 2 for a in (x, residual, y)]))
    job.gathers = gathered is not None
    if gathered is not None:
        cut = job
        _for_samples(&cut, x.shape[0], threads)
        job.gathered = gathered.begin(cut.samples * cut.strips, job.out_c, job.y_item)
    at[0], at[1] = <char*>_address(x), <char*>_address(bias)
    at[2], at[3] = <char*>_address(residual), <char*>_address(y)
    launch(run_step, scratch_size, &job, at, x.shape[0], threads)


def step(x_shape, Packed weights, y_shape, rows, cols, stride, *, grid=None, step=(1, 1),
         start=(0, 0), int activation=0, double alpha=0, double beta=0, y_pixel=None,
         narrow=NOTHING_NARROW):
    """Return the same as a step of a Program; see `direct.step`.

    `narrow` tells which of x, residual and y are held as bfloat16, which only weights of the form
    "bf16" can.
    """
    cdef Job job
    kept = _describe(&job, x_shape, weights, y_shape, rows, cols, stride, grid, step, start,
                     activation, alpha, beta, narrow)
    job.y_pixel = job.out_c if y_pixel is None else y_pixel
    cdef Step made = new_step(run_step, scratch_size, &job, sizeof(Job), kept)
    made.adds_in_place = True
    return made


cdef float* _address(array):
    return NULL if array is None else <float*>address(array)


cdef bint _is_pointwise(Job* job, Py_ssize_t rows, Py_ssize_t cols):
    """Tell whether output pixel i is made of input pixel i alone, throughout."""
    return (rows == 1 and cols == 1 and job.row_lo == 0 and job.col_lo == 0
            and job.stride_h == 1 and job.stride_w == 1 and job.step_h == 1 and job.step_w == 1
            and job.grid_h == job.in_h == job.out_h and job.grid_w == job.in_w == job.out_w
            and job.x_column == job.in_c and job.x_row == job.in_w * job.in_c)


cdef void _pick(Job* job) noexcept nogil:
    """Take the pixels that one tap reads, where strides leave others out, for the whole image."""
    if job.row_lo or job.col_lo or (job.stride_h == 1 and job.stride_w == 1):
        return
    # Padding behind the image is read as zeros, which are not there.
    if ((job.grid_h - 1) * job.stride_h >= job.in_h
            or (job.grid_w - 1) * job.stride_w >= job.in_w):
        return
    job.x_row *= job.stride_h
    job.x_column *= job.stride_w
    job.in_h, job.in_w = job.grid_h, job.grid_w
    job.stride_h = job.stride_w = 1


cdef void _lay_in_rows(Job* job) noexcept nogil:
    """Lay the pixels of all samples in rows of two blocks, the last one shorter."""
    cdef Py_ssize_t pixels = job.samples * job.in_h * job.in_w
    job.samples = 1
    job.grid_w = job.in_w = job.out_w = min(PIXELS, pixels)
    job.x_row = job.in_w * job.in_c
    job.grid_h = job.in_h = job.out_h = (pixels + job.grid_w - 1) // job.grid_w
    job.last_w = pixels - (job.grid_h - 1) * job.grid_w


cdef void _cut_row(Job* job) noexcept nogil:
    """Cut rows into blocks of their own where that leaves fewer positions than those that straddle rows.

    Of forms that multiply any number of rows, and small blocks two at a time.
    """
    cdef Py_ssize_t most = job.form.most_rows
    job.in_row = 0
    if job.form.least_rows and not job.pointwise:
        job.in_row = (job.grid_w + most - 1) // most
        job.row_block = (job.grid_w + job.in_row - 1) // job.in_row
        if job.row_block * job.in_row > job.pitch or job.row_block < job.form.least_rows:
            job.in_row = 0


cdef void _cut(Job* job, int threads) noexcept nogil:
    """Choose strips and chunks from the sizes of the samples; lay a strip out.

    Where moments are gathered, strips do not depend on the number of threads.
    """
    cdef Py_ssize_t phases, tasks, each, most, near
    each = TASKS_PER_SAMPLE if job.form.peak == NULL else SCALED_TASKS_PER_SAMPLE
    # Each cut has rows, or weights, read by both sides.
    most = MOST_TASKS
    if not job.gathers:
        most = TASKS_PER_THREAD * threads if threads > 1 else 1
    tasks = min(each, (most + job.samples - 1) // job.samples)
    job.pitch = (job.strip_width + job.stride_w - 1) // job.stride_w
    job.row_values = job.pitch * job.stride_w * job.in_c
    _cut_row(job)
    cdef Py_ssize_t row_bytes = job.row_values * 2 * job.form.planes
    cdef Py_ssize_t extra = job.row_hi - job.row_lo + 1 - job.stride_h
    cdef Py_ssize_t rows = max(4, (job.grid_h + each - 1) // each)
    near = (NEAR_BYTES // max(1, row_bytes) - extra) // job.stride_h
    rows = max(rows, min(near, (job.grid_h + tasks - 1) // tasks))
    rows = min(rows, (STRIP_BYTES // max(1, row_bytes) - extra) // job.stride_h)
    rows = max(rows, (POSITIONS + job.pitch - 1) // job.pitch)
    if job.as_tiles:
        rows = max(2, min(TILED_BYTES // row_bytes, 2 * MOST_PAIRS * job.form.most_rows // job.pitch))
    rows = max(1, min(rows, job.grid_h))
    job.strips = (job.grid_h + rows - 1) // rows
    # As many for each of two threads. Tiles keep the cut that was measured with them.
    if job.form.least_rows and 2 < job.strips < job.grid_h:
        job.strips += job.strips % 2
    rows = (job.grid_h + job.strips - 1) // job.strips
    # Rows of one phase of the stride; then what the last of them may be read beyond.
    phases = min(job.stride_h, rows * job.stride_h + max(extra, 0))
    rows = (rows * job.stride_h + max(extra, 0) + job.stride_h - 1) // job.stride_h
    job.plane_values = (rows * job.row_values + CK_TILE_DEPTH + 31) // 32 * 32
    # Positions that straddle two rows reach up to a row further.
    job.strip_values = job.plane_values * phases + (job.row_values + 31) // 32 * 32
    if job.as_tiles:
        job.strip_values = ((rows * job.pitch + job.form.most_rows - 1) // job.form.most_rows
                            * job.proto.steps * TILE)
    job.scratch_bytes = 0 if job.direct else \
        (job.strip_values * 2 * job.form.planes + 63) // 64 * 64
    cdef Py_ssize_t weights = job.all_blocks * job.block_bytes, chunks
    if job.as_tiles:
        # Each chunk converts the input anew, and goes through its weights once for each strip.
        chunks, tasks = 1, min(tasks, 2 * threads)
    else:
        chunks = max(weights // CHUNK_BYTES,
                     min(weights // LEAST_CHUNK_BYTES, (each + job.strips - 1) // job.strips))
    chunks = max(chunks, (tasks + job.strips - 1) // job.strips)
    job.chunks = max(1, min(job.all_blocks, chunks))

