"""Gradient of convolution weights on bfloat16, tiles (AMX) or vectors: c/tilegrad.h.

The reduction runs over pixels, 32 at a time, and a tap of the kernel only moves the input against
the output's gradient. So both are laid out as one long sequence of positions: rows of all
samples, one behind the other at one distance (`pitch`), with blank positions behind each row and
blank rows behind each sample that serve the padding of both neighbours. The output's gradient is
zero at blank positions, so that what a tap meets there does not matter; the input is zero there,
which makes them the padding. With a stride, pixels one stride apart are neighbours, and each
phase of the stride is a sequence (a plane) of its own.

A pair of pixels is one element of a tile, so that a tap that moves by an odd number of positions
reads pairs that begin one pixel later: such a plane is kept in both forms. Where there are few
input channels, the taps of a kernel row are taken together as so many more channels.

Positions are converted in stages of a few hundred. Where there are many for the size of the
result, ranges of them (parts) are summed apart, each by one thread that converts what it needs
into its own cache; the parts are added in order. Else all threads convert a stage together, and
then each reduces it to its own units of the result. The cut depends on the problem alone, never
on the number of threads, so neither do the bits.

Magnitudes are watched while values are converted: where an infinity, NaN, or products near the ends
of float32's range could come out in another way than in float32, the caller is told to compute in
another way.

The input may also be what is kept of it for backward (`ops.kept`): bfloat16, or what numbers are made
from while they are converted, so that they are never in memory as floats. The output's gradient may
be bfloat16 as well.
"""

import numpy as np

from convkit._kernels import memory, norm
from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.gemm cimport part_start
from convkit._kernels.memory cimport give, take
from convkit._kernels.strips cimport Source, fill_strip
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint32_t
from libc.string cimport memset

cdef extern from "tilegrad.h" nogil:
    ctypedef struct ck_tilegrad_args:
        const char* a
        const char* b[4]
        ptrdiff_t steps
        float* c
        int accumulate
        void (*aside)(void* of) noexcept nogil
        void* of
    ctypedef void (*ck_tilegrad_fn)(const ck_tilegrad_args*) noexcept nogil
    ctypedef struct ck_tilegrad_maker:
        const float* center
        const float* scale
        const float* shift
        float low, high
        const char* blank
    ctypedef uint32_t (*ck_tilegrad_pairs_fn)(
        const char* const* pixels, const char* const* next, ptrdiff_t channel, int channels,
        char* to, ptrdiff_t odd, const ck_tilegrad_maker* maker) noexcept nogil
    ctypedef uint32_t (*ck_tilegrad_turned_fn)(
        const char* const* pixels, const char* const* next, ptrdiff_t channel, int channels,
        char* to, ptrdiff_t low) noexcept nogil
    ctypedef uint32_t (*ck_tilegrad_lines_fn)(
        const char* const* pixels, const char* const* next, ptrdiff_t line, ptrdiff_t lines,
        char* to, ptrdiff_t second) noexcept nogil
    ctypedef struct ck_tilegrad_form:
        int planes
        ck_tilegrad_fn run[2][4]
        ck_tilegrad_pairs_fn pairs[4]
        ck_tilegrad_turned_fn turned[2]
        ck_tilegrad_lines_fn pairs_lines
        ck_tilegrad_lines_fn turned_lines
    ctypedef struct ck_tilegrad_table:
        void (*configure)() noexcept nogil
        void (*release)() noexcept nogil
        ck_tilegrad_form plain
        ck_tilegrad_form split
        void (*join)(const float* sums, ptrdiff_t parts, ptrdiff_t part_step, int columns,
                     float* target, int stream) noexcept nogil
        void (*settle)() noexcept nogil
    enum:
        CK_GRAD_CHANNELS, CK_GRAD_PIXELS, CK_GRAD_PAIRS, CK_GRAD_TILE
        CK_GRAD_FLOATS, CK_GRAD_HALVES, CK_GRAD_MADE_OF_FLOATS, CK_GRAD_MADE_OF_HALVES

cdef enum:
    MOST_TAPS = 25          # of weights that are written past the caches
    MOST_PIXELS = 34        # that a call for pairs reads
    AHEAD = 3               # chunks that are fetched before they are converted
    CHUNKS_NEAR = AHEAD + 1
    PEAK_STEP = 16          # from one thread's largest magnitudes to the next: a cache line
    CHANNELS = CK_GRAD_CHANNELS
    LINE = 2 * CHANNELS     # channels of bfloat16 in a line of cache
    TILE = CK_GRAD_TILE     # floats of a tile of the result
    TILE_BYTES = 1024

# Bytes of a stage that one thread converts and reduces, and of sums beside it: together in a
# second-level cache.
cdef Py_ssize_t STAGE_BYTES = 512 << 10
cdef Py_ssize_t SUM_BYTES = 640 << 10
# Steps of a stage at least, to make little of loading and storing sums, and at most.
cdef Py_ssize_t LEAST_STEPS = 8
cdef Py_ssize_t MOST_STEPS = 48
# Of a stage that is common to all threads: bytes that a unit of the result reads, which its taps
# find in a second-level cache, and bytes in all, in a third-level one.
cdef Py_ssize_t UNIT_BYTES = 768 << 10
cdef Py_ssize_t COMMON_BYTES = 8 << 20
# Bytes of the input that stay in cache while units go through the output's gradient.
cdef Py_ssize_t COLUMNS_BYTES = 1 << 20
# A part has so many steps at least, to make little of joining it; with fewer parts than the least,
# threads are better off at one stage together.
cdef Py_ssize_t PART_STEPS = 48
cdef Py_ssize_t LEAST_PARTS = 4
cdef Py_ssize_t MOST_PARTS = 8
# Tasks of a common stage, where it has as many units.
cdef Py_ssize_t LEAST_TASKS = 8
# Multiply-adds of a tile product in the time of one elementary operation, about.
cdef double PRODUCTS_PER_STEP = 128
# Results of this size are written past the caches: it is long until they are read.
cdef Py_ssize_t STREAM_BYTES = 2 << 20
# Blocks of scratch are so large that the pool gives them pages to match.
cdef Py_ssize_t LEAST_SCRATCH = 4 << 20

# Exponents between which sums are as in float32: the split form's low parts are normal numbers
# above the one, products of the largest values do not overflow below the other.
cdef int LEAST_EXPONENT = -100
cdef int MOST_EXPONENT = 124


# One sequence of positions and where its pixels lie: in numbers as long as there are no arrays, in
# bytes of a call's (`_in_bytes`).
cdef struct Side:
    const char* data
    Py_ssize_t sample, row, pixel       # from one to the next
    Py_ssize_t height, width            # positions that are not blank


# The input as the taps of one phase of the stride see it.
cdef struct Plane:
    Side side
    Py_ssize_t phase                    # row of the first
    Py_ssize_t start                    # numbers of a sample before the first pixel
    Py_ssize_t base                     # how far its positions begin before the gradient's
    Py_ssize_t span                     # and how many more there are
    bint odd                            # whether pairs that begin at odd positions are wanted
    Py_ssize_t pairs                    # in a stage
    Py_ssize_t block                    # bytes from one block of channels to the next
    Py_ssize_t offset, odd_offset       # of both forms, in a stage


cdef struct Tap:
    Py_ssize_t plane, odd, pair         # and the first of its pairs in a stage
    Py_ssize_t offset                   # bytes from the stage's start to it


cdef struct Job:
    const ck_tilegrad_table* table
    const ck_tilegrad_form* form
    const dispatch.ck_transpose_table* transpose
    ck_tilegrad_pairs_fn pairs          # for what the input lies in memory as
    ck_tilegrad_turned_fn turned        # and the output's gradient
    ck_tilegrad_lines_fn pairs_lines    # for both, where they are converted by lines; or NULL
    ck_tilegrad_lines_fn turned_lines
    ck_tilegrad_maker maker
    Plane* planes
    Tap* taps
    Py_ssize_t n_planes, n_taps
    Side gy
    Source source                       # rows with their padding, where taps are merged
    Py_ssize_t merged                   # taps that are one
    Py_ssize_t in_h, in_w, in_c, out_h, out_w, out_c, stride_h, stride_w
    Py_ssize_t groups, depth, columns   # channels of a group, of x (all that are one) and of gy
    Py_ssize_t weights                  # taps of the kernel
    Py_ssize_t blocks, row_blocks       # of 16 channels in a group
    Py_ssize_t row_units, column_units, units           # in a group; in all
    Py_ssize_t samples, pitch, rows     # rows of a sample
    Py_ssize_t ahead                    # samples that no position lies before
    Py_ssize_t steps, stage, stages     # steps of the reduction; of a stage; stages
    Py_ssize_t parts
    Py_ssize_t x_bytes, gy_bytes        # of a stage
    Py_ssize_t strip_floats             # of merged rows, for one thread
    Py_ssize_t sum_floats               # of the result in tiles
    Py_ssize_t unit_floats              # of one unit, at most
    Py_ssize_t shares                   # tasks that convert a common stage
    Py_ssize_t row_chunks, column_chunks            # and those that reduce it, of a group
    Py_ssize_t first, last              # the present common stage
    const float* zeros
    char* scratch                       # stages, one for each thread or one for all
    float* strips
    float* sums
    float* gw
    bint stream                         # whether it is written past the caches
    uint32_t* peaks                     # of x, then of gy, for each thread


# -- positions ------------------------------------------------------------------------------


cdef void _find(const Job* job, const Side* side, Py_ssize_t position, Py_ssize_t count,
                const char** pixels) noexcept nogil:
    """Find the pixels at some positions; zeros where they are blank."""
    cdef Py_ssize_t sample, i, j, m = 0, k, n, inside
    cdef const char* at = NULL
    position += job.ahead * job.rows * job.pitch
    i = position // job.pitch
    j = position % job.pitch
    sample = i // job.rows - job.ahead
    i %= job.rows
    while m < count:
        n = min(count - m, job.pitch - j)
        inside = 0
        if 0 <= sample < job.samples and i < side.height:
            inside = max(0, min(side.width - j, n))
            at = side.data + sample * side.sample + i * side.row + j * side.pixel
        for k in range(inside):
            pixels[m + k] = at + k * side.pixel
        for k in range(inside, n):
            pixels[m + k] = <const char*>job.zeros
        m += n
        j = 0
        i += 1
        if i == job.rows:
            i = 0
            sample += 1


cdef inline Py_ssize_t _slots(const Job* job) noexcept nogil:
    """Return how many merged rows are needed at a time."""
    return (AHEAD * CK_GRAD_PIXELS + MOST_PIXELS) // job.pitch + 2


cdef void _find_merged(const Job* job, const Plane* plane, Py_ssize_t position, Py_ssize_t count,
                       float* strip, Py_ssize_t* filled, const char** pixels) noexcept nogil:
    """The same where the taps of a kernel row are one: rows are copied with their padding.

    `strip` has room for the rows of all chunks that are near; `filled` is the last of them.
    """
    cdef Py_ssize_t slots = _slots(job)
    cdef Py_ssize_t width = job.source.strip_width * job.in_c
    cdef Py_ssize_t row, sample, i, j, m = 0, k, n, inside
    cdef float* slot
    position += job.ahead * job.rows * job.pitch
    row = position // job.pitch
    j = position % job.pitch
    while m < count:
        n = min(count - m, job.pitch - j)
        sample = row // job.rows - job.ahead
        i = row % job.rows
        slot = strip + row % slots * width
        inside = 0
        if 0 <= sample < job.samples and i < plane.side.height:
            inside = max(0, min(plane.side.width - j, n))
            if row > filled[0]:
                fill_strip(&job.source, plane.side.data + sample * plane.side.sample,
                           i * job.stride_h + plane.phase, 1, <char*>slot)
                filled[0] = row
        for k in range(inside):
            pixels[m + k] = <const char*>slot + (j + k) * plane.side.pixel
        for k in range(inside, n):
            pixels[m + k] = <const char*>job.zeros
        m += n
        j = 0
        row += 1


# -- conversion -----------------------------------------------------------------------------


# What is converted, block of channels by block: all of a stage or one thread's share.
cdef struct Conversion:
    const Job* job
    int slot
    char* stage
    Py_ssize_t step, steps              # of the stage: its first, and how many
    Py_ssize_t share, shares
    Py_ssize_t kind                     # the plane, or after them the gradient
    Py_ssize_t chunk, last, found       # of 32 positions, in the stage
    Py_ssize_t block
    Py_ssize_t filled                   # the last merged row
    const char* pixels[CHUNKS_NEAR][MOST_PIXELS]
    Py_ssize_t items, calls, credit     # to be converted in so many calls of `_convert_aside`


cdef inline Py_ssize_t _chunks(const Job* job, Py_ssize_t kind, Py_ssize_t steps) noexcept nogil:
    """Return how many chunks so many steps read of a plane or the gradient."""
    if kind == job.n_planes:
        return steps
    return steps + (job.planes[kind].span // 2 + 1 + CK_GRAD_PAIRS - 1) // CK_GRAD_PAIRS


cdef inline bint _by_lines(const Job* job, Py_ssize_t kind) noexcept nogil:
    """Tell whether two blocks of channels are converted at a time."""
    if kind == job.n_planes:
        return job.turned_lines != NULL
    return job.pairs_lines != NULL and not job.planes[kind].odd


cdef inline Py_ssize_t _blocks(const Job* job, Py_ssize_t kind) noexcept nogil:
    """Return how many blocks of channels, or lines of them, a plane or the gradient has."""
    cdef Py_ssize_t blocks = job.groups * (job.row_blocks if kind == job.n_planes else job.blocks)
    return blocks // 2 if _by_lines(job, kind) else blocks


cdef void _begin_kind(Conversion* c) noexcept nogil:
    cdef Py_ssize_t chunks = _chunks(c.job, c.kind, c.steps)
    c.chunk = c.found = part_start(chunks, c.shares, c.share)
    c.last = part_start(chunks, c.shares, c.share + 1)
    c.block = 0
    c.filled = -1


cdef void _begin(Conversion* c, Py_ssize_t step, Py_ssize_t steps, char* stage,
                 Py_ssize_t calls) noexcept nogil:
    """Begin with a stage, to be finished in so many calls of `_convert_aside`."""
    cdef Py_ssize_t kind
    c.step, c.steps, c.stage = step, steps, stage
    c.kind = c.credit = c.items = 0
    c.calls = calls
    for kind in range(c.job.n_planes + 1):
        c.items += _chunks(c.job, kind, steps) * _blocks(c.job, kind)
    _begin_kind(c)


cdef void _find_chunk(Conversion* c, Py_ssize_t chunk) noexcept nogil:
    """Find the pixels of a chunk."""
    cdef const Job* job = c.job
    cdef const char** pixels = c.pixels[chunk % CHUNKS_NEAR]
    cdef Py_ssize_t position = (c.step + chunk) * CK_GRAD_PIXELS
    if c.kind == job.n_planes:
        _find(job, &job.gy, position, CK_GRAD_PIXELS, pixels)
    elif job.merged > 1:
        _find_merged(job, &job.planes[c.kind], position + job.planes[c.kind].base, MOST_PIXELS,
                     job.strips + c.slot * job.strip_floats, &c.filled, pixels)
    else:
        _find(job, &job.planes[c.kind].side, position + job.planes[c.kind].base, MOST_PIXELS,
              pixels)


cdef void _convert_block(Conversion* c) noexcept nogil:
    """Convert one block of channels of a chunk."""
    cdef const Job* job = c.job
    cdef uint32_t* peak = job.peaks + c.slot * PEAK_STEP
    cdef const char** pixels = c.pixels[c.chunk % CHUNKS_NEAR]
    cdef const char** next = c.pixels[(c.chunk + AHEAD) % CHUNKS_NEAR]
    cdef Py_ssize_t tile = TILE_BYTES * job.form.planes, group, block, tiles, low
    cdef const Plane* plane
    if c.kind < job.n_planes:
        plane = &job.planes[c.kind]
        group, block = c.block // job.blocks, c.block % job.blocks
        peak[0] = max(peak[0], job.pairs(
            pixels, next, group * job.depth + block * CHANNELS,
            <int>min(<Py_ssize_t>CHANNELS, job.depth - block * CHANNELS),
            c.stage + plane.offset + c.block * plane.block + c.chunk * tile, plane.odd_offset,
            &job.maker))
        return
    group, block = c.block // job.row_blocks, c.block % job.row_blocks
    low = block % 2
    block -= low
    tiles = min(2, job.row_blocks - block)
    peak[1] = max(peak[1], job.turned(
        pixels, next, group * job.columns + (block + low) * CHANNELS,
        <int>min(<Py_ssize_t>CHANNELS, job.columns - (block + low) * CHANNELS),
        c.stage + job.x_bytes + (group * job.row_blocks + block) * job.stage * tile
        + c.chunk * tiles * tile + low * TILE_BYTES, tiles * TILE_BYTES))


cdef void _convert_line(Conversion* c) noexcept nogil:
    """Convert one line of channels of a chunk: two blocks."""
    cdef const Job* job = c.job
    cdef uint32_t* peak = job.peaks + c.slot * PEAK_STEP
    cdef const char** pixels = c.pixels[c.chunk % CHUNKS_NEAR]
    cdef const char** next = c.pixels[(c.chunk + AHEAD) % CHUNKS_NEAR]
    cdef Py_ssize_t lines = _blocks(job, c.kind)
    cdef const Plane* plane
    if c.kind < job.n_planes:
        plane = &job.planes[c.kind]
        peak[0] = max(peak[0], job.pairs_lines(
            pixels, next, c.block, lines,
            c.stage + plane.offset + 2 * c.block * plane.block + c.chunk * TILE_BYTES,
            plane.block))
    else:
        peak[1] = max(peak[1], job.turned_lines(
            pixels, next, c.block, lines,
            c.stage + job.x_bytes + 2 * TILE_BYTES * (c.block * job.stage + c.chunk),
            TILE_BYTES))


cdef bint _convert_one(Conversion* c) noexcept nogil:
    """Convert the next block; return whether there was one."""
    cdef Py_ssize_t kinds = c.job.n_planes + 1
    while c.kind < kinds and c.chunk == c.last:
        c.kind += 1
        if c.kind < kinds:
            _begin_kind(c)
    if c.kind == kinds:
        return False
    while c.found < c.chunk + CHUNKS_NEAR:      # beyond the last: the next stage's
        _find_chunk(c, c.found)
        c.found += 1
    if _by_lines(c.job, c.kind):
        _convert_line(c)
    else:
        _convert_block(c)
    c.block += 1
    if c.block == _blocks(c.job, c.kind):
        c.block = 0
        c.chunk += 1
    return True


cdef void _convert_aside(void* of) noexcept nogil:
    """Convert a share of what is left while tiles multiply."""
    cdef Conversion* c = <Conversion*>of
    c.credit += c.items
    while c.credit >= c.calls:
        c.credit -= c.calls
        if not _convert_one(c):
            c.items = 0
            return


# -- sums -----------------------------------------------------------------------------------


cdef Py_ssize_t _unit_place(const Job* job, Py_ssize_t group, Py_ssize_t row,
                            Py_ssize_t column) noexcept nogil:
    """Return how many tiles of the result lie before a unit."""
    return job.n_taps * (group * job.row_blocks * job.blocks + 2 * row * job.blocks
                         + 2 * column * min(2, job.row_blocks - 2 * row))


cdef inline Py_ssize_t _calls(const Job* job, Py_ssize_t row, Py_ssize_t column) noexcept nogil:
    """Return in how many calls of kernels a unit is summed."""
    cdef Py_ssize_t each = 2 if job.row_blocks - 2 * row > 1 else 4
    return (job.n_taps * min(2, job.blocks - 2 * column) + each - 1) // each


cdef void _sum_unit(const Job* job, Py_ssize_t group, Py_ssize_t row, Py_ssize_t column,
                    Py_ssize_t steps, bint accumulate, const char* stage, float* sums,
                    void (*aside)(void* of) noexcept nogil, void* of) noexcept nogil:
    """Add a stage to up to two blocks of rows by two of columns, for every tap.

    `aside` is called with each step.
    """
    cdef Py_ssize_t planes = job.form.planes, k = 0, j, t
    cdef Py_ssize_t mb = min(2, job.row_blocks - 2 * row), nb = min(2, job.blocks - 2 * column)
    cdef Py_ssize_t tiles = job.n_taps * nb, n = _calls(job, row, column), each
    cdef const Tap* tap
    cdef ck_tilegrad_args args
    cdef Py_ssize_t block = group * job.blocks + 2 * column
    each = (tiles + n - 1) // n         # nearly equal numbers of tiles
    args.a = stage + job.x_bytes + (group * job.row_blocks + 2 * row) * job.stage * TILE_BYTES * planes
    args.steps = steps
    args.accumulate = accumulate
    args.c = sums
    args.aside, args.of = aside, of
    while k < tiles:
        n = min(each, tiles - k)
        for j in range(n):
            tap = &job.taps[(k + j) // nb]
            args.b[j] = stage + tap.offset + (block + (k + j) % nb) * job.planes[tap.plane].block
        for j in range(n, 4):
            args.b[j] = args.b[0]
        job.form.run[mb - 1][n - 1](&args)
        args.c += n * mb * TILE
        k += n


# A unit whose sums are complete, row by row.
cdef struct Finish:
    const Job* job
    const float* sums
    Py_ssize_t group, row, column       # the unit
    Py_ssize_t done, rows               # output channels
    Py_ssize_t calls, credit            # as for a conversion
    float weights[2 * CHANNELS * MOST_TAPS]         # of a row that is written past the caches


cdef void _begin_finish(Finish* f, Py_ssize_t group, Py_ssize_t row, Py_ssize_t column,
                        const float* sums) noexcept nogil:
    f.group, f.row, f.column, f.sums = group, row, column, sums
    f.done = 0
    f.rows = min(2 * CHANNELS, f.job.columns - 2 * row * CHANNELS)


cdef void _finish_row(Finish* f) noexcept nogil:
    """Add up the parts of one output channel's weights and write them."""
    cdef const Job* job = f.job
    cdef Py_ssize_t mb = min(2, job.row_blocks - 2 * f.row)
    cdef Py_ssize_t nb = min(2, job.blocks - 2 * f.column), b, width, first, i = 0, n = 0
    cdef const float* source = f.sums + (f.done // CHANNELS) * TILE + f.done % CHANNELS * CHANNELS
    cdef float* target = job.gw + (f.group * job.columns + 2 * f.row * CHANNELS + f.done) \
        * job.depth * job.n_taps
    for b in range(nb):
        first = (2 * f.column + b) * CHANNELS
        width = min(<Py_ssize_t>CHANNELS, job.depth - first)
        if job.merged > 1:
            _write_merged(job, source, mb * nb * TILE, first, width, target)
        elif job.n_taps == 1:
            job.table.join(source, job.parts, job.sum_floats, <int>width, target + first,
                           job.stream)
        elif job.stream:
            _write(job, source, mb * nb * TILE, width, f.weights + n)
            n += width * job.n_taps
        else:
            _write(job, source, mb * nb * TILE, width, target + first * job.n_taps)
        source += mb * TILE
    target += 2 * f.column * CHANNELS * job.n_taps
    while i < n:
        job.table.join(f.weights + i, 1, 0, <int>min(<Py_ssize_t>CHANNELS, n - i), target + i,
                       True)
        i += CHANNELS
    f.done += 1


cdef void _finish_rest(Finish* f) noexcept nogil:
    while f.done < f.rows:
        _finish_row(f)


cdef void _finish_aside(void* of) noexcept nogil:
    """Finish some rows while tiles multiply."""
    cdef Finish* f = <Finish*>of
    f.credit += f.rows
    while f.credit >= f.calls:
        f.credit -= f.calls
        if f.done < f.rows:
            _finish_row(f)


cdef void _write(const Job* job, const float* source, Py_ssize_t tap_step, Py_ssize_t width,
                 float* target) noexcept nogil:
    """Write the weights of up to 16 channels, all taps of one beside those of the next."""
    cdef const void* sources[16]
    cdef Py_ssize_t tap, i, n
    for tap in range(0, job.n_taps, 16):
        n = min(16, job.n_taps - tap)
        for i in range(n):
            sources[i] = source + (tap + i) * tap_step
        job.transpose.from_vectors[0](sources, job.parts, job.sum_floats, <int>width, <int>n,
                                      target + tap, job.n_taps)


cdef void _write_merged(const Job* job, const float* source, Py_ssize_t tap_step,
                        Py_ssize_t first, Py_ssize_t width, float* target) noexcept nogil:
    """The same where columns from `first` on are channels of the taps of a kernel row."""
    cdef Py_ssize_t tap, i, part
    cdef float total
    for tap in range(job.n_taps):
        for i in range(width):
            total = source[tap * tap_step + i]
            for part in range(1, job.parts):
                total += source[part * job.sum_floats + tap * tap_step + i]
            target[((first + i) % job.in_c * job.n_taps + tap) * job.merged
                   + (first + i) // job.in_c] = total


# -- tasks ----------------------------------------------------------------------------------


cdef void _part_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Convert and sum a range of steps, stage by stage: the next one while one is summed."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t begin = part_start(job.steps, job.parts, index), step = begin, steps
    cdef Py_ssize_t end = part_start(job.steps, job.parts, index + 1)
    cdef Py_ssize_t group, row, column, calls
    cdef float* sums = job.sums + index * job.sum_floats
    cdef char* stage = job.scratch + slot * 2 * (job.x_bytes + job.gy_bytes)
    cdef char* other = stage + job.x_bytes + job.gy_bytes
    cdef Conversion next
    next.job, next.slot, next.share, next.shares = job, slot, 0, 1
    calls = 0
    for row in range(job.row_units):
        for column in range(job.column_units):
            calls += job.groups * _calls(job, row, column)
    _begin(&next, step, min(job.stage, end - step), stage, 1)
    if job.table.configure != NULL:
        job.table.configure()
    while step < end:
        while _convert_one(&next):
            pass
        steps = next.steps
        if step + steps < end:
            _begin(&next, step + steps, min(job.stage, end - step - steps), other, calls * steps)
        for group in range(job.groups):
            for row in range(job.row_units):
                for column in range(job.column_units):
                    _sum_unit(job, group, row, column, steps, step > begin, stage,
                              sums + _unit_place(job, group, row, column) * TILE,
                              _convert_aside, &next)
        step += steps
        stage, other = other, stage
    if job.table.release != NULL:
        job.table.release()


cdef void _join_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Join the parts of one unit."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t column = index % job.column_units
    cdef Py_ssize_t row = index // job.column_units % job.row_units
    cdef Py_ssize_t group = index // (job.column_units * job.row_units)
    cdef Finish finish
    finish.job = job
    _begin_finish(&finish, group, row, column,
                  job.sums + _unit_place(job, group, row, column) * TILE)
    _finish_rest(&finish)


cdef void _convert_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Convert a share of a common stage."""
    cdef Job* job = <Job*>ctx
    cdef Conversion own
    own.job, own.slot, own.share, own.shares = job, slot, index, job.shares
    _begin(&own, job.first, job.last - job.first, job.scratch, 1)
    while _convert_one(&own):
        pass


cdef void _units_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add a common stage to some units: columns that stay in cache, by rows.

    What is complete is written while the next unit is summed.
    """
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t chunk = index % job.column_chunks
    cdef Py_ssize_t first_column = part_start(job.column_units, job.column_chunks, chunk)
    cdef Py_ssize_t last_column = part_start(job.column_units, job.column_chunks, chunk + 1)
    cdef Py_ssize_t group = index // (job.row_chunks * job.column_chunks), row, column
    chunk = index // job.column_chunks % job.row_chunks
    cdef Py_ssize_t first = part_start(job.row_units, job.row_chunks, chunk)
    cdef Py_ssize_t last = part_start(job.row_units, job.row_chunks, chunk + 1)
    cdef float* own = job.sums + slot * 2 * job.unit_floats
    cdef float* sums
    cdef Finish finish
    finish.job = job
    finish.done = finish.rows = finish.credit = 0
    if job.table.configure != NULL:
        job.table.configure()
    for row in range(first, last):
        for column in range(first_column, last_column):
            if job.stages == 1:
                sums = own + (column - first_column) % 2 * job.unit_floats
            else:
                sums = job.sums + _unit_place(job, group, row, column) * TILE
            finish.calls = _calls(job, row, column) * (job.last - job.first)
            _sum_unit(job, group, row, column, job.last - job.first, job.first > 0, job.scratch,
                      sums, _finish_aside, &finish)
            _finish_rest(&finish)
            if job.last == job.steps:
                _begin_finish(&finish, group, row, column, sums)
        _finish_rest(&finish)
    if job.stream:
        job.table.settle()
    if job.table.release != NULL:
        job.table.release()


# -- the whole ------------------------------------------------------------------------------


cdef bint _bearable(const Job* job, int team) noexcept nogil:
    """Tell whether magnitudes are such that sums are as in float32."""
    cdef uint32_t x = 0, gy = 0
    cdef int thread, of_x, of_gy, count = 0
    for thread in range(team):
        x = max(x, job.peaks[thread * PEAK_STEP])
        gy = max(gy, job.peaks[thread * PEAK_STEP + 1])
    if x >= 0x7f80 or gy >= 0x7f80:
        return False
    if x == 0 or gy == 0:
        return True
    while (job.steps * CK_GRAD_PIXELS) >> count:
        count += 1
    of_x, of_gy = <int>(x >> 7) - 127, <int>(gy >> 7) - 127
    return (of_x >= LEAST_EXPONENT and of_gy >= LEAST_EXPONENT and of_x + of_gy >= LEAST_EXPONENT
            and of_x + of_gy + count <= MOST_EXPONENT)


cdef void _sum(Job* job, int team) noexcept nogil:
    """Run all tasks."""
    cdef Py_ssize_t stage
    if job.parts > 1:
        parallel_for(_part_task, job, job.parts, team)
        parallel_for(_join_task, job, job.units, team)
        return
    for stage in range(job.stages):
        job.first = part_start(job.steps, job.stages, stage)
        job.last = part_start(job.steps, job.stages, stage + 1)
        job.shares = min(4 * team, job.last - job.first) if team > 1 else 1
        parallel_for(_convert_task, job, job.shares, team)
        parallel_for(_units_task, job, job.groups * job.row_chunks * job.column_chunks, team)


cdef void _in_bytes(Side* side, Py_ssize_t item) noexcept nogil:
    """Turn distances in numbers into such in bytes."""
    side.sample *= item
    side.row *= item
    side.pixel *= item


cdef int _source(array):
    """Tell as what an array's numbers lie in memory."""
    return CK_GRAD_HALVES if array.dtype == np.uint16 else CK_GRAD_FLOATS


cdef _floats(array, int threads):
    """Return an array's numbers in float32."""
    if array.dtype != np.uint16:
        return array
    floats = memory.empty(array.shape)
    norm.widen(array, floats, threads)
    return floats


cdef _choose_pairs(Job* job, x, maker):
    """Choose how the input is converted: as it is in memory, or made of that."""
    cdef int source = _source(x)
    job.pairs = job.form.pairs[source]
    if maker is not None:
        center, scale, shift, (low, high) = maker
        job.pairs = job.form.pairs[CK_GRAD_MADE_OF_HALVES if source == CK_GRAD_HALVES
                                   else CK_GRAD_MADE_OF_FLOATS]
        job.maker.center = <const float*>address(center)
        job.maker.scale = <const float*>address(scale)
        job.maker.shift = <const float*>address(shift)
        job.maker.low, job.maker.high = low, high


cdef _choose_lines(Job* job, x, maker, gy):
    """Choose what is converted by lines: bfloat16 of so many channels as fill them."""
    job.pairs_lines = job.turned_lines = NULL
    if maker is None and job.merged == 1 and job.depth % LINE == 0 \
            and _source(x) == CK_GRAD_HALVES:
        job.pairs_lines = job.form.pairs_lines
    if job.columns % LINE == 0 and _source(gy) == CK_GRAD_HALVES:
        job.turned_lines = job.form.turned_lines


cdef class Gradient:
    """The gradient of a problem's weight, of which only what depends on the call is left.

    Parameters
    ----------
    x_shape, gy_shape : (int, int, int)
        Height, width and channels of a sample.
    samples : int
    rows, cols : list of int
        Where the taps lie relative to a pixel's origin; ascending.
    stride : (int, int)
    groups : int
    form : "bf16" or "split_bf16"
    redo : callable
        ``redo(x, gy, gw, threads)`` computes the gradient in another way, where values are
        infinite, NaN or near the ends of float32's range.
    """

    cdef Job _job
    cdef object _redo, _planes, _taps

    def __init__(self, tuple x_shape, tuple gy_shape, Py_ssize_t samples, rows, cols, stride,
                 Py_ssize_t groups, str form, redo):
        cdef Job* job = &self._job
        job.table = dispatch.table().tilegrad
        if job.table == NULL:
            raise RuntimeError("expected an instruction set with tiles")
        job.form = &job.table.plain if form == "bf16" else &job.table.split
        job.transpose = dispatch.table().transpose
        self._redo = redo
        job.samples = samples
        job.in_h, job.in_w, job.in_c = x_shape
        job.out_h, job.out_w, job.out_c = gy_shape
        job.stride_h, job.stride_w = stride
        job.groups = groups
        job.depth, job.columns = job.in_c // groups, job.out_c // groups
        job.merged = merged_taps(job.in_c, groups, cols)
        self._lay_out(rows, [0] if job.merged > 1 else cols, cols[0])
        self._cut()

    cdef _lay_out(self, rows, cols, Py_ssize_t left):
        """Find the planes, the taps in them, and how far apart rows and samples are."""
        cdef Job* job = &self._job
        cdef Py_ssize_t stride_w = job.stride_w
        if job.merged > 1:
            job.depth *= job.merged
            job.source = Source(job.in_h, job.in_w, 4 * job.in_c, left,
                                (job.out_w - 1) * job.stride_w + job.merged)
            stride_w = 1
        sizes = {}
        for r in rows:
            for c in cols:
                height = -(-(job.in_h - r % job.stride_h) // job.stride_h)
                width = job.out_w if job.merged > 1 else -(-(job.in_w - c % stride_w) // stride_w)
                sizes[r % job.stride_h, c % stride_w] = (
                    max(0, min(height, job.out_h + rows[-1] // job.stride_h)),
                    max(0, min(width, job.out_w + cols[-1] // stride_w)))
        job.rows = max(job.out_h + max(0, rows[-1] // job.stride_h),
                       max(h for h, _ in sizes.values()) - min(0, rows[0] // job.stride_h))
        job.pitch = max(job.out_w + max(0, cols[-1] // stride_w),
                        max(w for _, w in sizes.values()) - min(0, cols[0] // stride_w))
        if job.merged > 1:
            job.pitch += job.pitch % 2      # so that no tap moves by an odd number
        self._place(rows, cols, stride_w, sizes)

    cdef _place(self, rows, cols, Py_ssize_t stride_w, sizes):
        """Fill in planes and taps."""
        cdef Job* job = &self._job
        cdef Plane* plane
        cdef Tap* tap
        cdef Py_ssize_t i, k, lowest = 0
        shifts = {place: [] for place in sizes}
        for r in rows:
            for c in cols:
                shifts[r % job.stride_h, c % stride_w].append(
                    r // job.stride_h * job.pitch + c // stride_w)
        self._planes = np.zeros(len(sizes) * sizeof(Plane), np.uint8)
        self._taps = np.zeros(len(rows) * len(cols) * sizeof(Tap), np.uint8)
        job.planes, job.taps = <Plane*>address(self._planes), <Tap*>address(self._taps)
        job.n_planes, job.n_taps = len(sizes), len(rows) * len(cols)
        for i, ((top, left), (height, width)) in enumerate(sizes.items()):
            plane = &job.planes[i]
            plane.side.sample = job.in_h * job.in_w * job.in_c
            plane.side.row = job.stride_h * job.in_w * job.in_c
            plane.side.pixel = job.stride_w * job.in_c
            plane.side.height, plane.side.width = height, width
            plane.phase = top
            plane.start = 0 if job.merged > 1 else (top * job.in_w + left) * job.in_c
            known = shifts[top, left]
            plane.base, plane.span = min(known), max(known) - min(known)
            plane.odd = any((s - plane.base) % 2 for s in known)
            lowest = min(lowest, plane.base)
        places = list(sizes)
        k = 0
        for r in rows:
            for c in cols:
                tap = &job.taps[k]
                tap.plane = places.index((r % job.stride_h, c % stride_w))
                shift = (r // job.stride_h * job.pitch + c // stride_w
                         - job.planes[tap.plane].base)
                tap.odd, tap.pair = shift % 2, shift // 2
                k += 1
        job.ahead = -lowest // (job.rows * job.pitch) + 1
        job.gy = Side(NULL, job.out_h * job.out_w * job.out_c, job.out_w * job.out_c, job.out_c,
                      job.out_h, job.out_w)

    cdef _cut(self):
        """Choose parts and stages."""
        cdef Job* job = &self._job
        cdef Py_ssize_t positions = ((max(1, job.samples) - 1) * job.rows + job.out_h - 1) * job.pitch \
            + job.out_w
        cdef Py_ssize_t step_bytes, unit_bytes, x_step = 0, i
        job.steps = (positions + CK_GRAD_PIXELS - 1) // CK_GRAD_PIXELS
        job.blocks = (job.depth + CHANNELS - 1) // CHANNELS
        job.row_blocks = (job.columns + CHANNELS - 1) // CHANNELS
        job.row_units = (job.row_blocks + 1) // 2
        job.column_units = (job.blocks + 1) // 2
        job.units = job.groups * job.row_units * job.column_units
        job.sum_floats = job.groups * job.row_blocks * job.blocks * job.n_taps * TILE
        job.unit_floats = 4 * job.n_taps * TILE
        for i in range(job.n_planes):
            x_step += TILE_BYTES * job.form.planes * (2 if job.planes[i].odd else 1)
        step_bytes = job.groups * (x_step * job.blocks
                                   + TILE_BYTES * job.form.planes * job.row_blocks)
        unit_bytes = 2 * (x_step + TILE_BYTES * job.form.planes)
        job.parts = max(1, min(MOST_PARTS, job.steps // PART_STEPS))
        if job.parts < LEAST_PARTS or 4 * job.sum_floats > SUM_BYTES:
            job.parts = 1
            job.stage = max(LEAST_STEPS, min(UNIT_BYTES // unit_bytes, COMMON_BYTES // step_bytes))
            job.stages = (job.steps + job.stage - 1) // job.stage
            job.stage = (job.steps + job.stages - 1) // job.stages
        else:
            i = (job.steps + job.parts - 1) // job.parts
            job.stage = max(LEAST_STEPS, min(MOST_STEPS, STAGE_BYTES // step_bytes))
            job.stages = (i + job.stage - 1) // job.stage
            job.stage = (i + job.stages - 1) // job.stages
        self._lay_stage()
        job.column_chunks = min(job.column_units, (job.x_bytes // job.groups + COLUMNS_BYTES - 1)
                                // COLUMNS_BYTES)
        i = job.groups * job.column_chunks
        job.stream = (job.parts == 1 and job.n_taps <= MOST_TAPS and job.merged == 1
                      and 4 * job.sum_floats >= STREAM_BYTES)
        job.row_chunks = min(job.row_units, (LEAST_TASKS + i - 1) // i)

    cdef void _lay_stage(self) noexcept:
        """Lay out a stage."""
        cdef Job* job = &self._job
        cdef Py_ssize_t row = 64 * job.form.planes, i, size
        cdef Plane* plane
        cdef Tap* tap
        job.x_bytes = 0
        for i in range(job.n_planes):
            plane = &job.planes[i]
            plane.pairs = _chunks(job, i, job.stage) * CK_GRAD_PAIRS
            # One row further, so that blocks do not compete for the same places in cache.
            plane.block = (plane.pairs + 1) * row
            size = job.groups * job.blocks * plane.block
            plane.offset = job.x_bytes
            plane.odd_offset = size if plane.odd else 0
            job.x_bytes += (2 if plane.odd else 1) * size
        job.x_bytes = (job.x_bytes + 63) // 64 * 64
        job.gy_bytes = job.groups * job.row_blocks * job.stage * TILE_BYTES * job.form.planes
        for i in range(job.n_taps):
            tap = &job.taps[i]
            tap.offset = job.planes[tap.plane].offset + tap.odd * job.planes[tap.plane].odd_offset \
                + tap.pair * row
        job.strip_floats = 0
        if job.merged > 1:
            job.strip_floats = _slots(job) * job.source.strip_width * job.in_c

    def reads(self, dtype, channels=None):
        """Tell whether `x` may be something kept in memory as `dtype`, made by so many channels."""
        cdef const Job* job = &self._job
        return (job.merged == 1 and channels in (None, job.in_c)
                and job.form.pairs[CK_GRAD_HALVES if dtype == np.uint16 else CK_GRAD_FLOATS] != NULL)

    def __call__(self, x, gy, gw, int threads):
        """Write the gradient into `gw` (O, C / groups, kH, kW); all arrays are C-contiguous.

        `x` is an array of float32 or, where it `reads` that, of bfloat16 (uint16) or an
        `ops.kept.Kept`. The plain form takes bfloat16 for `gy`, too.
        """
        cdef Job job = self._job
        kept, maker = None, None
        if not isinstance(x, np.ndarray):
            kept = x
            x, maker = kept.source(threads)
        cdef double work = <double>job.steps * CK_GRAD_PIXELS * job.n_taps * job.depth * job.out_c
        cdef Py_ssize_t tasks = job.parts if job.parts > 1 else job.groups * job.row_chunks * job.column_chunks
        cdef int team = threads_for(threads, tasks, work / PRODUCTS_PER_STEP)
        cdef bint bearable = False
        cdef char* memory
        if not (x.size and gy.size):
            gw.fill(0)
            return
        planes = self._aimed(x)
        job.planes = <Plane*>address(planes)
        job.gy.data = <const char*>address(gy)
        _in_bytes(&job.gy, gy.itemsize)
        job.gw = <float*>address(gw)
        job.turned = job.form.turned[_source(gy)]
        _choose_pairs(&job, x, maker)
        _choose_lines(&job, x, maker, gy)
        cdef Py_ssize_t scratch = (job.x_bytes + job.gy_bytes) * (2 * team if job.parts > 1 else 1)
        cdef Py_ssize_t sums = 2 * job.unit_floats * team if job.parts == job.stages == 1 \
            else job.parts * job.sum_floats
        cdef Py_ssize_t zeros = max(job.in_c, job.depth, job.out_c) + 15
        cdef Py_ssize_t bytes = scratch + 4 * (sums + team * job.strip_floats + zeros
                                               + team * PEAK_STEP)
        bytes = max(bytes, LEAST_SCRATCH)
        with nogil:
            memory = <char*>take(bytes)
            if memory != NULL:
                job.scratch = memory
                job.sums = <float*>(memory + scratch)
                job.peaks = <uint32_t*>(job.sums + sums)
                job.strips = <float*>(job.peaks + team * PEAK_STEP)
                job.zeros = job.strips + team * job.strip_floats
                memset(<void*>job.zeros, 0, 4 * zeros)
                job.maker.blank = <const char*>job.zeros
                memset(job.peaks, 0, 4 * team * PEAK_STEP)
                _sum(&job, team)
                bearable = _bearable(&job, team)
                give(memory, bytes)
        if memory == NULL:
            raise MemoryError(f"no memory for {bytes} bytes of scratch")
        if not bearable:
            if kept is not None:
                x = kept.array(threads).reshape(job.samples, job.in_h, job.in_w, job.in_c)
            self._redo(_floats(x, threads), _floats(gy, threads), gw, threads)

    cdef _aimed(self, x):
        """Return the planes with their pixels in `x`."""
        cdef Py_ssize_t i
        cdef Plane* planes
        cdef const char* data = <const char*>address(x)
        cdef Py_ssize_t item = x.itemsize
        copy = self._planes.copy()
        planes = <Plane*>address(copy)
        for i in range(self._job.n_planes):
            planes[i].side.data = data + planes[i].start * item
            _in_bytes(&planes[i].side, item)
        return copy


def merged_taps(Py_ssize_t in_c, Py_ssize_t groups, cols):
    """Return how many taps of a kernel row are taken together, as so many more channels."""
    cdef Py_ssize_t n = len(cols)
    if groups > 1 or n == 1 or cols[-1] - cols[0] + 1 != n:
        return 1
    return n if (n * in_c + CHANNELS - 1) // CHANNELS < n * ((in_c + CHANNELS - 1) // CHANNELS) \
        else 1
