"""The im2col matrix and its transpose: pixels by (group, tap, channel).

`expand` copies, for each output pixel, the input pixels under every tap side by side (zeros
outside); a convolution is then one matrix product. `fold` is its transpose: it adds the
columns back to the input pixels they came from.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels.runner cimport Step, new_step, scratch_fn, step_fn
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset


cdef enum:
    FEW_BYTES = 16

cdef char[FEW_BYTES] ZEROS
memset(ZEROS, 0, FEW_BYTES)


ctypedef fused real:
    float
    double


cdef struct Job:
    const char* x
    char* matrix
    Py_ssize_t itemsize, samples, in_h, in_w, in_c, out_h, out_w, groups
    Py_ssize_t stride_h, stride_w, n_rows, n_cols
    const Py_ssize_t* rows
    const Py_ssize_t* cols


cdef inline void _copy_few(int32_t* out, const int32_t* x, Py_ssize_t words) noexcept nogil:
    """Copy one to four words, for which a call of memcpy costs more than they do."""
    out[0] = x[0]
    if words > 1:
        out[1] = x[1]
    if words > 2:
        out[2] = x[2]
    if words > 3:
        out[3] = x[3]


cdef void _expand_taps(Job* job, const char* x, char* out, Py_ssize_t i, Py_ssize_t j,
                       Py_ssize_t part) noexcept nogil:
    """Copy `part` bytes under every tap of output pixel (i, j)."""
    cdef Py_ssize_t r, c, row, col, pixel = job.in_c * job.itemsize
    cdef bint inside
    for r in range(job.n_rows):
        row = i * job.stride_h + job.rows[r]
        if row < 0 or row >= job.in_h:
            memset(out, 0, job.n_cols * part)
            out += job.n_cols * part
            continue
        for c in range(job.n_cols):
            col = j * job.stride_w + job.cols[c]
            inside = 0 <= col < job.in_w
            if part <= FEW_BYTES:
                _copy_few(<int32_t*>out, <const int32_t*>(
                    x + (row * job.in_w + col) * pixel if inside else ZEROS), part // 4)
            elif inside:
                memcpy(out, x + (row * job.in_w + col) * pixel, part)
            else:
                memset(out, 0, part)
            out += part


cdef void _expand_runs(Job* job, const char* x, char* out, Py_ssize_t i,
                       Py_ssize_t j) noexcept nogil:
    """Copy whole kernel rows under output pixel (i, j): taps side by side, one group."""
    cdef Py_ssize_t pixel = job.in_c * job.itemsize
    cdef Py_ssize_t first = j * job.stride_w + job.cols[0]
    cdef Py_ssize_t left = min(job.n_cols, max(0, -first))
    cdef Py_ssize_t inside = max(0, min(job.n_cols - left, job.in_w - first - left))
    cdef Py_ssize_t r, row
    for r in range(job.n_rows):
        row = i * job.stride_h + job.rows[r]
        if row < 0 or row >= job.in_h:
            memset(out, 0, job.n_cols * pixel)
        else:
            memset(out, 0, left * pixel)
            memcpy(out + left * pixel, x + (row * job.in_w + first + left) * pixel,
                   inside * pixel)
            memset(out + (left + inside) * pixel, 0, (job.n_cols - left - inside) * pixel)
        out += job.n_cols * pixel


cdef void _expand_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Fill the matrix rows of one output row."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t sample = index // job.out_h, i = index % job.out_h
    cdef Py_ssize_t part = job.in_c // job.groups * job.itemsize
    cdef Py_ssize_t taps = job.n_rows * job.n_cols, j, group
    cdef const char* x = job.x + sample * job.in_h * job.in_w * job.in_c * job.itemsize
    cdef char* out = job.matrix + index * job.out_w * taps * job.in_c * job.itemsize
    cdef bint runs = (job.groups == 1
                      and job.cols[job.n_cols - 1] - job.cols[0] == job.n_cols - 1)
    for j in range(job.out_w):
        if runs:
            _expand_runs(job, x, out, i, j)
            out += taps * part
        else:
            for group in range(job.groups):
                _expand_taps(job, x + group * part, out, i, j, part)
                out += taps * part


cdef void _fold_row(Job* job, Py_ssize_t sample, Py_ssize_t row, real* x, real* matrix) noexcept nogil:
    """Gather into one input row everything that was taken from it, taps in order."""
    cdef Py_ssize_t part = job.in_c // job.groups
    cdef Py_ssize_t wide = job.n_rows * job.n_cols * part
    cdef Py_ssize_t r, c, i, j, group, col, n
    cdef real* target
    cdef real* source
    x += (sample * job.in_h + row) * job.in_w * job.in_c
    memset(x, 0, job.in_w * job.in_c * sizeof(real))
    for r in range(job.n_rows):
        i = row - job.rows[r]
        if i < 0 or i % job.stride_h or i // job.stride_h >= job.out_h:
            continue
        i = (sample * job.out_h + i // job.stride_h) * job.out_w
        for c in range(job.n_cols):
            for j in range(job.out_w):
                col = j * job.stride_w + job.cols[c]
                if col < 0 or col >= job.in_w:
                    continue
                for group in range(job.groups):
                    target = x + col * job.in_c + group * part
                    source = matrix + ((i + j) * job.groups + group) * wide \
                        + (r * job.n_cols + c) * part
                    for n in range(part):
                        target[n] += source[n]


cdef void _fold_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    if job.itemsize == 4:
        _fold_row[float](job, index // job.in_h, index % job.in_h, <float*>job.x,
                         <float*>job.matrix)
    else:
        _fold_row[double](job, index // job.in_h, index % job.in_h, <double*>job.x,
                          <double*>job.matrix)


cdef tuple _describe(Job* job, x_shape, out_size, itemsize, rows, cols, stride,
                     Py_ssize_t groups):
    """Fill in all but the arrays' pointers and the number of samples; return what to keep."""
    job.itemsize = itemsize
    job.in_h, job.in_w, job.in_c = x_shape
    job.out_h, job.out_w = out_size
    job.stride_h, job.stride_w = stride
    job.groups = groups
    job.n_rows, job.n_cols = len(rows), len(cols)
    places = np.array([*rows, *cols], np.intp)
    job.rows = <const Py_ssize_t*>address(places)
    job.cols = job.rows + job.n_rows
    return (places,)


cdef void _run(bint forward, Job* job, int threads) noexcept nogil:
    cdef Py_ssize_t tasks = job.samples * (job.out_h if forward else job.in_h)
    cdef double size = <double>job.samples * job.out_h * job.out_w * job.n_rows * job.n_cols \
        * job.in_c
    parallel_for(_expand_task if forward else _fold_task, job, tasks,
                 threads_for(threads, tasks, size))


def expand(x, matrix, rows, cols, stride, Py_ssize_t groups, int threads):
    """Fill `matrix` (N, H', W', groups * taps * C / groups) from `x` (N, H, W, C)."""
    _call(True, x, matrix, rows, cols, stride, groups, threads)


def fold(matrix, x, rows, cols, stride, Py_ssize_t groups, int threads):
    """Overwrite `x` (N, H, W, C) with the sums of what `expand` would have taken from it."""
    _call(False, x, matrix, rows, cols, stride, groups, threads)


cdef _call(bint forward, x, matrix, rows, cols, stride, Py_ssize_t groups, int threads):
    cdef Job job
    kept = _describe(&job, x.shape[1:], matrix.shape[1:3], x.itemsize, rows, cols, stride, groups)
    job.x = <const char*>address(x)
    job.matrix = <char*>address(matrix)
    job.samples = x.shape[0]
    with nogil:
        _run(forward, &job, threads)


# -- a convolution as one step -------------------------------------------------------------

# Bytes of matrix made at a time.
cdef Py_ssize_t MATRIX_BYTES = 4 << 20


cdef struct Convolution:
    Job job                 # of `expand`, or of `fold`
    # The product of the matrix with the weights, or that of y with them: a step with operands
    # x, bias, residual and y.
    step_fn product
    scratch_fn product_scratch
    const void* product_params
    Py_ssize_t sample_bytes, x_bytes, y_bytes     # of the matrix, x and y
    const char* bias


cdef Py_ssize_t _together(const Convolution* c, Py_ssize_t samples) noexcept nogil:
    """Return for how many samples the matrix is made at a time."""
    return max(<Py_ssize_t>1, min(samples, MATRIX_BYTES // max(<Py_ssize_t>1, c.sample_bytes)))


cdef size_t _matrix_bytes(const Convolution* c, Py_ssize_t samples) noexcept nogil:
    return (_together(c, samples) * c.sample_bytes + 63) // 64 * 64


cdef size_t _scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef const Convolution* c = <const Convolution*>params
    cdef Py_ssize_t most = _together(c, samples)
    cdef size_t product = c.product_scratch(c.product_params, most, threads)
    if samples % most:
        product = max(product, c.product_scratch(c.product_params, samples % most, threads))
    return _matrix_bytes(c, samples) + product


cdef int _run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef const Convolution* c = <const Convolution*>params
    cdef Job job = c.job
    cdef Py_ssize_t first = 0, most = _together(c, samples)
    cdef char* inner[4]
    job.matrix = scratch
    while first < samples:
        job.samples = min(most, samples - first)
        job.x = at[0] + first * c.x_bytes
        inner[0] = scratch
        inner[1] = at[1]
        inner[2] = at[2] + first * c.y_bytes if at[2] != NULL else NULL
        inner[3] = at[3] + first * c.y_bytes
        _run(True, &job, threads)
        c.product(c.product_params, inner, job.samples, threads,
                  scratch + _matrix_bytes(c, samples))
        first += job.samples
    return 0


cdef int _run_fold(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    """Multiply, fold, and add the bias. Here x is the result, at[3], and y is at[0]."""
    cdef Convolution c = (<const Convolution*>params)[0]
    cdef Job job = c.job
    cdef Py_ssize_t first = 0, most = _together(&c, samples), rows
    cdef char* inner[4]
    c.bias = at[1]
    job.matrix = scratch
    while first < samples:
        job.samples = min(most, samples - first)
        job.x = at[3] + first * c.x_bytes
        inner[0] = at[0] + first * c.y_bytes
        inner[1] = inner[2] = NULL
        inner[3] = scratch
        c.product(c.product_params, inner, job.samples, threads,
                  scratch + _matrix_bytes(&c, samples))
        _run(False, &job, threads)
        if c.bias != NULL:
            c.job.x = job.x
            rows = job.samples * job.in_h
            parallel_for(_bias_task, &c, rows, threads_for(
                threads, rows, <double>rows * job.in_w * job.in_c))
        first += job.samples
    return 0


cdef void _add_row(real* x, const real* bias, Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t i, c
    for i in range(pixels):
        for c in range(channels):
            x[i * channels + c] += bias[c]


cdef void _bias_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add the bias to one row of the result."""
    cdef Convolution* c = <Convolution*>ctx
    cdef Job* job = &c.job
    cdef char* x = <char*>job.x + index * job.in_w * job.in_c * job.itemsize
    if job.itemsize == 4:
        _add_row[float](<float*>x, <const float*>c.bias, job.in_w, job.in_c)
    else:
        _add_row[double](<double*>x, <const double*>c.bias, job.in_w, job.in_c)


def step(bint forward, x_shape, out_size, itemsize, rows, cols, stride, Py_ssize_t groups,
         Step product, Py_ssize_t y_bytes):
    """Return `expand` and a product with its matrix, or a product and `fold`, as one step.

    The matrix is made for a few samples at a time. Operands are x, bias, residual and y; to
    fold, the gradient of y, bias, none and that of x.

    Parameters
    ----------
    x_shape : (int, int, int)
        Height, width and channels of a sample.
    out_size : (int, int)
        Height and width of y.
    product : Step
        Takes the matrix for x.
    y_bytes : int
        Bytes from one sample of y to the next.
    others
        As for `expand`.
    """
    cdef Convolution c
    kept = _describe(&c.job, x_shape, out_size, itemsize, rows, cols, stride, groups)
    c.x_bytes = c.job.in_h * c.job.in_w * c.job.in_c * c.job.itemsize
    c.y_bytes = y_bytes
    c.sample_bytes = c.job.out_h * c.job.out_w * c.job.n_rows * c.job.n_cols \
        * c.job.in_c * c.job.itemsize
    c.product = product.run
    c.product_scratch = product.scratch
    c.product_params = product.params
    return new_step(_run_step if forward else _run_fold, _scratch_size, &c, sizeof(Convolution),
                    (kept, product))


def together(Py_ssize_t sample_bytes, Py_ssize_t samples):
    """Return for how many of the samples a matrix is made at a time, given one's bytes."""
    cdef Convolution c
    c.sample_bytes = sample_bytes
    return _together(&c, samples)
