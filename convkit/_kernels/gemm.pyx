"""The batch-reduce GEMM's tile choice and packed weights.

Weights are packed once into the order in which tiles read them: for each group, blocks of
`width` vectors of output columns; within a block, for each tap, for each input channel, the
block's columns side by side. Missing columns of the last vector are zero.
"""

import numpy as np

from convkit._kernels cimport dispatch
from convkit._kernels.threads cimport parallel_for, threads_for
from convkit._kernels import memory
from libc.stdint cimport uint32_t, uint64_t


cdef const ck_gemm_kernels* kernels_for(Py_ssize_t itemsize) noexcept nogil:
    cdef const ck_gemm_table* table = <const ck_gemm_table*>dispatch.table().gemm
    return &table.f32 if itemsize == 4 else &table.f64


cdef int choose_width(const ck_gemm_kernels* kernels, Py_ssize_t width,
                      Py_ssize_t columns) noexcept nogil:
    # A model of one reduction step of every tile of a row, in cycles: two multiply-adds
    # and two loads a cycle, four cycles' latency over the tile's independent chains, and
    # half a vector of packed weights a cycle from the second-level cache.
    cdef Py_ssize_t vectors = (columns + kernels.vector_length - 1) // kernels.vector_length
    cdef Py_ssize_t tiles, blocks
    cdef double cost, step, best = 1e300, mr
    cdef int nv, chosen = 1
    for nv in range(1, 5):
        if kernels.max_mr[nv] == 0 or nv > vectors:
            continue
        tiles = (width + kernels.max_mr[nv] - 1) // kernels.max_mr[nv]
        blocks = (vectors + nv - 1) // nv
        mr = <double>width / tiles
        step = max(max(mr * nv / 2, (mr + nv) / 2), max(4.0, 2.0 * nv))
        cost = step * tiles * blocks
        if cost < best * 0.999:
            best = cost
            chosen = nv
    return chosen


cdef struct PackJob:
    const char* source
    char* target
    Py_ssize_t itemsize, vector, width, columns, blocks, depth, taps, block_size
    Py_ssize_t group_step, column_step, depth_step
    const Py_ssize_t* tap_steps


ctypedef fused word:
    uint32_t
    uint64_t

cdef Py_ssize_t PACK_BYTES = 24 << 10


cdef void _pack_slice(PackJob* job, const word* source, word* target, Py_ssize_t first,
                      Py_ssize_t row, Py_ssize_t from_depth, Py_ssize_t to_depth) noexcept nogil:
    """Pack depths from_depth to to_depth of `row` columns from column `first` on."""
    cdef Py_ssize_t n, d, t
    cdef const word* column
    for n in range(row):
        if first + n >= job.columns:
            for t in range(job.taps):
                for d in range(from_depth, to_depth):
                    target[(t * job.depth + d) * row + n] = 0
            continue
        column = source + (first + n) * job.column_step
        for d in range(from_depth, to_depth):
            for t in range(job.taps):
                target[(t * job.depth + d) * row + n] = column[d * job.depth_step
                                                               + job.tap_steps[t]]


cdef void _pack_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Pack one block of one group."""
    cdef PackJob* job = <PackJob*>ctx
    cdef Py_ssize_t group = index // job.blocks, block = index % job.blocks
    cdef Py_ssize_t first = block * job.width * job.vector
    cdef Py_ssize_t row = min(job.width * job.vector,
                              (job.columns - first + job.vector - 1) // job.vector * job.vector)
    cdef const char* source = job.source + group * job.group_step * job.itemsize
    cdef char* target = job.target + ((group * job.blocks) * job.block_size
                                      + block * job.block_size) * job.itemsize
    # A slice of the depth at a time, so that what is written stays in the first-level cache.
    cdef Py_ssize_t step = max(1, PACK_BYTES // (row * job.taps * job.itemsize))
    cdef Py_ssize_t start = 0, stop
    while start < job.depth:
        stop = min(start + step, job.depth)
        if job.itemsize == 4:
            _pack_slice[uint32_t](job, <const uint32_t*>source, <uint32_t*>target, first, row,
                                  start, stop)
        else:
            _pack_slice[uint64_t](job, <const uint64_t*>source, <uint64_t*>target, first, row,
                                  start, stop)
        start = stop


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
        self.pointer = <char*><size_t>array.ctypes.data


def pack(source, Py_ssize_t groups, Py_ssize_t columns, Py_ssize_t depth, tap_steps,
         Py_ssize_t group_step, Py_ssize_t column_step, Py_ssize_t depth_step,
         Py_ssize_t row_width, int threads):
    """Pack weights for the tiles of rows of `row_width` pixels.

    Element (group, tap, depth, column) is read at ``group * group_step + tap_steps[tap] +
    depth * depth_step + column * column_step`` of the flat C-contiguous `source`.

    Returns
    -------
    Packed
    """
    cdef const ck_gemm_kernels* kernels = kernels_for(source.itemsize)
    cdef int width = choose_width(kernels, row_width, columns), vector = kernels.vector_length
    steps = np.array(tap_steps, dtype=np.intp)
    cdef Py_ssize_t taps = steps.size
    cdef Py_ssize_t blocks = (columns + width * vector - 1) // (width * vector)
    array = memory.empty((groups * blocks * taps * depth * width * vector,), source.dtype)
    cdef Packed packed = Packed(array, groups, taps, depth, columns, width, vector)
    cdef PackJob job
    job.source = <const char*><size_t>source.ctypes.data
    job.target = packed.pointer
    job.itemsize = source.itemsize
    job.vector = vector
    job.width = width
    job.columns = columns
    job.blocks = blocks
    job.depth = depth
    job.taps = taps
    job.block_size = packed.block_size()
    job.group_step = group_step
    job.column_step = column_step
    job.depth_step = depth_step
    job.tap_steps = <const Py_ssize_t*><size_t>steps.ctypes.data
    cdef int team = threads_for(threads, groups * blocks, <double>array.size * 8)
    with nogil:
        parallel_for(_pack_block, &job, groups * blocks, team)
    return packed


def tile_width(Py_ssize_t itemsize, Py_ssize_t row_width, Py_ssize_t columns):
    """Return how many vectors wide the tiles are for rows of `row_width` pixels."""
    return choose_width(kernels_for(itemsize), row_width, columns)
