"""Separable linear maps over channels-last arrays (N, H, W, C): averages, interpolation, pads."""

cimport numpy as cnp

from convkit._kernels.axis cimport Axis, ck_axis, rows_per_task
from convkit._kernels.dispatch cimport table
from convkit._kernels.runner cimport new_step
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

# Samples of one task at most.
cdef Py_ssize_t MOST_TOGETHER = 256

# One call. Sizes of a sample are in bytes; a task is a block of rows of the targets, or where samples
# are small some of these. (They are where the last axis in memory is padded: each pixel is one.)
cdef struct Job:
    ck_resample_args args
    ck_resample_fn kernel
    const char* source
    char* target
    Py_ssize_t source_bytes, target_bytes
    Py_ssize_t rows, rows_per_task, tasks_per_sample, samples, together
    double work                 # of a sample


cdef void _run_task(void* ctx, Py_ssize_t task, int slot) noexcept nogil:
    cdef Job* job = <Job*>ctx
    cdef Py_ssize_t first = task // job.tasks_per_sample * job.together, n
    cdef Py_ssize_t row = (task % job.tasks_per_sample) * job.rows_per_task
    for n in range(first, min(first + job.together, job.samples)):
        job.kernel(&job.args, job.source + n * job.source_bytes,
                   job.target + n * job.target_bytes, row, min(row + job.rows_per_task, job.rows))


cdef int _describe(Job* job, bint copy, Py_ssize_t channels, Py_ssize_t item, Axis h, Axis w,
                   double fill) except -1:
    """Fill in what does not depend on the call; cut the rows of the targets into tasks."""
    cdef const ck_resample_table* family = <const ck_resample_table*>table().resample
    cdef const ck_resample_kernels* kernels = &family.f32 if item == 4 else &family.f64
    cdef Py_ssize_t row_bytes
    if not (copy or (h.has_weights and w.has_weights)):
        raise ValueError("a weighted gather needs axes with weights")
    job.kernel = kernels.copy if copy else kernels.gather
    job.args.h = &h.lists
    job.args.w = &w.lists
    job.args.channels = channels
    job.args.fill = fill
    job.source_bytes = h.sources * w.sources * channels * item
    job.target_bytes = h.targets * w.targets * channels * item
    job.rows = h.targets
    row_bytes = (job.source_bytes + job.target_bytes) // job.rows
    job.rows_per_task = rows_per_task(job.rows, row_bytes)
    job.tasks_per_sample = (job.rows + job.rows_per_task - 1) // job.rows_per_task
    job.together = 1
    if job.tasks_per_sample == 1:
        job.together = max(<Py_ssize_t>1, rows_per_task(MOST_TOGETHER, row_bytes * job.rows))
    job.work = job.target_bytes + <double>h.entries * w.entries * channels * item
    return 0


cdef int _run_step(const void* params, char** at, Py_ssize_t samples, int threads,
                   char* scratch) noexcept nogil:
    cdef Job job = (<const Job*>params)[0]
    cdef Py_ssize_t tasks = (samples + job.together - 1) // job.together * job.tasks_per_sample
    job.samples = samples
    job.source = at[0]
    job.target = at[1]
    parallel_for(_run_task, &job, tasks, threads_for(threads, tasks, samples * job.work))
    return 0


cdef _run(bint copy, cnp.ndarray x, cnp.ndarray y, Axis h, Axis w, double fill, int threads):
    """Run on arrays."""
    cdef Job job
    cdef char* at[2]
    cdef Py_ssize_t samples = y.shape[0]
    if y.size == 0:
        return
    if x.size == 0:
        y.fill(fill)
        return
    _describe(&job, copy, y.shape[3], y.itemsize, h, w, fill)
    at[0], at[1] = <char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(y)
    with nogil:
        _run_step(&job, at, samples, threads, NULL)


def step(bint copy, Py_ssize_t channels, Py_ssize_t item, Axis h not None, Axis w not None,
         double fill=0.0):
    """Return `gather` or `copy` as a step of a Program, with operands x and y."""
    cdef Job job
    _describe(&job, copy, channels, item, h, w, fill)
    return new_step(_run_step, NULL, &job, sizeof(Job), (h, w))


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
