"""Reused memory: arrays whose buffers go back to a bounded pool, and kernel scratch."""

import numpy as np
cimport numpy as cnp
from cpython.buffer cimport PyBuffer_FillInfo

from convkit._kernels.copies cimport copy_array

cdef extern from "blockpool.h" nogil:
    ctypedef struct ck_pool:
        size_t bound, held, fresh, reused, used, most
    ck_pool ck_the_pool
    void* ck_pool_take(size_t size)
    void ck_pool_give(void* p, size_t size)
    void ck_pool_trim(size_t keep)

cnp.import_array()

# Below this NumPy's own small-block cache is faster than an exporter object.
cdef double SMALL = 4096
cdef double MOST_BYTES = 2.0**52

cdef enum:
    MOST_AXES = 32


cdef void* take(size_t size) noexcept nogil:
    return ck_pool_take(size)


cdef void give(void* pointer, size_t size) noexcept nogil:
    ck_pool_give(pointer, size)


cdef class Block:
    """Memory from the pool that returns there when the last array over it is gone."""

    cdef void* pointer
    cdef Py_ssize_t size
    cdef object note             # of whoever wrote the numbers at `noted`, so many bytes
    cdef void* noted
    cdef Py_ssize_t noted_bytes

    def __cinit__(self, Py_ssize_t size):
        self.pointer = ck_pool_take(<size_t>size)
        if self.pointer == NULL:
            raise MemoryError(f"could not allocate {size} bytes")
        self.size = size

    def __dealloc__(self):
        ck_pool_give(self.pointer, <size_t>self.size)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.pointer, self.size, 0, flags)


cpdef empty(shape, dtype=np.float32, apart=None):
    """Return an uninitialised C-contiguous array over pooled memory aligned to 64 bytes.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype, optional
    apart : ndarray, optional
        The result then begins an odd number of cache lines from where this array does. A kernel that
        steps through both by an even number of lines never stores to the address, modulo the
        4096 bytes that CPUs compare, from which it loads next: each such load would wait for
        the store.
    """
    cdef cnp.dtype kind = dtype if isinstance(dtype, cnp.dtype) else np.dtype(dtype)
    cdef cnp.npy_intp sizes[MOST_AXES]
    cdef double bytes = kind.itemsize
    cdef int axes = 0
    cdef Py_ssize_t n
    try:
        for n in shape:
            if axes == MOST_AXES or n < 0:
                return np.empty(shape, kind)  # or what it has to say
            sizes[axes] = n
            bytes *= n
            axes += 1
    except OverflowError:
        bytes = 2 * MOST_BYTES
    if bytes > MOST_BYTES:
        raise MemoryError(f"an array of shape {tuple(shape)} and {kind} is too large")
    cdef bint plain = cnp.PyTypeNum_ISNUMBER(kind.type_num) and kind.byteorder in b"=|"
    if bytes < SMALL:
        return cnp.PyArray_EMPTY(axes, sizes, kind.type_num, 0) if plain else np.empty(shape, kind)
    cdef Block block = Block(<Py_ssize_t>bytes + (0 if apart is None else 64))
    cdef char* start = <char*>block.pointer
    if apart is not None and not (
            (<size_t>start >> 6) ^ (<size_t>cnp.PyArray_DATA(apart) >> 6)) & 1:
        start += 64
    if not plain:
        return np.ndarray(shape, kind, block, start - <char*>block.pointer)
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(axes, sizes, kind.type_num, start)
    cnp.set_array_base(array, block)
    return array


# -- notes ------------------------------------------------------------------------------------

cdef Block _block_of(cnp.ndarray x):
    """Return the block that an array lies in, or None."""
    cdef object base = cnp.get_array_base(x)
    while isinstance(base, cnp.ndarray):
        base = cnp.get_array_base(<cnp.ndarray>base)
    return base if isinstance(base, Block) else None


def note(cnp.ndarray x not None, what):
    """Note something about the numbers of an array, contiguous in memory, as long as they are there.

    Arrays that are not over pooled memory take no notes. Changes of a tensor in place drop them.
    """
    cdef Block block = _block_of(x)
    if block is not None:
        block.note = what
        block.noted = cnp.PyArray_DATA(x)
        block.noted_bytes = cnp.PyArray_NBYTES(x)


def noted(cnp.ndarray x not None):
    """Return what was noted about the very numbers of a C-contiguous array, or None."""
    cdef Block block = _block_of(x)
    if (block is None or block.note is None or not cnp.PyArray_IS_C_CONTIGUOUS(x)
            or block.noted != cnp.PyArray_DATA(x) or block.noted_bytes != cnp.PyArray_NBYTES(x)):
        return None
    return block.note


cpdef forget(x):
    """Drop what was noted about numbers in the same block as an array's."""
    cdef Block block = _block_of(x) if isinstance(x, cnp.ndarray) else None
    if block is not None:
        block.note = None


# -- channels-last ---------------------------------------------------------------------------

# The axes that bring (N, C), (N, C, L) or (N, C, H, W) to channels-last order, and back.
cdef cnp.npy_intp TO_LAST[3][4]
cdef cnp.npy_intp FROM_LAST[3][4]
TO_LAST[0][:], FROM_LAST[0][:] = [0, 1, 0, 0], [0, 1, 0, 0]
TO_LAST[1][:], FROM_LAST[1][:] = [0, 2, 1, 0], [0, 2, 1, 0]
TO_LAST[2][:], FROM_LAST[2][:] = [0, 2, 3, 1], [0, 3, 1, 2]


cdef cnp.ndarray _moved(cnp.ndarray x, cnp.npy_intp* orders):
    """Return a view with the axes in the order for as many as there are."""
    cdef cnp.PyArray_Dims order
    order.len = cnp.PyArray_NDIM(x)
    if not 2 <= order.len <= 4:
        raise ValueError(f"expected an array with 2 to 4 axes, got shape {(<object>x).shape}")
    order.ptr = orders + 4 * (order.len - 2)
    return cnp.PyArray_Transpose(x, &order)


def to_last(cnp.ndarray x not None, int threads=1):
    """Return a C-contiguous channels-last array with the values of a logical 2-D to 4-D one.

    Shares memory with `x` where its layout allows; else `threads` may copy.
    """
    cdef cnp.ndarray last = _moved(x, &TO_LAST[0][0])
    if cnp.PyArray_IS_C_CONTIGUOUS(last):
        return last
    copy = empty((<object>last).shape, x.dtype)
    copy_array(copy, last, threads)
    return copy


def from_last(cnp.ndarray y not None):
    """Return the logical (N, C, spatial...) view of a channels-last array."""
    return _moved(y, &FROM_LAST[0][0])


def address_of(cnp.ndarray array not None):
    """Return where an array's first element lies (`ctypes.data`, without ctypes)."""
    return <size_t>cnp.PyArray_DATA(array)


cpdef bint is_plain(cnp.ndarray x) except -1:
    """Tell whether an array holds float32 or float64 as kernels read them: native and aligned."""
    return (cnp.PyArray_TYPE(x) in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64)
            and cnp.PyArray_ISBEHAVED_RO(x))


cpdef bint of_one_kind(cnp.ndarray x, cnp.ndarray weight, cnp.ndarray bias):
    """Tell whether arrays hold numbers of one type as kernels read them, weight and bias in order."""
    return is_plain(x) and is_plain(weight) and cnp.PyArray_TYPE(weight) == cnp.PyArray_TYPE(x) \
        and cnp.PyArray_IS_C_CONTIGUOUS(weight) and (
            bias is None or is_plain(bias) and cnp.PyArray_TYPE(bias) == cnp.PyArray_TYPE(x))


cpdef bint alike(tuple arrays) except -1:
    """Tell whether arrays (or None) are C-contiguous and of one type."""
    cdef cnp.ndarray first = arrays[0], other
    cdef bint same = cnp.PyArray_IS_C_CONTIGUOUS(first)
    for array in arrays:
        if array is not None:
            other = array
            same = same and cnp.PyArray_IS_C_CONTIGUOUS(other) and \
                cnp.PyArray_DESCR(other) is cnp.PyArray_DESCR(first)
    return same


def zeros(shape, dtype=np.float32):
    """Return a zeroed C-contiguous array over pooled memory."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def stats():
    """Return what the pool holds.

    "held" bytes in free blocks and their "bound", blocks "fresh" from the system and "reused", and
    how many bytes of large blocks are "used" now, and were at "most" at any time."""
    return {"held": ck_the_pool.held, "bound": ck_the_pool.bound,
            "fresh": ck_the_pool.fresh, "reused": ck_the_pool.reused,
            "used": ck_the_pool.used, "most": ck_the_pool.most}


def set_bound(size_t bound):
    """Set how many bytes of free blocks the pool may keep, and trim to it."""
    ck_the_pool.bound = bound
    ck_pool_trim(bound)


def trim(size_t keep=0):
    """Give free blocks back to the operating system until at most `keep` bytes are held."""
    ck_pool_trim(keep)
