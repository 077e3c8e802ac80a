"""Depthwise convolution (one kernel for each channel) on channels-last arrays.

Arrays are C-contiguous and of one type, float32 or float64: x (N, H, W, C), w (kh, kw, C),
y (N, OH, OW, C). Padding is what falls outside x: only its top and left are given, bottom
and right follow from the size of y. A task of `forward` and `grad_input` is a block of rows
of one sample; every output element is one sum in the order of (kh, kw), so that no cut
changes it. `grad_weight` sums fixed blocks of rows or samples and then adds the blocks in
order; their size depends on the layer alone.

Where the CPU multiplies bfloat16, each of x, y and a residual may also be bfloat16 (uint16), w being
float32. Sums are of floats, in the same order. Common windows have kernels that read and write
bfloat16; in other cases a task turns the rows that it works on into floats, and its results back, in
its cache.
"""

from math import gcd

from libc.math cimport INFINITY
from libc.stdint cimport uint16_t
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


cdef void _block_rows(const Problem* p, Py_ssize_t index, Py_ssize_t* start,
                      Py_ssize_t* stop) noexcept nogil:
    """Set the rows of y that a task computes."""
    cdef Py_ssize_t first = (index % p.blocks) * p.block - _above(p)
    start[0] = max(first, 0)
    stop[0] = min(first + p.block, p.oh)


cdef Py_ssize_t _above(const Problem* p) noexcept nogil:
    """Return how many rows the first block begins above the sample.

    Blocks of the gradient of the input of a convolution of stride 2 begin with a row that even
    rows of taps reach.
    """
    return p.top % 2 if p.up > 1 else 0


cdef void _forward_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of output rows."""
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t n = index // p.blocks, start, stop
    cdef Py_ssize_t x_row = p.width * p.c, row, y_at, low, high
    cdef ck_depthwise_args g
    _block_rows(p, index, &start, &stop)
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
                   p.y + (index // p.blocks * p.oh + start) * p.ow * p.c * p.y_item, 1,
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
    cdef Py_ssize_t n = index // p.blocks, start, stop
    cdef Py_ssize_t x_row = p.width * p.c, row, step_h, low, high, phase
    cdef Columns vertical, horizontal
    cdef ck_depthwise_args g
    _block_rows(p, index, &start, &stop)
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
        g.x = x + first * p.c * p.x_item
        g.first = (base - first) // dilation
        g.width = max(_ceil_div(p.width - first, dilation), 0)
        g.y = y + residue * p.c * p.y_item
        g.columns = _ceil_div(p.ow - residue, dilation)
        p.band(g)


cdef void _gather_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of output rows."""
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t start, stop
    _block_rows(p, index, &start, &stop)
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
        _run_columns(p, &g, p.x + (n * p.h + g.top) * p.width * p.c * p.x_item,
                     p.y + (n * p.oh + g.row) * p.ow * p.c * p.y_item)
    cdef char* y = p.y + (n * p.oh + start) * p.ow * p.c * p.y_item
    if p.map != NULL:
        p.map(y, y, (stop - start) * p.ow * p.c, p.alpha, p.beta)


cdef void _scatter_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of rows of the gradient of the input of a convolution of stride 2.

    Names are as in `_grad_input_task`.
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
    g.row = (index % p.blocks) * p.block - _above(p)
    g.row_high = min(g.row + p.block, p.oh)
    g.pairs = _ceil_div(g.row_high - g.row, CK_DW_ROWS)
    g.top = (g.row + p.top) // 2 - ((p.kh + 1) // 2 - 1)
    g.x = p.x + (n * p.h + g.top) * p.width * p.c * p.x_item
    g.y = p.y + (n * p.oh + g.row) * p.ow * p.c * p.y_item
    p.band(&g)


cdef void _rows_seen(const Problem* p, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t* first,
                     Py_ssize_t* last) noexcept nogil:
    """Set rows [first, last) of x, all that rows [start, stop) of y are computed from among them."""
    cdef Py_ssize_t reach = (p.kh - 1) * p.dilation_h
    if p.backward:      # and the row on either side that pairs of rows may read
        first[0] = _ceil_div(start + p.top - reach, p.stride_h) - 1
        last[0] = (stop - 1 + p.top) // p.stride_h + 2
    else:
        first[0] = start * p.stride_h - p.top
        last[0] = first[0] + _most_seen(p, stop - start)
    first[0] = min(max(first[0], 0), p.h)
    last[0] = max(min(last[0], p.h), first[0])


cdef Py_ssize_t _most_seen(const Problem* p, Py_ssize_t rows) noexcept nogil:
    """Return how many rows of x `_rows_seen` finds at most for so many of y."""
    cdef Py_ssize_t reach = (p.kh - 1) * p.dilation_h
    return (rows - 1 + reach) // p.stride_h + 4 if p.backward else (rows - 1) * p.stride_h + reach + 1


cdef char* _as_floats(const char* source, Py_ssize_t row_size, Py_ssize_t base, Py_ssize_t first,
                      Py_ssize_t last, char* room) noexcept nogil:
    """Turn rows [first, last), counted from row `base` of an array, into floats in some room.

    Returns where the array would begin, for who reads these rows alone.
    """
    table().norm.widen(<const uint16_t*>(source + (base + first) * row_size * 2), <float*>room,
                       (last - first) * row_size)
    return room - (base + first) * row_size * sizeof(float)


cdef void _floats_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Compute one block of rows on floats, which are bfloat16 in memory."""
    cdef const Problem* p = <const Problem*>ctx
    cdef Problem own = p[0]
    cdef Py_ssize_t n = index // p.blocks, start, stop, first, last
    cdef Py_ssize_t x_size = p.width * p.c, y_size = p.ow * p.c
    cdef char* room = p.made + slot * p.made_bytes
    cdef char* y = room + p.made_x + p.made_residual
    _block_rows(p, index, &start, &stop)
    if p.x_item == sizeof(uint16_t):
        _rows_seen(p, start, stop, &first, &last)
        own.x = _as_floats(p.x, x_size, n * p.h, first, last, room)
    if p.residual != NULL and p.residual_item == sizeof(uint16_t):
        own.residual = _as_floats(p.residual, y_size, n * p.oh, start, stop, room + p.made_x)
    if p.y_item == sizeof(uint16_t):
        own.y = y - (n * p.oh + start) * y_size * sizeof(float)
        own.far = False
    own.x_item = own.residual_item = own.y_item = sizeof(float)
    own.gathered = NULL
    p.on_floats(&own, index, slot)
    if p.y_item == sizeof(uint16_t):
        table().norm.narrow(<const float*>y, <uint16_t*>p.y + (n * p.oh + start) * y_size,
                            (stop - start) * y_size)
    _gather_moments(p, index, start, stop)


cdef void _make_room(Problem* p) noexcept nogil:
    """Say how much room a thread needs for rows that it turns into floats."""
    cdef Py_ssize_t y_bytes = p.block * p.ow * p.c * sizeof(float)
    p.made_x = p.made_residual = 0
    if p.x_item == sizeof(uint16_t):
        p.made_x = _lines(min(_most_seen(p, p.block), p.h) * p.width * p.c * sizeof(float))
    if p.residual_item == sizeof(uint16_t):
        p.made_residual = _lines(y_bytes)
    p.made_bytes = p.made_x + p.made_residual + (_lines(y_bytes) if p.y_item == sizeof(uint16_t)
                                                 else 0)


cdef Py_ssize_t _lines(Py_ssize_t size) noexcept nogil:
    """Return bytes rounded up to whole lines of a cache."""
    return (size + 63) // 64 * 64


cdef char* _made(const Maker* maker, char* source, Py_ssize_t row_size, Py_ssize_t pixels,
                 Py_ssize_t item, Py_ssize_t made_item, Py_ssize_t first, Py_ssize_t last,
                 char* room) noexcept nogil:
    """Return where an array begins; where it is made, only rows [first, last) are there."""
    cdef Py_ssize_t row, made_bytes = row_size * made_item
    if maker == NULL:
        return source
    room -= first * made_bytes
    for row in range(first, last):
        make(maker, source + row * row_size * item, room + row * made_bytes, pixels)
    return room


cdef void _grad_weight_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Sum one block of rows, or of samples, into its own partial gradient.

    y here is the gradient of the output.
    """
    cdef Problem* p = <Problem*>ctx
    cdef Py_ssize_t n = (index // p.blocks) * p.samples
    cdef Py_ssize_t n_stop = min(n + p.samples, p.n)
    cdef Py_ssize_t start = (index % p.blocks) * p.block
    cdef Py_ssize_t stop = min(start + p.block, p.oh)
    cdef Py_ssize_t x_row = p.width * p.c, y_row = p.ow * p.c, row, first, last, low, high, i
    cdef Py_ssize_t size = p.group * p.kh * p.kw * p.sums_step * p.item
    cdef char* sums = p.sums + index * size
    cdef char* x
    cdef char* gy
    cdef char* room = p.made + slot * p.made_bytes
    cdef ck_depthwise_sums_args g
    cdef ck_depthwise_block block
    for i in range(size):
        sums[i] = 0
    if p.sum_block != NULL:
        block = ck_depthwise_block(
            p.x, p.y, p.h, p.width, p.ow, p.c, start, stop, p.top, p.left, sums, p.sums_step,
            p.group)
    g.x_row_step = p.dilation_h * x_row
    g.width = p.width
    g.columns = p.ow
    g.taps = p.kw
    g.first = -p.left
    g.stride = p.stride_w
    g.dilation = p.dilation_w
    g.channels = p.c
    g.sums_step = p.sums_step
    _rows_seen(p, start, stop, &first, &last)
    while n < n_stop:
        x = _made(p.maker, p.x + n * p.h * x_row * p.x_item, x_row, p.width, p.x_item, p.sum_item,
                  first, last, room)
        gy = _made(p.y_maker, p.y + n * p.oh * y_row * p.y_item, y_row, p.ow, p.y_item, p.sum_item,
                   start, stop, room + p.made_x)
        n += 1
        if p.sum_block != NULL:
            block.x, block.gy = x, gy
            p.sum_block(&block)
            continue
        for row in range(start, stop):
            _rows_inside(row * p.stride_h - p.top, p.dilation_h, p.h, p.kh, &low, &high)
            g.rows = high - low
            g.x = x + (row * p.stride_h - p.top + low * p.dilation_h) * x_row * p.item
            g.gy = gy + row * y_row * p.item
            g.sums = sums + low * p.kw * p.sums_step * p.item
            p.kernels.row_sums(&g)


cdef void _total_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Add up the partial gradients of one tap, in the order of the blocks."""
    cdef Problem* p = <Problem*>ctx
    p.total(p.sums + index * p.sums_step * p.item, p.tasks,
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
    p.maker = p.y_maker = NULL
    p.on_floats = NULL
    p.backward = False
    p.made_x = p.made_residual = p.made_bytes = 0
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
    p.item = p.x_item = p.residual_item = p.y_item = dtype.itemsize
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
    p.phase_count = 0
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
    dtype = x.dtype if x.dtype != np.uint16 else w.dtype
    cdef Problem p = _geometry(x.shape[1:], y.shape[1:], w, dtype, stride, pad, dilation)
    p.n = x.shape[0]
    p.x = _number_data(x, (p.n, p.h, p.width, p.c), dtype, &p.x_item)
    p.y = _number_data(y, (p.n, p.oh, p.ow, p.c), dtype, &p.y_item)
    return p


cdef char* _number_data(array, tuple shape, dtype, Py_ssize_t* item) except? NULL:
    """Return the address of an array of some type, or of bfloat16 instead of floats; set its item."""
    if array.dtype == np.uint16 and dtype == np.float32 and table().tile != NULL:
        item[0] = sizeof(uint16_t)
        return _data(array, shape, array.dtype)
    return _data(array, shape, dtype)


cdef ck_depthwise_band_fn _half_band(Py_ssize_t taps, Py_ssize_t stride, Py_ssize_t up,
                                     Py_ssize_t channels) noexcept nogil:
    """Return the kernel for a window on bfloat16, or NULL."""
    cdef const ck_tile_table* tile = <const ck_tile_table*>table().tile
    if tile == NULL or channels < CK_DW_HALVES:
        return NULL
    return tile.depthwise(taps, stride, up)


cdef void _choose_numbers(Problem* p) noexcept nogil:
    """Choose who reads and writes bfloat16: a kernel, or tasks that turn it into floats and back."""
    cdef ck_depthwise_band_fn band = NULL
    if min(p.x_item, p.y_item, p.residual_item) > <Py_ssize_t>sizeof(uint16_t):
        return
    if p.x_item == p.y_item and p.band != NULL and p.map == NULL and p.group == 1:
        band = _half_band(p.kh, 1 if p.up > 1 else p.stride_h, p.up, p.c)
    if band != NULL:
        p.band = band
    else:
        p.on_floats = _task_of(p)


cdef task_fn _task_of(const Problem* p) noexcept nogil:
    """Return what computes a block of rows."""
    if p.band == NULL:
        return _grad_input_task if p.phase_count else _forward_task
    return _scatter_task if p.up > 1 else _gather_task


cdef void _compute(Problem* p, int threads) noexcept nogil:
    """Compute all blocks of rows; `made` is where there is room for `made_bytes` of each thread."""
    cdef Py_ssize_t count
    _cut_rows(p)
    if p.on_floats != NULL:
        _make_room(p)
    count = p.n * p.blocks
    parallel_for(_task_of(p) if p.on_floats == NULL else _floats_task, p, count,
                 threads_for(threads, count, _work(p)))


cdef size_t _room_for(const Problem* p, int threads) noexcept nogil:
    """Return the bytes that `_compute` wants for so many threads."""
    cdef Problem own = p[0]
    if p.on_floats == NULL:
        return 0
    _cut_rows(&own)
    _make_room(&own)
    return threads * own.made_bytes + 64


cdef char* _aligned(char* p) noexcept nogil:
    return <char*>_lines(<Py_ssize_t>p)


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
    p.blocks = max(_ceil_div(p.oh + _above(p), p.block), 1)
    cdef Py_ssize_t vector = p.kernels.vector_length * p.item // p.y_item
    cdef Py_ssize_t line = vector * p.y_item
    p.far = (line == 64 and p.map == NULL and p.n * sample >= FAR_BYTES and <Py_ssize_t>p.y % line == 0
             and p.c % vector == 0 and p.gathered == NULL)
    cdef Py_ssize_t parts = min(p.kh * p.width * p.c * p.item // WINDOW_BYTES,
                                p.c * p.item // RUN_BYTES)
    vector = p.kernels.vector_length
    p.channels = max(_ceil_div(_ceil_div(p.c, max(parts, 1)), vector), 1) * vector


cdef double _work(Problem* p) noexcept nogil:
    """Return what threads_for wants to know: bytes moved, or vector multiply-adds if more."""
    cdef double moved = <double>p.n * p.c * (p.h * p.width * p.x_item + p.oh * p.ow * p.y_item)
    cdef double sums = <double>p.n * p.oh * p.ow * p.c * p.group * p.kh * p.kw / 4
    return max(moved, sums)


def half_refusal(Py_ssize_t channels, kernel, stride, dilation):
    """Return why no kernel reads and writes bfloat16, in the forward pass or backward, or None."""
    if table().tile == NULL:
        return "this CPU multiplies no bfloat16"
    if channels < CK_DW_HALVES:
        return f"{channels} channels are fewer than {CK_DW_HALVES}"
    if (kernel[0] != kernel[1] or stride[0] != stride[1]
            or _half_band(kernel[0], stride[0], 1, channels) == NULL
            or _half_band(kernel[0], 1, stride[0], channels) == NULL):
        return f"no kernels for windows of {kernel} and stride {stride}"
    if stride[0] > 1 and tuple(dilation) != (1, 1):
        return "dilated"
    return None


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
        at[1] = _data(bias, (p.c,), w.dtype)
    if residual is not None:
        at[2] = _number_data(residual, y.shape, w.dtype, &p.residual_item)
    if y.size == 0:
        return
    _choose_forward(&p, residual is not None, activation, alpha, beta)
    if gathered is not None:
        _cut_rows(&p)
        p.gathered = gathered.begin(p.n * p.blocks, p.c, p.y_item)
    launch(run_step, scratch_size, &p, at, p.n, threads)


def step(x_shape, y_shape, w, bint residual, stride, pad, dilation, int activation, double alpha,
         double beta, tuple narrow=(False, False, False)):
    """Return `forward` as a step of a Program, with operands x, bias, residual and y.

    Parameters
    ----------
    x_shape, y_shape : (int, int, int)
        Height, width and channels of a sample.
    residual : bool
        Whether there is one.
    narrow : tuple of bool
        Which of x, the residual and y are bfloat16.
    others
        As for `forward`.
    """
    cdef Problem p = _geometry(x_shape, y_shape, w, w.dtype, stride, pad, dilation)
    p.x_item, p.residual_item, p.y_item = [2 if n else p.item for n in narrow]
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
    _choose_numbers(p)
    return 0


cdef size_t scratch_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef const Problem* p = <const Problem*>params
    return _repeated_bytes(p) + _room_for(p, threads)


cdef Py_ssize_t _repeated_bytes(const Problem* p) noexcept nogil:
    """Return how much room weights and bias take that repeat."""
    return (p.kh * p.kw + 1) * p.repeats * sizeof(float)


cdef int run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Problem p = (<const Problem*>params)[0]
    p.n = samples
    p.x, p.bias, p.residual, p.y = at[0], at[1], at[2], at[3]
    p.made = _aligned(scratch + _repeated_bytes(&p))
    _lay_out_weights(&p, <float*>scratch)
    _compute(&p, threads)
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
    cdef bint pairs = _choose_band(p, True, False)
    if not pairs:
        _choose_phases(p)
    p.backward = not pairs or p.up > 1
    _choose_numbers(p)
    return pairs


cdef void _choose_phases(Problem* p) noexcept:
    """Describe the phases of a stride that the gradient of the input is gathered by."""
    p.period_h = p.stride_h // gcd(p.stride_h, p.dilation_h)
    p.period_w = p.stride_w // gcd(p.stride_w, p.dilation_w)
    p.phase_count = min(p.stride_w, p.ow)


cdef size_t _phases_size(const void* params, Py_ssize_t samples, int threads) noexcept nogil:
    cdef const Problem* p = <const Problem*>params
    return p.phase_count * sizeof(Columns) + _room_for(p, threads)


cdef int _run_phases(const void* params, char** at, Py_ssize_t samples, int threads,
                     char* scratch) noexcept nogil:
    """Gather the gradient of the input; `scratch` gets the taps of each phase of columns."""
    cdef Problem p = (<const Problem*>params)[0]
    cdef Py_ssize_t phase
    p.n = samples
    p.x, p.y = at[0], at[3]
    p.phases = <Columns*>scratch
    p.made = _aligned(scratch + p.phase_count * sizeof(Columns))
    for phase in range(p.phase_count):
        p.phases[phase] = _taps_reaching(
            phase + p.left, p.stride_w, p.dilation_w, p.period_w,
            p.dilation_w * p.period_w // p.stride_w, p.kw)
    _compute(&p, threads)
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
        What x is made of on the way: center, scale and shift (C,), float32, and the ends between
        which ``(x - center) * scale + shift`` lies; where x is bfloat16, the center is off already.
    """
    cdef Problem p = _problem(x, gy, gw, stride, pad, dilation)
    cdef Py_ssize_t sample, size, room, taps = p.group * p.kh * p.kw
    cdef Maker of_x, of_y
    cdef int team
    cdef int length = p.kernels.vector_length
    cdef const ck_tile_table* tile = <const ck_tile_table*>table().tile
    if gw.size == 0:
        return
    if x.size == 0 or gy.size == 0:
        gw.fill(0)
        return
    p.total, p.sum_item = p.kernels.total, p.item
    if p.group > 1:
        p.sum_block = (<const ck_depthwise_table*>table().depthwise).grouped_block(
            p.kh, p.stride_h)
    elif _square(&p) and p.dilation_h == 1 and p.dilation_w == 1:
        if p.x_item < p.item and p.y_item < p.item and p.c >= CK_DW_HALVES:
            p.sum_block = tile.depthwise_block(p.kh, p.stride_h)
        if p.sum_block != NULL:
            p.total, p.sum_item, length = tile.depthwise_total, p.x_item, CK_DW_HALVES
        elif p.c >= length:
            p.sum_block = (<const ck_depthwise_table*>table().depthwise).block(p.kh, p.stride_h)
    _cut_rows(&p)
    sample = (p.h * p.width + p.oh * p.ow) * p.c * p.item
    p.samples = max(TASK_BYTES // sample, 1)
    p.tasks = _ceil_div(p.n, p.samples) * p.blocks
    p.sums_step = _ceil_div(p.c, length) * length
    size = p.tasks * taps * p.sums_step * p.item
    team = threads_for(threads, p.tasks, _work(&p))
    if maker is not None or p.x_item < p.sum_item:
        if p.item != 4 or p.group > 1:
            raise ValueError("kernel called with a maker, but not for float32 of single channels")
        of_x = maker_of(maker, p.c, p.x_item < p.item)
        of_x.rounds = p.sum_item < p.item
        p.maker = &of_x
        p.made_x = _lines(min(_most_seen(&p, p.block), p.h) * p.width * p.c * p.sum_item)
    if p.y_item < p.sum_item:
        of_y = maker_of(None, p.c, True)
        p.y_maker = &of_y
        p.made_bytes = _lines(p.block * p.ow * p.c * p.sum_item)
    p.made_bytes += p.made_x
    room = size + team * p.made_bytes
    p.sums = <char*>take(room)
    if p.sums == NULL:
        raise MemoryError(f"no memory for {room} bytes of partial gradients")
    p.made = p.sums + size
    with nogil:
        parallel_for(_grad_weight_task, &p, p.tasks, team)
        parallel_for(_total_task, &p, taps, threads_for(threads, taps, <double>size))
        give(p.sums, room)
