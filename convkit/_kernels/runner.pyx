"""The flat list of steps that a Program is, and the one loop that walks it.

All of a call's intermediate values lie in one arena. What grows with the batch is planned for
one sample: a value's place is ``batch * scaled + fixed`` bytes from its base, so that another
batch needs no other plan. The loop holds no lock and calls no Python, but for steps that are
Python functions (operations without a compiled step) and for a step's `recover`.

A batch runs through the steps in one of two ways. Broad: every step takes all samples. Deep: the
steps are cut into segments (`convkit.infer.segments`), and a thread takes a few samples through a
segment before it takes the next few, so that what is made and used up in the segment stays in its
cache. Threads then share the samples of a segment; a step runs on one of them.
"""

cimport numpy as cnp
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from convkit._kernels.arrays cimport out_pointer
from convkit._kernels.copies cimport MOST_AXES, Copy, arrange, copy_samples
from convkit._kernels.memory cimport give, take
from convkit._kernels.threads cimport parallel_for, threads_for

cnp.import_array()

# -- steps ---------------------------------------------------------------------------------


cdef class Step:
    """One kernel with its parameters; the kernel modules' `step` functions make them."""

    @property
    def compiled(self):
        """Whether it is more than a Python function."""
        return self.run != NULL

    def __dealloc__(self):
        free(self.params)


cdef Step new_step(step_fn run, scratch_fn scratch, const void* params, size_t size,
                   object kept):
    cdef Step step = Step.__new__(Step)
    step.params = malloc(size if size else 1)
    if step.params == NULL:
        raise MemoryError(f"no memory for {size} bytes of a step's parameters")
    memcpy(step.params, params, size)
    step.run = run
    step.scratch = scratch
    step.kept = kept
    return step


cdef int launch(step_fn run, scratch_fn scratch, const void* params, char** at,
                Py_ssize_t samples, int threads) except -1:
    cdef size_t size
    cdef char* memory
    cdef int result = 0
    with nogil:
        size = scratch(params, samples, threads) if scratch != NULL else 0
        memory = <char*>take(size) if size else NULL
        if memory != NULL or not size:
            result = run(params, at, samples, threads, memory)
            if size:
                give(memory, size)
    if memory == NULL and size:
        raise MemoryError(f"no memory for {size} bytes of scratch")
    return result


def run_step(Step step not None, tuple addresses, Py_ssize_t samples, int threads):
    """Run one step at once, on operands at addresses."""
    cdef char* at[8]
    cdef Py_ssize_t i
    if step.run == NULL or len(addresses) > 8:
        raise ValueError("expected a compiled step of at most 8 operands")
    for i in range(len(addresses)):
        at[i] = <char*><size_t>addresses[i]
    launch(step.run, step.scratch, step.params, at, samples, threads)


def python_step(function):
    """Return a step that calls ``function(addresses, samples, threads, scratch)``.

    It takes the GIL.
    """
    cdef Step step = Step.__new__(Step)
    step.recover = function
    return step


# -- copies --------------------------------------------------------------------------------

cdef int _copy_step(const void* params, char** at, Py_ssize_t samples, int threads,
                    char* scratch) noexcept nogil:
    cdef Copy copy = (<const Copy*>params)[0]
    copy_samples(&copy, at[0], at[1], samples, threads)
    return 0


def copy_step(shape, source, target, Py_ssize_t item):
    """Return a step that copies its first operand to its second.

    Parameters
    ----------
    shape : sequence of int
        Of the elements of a sample, none of them 0.
    source, target : sequence of int
        Strides in bytes, that from sample to sample first, then one for each axis of `shape`.
    item : int
        Bytes of an element: 1, 2, 4 or 8.
    """
    cdef Copy copy
    cdef int i
    if len(shape) > MOST_AXES - 2 or item not in (1, 2, 4, 8) or 0 in shape:
        raise ValueError(f"cannot copy {shape} elements of {item} bytes")
    copy.axes = len(shape)
    copy.item = item
    copy.source_sample, copy.target_sample = source[0], target[0]
    for i in range(copy.axes):
        copy.size[i] = shape[i]
        copy.source[i] = source[i + 1]
        copy.target[i] = target[i + 1]
    arrange(&copy)
    return new_step(_copy_step, NULL, &copy, sizeof(Copy), None)


def array_at(size_t address, tuple shape, strides, dtype):
    """Return an array over memory that somebody else owns; C-contiguous where strides is None."""
    cdef cnp.npy_intp sizes[MOST_AXES]
    cdef cnp.npy_intp steps[MOST_AXES]
    cdef int i, ndim = len(shape)
    if ndim > MOST_AXES:
        raise ValueError(f"expected at most {MOST_AXES} axes, got {ndim}")
    for i in range(ndim):
        sizes[i] = shape[i]
        steps[i] = 0 if strides is None else strides[i]
    return cnp.PyArray_New(
        cnp.ndarray, ndim, sizes, dtype.num, NULL if strides is None else steps, <void*>address,
        dtype.itemsize, cnp.NPY_ARRAY_WRITEABLE | cnp.NPY_ARRAY_ALIGNED | (
            cnp.NPY_ARRAY_C_CONTIGUOUS if strides is None else 0), None)


# -- the arena -----------------------------------------------------------------------------


cdef class Arena:
    """Memory for the intermediate values of one call at a time."""

    cdef char* pointer
    cdef readonly size_t size

    def __cinit__(self, size_t size):
        self.pointer = <char*>take(size)
        if self.pointer == NULL:
            raise MemoryError(f"no memory for {size} bytes of intermediate values")
        self.size = size

    def __dealloc__(self):
        give(self.pointer, self.size)


# -- where values lie ----------------------------------------------------------------------


cdef enum:
    # Bases of addresses: nothing (NULL, and constants, whose address is `fixed`), the arena, what
    # a thread has there for the samples that it takes at a time, then the arrays of a call.
    NOTHING = 0
    ARENA = 1
    OWN = 2
    ARRAYS = 3

# What an arena may have at most: no machine has as much, and no sum of sizes overflows.
cdef size_t MOST_BYTES = <size_t>1 << 60


# How many bytes from its base an operand lies: `fixed`, `scaled` for each sample of the batch,
# `own` for each that is taken at a time, and `each` for each sample before the first of these.
cdef struct Operand:
    int base
    Py_ssize_t scaled, fixed, own, each


cdef class Layout:
    """Where the operands of all steps lie.

    Parameters
    ----------
    operands : list of list of (base, scaled, fixed, own, each)
        Of every step. Base 0 is for none or a constant, whose address is `fixed`; 1 for the arena;
        2 for a thread's own part of it; 3, 4, ... for the arrays that `Runner.run` gets.
    homes : list of (order, (scaled, fixed))
        For each input, the order of axes in which steps read it, and where in the arena it is
        put when it does not come so.
    scaled, fixed : int
        Bytes of the arena for each sample of the batch, and beside those; threads' own parts
        come after them.
    """

    cdef Operand* operands
    cdef readonly list homes
    cdef readonly size_t scaled, fixed
    cdef int most_base

    def __cinit__(self, list operands, list homes, size_t scaled, size_t fixed):
        cdef Py_ssize_t k = 0
        cdef Operand* operand
        self.homes, self.scaled, self.fixed = homes, scaled, fixed
        self.operands = <Operand*>calloc(sum([len(o) for o in operands]) + 1, sizeof(Operand))
        if self.operands == NULL:
            raise MemoryError("no memory for a list of operands")
        for of_step in operands:
            for given in of_step:
                operand = &self.operands[k]
                operand.base, operand.scaled, operand.fixed, operand.own, operand.each = given
                if operand.base < 0:
                    raise ValueError(f"a step's operand has base {operand.base}")
                self.most_base = max(self.most_base, operand.base)
                k += 1

    def __dealloc__(self):
        free(self.operands)

    cdef size_t bytes(self, Py_ssize_t batch) noexcept nogil:
        """Return the bytes of the values of a batch, threads' own aside."""
        return (self.scaled * <size_t>batch + self.fixed + 63) // 64 * 64


# -- the loop ------------------------------------------------------------------------------


cdef struct Entry:
    step_fn run
    scratch_fn scratch
    const void* params
    Py_ssize_t operands         # place of the first in the list of all
    int count
    Py_ssize_t per_batch, extra

# Steps that samples are taken through together.
cdef struct Segment:
    Py_ssize_t first, stop      # steps
    Py_ssize_t samples          # that a thread takes at a time; 0: the batch, by all threads
    size_t own                  # bytes for each sample that is taken at a time
    double work                 # for a sample, as `threads_for` counts it

# How the samples of a call go through a segment: `lanes` threads take `share` of them each, `size`
# at a time, which makes `parts` of a share; the `rest` goes through it at once, by all threads.
cdef struct Way:
    int lanes
    Py_ssize_t share, size, parts, rest

# A call: where everything lies.
cdef struct Call:
    Py_ssize_t batch
    int threads
    const Entry* entries
    const Operand* operands
    char** bases
    char** at                   # addresses of a step's operands, for each lane
    Py_ssize_t most_operands
    char* own                   # behind each other for all lanes
    char* scratch               # the same
    double* seconds             # that every step took; or NULL
    double* lane_seconds        # for each lane and step; or NULL
    Py_ssize_t count            # of steps
    char* failed                # for every task, whether a step left the work to its `recover`

# The segment of a call that lanes are at.
cdef struct Lanes:
    const Call* call
    const Segment* segment
    Way way
    size_t scratch              # bytes of a lane


cdef inline Py_ssize_t _bind(const Call* call, Py_ssize_t step, char* own, Py_ssize_t size,
                             Py_ssize_t first, Py_ssize_t count, char** at) noexcept nogil:
    """Set the addresses of a step's operands for some samples; return what it is to run on."""
    cdef const Entry* entry = &call.entries[step]
    cdef const Operand* operand = &call.operands[entry.operands]
    cdef Py_ssize_t k
    for k in range(entry.count):
        at[k] = ((own if operand.base == OWN else call.bases[operand.base])
                 + operand.scaled * call.batch + operand.fixed + operand.own * size
                 + operand.each * first)
        operand += 1
    return entry.per_batch * count + entry.extra


cdef void _lane_task(void* ctx, Py_ssize_t index, int slot) noexcept nogil:
    """Take some samples through a segment, on this thread alone."""
    cdef const Lanes* lanes = <const Lanes*>ctx
    cdef const Call* call = lanes.call
    cdef const Way* way = &lanes.way
    cdef char** at = call.at + slot * call.most_operands
    cdef char* own = call.own + slot * way.size * lanes.segment.own
    cdef char* scratch = call.scratch + slot * lanes.scratch
    cdef Py_ssize_t first, count, step, samples
    cdef const Entry* entry
    cdef double before = 0
    _task_samples(way, index, &first, &count)
    for step in range(lanes.segment.first, lanes.segment.stop):
        entry = &call.entries[step]
        samples = _bind(call, step, own, way.size, first, count, at)
        if call.lane_seconds != NULL:
            before = _now()
        if entry.run(entry.params, at, samples, 1, scratch):
            call.failed[index] = 1
            return
        if call.lane_seconds != NULL:
            call.lane_seconds[slot * call.count + step] += _now() - before


cdef inline void _task_samples(const Way* way, Py_ssize_t index, Py_ssize_t* first,
                               Py_ssize_t* count) noexcept nogil:
    """Set which samples a task takes: neighbouring tasks those of one lane's share."""
    cdef Py_ssize_t part = index % way.parts * way.size
    first[0] = index // way.parts * way.share + part
    count[0] = min(way.size, way.share - part)


cdef class Runner:
    """Steps in order, bound to places in memory.

    Parameters
    ----------
    steps : list of (Step, int, (per_batch, extra))
        With how many operands each has. It runs on ``per_batch * batch + extra`` samples.
    outputs : int
        How many arrays come after the inputs.
    most_idle : int
        How many arenas that nobody uses are kept.
    broad : Layout
        For calls where every step takes the whole batch.
    cutting : callable, optional
        ``cutting(runner)`` calls `cut`, once: it is called before the first call with several
        samples, by any thread, as long as `cut` has not been.
    """

    cdef list _steps, _idle
    cdef object _cutting
    cdef bint _cut
    cdef Layout _broad, _deep
    cdef Entry* _entries
    cdef Segment* _segments
    cdef Py_ssize_t _count, _cuts, _most_operands, _most_base, _most_idle

    def __cinit__(self, list steps, Py_ssize_t outputs, Py_ssize_t most_idle,
                  Layout broad not None, object cutting=None):
        cdef Py_ssize_t i, k = 0
        cdef Step step
        cdef Entry* entry
        self._steps = steps
        self._idle = []
        self._most_idle = most_idle
        self._broad, self._cutting, self._cut = broad, cutting, cutting is None
        self._count = len(steps)
        self._most_base = ARRAYS + len(broad.homes) + outputs - 1
        self._entries = <Entry*>calloc(self._count + 1, sizeof(Entry))
        if self._entries == NULL:
            raise MemoryError("no memory for a list of steps")
        for i in range(self._count):
            entry = &self._entries[i]
            step, entry.count, (entry.per_batch, entry.extra) = steps[i]
            entry.run, entry.scratch, entry.params = step.run, step.scratch, step.params
            entry.operands = k
            self._most_operands = max(self._most_operands, entry.count)
            k += entry.count
        self._check(broad)

    def __dealloc__(self):
        free(self._entries)
        free(self._segments)

    cdef int _check(self, Layout layout) except -1:
        """Check that no step's operand lies in an array that calls do not bring."""
        if layout.most_base > self._most_base:
            raise ValueError(f"a step's operand refers to array {layout.most_base - ARRAYS}")
        return 0

    def cut(self, Layout deep, list segments not None):
        """Set how calls with several samples go through the steps.

        Parameters
        ----------
        deep : Layout or None
            For calls where segments take a part of the batch at a time; None without segments.
        segments : list of (first, stop, samples, own, work)
            Which: the steps from `first` to before `stop`, of which a thread takes `samples` at a
            time (0: every step takes all), with so many bytes of its own, and so much work, for
            each. Empty where every step takes all.
        """
        cdef Py_ssize_t i
        cdef Segment* segment
        if self._cut or (deep is None) != (not segments):
            raise ValueError("expected steps that are not cut yet, and a layout for segments alone")
        if deep is not None:
            self._check(deep)
        free(self._segments)    # of an attempt that failed
        self._segments = <Segment*>calloc(len(segments) + 1, sizeof(Segment))
        if self._segments == NULL:
            raise MemoryError("no memory for a list of segments")
        for i in range(len(segments)):
            segment = &self._segments[i]
            segment.first, segment.stop, segment.samples, segment.own, segment.work = segments[i]
        self._deep, self._cuts = deep, len(segments)
        self._cut = True    # last: others look at it without a lock

    cdef int _ready_for(self, Py_ssize_t batch) except -1:
        """See that the steps are cut where a batch may be."""
        if batch > 1 and not self._cut:
            self._cutting(self)
        return 0

    def segments(self):
        """Return a list of (first, stop, samples) for each segment; empty where none is."""
        cdef Py_ssize_t i
        self._ready_for(2)
        return [(self._segments[i].first, self._segments[i].stop, self._segments[i].samples)
                for i in range(self._cuts)]

    # -- what a call needs ------------------------------------------------------------------

    cdef Way _way(self, const Segment* segment, Py_ssize_t batch, int threads) noexcept nogil:
        """Return how a batch goes through a segment."""
        cdef Way way
        cdef Py_ssize_t most = segment.samples
        way.lanes = 1
        if most and batch >= 2 * threads:     # so that the faster can help the others
            way.lanes = threads_for(threads, batch, segment.work * batch)
        if way.lanes == 1:      # steps have all threads, and their caches
            most *= threads
        way.share = batch // way.lanes
        way.rest = batch - way.share * way.lanes
        way.size = way.share
        if most:                # parts as equal as can be
            way.size = (way.share + most - 1) // most
            way.size = (way.share + way.size - 1) // way.size
        way.parts = (way.share + way.size - 1) // way.size
        return way

    cdef bint _is_deep(self, Py_ssize_t batch, int threads) noexcept nogil:
        """Tell whether a batch is cut anywhere."""
        cdef Py_ssize_t i
        cdef Way way
        for i in range(self._cuts):
            way = self._way(&self._segments[i], batch, threads)
            if way.lanes * way.parts > 1:
                return True
        return False

    cdef size_t _scratch(self, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t samples,
                         int threads) noexcept nogil:
        """Return the most scratch memory that one of some steps asks for."""
        cdef size_t most = 0
        cdef Py_ssize_t i
        for i in range(first, stop):
            most = max(most, self._scratch_of(i, samples, threads))
        return (most + 63) // 64 * 64

    cdef size_t _scratch_of(self, Py_ssize_t i, Py_ssize_t batch, int threads) noexcept nogil:
        cdef const Entry* entry = &self._entries[i]
        if entry.scratch == NULL:
            return 0
        return entry.scratch(entry.params, entry.per_batch * batch + entry.extra, threads)

    cdef size_t _lane_scratch(self, const Segment* segment, const Way* way) noexcept nogil:
        """Return the bytes of scratch of a lane."""
        return max(self._scratch(segment.first, segment.stop, way.size, 1),
                   self._scratch(segment.first, segment.stop,
                                 way.share - (way.parts - 1) * way.size, 1))

    cdef void _deep_bytes(self, Py_ssize_t batch, int threads, size_t* own, size_t* scratch,
                          Py_ssize_t* tasks) noexcept nogil:
        """Set what segments need: values of threads' own, scratch, and how many tasks."""
        cdef Py_ssize_t i
        cdef const Segment* segment
        cdef Way way
        own[0] = scratch[0] = 0
        tasks[0] = 0
        for i in range(self._cuts):
            segment = &self._segments[i]
            way = self._way(segment, batch, threads)
            own[0] = max(own[0], way.lanes * way.size * segment.own)
            tasks[0] = max(tasks[0], way.lanes * way.parts)
            # With all threads: alone, for the rest, and where a lane's step is to recover.
            scratch[0] = max(scratch[0], self._scratch(segment.first, segment.stop, way.size,
                                                       threads))
            scratch[0] = max(scratch[0], self._scratch(
                segment.first, segment.stop, way.share - (way.parts - 1) * way.size, threads))
            if way.rest:
                scratch[0] = max(scratch[0], self._scratch(segment.first, segment.stop, way.rest,
                                                           threads))
            if way.lanes > 1:
                scratch[0] = max(scratch[0], way.lanes * self._lane_scratch(segment, &way))

    def bytes(self, Py_ssize_t batch, int threads):
        """Return how many bytes a call uses for (values, scratch)."""
        cdef size_t own, scratch
        cdef Py_ssize_t tasks
        self._ready_for(batch)
        if not self._is_deep(batch, threads):
            return (self._broad.scaled * <size_t>batch + self._broad.fixed,
                    self._scratch(0, self._count, batch, threads))
        self._deep_bytes(batch, threads, &own, &scratch, &tasks)
        return self._deep.scaled * <size_t>batch + self._deep.fixed + own, scratch

    def scratch(self, Py_ssize_t step, Py_ssize_t batch, int threads):
        """Return how many bytes of scratch one step uses."""
        return self._scratch_of(step, batch, threads)

    cdef Arena _take(self, size_t size):
        """Return an arena of at least `size` bytes."""
        cdef Arena arena = None
        try:
            arena = self._idle.pop()
        except IndexError:
            pass
        if arena is None or arena.size < size:
            arena = None     # give back first
            arena = Arena(size)
        return arena

    def trim(self):
        """Give back the memory of arenas that are not in use."""
        self._idle.clear()

    def idle_bytes(self):
        """Return how many bytes are kept for later calls."""
        return sum([(<Arena>a).size for a in list(self._idle)])

    # -- a call -----------------------------------------------------------------------------

    def run(self, tuple inputs, tuple outputs, Py_ssize_t batch, int threads,
            cnp.ndarray seconds=None):
        """Run all steps.

        Parameters
        ----------
        inputs, outputs : tuple of ndarray
            The arrays that operands of base 3, 4, ... refer to, inputs first. Those that do
            not lie in memory as the steps want them are copied first.
        batch : int
        threads : int
        seconds : ndarray of float64, optional
            One number for each step, to which the time that it takes is added; then one for
            copies of inputs. A step that several threads run at the same time, on samples of
            their own, takes the mean of their times.
        """
        cdef Py_ssize_t count = len(inputs) + len(outputs), i, tasks = 0, lanes = 1
        cdef bint deep
        cdef Layout layout
        cdef size_t own = 0, scratch, values, lists
        cdef Call call
        cdef cnp.ndarray array
        cdef Arena arena
        self._ready_for(batch)
        deep = batch > 1 and self._is_deep(batch, threads)
        layout = self._deep if deep else self._broad
        if batch < 1 or self._broad.scaled and <size_t>batch > MOST_BYTES // self._broad.scaled:
            raise MemoryError(f"no memory for a batch of {batch}")
        if len(inputs) != len(layout.homes):
            raise ValueError(f"expected {len(layout.homes)} inputs, got {len(inputs)}")
        if count + ARRAYS != self._most_base + 1:
            raise ValueError(f"expected {self._most_base - ARRAYS + 1} arrays, got {count}")
        if deep:
            lanes = threads
            self._deep_bytes(batch, threads, &own, &scratch, &tasks)
        else:
            scratch = self._scratch(0, self._count, batch, threads)
        values = layout.bytes(batch)
        lists = (<size_t>(count + ARRAYS + lanes * self._most_operands)) * sizeof(char*)
        call.seconds = call.lane_seconds = NULL
        if seconds is not None:
            call.seconds = <double*>out_pointer(seconds, 1, self._count + 1)
            lists += <size_t>(lanes * self._count) * sizeof(double)
        arena = self._take(values + own + scratch + lists + <size_t>tasks)
        call.batch, call.threads, call.count = batch, threads, self._count
        call.entries, call.operands = self._entries, layout.operands
        call.most_operands = self._most_operands
        call.own = arena.pointer + values
        call.scratch = call.own + own
        call.bases = <char**>(call.scratch + scratch)
        call.at = call.bases + count + ARRAYS
        call.failed = call.scratch + scratch + lists
        if deep and seconds is not None:
            call.lane_seconds = <double*>(call.at + lanes * self._most_operands)
        call.bases[NOTHING] = NULL
        call.bases[ARENA] = arena.pointer
        call.bases[OWN] = NULL
        for i in range(count):
            array = inputs[i] if i < len(inputs) else outputs[i - len(inputs)]
            call.bases[ARRAYS + i] = <char*>cnp.PyArray_DATA(array)
            if i < len(inputs):
                self._bring(array, i, layout.homes[i], &call)
        with nogil:
            if deep:
                self._go_deep(&call)
            else:
                self._walk(&call, 0, self._count, batch, 0, batch)
        if len(self._idle) < self._most_idle:
            self._idle.append(arena)

    cdef int _bring(self, cnp.ndarray array, Py_ssize_t i, tuple place, Call* call) except -1:
        """Copy an input into the arena unless it is dense in the order of axes it should be."""
        cdef Copy copy
        cdef tuple order, home
        cdef Py_ssize_t dense = array.itemsize
        cdef int ndim = array.ndim, k, axis
        cdef bint same = cnp.PyArray_ISALIGNED(array)
        cdef double before
        cdef char* at[2]
        order, home = place
        if ndim != len(order) or ndim > MOST_AXES - 2:
            raise ValueError(f"expected an input of {len(order)} axes, got {ndim}")
        copy.axes = ndim
        copy.item = dense
        copy.source_sample = copy.target_sample = 0
        for k in range(ndim - 1, -1, -1):
            axis = order[k]
            if array.shape[axis] != 1 and array.strides[axis] != dense:
                same = False
            copy.size[k] = array.shape[axis]
            copy.source[k] = array.strides[axis]
            copy.target[k] = dense
            dense *= array.shape[axis]
        if same:
            return 0
        at[0] = call.bases[ARRAYS + i]
        at[1] = call.bases[ARENA] + <Py_ssize_t>home[0] * call.batch + <Py_ssize_t>home[1]
        call.bases[ARRAYS + i] = at[1]
        with nogil:
            before = _now()
            arrange(&copy)
            _copy_step(&copy, at, 1, call.threads, NULL)
            if call.seconds != NULL:
                call.seconds[self._count] += _now() - before
        return 0

    cdef int _walk(self, const Call* call, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t size,
                   Py_ssize_t sample, Py_ssize_t samples) except -1 nogil:
        """Run steps one after the other on some samples, all threads at each."""
        cdef Py_ssize_t i, count
        cdef const Entry* entry
        cdef double before = 0
        for i in range(first, stop):
            entry = &self._entries[i]
            count = _bind(call, i, call.own, size, sample, samples, call.at)
            if call.seconds != NULL:
                before = _now()
            if entry.run == NULL or entry.run(entry.params, call.at, count, call.threads,
                                              call.scratch):
                with gil:
                    self._call(i, call.at, count, call.threads, call.scratch)
            if call.seconds != NULL:
                call.seconds[i] += _now() - before
        return 0

    cdef int _go_deep(self, const Call* call) except -1 nogil:
        """Run the segments one after the other."""
        cdef Py_ssize_t i, k, first, count
        cdef const Segment* segment
        cdef Way way
        for i in range(self._cuts):
            segment = &self._segments[i]
            way = self._way(segment, call.batch, call.threads)
            if way.lanes > 1:
                self._run_lanes(call, segment, way)
            else:
                for k in range(way.parts):
                    _task_samples(&way, k, &first, &count)
                    self._walk(call, segment.first, segment.stop, way.size, first, count)
        return 0

    cdef int _run_lanes(self, const Call* call, const Segment* segment, Way way) except -1 nogil:
        """Run a segment, threads side by side on samples of their own.

        A task of which a step could not do its work is done again from its beginning, where that
        step can recover: nothing that it reads from before has changed, as steps that would add
        to that have no such segments (`convkit.infer.lowering`).
        """
        cdef Py_ssize_t tasks = way.lanes * way.parts, i, k, first, count
        cdef Lanes lanes = Lanes(call, segment, way, self._lane_scratch(segment, &way))
        memset(call.failed, 0, tasks)
        if call.lane_seconds != NULL:
            memset(call.lane_seconds, 0, way.lanes * self._count * sizeof(double))
        parallel_for(_lane_task, &lanes, tasks, way.lanes)
        if call.lane_seconds != NULL:
            for i in range(segment.first, segment.stop):
                for k in range(way.lanes):
                    call.seconds[i] += call.lane_seconds[k * self._count + i] / way.lanes
        for i in range(tasks):
            if call.failed[i]:
                _task_samples(&way, i, &first, &count)
                self._walk(call, segment.first, segment.stop, way.size, first, count)
        if way.rest:
            self._walk(call, segment.first, segment.stop, way.rest, call.batch - way.rest, way.rest)
        return 0

    cdef int _call(self, Py_ssize_t i, char** at, Py_ssize_t samples, int threads,
                   char* scratch) except -1:
        """Let Python do a step."""
        cdef Step step = self._steps[i][0]
        cdef Py_ssize_t k
        addresses = [<size_t>at[k] for k in range(self._entries[i].count)]
        step.recover(addresses, samples, threads, <size_t>scratch)
        return 0


cdef double _now() noexcept nogil:
    """Return seconds on a clock that only goes forward."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <double>time.tv_sec + 1e-9 * <double>time.tv_nsec
