"""Functions of one variable and their gradients, and sums of two arrays.

Arrays are taken as runs of numbers, whatever their shape: the caller sees to it that both
have the same order in memory. The run is cut into blocks of a fixed size.
"""

cimport numpy as cnp

from convkit._kernels.arrays cimport out_pointer, pointer, real_index
from convkit._kernels.dispatch cimport (
    CK_CELU, CK_ELU, CK_ERF, CK_GELU, CK_GELU_TANH, CK_HARDSIGMOID, CK_HARDSWISH, CK_HARDTANH,
    CK_LEAKY_RELU, CK_LOGSIGMOID, CK_MISH, CK_RELU, CK_RELU6, CK_SELU, CK_SIGMOID, CK_SILU,
    CK_ACT_UNARY, CK_SOFTPLUS, CK_SOFTSIGN, CK_TANH, activation_map, ck_add_fn, ck_unary_fn, ck_unary_grad_fn, table)
from convkit._kernels.runner cimport new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# One task: 64 KiB of float32, so that input and output share the nearest big cache.
cdef Py_ssize_t BLOCK = 16384

# Name -> (number in the table, cost of an element in units of `threads_for`).
cdef dict FUNCTIONS = {
    "relu": (CK_RELU, 1), "relu6": (CK_RELU6, 1), "leaky_relu": (CK_LEAKY_RELU, 1),
    "elu": (CK_ELU, 4), "sigmoid": (CK_SIGMOID, 4), "tanh": (CK_TANH, 4), "silu": (CK_SILU, 4),
    "gelu": (CK_GELU, 6), "gelu_tanh": (CK_GELU_TANH, 4),
    "hardswish": (CK_HARDSWISH, 1), "hardsigmoid": (CK_HARDSIGMOID, 1),
    "erf": (CK_ERF, 6),
    "hardtanh": (CK_HARDTANH, 1), "selu": (CK_SELU, 4),
    "celu": (CK_CELU, 4), "softplus": (CK_SOFTPLUS, 6), "logsigmoid": (CK_LOGSIGMOID, 6),
    "softsign": (CK_SOFTSIGN, 1), "mish": (CK_MISH, 4),
}

cdef struct Run:
    ck_unary_fn map
    ck_unary_grad_fn grad
    ck_add_fn add
    ck_unary_fn after   # of a sum, or NULL
    const char* first
    const char* second
    char* out
    Py_ssize_t size, item
    int cost            # of a number, in units of `threads_for`
    int activation
    double alpha, beta


def maps(name):
    """Tell whether there is a kernel for a function of one variable."""
    return name in FUNCTIONS


def fused(str name):
    """Return the number by which other kernels apply one of these functions to their results."""
    return CK_ACT_UNARY + <int>FUNCTIONS[name][0]


cdef inline Py_ssize_t _length(const Run* run, Py_ssize_t index) noexcept nogil:
    return min(BLOCK, run.size - index * BLOCK)


cdef void _map_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = index * BLOCK * run.item
    run.map(run.first + at, run.out + at, _length(run, index), run.alpha,
            run.beta)


cdef void _grad_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = index * BLOCK * run.item
    run.grad(run.first + at, run.second + at, run.out + at, _length(run, index), run.alpha,
            run.beta)


cdef void _add_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t at = index * BLOCK * run.item
    run.add(run.first + at, run.second + at, run.out + at, _length(run, index),
            run.activation, run.alpha, run.beta)
    if run.after != NULL:
        run.after(run.out + at, run.out + at, _length(run, index), run.alpha, run.beta)


cdef Py_ssize_t _blocks(Py_ssize_t size) noexcept nogil:
    return (size + BLOCK - 1) // BLOCK


cdef Run _unary(str name, int kind, double a, double b) except *:
    """Describe a function of one variable."""
    cdef Run run
    cdef int number
    number, run.cost = FUNCTIONS[name]
    run.item = 8 if kind else 4
    run.map = table().elementwise.unary[kind][number]
    run.alpha = a
    run.beta = b
    return run


cdef int _unary_step(const void* params, char** at, Py_ssize_t samples, int threads,
                     char* scratch) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    cdef Py_ssize_t blocks
    run.size *= samples
    run.first = at[0]
    run.out = at[1]
    blocks = _blocks(run.size)
    parallel_for(_map_block, &run, blocks,
                 threads_for(threads, blocks, <double>run.size * run.cost))
    return 0


def unary_step(str name, Py_ssize_t size, bint double_, double a=0.0, double b=0.0):
    """Return `unary` on `size` numbers of each sample as a step, with operands x and out."""
    cdef Run run = _unary(name, double_, a, b)
    run.size = size
    return new_step(_unary_step, NULL, &run, sizeof(Run), None)


def unary(str name, cnp.ndarray x, cnp.ndarray out, int threads, double a=0.0,
          double b=0.0):
    """Set ``out = f(x)``.

    Parameters
    ----------
    name : str
        An activation's name; "gelu_tanh" for GELU by its approximation.
    x, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size; `out` may be `x`.
    threads : int
        How many threads may be used.
    a, b : float
        The function's parameters, as at ``enum ck_unary``.
    """
    cdef int kind = real_index(x)
    cdef Run run = _unary(name, kind, a, b)
    cdef char* at[2]
    run.size = cnp.PyArray_SIZE(x)
    at[0] = <char*>pointer(x, kind, run.size)
    at[1] = <char*>out_pointer(out, kind, run.size)
    with nogil:
        _unary_step(&run, at, 1, threads, NULL)


def unary_grad(str name, cnp.ndarray gy, cnp.ndarray saved, cnp.ndarray out, int threads,
               double a=0.0, double b=0.0):
    """Set ``out = gy * f'``.

    Parameters
    ----------
    name : str
        As for `unary`.
    gy, saved, out : numpy.ndarray
        Gradient of the function's value; the value itself (relu, relu6, sigmoid, tanh,
        hardsigmoid), anything with the sign of x (leaky_relu) or x (the others); and the
        result. All as for `unary`; `out` may be one of the others.
    threads : int
        How many threads may be used.
    a, b : float
        The function's parameters.
    """
    cdef int number, cost, kind = real_index(gy)
    cdef Run run
    number, cost = FUNCTIONS[name]
    run.size = cnp.PyArray_SIZE(gy)
    run.item = 8 if kind else 4
    run.first = <const char*>pointer(gy, kind, run.size)
    run.second = <const char*>pointer(saved, kind, run.size)
    run.out = <char*>out_pointer(out, kind, run.size)
    run.grad = table().elementwise.unary_grad[kind][number]
    run.alpha = a
    run.beta = b
    cdef Py_ssize_t blocks = _blocks(run.size)
    with nogil:
        parallel_for(_grad_block, &run, blocks,
                     threads_for(threads, blocks, <double>run.size * cost))


cdef int _add_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    cdef Py_ssize_t blocks
    run.size *= samples
    run.first, run.second, run.out = at[0], at[1], at[2]
    blocks = _blocks(run.size)
    parallel_for(_add_block, &run, blocks, threads_for(threads, blocks, <double>run.size))
    return 0


def add_step(Py_ssize_t size, bint double_, int activation, double alpha, double beta):
    """Return `add` of `size` numbers of each sample as a step, with operands a, b and out."""
    cdef Run run
    run.size = size
    run.item = 8 if double_ else 4
    run.add = table().elementwise.add[double_]
    run.activation = activation
    run.after = activation_map(activation, double_)
    run.alpha = alpha
    run.beta = beta
    return new_step(_add_step, NULL, &run, sizeof(Run), None)


def add(cnp.ndarray a, cnp.ndarray b, int activation, cnp.ndarray out, int threads,
        double alpha=0.0, double beta=0.0):
    """Set ``out = activation(a + b)``.

    Parameters
    ----------
    a, b, out : numpy.ndarray
        C-contiguous, of one type (float32 or float64) and size; `out` may be `a` or `b`.
    activation : int
        A number of ``enum ck_activation``: 0 none, 1 relu, 2 clamp to [alpha, beta], 3 leaky
        relu of slope alpha; or what `fused` returns.
    threads : int
        How many threads may be used.
    alpha, beta : float
        The activation's parameters.
    """
    cdef int kind = real_index(a)
    cdef Run run
    run.size = cnp.PyArray_SIZE(a)
    run.item = 8 if kind else 4
    run.first = <const char*>pointer(a, kind, run.size)
    run.second = <const char*>pointer(b, kind, run.size)
    run.out = <char*>out_pointer(out, kind, run.size)
    run.add = table().elementwise.add[kind]
    run.activation = activation
    run.after = activation_map(activation, kind)
    run.alpha = alpha
    run.beta = beta
    cdef Py_ssize_t blocks = _blocks(run.size)
    with nogil:
        parallel_for(_add_block, &run, blocks, threads_for(threads, blocks, <double>run.size))
