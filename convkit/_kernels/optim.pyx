"""Updates of parameters: all parameters of a group in one call, in place.

Every parameter is cut into chunks of a fixed number of elements, and the chunks of all
parameters are the tasks of one parallel loop. Arrays of one parameter (itself, gradient,
state) are C-contiguous, of one type and size, in the same order in memory. Every update goes
down along the gradient; with `maximize` it reads the negated gradient, which is made a few
elements at a time and never leaves the cache.
"""

cimport numpy as cnp
from libc.math cimport pow, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc

from convkit._kernels.dispatch cimport table
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

cdef extern from "optim.h" nogil:
    ctypedef struct ck_optim_slice:
        void* param
        const void* grad
        void* state[3]
        ptrdiff_t count
    ctypedef struct ck_sgd_settings:
        double lr, momentum, dampening, weight_decay
        int nesterov, fresh
    ctypedef struct ck_adam_settings:
        double step_size, root_correction, beta1, beta2, eps, weight_decay, shrink
    ctypedef struct ck_adagrad_settings:
        double lr, eps, weight_decay
    ctypedef struct ck_adadelta_settings:
        double lr, rho, eps, weight_decay
    ctypedef struct ck_rmsprop_settings:
        double lr, alpha, eps, weight_decay, momentum
    ctypedef union ck_optim_settings:
        ck_sgd_settings sgd
        ck_adam_settings adam
        ck_adagrad_settings adagrad
        ck_adadelta_settings adadelta
        ck_rmsprop_settings rmsprop
        double scale
    ctypedef void (*ck_optim_fn)(const ck_optim_slice*, const ck_optim_settings*) noexcept nogil
    ctypedef struct ck_optim_table:
        ck_optim_fn sgd[2]
        ck_optim_fn adam[2]
        ck_optim_fn adagrad[2]
        ck_optim_fn adadelta[2]
        ck_optim_fn rmsprop[2]
        ck_optim_fn squares[2]
        ck_optim_fn scale[2]

cdef Py_ssize_t CHUNK = 16384
cdef enum:
    NEGATED = 1024  # elements of a gradient that are negated at a time


cdef struct Job:
    # One parameter; its chunks are tasks first .. first of the next job.
    ck_optim_slice whole
    ck_optim_settings settings
    Py_ssize_t first, itemsize


cdef struct Call:
    Job* jobs
    Py_ssize_t count
    const ck_optim_fn* update  # for float and for double
    double* partial  # one number for each chunk, where the update makes one
    bint maximize  # whether the gradient is negated first


cdef ck_optim_slice _part(const ck_optim_slice* whole, Py_ssize_t first, Py_ssize_t most,
                          Py_ssize_t itemsize) noexcept nogil:
    """Return at most `most` elements of a slice from the element `first` on."""
    cdef ck_optim_slice part
    cdef Py_ssize_t start = first * itemsize
    cdef int i
    part.count = min(most, whole.count - first)
    part.param = <char*>whole.param + start
    part.grad = <const char*>whole.grad + start if whole.grad else NULL
    for i in range(3):
        part.state[i] = <char*>whole.state[i] + start if whole.state[i] else NULL
    return part


cdef void _negate(const void* source, void* target, Py_ssize_t count,
                  Py_ssize_t itemsize) noexcept nogil:
    """Write the negated numbers of `source` to `target`."""
    cdef Py_ssize_t i
    if itemsize == 8:
        for i in range(count):
            (<double*>target)[i] = -(<const double*>source)[i]
    else:
        for i in range(count):
            (<float*>target)[i] = -(<const float*>source)[i]


cdef void _climb(ck_optim_fn update, const ck_optim_slice* whole,
                 const ck_optim_settings* settings, Py_ssize_t itemsize) noexcept nogil:
    """Update one chunk with its gradient negated."""
    cdef double negated[NEGATED]
    cdef ck_optim_slice part
    cdef Py_ssize_t first = 0
    while first < whole.count:
        part = _part(whole, first, NEGATED, itemsize)
        _negate(part.grad, negated, part.count, itemsize)
        part.grad = negated
        update(&part, settings)
        first += NEGATED


cdef void _chunk(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Update one chunk of one parameter."""
    cdef Call* call = <Call*>ctx
    cdef Py_ssize_t low = 0, high = call.count, middle
    while high - low > 1:
        middle = (low + high) // 2
        if call.jobs[middle].first <= index:
            low = middle
        else:
            high = middle
    cdef Job* job = &call.jobs[low]
    cdef ck_optim_slice part = _part(&job.whole, (index - job.first) * CHUNK, CHUNK, job.itemsize)
    cdef ck_optim_fn update = call.update[job.itemsize == 8]
    if call.maximize:
        _climb(update, &part, &job.settings, job.itemsize)
        return
    if call.partial != NULL:
        call.partial[index] = 0
        part.state[0] = call.partial + index
    update(&part, &job.settings)


cdef void* _data(cnp.ndarray array, cnp.ndarray param, bint write) except NULL:
    """Return an array's memory after checking that it fits the parameter."""
    if not (cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ISALIGNED(array)
            and cnp.PyArray_ISNOTSWAPPED(array)) or (write and not cnp.PyArray_ISWRITEABLE(array)):
        raise ValueError("expected aligned, writable arrays without gaps")
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(param) \
            or cnp.PyArray_SIZE(array) != cnp.PyArray_SIZE(param):
        raise ValueError(f"expected {param.size} elements of {param.dtype}, got {array.size} of "
                         f"{array.dtype}")
    return cnp.PyArray_DATA(array)


cdef int _describe(Job* job, tuple arrays) except -1:
    """Fill in one parameter's memory from (param, grad, state...)."""
    cdef cnp.ndarray param = arrays[0]
    cdef int i
    if cnp.PyArray_TYPE(param) not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) or len(arrays) > 5:
        raise ValueError(f"expected parameters of float32 or float64, got {param.dtype}")
    job.whole.param = _data(param, param, True)
    job.whole.grad = _data(arrays[1], param, False) if len(arrays) > 1 else NULL
    for i in range(3):
        job.whole.state[i] = NULL
        if i + 2 < len(arrays) and arrays[i + 2] is not None:
            job.whole.state[i] = _data(arrays[i + 2], param, True)
    job.whole.count = cnp.PyArray_SIZE(param)
    job.itemsize = cnp.PyArray_ITEMSIZE(param)
    return 0


cdef _run(Call* call, int threads):
    """Number the chunks of all parameters and update them."""
    cdef Py_ssize_t i, tasks = 0
    cdef double work = 0
    for i in range(call.count):
        call.jobs[i].first = tasks
        tasks += (call.jobs[i].whole.count + CHUNK - 1) // CHUNK
        work += <double>call.jobs[i].whole.count * call.jobs[i].itemsize
    with nogil:
        parallel_for(_chunk, call, tasks, threads_for(threads, tasks, work))


cdef Call _call(list arrays, const ck_optim_fn* update, bint maximize=False) except *:
    """Return a call with a job for each parameter, still to be described."""
    cdef Call call
    call.count = len(arrays)
    call.jobs = _jobs(call.count)
    call.update = update
    call.partial = NULL
    call.maximize = maximize
    return call


cdef const ck_optim_table* _updates() noexcept nogil:
    return <const ck_optim_table*>table().optim


cdef int _need_states(const Job* job, int count) except -1:
    """Raise ValueError unless the first `count` arrays of state are there."""
    cdef int i
    for i in range(count):
        if job.whole.state[i] == NULL:
            raise ValueError(f"expected {count} arrays of state")
    return 0


cdef Job* _jobs(Py_ssize_t count) except NULL:
    cdef Job* jobs = <Job*>malloc(<size_t>max(count, 1) * sizeof(Job))
    if jobs == NULL:
        raise MemoryError()
    return jobs


def sgd(list arrays, list fresh, double lr, double momentum, double dampening,
        double weight_decay, bint nesterov, bint maximize, int threads):
    """Take a step of gradient descent.

    `arrays` has (param, grad, momentum buffer or None) for each parameter, `fresh` whether
    its buffer is still to be filled.
    """
    cdef Call call = _call(arrays, &_updates().sgd[0], maximize)
    cdef Py_ssize_t i
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            call.jobs[i].settings.sgd = ck_sgd_settings(lr, momentum, dampening, weight_decay,
                                                        nesterov, fresh[i])
        _run(&call, threads)
    finally:
        free(call.jobs)


def adam(list arrays, list steps, double lr, double beta1, double beta2, double eps,
         double weight_decay, bint decoupled, bint maximize, int threads):
    """Take a step of Adam, or of AdamW where weight decay is `decoupled`.

    `arrays` has (param, grad, mean, mean square, largest mean square or None) for each
    parameter, `steps` the number of its step, from 1.
    """
    cdef Call call = _call(arrays, &_updates().adam[0], maximize)
    cdef Py_ssize_t i
    cdef double step
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            _need_states(&call.jobs[i], 2)
            step = steps[i]
            call.jobs[i].settings.adam = ck_adam_settings(
                lr / (1 - pow(beta1, step)), sqrt(1 - pow(beta2, step)), beta1, beta2, eps,
                0.0 if decoupled else weight_decay, 1 - lr * weight_decay if decoupled else 1.0)
        _run(&call, threads)
    finally:
        free(call.jobs)


def adagrad(list arrays, list rates, double eps, double weight_decay, bint maximize,
            int threads):
    """Take a step of Adagrad.

    `arrays` has (param, grad, sum of squares) for each parameter, `rates` its rate.
    """
    cdef Call call = _call(arrays, &_updates().adagrad[0], maximize)
    cdef Py_ssize_t i
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            _need_states(&call.jobs[i], 1)
            call.jobs[i].settings.adagrad = ck_adagrad_settings(rates[i], eps, weight_decay)
        _run(&call, threads)
    finally:
        free(call.jobs)


def adadelta(list arrays, double lr, double rho, double eps, double weight_decay, bint maximize,
             int threads):
    """Take a step of Adadelta.

    `arrays` has (param, grad, mean square, mean square of updates) for each parameter.
    """
    cdef Call call = _call(arrays, &_updates().adadelta[0], maximize)
    cdef Py_ssize_t i
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            _need_states(&call.jobs[i], 2)
            call.jobs[i].settings.adadelta = ck_adadelta_settings(lr, rho, eps, weight_decay)
        _run(&call, threads)
    finally:
        free(call.jobs)


def rmsprop(list arrays, double lr, double alpha, double eps, double weight_decay,
            double momentum, bint maximize, int threads):
    """Take a step of RMSprop.

    `arrays` has (param, grad, mean square, momentum buffer or None, mean or None) for each
    parameter.
    """
    cdef Call call = _call(arrays, &_updates().rmsprop[0], maximize)
    cdef Py_ssize_t i
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            _need_states(&call.jobs[i], 1)
            call.jobs[i].settings.rmsprop = ck_rmsprop_settings(lr, alpha, eps, weight_decay,
                                                                momentum)
        _run(&call, threads)
    finally:
        free(call.jobs)


def scale(list arrays, double factor, int threads):
    """Multiply every element of all arrays, each given as (array,), by `factor`."""
    cdef Call call = _call(arrays, &_updates().scale[0])
    cdef Py_ssize_t i
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            call.jobs[i].settings.scale = factor
        _run(&call, threads)
    finally:
        free(call.jobs)


def sum_of_squares(list arrays, int threads):
    """Return the sum of the squares of all elements of all arrays, each given as (array,).

    Every chunk is summed in double, and the chunks' sums are added in their order.
    """
    cdef Call call = _call(arrays, &_updates().squares[0])
    cdef Py_ssize_t i, chunks = 0
    cdef double total = 0
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            chunks += (call.jobs[i].whole.count + CHUNK - 1) // CHUNK
        call.partial = <double*>malloc(<size_t>max(chunks, 1) * sizeof(double))
        if call.partial == NULL:
            raise MemoryError()
        _run(&call, threads)
        for i in range(chunks):
            total += call.partial[i]
    finally:
        free(call.jobs)
        free(call.partial)
    return total
