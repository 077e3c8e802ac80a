"""Stacks of products of two computed matrices, as a step of a Program.

The second matrix of each product is packed into scratch memory, as constant weights are packed
beforehand; the rows of the first are then the pixels of a pointwise convolution. So the bits are
those of a linear layer.
"""

import numpy as np

from convkit._kernels import direct, gemm

from convkit._kernels cimport dispatch
from convkit._kernels.direct cimport Job as Product
from convkit._kernels.direct cimport alone, multiply_adds, run_pixels
from convkit._kernels.gemm cimport PackJob, choose_width, kernels_for, pack_block, part_start
from convkit._kernels.lookahead cimport LookAhead
from convkit._kernels.runner cimport Step, new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cdef enum:
    MOST_AXES = 32

# Rows that a task multiplies, about.
cdef Py_ssize_t ROWS = 64
# The one tap of a matrix, and its place.
cdef Py_ssize_t ZERO = 0

cdef struct Stack:
    Product product                 # of one matrix, of which a task takes some rows
    PackJob packing                 # of one matrix
    int axes                        # of the stack, the samples among them
    Py_ssize_t size[MOST_AXES]
    Py_ssize_t stride_a[MOST_AXES]  # in bytes
    Py_ssize_t stride_b[MOST_AXES]
    Py_ssize_t stack                # matrices of a sample
    Py_ssize_t rows, cuts           # of a matrix
    Py_ssize_t packed_bytes, y_row  # of a matrix; of a row
    const char* a
    const char* b
    char* y
    char* packed


cdef Py_ssize_t _offset(const Stack* job, const Py_ssize_t* strides, Py_ssize_t matrix) noexcept nogil:
    """Return where an operand's matrix lies."""
    cdef Py_ssize_t offset = 0
    cdef int axis
    for axis in range(job.axes - 1, 0, -1):
        offset += matrix % job.size[axis] * strides[axis]
        matrix = matrix // job.size[axis]
    return offset + matrix * strides[0]


cdef void _pack_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Pack one block of one matrix."""
    cdef Stack* job = <Stack*>ctx
    cdef PackJob packing = job.packing
    cdef Py_ssize_t matrix = index // packing.blocks
    packing.source = job.b + _offset(job, job.stride_b, matrix)
    packing.target = job.packed + matrix * job.packed_bytes
    pack_block(&packing, index % packing.blocks, slot)


cdef void _multiply_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Multiply some rows of one matrix."""
    cdef Stack* job = <Stack*>ctx
    cdef Product product = job.product
    cdef Py_ssize_t matrix = index // job.cuts, cut = index % job.cuts
    cdef Py_ssize_t first = part_start(job.rows, job.cuts, cut)
    cdef LookAhead ahead
    ahead.count = 0
    product.weights = job.packed + matrix * job.packed_bytes
    run_pixels(&product, job.a + _offset(job, job.stride_a, matrix)
               + first * product.x_pixel * product.itemsize,
               job.y + (matrix * job.rows + first) * job.y_row, NULL,
               part_start(job.rows, job.cuts, cut + 1) - first, &ahead)


cdef size_t _scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef const Stack* job = <const Stack*>params
    return samples * job.stack * job.packed_bytes


cdef int _run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Stack job = (<const Stack*>params)[0]
    cdef Py_ssize_t matrices = samples * job.stack
    job.a, job.b, job.y, job.packed = at[0], at[1], at[2], scratch
    parallel_for(_pack_task, &job, matrices * job.packing.blocks, threads_for(
        threads, matrices * job.packing.blocks, <double>matrices * job.packed_bytes))
    parallel_for(_multiply_task, &job, matrices * job.cuts, threads_for(
        threads, matrices * job.cuts, matrices * multiply_adds(&job.product)))
    return 0


def step(stack, matrix, dtype, strides_a, strides_b):
    """Return products of stacked matrices as a step, with operands a, b and y.

    Parameters
    ----------
    stack : sequence of int
        Sizes of a sample's axes before those of the matrices.
    matrix : (int, int, int)
        Rows of a, their length, columns of b; none of them 0.
    dtype : numpy.dtype
        float32 or float64.
    strides_a, strides_b : sequence of int
        In bytes: from sample to sample, along each axis of the stack, and the two of a matrix.
        Numbers of a row of a lie side by side, and those of b along one of its axes. y is
        dense.

    Returns
    -------
    Step or None
        None where the stack has too many axes.
    """
    cdef Stack job
    cdef Py_ssize_t rows, depth, columns, item = dtype.itemsize
    cdef int i, width
    rows, depth, columns = matrix
    if len(stack) + 1 > MOST_AXES:
        return None
    width = choose_width(kernels_for(item), rows, columns)
    packed = gemm.Packed(np.empty(0, dtype), 1, 1, depth, columns, width,
                         kernels_for(item).vector_length)
    cdef Step product = direct.step((1, rows, depth), packed, (1, rows, columns), item, [0], [0],
                                    (1, 1), x_pixel=strides_a[-2] // item)
    job.product = (<const Product*>product.params)[0]
    alone(&job.product)
    job.packing.transpose = dispatch.table().transpose
    job.packing.itemsize = item
    job.packing.vector = packed.vector
    job.packing.width = width
    job.packing.columns = columns
    job.packing.blocks = packed.blocks
    job.packing.depth = depth
    job.packing.taps = job.packing.span = 1
    job.packing.block_size = job.product.block_size
    job.packing.depth_step = strides_b[-2] // item
    job.packing.column_step = strides_b[-1] // item
    job.packing.tap_steps = job.packing.places = &ZERO
    job.axes = len(stack) + 1
    job.stack = 1
    for i in range(job.axes):
        job.size[i] = stack[i - 1] if i else 1
        job.stack *= job.size[i]
        job.stride_a[i], job.stride_b[i] = strides_a[i], strides_b[i]
    job.rows = rows
    job.cuts = (rows + ROWS - 1) // ROWS
    job.packed_bytes = (packed.blocks * job.product.block_size * item + 63) // 64 * 64
    job.y_row = columns * item
    return new_step(_run_step, _scratch_size, &job, sizeof(Stack), product)
