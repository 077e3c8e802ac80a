"""Separable linear maps over channels-last arrays (N, H, W, C): averages, interpolation, pads."""

cimport numpy as cnp

from convkit._kernels.axis cimport Axis, ck_axis, rows_per_task
from convkit._kernels.dispatch cimport table
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

cdef extern from "resample.h" nogil:
    ctypedef struct ck_resample_args:
        const ck_axis* h
        const ck_axis* w
        Py_ssize_t channels
        double fill
    ctypedef void (*ck_resample_fn)(const ck_resample_args*, const void* x, void* y,
                                    Py_ssize_t row0, Py_ssize_t row1) noexcept nogil
    ctypedef struct ck_resample_kernels:
        ck_resample_fn gather
        ck_resample_fn copy
    ctypedef struct ck_resample_table:
        ck_resample_kernels f32, f64

# One call. Sizes of a sample are in bytes; a task is a block of rows of the targets.
cdef struct Job:
    ck_resample_args args
    ck_resample_fn kernel
    const char* source
    char* target
    Py_ssize_t source_bytes, target_bytes
    Py_ssize_t rows, rows_per_task, tasks_per_sample


cdef void _run_task(void* ctx, Py_ssize_t task, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t n = task // job.tasks_per_sample
    cdef Py_ssize_t row = (task % job.tasks_per_sample) * job.rows_per_task
    job.kernel(&job.args, job.source + n * job.source_bytes, job.target + n * job.target_bytes,
               row, min(row + job.rows_per_task, job.rows))


cdef _run(bint copy, cnp.ndarray x, cnp.ndarray y, Axis h, Axis w, double fill, int threads):
    """Cut the rows of the targets into tasks and run them."""
    cdef Job job
    cdef Py_ssize_t samples = y.shape[0], channels = y.shape[3], item = y.itemsize
    cdef Py_ssize_t row_bytes
    cdef double work
    cdef const ck_resample_table* family
    cdef const ck_resample_kernels* kernels
    if not (copy or (h.has_weights and w.has_weights)):
        raise ValueError("a weighted gather needs axes with weights")
    if y.size == 0:
        return
    if x.size == 0:
        y.fill(fill)
        return
    family = <const ck_resample_table*>table().resample
    kernels = &family.f32 if item == 4 else &family.f64
    job.kernel = kernels.copy if copy else kernels.gather
    job.args.h = &h.lists
    job.args.w = &w.lists
    job.args.channels = channels
    job.args.fill = fill
    job.source = <const char*>cnp.PyArray_DATA(x)
    job.target = <char*>cnp.PyArray_DATA(y)
    job.source_bytes = h.sources * w.sources * channels * item
    job.target_bytes = h.targets * w.targets * channels * item
    job.rows = h.targets
    row_bytes = (job.source_bytes + job.target_bytes) // job.rows
    job.rows_per_task = rows_per_task(job.rows, row_bytes)
    job.tasks_per_sample = (job.rows + job.rows_per_task - 1) // job.rows_per_task
    work = <double>samples * (job.target_bytes + <double>h.entries * w.entries * channels * item)
    samples *= job.tasks_per_sample
    threads = threads_for(threads, samples, work)
    with nogil:
        parallel_for(_run_task, &job, samples, threads)


def gather(cnp.ndarray x not None, cnp.ndarray y not None, Axis h not None, Axis w not None,
           int threads):
    """Write to `y` the weighted sum of every target's sources; 0 where it has none.

    Arrays are C-contiguous, (N, H, W, C), of one dtype and of the sizes of the axes. Sizes
    are the caller's to check.
    """
    _run(False, x, y, h, w, 0.0, threads)


def copy(cnp.ndarray x not None, cnp.ndarray y not None, Axis h not None, Axis w not None,
         double fill, int threads):
    """Write to `y` every target's first source as it is; `fill` where it has none."""
    _run(True, x, y, h, w, fill, threads)
