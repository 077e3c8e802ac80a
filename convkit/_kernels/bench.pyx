"""What this machine can do at most, measured: multiply-adds and copies a second.

Benchmarks divide by these numbers, taken in the same run on the same number of threads.
"""

from time import perf_counter

from convkit._kernels cimport dispatch
from convkit._kernels.gemm cimport ck_gemm_table
from convkit._kernels.memory cimport give, take
from convkit._kernels.threads cimport parallel_for, task_fn
from libc.string cimport memcpy, memset

cdef extern from "tile.h" nogil:
    ctypedef struct ck_tile_table:
        double (*rounds)(long steps) noexcept nogil

# Rounds of a task: about a millisecond.
cdef long ROUNDS = 200_000
cdef long TILE_ROUNDS = 20_000


cdef void _fma_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Run one thread's rounds and keep the number of operations."""
    (<double*>ctx)[index * 8] = (<const ck_gemm_table*>dispatch.table().gemm).fma_rounds(ROUNDS)


cdef void _tile_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """The same with products of bfloat16 tiles."""
    (<double*>ctx)[index * 8] = (<const ck_tile_table*>dispatch.table().tile).rounds(TILE_ROUNDS)


def fma_gflops(int threads, double seconds=0.1):
    """Return the best rate of float32 multiply-adds seen, in GFLOP/s (two for each).

    Parameters
    ----------
    threads : int
        Each runs independent chains of multiply-adds in registers.
    seconds : float
        How long to try.
    """
    return _peak(_fma_task, threads, seconds)


def tile_gflops(int threads, double seconds=0.1):
    """Return the best rate of bfloat16 products seen, in GFLOP/s; None where there are none.

    Parameters
    ----------
    threads : int
        Each multiplies full tiles into four accumulators, or vectors into 24.
    seconds : float
        How long to try.
    """
    if dispatch.table().tile == NULL:
        return None
    return _peak(_tile_task, threads, seconds)


cdef _peak(task_fn task, int threads, double seconds):
    """Return the best rate of operations that a task on every thread counts."""
    cdef Py_ssize_t size = threads * 8 * sizeof(double), i
    cdef double* operations = <double*>take(size)
    cdef double best = 0, done
    if operations == NULL:
        raise MemoryError(f"no memory for {threads} counters")
    end = perf_counter() + seconds
    try:
        while True:
            start = perf_counter()
            with nogil:
                parallel_for(task, operations, threads, threads)
            now = perf_counter()
            done = 0
            for i in range(threads):
                done += operations[i * 8]
            best = max(best, done / (now - start) / 1e9)
            if now >= end:
                return best
    finally:
        give(operations, size)


cdef struct Copy:
    char* source
    char* target
    Py_ssize_t size, part


cdef void _copy_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Copy one part."""
    cdef Copy* job = <Copy*>ctx
    cdef Py_ssize_t start = index * job.part
    memcpy(job.target + start, job.source + start, min(job.part, job.size - start))


def copy_gbs(int threads, Py_ssize_t size, double seconds=0.1):
    """Return the best rate of copying `size` bytes seen, in GB/s read plus written.

    Parameters
    ----------
    threads : int
        Threads that share the copy.
    size : int
        Bytes: of a size below the caches' this is their speed, else the memory's.
    seconds : float
        How long to try.
    """
    cdef Copy job
    cdef double best = 0
    if size < 1:
        raise ValueError(f"expected a positive number of bytes, got {size}")
    job.size = size
    job.part = max(64 * 1024, (size + 8 * threads - 1) // (8 * threads))
    job.source = <char*>take(size)
    job.target = <char*>take(size)
    try:
        if job.source == NULL or job.target == NULL:
            raise MemoryError(f"no memory for twice {size} bytes")
        memset(job.source, 1, size)
        memset(job.target, 1, size)
        end = perf_counter() + seconds
        while True:
            start = perf_counter()
            with nogil:
                parallel_for(_copy_task, &job, (size + job.part - 1) // job.part, threads)
            now = perf_counter()
            best = max(best, 2 * size / (now - start) / 1e9)
            if now >= end:
                return best
    finally:
        give(job.source, size)
        give(job.target, size)
