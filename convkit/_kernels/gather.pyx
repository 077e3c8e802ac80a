"""Mean and variance of a convolution's output, gathered while it is still in cache.

Batch norm wants them before it can begin, and its own pass would read the whole output from
memory once more. A convolution that is handed a `Gathered` cuts its output into parts that depend
on the problem alone (a strip, a block of tiles) and adds the pixels of a part as soon as they are
written: a task does so for the channels that it computes. What is added is the distance from the
part's first pixel, so that a mean that is large beside the deviation costs no accuracy. In the end the
parts are put together in order, in double; threads share the channels. An output that is stored as
bfloat16 has the moments of the numbers stored.
"""

import numpy as np

cimport numpy as cnp
from libc.math cimport NAN
from libc.string cimport memset

from convkit._kernels import memory
from convkit._kernels.dispatch cimport ck_gather_args, ck_gather_merge_fn, table
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# Channels whose parts one task puts together.
cdef Py_ssize_t CHANNELS = 64


cdef void add_pixels(const Gather* to, Py_ssize_t part, bint begin, Py_ssize_t column,
                     Py_ssize_t channels, const char* y, Py_ssize_t rows, Py_ssize_t cols,
                     Py_ssize_t row_step, Py_ssize_t pixel_step) noexcept nogil:
    """Add pixels, the first of which has its channel `column` at `y`, to a part.

    Parts and channels are those of the task that calls; `begin` says that they are the part's first.
    """
    cdef ck_gather_args args
    cdef Py_ssize_t at = part * to.channels + column
    args.y = y
    args.rows, args.cols, args.channels = rows, cols, channels
    args.row_step, args.pixel_step = row_step, pixel_step
    args.begin, args.halves = begin, to.halves
    args.shift = to.shifts + at * to.item
    args.sum, args.square = to.sums + at, to.squares + at
    to.add(&args)
    if column == 0:
        to.counts[part] = rows * cols + (0 if begin else to.counts[part])


cdef struct Merge:
    const Gather* parts
    ck_gather_merge_fn merge
    Py_ssize_t count
    double* mean
    double* variance


cdef void _merge_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Put the parts of some channels together."""
    cdef Merge* job = <Merge*>ctx
    cdef const Gather* parts = job.parts
    cdef Py_ssize_t first = index * CHANNELS, part, at, c
    cdef Py_ssize_t channels = min(CHANNELS, parts.channels - first)
    cdef double before = 0
    for c in range(first, first + channels):
        job.mean[c] = job.variance[c] = 0
    for part in range(job.count):
        if parts.counts[part] == 0:
            continue
        at = part * parts.channels + first
        job.merge(job.mean + first, job.variance + first, before, parts.shifts + at * parts.item,
                  parts.sums + at, parts.squares + at, parts.counts[part], channels)
        before += parts.counts[part]
    for c in range(first, first + channels):
        job.variance[c] = job.variance[c] / before if before else NAN


cdef class Gathered:
    """What a convolution puts its output's moments into.

    `begin` is called by the convolution, and again where it has to start over.
    """

    cdef Gather* begin(self, Py_ssize_t parts, Py_ssize_t channels, Py_ssize_t item) except NULL:
        """Make room for some parts; return where tasks put them.

        `item` is the bytes of a number of the output: 2 for bfloat16, summed as floats.
        """
        cdef Py_ssize_t numbers = parts * channels
        if item == 2 and table().tile == NULL:
            raise RuntimeError("expected an instruction set that gathers bfloat16")
        self.memory = memory.empty((3 * numbers + parts,), np.dtype(np.float64))
        self.parts = parts
        cdef double* at = <double*>cnp.PyArray_DATA(self.memory)
        self.to.sums, self.to.squares = at, at + numbers
        self.to.counts, self.to.shifts = at + 2 * numbers, <char*>(at + 2 * numbers + parts)
        self.to.channels, self.to.item, self.to.halves = channels, max(item, 4), item == 2
        memset(self.to.counts, 0, parts * sizeof(double))   # a part may have no pixels
        self.to.add = table().gather.add[item == 8]
        return &self.to

    def clear(self):
        """Forget what there is: the output was changed since."""
        self.memory = None

    def moments(self, int threads):
        """Return mean and biased variance of each channel, and how many values they are of.

        Returns
        -------
        tuple or None
            Two ndarrays (C,) of float64 and an int; None where nothing was gathered.
        """
        cdef Merge job
        if self.memory is None:
            return None
        cdef Py_ssize_t channels = self.to.channels, part, count = 0
        mean, variance = np.empty(channels), np.empty(channels)
        job.parts, job.count = &self.to, self.parts
        job.merge = table().gather.merge[self.to.item == 8]
        job.mean = <double*>cnp.PyArray_DATA(mean)
        job.variance = <double*>cnp.PyArray_DATA(variance)
        cdef Py_ssize_t tasks = (channels + CHANNELS - 1) // CHANNELS
        cdef int team = threads_for(threads, tasks, <double>self.parts * channels)
        with nogil:
            parallel_for(_merge_task, &job, tasks, team)
        for part in range(self.parts):
            count += <Py_ssize_t>self.to.counts[part]
        self.memory = None
        return mean, variance, count
