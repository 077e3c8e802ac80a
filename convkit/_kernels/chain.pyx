"""Chains: a convolution, a depthwise one and a pointwise one, run through together in strips.

MobileNet's blocks widen an image, filter every channel and narrow it again. One layer after the
other, the wide images go out to memory and come back; here a few of their rows at a time are
made in scratch that stays in the second-level cache, and used up before the next ones are
made. Every element is computed by the kernels of the layers themselves, in the same order of
sums: a chain gives the bits of its layers.
"""

from libc.string cimport memmove

from convkit._kernels.depthwise cimport (Problem, gather_rows, run_step as run_depthwise,
                                         scratch_size as depthwise_scratch)
from convkit._kernels.direct cimport (Job, alone, multiply_adds, run_pixels, run_rows,
                                      run_step as run_direct, scratch_size as direct_scratch)
from convkit._kernels.gemm cimport part_start
from convkit._kernels.lookahead cimport LookAhead, look_at
from convkit._kernels.runner cimport Step, new_step
from convkit._kernels.threads cimport parallel_for, threads_for

# Bytes of the wide rows that one strip needs, about: with the rows made of them, and weights,
# they stay in a second-level cache of one MiB or more.
cdef Py_ssize_t STRIP_BYTES = 256 << 10
# Rows that a part of a sample has at least: at each part's begin, wide rows are made twice.
cdef Py_ssize_t PART_ROWS = 4
# Samples for each thread from which on they are not cut into parts.
cdef Py_ssize_t WHOLE_SAMPLES = 4


cdef struct Chain:
    Job first, last
    Problem middle
    bint narrows                    # whether there is a last layer
    const void* layers[3]           # the parameters of the layers' own steps
    Py_ssize_t rows                 # of the depthwise layer's output, in a strip
    Py_ssize_t wide_row, wide_bytes, narrow_bytes, slot_bytes
    # Of one call.
    Py_ssize_t samples, parts
    int team
    char* y
    const char* residual
    char* scratch


cdef inline Py_ssize_t _rounded(Py_ssize_t size) noexcept nogil:
    return (size + 4095) // 4096 * 4096


cdef inline Py_ssize_t _first_row(const Problem* p, Py_ssize_t row) noexcept nogil:
    """Return the first wide row that an output row needs."""
    return min(p.h, max(<Py_ssize_t>0, row * p.stride_h - p.top))


cdef inline Py_ssize_t _end_row(const Problem* p, Py_ssize_t row) noexcept nogil:
    """Return the wide row behind the last one that the output rows before `row` need."""
    return max(<Py_ssize_t>0, min(p.h, (row - 1) * p.stride_h - p.top + (p.kh - 1) * p.dilation_h + 1))


cdef void _make_wide(Chain* chain, Job* job, Py_ssize_t low, Py_ssize_t high, Py_ssize_t start,
                     Py_ssize_t stop, char* wide, char* strip) noexcept nogil:
    """Compute wide rows [low, high), and fetch what this strip will write and the next read."""
    cdef LookAhead ahead
    cdef Py_ssize_t row = job.in_w * job.x_pixel * job.itemsize, y_row
    if not job.pointwise:
        job.y = wide - low * chain.wide_row
        run_rows(job, 0, low, high, 0, job.all_blocks, 0, strip)
        return
    ahead.count = 0
    look_at(&ahead, job.x + high * row, (high - low) * row, job.x, job.x + job.in_h * row)
    if chain.narrows:
        y_row = chain.last.out_w * chain.last.y_pixel * job.itemsize
        look_at(&ahead, chain.y + start * y_row, (stop - start) * y_row, chain.y,
                chain.y + chain.last.out_h * y_row)
    run_pixels(job, job.x + low * row, wide, NULL, (high - low) * job.in_w, &ahead)


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute the rows of one part of a sample, strip by strip."""
    cdef Chain chain = (<Chain*>ctx)[0]
    cdef Problem* middle = &chain.middle
    cdef Py_ssize_t sample = index // chain.parts, part = index % chain.parts
    cdef Py_ssize_t start = part_start(middle.oh, chain.parts, part)
    cdef Py_ssize_t end = part_start(middle.oh, chain.parts, part + 1)
    cdef Py_ssize_t base = _first_row(middle, start), done = base, stop, low, high, at
    cdef Py_ssize_t out_row = middle.ow * middle.c * middle.item
    cdef char* wide = chain.scratch + slot * chain.slot_bytes
    cdef char* narrow = wide + chain.wide_bytes
    cdef LookAhead ahead
    chain.first.x += sample * chain.first.in_h * chain.first.in_w * chain.first.x_pixel * middle.item
    at = sample * middle.oh * (chain.last.out_w * chain.last.y_pixel * middle.item
                               if chain.narrows else out_row)
    chain.y += at
    if chain.residual != NULL:
        chain.residual += at
    while start < end:
        stop = min(start + chain.rows, end)
        low = _first_row(middle, start)
        high = max(low, _end_row(middle, stop))
        done = max(done, low)
        memmove(wide, wide + (low - base) * chain.wide_row, (done - low) * chain.wide_row)
        base = low
        if high > done:
            _make_wide(&chain, &chain.first, done, high, start, stop,
                       wide + (done - base) * chain.wide_row, narrow + chain.narrow_bytes)
            done = high
        middle.x = wide - base * chain.wide_row
        middle.y = narrow - start * out_row if chain.narrows else chain.y
        gather_rows(middle, 0, start, stop)
        if chain.narrows:
            at = start * chain.last.out_w * chain.last.y_pixel * middle.item
            ahead.count = 0
            run_pixels(&chain.last, narrow, chain.y + at,
                       chain.residual + at if chain.residual != NULL else NULL,
                       (stop - start) * middle.ow, &ahead)
        start = stop


cdef void _for_samples(Chain* chain, Py_ssize_t samples, int threads) noexcept nogil:
    """Fill in what depends on the number of samples: parts and threads."""
    cdef Problem* p = &chain.middle
    cdef double work = multiply_adds(&chain.first) + <double>p.oh * p.ow * p.c * p.kh * p.kw / 4
    if chain.narrows:
        work += multiply_adds(&chain.last)
    chain.samples = samples
    chain.team = threads_for(threads, samples * p.oh // PART_ROWS + 1, samples * work)
    chain.parts = 1
    if samples < WHOLE_SAMPLES * chain.team:
        chain.parts = max(<Py_ssize_t>1, min(<Py_ssize_t>chain.team, p.oh // PART_ROWS))


cdef bint _is_small(const Chain* chain) noexcept nogil:
    """Tell whether there are too few rows for all threads: then the layers run one by one."""
    return chain.samples * chain.parts < chain.team


cdef size_t _wide_size(const Chain* chain) noexcept nogil:
    return _rounded(chain.samples * chain.middle.h * chain.wide_row) + 64


cdef size_t _narrow_size(const Chain* chain) noexcept nogil:
    cdef const Problem* p = &chain.middle
    return _rounded(chain.samples * p.oh * p.ow * p.c * p.item) + 64 if chain.narrows else 0


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Chain chain = (<const Chain*>params)[0]
    cdef size_t size
    _for_samples(&chain, samples, threads)
    if not _is_small(&chain):
        return chain.team * chain.slot_bytes
    size = max(direct_scratch(chain.layers[0], samples, threads),
               depthwise_scratch(chain.layers[1], samples, threads))
    if chain.narrows:
        size = max(size, direct_scratch(chain.layers[2], samples, threads))
    return _wide_size(&chain) + _narrow_size(&chain) + size


cdef void _run_layers(const Chain* chain, char** at, int threads, char* scratch) noexcept nogil:
    """Run the layers one after the other, each on all samples."""
    cdef char* wide = scratch
    cdef char* narrow = wide + _wide_size(chain)
    cdef char* rest = narrow + _narrow_size(chain)
    cdef char* here[4]
    here[0], here[1], here[2], here[3] = at[0], at[1], NULL, wide
    run_direct(chain.layers[0], here, chain.samples, threads, rest)
    here[0], here[1], here[2], here[3] = wide, at[2], NULL, narrow if chain.narrows else at[5]
    run_depthwise(chain.layers[1], here, chain.samples, threads, rest)
    if chain.narrows:
        here[0], here[1], here[2], here[3] = narrow, at[3], at[4], at[5]
        run_direct(chain.layers[2], here, chain.samples, threads, rest)


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Chain chain = (<const Chain*>params)[0]
    _for_samples(&chain, samples, threads)
    if _is_small(&chain):
        _run_layers(&chain, at, threads, scratch)
        return 0
    chain.first.x = at[0]
    chain.first.bias = at[1]
    chain.middle.bias = at[2]
    chain.last.bias = at[3]
    chain.residual = at[4]
    chain.y = at[5]
    chain.scratch = scratch
    parallel_for(_task, &chain, samples * chain.parts, chain.team)
    return 0


def step(Step first not None, Step middle not None, Step last):
    """Return the steps of two or three layers as one, or None where they make no chain.

    Parameters
    ----------
    first : Step
        A direct convolution.
    middle : Step
        A depthwise convolution of what the first one writes.
    last : Step or None
        A pointwise convolution of what the second one writes.

    Returns
    -------
    Step or None
        With operands x, bias of the first, bias of the second, bias and residual of the
        last, y.
    """
    cdef Chain chain
    cdef Problem* p = &chain.middle
    cdef Py_ssize_t wide_rows, strip
    if (first.run != run_direct or middle.run != run_depthwise
            or (last is not None and last.run != run_direct)):
        return None
    chain.first = (<const Job*>first.params)[0]
    p[0] = (<const Problem*>middle.params)[0]
    chain.narrows = last is not None
    chain.layers[0], chain.layers[1] = first.params, middle.params
    chain.layers[2] = last.params if chain.narrows else NULL
    chain.last = (<const Job*>last.params)[0] if chain.narrows else chain.first
    # The middle layer's weights are read as they lie: not repeated, not turned (a transposed layer).
    if p.band == NULL or p.x_item != p.item or p.y_item != p.item or p.repeats or p.turned or p.up > 1 or not alone(&chain.first) or (
            (p.h, p.width, p.c) != (chain.first.out_h, chain.first.out_w, chain.first.y_pixel)):
        return None
    if chain.narrows and (not alone(&chain.last) or not chain.last.pointwise or (
            (p.oh, p.ow, p.c) != (chain.last.in_h, chain.last.in_w, chain.last.x_pixel))):
        return None
    p.n = 1
    p.far = False
    chain.wide_row = p.width * p.c * p.item
    chain.rows = (STRIP_BYTES // chain.wide_row - (p.kh - 1) * p.dilation_h) // p.stride_h // 2 * 2
    chain.rows = max(<Py_ssize_t>2, min(chain.rows, p.oh))
    wide_rows = (chain.rows - 1) * p.stride_h + (p.kh - 1) * p.dilation_h + 1
    # An odd number of lines between what kernels read and write: see docs/performance/depthwise.md.
    chain.wide_bytes = _rounded(min(wide_rows, p.h) * chain.wide_row) + 64
    chain.narrow_bytes = _rounded(chain.rows * p.ow * p.c * p.item) + 64 if chain.narrows else 0
    strip = 0
    if not chain.first.pointwise:
        strip = (((wide_rows - 1) * chain.first.stride_h + chain.first.row_hi - chain.first.row_lo + 1)
                 * chain.first.strip_width * chain.first.source.pixel)
    chain.slot_bytes = _rounded(chain.wide_bytes + chain.narrow_bytes + strip)
    return new_step(run_step, scratch_size, &chain, sizeof(Chain), (first, middle, last))
