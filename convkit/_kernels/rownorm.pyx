"""Layer norm and local response norm over the rows of a contiguous array.

Rows are cut into blocks whose size depends on their length alone. Sums over rows (the
gradients of weight and bias) leave one partial result per block, in double, added in the
order of blocks.
"""

import numpy as np

cimport numpy as cnp

from convkit._kernels cimport memory
from convkit._kernels.arrays cimport out_pointer, pointer, real_index
from convkit._kernels.dispatch cimport table
from convkit._kernels.runner cimport new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

cdef extern from "rownorm.h" nogil:
    ctypedef struct ck_lrn:
        Py_ssize_t size
        double alpha, beta, k
    ctypedef void (*layer_fn)(const void* x, const void* weight, const void* bias, void* y,
                              double* mean, double* inverse, Py_ssize_t rows,
                              Py_ssize_t length, double eps) noexcept nogil
    ctypedef void (*layer_grad_fn)(const void* gy, const void* x, const void* weight,
                                   const double* mean, const double* inverse, void* gx,
                                   Py_ssize_t rows, Py_ssize_t length) noexcept nogil
    ctypedef void (*layer_sums_fn)(const void* gy, const void* x, const double* mean,
                                   const double* inverse, double* sum, double* product,
                                   Py_ssize_t rows, Py_ssize_t length) noexcept nogil
    ctypedef void (*lrn_fn)(const ck_lrn* o, const void* x, void* y, void* base, void* scratch,
                            Py_ssize_t rows, Py_ssize_t length) noexcept nogil
    ctypedef void (*lrn_grad_fn)(const ck_lrn* o, const void* gy, const void* x,
                                 const void* base, void* gx, void* scratch, Py_ssize_t rows,
                                 Py_ssize_t length) noexcept nogil
    ctypedef struct ck_rownorm_table:
        layer_fn layer[2]
        layer_grad_fn layer_grad[2]
        layer_sums_fn layer_sums[2]
        lrn_fn lrn[2]
        lrn_grad_fn lrn_grad[2]

# Numbers in a block, which has at least one row; LEAST_ROWS where rows are summed.
cdef Py_ssize_t BLOCK = 16384
cdef Py_ssize_t LEAST_ROWS = 16
# Cost of one number in units of `threads_for`.
cdef int LAYER_COST = 4
cdef int LRN_COST = 16

cdef struct Run:
    const ck_rownorm_table* kernels
    int kind
    Py_ssize_t rows, length, block, blocks
    const char* x
    const char* gy
    const char* base
    char* out
    char* kept
    const void* weight
    const void* bias
    double* mean
    double* inverse
    double eps
    double* sums  # two partial results per block, `length` numbers each
    ck_lrn lrn
    char* scratch  # one piece for each thread
    Py_ssize_t piece


cdef int _start(Run* run, cnp.ndarray x, Py_ssize_t length, Py_ssize_t least) except -1:
    """Fill in what all kernels need."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x)
    if length < 0 or (size and (length == 0 or size % length)):
        raise ValueError(f"kernel called with {size} numbers in rows of {length}")
    run.kind = real_index(x)
    run.kernels = <const ck_rownorm_table*>table().rownorm
    run.x = <const char*>pointer(x, run.kind, size)
    run.length = length
    run.rows = size // length if length else 0
    run.block = max(BLOCK // max(length, 1), least)
    run.blocks = (run.rows + run.block - 1) // run.block
    return 0


cdef Py_ssize_t _size(const Run* run) noexcept nogil:
    return run.rows * run.length


cdef Py_ssize_t _at(const Run* run, Py_ssize_t index) noexcept nogil:
    """Return where a block begins, in bytes."""
    return index * run.block * run.length * (8 if run.kind else 4)


cdef Py_ssize_t _rows(const Run* run, Py_ssize_t index) noexcept nogil:
    return min(run.block, run.rows - index * run.block)


cdef int _threads(const Run* run, int threads, int cost) noexcept nogil:
    return threads_for(threads, run.blocks, <double>_size(run) * cost)


cdef const void* _optional(Run* run, object values) except? NULL:
    return NULL if values is None else pointer(values, run.kind, run.length)


cdef double* _row_numbers(Run* run, cnp.ndarray values) except? NULL:
    """Return the data of an array of one double for each row."""
    return <double*>out_pointer(values, 1, run.rows)


# -- layer norm ------------------------------------------------------------------------------

cdef void _layer_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = _at(run, index), row = index * run.block
    run.kernels.layer[run.kind](run.x + at, run.weight, run.bias, run.out + at, run.mean + row,
                                run.inverse + row, _rows(run, index), run.length, run.eps)


def layer_norm(cnp.ndarray x, Py_ssize_t length, weight, bias, double eps, cnp.ndarray out,
               cnp.ndarray mean, cnp.ndarray inverse, int threads):
    """Set ``out = (x - mean) * inverse * weight + bias`` row by row.

    Parameters
    ----------
    x, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size; `out` may be `x`.
    length : int
        Of a row.
    weight, bias : numpy.ndarray or None
        (length,), of the type of `x`.
    eps : float
        Added to the variance.
    mean, inverse : numpy.ndarray
        (rows,), float64: get each row's mean and 1 / sqrt(variance + eps).
    threads : int
        How many threads may be used.
    """
    cdef Run run
    _start(&run, x, length, 1)
    run.out = <char*>out_pointer(out, run.kind, _size(&run))
    run.weight = _optional(&run, weight)
    run.bias = _optional(&run, bias)
    run.mean = _row_numbers(&run, mean)
    run.inverse = _row_numbers(&run, inverse)
    run.eps = eps
    with nogil:
        parallel_for(_layer_block, &run, run.blocks, _threads(&run, threads, LAYER_COST))


cdef size_t _layer_scratch(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    """Bytes of each row's mean and of its 1 / deviation."""
    return (<const Run*>params).rows * samples * 2 * sizeof(double)


cdef int _layer_step(const void* params, char** at, Py_ssize_t samples, int threads,
                     char* scratch) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    _of_samples(&run, samples)
    run.x = at[0]
    run.out = at[1]
    run.mean = <double*>scratch
    run.inverse = run.mean + run.rows
    parallel_for(_layer_block, &run, run.blocks, _threads(&run, threads, LAYER_COST))
    return 0


cdef void _of_samples(Run* run, Py_ssize_t samples) noexcept nogil:
    """Take the rows of some samples for those of one."""
    run.rows *= samples
    run.blocks = (run.rows + run.block - 1) // run.block


cdef _describe(Run* run, Py_ssize_t rows, Py_ssize_t length, bint double_):
    """Fill in what all steps on `rows` rows of each sample need."""
    run.kind = double_
    run.kernels = <const ck_rownorm_table*>table().rownorm
    run.rows = rows
    run.length = length
    run.block = max(BLOCK // length, 1)


def layer_step(Py_ssize_t rows, Py_ssize_t length, bint double_, weight, bias, double eps):
    """Return `layer_norm` of `rows` rows in each sample as a step, with operands x and out."""
    cdef Run run
    _describe(&run, rows, length, double_)
    run.weight = _optional(&run, weight)
    run.bias = _optional(&run, bias)
    run.eps = eps
    return new_step(_layer_step, _layer_scratch, &run, sizeof(Run), (weight, bias))


cdef void _layer_grad_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = _at(run, index), row = index * run.block
    run.kernels.layer_grad[run.kind](run.gy + at, run.x + at, run.weight, run.mean + row,
                                     run.inverse + row, run.out + at, _rows(run, index),
                                     run.length)


def layer_norm_grad(cnp.ndarray gy, cnp.ndarray x, Py_ssize_t length, weight, cnp.ndarray mean,
                    cnp.ndarray inverse, cnp.ndarray out, int threads):
    """Set `out` to the gradient of `x`.

    Parameters
    ----------
    gy, x, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size; `out` may be one of the others.
    length, weight
        As given to `layer_norm`.
    mean, inverse : numpy.ndarray
        As `layer_norm` left them.
    threads : int
        How many threads may be used.
    """
    cdef Run run
    _start(&run, x, length, 1)
    run.gy = <const char*>pointer(gy, run.kind, _size(&run))
    run.out = <char*>out_pointer(out, run.kind, _size(&run))
    run.weight = _optional(&run, weight)
    run.mean = _row_numbers(&run, mean)
    run.inverse = _row_numbers(&run, inverse)
    with nogil:
        parallel_for(_layer_grad_block, &run, run.blocks, _threads(&run, threads, LAYER_COST))


cdef void _layer_sums_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = _at(run, index), row = index * run.block
    cdef double* sums = run.sums + 2 * index * run.length
    run.kernels.layer_sums[run.kind](run.gy + at, run.x + at, run.mean + row, run.inverse + row,
                                     sums, sums + run.length, _rows(run, index), run.length)


def layer_norm_sums(cnp.ndarray gy, cnp.ndarray x, Py_ssize_t length, cnp.ndarray mean,
                    cnp.ndarray inverse, int threads):
    """Return for each column the sums of ``gy`` and of ``gy`` times the normalised ``x``.

    Parameters
    ----------
    gy, x, length, mean, inverse, threads
        As for `layer_norm_grad`.

    Returns
    -------
    tuple of numpy.ndarray
        (length,), float64: the gradients of bias and weight.
    """
    cdef Run run
    _start(&run, x, length, LEAST_ROWS)
    run.gy = <const char*>pointer(gy, run.kind, _size(&run))
    run.mean = _row_numbers(&run, mean)
    run.inverse = _row_numbers(&run, inverse)
    cdef cnp.ndarray totals = np.zeros((2, length))
    cdef double* total = <double*>cnp.PyArray_DATA(totals)
    cdef size_t size = <size_t>(run.blocks * length) * 2 * sizeof(double)
    cdef Py_ssize_t index, i
    run.sums = <double*>memory.take(size)
    if run.sums == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    with nogil:
        parallel_for(_layer_sums_block, &run, run.blocks, _threads(&run, threads, LAYER_COST))
        for index in range(run.blocks):
            for i in range(2 * length):
                total[i] += run.sums[2 * index * length + i]
        memory.give(run.sums, size)
    return totals[0], totals[1]


# -- local response norm ---------------------------------------------------------------------

cdef int _start_lrn(Run* run, cnp.ndarray x, Py_ssize_t size, double alpha, double beta,
                    double k) except -1:
    """Fill in what both directions need."""
    _start(run, x, x.shape[x.ndim - 1], 1)
    return _window(run, size, alpha, beta, k)


cdef int _window(Run* run, Py_ssize_t size, double alpha, double beta, double k) except -1:
    """Fill in what each row of known length is normalised with."""
    if size < 1:
        raise ValueError(f"kernel called with a window of {size}")
    # A window of twice the row's length holds all of the row wherever it lies.
    run.lrn = ck_lrn(min(size, 2 * max(run.length, 1)), alpha / size, beta, k)
    run.piece = (run.length + run.lrn.size) * (8 if run.kind else 4)
    return 0


cdef int _run_lrn(Run* run, void (*block)(void*, Py_ssize_t, int) noexcept nogil,
                  int threads) except -1:
    """Run over all blocks with scratch memory for each thread."""
    cdef int used = _threads(run, threads, LRN_COST)
    cdef size_t size = <size_t>(run.piece * used)
    run.scratch = <char*>memory.take(size)
    if run.scratch == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    with nogil:
        parallel_for(block, run, run.blocks, used)
        memory.give(run.scratch, size)
    return 0


cdef void _lrn_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = _at(run, index)
    run.kernels.lrn[run.kind](&run.lrn, run.x + at, run.out + at,
                              run.kept + at if run.kept else NULL,
                              run.scratch + slot * run.piece, _rows(run, index), run.length)


def local_response_norm(cnp.ndarray x, Py_ssize_t size, double alpha, double beta, double k,
                        cnp.ndarray out, base, int threads):
    """Set ``out = x / (k + alpha * mean)^beta`` over the last axis.

    Parameters
    ----------
    x, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size.
    size : int
        Over how many neighbours the mean of ``x^2`` is taken: size // 2 before, the rest
        from the element on; those beyond the edges count as zeros.
    alpha, beta, k : float
    base : numpy.ndarray or None
        Like `x`: gets ``k + alpha * mean``, which `local_response_norm_grad` wants.
    threads : int
        How many threads may be used.
    """
    cdef Run run
    _start_lrn(&run, x, size, alpha, beta, k)
    run.out = <char*>out_pointer(out, run.kind, _size(&run))
    run.kept = NULL if base is None else <char*>out_pointer(base, run.kind, _size(&run))
    _run_lrn(&run, _lrn_block, threads)


cdef size_t _lrn_scratch(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    _of_samples(&run, samples)
    return run.piece * _threads(&run, threads, LRN_COST)


cdef int _lrn_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    _of_samples(&run, samples)
    run.x = at[0]
    run.out = at[1]
    run.scratch = scratch
    parallel_for(_lrn_block, &run, run.blocks, _threads(&run, threads, LRN_COST))
    return 0


def local_response_norm_step(Py_ssize_t rows, Py_ssize_t length, bint double_, Py_ssize_t size,
                             double alpha, double beta, double k):
    """Return `local_response_norm` of `rows` rows in each sample as a step: x and out."""
    cdef Run run
    _describe(&run, rows, length, double_)
    _window(&run, size, alpha, beta, k)
    return new_step(_lrn_step, _lrn_scratch, &run, sizeof(Run), None)


cdef void _lrn_grad_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = _at(run, index)
    run.kernels.lrn_grad[run.kind](&run.lrn, run.gy + at, run.x + at, run.base + at,
                                   run.out + at, run.scratch + slot * run.piece,
                                   _rows(run, index), run.length)


def local_response_norm_grad(cnp.ndarray gy, cnp.ndarray x, cnp.ndarray base, Py_ssize_t size,
                             double alpha, double beta, double k, cnp.ndarray out, int threads):
    """Set `out` to the gradient of `x`.

    Parameters
    ----------
    gy, x, base, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size.
    size, alpha, beta, k
        As given to `local_response_norm`.
    threads : int
        How many threads may be used.
    """
    cdef Run run
    _start_lrn(&run, x, size, alpha, beta, k)
    run.gy = <const char*>pointer(gy, run.kind, _size(&run))
    run.base = <const char*>pointer(base, run.kind, _size(&run))
    run.out = <char*>out_pointer(out, run.kind, _size(&run))
    _run_lrn(&run, _lrn_grad_block, threads)
