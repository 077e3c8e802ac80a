"""Arithmetic of two arrays that broadcast against each other.

The result is dense; an operand may stay where it is along any axis (stride 0). Axes that
both operands walk alike are joined; what is left is blocks of rows for the C kernel, cut into
tasks of a fixed size.
"""

cimport numpy as cnp

from convkit._kernels.arrays cimport real_index
from convkit._kernels.dispatch cimport (
    CK_ADD, CK_DIV, CK_MUL, CK_SUB, ck_binary_fn, ck_binary_rows, table)
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Numbers of the result that a task makes, about.
cdef Py_ssize_t BLOCK = 16384
cdef dict OPERATIONS = {"add": CK_ADD, "sub": CK_SUB, "mul": CK_MUL, "div": CK_DIV}

cdef enum:
    MOST_AXES = 32

cdef struct Job:
    ck_binary_fn kernel
    const char* a
    const char* b
    char* y
    Py_ssize_t item
    int axes                        # in front of a block's rows
    Py_ssize_t size[MOST_AXES]
    Py_ssize_t stride_a[MOST_AXES]  # in numbers
    Py_ssize_t stride_b[MOST_AXES]
    Py_ssize_t rows, n, row_a, row_b
    int step_a, step_b
    Py_ssize_t row_cuts, cuts       # tasks that share a block: by rows, by numbers of a row
    Py_ssize_t rows_each, n_each


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
    piece.y = job.y + y * job.item
    piece.rows = min(job.rows_each, job.rows - row)
    piece.n = min(job.n_each, job.n - first)
    piece.row_a = job.row_a
    piece.row_b = job.row_b
    piece.step_a = job.step_a
    piece.step_b = job.step_b
    job.kernel(&piece)


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
    cdef int axis, ndim = cnp.PyArray_NDIM(y), kept = 0
    cdef Py_ssize_t size, sa, sb
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
    # From the outermost axis in: join an axis to the one before it where both walk on alike.
    for axis in range(ndim):
        size = y.shape[axis]
        if size == 1:
            continue
        sa, sb = a.strides[axis], b.strides[axis]
        if sa % item or sb % item:
            return False
        sa //= item
        sb //= item
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
        if job.stride_a[kept] not in (0, 1) or job.stride_b[kept] not in (0, 1):
            return False
        job.n = job.size[kept]
        job.step_a, job.step_b = job.stride_a[kept], job.stride_b[kept]
    job.rows, job.row_a, job.row_b = 1, 0, 0
    if kept:
        kept -= 1
        job.rows = job.size[kept]
        job.row_a, job.row_b = job.stride_a[kept], job.stride_b[kept]
    job.axes = kept
    job.item = item
    job.a = <const char*>cnp.PyArray_DATA(a)
    job.b = <const char*>cnp.PyArray_DATA(b)
    job.y = <char*>cnp.PyArray_DATA(y)
    job.kernel = table().elementwise.binary[kind][OPERATIONS[operation]]
    # Long rows are cut, short ones gathered. A piece of a cut row is a block of one row.
    job.cuts = (job.n + BLOCK - 1) // BLOCK
    job.n_each = BLOCK if job.cuts > 1 else job.n
    job.rows_each = 1 if job.cuts > 1 else min(job.rows, max(1, BLOCK // job.n))
    job.row_cuts = (job.rows + job.rows_each - 1) // job.rows_each
    cdef Py_ssize_t tasks = cnp.PyArray_SIZE(y) // (job.rows * job.n) * job.row_cuts * job.cuts
    with nogil:
        parallel_for(_task, &job, tasks, threads_for(threads, tasks, cnp.PyArray_SIZE(y)))
    return True
