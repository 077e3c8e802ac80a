"""Batch norm, affine and PReLU over channels-last arrays: pixels by channels.

Few channels would leave most of a vector empty, so `fold` pixels that follow one another are
taken as one row of ``fold * channels`` columns, with the parameters repeated; pixels that are
left over at the end form one shorter row. Rows are cut into blocks whose size depends on
the number of channels alone. A reduction has one partial result per block, put into double. A task
is a group of neighbouring blocks, as many groups as there are blocks up to a number, and puts
their results together in order; at the end those of the groups are put together, in order and,
within a group, in that of the folded pixels.

Group and instance norm have statistics of their own for each sample: they come here with
`samples` above 1, and every sample is then cut like an array of its own.
"""

import numpy as np

cimport numpy as cnp
from libc.math cimport NAN, sqrt
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from convkit._kernels cimport memory
from convkit._kernels.arrays cimport halves, out_halves, out_pointer, pointer, real_index
from convkit._kernels.dispatch cimport (
    activation_map, ck_norm_kept, ck_norm_masked, ck_norm_table, ck_unary_fn, table)
from convkit._kernels.gemm cimport part_start
from convkit._kernels.runner cimport new_step
from convkit._kernels.threads cimport parallel_for, task_fn, threads_for

cnp.import_array()

# Numbers in a block (64 KiB of float32: it is read twice), but at least this many rows.
cdef Py_ssize_t BLOCK = 16384
cdef Py_ssize_t LEAST_ROWS = 16
# Folded rows have a multiple of this many columns, and more than MOST_FOLDED no longer fold.
cdef Py_ssize_t LANES = 16
cdef Py_ssize_t MOST_FOLDED = 64
# Groups of blocks of a sample: enough for many threads to share; the results of this many are put
# together on one.
cdef Py_ssize_t MOST_GROUPS = 64
# From so many bytes on, float32 results that are only written are stored past the caches, which
# would read their memory first.
cdef Py_ssize_t FAR_BYTES = 16 << 20

cdef struct Cut:
    Py_ssize_t samples
    Py_ssize_t pixels, channels  # of one sample
    Py_ssize_t fold, columns  # columns = fold * channels
    Py_ssize_t rows, tail  # full rows; columns of the shorter row at the end
    Py_ssize_t block, blocks  # rows in a block; blocks, the shorter row being one
    Py_ssize_t tasks  # blocks of all samples
    Py_ssize_t full, groups  # blocks but for the shorter row; groups of blocks, it being one

cdef struct Run:
    Cut cut
    task_fn block               # of a step, or of a reduction
    bint moments                # whether a reduction's partial results are moments, else sums
    int kind
    const ck_norm_table* kernels
    const char* x
    const char* gy
    char* out
    const char* center
    const char* scale
    const char* slope
    const char* shift
    Py_ssize_t step  # bytes from one sample's parameters to the next's
    Py_ssize_t x_pixel  # numbers from one pixel of x to the next, in steps
    double* first  # two partial results per block, `columns` numbers each; or one
    double* second
    double* sum                 # those that a task's group of blocks adds to, unless moments
    double* product
    int activation
    ck_unary_fn after           # of the result, or NULL
    double alpha, beta
    const char* y  # of a masked gradient, or the residual; or NULL
    bint halves                 # whether x and y of a masked gradient are kept as bfloat16
    bint gy_half, out_half, residual_half   # whether these are bfloat16
    bint rounds                 # whether the result is rounded to bfloat16
    bint stream                 # whether results are stored past the caches
    char* kept                  # x - center as bfloat16, and the result
    char* rounded
    const char* factor
    const char* offset
    double low, high

cdef struct Group:
    Py_ssize_t sample, first, last, rows  # blocks first .. last - 1 of all, and their rows

cdef struct Part:
    # Offsets in bytes, of the array and of the parameters; partial in numbers.
    Py_ssize_t offset, own, rows, columns, partial


cdef Py_ssize_t _gcd(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef Cut _cut(Py_ssize_t samples, Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil:
    cdef Cut cut
    cut.samples = samples
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
    cut.tasks = samples * cut.blocks
    cut.full = cut.blocks - (cut.tail > 0)
    cut.groups = min(cut.full, MOST_GROUPS) + (cut.tail > 0)
    return cut


cdef Part _part(const Run* run, Py_ssize_t index) noexcept nogil:
    cdef const Cut* cut = &run.cut
    cdef Part part
    cdef Py_ssize_t sample = index // cut.blocks, block = index - sample * cut.blocks
    cdef Py_ssize_t item = 8 if run.kind else 4
    cdef Py_ssize_t row = min(block * cut.block, cut.rows)
    part.rows = min(cut.block, cut.rows - row)
    part.columns = cut.columns
    if cut.tail and block == cut.blocks - 1:
        row = cut.rows
        part.rows = 1
        part.columns = cut.tail
    part.offset = (sample * cut.pixels * cut.channels + row * cut.columns) * item
    part.own = sample * run.step
    part.partial = index * cut.columns
    return part


cdef _start(Run* run, cnp.ndarray x, Py_ssize_t samples=1):
    """Fill in what all kernels need, from a contiguous channels-last array."""
    _start_kind(run, x, real_index(x), samples)
    run.x = <const char*>pointer(x, run.kind, cnp.PyArray_SIZE(x))


cdef _start_kind(Run* run, cnp.ndarray x, int kind, Py_ssize_t samples=1):
    """Fill in what depends on the shape of an array, and the type of parameters."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x)
    cdef Py_ssize_t channels = x.shape[x.ndim - 1]
    cdef Py_ssize_t pixels = size // channels if channels else 0
    if samples < 0 or (samples == 0 and size) or (samples and pixels % samples):
        raise ValueError(f"kernel called with {pixels} pixels of {samples} samples")
    run.kind = kind
    run.kernels = table().norm
    run.step = 0
    run.y = NULL
    run.halves = run.gy_half = run.out_half = run.stream = False
    run.cut = _cut(samples, pixels // samples if samples else 0, channels if channels else 1)


cdef tuple _parameter_shape(const Run* run, bint by_sample):
    """Return the shape of one number for each channel, or for each channel of each sample."""
    cdef tuple shape = (run.cut.samples, run.cut.channels)
    return shape if by_sample else shape[1:]


cdef cnp.ndarray _folded(Run* run, values):
    """Return a per-channel parameter, repeated for the folded pixels.

    All parameters of a call are either shared by its samples or given for each of them.
    """
    cdef int kind = cnp.NPY_FLOAT64 if run.kind else cnp.NPY_FLOAT32
    cdef cnp.ndarray array = cnp.PyArray_FROMANY(
        values, kind, 0, 0, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_FORCECAST)
    cdef bint by_sample = cnp.PyArray_NDIM(array) == 2
    cdef Py_ssize_t rows = run.cut.samples if by_sample else 1
    if cnp.PyArray_NDIM(array) not in (1, 2) or array.shape[by_sample] != run.cut.channels or (
            by_sample and array.shape[0] != rows):
        raise ValueError(f"kernel called with parameters of shape {(<object>array).shape}, "
                         f"expected {_parameter_shape(run, by_sample)}")
    cdef size_t item = cnp.PyArray_ITEMSIZE(array), row = run.cut.channels * item
    if by_sample:
        run.step = run.cut.columns * item
    if run.cut.fold == 1:
        return array
    cdef cnp.npy_intp size = rows * run.cut.columns
    cdef cnp.ndarray folded = cnp.PyArray_EMPTY(1, &size, kind, 0)
    cdef char* to = <char*>cnp.PyArray_DATA(folded)
    cdef const char* source = <const char*>cnp.PyArray_DATA(array)
    cdef Py_ssize_t i
    for i in range(rows * run.cut.fold):
        memcpy(to + i * row, source + i // run.cut.fold * row, row)
    return folded


cdef const char* _data(cnp.ndarray array) noexcept:
    return <const char*>cnp.PyArray_DATA(array)


cdef int _threads(const Run* run, int threads) noexcept nogil:
    return threads_for(threads, run.cut.tasks, <double>run.cut.samples * run.cut.pixels
                       * run.cut.channels * 2)


cdef size_t _partial_bytes(const Run* run) noexcept nogil:
    return <size_t>(run.cut.tasks * run.cut.columns) * 2 * sizeof(double)


cdef int _take_partials(Run* run) except -1:
    cdef size_t size = _partial_bytes(run)
    run.first = <double*>memory.take(size)
    if run.first == NULL:
        raise MemoryError(f"could not allocate {size} bytes")
    run.second = run.first + run.cut.tasks * run.cut.columns
    return 0


cdef void _give_partials(Run* run) noexcept nogil:
    memory.give(run.first, _partial_bytes(run))


cdef Group _group(const Run* run, Py_ssize_t index) noexcept nogil:
    cdef const Cut* cut = &run.cut
    cdef Py_ssize_t sample = index // cut.groups, group = index - sample * cut.groups
    cdef Py_ssize_t parts = cut.groups - (cut.tail > 0)
    cdef Group found
    if group == parts:                     # the shorter row
        found.first, found.last, found.rows = cut.full, cut.blocks, 1
    else:
        found.first = part_start(cut.full, parts, group)
        found.last = part_start(cut.full, parts, group + 1)
        found.rows = min(found.last * cut.block, cut.rows) - found.first * cut.block
    found.sample = sample
    found.first += sample * cut.blocks
    found.last += sample * cut.blocks
    return found


cdef void _group_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Reduce the blocks of a group; their results end up in those of the first."""
    cdef Run own = (<Run*>ctx)[0]
    cdef Run* run = &own
    cdef Group group = _group(run, index)
    cdef Part p = _part(run, group.first)
    cdef Py_ssize_t block, count = 0
    run.sum = run.first + p.partial
    run.product = run.second + p.partial if run.second != NULL else <double*>NULL
    if not run.moments:
        memset(run.sum, 0, p.columns * sizeof(double))
        if run.product != NULL:
            memset(run.product, 0, p.columns * sizeof(double))
    for block in range(group.first, group.last):
        run.block(run, block, slot)
        p = _part(run, block)
        if run.moments and count:
            run.kernels.merge_moments(run.sum, run.product, <double>count, run.first + p.partial,
                                      run.second + p.partial, <double>p.rows, p.columns)
        count += p.rows


cdef void _reduce(Run* run, task_fn block, bint moments, int threads) noexcept nogil:
    """Run `block` on every block, and put its results together by groups."""
    run.block = block
    run.moments = moments
    parallel_for(_group_task, run, run.cut.samples * run.cut.groups, _threads(run, threads))


cdef void _sum_partials(const Run* run, const double* partial, double* out) noexcept nogil:
    """Add up the groups' sums of each sample: `channels` numbers for each."""
    cdef Py_ssize_t index, pixel, at, c
    cdef double* own = out
    cdef Group group
    cdef Part part
    for c in range(run.cut.samples * run.cut.channels):
        out[c] = 0
    for index in range(run.cut.samples * run.cut.groups):
        group = _group(run, index)
        part = _part(run, group.first)
        own = out + group.sample * run.cut.channels
        for pixel in range(part.columns // run.cut.channels):
            at = part.partial + pixel * run.cut.channels
            for c in range(run.cut.channels):
                own[c] += partial[at + c]


cdef tuple _two_results(const Run* run, bint by_sample):
    """Return two new arrays of a number for each channel (of each sample)."""
    cdef tuple shape = _parameter_shape(run, by_sample)
    return np.empty(shape), np.empty(shape)


# -- moments ---------------------------------------------------------------------------------

cdef void _moments_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.moments[run.kind](run.x + p.offset, p.rows, p.columns,
                                  run.first + p.partial, run.second + p.partial)


cdef void _merge_groups(const Run* run, double* mean, double* squares) noexcept nogil:
    cdef Py_ssize_t index, pixel, at, c, own
    cdef double count = 0
    cdef Group group
    cdef Part part
    for c in range(run.cut.samples * run.cut.channels):
        mean[c] = 0
        squares[c] = 0
    for index in range(run.cut.samples * run.cut.groups):
        group = _group(run, index)
        part = _part(run, group.first)
        own = group.sample * run.cut.channels
        if index % run.cut.groups == 0:
            count = 0
        for pixel in range(part.columns // run.cut.channels):
            at = part.partial + pixel * run.cut.channels
            run.kernels.merge_moments(mean + own, squares + own, count, run.first + at,
                                      run.second + at, <double>group.rows, run.cut.channels)
            count += group.rows


def moments(cnp.ndarray x, int threads, samples=None):
    """Return the mean and the biased variance of each channel.

    Parameters
    ----------
    x : numpy.ndarray
        Channels-last, C-contiguous, float32 or float64.
    threads : int
        How many threads may be used.
    samples : int, optional
        Take the moments of each of this many samples apart.

    Returns
    -------
    tuple of numpy.ndarray
        Mean and variance, (C,) or (samples, C), float64; NaN where there are no pixels.
    """
    cdef Run run
    _start(&run, x, 1 if samples is None else samples)
    cdef cnp.ndarray mean, variance
    mean, variance = _two_results(&run, samples is not None)
    cdef double* m = <double*>cnp.PyArray_DATA(mean)
    cdef double* v = <double*>cnp.PyArray_DATA(variance)
    cdef Py_ssize_t c
    _take_partials(&run)
    with nogil:
        _reduce(&run, _moments_block, True, threads)
        _merge_groups(&run, m, v)
        _give_partials(&run)
        for c in range(run.cut.samples * run.cut.channels):
            if run.cut.pixels == 0:
                m[c] = NAN
            v[c] = v[c] / run.cut.pixels if run.cut.pixels else NAN
    return mean, variance


cdef bint _is_plain(array, int kind, Py_ssize_t size):
    return (isinstance(array, cnp.ndarray) and cnp.PyArray_TYPE(array) == kind
            and cnp.PyArray_SIZE(array) == size and cnp.PyArray_ISCARRAY(array))


def follow(mean, cnp.ndarray batch_mean not None, var, batch_var, double share, double scale):
    """Move running estimates in place: ``(1 - share) * running + share * batch``.

    Parameters
    ----------
    mean, batch_mean, var, batch_var : numpy.ndarray
        float32, of one size, C-contiguous.
    share : float
    scale : float
        By which the batch's variance is multiplied.

    Returns
    -------
    bool
        False, with nothing done, where one is of another kind.
    """
    cdef Py_ssize_t size = cnp.PyArray_SIZE(batch_mean), i
    cdef object array
    for array in (mean, batch_mean, var, batch_var):
        if not _is_plain(array, cnp.NPY_FLOAT32, size):
            return False
    cdef float* m = <float*>cnp.PyArray_DATA(mean)
    cdef float* v = <float*>cnp.PyArray_DATA(var)
    cdef const float* of_mean = <const float*>cnp.PyArray_DATA(batch_mean)
    cdef const float* of_var = <const float*>cnp.PyArray_DATA(batch_var)
    cdef float keep = <float>(1 - share), take = <float>share, scaled = <float>(share * scale)
    for i in range(size):
        m[i] = m[i] * keep + of_mean[i] * take
        v[i] = v[i] * keep + of_var[i] * scaled
    return True


# -- batch norm's numbers for each channel, in double -----------------------------------------

cdef struct Numbers:
    char* at
    bint double_


cdef inline Numbers _of(cnp.ndarray array) noexcept:
    return Numbers(<char*>cnp.PyArray_DATA(array), cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT32)


cdef inline void _put(Numbers numbers, Py_ssize_t i, double value) noexcept nogil:
    if numbers.double_:
        (<double*>numbers.at)[i] = value
    else:
        (<float*>numbers.at)[i] = <float>value


cdef inline double _get(Numbers numbers, Py_ssize_t i) noexcept nogil:
    return (<double*>numbers.at)[i] if numbers.double_ else (<float*>numbers.at)[i]


cdef cnp.ndarray _numbers(values, cnp.npy_intp channels):
    """Return numbers of float32 or float64, one for each channel, contiguous in memory."""
    cdef cnp.ndarray array = values
    if cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT32 or not cnp.PyArray_ISCARRAY_RO(array):
        array = cnp.PyArray_FROMANY(array, cnp.NPY_FLOAT64, 0, 0,
                                    cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_FORCECAST)
    if cnp.PyArray_SIZE(array) != channels:
        raise ValueError(f"kernel called with {cnp.PyArray_SIZE(array)} numbers for {channels} "
                         "channels")
    return array


cdef cnp.ndarray _new(cnp.npy_intp channels, bint double_):
    return cnp.PyArray_EMPTY(1, &channels, cnp.NPY_FLOAT64 if double_ else cnp.NPY_FLOAT32, 0)


def train_numbers(cnp.ndarray mean not None, cnp.ndarray var not None, weight, bias, double eps,
                  bint double_):
    """Return what training batch norm multiplies and adds.

    Parameters
    ----------
    mean, var : numpy.ndarray
        (C,), float64, contiguous: the moments.
    weight, bias : numpy.ndarray or None
        (C,).
    eps : float
    double_ : bool
        Whether results are float64, else float32.

    Returns
    -------
    inverse, scale : numpy.ndarray
        1 / sqrt(var + eps) and that times the weight, float64.
    center, factor, shift, variance : numpy.ndarray
        The mean, the scale, what is added after the centred input was multiplied (the bias,
        with what rounding takes from the mean) and the variance.
    """
    cdef cnp.npy_intp channels = cnp.PyArray_SIZE(mean), i
    cdef cnp.ndarray own_weight = None if weight is None else _numbers(weight, channels)
    cdef cnp.ndarray own_bias = None if bias is None else _numbers(bias, channels)
    cdef cnp.ndarray inverse = _new(channels, True), scale = _new(channels, True)
    cdef cnp.ndarray center = _new(channels, double_), factor = _new(channels, double_)
    cdef cnp.ndarray shift = _new(channels, double_), variance = _new(channels, double_)
    mean, var = _numbers(mean, channels), _numbers(var, channels)
    cdef Numbers m = _of(mean), v = _of(var)
    cdef Numbers w, b, to_center = _of(center), to_factor = _of(factor), to_shift = _of(shift)
    cdef Numbers to_inverse = _of(inverse), to_scale = _of(scale), to_variance = _of(variance)
    cdef double one, by
    if weight is not None:
        w = _of(own_weight)
    if bias is not None:
        b = _of(own_bias)
    for i in range(channels):
        one = 1.0 / sqrt(_get(v, i) + eps)
        by = one if weight is None else _get(w, i) * one
        _put(to_inverse, i, one)
        _put(to_scale, i, by)
        _put(to_center, i, _get(m, i))
        _put(to_factor, i, by)
        _put(to_shift, i, (0.0 if bias is None else _get(b, i))
             + (_get(to_center, i) - _get(m, i)) * by)
        _put(to_variance, i, _get(v, i))
    return inverse, scale, center, factor, shift, variance


def parameter_gradients(cnp.ndarray sums not None, cnp.ndarray products not None,
                        cnp.ndarray mean not None, cnp.ndarray center not None,
                        cnp.ndarray inverse not None):
    """Return the gradients of batch norm's weight and bias, of the type of `center`.

    `products`, the sums of ``gy * (x - center)``, become those of ``gy * (x - mean)``. All but
    `center` are float64.
    """
    cdef cnp.npy_intp channels = cnp.PyArray_SIZE(sums), i
    cdef bint double_ = cnp.PyArray_TYPE(center) == cnp.NPY_FLOAT64
    cdef cnp.ndarray g_weight = _new(channels, double_), g_bias = _new(channels, double_)
    mean, center = _numbers(mean, channels), _numbers(center, channels)
    inverse, products = _numbers(inverse, channels), _numbers(products, channels)
    sums = _numbers(sums, channels)
    cdef Numbers m = _of(mean), c = _of(center), by = _of(inverse), p = _of(products), s = _of(sums)
    cdef Numbers to_weight = _of(g_weight), to_bias = _of(g_bias)
    for i in range(channels):
        _put(p, i, _get(p, i) + (_get(c, i) - _get(m, i)) * _get(s, i))
        _put(to_weight, i, _get(p, i) * _get(by, i))
        _put(to_bias, i, _get(s, i))
    return g_weight, g_bias


def input_numbers(cnp.ndarray sums not None, cnp.ndarray products not None,
                  cnp.ndarray mean not None, cnp.ndarray center not None,
                  cnp.ndarray inverse not None, cnp.ndarray scale not None, double count):
    """Return what `grad_input` multiplies x with and adds, of the type of `center`.

    With n values per channel, z the normalised input and s = weight / sqrt(var + eps):
    gx = s * (gy - mean(gy) - z * mean(gy * z)).
    """
    cdef cnp.npy_intp channels = cnp.PyArray_SIZE(sums), i
    cdef bint double_ = cnp.PyArray_TYPE(center) == cnp.NPY_FLOAT64
    cdef cnp.ndarray slopes = _new(channels, double_), shifts = _new(channels, double_)
    mean, center = _numbers(mean, channels), _numbers(center, channels)
    inverse, scale = _numbers(inverse, channels), _numbers(scale, channels)
    products, sums = _numbers(products, channels), _numbers(sums, channels)
    cdef Numbers m = _of(mean), c = _of(center), one = _of(inverse), by = _of(scale)
    cdef Numbers p = _of(products), s = _of(sums)
    cdef Numbers to_slopes = _of(slopes), to_shifts = _of(shifts)
    cdef double slope
    for i in range(channels):
        slope = -_get(by, i) * _get(one, i) * _get(one, i) * _get(p, i) / count
        _put(to_slopes, i, slope)
        _put(to_shifts, i, (_get(c, i) - _get(m, i)) * slope - _get(by, i) * _get(s, i) / count)
    return slopes, shifts


# -- affine ----------------------------------------------------------------------------------

cdef inline const char* _at(const char* start, Py_ssize_t offset) noexcept nogil:
    """Return a place in an array, or NULL where there is none."""
    return start + offset if start != NULL else <const char*>NULL


cdef void _affine_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.affine[run.kind](run.x + p.offset, _at(run.y, p.offset),
                                 run.out + p.offset, p.rows, p.columns,
                                 _at(run.center, p.own), run.scale + p.own,
                                 run.shift + p.own, run.activation, run.alpha, run.beta)
    if run.after != NULL:
        run.after(run.out + p.offset, run.out + p.offset, p.rows * p.columns, run.alpha, run.beta)


def affine(cnp.ndarray x, scale, shift, int activation, cnp.ndarray out, int threads,
           double alpha=0.0, double beta=0.0, center=None, int samples=1, residual=None):
    """Set ``out = activation((x - center) * scale + shift)``, with one of each per channel.

    Parameters
    ----------
    x, out : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64); `out` may be `x`.
    scale, shift : numpy.ndarray
        (C,), or (samples, C) for one of each per channel of each sample; converted to the type
        of `x`.
    activation : int
        A number of ``enum ck_activation``: 0 none, 1 relu, 2 clamp to [alpha, beta], 3 leaky
        relu of slope alpha.
    threads : int
        How many threads may be used.
    alpha, beta : float
        The activation's parameters.
    center : numpy.ndarray, optional
        Of the shape of `scale`. Subtracted first, which keeps accuracy where the mean is far
        from zero.
    samples : int
        How many samples `x` holds.
    residual : numpy.ndarray, optional
        Of the size of `x`, added before the activation; only with `center` and parameters that
        all samples share.
    """
    cdef Run run
    _start(&run, x, samples)
    run.out = <char*>out_pointer(out, run.kind, cnp.PyArray_SIZE(x))
    if residual is not None:
        run.y = <const char*>pointer(residual, run.kind, cnp.PyArray_SIZE(x))
        if center is None or samples != 1:
            raise ValueError("kernel called with a residual, but no center or several samples")
    cdef cnp.ndarray a = _folded(&run, scale), b = _folded(&run, shift), m = None
    run.scale = _data(a)
    run.shift = _data(b)
    run.center = NULL
    if center is not None:
        m = _folded(&run, center)
        run.center = _data(m)
    run.activation = activation
    run.after = activation_map(activation, run.kind)
    run.alpha = alpha
    run.beta = beta
    with nogil:
        parallel_for(_affine_block, &run, run.cut.tasks, _threads(&run, threads))


cdef int _blocks_step(const void* params, char** at, Py_ssize_t samples, int threads,
                      char* scratch) noexcept nogil:
    """Do what `run.block` does to all blocks of x, the first operand, into the second."""
    cdef Run run = (<const Run*>params)[0]
    run.cut = _cut(1, samples * run.cut.pixels, run.cut.channels)
    run.x = at[0]
    run.out = at[1]
    parallel_for(run.block, &run, run.cut.tasks, _threads(&run, threads))
    return 0


cdef _start_step(Run* run, task_fn block, Py_ssize_t pixels, Py_ssize_t channels, bint double_):
    """Fill in what all steps on `pixels` pixels of each sample need."""
    run.kind = double_
    run.kernels = table().norm
    run.cut = _cut(1, pixels, channels)
    run.block = block


cdef void _affine_pixels(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Take some pixels that are parts of wider ones."""
    cdef Run* run = <Run*>ctx
    cdef Py_ssize_t item = 8 if run.kind else 4, i
    cdef Py_ssize_t each = run.cut.block * run.cut.fold
    for i in range(index * each, min(run.cut.pixels, (index + 1) * each)):
        run.kernels.affine[run.kind](
            run.x + i * run.x_pixel * item, NULL, run.out + i * run.cut.channels * item, 1,
            run.cut.channels, NULL, run.scale, run.shift, run.activation, run.alpha, run.beta)
        if run.after != NULL:
            run.after(run.out + i * run.cut.channels * item, run.out + i * run.cut.channels * item,
                      run.cut.channels, run.alpha, run.beta)


cdef int _affine_parts_step(const void* params, char** at, Py_ssize_t samples, int threads,
                            char* scratch) noexcept nogil:
    cdef Run run = (<const Run*>params)[0]
    cdef Py_ssize_t each, tasks
    run.cut = _cut(1, samples * run.cut.pixels, run.cut.channels)
    run.x = at[0]
    run.out = at[1]
    each = run.cut.block * run.cut.fold
    tasks = (run.cut.pixels + each - 1) // each
    parallel_for(_affine_pixels, &run, tasks, _threads(&run, threads))
    return 0


def affine_step(Py_ssize_t pixels, bint double_, scale, shift, int activation, double alpha=0.0,
                double beta=0.0, x_pixel=None):
    """Return `affine` on `pixels` pixels of each sample as a step, with operands x and out.

    With `x_pixel`, pixels of x are so many numbers apart, parts of wider ones.
    """
    cdef Run run
    _start_step(&run, _affine_block, pixels, len(scale), double_)
    cdef cnp.ndarray a = _folded(&run, scale), b = _folded(&run, shift)
    run.scale = _data(a)
    run.shift = _data(b)
    run.activation = activation
    run.after = activation_map(activation, run.kind)
    run.alpha = alpha
    run.beta = beta
    run.x_pixel = run.cut.channels if x_pixel is None else x_pixel
    return new_step(_blocks_step if run.x_pixel == run.cut.channels else _affine_parts_step, NULL,
                    &run, sizeof(Run), (a, b))


# -- normalisation of each sample ------------------------------------------------------------

cdef struct SampleNorm:
    Run run
    Py_ssize_t groups
    const double* weight
    const double* bias
    double eps


cdef void _over_groups(double* values, Py_ssize_t channels, Py_ssize_t groups) noexcept nogil:
    """Replace each channel's number by the mean over its group."""
    cdef Py_ssize_t each = channels // groups, group, c
    cdef double total
    for group in range(groups):
        total = 0
        for c in range(group * each, (group + 1) * each):
            total += values[c]
        for c in range(group * each, (group + 1) * each):
            values[c] = total / each


cdef void _sample_parameters(const SampleNorm* job, double* mean, double* var, double* inverse,
                             double* scale, double* center, double* shift) noexcept nogil:
    """Turn moments of a sample's channels into those of their groups, and into parameters.

    `inverse` gets each channel's own mean on the way.
    """
    cdef Py_ssize_t channels = job.run.cut.channels, c
    if job.groups != channels:
        for c in range(channels):
            inverse[c] = mean[c]
        _over_groups(mean, channels, job.groups)
        for c in range(channels):
            var[c] += (inverse[c] - mean[c]) * (inverse[c] - mean[c])
        _over_groups(var, channels, job.groups)
    for c in range(channels):
        inverse[c] = 1.0 / sqrt(var[c] + job.eps)
        scale[c] = job.weight[c] * inverse[c]
        # What rounding takes from the mean is put into the shift.
        center[c] = mean[c] if job.run.kind else <double><float>mean[c]
        shift[c] = job.bias[c] + (center[c] - mean[c]) * scale[c]


def sample_parameters(cnp.ndarray mean, cnp.ndarray var, Py_ssize_t groups, cnp.ndarray weight,
                      cnp.ndarray bias, double eps, bint double_):
    """Return what normalises each sample by the moments of its groups of channels.

    Parameters
    ----------
    mean, var : numpy.ndarray
        (samples, C), float64: of each channel. Overwritten by those of its group.
    groups : int
    weight, bias : numpy.ndarray
        (C,), float64.
    eps : float
        Added to the variance.
    double_ : bool
        Whether the samples are float64.

    Returns
    -------
    tuple of numpy.ndarray
        1 / deviation, scale, center and shift, each like `mean`.
    """
    cdef SampleNorm job
    cdef Py_ssize_t n = mean.shape[0], channels = mean.shape[1], i
    made = tuple([np.empty((n, channels)) for _ in range(4)])
    if groups < 1 or channels % groups or not (
            _is_plain(mean, cnp.NPY_FLOAT64, n * channels)
            and _is_plain(var, cnp.NPY_FLOAT64, n * channels)
            and _is_plain(weight, cnp.NPY_FLOAT64, channels)
            and _is_plain(bias, cnp.NPY_FLOAT64, channels)):
        raise ValueError("kernel called with moments and parameters that do not fit")
    job.run.cut.channels = channels
    job.run.kind = double_
    job.groups = groups
    job.weight, job.bias = <double*>_data(weight), <double*>_data(bias)
    job.eps = eps
    cdef double* to[4]
    for i in range(4):
        to[i] = <double*>_data(made[i])
    for i in range(n):
        _sample_parameters(&job, <double*>_data(mean) + i * channels,
                           <double*>_data(var) + i * channels, to[0] + i * channels,
                           to[1] + i * channels, to[2] + i * channels, to[3] + i * channels)
    return made


cdef void _unfold(const Run* run, const double* values, char* to) noexcept nogil:
    """Write a sample's parameters in the type of x, repeated for the folded pixels."""
    cdef Py_ssize_t channels = run.cut.channels, i
    for i in range(run.cut.columns):
        if run.kind:
            (<double*>to)[i] = values[i % channels]
        else:
            (<float*>to)[i] = <float>values[i % channels]


cdef size_t _sample_scratch(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Run run = (<const SampleNorm*>params).run
    run.cut = _cut(samples, run.cut.pixels, run.cut.channels)
    return _partial_bytes(&run) + sizeof(double) * (
        (2 * samples + 4) * run.cut.channels + 3 * samples * run.cut.columns)


cdef int _sample_step(const void* params, char** at, Py_ssize_t samples, int threads,
                      char* scratch) noexcept nogil:
    cdef SampleNorm job = (<const SampleNorm*>params)[0]
    cdef Run* run = &job.run
    cdef Py_ssize_t channels = run.cut.channels, pixels = run.cut.pixels, i, c
    cdef double* mean
    cdef double* var
    cdef double* own
    run.cut = _cut(samples, pixels, channels)
    run.x = at[0]
    run.out = at[1]
    run.first = <double*>scratch
    run.second = run.first + run.cut.tasks * run.cut.columns
    mean = run.second + run.cut.tasks * run.cut.columns
    var = mean + samples * channels
    own = var + samples * channels
    run.center = <char*>(own + 4 * channels)
    run.scale = run.center + samples * run.cut.columns * sizeof(double)
    run.shift = run.scale + samples * run.cut.columns * sizeof(double)
    run.step = run.cut.columns * (8 if run.kind else 4)
    _reduce(run, _moments_block, True, threads)
    _merge_groups(run, mean, var)
    for i in range(samples):
        for c in range(channels):
            var[i * channels + c] /= pixels
        _sample_parameters(&job, mean + i * channels, var + i * channels, own, own + channels,
                           own + 2 * channels, own + 3 * channels)
        _unfold(run, own + channels, <char*>run.scale + i * run.step)
        _unfold(run, own + 2 * channels, <char*>run.center + i * run.step)
        _unfold(run, own + 3 * channels, <char*>run.shift + i * run.step)
    parallel_for(_affine_block, run, run.cut.tasks, _threads(run, threads))
    return 0


def sample_norm_step(Py_ssize_t pixels, Py_ssize_t groups, cnp.ndarray weight, cnp.ndarray bias,
                     double eps, bint double_):
    """Return the normalisation of each sample as a step, with operands x and out.

    Parameters are those of `sample_parameters`; a sample has `pixels` pixels of channels.
    """
    cdef SampleNorm job
    cdef Py_ssize_t channels = cnp.PyArray_SIZE(weight)
    if groups < 1 or channels % groups or not (
            _is_plain(weight, cnp.NPY_FLOAT64, channels)
            and _is_plain(bias, cnp.NPY_FLOAT64, channels)):
        raise ValueError("kernel called with parameters that do not fit")
    _start_step(&job.run, _affine_block, pixels, channels, double_)
    job.groups = groups
    job.weight, job.bias = <double*>_data(weight), <double*>_data(bias)
    job.eps = eps
    return new_step(_sample_step, _sample_scratch, &job, sizeof(SampleNorm), (weight, bias))


# -- gradients -------------------------------------------------------------------------------

cdef void _grad_sums_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.grad_sums[run.kind](run.gy + p.offset, run.x + p.offset, p.rows, p.columns,
                                    run.center + p.own, run.sum, run.product)


def grad_sums(cnp.ndarray gy, cnp.ndarray x, center, int threads, samples=None):
    """Return for each channel the sums of ``gy`` and of ``gy * (x - center)``.

    Parameters
    ----------
    gy, x : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64) and size.
    center : numpy.ndarray
        (C,), or (samples, C); converted to the type of `x`.
    threads : int
        How many threads may be used.
    samples : int, optional
        Sum over each of this many samples apart.

    Returns
    -------
    tuple of numpy.ndarray
        The two sums, (C,) or (samples, C), float64.
    """
    cdef Run run
    _start(&run, x, 1 if samples is None else samples)
    run.gy = <const char*>pointer(gy, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray m = _folded(&run, center), sums, products
    run.center = _data(m)
    sums, products = _two_results(&run, samples is not None)
    _sum_blocks(&run, _grad_sums_block, threads, sums, products)
    return sums, products


def sum_pixels(cnp.ndarray gy not None, int threads):
    """Return the sum over all but the last axis, (C,), of the array's type: a bias's gradient.

    `gy` is C-contiguous, float32 or float64. Sums of products, which the kernel takes too, cost
    nothing beside reading memory.
    """
    zeros = np.zeros((<object>gy).shape[gy.ndim - 1], gy.dtype)
    return grad_sums(gy, gy, zeros, threads)[0].astype(gy.dtype) if gy.size else zeros


cdef int _sum_blocks(Run* run, task_fn block, int threads, cnp.ndarray sums,
                     cnp.ndarray products) except -1:
    """Run `block` on every task and add up its two partial sums."""
    _take_partials(run)
    with nogil:
        _reduce(run, block, False, threads)
        _sum_partials(run, run.first, <double*>cnp.PyArray_DATA(sums))
        _sum_partials(run, run.second, <double*>cnp.PyArray_DATA(products))
        _give_partials(run)
    return 0


cdef void _grad_input_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.grad_input[run.kind](run.gy + p.offset, run.x + p.offset, run.out + p.offset,
                                     p.rows, p.columns, run.center + p.own, run.scale + p.own,
                                     run.slope + p.own, run.shift + p.own)


def grad_input(cnp.ndarray gy, cnp.ndarray x, center, scale, slope, shift, cnp.ndarray out,
               int threads, int samples=1):
    """Set ``out = gy * scale + (x - center) * slope + shift``, with one of each per channel.

    Parameters
    ----------
    gy, x, out : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64) and size; `out` may
        be one of the others.
    center, scale, slope, shift : numpy.ndarray
        (C,), or (samples, C); converted to the type of `x`.
    threads : int
        How many threads may be used.
    samples : int
        How many samples `x` holds.
    """
    cdef Run run
    _start(&run, x, samples)
    run.gy = <const char*>pointer(gy, run.kind, cnp.PyArray_SIZE(x))
    run.out = <char*>out_pointer(out, run.kind, cnp.PyArray_SIZE(x))
    cdef cnp.ndarray m = _folded(&run, center), a = _folded(&run, scale)
    cdef cnp.ndarray b = _folded(&run, slope), c = _folded(&run, shift)
    run.center = _data(m)
    run.scale = _data(a)
    run.slope = _data(b)
    run.shift = _data(c)
    with nogil:
        parallel_for(_grad_input_block, &run, run.cut.tasks, _threads(&run, threads))


# -- gradients behind an activation -----------------------------------------------------------

cdef inline const char* _held(const char* start, Py_ssize_t offset, bint half) noexcept nogil:
    """Return a place in an array, if any, `offset` being that in one of the parameters' type."""
    return _at(start, offset // 2 if half else offset)


cdef ck_norm_masked _masked(const Run* run, Py_ssize_t offset) noexcept nogil:
    cdef ck_norm_masked masked
    masked.gy, masked.x = _held(run.gy, offset, run.gy_half), _held(run.x, offset, run.halves)
    masked.y = _held(run.y, offset, run.halves)
    masked.out = <char*>_held(run.out, offset, run.out_half)
    masked.center, masked.scale, masked.shift = run.center, run.scale, run.shift
    masked.low, masked.high = run.low, run.high
    masked.gy_half, masked.out_half, masked.stream = run.gy_half, run.out_half, run.stream
    return masked


cdef void _masked_sums_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    cdef ck_norm_masked masked = _masked(run, p.offset)
    run.kernels.masked_sums[2 if run.halves else run.kind](
        &masked, p.rows, p.columns, run.sum, run.product)


cdef void _masked_input_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    cdef ck_norm_masked masked = _masked(run, p.offset)
    run.kernels.masked_input[2 if run.halves else run.kind](
        &masked, p.rows, p.columns, run.factor, run.slope, run.offset)


cdef const char* _values(const Run* run, cnp.ndarray x, bint half) except NULL:
    """Return the data of an array that may be held as bfloat16."""
    cdef Py_ssize_t size = run.cut.pixels * run.cut.channels
    if half:
        return halves(x, size)
    return <const char*>pointer(x, run.kind, size)


cdef inline bint _is_half(array) noexcept:
    """Tell whether an array's numbers are bfloat16."""
    return isinstance(array, cnp.ndarray) and cnp.PyArray_TYPE(array) == cnp.NPY_UINT16


cdef int _set_out(Run* run, cnp.ndarray out, bint half) except -1:
    """Take the array of the size of the others that is written to."""
    cdef Py_ssize_t size = run.cut.pixels * run.cut.channels
    if half:
        run.out = out_halves(out, size)
    else:
        run.out = <char*>out_pointer(out, run.kind, size)
    run.out_half = half
    return 0


cdef bint _is_far(const Run* run) noexcept nogil:
    """Tell whether a float32 result, if any, may and should be stored past the caches."""
    return <size_t>run.out % 64 == 0 and (
        4 * run.cut.pixels * run.cut.channels >= FAR_BYTES)


cdef tuple _start_masked(Run* run, cnp.ndarray gy, cnp.ndarray x, tuple mask, center, scale,
                         shift):
    """Describe a gradient behind an activation; return what keeps its parameters alive."""
    cdef bint gy_half = _is_half(x) and _is_half(gy)
    _start_kind(run, gy, 0 if gy_half else real_index(gy))
    run.gy_half = gy_half
    run.halves = run.kind == 0 and _is_half(x)
    run.gy, run.x = _values(run, gy, gy_half), _values(run, x, run.halves)
    run.out = NULL
    run.low, run.high = mask
    cdef cnp.ndarray m = _folded(run, center), a = _folded(run, scale), b = _folded(run, shift)
    run.center = _data(m)
    run.scale = _data(a)
    run.shift = _data(b)
    return m, a, b


def masked_sums(cnp.ndarray gy, cnp.ndarray x, tuple mask, center, scale, shift, y, out,
                int threads):
    """Return `grad_sums` of a gradient that is still to go back through an activation.

    Parameters
    ----------
    gy, x : numpy.ndarray
        Channels-last, C-contiguous, of one type (float32 or float64) and size; or `x` is what
        `affine_kept` keeps, and `gy` float32 or bfloat16 (uint16).
    mask : tuple of float
        (low, high): the gradient is 0 unless the activation's value lies between (a high of
        NaN: no upper end; both NaN: it passes).
    center, scale, shift : numpy.ndarray
        (C,); the activation's argument was ``(x - center) * scale + shift``.
    y, out : numpy.ndarray or None
        The activation's value, where its argument was another (a residual was added), kept as `x`
        is; then the gradient behind the activation is written to `out`, of the type of `gy`, which
        it may be. Neither or both.
    threads : int
        How many threads may be used.

    Returns
    -------
    tuple of numpy.ndarray
        The two sums, (C,), float64.
    """
    cdef Run run
    alive = _start_masked(&run, gy, x, mask, center, scale, shift)
    if (y is None) != (out is None):
        raise ValueError("kernel called with a value but no place for the gradient")
    if y is not None:
        run.y = _values(&run, y, run.halves)
        _set_out(&run, out, run.gy_half)
        run.stream = run.halves and run.out != run.gy and _is_far(&run)
    sums, products = _two_results(&run, False)
    _sum_blocks(&run, _masked_sums_block, threads, sums, products)
    return sums, products


def masked_input(cnp.ndarray gy, cnp.ndarray x, tuple mask, center, scale, shift, factor, slope,
                 offset, cnp.ndarray out, int threads):
    """Set ``out = g * factor + (x - center) * slope + offset``, g being `gy` behind the mask.

    Parameters
    ----------
    gy, x, mask, center, scale, shift, threads
        As for `masked_sums`.
    factor, slope, offset : numpy.ndarray
        (C,).
    out : numpy.ndarray
        Of the size of `gy`, which it may be; float32 or bfloat16 where `x` is, else of its type.
    """
    cdef Run run
    alive = _start_masked(&run, gy, x, mask, center, scale, shift)
    _set_out(&run, out, run.halves and _is_half(out))
    run.stream = run.halves and run.out != run.gy and _is_far(&run)
    cdef cnp.ndarray a = _folded(&run, factor), b = _folded(&run, slope)
    cdef cnp.ndarray c = _folded(&run, offset)
    run.factor = _data(a)
    run.slope = _data(b)
    run.offset = _data(c)
    with nogil:
        parallel_for(_masked_input_block, &run, run.cut.tasks, _threads(&run, threads))


# -- bfloat16 that is kept for backward -------------------------------------------------------

cdef void _affine_kept_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    cdef ck_norm_kept block
    block.x = <const float*>_at(run.x, p.offset)
    block.residual = _held(run.y, p.offset, run.residual_half)
    block.kept = <uint16_t*>(run.kept + p.offset // 2)
    block.rounded = <uint16_t*>_at(run.rounded, p.offset // 2)
    block.y = <float*>_at(run.out, p.offset)
    block.center, block.scale = <const float*>run.center, <const float*>run.scale
    block.shift = <const float*>run.shift
    block.low, block.high = <float>run.low, <float>run.high
    block.residual_half, block.rounds, block.stream = run.residual_half, run.rounds, run.stream
    run.kernels.affine_kept(&block, p.rows, p.columns)


def affine_kept(x, cnp.ndarray kept not None, center, scale, shift, tuple ends,
                cnp.ndarray out not None, int threads, residual=None, rounded=None,
                bint rounds=False):
    """Set `kept` to ``x - center`` as bfloat16, and `out` to what `affine` makes of that.

    Parameters
    ----------
    x : numpy.ndarray or None
        Channels-last, C-contiguous, float32. None: `kept` is there already, and `center` is not
        taken off it.
    kept : numpy.ndarray
        uint16, of the size of `out`, C-contiguous.
    out, residual : numpy.ndarray
        Channels-last, C-contiguous, each float32 or bfloat16 (uint16).
    rounded : numpy.ndarray, optional
        As `kept`; becomes `out` as bfloat16, `out` being float32.
    rounds : bool
        Whether `out` is rounded to bfloat16 where it is float32, too.
    ends : tuple of float
        (low, high): what is below or above becomes these.
    center, scale, shift, threads
        As for `affine`.
    """
    cdef Run run
    _start_kind(&run, out, 0)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(out)
    cdef bint half = _is_half(out)
    if half and rounded is not None:
        raise TypeError("kernel called with two places for the result as bfloat16")
    run.out = NULL
    if not half:
        run.out = <char*>out_pointer(out, 0, size)
    run.x = NULL if x is None else <const char*>pointer(x, 0, size)
    run.kept = out_halves(kept, size)
    run.rounded = NULL
    if half or rounded is not None:
        run.rounded = out_halves(out if half else rounded, size)
    run.rounds = rounds and not half
    run.residual_half = _is_half(residual)
    if residual is not None:
        run.y = _values(&run, residual, run.residual_half)
    run.stream = run.y != run.out and _is_far(&run)
    cdef cnp.ndarray m = _folded(&run, center), a = _folded(&run, scale), b = _folded(&run, shift)
    run.center, run.scale, run.shift = _data(m), _data(a), _data(b)
    run.low, run.high = ends
    with nogil:
        parallel_for(_affine_kept_block, &run, run.cut.tasks, _threads(&run, threads))


cdef struct Turn:
    const ck_norm_table* kernels
    char* floats
    char* halves
    Py_ssize_t size
    bint widens


cdef void _turn_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Turn* turn = <Turn*>ctx
    cdef Py_ssize_t first = index * BLOCK, count = min(BLOCK, turn.size - first)
    cdef float* floats = <float*>turn.floats + first
    cdef uint16_t* narrow = <uint16_t*>turn.halves + first
    if turn.widens:
        turn.kernels.widen(narrow, floats, count)
    else:
        turn.kernels.narrow(floats, narrow, count)


cdef void _turn(Turn* turn, int threads) noexcept nogil:
    cdef Py_ssize_t blocks = (turn.size + BLOCK - 1) // BLOCK
    turn.kernels = table().norm
    parallel_for(_turn_block, turn, blocks, threads_for(threads, blocks, <double>turn.size))


def narrow(cnp.ndarray x not None, cnp.ndarray out not None, int threads):
    """Set `out` (uint16) to the bfloat16 nearest to `x` (float32); both C-contiguous.

    Infinities and NaN stay what they are, and no finite number becomes infinite.
    """
    cdef Turn turn
    turn.size = cnp.PyArray_SIZE(out)
    turn.floats, turn.halves = <char*>pointer(x, 0, turn.size), out_halves(out, turn.size)
    turn.widens = False
    with nogil:
        _turn(&turn, threads)


def widen(cnp.ndarray x not None, cnp.ndarray out not None, int threads):
    """Set `out` (float32) to the bfloat16 numbers of `x` (uint16); both C-contiguous."""
    cdef Turn turn
    turn.size = cnp.PyArray_SIZE(out)
    turn.floats, turn.halves = <char*>out_pointer(out, 0, turn.size), halves(x, turn.size)
    turn.widens = True
    with nogil:
        _turn(&turn, threads)


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
    run.scale = _data(w)
    with nogil:
        parallel_for(_prelu_block, &run, run.cut.tasks, _threads(&run, threads))


def prelu_step(Py_ssize_t pixels, bint double_, weight):
    """Return `prelu` on `pixels` pixels of each sample as a step, with operands x and out."""
    cdef Run run
    _start_step(&run, _prelu_block, pixels, len(weight), double_)
    cdef cnp.ndarray w = _folded(&run, weight)
    run.scale = _data(w)
    return new_step(_blocks_step, NULL, &run, sizeof(Run), w)


cdef void _prelu_grad_block(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Run* run = <Run*>ctx
    cdef Part p = _part(run, index)
    run.kernels.prelu_grad[run.kind](run.gy + p.offset, run.x + p.offset, run.scale,
                                     run.out + p.offset, run.sum, p.rows, p.columns)


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
    run.scale = _data(w)
    cdef cnp.ndarray sums = np.empty(run.cut.channels)
    _take_partials(&run)
    run.second = NULL
    with nogil:
        _reduce(&run, _prelu_grad_block, False, threads)
        _sum_partials(&run, run.first, <double*>cnp.PyArray_DATA(sums))
        _give_partials(&run)
    return sums
