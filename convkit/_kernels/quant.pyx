"""Steps on quantised arrays: conversions and additions, look-up tables, max and mean pooling.

All take activations in memory order; all give the same bits on every instruction set.
"""

import numpy as np
cimport numpy as cnp
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from convkit._kernels cimport dispatch
from convkit._kernels.axis cimport Axis, ck_axis, rows_per_task
from convkit._kernels.int8 cimport (CK_INT8_BYTES, CK_INT8_FLOAT, CK_INT8_NONE, Finish,
                                    ck_int8_finish, number_bytes)
from convkit._kernels.runner cimport launch, new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

cdef extern from "quant.h" nogil:
    ctypedef struct ck_quant_args:
        int number, zero, flip
        float scale
        int divide
        ck_int8_finish finish
    ctypedef struct ck_quant_pool:
        const ck_axis* h
        const ck_axis* w
        Py_ssize_t channels
        int flip, zero
        const float* h_part
        const float* w_part
        ck_int8_finish finish
    ctypedef struct ck_quant_table:
        void (*convert)(const ck_quant_args*, const char* a, const char* b, char* y,
                        Py_ssize_t n) noexcept nogil
        void (*look_up)(const uint8_t* table, const uint8_t* x, uint8_t* y,
                        Py_ssize_t n) noexcept nogil
        void (*max_pool)(const ck_quant_pool*, const uint8_t* x, uint8_t* y, Py_ssize_t row0,
                         Py_ssize_t row1) noexcept nogil
        void (*mean_pool)(const ck_quant_pool*, const uint8_t* x, char* y, Py_ssize_t row0,
                          Py_ssize_t row1) noexcept nogil

# Numbers that one task takes.
cdef Py_ssize_t TASK = 1 << 15


cdef const ck_quant_table* _table() noexcept nogil:
    return <const ck_quant_table*>dispatch.table().quant


cdef int _flip(bint signed) noexcept nogil:
    return 0x80 if signed else 0


cdef char* _data(cnp.ndarray x, Py_ssize_t size, Py_ssize_t item) except? NULL:
    """Return the data of a C-contiguous array of so many numbers of so many bytes."""
    if (not cnp.PyArray_IS_C_CONTIGUOUS(x) or not cnp.PyArray_ISBEHAVED_RO(x)
            or cnp.PyArray_SIZE(x) != size or cnp.PyArray_ITEMSIZE(x) != item):
        raise ValueError(f"kernel called with {cnp.PyArray_SIZE(x)} numbers of {x.dtype}, expected "
                         f"{size} of {item} bytes, contiguous in memory")
    return <char*>cnp.PyArray_DATA(x)


# -- number by number -----------------------------------------------------------------------


cdef struct Map:
    ck_quant_args args
    uint8_t table[256]
    bint looks_up
    Py_ssize_t a_item, b_item, y_item
    Py_ssize_t each                # numbers of a sample
    Py_ssize_t count
    const char* a
    const char* b
    char* y


cdef void _map_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef Map* job = <Map*>ctx
    cdef Py_ssize_t first = index * TASK, n = min(TASK, job.count - first)
    if job.looks_up:
        _table().look_up(job.table, <const uint8_t*>job.a + first, <uint8_t*>job.y + first, n)
    else:
        _table().convert(&job.args, job.a + first * job.a_item,
                         job.b + first * job.b_item if job.b != NULL else NULL,
                         job.y + first * job.y_item, n)


cdef int _run_map(const void* params, char** at, Py_ssize_t samples, int threads,
                  char* scratch) noexcept nogil:
    cdef Map job = (<const Map*>params)[0]
    cdef Py_ssize_t tasks
    job.a, job.b, job.y = at[0], at[1], at[2]
    job.count = samples * job.each
    tasks = (job.count + TASK - 1) // TASK
    parallel_for(_map_task, &job, tasks, threads_for(threads, tasks, <double>job.count * 2))
    return 0


cdef class Convert:
    """Numbers to others, with a second array added where the finish says so.

    Parameters
    ----------
    source : {"float32", "uint8", "int8"}
    finish : Finish
    scale, zero
        Of the first array: its scale in steps of the result, and its zero point.
    divide : bool
        Whether the first array is divided by `scale` instead; NaN then becomes the byte 0.
    """

    cdef Map job

    def __init__(self, source, Finish finish, float scale=1, int zero=0, bint divide=False):
        self.job.looks_up = False
        self.job.args.number = CK_INT8_FLOAT if source == "float32" else CK_INT8_BYTES
        self.job.args.flip = _flip(source == "int8")
        self.job.args.zero = zero + self.job.args.flip
        self.job.args.scale = scale
        self.job.args.divide = divide
        self.job.args.finish = finish.form
        self.job.a_item = number_bytes(self.job.args.number)
        self.job.b_item = number_bytes(finish.form.residual)
        self.job.y_item = number_bytes(finish.form.result)

    def run(self, a, b, y, int threads=1):
        """Compute y from a and b (or None), all of one shape and C-contiguous."""
        cdef char* at[3]
        if (b is None) != (self.job.args.finish.residual == CK_INT8_NONE):
            raise ValueError("expected a second array where the finish adds one")
        self.job.each = a.size
        at[0] = _data(a, a.size, self.job.a_item)
        at[1] = NULL if b is None else _data(b, a.size, self.job.b_item)
        at[2] = _data(y, a.size, self.job.y_item)
        cdef Map job = self.job
        launch(_run_map, NULL, &job, at, 1, threads)

    def step(self, Py_ssize_t each):
        """Return the same as a step of a Program on samples of `each` numbers: a, b, y."""
        cdef Map job = self.job
        job.each = each
        return new_step(_run_map, NULL, &job, sizeof(Map), None)


cdef class LookUp:
    """Bytes to bytes by a table of 256."""

    cdef Map job

    def __init__(self, cnp.ndarray table not None):
        memcpy(self.job.table, _data(table, 256, 1), 256)
        self.job.looks_up = True

    def run(self, x, y, int threads=1):
        """Compute y, of the shape of x; both C-contiguous."""
        cdef char* at[3]
        cdef Map job = self.job
        job.each = x.size
        at[0] = _data(x, x.size, 1)
        at[1] = NULL
        at[2] = _data(y, x.size, 1)
        launch(_run_map, NULL, &job, at, 1, threads)

    def step(self, Py_ssize_t each):
        """Return the same as a step of a Program on samples of `each` numbers: x, none, y."""
        cdef Map job = self.job
        job.each = each
        return new_step(_run_map, NULL, &job, sizeof(Map), None)


# -- pooling --------------------------------------------------------------------------------


cdef struct PoolJob:
    ck_quant_pool args
    bint mean
    const char* x
    char* y
    Py_ssize_t x_bytes, y_bytes, rows, rows_per_task, tasks_per_sample
    double work                    # of a sample


cdef void _pool_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    cdef PoolJob* job = <PoolJob*>ctx
    cdef Py_ssize_t sample = index // job.tasks_per_sample
    cdef Py_ssize_t first = index % job.tasks_per_sample * job.rows_per_task
    cdef Py_ssize_t last = min(first + job.rows_per_task, job.rows)
    cdef const uint8_t* x = <const uint8_t*>job.x + sample * job.x_bytes
    if job.mean:
        _table().mean_pool(&job.args, x, job.y + sample * job.y_bytes, first, last)
    else:
        _table().max_pool(&job.args, x, <uint8_t*>job.y + sample * job.y_bytes, first, last)


cdef int _run_pool(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef PoolJob job = (<const PoolJob*>params)[0]
    cdef Py_ssize_t tasks = samples * job.tasks_per_sample
    job.x, job.y = at[0], at[1]
    parallel_for(_pool_task, &job, tasks, threads_for(threads, tasks, samples * job.work / 8))
    return 0


cdef class Pool:
    """Pooling of bytes (N, H, W, C) along two axes.

    Parameters
    ----------
    h, w : Axis
        Which rows and columns each output is made of.
    channels : int
    signed : bool
        Whether the input is int8 rather than uint8.
    finish : Finish, optional
        For the mean: how it ends. Without it, the largest value.
    zero : int
        The input's zero point.
    h_part, w_part : ndarray of float32, optional
        For the mean: the product of the two is what each output's sum is multiplied by.
    """

    cdef PoolJob job
    cdef readonly object kept

    def __init__(self, Axis h not None, Axis w not None, Py_ssize_t channels, bint signed=False,
                 Finish finish=None, int zero=0, h_part=None, w_part=None):
        cdef PoolJob* job = &self.job
        job.args.h, job.args.w = &h.lists, &w.lists
        job.args.channels = channels
        job.args.flip = _flip(signed)
        job.args.zero = zero + job.args.flip
        job.mean = finish is not None
        job.rows = h.targets
        job.x_bytes = h.sources * w.sources * channels
        job.y_bytes = h.targets * w.targets * channels
        if job.mean:
            job.args.finish = finish.form
            job.args.h_part = <const float*>_data(h_part, h.targets, 4)
            job.args.w_part = <const float*>_data(w_part, w.targets, 4)
            job.y_bytes *= number_bytes(finish.form.result)
        job.rows_per_task = rows_per_task(job.rows, (job.x_bytes + job.y_bytes)
                                          / max(<Py_ssize_t>1, job.rows))
        job.tasks_per_sample = (job.rows + job.rows_per_task - 1) // max(
            <Py_ssize_t>1, job.rows_per_task)
        job.work = <double>h.entries * w.entries * channels
        self.kept = h, w, h_part, w_part

    def run(self, x, y, int threads=1):
        """Compute y (N, H', W', C) from x (N, H, W, C), both C-contiguous."""
        cdef char* at[2]
        cdef PoolJob job = self.job
        cdef Py_ssize_t samples = x.shape[0]
        at[0] = _data(x, samples * job.x_bytes, 1)
        if y.nbytes != samples * job.y_bytes:
            raise ValueError(f"kernel called with a result of shape {y.shape}")
        at[1] = _data(y, y.size, y.itemsize)
        if y.size:
            launch(_run_pool, NULL, &job, at, samples, threads)

    def step(self):
        """Return the same as a step of a Program, with operands x and y."""
        cdef PoolJob job = self.job
        return new_step(_run_pool, NULL, &job, sizeof(PoolJob), self)
