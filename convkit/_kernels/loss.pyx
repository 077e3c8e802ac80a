"""Losses and their gradients, with sums in double over blocks of a fixed size, in order."""

import numpy as np

cimport numpy as cnp

from convkit._kernels cimport memory
from convkit._kernels.arrays cimport out_pointer, pointer, real_index
from convkit._kernels.dispatch cimport (
    CK_LOSS_BCE, CK_LOSS_BCE_LOGITS, CK_LOSS_FOCAL, CK_LOSS_HINGE, CK_LOSS_HUBER, CK_LOSS_KL,
    CK_LOSS_KL_LOG, CK_LOSS_L1, CK_LOSS_MSE, CK_LOSS_SMOOTH_L1,
    ck_cross_entropy, ck_cross_entropy_fn, ck_cross_entropy_grad_fn, ck_pointwise,
    ck_pointwise_fn, ck_pointwise_grad_fn, table)
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stdint cimport int64_t

cnp.import_array()

# Numbers in one task; with classes, at least one row.
cdef Py_ssize_t BLOCK = 16384
# Cost of one number in units of `threads_for`.
cdef int COST = 4

# Losses of single numbers by name.
cdef dict POINTWISE = {
    "mse": CK_LOSS_MSE, "bce_logits": CK_LOSS_BCE_LOGITS, "bce": CK_LOSS_BCE, "l1": CK_LOSS_L1,
    "huber": CK_LOSS_HUBER, "smooth_l1": CK_LOSS_SMOOTH_L1, "kl": CK_LOSS_KL,
    "kl_log": CK_LOSS_KL_LOG, "hinge": CK_LOSS_HINGE, "focal": CK_LOSS_FOCAL,
}

cdef struct Rows:
    ck_cross_entropy args
    ck_cross_entropy_fn forward
    ck_cross_entropy_grad_fn backward
    Py_ssize_t rows, block
    double* sums  # two for each block

cdef struct Numbers:
    ck_pointwise args
    ck_pointwise_fn forward
    ck_pointwise_grad_fn backward
    Py_ssize_t size
    double* sums  # one for each block


cdef const void* _optional(object x, int kind, Py_ssize_t size) except? NULL:
    return NULL if x is None else pointer(x, kind, size)


cdef void* _optional_out(object x, int kind, Py_ssize_t size) except? NULL:
    return NULL if x is None else out_pointer(x, kind, size)


# -- cross entropy ---------------------------------------------------------------------------

cdef void _rows_forward(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Rows* run = <Rows*>ctx
    cdef Py_ssize_t begin = index * run.block
    run.sums[2 * index] = 0
    run.sums[2 * index + 1] = 0
    run.forward(&run.args, begin, min(begin + run.block, run.rows), run.sums + 2 * index)


cdef void _rows_backward(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Rows* run = <Rows*>ctx
    cdef Py_ssize_t begin = index * run.block
    run.backward(&run.args, begin, min(begin + run.block, run.rows))


cdef Py_ssize_t _row_blocks(const Rows* run) noexcept nogil:
    return (run.rows + run.block - 1) // run.block


cdef int _start_rows(Rows* run, cnp.ndarray x, cnp.ndarray target, object weight,
                     cnp.ndarray most, cnp.ndarray log_sum, int64_t ignore,
                     double smoothing) except -1:
    """Fill in what both directions need; return the index of the number type."""
    cdef int kind = real_index(x)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x)
    cdef ck_cross_entropy* a = &run.args
    a.classes = x.shape[x.ndim - 1]
    run.rows = size // a.classes if a.classes else 0
    run.block = max(BLOCK // max(a.classes, 1), 1)
    a.x = pointer(x, kind, size)
    a.target = NULL
    a.probabilities = NULL
    if cnp.PyArray_TYPE(target) == cnp.NPY_INT64:
        if (not cnp.PyArray_IS_C_CONTIGUOUS(target) or not cnp.PyArray_ISBEHAVED_RO(target)
                or cnp.PyArray_SIZE(target) != run.rows):
            raise ValueError(f"kernel called with targets of shape {np.shape(target)}, expected "
                             f"{run.rows} that are contiguous in memory")
        a.target = <const int64_t*>cnp.PyArray_DATA(target)
    else:
        a.probabilities = pointer(target, kind, size)
    a.weight = _optional(weight, kind, a.classes)
    a.ignore = ignore
    a.smoothing = smoothing
    a.most = out_pointer(most, kind, run.rows)
    a.log_sum = out_pointer(log_sum, kind, run.rows)
    return kind


def cross_entropy(cnp.ndarray x, cnp.ndarray target, weight, int64_t ignore, double smoothing,
                  cnp.ndarray most, cnp.ndarray log_sum, losses, int threads):
    """Return the sum of the losses of all rows, and what their mean divides by.

    Parameters
    ----------
    x : numpy.ndarray
        (..., C), C-contiguous, float32 or float64.
    target : numpy.ndarray
        int64, one class for each row; or probabilities, of the shape and type of `x`.
        Rows whose class is out of range count as ignored.
    weight : numpy.ndarray or None
        (C,), of the type of `x`.
    ignore : int
        The target of rows that do not count.
    smoothing : float
        Share of the uniform distribution that is mixed into the target.
    most, log_sum : numpy.ndarray
        One number for each row, written here for `cross_entropy_grad`.
    losses : numpy.ndarray or None
        One number for each row: its loss.
    threads : int
        How many threads may be used.

    Returns
    -------
    tuple of float
        Sum of losses; sum of the class weights of targets that count (with
        probabilities: the number of rows).
    """
    cdef Rows run
    cdef int kind = _start_rows(&run, x, target, weight, most, log_sum, ignore, smoothing)
    run.args.losses = _optional_out(losses, kind, run.rows)
    run.forward = table().loss.cross_entropy[kind]
    cdef Py_ssize_t blocks = _row_blocks(&run), i
    cdef size_t size = <size_t>blocks * 2 * sizeof(double)
    cdef double loss = 0, total = 0
    run.sums = <double*>memory.take(size)
    if run.sums == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    with nogil:
        parallel_for(_rows_forward, &run, blocks, threads_for(
            threads, blocks, <double>run.rows * run.args.classes * COST))
        for i in range(blocks):
            loss += run.sums[2 * i]
            total += run.sums[2 * i + 1]
        memory.give(run.sums, size)
    return loss, total


def cross_entropy_grad(gy, double factor, cnp.ndarray x, cnp.ndarray target, weight,
                       int64_t ignore, double smoothing, cnp.ndarray most, cnp.ndarray log_sum,
                       gx, g_target, int threads):
    """Set `gx` and `g_target` to the gradients of `x` and of target probabilities.

    Parameters
    ----------
    gy : numpy.ndarray or None
        The gradient of each row's loss; None for ones.
    factor : float
        By which `gy` is multiplied.
    x, target, weight, ignore, smoothing, most, log_sum
        As given to `cross_entropy`, and as it left them.
    gx, g_target : numpy.ndarray or None
        Of the shape and type of `x`; None where not wanted.
    threads : int
        How many threads may be used.
    """
    cdef Rows run
    cdef int kind = _start_rows(&run, x, target, weight, most, log_sum, ignore, smoothing)
    run.args.gy = _optional(gy, kind, run.rows)
    run.args.factor = factor
    run.args.gx = _optional_out(gx, kind, run.rows * run.args.classes)
    run.args.g_probabilities = _optional_out(g_target, kind, run.rows * run.args.classes)
    run.backward = table().loss.cross_entropy_grad[kind]
    cdef Py_ssize_t blocks = _row_blocks(&run)
    with nogil:
        parallel_for(_rows_backward, &run, blocks, threads_for(
            threads, blocks, <double>run.rows * run.args.classes * COST))


# -- losses of single numbers ----------------------------------------------------------------

cdef void _numbers_forward(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Numbers* run = <Numbers*>ctx
    cdef Py_ssize_t begin = index * BLOCK
    run.sums[index] = run.forward(&run.args, begin, min(begin + BLOCK, run.size))


cdef void _numbers_backward(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Numbers* run = <Numbers*>ctx
    cdef Py_ssize_t begin = index * BLOCK
    run.backward(&run.args, begin, min(begin + BLOCK, run.size))


cdef int _start_numbers(Numbers* run, cnp.ndarray x, cnp.ndarray target, object weight,
                        object pos_weight, tuple parameters) except -1:
    """Fill in what both directions need; return the index of the number type."""
    cdef int kind = real_index(x)
    run.size = cnp.PyArray_SIZE(x)
    run.args.x = pointer(x, kind, run.size)
    run.args.target = pointer(target, kind, run.size)
    run.args.weight = _optional(weight, kind, run.size)
    run.args.pos_weight = _optional(pos_weight, kind, run.size)
    run.args.a, run.args.b = (*parameters, 0.0, 0.0)[:2]
    return kind


def pointwise(str name, tuple parameters, cnp.ndarray x, cnp.ndarray target, weight,
              pos_weight, losses, int threads):
    """Return the sum of a loss over all numbers.

    Parameters
    ----------
    name : str
        "mse", "bce_logits", "bce", "l1", "huber", "smooth_l1", "kl", "kl_log" (with the
        logarithm of the target), "hinge" or "focal".
    parameters : tuple of float
        The loss's a and b, as at ``enum ck_pointwise_loss``, as far as it has them.
    x, target : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size.
    weight, pos_weight : numpy.ndarray or None
        Like `x`: factor of each loss; of the positive part of "bce_logits".
    losses : numpy.ndarray or None
        Like `x`: each number's loss, written here.
    threads : int
        How many threads may be used.
    """
    cdef Numbers run
    cdef int kind = _start_numbers(&run, x, target, weight, pos_weight, parameters)
    run.args.losses = _optional_out(losses, kind, run.size)
    cdef int number = POINTWISE[name]
    run.forward = table().loss.pointwise[kind][number]
    cdef Py_ssize_t blocks = (run.size + BLOCK - 1) // BLOCK, i
    cdef size_t size = <size_t>blocks * sizeof(double)
    cdef double total = 0
    run.sums = <double*>memory.take(size)
    if run.sums == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    with nogil:
        parallel_for(_numbers_forward, &run, blocks,
                     threads_for(threads, blocks, <double>run.size * COST))
        for i in range(blocks):
            total += run.sums[i]
        memory.give(run.sums, size)
    return total


def pointwise_grad(str name, tuple parameters, gy, double factor, cnp.ndarray x,
                   cnp.ndarray target, weight, pos_weight, gx, g_target, int threads):
    """Set `gx` and `g_target` to the gradients of `x` and `target`.

    Parameters
    ----------
    name, parameters
        As given to `pointwise`.
    gy : numpy.ndarray or None
        The gradient of each number's loss, like `x`; None for ones.
    factor : float
        By which `gy` is multiplied.
    x, target, weight, pos_weight
        As given to `pointwise`.
    gx, g_target : numpy.ndarray or None
        Like `x`; None where not wanted.
    threads : int
        How many threads may be used.
    """
    cdef Numbers run
    cdef int kind = _start_numbers(&run, x, target, weight, pos_weight, parameters)
    run.args.gy = _optional(gy, kind, run.size)
    run.args.factor = factor
    run.args.gx = _optional_out(gx, kind, run.size)
    run.args.g_target = _optional_out(g_target, kind, run.size)
    cdef int number = POINTWISE[name]
    run.backward = table().loss.pointwise_grad[kind][number]
    cdef Py_ssize_t blocks = (run.size + BLOCK - 1) // BLOCK
    with nogil:
        parallel_for(_numbers_backward, &run, blocks,
                     threads_for(threads, blocks, <double>run.size * COST))
