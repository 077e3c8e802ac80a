"""Updates of parameters: all parameters of a group in one call, in place.

Every parameter is cut into chunks of a fixed number of elements, and the chunks of all
parameters are the tasks of one parallel loop. Arrays of one parameter (itself, gradient,
state) are C-contiguous, of one type and size, in the same order in memory.
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
    ctypedef struct ck_optim_kernels:
        void (*sgd)(const ck_optim_slice*, const ck_sgd_settings*) noexcept nogil
        void (*adam)(const ck_optim_slice*, const ck_adam_settings*) noexcept nogil
    ctypedef struct ck_optim_table:
        ck_optim_kernels f32, f64

cdef Py_ssize_t CHUNK = 16384


cdef struct Job:
    # One parameter; its chunks are tasks first .. first of the next job.
    ck_optim_slice whole
    ck_sgd_settings sgd
    ck_adam_settings adam
    Py_ssize_t first, itemsize


cdef struct Call:
    Job* jobs
    Py_ssize_t count
    bint is_adam


cdef void _chunk(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Update one chunk of one parameter."""
    cdef Call* call = <Call*>ctx
    cdef Py_ssize_t low = 0, high = call.count, middle, start
    while high - low > 1:
        middle = (low + high) // 2
        if call.jobs[middle].first <= index:
            low = middle
        else:
            high = middle
    cdef Job* job = &call.jobs[low]
    cdef ck_optim_slice part
    cdef const ck_optim_table* optim = <const ck_optim_table*>table().optim
    cdef const ck_optim_kernels* kernels = &optim.f32 if job.itemsize == 4 else &optim.f64
    cdef int i
    start = (index - job.first) * CHUNK
    part.count = min(CHUNK, job.whole.count - start)
    start *= job.itemsize
    part.param = <char*>job.whole.param + start
    part.grad = <const char*>job.whole.grad + start
    for i in range(3):
        part.state[i] = <char*>job.whole.state[i] + start if job.whole.state[i] else NULL
    if call.is_adam:
        kernels.adam(&part, &job.adam)
    else:
        kernels.sgd(&part, &job.sgd)


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
    job.whole.grad = _data(arrays[1], param, False)
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


cdef Job* _jobs(Py_ssize_t count) except NULL:
    cdef Job* jobs = <Job*>malloc(<size_t>max(count, 1) * sizeof(Job))
    if jobs == NULL:
        raise MemoryError()
    return jobs


def sgd(list arrays, list fresh, double lr, double momentum, double dampening,
        double weight_decay, bint nesterov, int threads):
    """Take a step of gradient descent.

    `arrays` has (param, grad, momentum buffer or None) for each parameter, `fresh` whether
    its buffer is still to be filled.
    """
    cdef Call call = Call(_jobs(len(arrays)), len(arrays), False)
    cdef Py_ssize_t i
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            call.jobs[i].sgd = ck_sgd_settings(lr, momentum, dampening, weight_decay, nesterov,
                                               fresh[i])
        _run(&call, threads)
    finally:
        free(call.jobs)


def adam(list arrays, list steps, double lr, double beta1, double beta2, double eps,
         double weight_decay, bint decoupled, int threads):
    """Take a step of Adam, or of AdamW where weight decay is `decoupled`.

    `arrays` has (param, grad, mean, mean square, largest mean square or None) for each
    parameter, `steps` the number of its step, from 1.
    """
    cdef Call call = Call(_jobs(len(arrays)), len(arrays), True)
    cdef Py_ssize_t i
    cdef double step
    try:
        for i in range(call.count):
            _describe(&call.jobs[i], arrays[i])
            if call.jobs[i].whole.state[0] == NULL or call.jobs[i].whole.state[1] == NULL:
                raise ValueError("expected the two running means")
            step = steps[i]
            call.jobs[i].adam = ck_adam_settings(
                lr / (1 - pow(beta1, step)), sqrt(1 - pow(beta2, step)), beta1, beta2, eps,
                0.0 if decoupled else weight_decay, 1 - lr * weight_decay if decoupled else 1.0)
        _run(&call, threads)
    finally:
        free(call.jobs)
