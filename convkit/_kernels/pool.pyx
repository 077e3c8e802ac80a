"""Max pooling over channels-last arrays (N, H, W, C)."""

import numpy as np
cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint8_t

from convkit._kernels.axis cimport Axis, ck_axis, rows_per_task
from convkit._kernels.dispatch cimport table
from convkit._kernels.runner cimport launch, new_step
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

cdef extern from "pool.h" nogil:
    ctypedef struct ck_pool_args:
        const ck_axis* h
        const ck_axis* w
        Py_ssize_t channels
        int32_t window_w
        int wide
    ctypedef struct ck_pool_kernels:
        void (*max_forward)(const ck_pool_args*, const void* x, void* y, void* index,
                            Py_ssize_t row0, Py_ssize_t row1) noexcept nogil
        void (*max_backward)(const ck_pool_args*, const void* gy, const void* index, void* gx,
                             Py_ssize_t row0, Py_ssize_t row1) noexcept nogil
    ctypedef struct ck_pool_table:
        ck_pool_kernels f32, f64

cdef extern from "tile.h" nogil:
    ctypedef struct ck_tile_table:
        ck_pool_kernels pool

# One call. Sizes of a sample are in bytes; a task is a block of rows of the targets.
cdef struct Job:
    ck_pool_args args
    const ck_pool_kernels* kernels
    const char* source
    char* target
    char* index
    Py_ssize_t source_bytes, target_bytes, index_bytes
    Py_ssize_t rows, rows_per_task, tasks_per_sample
    double work                 # of a sample


cdef void _run_forward(void* ctx, Py_ssize_t task, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t n = task // job.tasks_per_sample
    cdef Py_ssize_t row = (task % job.tasks_per_sample) * job.rows_per_task
    cdef char* index = NULL if job.index == NULL else job.index + n * job.index_bytes
    job.kernels.max_forward(&job.args, job.source + n * job.source_bytes,
                            job.target + n * job.target_bytes, index,
                            row, min(row + job.rows_per_task, job.rows))


cdef void _run_backward(void* ctx, Py_ssize_t task, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t n = task // job.tasks_per_sample
    cdef Py_ssize_t row = (task % job.tasks_per_sample) * job.rows_per_task
    job.kernels.max_backward(&job.args, job.source + n * job.source_bytes,
                             job.index + n * job.index_bytes, job.target + n * job.target_bytes,
                             row, min(row + job.rows_per_task, job.rows))


cdef int _describe(Job* job, Py_ssize_t channels, Py_ssize_t item, Axis h, Axis w,
                   Py_ssize_t window_w) except -1:
    """Fill in what does not depend on the call."""
    cdef const ck_pool_table* family = <const ck_pool_table*>table().pool
    cdef const ck_tile_table* tile = <const ck_tile_table*>table().tile
    cdef Py_ssize_t row_bytes
    if not (h.has_taps and w.has_taps):
        raise ValueError("max pooling needs axes with taps")
    job.args.h = &h.lists
    job.args.w = &w.lists
    job.args.channels = channels
    job.args.window_w = <int32_t>window_w
    if item == 2 and tile == NULL:
        raise RuntimeError("expected an instruction set that pools bfloat16")
    job.kernels = &family.f32 if item == 4 else &family.f64 if item == 8 else &tile.pool
    job.index = NULL
    job.source_bytes = h.sources * w.sources * channels * item
    job.target_bytes = h.targets * w.targets * channels * item
    job.rows = h.targets
    row_bytes = (job.source_bytes + job.target_bytes) // job.rows
    job.rows_per_task = rows_per_task(job.rows, row_bytes)
    job.tasks_per_sample = (job.rows + job.rows_per_task - 1) // job.rows_per_task
    job.work = <double>h.entries * w.entries * channels * item
    return 0


cdef void _run_tasks(Job* job, bint forward, Py_ssize_t samples, int threads) noexcept nogil:
    cdef Py_ssize_t tasks = samples * job.tasks_per_sample
    parallel_for(_run_forward if forward else _run_backward, job, tasks,
                 threads_for(threads, tasks, samples * job.work))


cdef _run(bint forward, cnp.ndarray source, cnp.ndarray target, index, Axis h, Axis w,
          Py_ssize_t window_w, int threads):
    """Run either direction on arrays."""
    cdef Job job
    cdef Py_ssize_t samples = target.shape[0]
    if source.size == 0 or target.size == 0:
        target.fill(0)
        return
    _describe(&job, target.shape[3], target.itemsize, h, w, window_w)
    job.source = <const char*>cnp.PyArray_DATA(source)
    job.target = <char*>cnp.PyArray_DATA(target)
    if index is not None:
        job.index = <char*>cnp.PyArray_DATA(<cnp.ndarray>index)
        job.args.wide = index.itemsize == sizeof(int32_t)
        job.index_bytes = (h.targets * w.targets if forward else h.sources * w.sources) \
            * target.shape[3] * index.itemsize
    with nogil:
        _run_tasks(&job, forward, samples, threads)


cdef int _max_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    job.source = at[0]
    job.target = at[1]
    if job.index_bytes:
        job.index = at[2]
    _run_tasks(&job, True, samples, threads)
    return 0


def max_step(Py_ssize_t channels, Py_ssize_t item, Axis h not None, Axis w not None,
             Py_ssize_t window_w, Py_ssize_t index_item=0):
    """Return `max_forward` as a step of a Program, with operands x, y and index.

    `item` is the bytes of a value: 4 or 8 for floats, 2 for bfloat16.
    `index_item` is the bytes of a number of the index; 0 where there is none.
    """
    cdef Job job
    _describe(&job, channels, item, h, w, window_w)
    job.args.wide = index_item == sizeof(int32_t)
    job.index_bytes = h.targets * w.targets * channels * index_item
    return new_step(_max_step, NULL, &job, sizeof(Job), (h, w))


def index_dtype(Py_ssize_t window_h, Py_ssize_t window_w):
    """Return the dtype in which a window's taps are counted: uint8 where they fit."""
    return np.uint8 if window_h * window_w <= 256 else np.int32


def max_forward(cnp.ndarray x not None, cnp.ndarray y not None, index, Axis h not None,
                Axis w not None, Py_ssize_t window_w, int threads):
    """Write to `y` the largest tap of every window, and to `index` (or None) its number.

    All arrays are C-contiguous, (N, H, W, C) and of the sizes of the axes. `x` and `y` are both of
    float32, float64 or, where the CPU has tiles, bfloat16 (uint16); `index` has `index_dtype`.
    Sizes are the caller's to check.
    """
    _run(True, x, y, index, h, w, window_w, threads)


def max_backward(cnp.ndarray gy not None, cnp.ndarray index not None, cnp.ndarray gx not None,
                 Axis h not None, Axis w not None, Py_ssize_t window_w, int threads):
    """Write to `gx` the sum of the gradients of the windows that took each input.

    `h` and `w` are the axes of the forward call; they are transposed here. Types are as for
    `max_forward`; gradients of bfloat16 are summed in float32 and rounded once.
    """
    _run(False, gy, gx, index, h.transposed(), w.transposed(), window_w, threads)


cdef struct FlatJob:
    const char* index
    int64_t* flat
    const int64_t* corner_h
    const int64_t* corner_w
    const int64_t* offset
    const ck_axis* h
    const ck_axis* w
    Py_ssize_t channels
    bint wide                   # whether the index is of words, not of bytes


cdef void _run_flat(void* ctx, Py_ssize_t task, int slot) noexcept nogil:
    cdef FlatJob* job = <FlatJob*>ctx
    cdef Py_ssize_t at = task * job.w.targets * job.channels
    cdef Py_ssize_t row = task % job.h.targets
    cdef Py_ssize_t q, c, tap
    cdef int64_t corner
    cdef bint nothing
    for q in range(job.w.targets):
        corner = job.corner_h[row] + job.corner_w[q]
        nothing = job.h.begin[row] == job.h.begin[row + 1] or job.w.begin[q] == job.w.begin[q + 1]
        for c in range(job.channels):
            tap = (<const int32_t*>job.index)[at] if job.wide else (<const uint8_t*>job.index)[at]
            job.flat[at] = -1 if nothing else corner + job.offset[tap]
            at += 1


def flat_indices(cnp.ndarray index not None, cnp.ndarray flat not None, Axis h not None,
                 Axis w not None, cnp.ndarray corner_h not None, cnp.ndarray corner_w not None,
                 cnp.ndarray offset not None, int threads):
    """Write to `flat` (int64) each output's place in the input's H * W.

    The place is ``corner_h[row] + corner_w[column] + offset[tap]``, all three int64, or -1
    where no tap of the window lies in the input.
    """
    cdef FlatJob job
    cdef char* at[2]
    if index.size == 0:
        return
    _describe_flat(&job, index.shape[3], index.itemsize, h, w, corner_h, corner_w, offset)
    at[0], at[1] = <char*>cnp.PyArray_DATA(index), <char*>cnp.PyArray_DATA(flat)
    launch(_flat_step, NULL, &job, at, index.shape[0], threads)


cdef void _describe_flat(FlatJob* job, Py_ssize_t channels, Py_ssize_t item, Axis h, Axis w,
                         cnp.ndarray corner_h, cnp.ndarray corner_w, cnp.ndarray offset):
    """Fill in what does not depend on the call."""
    job.corner_h = <const int64_t*>cnp.PyArray_DATA(corner_h)
    job.corner_w = <const int64_t*>cnp.PyArray_DATA(corner_w)
    job.offset = <const int64_t*>cnp.PyArray_DATA(offset)
    job.h = &h.lists
    job.w = &w.lists
    job.channels = channels
    job.wide = item == sizeof(int32_t)


cdef int _flat_step(const void* params, char** at, Py_ssize_t samples, int threads,
                    char* scratch) noexcept nogil:
    cdef FlatJob job = (<const FlatJob*>params)[0]
    cdef Py_ssize_t tasks = samples * job.h.targets
    job.index = at[0]
    job.flat = <int64_t*>at[1]
    parallel_for(_run_flat, &job, tasks, threads_for(
        threads, tasks, <double>tasks * job.w.targets * job.channels * 8))
    return 0


def flat_step(Py_ssize_t channels, Py_ssize_t item, Axis h not None, Axis w not None,
              cnp.ndarray corner_h not None, cnp.ndarray corner_w not None,
              cnp.ndarray offset not None):
    """Return `flat_indices` as a step of a Program, with operands index (of `item` bytes), flat."""
    cdef FlatJob job
    _describe_flat(&job, channels, item, h, w, corner_h, corner_w, offset)
    return new_step(_flat_step, NULL, &job, sizeof(FlatJob), (h, w, corner_h, corner_w, offset))
