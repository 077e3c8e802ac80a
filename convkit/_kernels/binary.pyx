"""Arithmetic of two arrays that broadcast against each other.

The result is dense; an operand may stay where it is along any axis (stride 0). Axes that
both operands walk alike are joined; what is left is blocks of rows for the C kernel, cut into
tasks of a fixed size.

Steps of Programs can run NumPy's functions too, by their inner loops: plain C that neither holds
the GIL nor needs it, and what eager calls run.
"""

cimport numpy as cnp
from libc.string cimport memcpy, memset

from convkit._kernels.arrays cimport real_index
from convkit._kernels.dispatch cimport (
    CK_ADD, CK_DIV, CK_MUL, CK_SUB, ck_binary_fn, ck_binary_rows, table)
from convkit._kernels.runner cimport new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Numbers of the result that a task makes, about.
cdef Py_ssize_t BLOCK = 16384
cdef dict OPERATIONS = {"add": CK_ADD, "sub": CK_SUB, "mul": CK_MUL, "div": CK_DIV}

cdef enum:
    MOST_AXES = 32

# An inner loop of NumPy's: addresses, how many numbers, bytes between them.
ctypedef void (*loop_fn)(char**, cnp.npy_intp*, cnp.npy_intp*, void*) noexcept nogil

cdef struct Job:
    ck_binary_fn kernel
    const char* a
    const char* b
    char* y
    loop_fn loop                     # instead of the kernel, with what it is to be given
    void* data
    bint one                        # whether it has no operand b
    Py_ssize_t item, item_y         # bytes of a number of the operands, of the result
    int axes                        # in front of a block's rows
    Py_ssize_t size[MOST_AXES]
    Py_ssize_t stride_a[MOST_AXES]  # in numbers
    Py_ssize_t stride_b[MOST_AXES]
    Py_ssize_t rows, n, row_a, row_b
    int step_a, step_b
    Py_ssize_t row_cuts, cuts       # tasks that share a block: by rows, by numbers of a row
    Py_ssize_t rows_each, n_each


cdef void _run_loop(const Job* job, const ck_binary_rows* piece) noexcept nogil:
    """Run NumPy's loop over the rows of a piece."""
    cdef char* at[3]
    cdef cnp.npy_intp steps[3]
    cdef cnp.npy_intp n
    cdef Py_ssize_t row
    cdef int y = 1 if job.one else 2
    for row in range(piece.rows):
        at[0] = <char*>piece.a + row * piece.row_a * job.item
        at[1] = <char*>piece.b + row * piece.row_b * job.item
        at[y] = <char*>piece.y + row * piece.n * job.item_y
        steps[0], steps[1] = piece.step_a * job.item, piece.step_b * job.item
        steps[y] = job.item_y
        n = piece.n
        job.loop(at, &n, steps, job.data)


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one piece of one block."""
    cdef Job* job = <Job*>ctx
    cdef ck_binary_rows piece
    cdef Py_ssize_t cut = index % job.cuts, rest = index // job.cuts
    cdef Py_ssize_t row = rest % job.row_cuts * job.rows_each
    cdef Py_ssize_t block = rest // job.row_cuts
    cdef Py_ssize_t first = cut * job.n_each
    cdef Py_ssize_t a = row * job.row_a + first * job.step_a
    cdef Py_ssize_t b = row * job.row_b + first * job.step_b
    cdef Py_ssize_t y = (block * job.rows + row) * job.n + first
    cdef int axis
    for axis in range(job.axes - 1, -1, -1):
        a += block % job.size[axis] * job.stride_a[axis]
        b += block % job.size[axis] * job.stride_b[axis]
        block = block // job.size[axis]
    piece.a = job.a + a * job.item
    piece.b = job.b + b * job.item
    piece.y = job.y + y * job.item_y
    piece.rows = min(job.rows_each, job.rows - row)
    piece.n = min(job.n_each, job.n - first)
    piece.row_a = job.row_a
    piece.row_b = job.row_b
    piece.step_a = job.step_a
    piece.step_b = job.step_b
    if job.loop == NULL:
        job.kernel(&piece)
    else:
        _run_loop(job, &piece)


cdef bint _cut(Job* job) noexcept nogil:
    """Join axes and cut the work; return False where the last axis is not for this kernel.

    `axes` are those of the operands on entry, from the outermost in.
    """
    cdef int axis, kept = 0
    cdef Py_ssize_t size, sa, sb
    for axis in range(job.axes):
        size, sa, sb = job.size[axis], job.stride_a[axis], job.stride_b[axis]
        if size == 1:
            continue
        if kept and job.stride_a[kept - 1] == sa * size and job.stride_b[kept - 1] == sb * size:
            kept -= 1
            size *= job.size[kept]
        job.size[kept] = size
        job.stride_a[kept] = sa
        job.stride_b[kept] = sb
        kept += 1
    job.n, job.step_a, job.step_b = 1, 1, 1
    if kept:
        kept -= 1
        job.n = job.size[kept]
        job.step_a, job.step_b = <int>job.stride_a[kept], <int>job.stride_b[kept]
        if not (0 <= job.stride_a[kept] <= 1 and 0 <= job.stride_b[kept] <= 1):
            return False
    job.rows, job.row_a, job.row_b = 1, 0, 0
    if kept:
        kept -= 1
        job.rows = job.size[kept]
        job.row_a, job.row_b = job.stride_a[kept], job.stride_b[kept]
    job.axes = kept
    # Long rows are cut, short ones gathered. A piece of a cut row is a block of one row.
    job.cuts = (job.n + BLOCK - 1) // BLOCK
    job.n_each = BLOCK if job.cuts > 1 else job.n
    job.rows_each = 1 if job.cuts > 1 else min(job.rows, max(<Py_ssize_t>1, BLOCK // job.n))
    job.row_cuts = (job.rows + job.rows_each - 1) // job.rows_each
    return True


cdef void _run(Job* job, int threads) noexcept nogil:
    cdef Py_ssize_t tasks = job.row_cuts * job.cuts
    cdef int axis
    for axis in range(job.axes):
        tasks *= job.size[axis]
    parallel_for(_task, job, tasks, threads_for(threads, tasks, <double>tasks * job.rows_each
                                                * job.n_each))


cdef int _run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.a, job.b, job.y = at[0], at[0] if job.one else at[1], at[1] if job.one else at[2]
    job.size[0] = samples
    _cut(&job)
    _run(&job, threads)
    return 0


def step(str operation, shape, strides_a, strides_b, bint double_):
    """Return `run` as a step of a Program, with operands a, b and y; None where it is not for it.

    Parameters
    ----------
    operation : str
        As for `run`.
    shape : sequence of int
        Of a sample of y, none of them 0.
    strides_a, strides_b : sequence of int
        In numbers: from sample to sample, then for each axis of `shape`. Those of y are
        dense.
    double_ : bool
        Whether numbers are float64.
    """
    cdef Job job
    job.item = job.item_y = 8 if double_ else 4
    job.kernel = table().elementwise.binary[double_][OPERATIONS[operation]]
    job.loop = NULL
    job.one = False
    return _step(&job, shape, strides_a, strides_b)


def loop_step(cnp.ufunc function, dtype, result, shape, strides_a, strides_b=None):
    """Return a function of NumPy's as a step, with operands a, b where it takes two, and y.

    Parameters
    ----------
    function : numpy.ufunc
        Of one or two arrays, that raises nothing on numbers of these types.
    dtype, result : numpy.dtype
        Of the operands and of y.
    shape, strides_a, strides_b
        As for `step`; without `strides_b` for functions of one array.

    Returns
    -------
    Step or None
        None where the function has no loop for the types, or `step` would give None.
    """
    cdef Job job
    job.one = strides_b is None
    if not _find_loop(function, [dtype.num] * (1 if job.one else 2) + [result.num], &job.loop,
                      &job.data):
        return None
    job.item = dtype.itemsize
    job.item_y = result.itemsize
    return _step(&job, shape, strides_a, [0] * (len(shape) + 1) if job.one else strides_b)


cdef bint _find_loop(cnp.ufunc function, list types, loop_fn* loop, void** data) except -1:
    """Find a function's loop for numbers of these types; return whether there is one."""
    cdef int i, k
    cdef bint fits
    if function.nargs != len(types):
        return False
    for i in range(function.ntypes):
        fits = True
        for k in range(function.nargs):
            fits = fits and function.types[i * function.nargs + k] == <int>types[k]
        if fits:
            loop[0] = <loop_fn>function.functions[i]
            data[0] = function.data[i] if function.data != NULL else NULL
            return True
    return False


cdef _step(Job* described, shape, strides_a, strides_b):
    """Return a step of a job whose function is known."""
    cdef Job job = described[0], trial
    cdef int axis
    if len(shape) + 1 > MOST_AXES:
        return None
    job.axes = len(shape) + 1
    for axis in range(job.axes):
        job.size[axis] = shape[axis - 1] if axis else 2
        job.stride_a[axis], job.stride_b[axis] = strides_a[axis], strides_b[axis]
    trial = job
    if not _cut(&trial):
        return None
    job.size[0] = 1
    trial = job
    if not _cut(&trial):
        return None
    return new_step(_run_step, NULL, &job, sizeof(Job), None)


def run(str operation, cnp.ndarray a, cnp.ndarray b, cnp.ndarray y, int threads):
    """Set ``y = a op b``, or return False where the operands' layout is not for this kernel.

    Parameters
    ----------
    operation : {"add", "sub", "mul", "div"}
    a, b, y : numpy.ndarray
        Of one shape and type (float32 or float64); `y` C-contiguous, the others with strides
        that are multiples of the element's size, along the last axis its size or 0.
    threads : int
        How many threads may be used.

    Returns
    -------
    bool
        Whether the work was done.
    """
    cdef int kind = real_index(y)
    cdef Py_ssize_t item = 8 if kind else 4
    cdef Job job
    cdef int axis, ndim = cnp.PyArray_NDIM(y)
    if real_index(a) != kind or real_index(b) != kind:
        raise TypeError("kernel called with arrays of different types")
    if cnp.PyArray_NDIM(a) != ndim or cnp.PyArray_NDIM(b) != ndim:
        raise ValueError("kernel called with arrays of different shapes")
    for axis in range(ndim):
        if not y.shape[axis] == a.shape[axis] == b.shape[axis]:
            raise ValueError("kernel called with arrays of different shapes")
    if not (cnp.PyArray_IS_C_CONTIGUOUS(y) and cnp.PyArray_ISWRITEABLE(y)
            and cnp.PyArray_ISBEHAVED_RO(a) and cnp.PyArray_ISBEHAVED_RO(b)):
        raise ValueError("kernel called with arrays that it cannot address")
    if cnp.PyArray_SIZE(y) == 0:
        return True
    if ndim > MOST_AXES:
        return False
    job.axes = ndim
    for axis in range(ndim):
        if a.strides[axis] % item or b.strides[axis] % item:
            return False
        job.size[axis] = y.shape[axis]
        job.stride_a[axis] = a.strides[axis] // item
        job.stride_b[axis] = b.strides[axis] // item
    if not _cut(&job):
        return False
    job.item = job.item_y = item
    job.loop = NULL
    job.a = <const char*>cnp.PyArray_DATA(a)
    job.b = <const char*>cnp.PyArray_DATA(b)
    job.y = <char*>cnp.PyArray_DATA(y)
    job.kernel = table().elementwise.binary[kind][OPERATIONS[operation]]
    with nogil:
        _run(&job, threads)
    return True


# -- reductions ------------------------------------------------------------------------------

cdef struct Reduction:
    loop_fn loop
    void* data
    const char* x
    char* y
    Py_ssize_t item, outer, length, inner   # of one sample: x is (outer, length, inner)
    Py_ssize_t each                         # of the outer ones, in a task
    bint zero                               # whether rows are reduced from 0 on
    bint running                            # whether y has all that was reduced so far


cdef void _reduce_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Reduce some of the outer ones, in the order in which NumPy does."""
    cdef Reduction* job = <Reduction*>ctx
    cdef Py_ssize_t row = job.inner * job.item, i
    cdef Py_ssize_t first = index * job.each, last = min(job.outer, first + job.each)
    cdef char* at[3]
    cdef cnp.npy_intp steps[3]
    cdef cnp.npy_intp n
    for first in range(first, last):
        at[0] = at[2] = job.y + first * row
        at[1] = <char*>job.x + first * job.length * row
        memcpy(at[0], at[1], row)
        if job.inner == 1:
            n = job.length
            if job.zero:        # as NumPy begins: sums are then in pairs of all elements
                memset(at[0], 0, row)
            else:
                n -= 1
                at[1] += row
            steps[0] = steps[2] = 0
            steps[1] = row
            job.loop(at, &n, steps, job.data)
            continue
        steps[0] = steps[1] = steps[2] = job.item
        n = job.inner
        for i in range(1, job.length):
            at[1] += row
            job.loop(at, &n, steps, job.data)


cdef void _running_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Reduce some of the outer ones, and keep what is reduced on the way."""
    cdef Reduction* job = <Reduction*>ctx
    cdef Py_ssize_t row = job.inner * job.item, i
    cdef Py_ssize_t first = index * job.each, last = min(job.outer, first + job.each)
    cdef char* at[3]
    cdef cnp.npy_intp steps[3]
    cdef cnp.npy_intp n = job.inner
    steps[0] = steps[1] = steps[2] = job.item
    for first in range(first, last):
        at[0] = job.y + first * job.length * row
        memcpy(at[0], job.x + first * job.length * row, row)
        for i in range(1, job.length):
            at[1] = <char*>job.x + (first * job.length + i) * row
            at[2] = at[0] + row
            job.loop(at, &n, steps, job.data)
            at[0] = at[2]


cdef int _reduce_step(const void* params, char** at, Py_ssize_t samples, int threads,
                      char* scratch) noexcept nogil:
    cdef Reduction job = (<const Reduction*>params)[0]
    cdef Py_ssize_t tasks
    job.x, job.y = at[0], at[1]
    job.outer *= samples
    job.each = max(<Py_ssize_t>1, BLOCK // (job.length * job.inner))
    tasks = (job.outer + job.each - 1) // job.each
    parallel_for(_running_task if job.running else _reduce_task, &job, tasks, threads_for(
        threads, tasks, <double>job.outer * job.length * job.inner))
    return 0


def reduce_step(cnp.ufunc function, dtype, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t inner,
                bint running=False):
    """Return a step that reduces one axis by a function of NumPy's, with operands x and y.

    Parameters
    ----------
    function : numpy.ufunc
        Of two arrays.
    dtype : numpy.dtype
        Of x and y.
    outer, length, inner : int
        A sample of x has this shape, dense and without a 0; one of y (outer, inner).
    running : bool
        Whether y gets what is reduced on the way too, and so has x's shape.
    """
    cdef Reduction job
    if min(outer, length, inner) < 1 or not _find_loop(
            function, [dtype.num] * 3, &job.loop, &job.data):
        return None
    job.item = dtype.itemsize
    job.outer, job.length, job.inner = outer, length, inner
    job.running = running
    job.zero = getattr(<object>function, "identity") == 0
    return new_step(_reduce_step, NULL, &job, sizeof(Reduction), None)
