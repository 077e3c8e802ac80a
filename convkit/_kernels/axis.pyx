"""One axis of a windowed operation as lists: which sources each target is made of."""

import numpy as np
cimport numpy as cnp

cnp.import_array()

# A task should outlast its hand-over by far and leave enough of them to share out.
cdef double TASK_BYTES = 131_072.0


cdef Py_ssize_t rows_per_task(Py_ssize_t rows, double row_bytes) noexcept nogil:
    cdef double fit = TASK_BYTES / (row_bytes if row_bytes > 1.0 else 1.0)
    if fit >= rows:
        return rows
    return <Py_ssize_t>fit if fit >= 1.0 else 1


def _runs(begin, source):
    """Return where the runs of targets begin (and one past the last), and their first sources."""
    first = np.full(len(begin) - 1, -1, np.int32)
    some = begin[:-1] < begin[1:]
    first[some] = source[begin[:-1][some]]
    joined = (first[1:] == first[:-1] + (first[:-1] >= 0)) & ((first[1:] >= 0) == (first[:-1] >= 0))
    starts = np.flatnonzero(np.concatenate([[len(first) > 0], ~joined])).astype(np.int32)
    return np.append(starts, np.int32(len(first))), first[starts]


cdef class Axis:
    """For each target along an axis: its sources, their weights and places in the window.

    Parameters
    ----------
    targets, sources : int
        Sizes of the axis after and before.
    target, source : array_like of int, shape (entries,)
        The pairs that belong together; those of one target keep their order.
    weight : array_like of float, shape (entries,), optional
        What each source counts for; weighted gathers need it.
    tap : array_like of int, shape (entries,), optional
        Number of each source in its target's window; max pooling needs it.

    Raises
    ------
    ValueError
        When an entry lies outside the axis.
    """

    def __init__(self, targets, sources, target, source, weight=None, tap=None):
        target = np.asarray(target, np.int64)
        source = np.asarray(source, np.int64)
        if not 0 <= max(len(target), targets, sources) < 2 ** 31 or len(target) != len(source):
            raise ValueError("expected as many targets as sources, and sizes below 2**31")
        if len(target) and not (0 <= target.min() and target.max() < targets
                                and 0 <= source.min() and source.max() < sources):
            raise ValueError(f"an entry lies outside {targets} targets or {sources} sources")
        order = np.argsort(target, kind="stable")
        begin = np.zeros(targets + 1, np.int32)
        np.cumsum(np.bincount(target, minlength=targets), out=begin[1:])
        cdef cnp.ndarray begins = begin
        cdef cnp.ndarray places = source[order].astype(np.int32)
        cdef cnp.ndarray run_target, run_source
        cdef cnp.ndarray taps = None
        cdef cnp.ndarray doubles = None
        cdef cnp.ndarray floats = None
        self.lists.begin = <const int32_t*>cnp.PyArray_DATA(begins)
        self.lists.source = <const int32_t*>cnp.PyArray_DATA(places)
        if tap is not None:
            taps = np.asarray(tap, np.int32)[order]
            self.lists.tap = <const int32_t*>cnp.PyArray_DATA(taps)
        if weight is not None:
            doubles = np.asarray(weight, np.float64)[order]
            floats = doubles.astype(np.float32)
            self.lists.weight_f = <const float*>cnp.PyArray_DATA(floats)
            self.lists.weight_d = <const double*>cnp.PyArray_DATA(doubles)
        run_target, run_source = _runs(begins, places)
        self.lists.run_target = <const int32_t*>cnp.PyArray_DATA(run_target)
        self.lists.run_source = <const int32_t*>cnp.PyArray_DATA(run_source)
        self.lists.runs = len(run_source)
        self._arrays = begins, places, taps, doubles, floats, run_target, run_source
        self.has_taps = tap is not None
        self.has_weights = weight is not None
        self.targets = self.lists.targets = targets
        self.sources = self.lists.sources = sources
        self.entries = len(target)

    def shares(self):
        """Return the weight of each target's first source, 0 where it has none."""
        begin, _, _, weight = self._arrays[:4]
        out = np.zeros(self.targets, np.float32)
        some = begin[:-1] < begin[1:]
        out[some] = weight[begin[:-1][some]]
        return out

    def transposed(self):
        """Return the axis with targets and sources exchanged: what backward gathers by."""
        if self._transposed is None:
            begin, source, tap, weight = self._arrays[:4]
            target = np.repeat(np.arange(self.targets), np.diff(begin))
            self._transposed = Axis(self.sources, self.targets, source, target, weight, tap)
        return self._transposed
