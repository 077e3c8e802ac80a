"""Steps of Programs that choose elements, put them elsewhere, or convert them.

What reads or writes at places that are data checks each of them: the step's `recover` then says
that one leads out of the array.
"""

cimport numpy as cnp
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t)
from libc.string cimport memcpy, memmove, memset

from convkit._kernels.runner cimport Step, new_step
from convkit._kernels.threads cimport parallel_for, task_fn, threads_for

cnp.import_array()

ctypedef int (*place_fn)(void*, cnp.npy_intp, cnp.npy_intp*, void*) noexcept nogil

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArray_ArrFuncs:
        place_fn argmax, argmin
    PyArray_ArrFuncs* PyDataType_GetArrFuncs(cnp.dtype)

cdef enum:
    MOST_AXES = 32
    MOST_OPERANDS = 3

# Elements that a task makes, about.
cdef Py_ssize_t BLOCK = 16384

ctypedef fused word:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused source:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused target:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused real:
    float
    double

# Samples of `rows` rows, each a task's smallest part; `row` bytes are how far apart they lie in an
# operand, 0 where it is the same for all samples.
cdef struct Job:
    const char* x
    const char* places
    char* y
    Py_ssize_t rows, length, inner  # rows of a sample; what else a row has is its operation's
    Py_ssize_t each                 # rows of a task
    Py_ssize_t item, item_y
    Py_ssize_t total                # rows of all samples
    int bad                         # whether a place leads out of the array
    bint largest, wide
    place_fn find
    int of, to                      # NumPy's numbers of types
    Py_ssize_t x_row, x_sample, place_sample, count
    int axes                        # of what is walked along, the samples' among them
    Py_ssize_t size[MOST_AXES]
    Py_ssize_t stride[MOST_OPERANDS][MOST_AXES]
    const char* at[MOST_OPERANDS]


cdef void _run(Job* job, task_fn task, Py_ssize_t samples, Py_ssize_t row, int threads) noexcept nogil:
    """Run a task over the rows of all samples, of `row` elements."""
    cdef Py_ssize_t tasks
    job.total = samples * job.rows
    job.each = max(<Py_ssize_t>1, BLOCK // max(<Py_ssize_t>1, row))
    tasks = (job.total + job.each - 1) // job.each
    parallel_for(task, job, tasks, threads_for(threads, tasks, <double>job.total * row))


cdef inline Py_ssize_t _last(const Job* job, Py_ssize_t index) noexcept nogil:
    """Return the row after a task's last."""
    return min(job.total, (index + 1) * job.each)


# -- conversions ------------------------------------------------------------------------------

cdef void _convert(const source* x, target* y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = <target>x[i]


cdef void _to(Job* job, const source* x, char* y, Py_ssize_t n) noexcept nogil:
    """Convert to the type of y."""
    cdef Py_ssize_t i
    if job.to == cnp.NPY_BOOL:
        for i in range(n):
            (<uint8_t*>y)[i] = x[i] != 0
    elif job.to == cnp.NPY_FLOAT32:
        _convert(x, <float*>y, n)
    elif job.to == cnp.NPY_FLOAT64:
        _convert(x, <double*>y, n)
    elif job.to == cnp.NPY_INT8:
        _convert(x, <int8_t*>y, n)
    elif job.to == cnp.NPY_INT16:
        _convert(x, <int16_t*>y, n)
    elif job.to == cnp.NPY_INT32:
        _convert(x, <int32_t*>y, n)
    elif job.to == cnp.NPY_INT64:
        _convert(x, <int64_t*>y, n)
    elif job.to == cnp.NPY_UINT8:
        _convert(x, <uint8_t*>y, n)
    elif job.to == cnp.NPY_UINT16:
        _convert(x, <uint16_t*>y, n)
    elif job.to == cnp.NPY_UINT32:
        _convert(x, <uint32_t*>y, n)
    else:
        _convert(x, <uint64_t*>y, n)


cdef void _cast_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t first = index * job.each
    cdef Py_ssize_t n = _last(job, index) - first
    cdef const char* x = job.x + first * job.item
    cdef char* y = job.y + first * job.item_y
    if job.of == cnp.NPY_FLOAT32:
        _to(job, <const float*>x, y, n)
    elif job.of == cnp.NPY_FLOAT64:
        _to(job, <const double*>x, y, n)
    elif job.of == cnp.NPY_INT8:
        _to(job, <const int8_t*>x, y, n)
    elif job.of == cnp.NPY_INT16:
        _to(job, <const int16_t*>x, y, n)
    elif job.of == cnp.NPY_INT32:
        _to(job, <const int32_t*>x, y, n)
    elif job.of == cnp.NPY_INT64:
        _to(job, <const int64_t*>x, y, n)
    elif job.of == cnp.NPY_UINT16:
        _to(job, <const uint16_t*>x, y, n)
    elif job.of == cnp.NPY_UINT32:
        _to(job, <const uint32_t*>x, y, n)
    elif job.of == cnp.NPY_UINT64:
        _to(job, <const uint64_t*>x, y, n)
    else:       # bytes and booleans
        _to(job, <const uint8_t*>x, y, n)


cdef int _cast_step(const void* params, char** at, Py_ssize_t samples, int threads,
                    char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x, job.y = at[0], at[1]
    _run(&job, _cast_task, samples, 1, threads)
    return 0


def cast_step(cnp.dtype before, cnp.dtype after, Py_ssize_t size):
    """Return a conversion of `size` numbers of each sample as a step, with operands x and y."""
    cdef Job job
    job.of, job.to = before.num, after.num
    job.rows, job.item, job.item_y = size, before.itemsize, after.itemsize
    return new_step(_cast_step, NULL, &job, sizeof(Job), None)


# -- NumPy's places of extremes ---------------------------------------------------------------

cdef void _extreme_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t row
    cdef cnp.npy_intp place = 0
    for row in range(index * job.each, _last(job, index)):
        job.find(<void*>(job.x + row * job.length * job.item), job.length, &place, NULL)
        (<int64_t*>job.y)[row] = place


cdef int _extreme_step(const void* params, char** at, Py_ssize_t samples, int threads,
                       char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x, job.y = at[0], at[1]
    _run(&job, _extreme_task, samples, job.length, threads)
    return 0


def extreme_step(cnp.dtype dtype, Py_ssize_t rows, Py_ssize_t length, bint largest):
    """Return a step that finds each row's largest (or smallest) element: x, and y of int64.

    Of equals the first; NaN counts as the extreme: NumPy's own functions.
    """
    cdef Job job
    job.find = PyDataType_GetArrFuncs(dtype).argmax if largest else \
        PyDataType_GetArrFuncs(dtype).argmin
    job.rows, job.length, job.item = rows, length, dtype.itemsize
    return new_step(_extreme_step, NULL, &job, sizeof(Job), dtype)


# -- the first of an order --------------------------------------------------------------------

cdef inline bint _before(real a, real b, bint largest) noexcept nogil:
    """Tell whether a comes before b; NaN is larger than all numbers."""
    if largest:
        return a > b or (a != a and b == b)
    return a < b or (b != b and a == a)


cdef void _top(const Job* job, const real* x, real* values, int64_t* places) noexcept nogil:
    """Keep the first `count` of a row, in order; of equals, those that come first."""
    cdef Py_ssize_t i, at, kept = 0
    for i in range(job.length):
        at = kept
        while at and _before(x[i], values[at - 1], job.largest):
            at -= 1
        if at == job.count:
            continue
        kept = min(kept + 1, job.count)
        memmove(values + at + 1, values + at, (kept - 1 - at) * sizeof(real))
        memmove(places + at + 1, places + at, (kept - 1 - at) * sizeof(int64_t))
        values[at], places[at] = x[i], i


cdef void _top_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t row
    for row in range(index * job.each, _last(job, index)):
        if job.wide:
            _top[double](job, <const double*>job.x + row * job.length,
                         <double*>job.y + row * job.count,
                         <int64_t*>job.places + row * job.count)
        else:
            _top[float](job, <const float*>job.x + row * job.length,
                        <float*>job.y + row * job.count, <int64_t*>job.places + row * job.count)


cdef int _top_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x, job.y, job.places = at[0], at[1], at[2]
    _run(&job, _top_task, samples, job.length, threads)
    return 0


def top_step(Py_ssize_t rows, Py_ssize_t length, Py_ssize_t count, bint double_, bint largest):
    """Return a step for each row's `count` largest or smallest: x, values, places (int64)."""
    cdef Job job
    job.rows, job.length, job.count = rows, length, count
    job.wide, job.largest = double_, largest
    return new_step(_top_step, NULL, &job, sizeof(Job), None)


# -- places that are data ---------------------------------------------------------------------

cdef inline Py_ssize_t _place(Job* job, const char* place) noexcept nogil:
    """Return a place, from the front of `length`; note one that leads out of it, and return 0."""
    cdef int64_t at = (<const int64_t*>place)[0] if job.wide else (<const int32_t*>place)[0]
    if at < 0:
        at += job.length
    if 0 <= at < job.length:
        return <Py_ssize_t>at
    job.bad = 1
    return 0


cdef Step _checked(Step step, recover):
    """Let a step call `recover` where a place leads out of the array."""
    step.recover = recover
    return step


cdef void _take_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t size = job.wide * 4 + 4, row, sample, outer, i
    for row in range(index * job.each, _last(job, index)):
        sample, outer = row // job.rows, row % job.rows // job.count
        i = _place(job, job.places + sample * job.place_sample + row % job.count * size)
        memcpy(job.y + row * job.inner, job.x + sample * job.x_sample
               + (outer * job.length + i) * job.inner, job.inner)


cdef int _take_step(const void* params, char** at, Py_ssize_t samples, int threads,
                    char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x, job.places, job.y = at[0], at[1], at[2]
    _run(&job, _take_task, samples, job.inner, threads)
    return job.bad


def take_step(Py_ssize_t outer, Py_ssize_t length, Py_ssize_t count, Py_ssize_t inner,
              bint shared_x, bint shared_places, bint wide, recover):
    """Return `numpy.take` along an axis as a step, with operands x, places and y.

    Parameters
    ----------
    outer, length, inner : int
        A sample of x is `outer` times `length` slices of `inner` bytes.
    count : int
        How many are taken of each `length`.
    shared_x, shared_places : bool
        Whether all samples have the same.
    wide : bool
        Whether places are int64, else int32.
    recover : callable
        Called where a place leads out of the axis.
    """
    cdef Job job
    job.rows, job.length, job.count, job.inner = outer * count, length, count, inner
    job.x_sample = 0 if shared_x else outer * length * inner
    job.place_sample = 0 if shared_places else count * (8 if wide else 4)
    job.wide = wide
    return _checked(new_step(_take_step, NULL, &job, sizeof(Job), None), recover)


cdef void _unpool_task(void* ctx, Py_ssize_t sample, int slot) noexcept nogil:
    """Put a sample's numbers to their places, in reading order."""
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t pixel, c, i, at
    cdef const int64_t* places = <const int64_t*>job.places + sample * job.rows * job.inner
    cdef const char* x = job.x + sample * job.rows * job.inner * job.item
    cdef char* y = job.y + sample * job.length * job.inner * job.item
    memset(y, 0, job.length * job.inner * job.item)
    for pixel in range(job.rows):
        for c in range(job.inner):
            at = pixel * job.inner + c
            if not 0 <= places[at] < job.length:
                job.bad = 1
                return
            i = places[at] * job.inner + c
            if job.item == 4:
                (<float*>y)[i] = (<const float*>x)[at]
            else:
                (<double*>y)[i] = (<const double*>x)[at]


cdef int _unpool_step(const void* params, char** at, Py_ssize_t samples, int threads,
                      char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.x, job.places, job.y = at[0], at[1], at[2]
    parallel_for(_unpool_task, &job, samples, threads_for(
        threads, samples, <double>samples * (job.rows + job.length) * job.inner))
    return job.bad


def unpool_step(Py_ssize_t pixels, Py_ssize_t channels, Py_ssize_t places, bint double_, recover):
    """Return max unpooling as a step, with operands x, places (int64) and y.

    All have channels last: x `pixels` pixels, y as many as there are `places`.
    """
    cdef Job job
    job.rows, job.inner, job.length, job.item = pixels, channels, places, 8 if double_ else 4
    return _checked(new_step(_unpool_step, NULL, &job, sizeof(Job), None), recover)


# -- walks along several operands -------------------------------------------------------------

cdef void _choose(Job* job, word* y, const char** at, const Py_ssize_t* step) noexcept nogil:
    """Make a row of y of two others', by a condition; without branches, which would be guessed."""
    cdef Py_ssize_t i
    cdef word mask, a, b
    for i in range(job.inner):
        a = (<const word*>(at[1] + i * step[1]))[0]
        b = (<const word*>(at[2] + i * step[2]))[0]
        mask = <word>-<int64_t>(at[0][i * step[0]] != 0)
        y[i] = b ^ ((a ^ b) & mask)


cdef void _gather(Job* job, word* y, const char** at, const Py_ssize_t* step) noexcept nogil:
    """Make a row of y of elements along an axis of x, `x_row` bytes apart."""
    cdef Py_ssize_t i
    for i in range(job.inner):
        y[i] = (<const word*>(at[1] + i * step[1]
                              + _place(job, at[0] + i * step[0]) * job.x_row))[0]


cdef void _row(Job* job, word* y, const char** at, const Py_ssize_t* step) noexcept nogil:
    if job.count == 3:
        _choose(job, y, at, step)
    else:
        _gather(job, y, at, step)


cdef void _walk_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Make some rows of y, dense, from operands with strides of their own."""
    cdef Job* job = <Job*>ctx
    cdef const char* at[MOST_OPERANDS]
    cdef Py_ssize_t step[MOST_OPERANDS]
    cdef Py_ssize_t row, rest, place
    cdef int axis, i
    cdef char* y
    for row in range(index * job.each, _last(job, index)):
        rest = row
        for i in range(job.count):
            at[i] = job.at[i]
            step[i] = job.stride[i][job.axes]
        for axis in range(job.axes - 1, -1, -1):
            place = rest % job.size[axis] if axis else rest
            rest = rest // job.size[axis]
            for i in range(job.count):
                at[i] += place * job.stride[i][axis]
        y = job.y + row * job.inner * job.item
        if job.item == 1:
            _row[uint8_t](job, <uint8_t*>y, at, step)
        elif job.item == 2:
            _row[uint16_t](job, <uint16_t*>y, at, step)
        elif job.item == 4:
            _row[uint32_t](job, <uint32_t*>y, at, step)
        else:
            _row[uint64_t](job, <uint64_t*>y, at, step)


cdef int _walk_step(const void* params, char** at, Py_ssize_t samples, int threads,
                    char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    cdef int i
    for i in range(job.count):
        job.at[i] = at[i]
    job.y = at[job.count]
    _run(&job, _walk_task, samples, job.inner, threads)
    return job.bad


cdef Step _walk(Job* job, shape, strides, Py_ssize_t item):
    """Return a walk along operands with these strides, the samples' first."""
    cdef int axis, i
    # The last axis is a row; a sample of one axis (or none) has rows of one element.
    sizes = [1, *shape] if shape else [1, 1]
    job.axes = len(sizes) - 1
    if job.axes >= MOST_AXES:
        return None
    job.count, job.item, job.rows, job.inner = len(strides), item, 1, sizes[job.axes]
    for axis in range(job.axes + 1):
        job.size[axis] = sizes[axis]
        if axis < job.axes:
            job.rows *= job.size[axis]
        for i in range(job.count):
            job.stride[i][axis] = strides[i][axis] if axis < len(strides[i]) else 0
    return new_step(_walk_step, NULL, job, sizeof(Job), None)


def where_step(shape, strides, Py_ssize_t item):
    """Return `numpy.where` as a step, with operands condition (bool), a, b and y.

    Parameters
    ----------
    shape : sequence of int
        Of a sample of y, which is dense; none of them 0.
    strides : three sequences of int
        In bytes: from sample to sample, then for each axis of `shape`.
    item : int
        Bytes of an element: 1, 2, 4 or 8.

    Returns
    -------
    Step or None
        None for too many axes.
    """
    cdef Job job
    return _walk(&job, shape, strides, item)


def gather_step(shape, strides, Py_ssize_t item, Py_ssize_t length, Py_ssize_t apart, bint wide,
                recover):
    """Return `numpy.take_along_axis` as a step, with operands places, x and y.

    Parameters
    ----------
    shape, strides, item
        As for `where_step`, of two operands; x's along the axis is 0.
    length, apart : int
        The axis of x: its size, and the bytes from element to element.
    wide, recover
        As for `take_step`.
    """
    cdef Job job
    job.length, job.x_row, job.wide = length, apart, wide
    cdef Step step = _walk(&job, shape, strides, item)
    return None if step is None else _checked(step, recover)
