"""Matrix products of bytes with exact int32 sums, for quantised inference.

Rows of A are brought to the form that the tiles read, a block at a time, by the task that
multiplies them; B is packed once. Sums wrap around beyond int32, and all instruction sets
give the same bits.
"""

import numpy as np

from convkit._kernels cimport dispatch
from convkit._kernels.dispatch import has_vnni
from convkit._kernels.memory cimport give, take
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, uint8_t

cdef extern from "int8.h" nogil:
    ctypedef struct ck_int8_args:
        const void* a
        ptrdiff_t lda
        const void* b
        ptrdiff_t k
        const int32_t* offset
        int32_t* c
        ptrdiff_t ldc
        int rows, n
    ctypedef struct ck_int8_kernels:
        int rows, columns, group, bytes
        int multiple
        int shifted
        void (*prepare)(const uint8_t* a, ptrdiff_t lda, ptrdiff_t rows, ptrdiff_t k,
                        ptrdiff_t padded, int is_signed, void* out) noexcept nogil
        void (*run[2])(const ck_int8_args*) noexcept nogil

# Rows of A that a task prepares and multiplies with all of B, in blocks of a tile's rows.
cdef Py_ssize_t TASK_TILES = 4

cdef bint HAVE_VNNI = has_vnni()


cdef const ck_int8_kernels* _kernels(bint vnni) noexcept nogil:
    cdef const dispatch.ck_table* table = dispatch.table()
    if vnni and table.int8_vnni != NULL and HAVE_VNNI:
        return <const ck_int8_kernels*>table.int8_vnni
    return <const ck_int8_kernels*>table.int8


cdef class Packed:
    """B in tile order; made by `pack`."""

    cdef readonly object array, offset
    cdef readonly Py_ssize_t k, padded, columns, blocks
    cdef const ck_int8_kernels* kernels
    cdef const char* pointer


def pack(weight, bint vnni=True):
    """Pack the matrix B of ``matmul`` for the instruction set in use.

    Parameters
    ----------
    weight : ndarray (N, K), int8
        One row for each column of the result, as a linear layer's weight.
    vnni : bool
        Whether byte instructions of AVX-512 may be used; tests compare both ways.

    Returns
    -------
    Packed
    """
    if weight.dtype != np.int8 or weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"expected int8 weights of shape (N, K), got {weight.dtype} of shape "
                         f"{weight.shape}")
    cdef Packed packed = Packed.__new__(Packed)
    cdef const ck_int8_kernels* kernels = _kernels(vnni)
    packed.kernels = kernels
    packed.columns, packed.k = weight.shape
    packed.padded = (packed.k + kernels.multiple - 1) // kernels.multiple * kernels.multiple
    packed.blocks = (packed.columns + kernels.columns - 1) // kernels.columns
    full = np.zeros((packed.blocks * kernels.columns, packed.padded),
                    np.int8 if kernels.bytes == 1 else np.int16)
    full[:packed.columns, :packed.k] = weight
    packed.array = np.ascontiguousarray(
        full.reshape(packed.blocks, kernels.columns, -1, kernels.group).transpose(0, 2, 1, 3))
    packed.pointer = <const char*><size_t>packed.array.ctypes.data
    packed.offset = None
    if kernels.shifted:
        sums = weight.sum(axis=1, dtype=np.int64) * -128
        packed.offset = sums.astype(np.int32)
    return packed


cdef struct Job:
    const ck_int8_kernels* kernels
    const uint8_t* a
    const char* b
    const int32_t* offset
    int32_t* c
    char* scratch
    Py_ssize_t rows, columns, k, padded, blocks, block_bytes, task_rows, scratch_bytes
    int is_signed


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Prepare one block of rows and multiply it with all of B."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t first = index * job.task_rows
    cdef Py_ssize_t count = min(job.task_rows, job.rows - first), row, block
    cdef char* a = job.scratch + slot * job.scratch_bytes
    cdef ck_int8_args args
    args.lda = job.padded * job.kernels.bytes
    args.k = job.padded
    args.ldc = job.columns
    job.kernels.prepare(job.a + first * job.k, job.k, count, job.k, job.padded, job.is_signed, a)
    for block in range(job.blocks):
        args.b = job.b + block * job.block_bytes
        args.n = <int>min(job.kernels.columns, job.columns - block * job.kernels.columns)
        args.offset = NULL
        if job.offset != NULL:
            args.offset = job.offset + block * job.kernels.columns
        row = 0
        while row < count:
            args.a = a + row * args.lda
            args.rows = <int>min(job.kernels.rows, count - row)
            args.c = job.c + (first + row) * job.columns + block * job.kernels.columns
            job.kernels.run[job.is_signed](&args)
            row += job.kernels.rows


def matmul(a, Packed b, int threads=1):
    """Multiply bytes: ``a.astype(int32) @ weight.T.astype(int32)``, exactly.

    Parameters
    ----------
    a : ndarray (M, K), uint8 or int8
        C-contiguous.
    b : Packed
        From `pack`, under the same instruction set.
    threads : int

    Returns
    -------
    ndarray (M, N), int32
    """
    if (a.dtype not in (np.dtype(np.uint8), np.dtype(np.int8)) or a.ndim != 2
            or a.shape[1] != b.k or not a.flags.c_contiguous):
        raise ValueError(f"expected C-contiguous bytes of shape (M, {b.k}), got {a.dtype} of "
                         f"shape {a.shape}")
    cdef Job job
    c = np.empty((a.shape[0], b.columns), np.int32)
    if not a.shape[0]:
        return c
    job.kernels = b.kernels
    job.is_signed = a.dtype == np.int8
    job.a = <const uint8_t*><size_t>a.ctypes.data
    job.b = b.pointer
    job.offset = NULL
    if job.is_signed and b.offset is not None:
        job.offset = <const int32_t*><size_t>b.offset.ctypes.data
    job.c = <int32_t*><size_t>c.ctypes.data
    job.rows, job.columns, job.k = a.shape[0], b.columns, b.k
    job.padded = b.padded
    job.blocks = b.blocks
    job.block_bytes = job.padded * job.kernels.columns * job.kernels.bytes
    job.task_rows = TASK_TILES * job.kernels.rows
    job.scratch_bytes = (job.task_rows * job.padded * job.kernels.bytes + 63) // 64 * 64
    cdef Py_ssize_t tasks = (job.rows + job.task_rows - 1) // job.task_rows
    cdef int team = threads_for(threads, tasks, <double>job.rows * job.columns * job.k / 64)
    with nogil:
        job.scratch = <char*>take(team * job.scratch_bytes)
        if job.scratch != NULL:
            parallel_for(_task, &job, tasks, team)
            give(job.scratch, team * job.scratch_bytes)
    if job.scratch == NULL:
        raise MemoryError(f"no memory for {team * job.scratch_bytes} bytes of scratch")
    return c


def form(bint vnni=True):
    """Return what the kernels in use multiply: "bytes" or "16-bit pairs"."""
    return "bytes" if _kernels(vnni).bytes == 1 else "16-bit pairs"
