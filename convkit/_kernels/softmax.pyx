"""Softmax and log-softmax along the last axis of a contiguous array, and their gradients."""

cimport numpy as cnp

from convkit._kernels.arrays cimport out_pointer, pointer, real_index
from convkit._kernels.dispatch cimport ck_softmax_fn, ck_softmax_grad_fn, table
from convkit._kernels.runner cimport new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Numbers in one task, which takes at least one row.
cdef Py_ssize_t BLOCK = 16384
# Cost of one number in units of `threads_for`.
cdef int COST = 4

cdef struct Run:
    ck_softmax_fn map
    ck_softmax_grad_fn grad
    const char* first
    const char* second
    char* out
    Py_ssize_t rows, length, block, item


cdef void _map_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t row = index * run.block, at = row * run.length * run.item
    run.map(run.first + at, run.out + at, min(run.block, run.rows - row), run.length)


cdef void _grad_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t row = index * run.block, at = row * run.length * run.item
    run.grad(run.first + at, run.second + at, run.out + at, min(run.block, run.rows - row),
             run.length)


cdef int _start(Run* run, cnp.ndarray first, cnp.ndarray out) except -1:
    """Fill in sizes and pointers; return the index of the number type."""
    cdef int kind = real_index(first)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(first)
    run.item = 8 if kind else 4
    run.length = max(first.shape[first.ndim - 1], 1)
    run.rows = size // run.length
    run.block = max(BLOCK // run.length, 1)
    run.first = <const char*>pointer(first, kind, size)
    run.out = <char*>out_pointer(out, kind, size)
    return kind


cdef Py_ssize_t _blocks(const Run* run) noexcept nogil:
    return (run.rows + run.block - 1) // run.block


cdef int _threads(const Run* run, int threads) noexcept nogil:
    return threads_for(threads, _blocks(run), <double>run.rows * run.length * COST)


cdef int _run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    run.rows *= samples
    run.first = at[0]
    run.out = at[1]
    parallel_for(_map_block, &run, _blocks(&run), _threads(&run, threads))
    return 0


def step(Py_ssize_t rows, Py_ssize_t length, bint double_, bint log):
    """Return `softmax` of `rows` rows in each sample as a step, with operands x and out."""
    cdef Run run
    run.item = 8 if double_ else 4
    run.rows = rows
    run.length = length
    run.block = max(BLOCK // length, 1)
    run.map = table().softmax.log_softmax[double_] if log else table().softmax.softmax[double_]
    return new_step(_run_step, NULL, &run, sizeof(Run), None)


def softmax(cnp.ndarray x, cnp.ndarray out, int threads, bint log=False):
    """Set `out` to the softmax of `x` along its last axis, or to its logarithm.

    Parameters
    ----------
    x, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and shape; `out` may be `x`.
    threads : int
        How many threads may be used.
    log : bool
        Whether to compute log-softmax.
    """
    cdef Run run
    cdef int kind = _start(&run, x, out)
    run.map = table().softmax.log_softmax[kind] if log else table().softmax.softmax[kind]
    with nogil:
        parallel_for(_map_block, &run, _blocks(&run), _threads(&run, threads))


def softmax_grad(cnp.ndarray gy, cnp.ndarray y, cnp.ndarray out, int threads, bint log=False):
    """Set `out` to the gradient of the input of `softmax`.

    Parameters
    ----------
    gy, y, out : numpy.ndarray
        Gradient of the result, the result, and the gradient of the input, all as for
        `softmax`; `out` may be one of the others.
    threads : int
        How many threads may be used.
    log : bool
        Whether `y` is the log-softmax.
    """
    cdef Run run
    cdef int kind = _start(&run, gy, out)
    run.second = <const char*>pointer(y, kind, run.rows * run.length)
    run.grad = (table().softmax.log_softmax_grad[kind] if log
                else table().softmax.softmax_grad[kind])
    with nogil:
        parallel_for(_grad_block, &run, _blocks(&run), _threads(&run, threads))
