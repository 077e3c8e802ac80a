"""Batch norm, affine and PReLU over channels-last arrays: pixels by channels.

Few channels would leave most of a vector empty, so `fold` pixels that follow one another are
taken as one row of ``fold * channels`` columns, with the parameters repeated; pixels that are
left over at the end form one shorter row. Rows are cut into blocks whose size depends on
the number of channels alone. A reduction leaves one partial result per block, in double;
they are put together in the order of blocks and, within a block, of the folded pixels.
"""

import numpy as np

cimport numpy as cnp
from libc.math cimport NAN

from convkit._kernels cimport memory
from convkit._kernels.arrays cimport out_pointer, pointer, real_index
from convkit._kernels.dispatch cimport ck_norm_table, table
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Numbers in a block (64 KiB of float32: it is read twice), but at least this many rows.
cdef Py_ssize_t BLOCK = 16384
cdef Py_ssize_t LEAST_ROWS = 16
# Folded rows have a multiple of this many columns, and more than MOST_FOLDED no longer fold.
cdef Py_ssize_t LANES = 16
cdef Py_ssize_t MOST_FOLDED = 64

cdef struct Cut:
    Py_ssize_t pixels, channels
    Py_ssize_t fold, columns  # columns = fold * channels
    Py_ssize_t rows, tail  # full rows; columns of the shorter row at the end
    Py_ssize_t block, blocks  # rows in a block; blocks, the shorter row being one

cdef struct Run:
    Cut cut
    int kind
    const ck_norm_table* kernels
    const char* x
    const char* gy
    char* out
    const void* center
    const void* scale
    const void* slope
    const void* shift
    double* first  # two partial results per block, `columns` numbers each
    double* second
    int activation
    double alpha, beta

cdef struct Part:
    Py_ssize_t offset, rows, columns, partial  # offset in bytes, partial in numbers


cdef Py_ssize_t _gcd(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef Cut _cut(Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil:
    cdef Cut cut
    cut.pixels = pixels
    cut.channels = channels
    cut.fold = LANES // _gcd(channels, LANES)
    while cut.fold * channels < MOST_FOLDED:
        cut.fold *= 2
    cut.columns = cut.fold * channels
    cut.rows = pixels // cut.fold
    cut.tail = (pixels - cut.rows * cut.fold) * channels
    cut.block = max(BLOCK // cut.columns, LEAST_ROWS)
    cut.blocks = (cut.rows + cut.block - 1) // cut.block + (cut.tail > 0)
    return cut


cdef Part _part(const Run* run, Py_ssize_t index) noexcept nogil:
    cdef const Cut* cut = &run.cut
    cdef Part part
    cdef Py_ssize_t row = min(index * cut.block, cut.rows)
    part.rows = min(cut.block, cut.rows - row)
    part.columns = cut.columns
    if cut.tail and index == cut.blocks - 1:
        row = cut.rows
        part.rows = 1
        part.columns = cut.tail
    part.offset = row * cut.columns * (8 if run.kind else 4)
    part.partial = index * cut.columns
    return part


cdef _start(Run* run, cnp.ndarray x):
    """Fill in what all kernels need, from a contiguous channels-last array."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x)
    cdef Py_ssize_t channels = x.shape[x.ndim - 1]
    run.kind = real_index(x)
    run.kernels = table().norm
    run.x = <const char*>pointer(x, run.kind, size)
    run.cut = _cut(size // channels if channels else 0, channels if channels else 1)


cdef cnp.ndarray _folded(const Run* run, values):
    """Return a per-channel parameter, repeated for the folded pixels."""
    array = np.asarray(values, np.float64 if run.kind else np.float32)
    if array.shape != (run.cut.channels,):
        raise ValueError(f"kernel called with parameters of shape {array.shape}, "
                         f"expected ({run.cut.channels},)")
    return np.ascontiguousarray(array) if run.cut.fold == 1 else np.tile(array, run.cut.fold)


cdef int _threads(const Run* run, int threads) noexcept nogil:
    return threads_for(threads, run.cut.blocks, <double>run.cut.pixels * run.cut.channels * 2)


cdef int _take_partials(Run* run) except -1:
    cdef size_t size = <size_t>(run.cut.blocks * run.cut.columns) * 2 * sizeof(double)
    run.first = <double*>memory.take(size)
    if run.first == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    run.second = run.first + run.cut.blocks * run.cut.columns
    return 0


cdef void _give_partials(Run* run) noexcept nogil:
    memory.give(run.first, <size_t>(run.cut.blocks * run.cut.columns) * 2 * sizeof(double))


cdef void _sum_partials(const Run* run, const double* partial, double* out) noexcept nogil:
    """Add the partial sums of all blocks and folded pixels into `channels` numbers."""
    cdef Py_ssize_t index, pixel, at, c
    cdef Part part
    for c in range(run.cut.channels):
        out[c] = 0
    for index in range(run.cut.blocks):
        part = _part(run, index)
        for pixel in range(part.columns // run.cut.channels):
            at = part.partial + pixel * run.cut.channels
            for c in range(run.cut.channels):
                out[c] += partial[at + c]


# -- moments ---------------------------------------------------------------------------------

cdef void _moments_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.moments[run.kind](run.x + p.offset, p.rows, p.columns,
                                  run.first + p.partial, run.second + p.partial)


cdef void _merge_blocks(const Run* run, double* mean, double* squares) noexcept nogil:
    cdef Py_ssize_t index, pixel, at, c
    cdef double count = 0
    cdef Part part
    for c in range(run.cut.channels):
        mean[c] = 0
        squares[c] = 0
    for index in range(run.cut.blocks):
        part = _part(run, index)
        for pixel in range(part.columns // run.cut.channels):
            at = part.partial + pixel * run.cut.channels
            run.kernels.merge_moments(mean, squares, count, run.first + at, run.second + at,
                                      <double>part.rows, run.cut.channels)
            count += part.rows


def moments(cnp.ndarray x, int threads):
    """Return the mean and the biased variance of each channel.

    Parameters
    ----------
    x : numpy.ndarray
        Channels-last, C-contiguous, float32 or float64.
    threads : int
        How many threads may be used.

    Returns
    -------
    tuple of numpy.ndarray
        Mean and variance, (C,), float64; NaN where there are no pixels.
    """
    cdef Run run
    _start(&run, x)
    cdef cnp.ndarray mean = np.empty(run.cut.channels), variance = np.empty(run.cut.channels)
    cdef double* m = <double*>cnp.PyArray_DATA(mean)
    cdef double* v = <double*>cnp.PyArray_DATA(variance)
    cdef Py_ssize_t c
    _take_partials(&run)
    with nogil:
        parallel_for(_moments_block, &run, run.cut.blocks, _threads(&run, threads))
        _merge_blocks(&run, m, v)
        _give_partials(&run)
        for c in range(run.cut.channels):
            if run.cut.pixels == 0:
                m[c] = NAN
            v[c] = v[c] / run.cut.pixels if run.cut.pixels else NAN
    return mean, variance


# -- affine ----------------------------------------------------------------------------------

cdef void _affine_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.affine[run.kind](run.x + p.offset, run.out + p.offset, p.rows, p.columns,
                                 run.center, run.scale, run.shift, run.activation, run.alpha,
                                 run.beta)


def affine(cnp.ndarray x, scale, shift, int activation, cnp.ndarray out, int threads,
           double alpha=0.0, double beta=0.0, center=None):
    """Set ``out = activation((x - center) * scale + shift)``, with one of each per channel.

    Parameters
    ----------
    x, out : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64); `out` may be `x`.
    scale, shift : numpy.ndarray
        (C,); converted to the type of `x`.
    activation : int
        A number of ``enum ck_activation``: 0 none, 1 relu, 2 clamp to [alpha, beta], 3 leaky
        relu of slope alpha.
    threads : int
        How many threads may be used.
    alpha, beta : float
        The activation's parameters.
    center : numpy.ndarray, optional
        (C,). Subtracted first, which keeps accuracy where the mean is far from zero.
    """
    cdef Run run
    _start(&run, x)
    run.out = <char*>out_pointer(out, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray a = _folded(&run, scale), b = _folded(&run, shift), m = None
    run.scale = cnp.PyArray_DATA(a)
    run.shift = cnp.PyArray_DATA(b)
    run.center = NULL
    if center is not None:
        m = _folded(&run, center)
        run.center = cnp.PyArray_DATA(m)
    run.activation = activation
    run.alpha = alpha
    run.beta = beta
    with nogil:
        parallel_for(_affine_block, &run, run.cut.blocks, _threads(&run, threads))


# -- gradients -------------------------------------------------------------------------------

cdef void _grad_sums_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.grad_sums[run.kind](run.gy + p.offset, run.x + p.offset, p.rows, p.columns,
                                    run.center, run.first + p.partial, run.second + p.partial)


def grad_sums(cnp.ndarray gy, cnp.ndarray x, center, int threads):
    """Return for each channel the sums of ``gy`` and of ``gy * (x - center)``.

    Parameters
    ----------
    gy, x : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64) and size.
    center : numpy.ndarray
        (C,); converted to the type of `x`.
    threads : int
        How many threads may be used.

    Returns
    -------
    tuple of numpy.ndarray
        The two sums, (C,), float64.
    """
    cdef Run run
    _start(&run, x)
    run.gy = <const char*>pointer(gy, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray m = _folded(&run, center)
    run.center = cnp.PyArray_DATA(m)
    cdef cnp.ndarray sums = np.empty(run.cut.channels), products = np.empty(run.cut.channels)
    _take_partials(&run)
    with nogil:
        parallel_for(_grad_sums_block, &run, run.cut.blocks, _threads(&run, threads))
        _sum_partials(&run, run.first, <double*>cnp.PyArray_DATA(sums))
        _sum_partials(&run, run.second, <double*>cnp.PyArray_DATA(products))
        _give_partials(&run)
    return sums, products


cdef void _grad_input_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.grad_input[run.kind](run.gy + p.offset, run.x + p.offset, run.out + p.offset,
                                     p.rows, p.columns, run.center, run.scale, run.slope,
                                     run.shift)


def grad_input(cnp.ndarray gy, cnp.ndarray x, center, scale, slope, shift, cnp.ndarray out,
               int threads):
    """Set ``out = gy * scale + (x - center) * slope + shift``, with one of each per channel.

    Parameters
    ----------
    gy, x, out : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64) and size; `out` may
        be one of the others.
    center, scale, slope, shift : numpy.ndarray
        (C,); converted to the type of `x`.
    threads : int
        How many threads may be used.
    """
    cdef Run run
    _start(&run, x)
    run.gy = <const char*>pointer(gy, run.kind, cnp.PyArray_SIZE(x))
    run.out = <char*>out_pointer(out, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray m = _folded(&run, center), a = _folded(&run, scale)
    cdef cnp.ndarray b = _folded(&run, slope), c = _folded(&run, shift)
    run.center = cnp.PyArray_DATA(m)
    run.scale = cnp.PyArray_DATA(a)
    run.slope = cnp.PyArray_DATA(b)
    run.shift = cnp.PyArray_DATA(c)
    with nogil:
        parallel_for(_grad_input_block, &run, run.cut.blocks, _threads(&run, threads))


# -- PReLU -----------------------------------------------------------------------------------

cdef void _prelu_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.prelu[run.kind](run.x + p.offset, run.scale, run.out + p.offset, p.rows,
                                p.columns)


def prelu(cnp.ndarray x, weight, cnp.ndarray out, int threads):
    """Set ``out = x > 0 ? x : weight * x`` with one weight per channel.

    Parameters
    ----------
    x, out : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64); `out` may be `x`.
    weight : numpy.ndarray
        (C,); converted to the type of `x`.
    threads : int
        How many threads may be used.
    """
    cdef Run run
    _start(&run, x)
    run.out = <char*>out_pointer(out, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray w = _folded(&run, weight)
    run.scale = cnp.PyArray_DATA(w)
    with nogil:
        parallel_for(_prelu_block, &run, run.cut.blocks, _threads(&run, threads))


cdef void _prelu_grad_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.prelu_grad[run.kind](run.gy + p.offset, run.x + p.offset, run.scale,
                                     run.out + p.offset, run.first + p.partial, p.rows,
                                     p.columns)


def prelu_grad(cnp.ndarray gy, cnp.ndarray x, weight, cnp.ndarray out, int threads):
    """Set `out` to the gradient of PReLU's input and return that of its weight.

    Parameters
    ----------
    gy, x, out : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64) and size; `out` may
        be one of the others.
    weight : numpy.ndarray
        (C,); converted to the type of `x`.
    threads : int
        How many threads may be used.

    Returns
    -------
    numpy.ndarray
        (C,), float64.
    """
    cdef Run run
    _start(&run, x)
    run.gy = <const char*>pointer(gy, run.kind, cnp.PyArray_SIZE(x))
    run.out = <char*>out_pointer(out, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray w = _folded(&run, weight)
    run.scale = cnp.PyArray_DATA(w)
    cdef cnp.ndarray sums = np.empty(run.cut.channels)
    _take_partials(&run)
    with nogil:
        parallel_for(_prelu_grad_block, &run, run.cut.blocks, _threads(&run, threads))
        _sum_partials(&run, run.first, <double*>cnp.PyArray_DATA(sums))
        _give_partials(&run)
    return sums
