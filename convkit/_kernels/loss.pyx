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
from libc.math cimport exp, expm1, pow
from libc.stdint cimport int64_t
from libc.string cimport memset

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
    double a, b   # of other losses over classes, as are the rest
    int number, double_

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
                     object most, object log_sum, int64_t ignore) except -1:
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
    a.most = _optional_out(most, kind, run.rows)
    a.log_sum = _optional_out(log_sum, kind, run.rows)
    return kind


cdef tuple _sum_rows(Rows* run, int threads):
    """Run all blocks forward; return the sums of both of their sums."""
    cdef Py_ssize_t blocks = _row_blocks(run), i
    cdef size_t size = <size_t>blocks * 2 * sizeof(double)
    cdef double loss = 0, total = 0
    run.sums = <double*>memory.take(size)
    if run.sums == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    with nogil:
        parallel_for(_rows_forward, run, blocks, threads_for(
            threads, blocks, <double>run.rows * run.args.classes * COST))
        for i in range(blocks):
            loss += run.sums[2 * i]
            total += run.sums[2 * i + 1]
        memory.give(run.sums, size)
    return loss, total


cdef void _go_back(Rows* run, int threads) noexcept nogil:
    """Run all blocks backward."""
    cdef Py_ssize_t blocks = _row_blocks(run)
    parallel_for(_rows_backward, run, blocks, threads_for(
        threads, blocks, <double>run.rows * run.args.classes * COST))


def cross_entropy(cnp.ndarray x, cnp.ndarray target, weight, int64_t ignore, double smoothing,
                  cnp.ndarray most not None, cnp.ndarray log_sum not None, losses, int threads):
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
    cdef int kind = _start_rows(&run, x, target, weight, most, log_sum, ignore)
    run.args.smoothing = smoothing
    run.args.losses = _optional_out(losses, kind, run.rows)
    run.forward = table().loss.cross_entropy[kind]
    return _sum_rows(&run, threads)


def cross_entropy_grad(gy, double factor, cnp.ndarray x, cnp.ndarray target, weight,
                       int64_t ignore, double smoothing, cnp.ndarray most not None,
                       cnp.ndarray log_sum not None, gx, g_target, int threads):
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
    cdef int kind = _start_rows(&run, x, target, weight, most, log_sum, ignore)
    run.args.smoothing = smoothing
    run.args.gy = _optional(gy, kind, run.rows)
    run.args.factor = factor
    run.args.gx = _optional_out(gx, kind, run.rows * run.args.classes)
    run.args.g_probabilities = _optional_out(g_target, kind, run.rows * run.args.classes)
    run.backward = table().loss.cross_entropy_grad[kind]
    with nogil:
        _go_back(&run, threads)


# -- other losses over classes ---------------------------------------------------------------

# One number or two of each row are read, so these are plain loops, without the vectors of the
# instruction sets.

ctypedef fused real:
    float
    double


cdef enum ClassLoss:
    NLL           # -x[target]
    MULTI_MARGIN  # a: margin; b: 2 for squares
    FOCAL         # a: exponent; reads most and log_sum


cdef dict CLASS_LOSSES = {"nll": NLL, "multi_margin": MULTI_MARGIN, "focal": FOCAL}


cdef inline Py_ssize_t _target(const Rows* run, Py_ssize_t row) noexcept nogil:
    """Return a row's class, -1 where it does not count."""
    cdef int64_t target = run.args.target[row]
    if target == run.args.ignore or not 0 <= target < run.args.classes:
        return -1
    return target


cdef inline double _weight(const Rows* run, Py_ssize_t target, const real* x) noexcept nogil:
    return (<const real*>run.args.weight)[target] if run.args.weight != NULL else 1.0


cdef inline double _margins(const real* x, Py_ssize_t target, const Rows* run, real* slopes,
                            double g) noexcept nogil:
    """Return the sum over classes that are too near; set `slopes`, if any, to g times theirs.

    Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", 1999.
    """
    cdef real base = <real>run.a - x[target], near
    cdef double total = 0, all_slopes = 0, slope
    cdef Py_ssize_t c
    for c in range(run.args.classes):
        near = base + x[c]
        if c == target or near <= 0:
            near = 0
        total += <double>near * near if run.b == 2 else near
        if slopes != NULL:
            slope = 2.0 * near if run.b == 2 else near > 0
            slopes[c] = <real>(g * slope)
            all_slopes += slopes[c]
    if slopes != NULL:
        slopes[target] = <real>-all_slopes
    return total


cdef inline double _entropy(const real* x, Py_ssize_t row, Py_ssize_t target,
                            const Rows* run) noexcept nogil:
    return (<double>(<real*>run.args.log_sum)[row]
            - (<double>x[target] - <double>(<real*>run.args.most)[row]))


cdef inline void _class_row(Rows* run, Py_ssize_t row, int number, const real* x,
                            double* sums) noexcept nogil:
    """Add a row's loss, and what a mean divides by, to two sums."""
    cdef Py_ssize_t target = _target(run, row)
    cdef double loss = 0, weight = 0, entropy
    x += row * run.args.classes
    if target >= 0:
        weight = _weight(run, target, x)
        if number == NLL:
            loss = -<double>x[target] * weight
        elif number == MULTI_MARGIN:
            loss = _margins(x, target, run, <real*>NULL, 0) * weight / run.args.classes
            weight = 1
        else:
            entropy = _entropy(x, row, target, run)
            loss = weight * pow(-expm1(-entropy), run.a) * entropy
    sums[0] += loss
    sums[1] += weight
    if run.args.losses != NULL:
        (<real*>run.args.losses)[row] = <real>loss


cdef inline void _class_row_grad(Rows* run, Py_ssize_t row, int number,
                                 const real* x) noexcept nogil:
    """Set the gradient of a row, for FOCAL that of its cross entropy.

    With e the cross entropy and q = 1 - exp(-e) the chance of missing, the derivative of
    q^a e is q^a + a q^(a - 1) exp(-e) e. Where nothing is missed e is 0 too, and e / q is 1.
    """
    cdef Py_ssize_t target = _target(run, row)
    cdef real* gx = <real*>run.args.gx
    cdef double g = run.args.factor, entropy, miss
    x += row * run.args.classes
    gx += row if number == FOCAL else row * run.args.classes
    memset(gx, 0, sizeof(real) * (1 if number == FOCAL else run.args.classes))
    if target < 0:
        return
    g *= _weight(run, target, x)
    if run.args.gy != NULL:
        g *= (<const real*>run.args.gy)[row]
    if number == NLL:
        gx[target] = <real>-g
    elif number == MULTI_MARGIN:
        _margins(x, target, run, gx, g / run.args.classes)
    else:
        entropy = _entropy(x, row, target, run)
        miss = -expm1(-entropy)
        gx[0] = <real>(g * pow(miss, run.a) * (
            1 + run.a * exp(-entropy) * (entropy / miss if miss > 0 else 1)))


cdef void _class_rows(const ck_cross_entropy* args, Py_ssize_t begin, Py_ssize_t end,
                      double* sums) noexcept nogil:
    """Take some rows forward, or backward where there are no sums."""
    cdef Rows* run = <Rows*>args
    cdef Py_ssize_t row
    for row in range(begin, end):
        if run.double_:
            if sums != NULL:
                _class_row[double](run, row, run.number, <const double*>args.x, sums)
            else:
                _class_row_grad[double](run, row, run.number, <const double*>args.x)
        elif sums != NULL:
            _class_row[float](run, row, run.number, <const float*>args.x, sums)
        else:
            _class_row_grad[float](run, row, run.number, <const float*>args.x)


cdef void _class_rows_grad(const ck_cross_entropy* args, Py_ssize_t begin,
                           Py_ssize_t end) noexcept nogil:
    _class_rows(args, begin, end, NULL)


cdef int _start_classes(Rows* run, str name, tuple parameters, cnp.ndarray x, cnp.ndarray target,
                        weight, most, log_sum, int64_t ignore) except -1:
    """Fill in what both directions of a loss over classes need."""
    run.number = CLASS_LOSSES[name]
    run.a, run.b = (*parameters, 0.0, 0.0)[:2]
    if cnp.PyArray_TYPE(target) != cnp.NPY_INT64:
        raise TypeError("kernel called without target classes")
    if run.number == FOCAL and (most is None or log_sum is None):
        raise TypeError("kernel called without most and log_sum")
    run.double_ = _start_rows(run, x, target, weight, most, log_sum, ignore)
    return 0


def class_loss(str name, tuple parameters, cnp.ndarray x, cnp.ndarray target, weight, most,
               log_sum, int64_t ignore, losses, int threads):
    """Return the sum of a loss over all rows, and what its mean divides by.

    Parameters
    ----------
    name : str
        "nll", "multi_margin" or "focal".
    parameters : tuple of float
        The loss's a and b, as at ``ClassLoss``, as far as it has them.
    most, log_sum : numpy.ndarray or None
        For "focal", as `cross_entropy` left them.
    x, target, weight, ignore, losses, threads
        As for `cross_entropy`, with target classes.
    """
    cdef Rows run
    _start_classes(&run, name, parameters, x, target, weight, most, log_sum, ignore)
    run.args.losses = _optional_out(losses, run.double_, run.rows)
    run.forward = _class_rows
    return _sum_rows(&run, threads)


def class_loss_grad(str name, tuple parameters, gy, double factor, cnp.ndarray x,
                    cnp.ndarray target, weight, most, log_sum, int64_t ignore, cnp.ndarray gx,
                    int threads):
    """Set `gx` to the gradient of `x`; for "focal" to that of each row's cross entropy.

    Parameters
    ----------
    gy, factor
        As for `cross_entropy_grad`.
    gx : numpy.ndarray
        Like `x`, for "focal" with one number for each row.
    others
        As given to `class_loss`.
    """
    cdef Rows run
    _start_classes(&run, name, parameters, x, target, weight, most, log_sum, ignore)
    run.args.gy = _optional(gy, run.double_, run.rows)
    run.args.factor = factor
    run.args.gx = out_pointer(gx, run.double_,
                              run.rows * (1 if run.number == FOCAL else run.args.classes))
    run.backward = _class_rows_grad
    with nogil:
        _go_back(&run, threads)


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
