"""Depthwise convolution (one kernel for each channel) on channels-last arrays.

Arrays are C-contiguous and of one type, float32 or float64: x (N, H, W, C), w (kh, kw, C),
y (N, OH, OW, C). Padding is what falls outside x: only its top and left are given, bottom
and right follow from the size of y. A task of `forward` and `grad_input` is a block of rows
of one sample; every output element is one sum in the order of (kh, kw), so that no cut
changes it. `grad_weight` sums fixed blocks of rows or samples and then adds the blocks in
order; their size depends on the layer alone.
"""

from math import gcd

from libc.math cimport INFINITY
cimport numpy as cnp
import numpy as np

from convkit._kernels.dispatch cimport CK_ACT_UNARY, activation_map, table
from convkit._kernels.gather cimport Gathered, add_pixels
from convkit._kernels.maker cimport Maker, make, maker_of
from convkit._kernels.memory cimport give, take
from convkit._kernels.runner cimport launch, new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Bytes that one task reads and writes, about: it stays in a core's cache, and a task's cost
# is far above that of starting it. Tasks of fewer rows would read too many of them twice.
cdef Py_ssize_t TASK_BYTES = 128 * 1024
cdef Py_ssize_t TASK_ROWS = 4

# A task walks its rows once for each block of channels, so that the input rows under one
# output row stay in the first-level cache until the next one reads them again: about so many
# bytes of them. Blocks below the second number, per pixel, would cost more by breaking
# up the stream from memory than they save.
cdef Py_ssize_t WINDOW_BYTES = 16 * 1024
cdef Py_ssize_t RUN_BYTES = 512

# From so many bytes of x and y on, y is stored past the caches, which would read it first.
cdef Py_ssize_t FAR_BYTES = 16 * 1024 * 1024


cdef Py_ssize_t _ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """Return a / b rounded up, for b > 0."""
    return -((-a) // b) if a <= 0 else (a + b - 1) // b


cdef void _rows_inside(Py_ssize_t base, Py_ssize_t step, Py_ssize_t size, Py_ssize_t taps,
                       Py_ssize_t* low, Py_ssize_t* high) noexcept nogil:
    """Set the taps [low, high) for which base + tap * step is in [0, size)."""
    low[0] = (-base + step - 1) // step if base < 0 else 0
    high[0] = (size - base + step - 1) // step if base < size else 0
    if high[0] > taps:
        high[0] = taps
    if low[0] > high[0]:
        low[0] = high[0]


cdef void _forward_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of output rows."""
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t n = index // p.blocks
    cdef Py_ssize_t start = (index % p.blocks) * p.block
    cdef Py_ssize_t stop = min(start + p.block, p.oh)
    cdef Py_ssize_t x_row = p.width * p.c, row, y_at, low, high
    cdef ck_depthwise_args g
    g.x_row_step = p.dilation_h * x_row
    g.width = p.width
    g.w_row_step = p.kw * p.c
    g.w_step = g.channels = g.y_step = p.c
    g.taps = p.kw
    g.first = -p.left
    g.stride = p.stride_w
    g.dilation = p.dilation_w
    g.columns = p.ow
    g.bias = p.bias
    g.activation = p.activation
    g.alpha = p.alpha
    g.beta = p.beta
    g.from_ = 0
    while g.from_ < p.c:
        g.to = min(g.from_ + p.channels, p.c)
        for row in range(start, stop):
            _rows_inside(row * p.stride_h - p.top, p.dilation_h, p.h, p.kh, &low, &high)
            g.rows = high - low
            g.x = p.x + (n * p.h + row * p.stride_h - p.top + low * p.dilation_h) * x_row * p.item
            g.w = p.w + low * g.w_row_step * p.item
            y_at = (n * p.oh + row) * p.ow * p.c * p.item
            g.y = p.y + y_at
            g.residual = p.residual + y_at if p.residual != NULL else NULL
            p.kernels.row(&g)
        g.from_ = g.to
    _gather_moments(p, index, start, stop)


cdef void _gather_moments(const Problem* p, Py_ssize_t index, Py_ssize_t start,
                          Py_ssize_t stop) noexcept nogil:
    """Gather the moments of the block of rows that a task has computed."""
    if p.gathered != NULL and start < stop:
        add_pixels(p.gathered, index, True, 0, p.c,
                   p.y + (index // p.blocks * p.oh + start) * p.ow * p.c * p.item, 1,
                   (stop - start) * p.ow, 0, p.c)


cdef Columns _taps_reaching(Py_ssize_t position, Py_ssize_t stride, Py_ssize_t dilation,
                            Py_ssize_t period, Py_ssize_t step, Py_ssize_t taps) noexcept nogil:
    """Find the taps k with (position - k * dilation) divisible by the stride.

    They are `period` apart. The result's `first` is the output that the last of them reads;
    each tap before it reads `step` outputs further on.
    """
    cdef Columns found
    cdef Py_ssize_t k = 0
    found.first = found.taps = found.last_tap = 0
    while k < min(period, taps):
        if (position - k * dilation) % stride == 0:
            found.taps = (taps - 1 - k) // period + 1
            found.last_tap = k + (found.taps - 1) * period
            found.first = (position - k * dilation) // stride - (found.taps - 1) * step
            break
        k += 1
    return found


cdef void _grad_input_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Gather one block of rows of the gradient of the input.

    x here is the gradient of the output, y that of the input, h and width the sizes of the
    former, oh and ow those of the latter.
    """
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t n = index // p.blocks
    cdef Py_ssize_t start = (index % p.blocks) * p.block
    cdef Py_ssize_t stop = min(start + p.block, p.oh)
    cdef Py_ssize_t x_row = p.width * p.c, row, step_h, low, high, phase
    cdef Columns vertical, horizontal
    cdef ck_depthwise_args g
    step_h = p.dilation_h * p.period_h // p.stride_h
    g.x_row_step = step_h * x_row
    g.width = p.width
    g.w_row_step = -p.period_h * p.kw * p.c
    g.w_step = -p.period_w * p.c
    g.channels = p.c
    g.y_step = p.phase_count * p.c
    g.stride = 1
    g.dilation = p.dilation_w * p.period_w // p.stride_w
    g.bias = g.residual = NULL
    g.activation = 0
    g.alpha = g.beta = 0
    g.from_ = 0
    while g.from_ < p.c:
        g.to = min(g.from_ + p.channels, p.c)
        for row in range(start, stop):
            vertical = _taps_reaching(row + p.top, p.stride_h, p.dilation_h, p.period_h, step_h, p.kh)
            _rows_inside(vertical.first, step_h, p.h, vertical.taps, &low, &high)
            for phase in range(p.phase_count):
                horizontal = p.phases[phase]
                g.rows = high - low if horizontal.taps > 0 else 0
                g.taps = horizontal.taps
                g.first = horizontal.first
                g.x = p.x + (n * p.h + vertical.first + low * step_h) * x_row * p.item
                g.w = p.w + ((vertical.last_tap - low * p.period_h) * p.kw
                             + horizontal.last_tap) * p.c * p.item
                g.y = p.y + ((n * p.oh + row) * p.ow + phase) * p.c * p.item
                g.columns = _ceil_div(p.ow - phase, p.phase_count)
                p.kernels.row(&g)
        g.from_ = g.to


cdef void _prepare_band(const Problem* p, ck_depthwise_band* g) noexcept nogil:
    """Set what all bands of a problem share."""
    g.x_row_step = p.dilation_h * p.width * p.c
    g.y_row_step = p.ow * p.c if p.up > 1 else p.dilation_h * p.ow * p.c
    g.top_dilation = p.dilation_h
    g.height = p.h
    g.row_low = 0
    g.w = p.w
    g.w_row_step = p.w_row_step
    g.w_step = p.w_step
    g.channels = p.c
    g.group = p.group
    g.bias = p.bias
    g.clamp = 0 < p.activation < CK_ACT_UNARY
    g.low = 0 if p.activation == 1 else p.alpha
    g.high = INFINITY if p.activation == 1 else p.beta
    g.stream = p.far


cdef void _run_columns(const Problem* p, ck_depthwise_band* g, char* x, char* y) noexcept nogil:
    """Run a band of rows that begin at x and y: dilated columns a residue class at a time."""
    cdef Py_ssize_t residue, base, first
    cdef Py_ssize_t dilation = 1 if p.repeated != NULL else p.dilation_w
    g.x_pair_step = g.top_step * p.width * p.c
    g.x_step = p.dilation_w * p.c
    g.y_step = dilation * p.c
    for residue in range(min(dilation, p.ow)):
        base = residue - p.left
        first = base % dilation
        if first < 0:
            first += dilation
        g.x = x + first * p.c * p.item
        g.first = (base - first) // dilation
        g.width = max(_ceil_div(p.width - first, dilation), 0)
        g.y = y + residue * p.c * p.item
        g.columns = _ceil_div(p.ow - residue, dilation)
        p.band(g)


cdef void _gather_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of output rows."""
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t start = (index % p.blocks) * p.block
    cdef Py_ssize_t stop = min(start + p.block, p.oh)
    gather_rows(p, index // p.blocks, start, stop)
    _gather_moments(p, index, start, stop)


cdef void gather_rows(const Problem* p, Py_ssize_t n, Py_ssize_t start,
                      Py_ssize_t stop) noexcept nogil:
    """Compute output rows of a sample in pairs; dilated rows a residue class at a time."""
    cdef Py_ssize_t step = p.dilation_h
    cdef ck_depthwise_band g
    _prepare_band(p, &g)
    g.top_step = CK_DW_ROWS * step * p.stride_h
    g.row_step = step
    g.row_high = stop
    for g.row in range(start, min(start + step, stop)):
        g.top = g.row * p.stride_h - p.top
        g.pairs = _ceil_div(stop - g.row, CK_DW_ROWS * step)
        _run_columns(p, &g, p.x + (n * p.h + g.top) * p.width * p.c * p.item,
                     p.y + (n * p.oh + g.row) * p.ow * p.c * p.item)
    cdef char* y = p.y + (n * p.oh + start) * p.ow * p.c * p.item
    if p.map != NULL:
        p.map(y, y, (stop - start) * p.ow * p.c, p.alpha, p.beta)


cdef void _scatter_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of rows of the gradient of the input of a convolution of stride 2.

    Blocks begin with a row that even rows of taps reach. Names as in `_grad_input_task`.
    """
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t n = index // p.blocks
    cdef ck_depthwise_band g
    _prepare_band(p, &g)
    g.x_step = g.y_step = p.c
    g.width = p.width
    g.columns = p.ow
    g.first = -p.left
    g.top_step = g.row_step = 1
    g.x_pair_step = p.width * p.c
    g.row = (index % p.blocks) * p.block - p.top % 2
    g.row_high = min(g.row + p.block, p.oh)
    g.pairs = _ceil_div(g.row_high - g.row, CK_DW_ROWS)
    g.top = (g.row + p.top) // 2 - ((p.kh + 1) // 2 - 1)
    g.x = p.x + (n * p.h + g.top) * p.width * p.c * p.item
    g.y = p.y + (n * p.oh + g.row) * p.ow * p.c * p.item
    p.band(&g)


cdef Py_ssize_t _made_rows(const Problem* p, Py_ssize_t rows) noexcept nogil:
    """Return how many rows of x so many output rows see."""
    return (rows - 1) * p.stride_h + (p.kh - 1) * p.dilation_h + 1


cdef char* _sample(const Problem* p, Py_ssize_t n, Py_ssize_t start, Py_ssize_t stop,
                   int slot) noexcept nogil:
    """Return where a sample of x begins; where it is made, only rows that are seen are there."""
    cdef Py_ssize_t row_bytes = p.width * p.c * p.item, top = start * p.stride_h - p.top
    cdef Py_ssize_t first = max(top, 0), row
    cdef char* x = p.x + n * p.h * row_bytes
    cdef char* to
    if p.maker == NULL:
        return x
    to = p.made + slot * p.made_bytes - first * row_bytes
    for row in range(first, min(top + _made_rows(p, stop - start), p.h)):
        make(p.maker, x + row * row_bytes, to + row * row_bytes, p.width)
    return to


cdef void _grad_weight_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Sum one block of rows, or of samples, into its own partial gradient.

    y here is the gradient of the output.
    """
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t n = (index // p.blocks) * p.samples
    cdef Py_ssize_t n_stop = min(n + p.samples, p.n)
    cdef Py_ssize_t start = (index % p.blocks) * p.block
    cdef Py_ssize_t stop = min(start + p.block, p.oh)
    cdef Py_ssize_t x_row = p.width * p.c, row, low, high, i
    cdef Py_ssize_t size = p.group * p.kh * p.kw * p.sums_step * p.item
    cdef char* sums = p.sums + index * size
    cdef char* x
    cdef ck_depthwise_sums_args g
    cdef ck_depthwise_block block
    for i in range(size):
        sums[i] = 0
    if p.sum_block != NULL:
        block = ck_depthwise_block(
            p.x, p.y, p.h, p.width, p.ow, p.c, start, stop, p.top, p.left, sums, p.sums_step,
            p.group)
        while n < n_stop:
            block.x = _sample(p, n, start, stop, slot)
            block.gy = p.y + n * p.oh * p.ow * p.c * p.item
            p.sum_block(&block)
            n += 1
        return
    g.x_row_step = p.dilation_h * x_row
    g.width = p.width
    g.columns = p.ow
    g.taps = p.kw
    g.first = -p.left
    g.stride = p.stride_w
    g.dilation = p.dilation_w
    g.channels = p.c
    g.sums_step = p.sums_step
    while n < n_stop:
        x = _sample(p, n, start, stop, slot)
        for row in range(start, stop):
            _rows_inside(row * p.stride_h - p.top, p.dilation_h, p.h, p.kh, &low, &high)
            g.rows = high - low
            g.x = x + (row * p.stride_h - p.top + low * p.dilation_h) * x_row * p.item
            g.gy = p.y + (n * p.oh + row) * p.ow * p.c * p.item
            g.sums = sums + low * p.kw * p.sums_step * p.item
            p.kernels.row_sums(&g)
        n += 1


cdef void _total_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add up the partial gradients of one tap, in the order of the blocks."""
    cdef Problem* p = <Problem*>ctx
    p.kernels.total(p.sums + index * p.sums_step * p.item, p.tasks,
                    p.group * p.kh * p.kw * p.sums_step, p.c, p.w + index * p.c * p.item)


cdef char* _data(array, tuple shape, dtype) except? NULL:
    """Return the address of an array's first element, after checking what C relies on."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"expected a C-contiguous {dtype} array of shape {shape}, "
                         f"got {array.dtype} of shape {array.shape}")
    return <char*>cnp.PyArray_DATA(array)


cdef Problem _geometry(tuple x_shape, tuple y_shape, w, dtype, stride, pad,
                       dilation) except *:
    """Describe a convolution between samples of two shapes, without their data."""
    cdef Problem p
    cdef const ck_depthwise_table* kernels = <const ck_depthwise_table*>table().depthwise
    if dtype != np.float32 and dtype != np.float64:
        raise ValueError(f"expected float32 or float64, got {dtype}")
    p.gathered = NULL
    p.maker = NULL
    p.h, p.width, p.c = x_shape
    p.oh, p.ow = y_shape[:2]
    p.group = 1 if w.ndim == 3 else w.shape[-4]
    p.kh = w.shape[-3]
    p.kw = w.shape[-2]
    p.stride_h, p.stride_w = stride
    p.top, p.left = pad
    p.dilation_h, p.dilation_w = dilation
    if min(p.stride_h, p.stride_w, p.dilation_h, p.dilation_w) < 1:
        raise ValueError(f"expected positive stride and dilation, got {stride} and {dilation}")
    p.item = dtype.itemsize
    p.kernels = &kernels.f32 if p.item == 4 else &kernels.f64
    cdef Py_ssize_t length = p.kernels.vector_length
    if w.ndim == 5:
        p.w = _data(w, (_ceil_div(p.c, length), p.group, p.kh, p.kw, length), dtype)
    elif w.ndim == 4:
        p.w = _data(w, (p.group, p.kh, p.kw, p.c), dtype)
    else:
        p.w = _data(w, (p.kh, p.kw, p.c), dtype)
    if p.group > 1 and grouped_refusal(p.group, p.c, (p.kh, p.kw), stride, dilation, dtype):
        raise ValueError(f"expected a problem that grouped kernels take, got groups of {p.group}")
    p.bias = p.residual = NULL
    p.activation = 0
    p.map = NULL
    p.alpha = p.beta = 0
    p.samples = p.up = 1
    p.phases = NULL
    p.band = NULL
    p.sum_block = NULL
    p.repeated = NULL
    p.repeats = 0
    p.turned = False
    p.sums = NULL
    p.far = False
    return p


cdef Problem _problem(x, y, w, stride, pad, dilation) except *:
    """Describe a convolution from x to y; either may be a gradient."""
    cdef Problem p = _geometry(x.shape[1:], y.shape[1:], w, x.dtype, stride, pad, dilation)
    p.n = x.shape[0]
    p.x = _data(x, (p.n, p.h, p.width, p.c), x.dtype)
    p.y = _data(y, (p.n, p.oh, p.ow, p.c), x.dtype)
    return p


cdef bint _square(const Problem* p) noexcept nogil:
    """Tell whether the window is one of those that have kernels of their own, by its form."""
    return (p.item == 4 and p.kh == p.kw and p.stride_h == p.stride_w
            and (p.stride_h == 1 or (p.dilation_h == 1 and p.dilation_w == 1)))


cdef bint _choose_band(Problem* p, bint backward, bint residual) noexcept:
    """Choose the kernel for pairs of rows; describe its weights. Returns whether it has one."""
    cdef const ck_depthwise_table* kernels = <const ck_depthwise_table*>table().depthwise
    if not _square(p) or residual or 2 < p.activation < CK_ACT_UNARY:
        return False
    p.w_row_step = p.kw * p.c
    p.w_step = p.c
    if p.group > 1:
        if backward and p.stride_h > 1:
            p.up = p.stride_h
            p.band = kernels.grouped_band(p.kh, 1, p.up)
        else:
            p.band = kernels.grouped_band(p.kh, p.stride_h, 1)
            if backward:    # packed turned by 180 degrees
                p.top = p.dilation_h * (p.kh - 1) - p.top
                p.left = p.dilation_w * (p.kw - 1) - p.left
        return p.band != NULL
    if p.c < kernels.f32.vector_length:
        if p.stride_h > 1 or kernels.flat_band(p.kh) == NULL:
            return False
        p.band = kernels.flat_band(p.kh)
        p.repeats = 2 * kernels.f32.vector_length
    elif backward and p.stride_h > 1:
        p.band = kernels.band(p.kh, 1, p.stride_h)
        p.up = p.stride_h
        return p.band != NULL
    else:
        p.band = kernels.band(p.kh, p.stride_h, 1)
    if backward and p.band != NULL:    # the window turned by 180 degrees
        p.turned = True
        p.top = p.dilation_h * (p.kh - 1) - p.top
        p.left = p.dilation_w * (p.kw - 1) - p.left
    return p.band != NULL


cdef void _lay_out_weights(Problem* p, float* memory) noexcept nogil:
    """Repeat weights and bias along `repeats` values, and turn the window, where that is due."""
    cdef Py_ssize_t taps = p.kh * p.kw, tap, i
    cdef const float* source
    if p.repeats:
        p.repeated = memory
        for tap in range(taps + (p.bias != NULL)):
            source = <const float*>(p.w + tap * p.c * p.item if tap < taps else p.bias)
            for i in range(p.repeats):
                memory[tap * p.repeats + i] = source[i % p.c]
        p.w = <char*>memory
        p.w_step = p.repeats
        p.w_row_step = p.kw * p.repeats
        if p.bias != NULL:
            p.bias = <char*>(memory + taps * p.repeats)
    if p.turned:
        p.w += ((p.kh - 1) * p.w_row_step + (p.kw - 1) * p.w_step) * p.item
        p.w_row_step = -p.w_row_step
        p.w_step = -p.w_step


cdef void _cut_rows(Problem* p) noexcept nogil:
    """Cut each sample into blocks of rows of y, of about TASK_BYTES read and written."""
    cdef Py_ssize_t sample = (p.h * p.width + p.oh * p.ow) * p.c * p.item
    cdef Py_ssize_t most = _ceil_div(p.oh, TASK_ROWS)
    cdef Py_ssize_t blocks = max(min(_ceil_div(sample, TASK_BYTES), most), 1)
    p.block = _ceil_div(max(_ceil_div(p.oh, blocks), 1), CK_DW_ROWS) * CK_DW_ROWS
    # A block of a scattered gradient may begin one row above the sample.
    p.blocks = max(_ceil_div(p.oh + (p.top % 2 if p.up > 1 else 0), p.block), 1)
    cdef Py_ssize_t vector = p.kernels.vector_length
    cdef Py_ssize_t line = vector * p.item
    p.far = (line == 64 and p.map == NULL and p.n * sample >= FAR_BYTES and <Py_ssize_t>p.y % line == 0
             and p.c % vector == 0 and p.gathered == NULL)
    cdef Py_ssize_t parts = min(p.kh * p.width * p.c * p.item // WINDOW_BYTES,
                                p.c * p.item // RUN_BYTES)
    p.channels = max(_ceil_div(_ceil_div(p.c, max(parts, 1)), vector), 1) * vector


cdef double _work(Problem* p) noexcept nogil:
    """Return what threads_for wants to know: bytes moved, or vector multiply-adds if more."""
    cdef double moved = <double>p.n * (p.h * p.width + p.oh * p.ow) * p.c * p.item
    cdef double sums = <double>p.n * p.oh * p.ow * p.c * p.group * p.kh * p.kw / 4
    return max(moved, sums)


def grouped_refusal(Py_ssize_t group, Py_ssize_t channels, kernel, stride, dilation, dtype):
    """Return why the kernels cannot take groups of `group` channels in and out, or None."""
    cdef const ck_depthwise_table* kernels = <const ck_depthwise_table*>table().depthwise
    cdef Py_ssize_t length = kernels.f32.vector_length
    if dtype != np.float32:
        return f"no kernels for groups in {dtype}"
    if group < 2 or group > length or length % group or channels < length:
        return f"groups of {group} among {channels} channels do not fill vectors of {length}"
    if (kernel[0] != kernel[1] or stride[0] != stride[1] or kernels.grouped_band(
            kernel[0], stride[0], 1) == NULL or kernels.grouped_block(kernel[0], stride[0]) == NULL
            or (stride[0] > 1 and kernels.grouped_band(kernel[0], 1, stride[0]) == NULL)):
        return f"no kernels for groups with windows of {kernel} and stride {stride}"
    if tuple(dilation) != (1, 1):
        return "dilated"
    return None


def pack_groups(weight, bint backward, bint turned):
    """Lay out weights (C, group, kh, kw) for `forward`, or for `grad_input`.

    Parameters
    ----------
    backward : bool
        Exchange inputs and outputs of each group.
    turned : bool
        Turn the window by 180 degrees, as `grad_input` with stride 1 wants it.

    Returns
    -------
    ndarray (vectors of channels, group, kh, kw, vector)
        The last vector ends with the last channel.
    """
    cdef Py_ssize_t length = (<const ck_depthwise_table*>table().depthwise).f32.vector_length
    channels, group, kh, kw = weight.shape
    if backward:
        weight = weight.reshape(-1, group, group, kh, kw).swapaxes(1, 2).reshape(weight.shape)
    if turned:
        weight = weight[:, :, ::-1, ::-1]
    starts = np.minimum(np.arange(0, channels, length), channels - length)
    lanes = starts[:, None] + np.arange(length)
    return np.ascontiguousarray(weight[lanes].transpose(0, 2, 3, 4, 1))


def forward(x, w, bias, residual, y, stride, pad, dilation, int activation, double alpha,
            double beta, int threads, Gathered gathered=None):
    """Write the depthwise convolution of x with w into y.

    Parameters
    ----------
    x : ndarray (N, H, W, C)
    w : ndarray (kh, kw, C)
        Or what `pack_groups` makes of weights in groups; then without a residual, and
        no leaky activation.
    bias : ndarray (C,) or None
    residual : ndarray (N, OH, OW, C) or None
        Added before the activation. Must not share memory with y.
    y : ndarray (N, OH, OW, C)
        Overwritten.
    stride, pad, dilation : (int, int)
        Vertical and horizontal; pad is that of the top and of the left.
    activation : int
        0 none, 1 relu, 2 clamp to [alpha, beta], 3 leaky relu of slope alpha, or what
        `elementwise.fused` returns.
    threads : int
        At most so many threads work.
    gathered : Gathered, optional
        What the moments of y are gathered in.
    """
    cdef Problem p = _problem(x, y, w, stride, pad, dilation)
    cdef char* at[4]
    at[0], at[1], at[2], at[3] = p.x, NULL, NULL, p.y
    if bias is not None:
        at[1] = _data(bias, (p.c,), x.dtype)
    if residual is not None:
        at[2] = _data(residual, y.shape, x.dtype)
    if y.size == 0:
        return
    _choose_forward(&p, residual is not None, activation, alpha, beta)
    if gathered is not None:
        _cut_rows(&p)
        p.gathered = gathered.begin(p.n * p.blocks, p.c, p.item)
    launch(run_step, scratch_size, &p, at, p.n, threads)


def step(x_shape, y_shape, w, bint residual, stride, pad, dilation, int activation, double alpha,
         double beta):
    """Return `forward` as a step of a Program, with operands x, bias, residual and y.

    Parameters
    ----------
    x_shape, y_shape : (int, int, int)
        Height, width and channels of a sample.
    residual : bool
        Whether there is one.
    others
        As for `forward`.
    """
    cdef Problem p = _geometry(x_shape, y_shape, w, w.dtype, stride, pad, dilation)
    _choose_forward(&p, residual, activation, alpha, beta)
    return new_step(run_step, scratch_size, &p, sizeof(Problem), w)


cdef int _choose_forward(Problem* p, bint residual, int activation, double alpha,
                         double beta) except -1:
    """Choose the kernels for a forward pass."""
    p.activation = activation
    p.map = activation_map(activation, p.item == 8)
    p.alpha = alpha
    p.beta = beta
    if not _choose_band(p, False, residual) and p.group > 1:
        raise ValueError("grouped kernels take no residual and no leaky activation")
    return 0


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef const Problem* p = <const Problem*>params
    return (p.kh * p.kw + 1) * p.repeats * sizeof(float)


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Problem p = (<const Problem*>params)[0]
    cdef Py_ssize_t count
    p.n = samples
    p.x, p.bias, p.residual, p.y = at[0], at[1], at[2], at[3]
    _lay_out_weights(&p, <float*>scratch)
    _cut_rows(&p)
    count = p.n * p.blocks
    parallel_for(_forward_task if p.band == NULL else
                 _scatter_task if p.up > 1 else _gather_task, &p, count,
                 threads_for(threads, count, _work(&p)))
    return 0


def grad_input(gy, w, gx, stride, pad, dilation, int threads):
    """Write the gradient of the input, for the gradient gy of the output, into gx.

    Parameters
    ----------
    gy : ndarray (N, OH, OW, C)
    w : ndarray (kh, kw, C)
    gx : ndarray (N, H, W, C)
        Overwritten.
    stride, pad, dilation, threads
        As in `forward`.
    """
    cdef Problem p = _problem(gy, gx, w, stride, pad, dilation)
    cdef char* at[4]
    if gx.size == 0:
        return
    if gy.size == 0:
        gx[...] = 0
        return
    at[0], at[1], at[2], at[3] = p.x, NULL, NULL, p.y
    if _choose_backward(&p):
        launch(run_step, scratch_size, &p, at, p.n, threads)
    else:
        launch(_run_phases, _phases_size, &p, at, p.n, threads)


def grad_input_step(gy_shape, gx_shape, w, stride, pad, dilation):
    """Return `grad_input` as a step of a Program, with operands gy, none, none and gx.

    Shapes are (height, width, channels) of a sample.
    """
    cdef Problem p = _geometry(gy_shape, gx_shape, w, w.dtype, stride, pad, dilation)
    if _choose_backward(&p):
        return new_step(run_step, scratch_size, &p, sizeof(Problem), w)
    return new_step(_run_phases, _phases_size, &p, sizeof(Problem), w)


cdef bint _choose_backward(Problem* p):
    """Choose the kernels for the gradient of the input; return whether they are for pairs of rows."""
    if _choose_band(p, True, False):
        return True
    p.period_h = p.stride_h // gcd(p.stride_h, p.dilation_h)
    p.period_w = p.stride_w // gcd(p.stride_w, p.dilation_w)
    p.phase_count = min(p.stride_w, p.ow)
    return False


cdef size_t _phases_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    return (<const Problem*>params).phase_count * sizeof(Columns)


cdef int _run_phases(const void* params, char** at, Py_ssize_t samples, int threads,
                     char* scratch) noexcept nogil:
    """Gather the gradient of the input; `scratch` gets the taps of each phase of columns."""
    cdef Problem p = (<const Problem*>params)[0]
    cdef Py_ssize_t count, phase
    p.n = samples
    p.x, p.y = at[0], at[3]
    p.phases = <Columns*>scratch
    for phase in range(p.phase_count):
        p.phases[phase] = _taps_reaching(
            phase + p.left, p.stride_w, p.dilation_w, p.period_w,
            p.dilation_w * p.period_w // p.stride_w, p.kw)
    _cut_rows(&p)
    count = p.n * p.blocks
    parallel_for(_grad_input_task, &p, count, threads_for(threads, count, _work(&p)))
    return 0


def grad_weight(x, gy, gw, stride, pad, dilation, int threads, maker=None):
    """Write the gradient of the weight into gw; the same bits for any number of threads.

    Parameters
    ----------
    x : ndarray (N, H, W, C)
    gy : ndarray (N, OH, OW, C)
    gw : ndarray (kh, kw, C)
        Or (group, kh, kw, C), one for each input of the groups. Overwritten.
    stride, pad, dilation, threads
        As in `forward`.
    maker : tuple, optional
        What x is made of on the way, in float32: center, scale and shift (C,), and the ends
        between which ``(x - center) * scale + shift`` lies.
    """
    cdef Problem p = _problem(x, gy, gw, stride, pad, dilation)
    cdef Py_ssize_t sample, size, rows, taps = p.group * p.kh * p.kw
    cdef Maker of_x
    cdef int team
    cdef int length = p.kernels.vector_length
    if gw.size == 0:
        return
    if x.size == 0 or gy.size == 0:
        gw.fill(0)
        return
    if p.group > 1:
        p.sum_block = (<const ck_depthwise_table*>table().depthwise).grouped_block(
            p.kh, p.stride_h)
    elif _square(&p) and p.c >= length:
        p.sum_block = (<const ck_depthwise_table*>table().depthwise).block(p.kh, p.stride_h)
        if p.dilation_h > 1 or p.dilation_w > 1:
            p.sum_block = NULL
    _cut_rows(&p)
    sample = (p.h * p.width + p.oh * p.ow) * p.c * p.item
    p.samples = max(TASK_BYTES // sample, 1)
    p.tasks = _ceil_div(p.n, p.samples) * p.blocks
    p.sums_step = _ceil_div(p.c, length) * length
    size = p.tasks * taps * p.sums_step * p.item
    team = threads_for(threads, p.tasks, _work(&p))
    rows = 0
    if maker is not None:
        if p.item != 4 or p.group > 1:
            raise ValueError("kernel called with a maker, but not for float32 of single channels")
        of_x = maker_of(maker, p.c)
        p.maker = &of_x
        p.made_bytes = min(_made_rows(&p, p.block), p.h) * p.width * p.c * p.item
        rows = team * p.made_bytes
    p.sums = <char*>take(size + rows)
    if p.sums == NULL:
        raise MemoryError(f"no memory for {size + rows} bytes of partial gradients")
    p.made = p.sums + size
    with nogil:
        parallel_for(_grad_weight_task, &p, p.tasks, team)
        parallel_for(_total_task, &p, taps, threads_for(threads, taps, <double>size))
        give(p.sums, size + rows)
