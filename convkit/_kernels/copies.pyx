"""Copies between arrays that lie differently in memory, on several threads."""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from convkit._kernels cimport dispatch
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Bytes that one task copies, about; elements of a column that are copied side by side.
cdef Py_ssize_t TASK_BYTES = 1 << 16
cdef Py_ssize_t COLUMN = 16

# Below this many bytes NumPy's copy has begun before ours is described.
cdef Py_ssize_t LEAST_BYTES = 1 << 16


cdef void _move_axis(Copy* copy, int at, int to) noexcept nogil:
    """Take an axis to a later place."""
    cdef Py_ssize_t size = copy.size[at], source = copy.source[at], target = copy.target[at]
    cdef int i
    for i in range(at, to):
        copy.size[i] = copy.size[i + 1]
        copy.source[i] = copy.source[i + 1]
        copy.target[i] = copy.target[i + 1]
    copy.size[to] = size
    copy.source[to] = source
    copy.target[to] = target


cdef inline Py_ssize_t _far(Py_ssize_t stride) noexcept nogil:
    return stride if stride >= 0 else -stride


cdef void arrange(Copy* copy) noexcept nogil:
    """Sort and join the axes, and cut the work."""
    cdef int i, j, kept = 0, last
    cdef Py_ssize_t rest
    for i in range(copy.axes):         # by the target's strides, the largest first
        for j in range(copy.axes - 1):
            if _far(copy.target[j]) < _far(copy.target[j + 1]):
                _move_axis(copy, j, j + 1)
    for i in range(copy.axes):
        if copy.size[i] == 1:
            continue
        if (kept and copy.source[kept - 1] == copy.source[i] * copy.size[i]
                and copy.target[kept - 1] == copy.target[i] * copy.size[i]):
            kept -= 1
            copy.size[kept] *= copy.size[i]
        else:
            copy.size[kept] = copy.size[i]
        copy.source[kept] = copy.source[i]
        copy.target[kept] = copy.target[i]
        kept += 1
    while kept < 2:                    # axes of one element in front
        for i in range(kept, 0, -1):
            copy.size[i] = copy.size[i - 1]
            copy.source[i] = copy.source[i - 1]
            copy.target[i] = copy.target[i - 1]
        copy.size[0] = 1
        copy.source[0] = copy.target[0] = copy.item
        kept += 1
    copy.axes = kept
    last = 0
    for i in range(kept - 1):
        if _far(copy.source[i]) <= _far(copy.source[last]):
            last = i
    _move_axis(copy, last, kept - 2)
    copy.outer = 1
    for i in range(kept - 2):
        copy.outer *= copy.size[i]
    rest = copy.size[kept - 2]
    copy.each = max(COLUMN, TASK_BYTES // max(<Py_ssize_t>1, copy.size[kept - 1] * copy.item))
    copy.each = max(<Py_ssize_t>1, min(copy.each, rest))
    copy.pieces = (rest + copy.each - 1) // copy.each


ctypedef fused element:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef void _copy_plane(element* y, const element* x, Py_ssize_t rows, Py_ssize_t columns,
                      Py_ssize_t x_row, Py_ssize_t y_row, Py_ssize_t x_column,
                      Py_ssize_t y_column) noexcept nogil:
    """Copy a plane of elements, a few rows at a time; strides in bytes."""
    cdef Py_ssize_t first = 0, count, i, j
    cdef const char* source
    cdef char* target
    while first < rows:
        count = min(COLUMN, rows - first)
        for j in range(columns):
            source = <const char*>x + first * x_row + j * x_column
            target = <char*>y + first * y_row + j * y_column
            for i in range(count):
                (<element*>target)[0] = (<const element*>source)[0]
                source += x_row
                target += y_row
        first += count


cdef void _copy_strided(const Copy* copy, const char* x, char* y, Py_ssize_t rows,
                        Py_ssize_t columns) noexcept nogil:
    """Copy a plane element by element."""
    cdef int row = copy.axes - 2, column = copy.axes - 1
    if copy.item == 1:
        _copy_plane[uint8_t](<uint8_t*>y, <const uint8_t*>x, rows, columns, copy.source[row],
                             copy.target[row], copy.source[column], copy.target[column])
    elif copy.item == 2:
        _copy_plane[uint16_t](<uint16_t*>y, <const uint16_t*>x, rows, columns, copy.source[row],
                              copy.target[row], copy.source[column], copy.target[column])
    elif copy.item == 4:
        _copy_plane[uint32_t](<uint32_t*>y, <const uint32_t*>x, rows, columns, copy.source[row],
                              copy.target[row], copy.source[column], copy.target[column])
    else:
        _copy_plane[uint64_t](<uint64_t*>y, <const uint64_t*>x, rows, columns, copy.source[row],
                              copy.target[row], copy.source[column], copy.target[column])


cdef void _fill(element* y, const element* value, Py_ssize_t count) noexcept nogil:
    cdef element v = value[0]
    cdef Py_ssize_t i
    for i in range(count):
        y[i] = v


cdef void _repeat(char* y, const char* value, Py_ssize_t item, Py_ssize_t count) noexcept nogil:
    """Write an element `count` times."""
    if item == 1:
        _fill[uint8_t](<uint8_t*>y, <const uint8_t*>value, count)
    elif item == 2:
        _fill[uint16_t](<uint16_t*>y, <const uint16_t*>value, count)
    elif item == 4:
        _fill[uint32_t](<uint32_t*>y, <const uint32_t*>value, count)
    else:
        _fill[uint64_t](<uint64_t*>y, <const uint64_t*>value, count)


cdef bint _is_transposed(const Copy* copy) noexcept nogil:
    """Tell whether the source lies side by side along rows and the target along columns."""
    cdef int row = copy.axes - 2, column = copy.axes - 1
    return (copy.source[row] == copy.item and copy.target[column] == copy.item
            and copy.source[column] % copy.item == 0)


cdef void _transpose_plane(const Copy* copy, const char* x, char* y, Py_ssize_t rows,
                           Py_ssize_t columns) noexcept nogil:
    """Copy a transposed plane: square blocks in registers, the last ones over parts of those before."""
    cdef const dispatch.ck_table* table = dispatch.table()
    cdef Py_ssize_t x_column = copy.source[copy.axes - 1], y_row = copy.target[copy.axes - 2]
    cdef Py_ssize_t bytes = table.vector_bytes if copy.item >= 4 else dispatch.CK_TRANSPOSE_BYTES
    cdef Py_ssize_t lanes = bytes // copy.item, block_row, block_column, r, c, i
    cdef const char* source
    cdef void* targets[16]                # CK_TRANSPOSE_MAX
    if rows < lanes or columns < lanes:
        _copy_strided(copy, x, y, rows, columns)
        return
    # A block of columns at a time: one line of each row of the target, and neighbouring lines of few
    # columns of the source, which may lie pages apart.
    for block_column in range((columns + lanes - 1) // lanes):
        c = min(block_column * lanes, columns - lanes)
        for block_row in range((rows + lanes - 1) // lanes):
            r = min(block_row * lanes, rows - lanes)
            source = x + r * copy.item + c * x_column
            if copy.item < 4:
                table.transpose.small[copy.item == 2](source, x_column,
                                                      y + r * y_row + c * copy.item, y_row)
                continue
            for i in range(lanes):
                targets[i] = y + (r + i) * y_row + c * copy.item
            table.transpose.to_vectors[copy.item == 8](source, x_column // copy.item, <int>lanes,
                                                       <int>lanes, targets)


cdef void _copy_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Copy* copy = <Copy*>ctx
    cdef Py_ssize_t piece = index % copy.pieces, block = index // copy.pieces
    cdef Py_ssize_t sample = block // copy.outer
    cdef Py_ssize_t first = piece * copy.each
    cdef int row = copy.axes - 2, column = copy.axes - 1, i
    cdef Py_ssize_t rows = min(copy.each, copy.size[row] - first), r, columns = copy.size[column]
    cdef const char* x = copy.x + sample * copy.source_sample + first * copy.source[row]
    cdef char* y = copy.y + sample * copy.target_sample + first * copy.target[row]
    block -= sample * copy.outer
    for i in range(row - 1, -1, -1):
        x += block % copy.size[i] * copy.source[i]
        y += block % copy.size[i] * copy.target[i]
        block = block // copy.size[i]
    if copy.source[column] == copy.item and copy.target[column] == copy.item:
        for r in range(rows):
            memcpy(y + r * copy.target[row], x + r * copy.source[row], columns * copy.item)
    elif copy.source[column] == 0 and copy.target[column] == copy.item:
        for r in range(rows):
            _repeat(y + r * copy.target[row], x + r * copy.source[row], copy.item, columns)
    elif _is_transposed(copy):
        _transpose_plane(copy, x, y, rows, columns)
    else:
        _copy_strided(copy, x, y, rows, columns)


cdef void copy_samples(Copy* copy, const char* x, char* y, Py_ssize_t samples,
                       int threads) noexcept nogil:
    cdef Py_ssize_t tasks = samples * copy.outer * copy.pieces
    copy.x = x
    copy.y = y
    parallel_for(_copy_task, copy, tasks, threads_for(
        threads, tasks, <double>samples * copy.outer * copy.size[copy.axes - 2]
        * copy.size[copy.axes - 1] * copy.item))


cdef int copy_array(cnp.ndarray y, cnp.ndarray x, int threads) except -1:
    cdef Copy copy
    cdef int i
    copy.axes = cnp.PyArray_NDIM(x)
    copy.item = cnp.PyArray_ITEMSIZE(x)
    if (cnp.PyArray_SIZE(x) * copy.item < LEAST_BYTES or copy.axes > MOST_AXES - 2
            or copy.item not in (1, 2, 4, 8) or not cnp.PyTypeNum_ISNUMBER(cnp.PyArray_TYPE(x))
            or cnp.PyArray_TYPE(x) != cnp.PyArray_TYPE(y)
            or not (cnp.PyArray_ISBEHAVED_RO(x) and cnp.PyArray_ISBEHAVED(y))):
        np.copyto(y, x)
        return 0
    if cnp.PyArray_NDIM(y) != copy.axes:
        raise ValueError(f"cannot copy an array of {copy.axes} axes to one of {y.ndim}")
    for i in range(copy.axes):
        copy.size[i] = cnp.PyArray_DIM(x, i)
        if cnp.PyArray_DIM(y, i) != copy.size[i]:
            raise ValueError(f"cannot copy shape {(<object>x).shape} to {(<object>y).shape}")
        copy.source[i] = cnp.PyArray_STRIDE(x, i)
        copy.target[i] = cnp.PyArray_STRIDE(y, i)
    copy.source_sample = copy.target_sample = 0
    with nogil:
        arrange(&copy)
        copy_samples(&copy, <const char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(y), 1,
                     threads)
    return 0


def copyto(cnp.ndarray y not None, cnp.ndarray x not None, int threads=1):
    """Copy `x` to `y`, which has its shape and shares no memory with it.

    Parameters
    ----------
    y, x : numpy.ndarray
        Of any strides.
    threads : int
        How many threads may be used.

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    copy_array(y, x, threads)
