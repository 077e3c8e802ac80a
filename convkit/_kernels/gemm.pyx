"""The batch-reduce GEMM's tile choice and packed weights.

Weights are packed once into the order in which tiles read them: for each group, blocks of
`width` vectors of output columns; within a block, for each tap, for each input channel, the
block's columns side by side. Missing columns of the last vector are zero.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.threads cimport parallel_for, threads_for
from convkit._kernels cimport memory
from libc.string cimport memcpy, memset


# Blocks that are packed at a time, at most, of weights that are read part by part.
cdef Py_ssize_t MOST_BLOCKS = 8


cdef const ck_gemm_kernels* kernels_for(Py_ssize_t itemsize) noexcept nogil:
    cdef const ck_gemm_table* table = <const ck_gemm_table*>dispatch.table().gemm
    return &table.f32 if itemsize == 4 else &table.f64


cdef int choose_width(const ck_gemm_kernels* kernels, Py_ssize_t width,
                      Py_ssize_t columns) noexcept nogil:
    # A model of one reduction step of every tile of a row, in cycles: two multiply-adds
    # and two loads a cycle, four cycles' latency over the tile's independent chains, and
    # 32 bytes of packed weights a cycle from the second-level cache.
    cdef Py_ssize_t vectors = (columns + kernels.vector_length - 1) // kernels.vector_length
    cdef Py_ssize_t tiles, blocks
    cdef double cost, step, best = 1e300, mr
    cdef double vector_cycles = dispatch.table().vector_bytes / 32.0
    cdef int nv, chosen = 1
    for nv in range(1, 5):
        if kernels.max_mr[nv] == 0 or nv > vectors:
            continue
        tiles = (width + kernels.max_mr[nv] - 1) // kernels.max_mr[nv]
        blocks = (vectors + nv - 1) // nv
        mr = <double>width / tiles
        step = max(max(mr * nv / 2, (mr + nv) / 2), max(4.0, vector_cycles * nv))
        cost = step * tiles * blocks
        if cost < best * 0.999:
            best = cost
            chosen = nv
    return chosen


cdef void _copy_block(PackJob* job, const char* source, char* target, Py_ssize_t columns,
                      Py_ssize_t row) noexcept nogil:
    """Pack a block whose columns are neighbours in the source."""
    cdef Py_ssize_t size = job.itemsize, d, t
    for t in range(job.taps):
        for d in range(job.depth):
            memcpy(target, source + (d * job.depth_step + job.tap_steps[t]) * size, columns * size)
            memset(target + columns * size, 0, (row - columns) * size)
            target += row * size


cdef void _turn_window(PackJob* job, const char* source, char* target, int columns,
                       Py_ssize_t row, Py_ssize_t depth, Py_ssize_t length) noexcept nogil:
    """Pack one vector of columns for what lies `length` elements from depth `depth` on."""
    cdef void* targets[16]
    cdef Py_ssize_t start = 0, tap = 0, place, i
    cdef int count
    source += depth * job.depth_step * job.itemsize
    while start < length:
        count = <int>min(job.vector, length - start)
        for i in range(count):
            place = job.places[tap] if tap < job.span else -1
            targets[i] = target + (place * job.depth + depth) * row * job.itemsize \
                if place >= 0 else NULL
            tap += 1
            if tap == job.depth_step:
                tap = 0
                depth += 1
        job.transpose.to_vectors[job.itemsize == 8](source + start * job.itemsize,
                                                    job.column_step, columns, count, targets)
        start += count


cdef void _turn_block(PackJob* job, const char* source, char* target, Py_ssize_t columns,
                      Py_ssize_t row) noexcept nogil:
    """Pack a block by transposing its columns' memory, vector by vector of columns."""
    # Where depths follow upon taps, a column's weights are one run of memory.
    cdef Py_ssize_t depths = job.depth if job.depth_step < job.column_step else 1
    cdef Py_ssize_t length = job.span + (depths - 1) * job.depth_step
    cdef Py_ssize_t vector, window, first
    for vector in range(row // job.vector):
        first = vector * job.vector
        for window in range(job.depth // depths):
            _turn_window(job, source + first * job.column_step * job.itemsize,
                         target + first * job.itemsize, <int>min(job.vector, columns - first),
                         row, window * depths, length)


cdef void pack_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef PackJob* job = <PackJob*>ctx
    index += job.begin
    cdef Py_ssize_t group = index // job.blocks
    cdef Py_ssize_t first = index % job.blocks * job.width * job.vector
    cdef Py_ssize_t columns = min(job.width * job.vector, job.columns - first)
    cdef Py_ssize_t row = (columns + job.vector - 1) // job.vector * job.vector
    cdef const char* source = job.source \
        + (group * job.group_step + first * job.column_step) * job.itemsize
    cdef char* target = job.target + index * job.block_size * job.itemsize
    if job.column_step == 1:
        _copy_block(job, source, target, columns, row)
    else:
        _turn_block(job, source, target, columns, row)


cdef class Packed:
    """Weights in tile order; made by `pack`."""

    def __cinit__(self, array, Py_ssize_t groups, Py_ssize_t taps, Py_ssize_t depth,
                  Py_ssize_t columns, int width, int vector):
        self.array = array
        self.groups = groups
        self.taps = taps
        self.depth = depth
        self.columns = columns
        self.width = width
        self.vector = vector
        self.blocks = (columns + width * vector - 1) // (width * vector)
        self.itemsize = array.itemsize
        self.pointer = <char*>address(array)

    def as_one_tap(self):
        """Return the same for a product over (tap, channel), in which order they lie."""
        return Packed(self.array, self.groups, 1, self.taps * self.depth, self.columns,
                      self.width, self.vector)


def pack(source, Py_ssize_t groups, Py_ssize_t columns, Py_ssize_t depth, tap_steps,
         Py_ssize_t group_step, Py_ssize_t column_step, Py_ssize_t depth_step,
         Py_ssize_t row_width, int threads):
    """Pack weights for the tiles of rows of `row_width` pixels.

    Element (group, tap, depth, column) is read at ``group * group_step + tap_steps[tap] +
    depth * depth_step + column * column_step`` of the flat C-contiguous `source`. Taps are the
    source's innermost axis: their steps lie below those of depth and column. `source` may also
    be what `parts_of` takes.

    Returns
    -------
    Packed
    """
    cdef Packing packing = Packing(source.dtype, groups, columns, depth, tap_steps, group_step,
                                   column_step, depth_step, row_width)
    cdef PackJob job = packing.job
    cdef Packed packed = packing.blank(&job)
    cdef Py_ssize_t together = job.width * job.vector, count = groups * job.blocks
    cdef int team = threads_for(threads, count, packing.work())
    cdef bint by_columns = groups == 1 and column_step >= depth_step and source.shape[0] == columns
    for first, part in parts_of(source, together * min(team, MOST_BLOCKS) if by_columns else 0):
        job.source = <const char*>(address(part)
                                   - <size_t>(first * column_step * job.itemsize))
        job.begin = first // together
        if by_columns:
            count = (len(part) + together - 1) // together
        with nogil:
            parallel_for(pack_block, &job, count, team)
    return packed


cdef class Packing:
    """How a layer's weights are packed: the arguments of `pack` but for the weights and threads.

    Parameters
    ----------
    key : object
        Under which a dictionary keeps packed weights.
    """

    def __init__(self, dtype, Py_ssize_t groups, Py_ssize_t columns, Py_ssize_t depth, tap_steps,
                 Py_ssize_t group_step, Py_ssize_t column_step, Py_ssize_t depth_step,
                 Py_ssize_t row_width, key=None):
        cdef PackJob* job = &self.job
        cdef const ck_gemm_kernels* kernels = kernels_for(dtype.itemsize)
        cdef Py_ssize_t i
        self.dtype, self.groups, self.key = dtype, groups, key
        job.itemsize = dtype.itemsize
        job.vector = kernels.vector_length
        job.width = choose_width(kernels, row_width, columns)
        job.columns = columns
        job.blocks = (columns + job.width * job.vector - 1) // (job.width * job.vector)
        job.depth = depth
        steps = np.array(tap_steps, dtype=np.intp)
        job.taps = steps.size
        job.block_size = job.taps * depth * job.width * job.vector
        job.group_step = group_step
        job.column_step = column_step
        job.depth_step = depth_step
        job.transpose = dispatch.table().transpose
        job.tap_steps = <const Py_ssize_t*>address(steps)
        job.span = max(tap_steps) + 1
        places = np.empty(job.span, np.intp)
        cdef Py_ssize_t* place = <Py_ssize_t*>address(places)
        for i in range(job.span):
            place[i] = -1
        for i in range(job.taps):
            place[job.tap_steps[i]] = i
        job.places = place
        job.begin = 0
        self.kept = steps, places

    cdef double work(self):
        """Return what a call costs, for `threads_for`."""
        return 8.0 * self.groups * self.job.blocks * self.job.block_size

    cdef Packed blank(self, PackJob* job):
        """Return what weights are to be packed into, and have a job do so."""
        array = memory.empty((self.groups * job.blocks * job.block_size,), self.dtype)
        cdef Packed packed = Packed(array, self.groups, job.taps, job.depth, job.columns,
                                    <int>job.width, <int>job.vector)
        job.target = packed.pointer
        return packed

    cdef Packed weights(self, source, cache, int threads):
        """Return packed weights: those that the cache has, or new ones."""
        cdef object known = None if cache is None else cache.get(self.key)
        if known is not None:
            return known
        cdef PackJob job = self.job
        cdef Packed packed = self.blank(&job)
        cdef Py_ssize_t count = self.groups * job.blocks
        cdef int team = threads_for(threads, count, self.work())
        job.source = <const char*>address(source)
        with nogil:
            parallel_for(pack_block, &job, count, team)
        if cache is not None:
            cache[self.key] = packed
        return packed


def parts_of(source, Py_ssize_t rows):
    """Return pairs of a first row and an array, C-contiguous, that together are weights.

    Parameters
    ----------
    source : ndarray, or an object that is one to NumPy and has `parts(rows)`
    rows : int
        Of how many rows parts are to hold multiples; 0 for all at once.
    """
    if rows and hasattr(source, "parts"):
        return source.parts(rows)
    return [(0, np.asarray(source))]


def tile_width(Py_ssize_t itemsize, Py_ssize_t row_width, Py_ssize_t columns):
    """Return how many vectors wide the tiles are for rows of `row_width` pixels."""
    return choose_width(kernels_for(itemsize), row_width, columns)
