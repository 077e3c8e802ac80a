"""The flat list of steps that a Program is, and the one loop that walks it.

All of a call's intermediate values lie in one arena. What grows with the batch is planned for
one sample: a value's place is ``batch * scaled + fixed`` bytes from its base, so that another
batch needs no other plan. The loop holds no lock and calls no Python, but for steps that are
Python functions (operations without a compiled step) and for a step's `recover`.
"""

cimport numpy as cnp
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from convkit._kernels.arrays cimport out_pointer
from convkit._kernels.copies cimport MOST_AXES, Copy, arrange, copy_samples
from convkit._kernels.memory cimport give, take

cnp.import_array()

# -- steps ---------------------------------------------------------------------------------


cdef class Step:
    """One kernel with its parameters; the kernel modules' `step` functions make them."""

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


# -- the loop ------------------------------------------------------------------------------


cdef enum:
    # Bases of addresses: nothing (NULL, and constants, whose address is `fixed`), the arena,
    # then the arrays of a call.
    NOTHING = 0
    ARENA = 1
    ARRAYS = 2

# What an arena may have at most: no machine has as much, and no sum of sizes overflows.
cdef size_t MOST_BYTES = <size_t>1 << 60


cdef struct Operand:
    int base
    Py_ssize_t scaled, fixed

cdef struct Entry:
    step_fn run
    scratch_fn scratch
    const void* params
    Py_ssize_t operands         # place of the first in the list of all
    int count
    Py_ssize_t per_batch, extra


cdef class Runner:
    """Steps in order, bound to places in memory.

    Parameters
    ----------
    steps : list of (Step, operands, (per_batch, extra))
        Operands are (base, scaled, fixed): base 0 for none or a constant, whose address is
        `fixed`; 1 for the arena; 2, 3, ... for the arrays that `run` gets. The step runs on
        ``per_batch * batch + extra`` samples.
    homes : list of (order, (scaled, fixed))
        For each input, the order of axes in which steps read it, and where in the arena it is
        put when it does not come so.
    outputs : int
        How many arrays come after the inputs.
    arena : (int, int)
        Bytes of the arena for each sample of the batch, and beside those.
    most_idle : int
        How many arenas that nobody uses are kept.
    """

    cdef list _steps, _homes, _idle
    cdef Entry* _entries
    cdef Operand* _operands
    cdef Py_ssize_t _count, _most_operands, _most_base, _most_idle
    cdef size_t _scaled, _fixed

    def __cinit__(self, list steps, list homes, Py_ssize_t outputs, arena, Py_ssize_t most_idle):
        cdef Py_ssize_t i, k = 0
        cdef Step step
        self._steps = steps
        self._homes = homes
        self._idle = []
        self._most_idle = most_idle
        self._scaled, self._fixed = arena
        self._count = len(steps)
        self._most_base = ARRAYS + len(homes) + outputs - 1
        self._entries = <Entry*>calloc(self._count + 1, sizeof(Entry))
        self._operands = <Operand*>calloc(sum([len(s[1]) for s in steps]) + 1, sizeof(Operand))
        if self._entries == NULL or self._operands == NULL:
            raise MemoryError("no memory for a list of steps")
        for i in range(self._count):
            step, operands, samples = steps[i]
            self._entries[i].run = step.run
            self._entries[i].scratch = step.scratch
            self._entries[i].params = step.params
            self._entries[i].operands = k
            self._entries[i].count = len(operands)
            self._entries[i].per_batch, self._entries[i].extra = samples
            self._most_operands = max(self._most_operands, self._entries[i].count)
            for base, scaled, fixed in operands:
                self._operands[k] = Operand(base, scaled, fixed)
                if not 0 <= base <= self._most_base:
                    raise ValueError(f"a step's operand refers to array {base - ARRAYS}")
                k += 1

    def __dealloc__(self):
        free(self._entries)
        free(self._operands)

    cdef size_t _scratch(self, Py_ssize_t batch, int threads) noexcept nogil:
        """Return the most scratch memory that a step asks for."""
        cdef size_t most = 0
        cdef Py_ssize_t i
        for i in range(self._count):
            most = max(most, self._scratch_of(i, batch, threads))
        return (most + 63) // 64 * 64

    cdef size_t _scratch_of(self, Py_ssize_t i, Py_ssize_t batch, int threads) noexcept nogil:
        cdef const Entry* entry = &self._entries[i]
        if entry.scratch == NULL:
            return 0
        return entry.scratch(entry.params, entry.per_batch * batch + entry.extra, threads)

    def bytes(self, Py_ssize_t batch, int threads):
        """Return how many bytes a call uses for (values, scratch)."""
        return self._scaled * <size_t>batch + self._fixed, self._scratch(batch, threads)

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

    def run(self, tuple inputs, tuple outputs, Py_ssize_t batch, int threads,
            cnp.ndarray seconds=None):
        """Run all steps.

        Parameters
        ----------
        inputs, outputs : tuple of ndarray
            The arrays that operands of base 2, 3, ... refer to, inputs first. Those that do
            not lie in memory as the steps want them are copied first.
        batch : int
        threads : int
        seconds : ndarray of float64, optional
            One number for each step, to which the time that it takes is added; then one for
            copies of inputs.
        """
        cdef Py_ssize_t count = len(inputs) + len(outputs), i
        if batch < 1 or self._scaled and <size_t>batch > MOST_BYTES // self._scaled:
            raise MemoryError(f"no memory for a batch of {batch}")
        cdef size_t values = (self._scaled * <size_t>batch + self._fixed + 63) // 64 * 64
        cdef size_t scratch = self._scratch(batch, threads)
        cdef size_t lists = (<size_t>(count + ARRAYS + self._most_operands)) * sizeof(char*)
        cdef double* clock = NULL
        cdef char** bases
        cdef cnp.ndarray array
        cdef Arena arena
        if len(inputs) != len(self._homes):
            raise ValueError(f"expected {len(self._homes)} inputs, got {len(inputs)}")
        if count + ARRAYS != self._most_base + 1:
            raise ValueError(f"expected {self._most_base - ARRAYS + 1} arrays, got {count}")
        if seconds is not None:
            clock = <double*>out_pointer(seconds, 1, self._count + 1)
        arena = self._take(values + scratch + lists)
        bases = <char**>(arena.pointer + values + scratch)
        bases[NOTHING] = NULL
        bases[ARENA] = arena.pointer
        for i in range(count):
            array = inputs[i] if i < len(inputs) else outputs[i - len(inputs)]
            bases[ARRAYS + i] = <char*>cnp.PyArray_DATA(array)
            if i < len(inputs):
                self._bring(array, i, bases, batch, threads, clock)
        with nogil:
            self._walk(bases, batch, threads, arena.pointer + values, clock)
        if len(self._idle) < self._most_idle:
            self._idle.append(arena)

    cdef int _bring(self, cnp.ndarray array, Py_ssize_t i, char** bases, Py_ssize_t batch,
                    int threads, double* seconds) except -1:
        """Copy an input into the arena unless it is dense in the order of axes it should be."""
        cdef Copy copy
        cdef tuple order, home
        cdef Py_ssize_t dense = array.itemsize
        cdef int ndim = array.ndim, k, axis
        cdef bint same = cnp.PyArray_ISALIGNED(array)
        cdef double before
        cdef char* at[2]
        order, home = self._homes[i]
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
        at[0] = bases[ARRAYS + i]
        at[1] = bases[ARENA] + <Py_ssize_t>home[0] * batch + <Py_ssize_t>home[1]
        bases[ARRAYS + i] = at[1]
        with nogil:
            before = _now()
            arrange(&copy)
            _copy_step(&copy, at, 1, threads, NULL)
            if seconds != NULL:
                seconds[self._count] += _now() - before
        return 0

    cdef int _walk(self, char** bases, Py_ssize_t batch, int threads, char* scratch,
                   double* seconds) except -1 nogil:
        """Run the steps one after the other."""
        cdef char** at = bases + self._most_base + 1
        cdef Py_ssize_t i, k, samples
        cdef const Entry* entry
        cdef const Operand* operand
        cdef double before = 0
        for i in range(self._count):
            entry = &self._entries[i]
            for k in range(entry.count):
                operand = &self._operands[entry.operands + k]
                at[k] = bases[operand.base] + operand.scaled * batch + operand.fixed
            samples = entry.per_batch * batch + entry.extra
            if seconds != NULL:
                before = _now()
            if entry.run == NULL or entry.run(entry.params, at, samples, threads, scratch):
                with gil:
                    self._call(i, at, samples, threads, scratch)
            if seconds != NULL:
                seconds[i] += _now() - before
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
