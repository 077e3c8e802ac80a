"""The im2col matrix and its transpose: pixels by (group, tap, channel).

`expand` copies, for each output pixel, the input pixels under every tap side by side (zeros
outside); a convolution is then one matrix product. Folding is its transpose: it adds the
columns back to the input pixels that they came from. A step that multiplies and folds does so
for a few rows at a time, so that the matrix stays in the second-level cache.
"""

import numpy as np

from convkit._kernels.address cimport address
from convkit._kernels cimport dispatch
from convkit._kernels.direct cimport Job as Product, alone, multiply_adds, run_pixels
from convkit._kernels.gemm cimport part_start
from convkit._kernels.lookahead cimport LookAhead
from convkit._kernels.runner cimport Step, new_step, scratch_fn, step_fn
from convkit._kernels.threads cimport parallel_for, threads_for
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset


cdef extern from "fold.h" nogil:
    ctypedef struct ck_fold_table:
        void (*add_runs[2])(void* planes, ptrdiff_t plane_step, ptrdiff_t step, const void* source,
                            ptrdiff_t source_step, ptrdiff_t count, ptrdiff_t run) noexcept nogil
        void (*total[2])(const void* planes, ptrdiff_t plane_step, ptrdiff_t n,
                         void* out) noexcept nogil
    int CK_FOLD_PLANES


cdef enum:
    FEW_BYTES = 16

cdef char[FEW_BYTES] ZEROS
memset(ZEROS, 0, FEW_BYTES)


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


cdef void _run(Job* job, int threads) noexcept nogil:
    cdef Py_ssize_t tasks = job.samples * job.out_h
    cdef double size = <double>tasks * job.out_w * job.n_rows * job.n_cols * job.in_c
    parallel_for(_expand_task, job, tasks, threads_for(threads, tasks, size))


def expand(x, matrix, rows, cols, stride, Py_ssize_t groups, int threads):
    """Fill `matrix` (N, H', W', groups * taps * C / groups) from `x` (N, H, W, C)."""
    cdef Job job
    kept = _describe(&job, x.shape[1:], matrix.shape[1:3], x.itemsize, rows, cols, stride, groups)
    job.x = <const char*>address(x)
    job.matrix = <char*>address(matrix)
    job.samples = x.shape[0]
    with nogil:
        _run(&job, threads)


# -- expansion and product as one step ------------------------------------------------------

# Bytes of matrix made at a time.
cdef Py_ssize_t MATRIX_BYTES = 4 << 20


cdef struct Convolution:
    Job job
    # The product of the matrix with the weights: a step with operands x, bias, residual and y.
    step_fn product
    scratch_fn product_scratch
    const void* product_params
    Py_ssize_t sample_bytes, x_bytes, y_bytes     # of the matrix, x and y


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
        _run(&job, threads)
        c.product(c.product_params, inner, job.samples, threads,
                  scratch + _matrix_bytes(c, samples))
        first += job.samples
    return 0


def step(x_shape, out_size, itemsize, rows, cols, stride, Py_ssize_t groups, Step product,
         Py_ssize_t y_bytes):
    """Return `expand` and a product with its matrix as one step.

    The matrix is made for a few samples at a time. Operands are x, bias, residual and y.

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
    return new_step(_run_step, _scratch_size, &c, sizeof(Convolution), (kept, product))


def together(Py_ssize_t sample_bytes, Py_ssize_t samples):
    """Return for how many of the samples a matrix is made at a time, given one's bytes."""
    cdef Convolution c
    c.sample_bytes = sample_bytes
    return _together(&c, samples)


# -- product and folding as one step -------------------------------------------------------

# Bytes of matrix that a task makes at a time, about; tasks that a call is cut into at least,
# where that costs little.
cdef Py_ssize_t STRIP_BYTES = 512 << 10
cdef Py_ssize_t TASKS = 8


cdef struct Folding:
    Job job
    Product product                 # from pixels of gy to rows of the matrix
    Py_ssize_t strips               # of a sample
    Py_ssize_t plane_bytes, slot_bytes  # of each thread: sums of a row; these and its matrix
    int team
    const char* gy
    const char* bias
    char* gx
    char* scratch


cdef void _fold_row(const Folding* f, const char* matrix, Py_ssize_t row, char* planes) noexcept nogil:
    """Add to the sums of one input row all that was taken from it, by kernel row, then by pixel.

    `matrix` is where the output pixel (0, 0) has, or would have, its row.
    """
    cdef const Job* job = &f.job
    cdef Py_ssize_t size = job.itemsize, part = job.in_c // job.groups
    cdef Py_ssize_t wide = job.n_rows * job.n_cols * part, r, c, i, group, run = 1
    cdef const char* source
    if job.groups == 1 and job.cols[job.n_cols - 1] - job.cols[0] == job.n_cols - 1:
        run = job.n_cols            # taps side by side, whose values lie side by side
    for r in range(job.n_rows):
        i = row - job.rows[r]
        if i < 0 or i % job.stride_h or i // job.stride_h >= job.out_h:
            continue
        i = i // job.stride_h * job.out_w
        c = 0
        while c < job.n_cols:
            for group in range(job.groups):
                source = matrix + ((i * job.groups + group) * wide
                                   + (r * job.n_cols + c) * part) * size
                _fold_taps(job, c, run, source, planes + group * part * size)
            c += run


cdef void _fold_taps(const Job* job, Py_ssize_t c, Py_ssize_t run, const char* source,
                     char* planes) noexcept nogil:
    """Add `run` taps side by side, from the c-th on, of a row of output pixels.

    Pixels whose taps are all inside go in one call, those at the ends one by one.
    """
    cdef const ck_fold_table* kernels = <const ck_fold_table*>dispatch.table().fold
    cdef Py_ssize_t part = job.in_c // job.groups, step = job.n_rows * job.n_cols * job.in_c
    cdef Py_ssize_t stride = job.stride_w, size = job.itemsize, plane = job.in_w * job.in_c
    cdef Py_ssize_t j, first, skip, count
    # Pixels [low, high) have their taps inside.
    cdef Py_ssize_t low = min(job.out_w, _up(-job.cols[c], stride))
    cdef Py_ssize_t high = max(low, min(job.out_w, _up(job.in_w - run - job.cols[c] + 1, stride)))
    for j in range(job.out_w):
        if low <= j < high:
            continue
        first = j * stride + job.cols[c]
        skip = max(<Py_ssize_t>0, -first)
        count = min(run, job.in_w - first) - skip
        if count > 0:
            kernels.add_runs[size == 8](planes + (first + skip) * job.in_c * size, plane, 0,
                                        source + (j * step + skip * part) * size, 0, 1,
                                        count * part)
    if high > low:
        kernels.add_runs[size == 8](planes + (low * stride + job.cols[c]) * job.in_c * size, plane,
                                    stride * job.in_c, source + low * step * size, step,
                                    high - low, run * part)


cdef void _fold_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one strip of a sample's input rows."""
    cdef Folding* f = <Folding*>ctx
    cdef Job* job = &f.job
    cdef const ck_fold_table* kernels = <const ck_fold_table*>dispatch.table().fold
    cdef Py_ssize_t sample = index // f.strips, strip = index % f.strips, row, j
    cdef Py_ssize_t start = part_start(job.in_h, f.strips, strip)
    cdef Py_ssize_t stop = part_start(job.in_h, f.strips, strip + 1)
    cdef Py_ssize_t low = max(<Py_ssize_t>0, _up(start - job.rows[job.n_rows - 1], job.stride_h))
    cdef Py_ssize_t high = min(job.out_h, _up(stop - job.rows[0], job.stride_h))
    cdef Py_ssize_t pixel = job.in_c * job.itemsize
    cdef Py_ssize_t matrix_row = job.out_w * job.n_rows * job.n_cols * pixel
    cdef Py_ssize_t gy_row = job.out_w * f.product.x_pixel * job.itemsize
    cdef char* planes = f.scratch + slot * f.slot_bytes
    cdef char* matrix = planes + f.plane_bytes
    cdef char* x = f.gx + (sample * job.in_h + start) * job.in_w * pixel
    cdef LookAhead ahead
    ahead.count = 0
    if high > low:
        run_pixels(&f.product, f.gy + (sample * job.out_h + low) * gy_row, matrix, NULL,
                   (high - low) * job.out_w, &ahead)
    for row in range(start, stop):
        memset(planes, 0, CK_FOLD_PLANES * job.in_w * pixel)
        if f.bias != NULL:
            for j in range(job.in_w):
                memcpy(planes + j * pixel, f.bias, pixel)
        if high > low:
            _fold_row(f, matrix - low * matrix_row, row, planes)
        kernels.total[job.itemsize == 8](planes, job.in_w * job.in_c, job.in_w * job.in_c, x)
        x += job.in_w * pixel


cdef inline Py_ssize_t _up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """Return a / b rounded up, 0 for negative a."""
    return (a + b - 1) // b if a > 0 else 0


cdef void _cut(Folding* f, Py_ssize_t samples, int threads) noexcept nogil:
    """Choose strips and threads."""
    cdef Job* job = &f.job
    cdef Py_ssize_t matrix_row = job.out_w * job.n_rows * job.n_cols * job.in_c * job.itemsize
    cdef Py_ssize_t extra = (job.rows[job.n_rows - 1] - job.rows[0]) // job.stride_h + 1
    cdef Py_ssize_t rows = max(<Py_ssize_t>1, STRIP_BYTES // max(<Py_ssize_t>1, matrix_row) - extra)
    cdef Py_ssize_t tasks = (TASKS + samples - 1) // max(<Py_ssize_t>1, samples)
    rows = min(rows * job.stride_h, max(4 * extra * job.stride_h, (job.in_h + tasks - 1) // tasks))
    f.strips = (job.in_h + rows - 1) // rows
    rows = (job.in_h + f.strips - 1) // f.strips
    f.plane_bytes = (CK_FOLD_PLANES * job.in_w * job.in_c * job.itemsize + 63) // 64 * 64
    f.slot_bytes = f.plane_bytes + (
        min(job.out_h, rows // job.stride_h + extra + 1) * matrix_row + 63) // 64 * 64
    tasks = samples * f.strips
    f.team = threads_for(threads, tasks, samples * (
        multiply_adds(&f.product) + <double>job.out_h * matrix_row))


cdef size_t _folding_scratch(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Folding f = (<const Folding*>params)[0]
    _cut(&f, samples, threads)
    return f.team * f.slot_bytes


cdef int _run_folding(const void* params, char** at, Py_ssize_t samples, int threads,
                      char* scratch) noexcept nogil:
    cdef Folding f = (<const Folding*>params)[0]
    f.gy, f.bias, f.gx = at[0], at[1], at[3]
    f.scratch = scratch
    _cut(&f, samples, threads)
    parallel_for(_fold_task, &f, samples * f.strips, f.team)
    return 0


def folding_step(x_shape, out_size, itemsize, rows, cols, stride, Py_ssize_t groups,
                 Step product not None):
    """Return a product that makes the matrix, and its folding, as one step.

    Operands are the gradient of y, bias (added to each pixel of the result) or none, none, and
    the gradient of x, which is overwritten.

    Parameters
    ----------
    product : Step
        Of `direct`, pointwise: takes the gradient of y for x, and writes the matrix.
    others
        As for `step`.
    """
    cdef Folding f
    kept = _describe(&f.job, x_shape, out_size, itemsize, rows, cols, stride, groups)
    f.product = (<const Product*>product.params)[0]
    if not alone(&f.product) or not f.product.pointwise:
        raise ValueError("expected a pointwise product")
    return new_step(_run_folding, _folding_scratch, &f, sizeof(Folding), (kept, product))
