"""Chains: a convolution, a depthwise one and a pointwise one, run through together in strips.

MobileNet's blocks widen an image, filter every channel and narrow it again. One layer after the
other, the wide images go out to memory and come back; here a few of their rows at a time are
made in scratch that stays in the second-level cache, and used up before the next ones are
made. Every element is computed by the kernels of the layers themselves, in the same order of
sums: a chain gives the bits of its layers.

All three may be of bfloat16 on vectors (tiles.pyx), and hand on what they round.
"""

from libc.string cimport memmove

from convkit._kernels.depthwise cimport Problem, gather_rows, run_step as run_depthwise
from convkit._kernels.direct cimport (Job, alone, multiply_adds, run_pixels, run_rows,
                                      run_step as run_direct)
from convkit._kernels.gemm cimport part_start
from convkit._kernels.lookahead cimport LookAhead, look_at
from convkit._kernels cimport tiles
from convkit._kernels.runner cimport Step, new_step, scratch_fn, step_fn
from convkit._kernels.threads cimport parallel_for, threads_for

# Bytes of the wide rows that one strip needs, about: with the rows made of them, and weights,
# they stay in a second-level cache of one MiB or more.
cdef Py_ssize_t STRIP_BYTES = 256 << 10
# Rows that a part of a sample has at least: at each part's begin, wide rows are made twice.
cdef Py_ssize_t PART_ROWS = 4
# Samples for each thread from which on they are not cut into parts.
cdef Py_ssize_t WHOLE_SAMPLES = 4


cdef struct Layer:
    # The first or the last convolution: of floats, or of bfloat16.
    bint halves
    Job floats
    tiles.Job rounded
    bint pointwise
    # Bytes of a pixel that is read and of one that is written, and pixels of a row.
    Py_ssize_t x_pixel, y_pixel, in_h, in_w, out_h, out_w


cdef struct Chain:
    Layer first, last
    Problem middle
    bint narrows                    # whether there is a last layer
    # The layers' own steps.
    const void* layers[3]
    step_fn runs[3]
    scratch_fn scratches[3]
    Py_ssize_t rows                 # of the depthwise layer's output, in a strip
    Py_ssize_t wide_row, wide_bytes, narrow_bytes, slot_bytes
    # Of one call.
    Py_ssize_t samples, parts
    int team
    const char* x
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


cdef bint _take(Layer* layer, Step step):
    """Take a convolution by its step; return whether strips can be made of it."""
    cdef Job* job = &layer.floats
    cdef tiles.Job* rounded = &layer.rounded
    layer.halves = step.run == tiles.run_step
    if layer.halves:
        rounded[0] = (<const tiles.Job*>step.params)[0]
        layer.pointwise = True
        layer.x_pixel, layer.y_pixel = rounded.in_c * rounded.x_item, rounded.out_c * rounded.y_item
        layer.in_h, layer.in_w, layer.out_h, layer.out_w = (
            rounded.in_h, rounded.in_w, rounded.out_h, rounded.out_w)
        return tiles.alone(rounded)
    if step.run != run_direct:
        return False
    job[0] = (<const Job*>step.params)[0]
    layer.pointwise = job.pointwise
    layer.x_pixel, layer.y_pixel = job.x_pixel * job.itemsize, job.y_pixel * job.itemsize
    layer.in_h, layer.in_w, layer.out_h, layer.out_w = job.in_h, job.in_w, job.out_h, job.out_w
    return alone(job)


cdef void _run_pixels(Layer* layer, const char* x, char* y, const char* residual,
                      Py_ssize_t pixels, LookAhead* ahead, char* room) noexcept nogil:
    if layer.halves:
        tiles.run_pixels(&layer.rounded, x, y, residual, pixels, room)
    else:
        run_pixels(&layer.floats, x, y, residual, pixels, ahead)


cdef void _set_bias(Layer* layer, const char* bias) noexcept nogil:
    layer.floats.bias = bias
    layer.rounded.bias = <const float*>bias


cdef double _multiply_adds(const Layer* layer) noexcept nogil:
    return tiles.multiply_adds(&layer.rounded) if layer.halves else multiply_adds(&layer.floats)


cdef Py_ssize_t _room(const Layer* layer, Py_ssize_t rows) noexcept nogil:
    """Return the bytes of scratch that so many rows of the output want."""
    cdef const Job* job = &layer.floats
    if layer.halves:
        return tiles.pixels_scratch(&layer.rounded, rows * layer.out_w)
    if layer.pointwise:
        return 0
    return ((rows - 1) * job.stride_h + job.row_hi - job.row_lo + 1) * job.strip_width * job.source.pixel


cdef void _make_wide(Chain* chain, Layer* layer, Py_ssize_t low, Py_ssize_t high, Py_ssize_t start,
                     Py_ssize_t stop, char* wide, char* room) noexcept nogil:
    """Compute wide rows [low, high), and fetch what this strip will write and the next read."""
    cdef LookAhead ahead
    cdef Py_ssize_t row = layer.in_w * layer.x_pixel, y_row
    if not layer.pointwise:
        layer.floats.x = chain.x
        layer.floats.y = wide - low * chain.wide_row
        run_rows(&layer.floats, 0, low, high, 0, layer.floats.all_blocks, 0, room)
        return
    ahead.count = 0
    look_at(&ahead, chain.x + high * row, (high - low) * row, chain.x, chain.x + layer.in_h * row)
    if chain.narrows:
        y_row = chain.last.out_w * chain.last.y_pixel
        look_at(&ahead, chain.y + start * y_row, (stop - start) * y_row, chain.y,
                chain.y + chain.last.out_h * y_row)
    _run_pixels(layer, chain.x + low * row, wide, NULL, (high - low) * layer.in_w, &ahead, room)


cdef void _task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute the rows of one part of a sample, strip by strip."""
    cdef Chain chain = (<Chain*>ctx)[0]
    cdef Problem* middle = &chain.middle
    cdef Py_ssize_t sample = index // chain.parts, part = index % chain.parts
    cdef Py_ssize_t start = part_start(middle.oh, chain.parts, part)
    cdef Py_ssize_t end = part_start(middle.oh, chain.parts, part + 1)
    cdef Py_ssize_t base = _first_row(middle, start), done = base, stop, low, high, at
    cdef Py_ssize_t out_row = middle.ow * middle.c * middle.y_item
    cdef char* wide = chain.scratch + slot * chain.slot_bytes
    cdef char* narrow = wide + chain.wide_bytes
    cdef char* room = narrow + chain.narrow_bytes
    cdef LookAhead ahead
    chain.x += sample * chain.first.in_h * chain.first.in_w * chain.first.x_pixel
    at = sample * middle.oh * (chain.last.out_w * chain.last.y_pixel if chain.narrows else out_row)
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
                       wide + (done - base) * chain.wide_row, room)
            done = high
        middle.x = wide - base * chain.wide_row
        middle.y = narrow - start * out_row if chain.narrows else chain.y
        gather_rows(middle, 0, start, stop)
        if chain.narrows:
            at = start * chain.last.out_w * chain.last.y_pixel
            ahead.count = 0
            _run_pixels(&chain.last, narrow, chain.y + at,
                        chain.residual + at if chain.residual != NULL else NULL,
                        (stop - start) * middle.ow, &ahead, room)
        start = stop


cdef void _for_samples(Chain* chain, Py_ssize_t samples, int threads) noexcept nogil:
    """Fill in what depends on the number of samples: parts and threads."""
    cdef Problem* p = &chain.middle
    cdef double work = _multiply_adds(&chain.first) + <double>p.oh * p.ow * p.c * p.kh * p.kw / 4
    if chain.narrows:
        work += _multiply_adds(&chain.last)
    chain.samples = samples
    chain.team = threads_for(threads, samples * p.oh // PART_ROWS + 1, samples * work)
    chain.parts = 1
    if samples < WHOLE_SAMPLES * chain.team:
        chain.parts = max(<Py_ssize_t>1, min(<Py_ssize_t>chain.team, p.oh // PART_ROWS))


cdef bint _is_small(const Chain* chain) noexcept nogil:
    """Tell whether there are too few rows for all threads: then the layers run one by one."""
    return chain.samples * chain.parts < chain.team


cdef bint _in_its_way(const Chain* chain, char** at) noexcept nogil:
    """Tell whether a part would write where the next part is yet to read: then likewise."""
    return chain.parts > 1 and at[0] == at[5]


cdef size_t _wide_size(const Chain* chain) noexcept nogil:
    return _rounded(chain.samples * chain.middle.h * chain.wide_row) + 64


cdef size_t _narrow_size(const Chain* chain) noexcept nogil:
    cdef const Problem* p = &chain.middle
    return _rounded(chain.samples * p.oh * p.ow * p.c * p.y_item) + 64 if chain.narrows else 0


cdef size_t _layers_size(const Chain* chain, int threads) noexcept nogil:
    """Return the bytes of scratch that `_run_layers` wants."""
    cdef size_t size = 0
    cdef int i
    for i in range(3 if chain.narrows else 2):
        size = max(size, chain.scratches[i](chain.layers[i], chain.samples, threads))
    return _wide_size(chain) + _narrow_size(chain) + size


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Chain chain = (<const Chain*>params)[0]
    cdef size_t size
    _for_samples(&chain, samples, threads)
    size = chain.team * chain.slot_bytes
    # With several parts it depends on where the operands lie.
    return size if chain.parts == 1 and not _is_small(&chain) else max(
        size, _layers_size(&chain, threads))


cdef void _run_layers(const Chain* chain, char** at, int threads, char* scratch) noexcept nogil:
    """Run the layers one after the other, each on all samples."""
    cdef char* wide = scratch
    cdef char* narrow = wide + _wide_size(chain)
    cdef char* rest = narrow + _narrow_size(chain)
    cdef char* here[4]
    here[0], here[1], here[2], here[3] = at[0], at[1], NULL, wide
    chain.runs[0](chain.layers[0], here, chain.samples, threads, rest)
    here[0], here[1], here[2], here[3] = wide, at[2], NULL, narrow if chain.narrows else at[5]
    chain.runs[1](chain.layers[1], here, chain.samples, threads, rest)
    if chain.narrows:
        here[0], here[1], here[2], here[3] = narrow, at[3], at[4], at[5]
        chain.runs[2](chain.layers[2], here, chain.samples, threads, rest)


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Chain chain = (<const Chain*>params)[0]
    _for_samples(&chain, samples, threads)
    if _is_small(&chain) or _in_its_way(&chain, at):
        _run_layers(&chain, at, threads, scratch)
        return 0
    chain.x = at[0]
    _set_bias(&chain.first, at[1])
    chain.middle.bias = at[2]
    _set_bias(&chain.last, at[3])
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
        A direct convolution, or a pointwise one of bfloat16.
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
    cdef Py_ssize_t wide_rows, i
    cdef Step made
    if middle.run != run_depthwise or not _take(&chain.first, first):
        return None
    p[0] = (<const Problem*>middle.params)[0]
    chain.narrows = last is not None
    if chain.narrows and not (_take(&chain.last, last) and chain.last.pointwise):
        return None
    for i, layer in enumerate((first, middle, last) if chain.narrows else (first, middle)):
        _remember(&chain, i, layer)
    # The middle layer's weights are read as they lie: not repeated, not turned (a transposed layer).
    if (p.band == NULL or p.on_floats != NULL or p.repeats or p.turned or p.up > 1
            or (p.h, p.width, p.c * p.x_item) != (chain.first.out_h, chain.first.out_w,
                                                  chain.first.y_pixel)):
        return None
    if chain.narrows and (p.oh, p.ow, p.c * p.y_item) != (chain.last.in_h, chain.last.in_w,
                                                          chain.last.x_pixel):
        return None
    p.n = 1
    p.far = False
    chain.wide_row = p.width * p.c * p.x_item
    chain.rows = (STRIP_BYTES // chain.wide_row - (p.kh - 1) * p.dilation_h) // p.stride_h // 2 * 2
    chain.rows = max(<Py_ssize_t>2, min(chain.rows, p.oh))
    wide_rows = (chain.rows - 1) * p.stride_h + (p.kh - 1) * p.dilation_h + 1
    # An odd number of lines between what kernels read and write: see docs/performance.md.
    chain.wide_bytes = _rounded(min(wide_rows, p.h) * chain.wide_row) + 64
    chain.narrow_bytes = _rounded(chain.rows * p.ow * p.c * p.y_item) + 64 if chain.narrows else 0
    chain.slot_bytes = _rounded(chain.wide_bytes + chain.narrow_bytes + max(
        _room(&chain.first, wide_rows), _room(&chain.last, chain.rows) if chain.narrows else 0))
    made = new_step(run_step, scratch_size, &chain, sizeof(Chain), (first, middle, last))
    made.adds_in_place = chain.narrows and last.adds_in_place
    return made


cdef void _remember(Chain* chain, Py_ssize_t i, Step layer):
    """Keep a layer's own step."""
    chain.layers[i], chain.runs[i], chain.scratches[i] = layer.params, layer.run, layer.scratch
