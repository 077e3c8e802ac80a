"""Reused memory: arrays whose buffers go back to a bounded pool, and kernel scratch."""

import numpy as np
cimport numpy as cnp
from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from "blockpool.h" nogil:
    ctypedef struct ck_pool:
        size_t bound, held, fresh, reused, used, most
    ck_pool ck_the_pool
    void* ck_pool_take(size_t size)
    void ck_pool_give(void* p, size_t size)
    void ck_pool_trim(size_t keep)

cnp.import_array()

# Below this NumPy's own small-block cache is faster than an exporter object.
cdef Py_ssize_t SMALL = 4096


cdef void* take(size_t size) noexcept nogil:
    return ck_pool_take(size)


cdef void give(void* pointer, size_t size) noexcept nogil:
    ck_pool_give(pointer, size)


cdef class Block:
    """Memory from the pool that returns there when the last array over it is gone."""

    cdef void* pointer
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.pointer = ck_pool_take(<size_t>size)
        if self.pointer == NULL:
            raise MemoryError(f"could not allocate {size} bytes")
        self.size = size

    def __dealloc__(self):
        ck_pool_give(self.pointer, <size_t>self.size)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.pointer, self.size, 0, flags)


def empty(shape, dtype=np.float32, apart=None):
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
    dtype = np.dtype(dtype)
    cdef object count = 1
    for size in shape:
        count *= size
    count *= dtype.itemsize
    if count < SMALL:
        return np.empty(shape, dtype)
    if count > <Py_ssize_t>(<size_t>-1 >> 2):
        raise MemoryError(f"an array of shape {tuple(shape)} and {dtype} is too large")
    if apart is None:
        return np.ndarray(shape, dtype, buffer=Block(count))
    cdef Block block = Block(count + 64)
    cdef size_t lines = (<size_t>block.pointer >> 6) ^ (<size_t>cnp.PyArray_DATA(apart) >> 6)
    return np.ndarray(shape, dtype, buffer=block, offset=0 if lines & 1 else 64)


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
