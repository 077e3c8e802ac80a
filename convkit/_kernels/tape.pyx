# cython: auto_pickle=False
"""What the tape does for every operation: its records, and the sweep back through them.

`convkit.autograd` is the door to this and says what it is for; it is compiled because in a small
network this, not arithmetic, is what an operation costs.
"""

cimport cython

import threading
import weakref
from heapq import heappop, heappush

import numpy as np
cimport numpy as cnp

from cpython.contextvars cimport get_value
from cpython.object cimport PyObject

from convkit import _precision, runtime
from convkit.errors import ConvkitError
from convkit._kernels cimport memory

cnp.import_array()


cdef extern from *:
    """
    /* The present thread's Switches, which threading.local would take a look-up of its own for. */
    static _Thread_local PyObject *ck_here;

    /* An object without a call of its class, nor of its constructor. */
    static inline PyObject *ck_new(PyObject *cls, PyObject *no_arguments) {
        return ((PyTypeObject *)cls)->tp_new((PyTypeObject *)cls, no_arguments, NULL);
    }
    """
    PyObject* ck_here
    object ck_new(object cls, object no_arguments)


cdef class Switches:
    """What is switched on in one thread.

    During a `rehearsal`, operations compute what they would if they were recorded, put off what
    they then would, but nothing is kept for backward; it is called with each one's inputs.
    `training` says whether the innermost module that runs is in training: under precision "medium"
    what it computes without a record is as if it were recorded, too.
    """

    cdef public bint grad, recomputing, training
    cdef public object tracer, rehearsal
    cdef public tuple after, watchers

    def __cinit__(self):
        self.grad = True
        self.after = self.watchers = ()

    def __dealloc__(self):
        global ck_here
        if ck_here == <PyObject*>self:
            ck_here = NULL


_kept = threading.local()  # keeps each thread's switches for as long as there is the thread


cpdef Switches here():
    """Return the switches of the present thread."""
    global ck_here
    if ck_here == NULL:
        _kept.switches = Switches()
        ck_here = <PyObject*>_kept.switches
    return <Switches>ck_here


# The class of tensors and the operation of addition, which are defined above this (`bind`).
cdef object _Tensor = None
cdef object _add = None


def bind(tensor, add):
    """Say what results are made of and what adds two gradients of one value."""
    global _Tensor, _add
    _Tensor, _add = tensor, add


# The settings of this thread or task, read without a call of Python code for each operation.
cdef object _local_threads = runtime._local_threads
cdef object _local_precision = _precision._local_precision


cdef inline object _threads():
    local = get_value(_local_threads)
    return runtime._process_threads if local is None else local


cdef inline object _present_precision():
    local = get_value(_local_precision)
    return _precision._process_precision if local is None else local


cdef class Context:
    """What one call of an operation's forward leaves for its backward.

    Attributes
    ----------
    needs : tuple of bool
        For each array input, whether its gradient is wanted. All False means that nothing need
        be kept.
    saved : object
        Anything; set by forward only where ``any(ctx.needs)``.
    cache : tuple of (dict or None)
        For each input, a dictionary that lives as long as the parameter's current value
        (None where the input is no parameter): a place for packed weights. Empty where the
        operation does not pack.
    threads : int
        How many threads kernels may use.
    precision : str
        "highest", "high" or "medium": how products are computed (`convkit.precision`).
    defer : bool
        Whether forward may put its output off now, or hold it as bfloat16.
    moments : tuple or None
        Mean, biased variance and number of values of each channel: of the first input, or what
        forward leaves of its output (see `Op`).
    owned : bool
        In backward: whether nobody else holds the (first) output's gradient, so that it may be
        overwritten.
    before : object
        In backward of an operation that says it `adds_gradient`: what is known of the first
        input's gradient, to be changed by nobody; None once backward has added it to its own.
    """

    cdef public object needs, saved, cache, precision, moments, before
    cdef public int threads
    cdef public bint defer, owned

    def __init__(self, needs, int threads, cache=(), precision="high"):
        self.needs = needs
        self.threads = threads
        self.cache = cache
        self.precision = precision


cdef class PutOff:
    """Base of results that are still to be computed; ``array()`` computes them.

    Those that are `narrow` stay what operations are given that take them, also when somebody has
    read the array, which cannot be written to: reading changes no bit.
    """

    def settle(self):
        """Take the values now, as what they are computed from is about to change."""
        self.array()

    # What gradients of these values are known by, also when the values were computed again.
    mark = None

    def expect_gradient(self, mark=None):
        """Be told that somebody will want or send these values' gradient as it is.

        With the mark of equal values that were computed before: that theirs is sent here.
        """

    def seen(self, narrow):
        """Return a gradient as it is handed on, to who only looks; it stays as it is.

        `narrow`: its reader has it as bfloat16, where it can be had so.
        """
        return self.array()


def plain(value):
    """Return the array that a value is or stands for."""
    return _plain(value)


cdef inline object _plain(value):
    return value if isinstance(value, cnp.ndarray) else value.array()


cdef inline object _array(value):
    """Return what an operation made, as an array where NumPy made a scalar of no axes at all."""
    return np.asarray(value) if not isinstance(value, cnp.ndarray) \
        and isinstance(value, np.generic) else value


cdef class TensorBase:
    """A tensor's fields.

    `_edge` says where gradients of a recorded result go: (node, output number). `_cell` counts
    changes in place and is shared by tensors over the same memory. `_values` is None while a
    result is put off; `_deferred` is then what it will be computed from, and may remain
    (`PutOff`). `_moments` is what the operation that made the values knows of their channels, as
    long as nothing has changed in place. `_unrecorded` says that this was computed under `no_grad`
    as if it were recorded, which it would be in training.
    """

    cdef object __weakref__
    cdef public object grad, _edge, _cell, _values, _deferred, _hooks, _post_hooks, _moments
    cdef public bint requires_grad
    cdef readonly bint _unrecorded

    @property
    def data(self):
        """The values, in logical (N, C, ...) order; activations are channels-last in memory."""
        return self._computed()

    @data.setter
    def data(self, array):
        self._keep(array)

    def _keep(self, array):
        """Take other values."""
        self._values, self._deferred, self._moments = array, None, None

    cdef object _computed(self):
        if self._values is None:
            self._values = self._deferred.array()
            if self._deferred.narrow:
                # What is written to the array would not be seen by all.
                cnp.PyArray_CLEARFLAGS(self._values, cnp.NPY_ARRAY_WRITEABLE)
            else:
                self._deferred = None
        return self._values

    cdef object _now(self):
        """Return what there is: the values, or what they will be computed from."""
        return self._values if self._deferred is None else self._deferred

    @property
    def shape(self):
        """Logical shape."""
        return self._now().shape

    @property
    def ndim(self):
        """Number of axes."""
        return len(self._now().shape)

    @property
    def dtype(self):
        """Element type."""
        return self._now().dtype

    @property
    def is_leaf(self):
        """Whether no recorded operation made this tensor."""
        return self._edge is None

    def _counts(self):
        """Tell whether what is made of this is recorded, or computed as if it were."""
        cdef Switches now = here()
        if now.grad or now.rehearsal is not None:
            return self.requires_grad
        return self._unrecorded

    def _writable(self):
        """Return the array that changes in place are written to."""
        return self._computed()

    def _change(self):
        """Return the array to write to, after counting the change.

        Raises
        ------
        RuntimeError
            When a gradient is being recorded, which a change in place would falsify.
        """
        if self.requires_grad and here().grad:
            what = "a leaf" if self._edge is None else "a tensor"
            raise RuntimeError(
                f"{what} that requires grad cannot be changed in place while gradients are "
                "recorded; do so within convkit.no_grad()")
        cdef list cell = self._cell
        cell[0] += 1
        while len(cell) > 1:  # what was put off reads the values of before
            deferred = cell.pop()()
            if deferred is not None:
                deferred.settle()
        array = self._writable()
        if self._deferred is not None:
            self._deferred = None
            cnp.PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
        memory.forget(array)
        return array

    def _accumulate(self, grad, bint owned):
        """Add `grad` to a leaf's gradient; `owned` says that nobody else holds the array."""
        cdef TensorBase own
        if self.grad is None:
            dtype = self._now().dtype
            if not owned or grad.dtype != dtype:
                grad = grad.astype(dtype, order="K", copy=True)
            self.grad = wrap(grad)
        else:
            own = self.grad
            np.add(own.data, grad, out=own.data)
            own._cell[0] += 1


def to_change(x):
    """Return the array of a tensor that is kept beside the tape (running estimates), to write to.

    The change is counted. What is no tensor is returned as it is.
    """
    cdef Switches now
    cdef bint before
    if not isinstance(x, TensorBase):
        return x
    if not (<TensorBase>x).requires_grad:
        return x._change()
    now = here()
    before, now.grad = now.grad, False
    try:
        return x._change()
    finally:
        now.grad = before


def count_up(TensorBase counter not None):
    """Add one to an integer tensor, unless a part of the network runs once more for backward."""
    cdef cnp.ndarray array
    if not here().recomputing:
        array = to_change(counter)
        if cnp.PyArray_TYPE(array) == cnp.NPY_INT64 and cnp.PyArray_SIZE(array) == 1:
            (<cnp.npy_int64*>cnp.PyArray_DATA(array))[0] += 1
        else:
            array[()] = array.item() + 1


class Forms(dict):
    """Forms derived from a parameter's values; how many were ever made is counted."""

    made = 0

    def __setitem__(self, key, form):
        Forms.made += 1
        dict.__setitem__(self, key, form)


class Passing(Forms):
    """Forms that are there already; those made now are counted, but not kept."""

    def __setitem__(self, key, form):
        Forms.made += 1


cdef object _NOTHING_KEPT = Passing()


cdef class Holder(TensorBase):
    """A tensor's fields and those that keep forms derived from its values (packed weights)."""

    cdef public object _store, _cache, _cached_from
    cdef Py_ssize_t _version, _readings
    cdef bint _again

    def __cinit__(self):
        self._cached_from = None

    def _writable(self):
        """Return the array that changes in place are written to."""
        return self._store

    cpdef _packed(self, bint recorded=False, bint once=False):
        """Return the dictionary of derived forms, emptied whenever the values changed.

        A call that is made `once`, to trace a model, leaves nothing there.

        A call that is recorded reads one form, and its backward another. Kept until the next
        step, they would be the largest thing in memory; so nothing new is kept there, unless
        several such calls read the same values, these or those before the latest change.
        """
        cdef Py_ssize_t version = self._cell[0]
        if self._cached_from is not self._store or self._version != version:
            self._cache = Forms()
            self._cached_from, self._version = self._store, version
            self._again = self._readings > 1
            self._readings = 0
        if once:
            return Passing(self._cache)
        if recorded:
            self._readings += 1
            if self._readings == 1 and not self._again:
                return Passing(self._cache) if self._cache else _NOTHING_KEPT
        return self._cache


def updates(state, params, tuple names, make, ordered, bint counts):
    """Return what an optimiser's kernel changes, and count the changes.

    Parameters
    ----------
    state : defaultdict
        Parameter -> name -> a tensor of its shape.
    params : list of Tensor
        Those without a gradient are passed over.
    names : tuple of str or None
        Of the state; None stays None. ``make(parameter)`` makes what is missing.
    ordered : callable
        ``ordered(parameter, state, names)`` returns the arrays where they do not lie as kernels
        want them.
    counts : bool
        Whether the state counts steps, as "step".

    Returns
    -------
    arrays : list of tuple
        (parameter, gradient, state...) of each parameter.
    fresh, steps : list
        Whether some of its state was made now; the number of its step.
    """
    cdef list arrays = [], fresh = [], steps = [], row
    cdef TensorBase p
    cdef dict own
    cdef bint new, keeps = counts or any(names)
    for p in params:
        if p.grad is None:
            continue
        own = state[p] if keeps else None
        if counts:
            own["step"] = own.get("step", 0) + 1
            steps.append(own["step"])
        new = False
        row = [p._writable(), (<TensorBase>p.grad)._computed()]
        for name in names:
            kept = None
            if name is not None:
                kept = own.get(name)
                if kept is None:
                    kept = own[name] = make(p)
                    new = True
                kept = (<TensorBase?>kept)._computed()
            row.append(kept)
        arrays.append(tuple(row) if memory.alike(tuple(row)) else ordered(p, own, names))
        fresh.append(new)
        p._cell[0] += 1
    return arrays, fresh, steps


# -- modules (`nn.Module`) --------------------------------------------------------------------


@cython.binding(True)  # a method
def entry_of(module, str name not None):
    """Return a parameter, module or buffer of a module; what `Module.__getattr__` is."""
    cdef dict rooms = module.__dict__
    if "_modules" in rooms:
        for room in (rooms["_parameters"], rooms["_modules"], rooms["_buffers"]):
            if name in <dict?>room:
                return (<dict>room)[name]
    raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")


@cython.binding(True)
def run_module(module, *args, **kwargs):
    """Run a module's `forward`, with hooks around it, and name the layer in what it raises."""
    cdef dict rooms = module.__dict__
    cdef Switches now = here()
    cdef bint before = now.training
    now.training = rooms.get("training")
    try:
        if rooms["_forward_pre_hooks"] or rooms["_forward_hooks"]:
            return module._call_hooked(args, kwargs)
        return module.forward(*args, **kwargs)
    except ConvkitError as error:
        module._locate(error)
        raise
    finally:
        now.training = before


cpdef wrap(array):
    """Make a Tensor of an operation's result without the constructor's checks."""
    cdef TensorBase t = ck_new(_Tensor, ())
    t._values = array
    t._cell = [0]
    return t


def handed_on(TensorBase y not None):
    """Return a tensor of the same values that is cut off from the tape, but has them as they come.

    That is put off where they are `narrow`, where `detach` has an array.
    """
    cdef TensorBase out
    if y._deferred is None or not y._deferred.narrow:
        return y.detach()
    out = wrap(y._values)
    out._deferred, out._cell, out._moments = y._deferred, y._cell, y._moments
    return out


cdef long long _count = 0   # of nodes


@cython.trashcan(True)
cdef class Node:
    """One recorded call: what backward needs, and where its gradients go.

    An edge is (node, output number) or a leaf tensor: values that backward does not
    read are not kept alive by the tape.

    Attributes
    ----------
    edges : sequence
        Per input: an edge, or None where no gradient is wanted.
    versions : sequence
        Cell and version then of everything backward reads, one after the other.
    leaves : tuple of Tensor
        That gradients reach on ways not yet known.
    hooks : list of (output number, callable), or None
    """

    cdef public object op, ctx, edges, versions, leaves, hooks
    cdef public Py_ssize_t n_outputs
    cdef readonly long long order
    cdef bint owned              # whether the tape alone holds the first output's gradient

    def __init__(self, op, ctx, edges, versions, Py_ssize_t n_outputs):
        global _count
        self.op = op
        self.ctx = ctx
        self.edges = edges
        self.versions = versions
        self.n_outputs = n_outputs
        self.leaves = ()
        _count += 1
        self.order = _count

    def __lt__(self, Node other not None):
        """Newer nodes come first."""
        return self.order > other.order

    def __hash__(self):
        return self.order

    def check(self):
        """Check that what backward reads is as it was."""
        if self.ctx is None:
            raise RuntimeError(
                "backward through this graph a second time: its saved values were freed; "
                "pass retain_graph=True to the first backward")
        cdef Py_ssize_t i
        for i in range(0, len(self.versions), 2):
            cell, version = self.versions[i], self.versions[i + 1]
            if cell[0] != version:
                raise RuntimeError(
                    f"a tensor that the gradient of {self.op.name!r} needs was changed in place "
                    f"(it is at version {cell[0]}, expected {version})")

    def hooked(self, list grads):
        """Return what the outputs' hooks leave of their gradients, as backward takes them."""
        if not self.op.takes_masked:
            grads = [g if g is None else _plain(g) for g in grads]
        if self.hooks:
            for output, hook in self.hooks:
                if grads[output] is not None:
                    grads[output] = _hooked(hook, grads[output], self.reads_halves(grads[output]))
        return grads

    cdef bint reads_halves(self, grad) except -1:
        """Tell whether a gradient that can be had as bfloat16 is read so, here or farther on."""
        if not self.op.takes_masked:
            return False
        reads = None if self.op.passes_gradient else self.op.reads_halves(self.ctx, grad)
        if reads is not None:
            return reads
        for edge in self.edges:
            if isinstance(edge, tuple) and (<Node?>(<tuple>edge)[0]).reads_halves(grad):
                return True
        return False

    def run(self, list grads):
        """Run the operation's backward once."""
        self.check()
        grads = self.hooked(grads)
        (<Context?>self.ctx).owned = self.owned and not self.hooks
        return self.op.backward(self.ctx, *grads)

    def free(self):
        """Let go of saved values and of the rest of the graph."""
        self.ctx = None
        self.versions = self.edges = self.leaves = ()


cdef _hooked(hook, grad, bint narrow=False):
    """Return the gradient that a hook leaves: the very one that came, unless it gives another."""
    cdef TensorBase shown = wrap(grad if isinstance(grad, cnp.ndarray) else grad.seen(narrow))
    result = hook(shown)
    if result is None or (result is shown and shown._cell[0] == 0):
        return grad
    result = np.asarray(result, dtype=grad.dtype)
    if result.shape != grad.shape:
        raise RuntimeError(f"a hook turned a gradient of shape {grad.shape} into {result.shape}")
    return result


cdef _sum(a, b, bint owned=False):
    """Return the sum of two gradients of one tensor; `owned`: the first may be overwritten."""
    return _add.total(_plain(a), _plain(b), _threads(), owned)


cdef _call_post_hooks(TensorBase leaf):
    for hook in tuple(leaf._post_hooks):
        hook(leaf)


cdef class Sweep:
    """One backward pass: nodes from the newest to the oldest, gradients summed on the way.

    Parameters
    ----------
    open_ways : dict
        Leaf with post hooks -> ways to it that no gradient has come along yet; None: not known
        before the end.
    """

    cdef dict _pending, _hooked, _open
    cdef list _heap

    def __init__(self, dict open_ways not None):
        self._pending, self._hooked, self._open, self._heap = {}, {}, open_ways, []

    cdef _arrived(self, TensorBase leaf):
        """Note that a gradient came to a leaf; call its post hooks after the last one."""
        ways = self._open.get(leaf)
        if ways is None:
            self._open[leaf] = None
        elif ways == 1:
            del self._open[leaf]
            _call_post_hooks(leaf)
        else:
            self._open[leaf] = ways - 1

    cpdef send(self, edge, value, bint owned):
        """Add a gradient to what is known about the target of an edge."""
        cdef Py_ssize_t output
        cdef Node node
        cdef list slots
        if isinstance(edge, TensorBase):
            self._send_leaf(edge, _plain(value), owned)
            return
        node, output = <tuple?>edge
        slots = self._pending.get(node)
        if slots is None:
            slots = self._pending[node] = [None] * node.n_outputs
            heappush(self._heap, node)
        before = slots[output]
        slots[output] = value if before is None else _sum(before, value, node.owned and output == 0)
        if output == 0:
            node.owned = owned or before is not None

    cdef bint _offer(self, Node node) except -1:
        """Show an operation that would add it what is known of its first input's gradient."""
        if not node.op.adds_gradient or node.ctx is None or not isinstance(node.edges[0], tuple):
            return False
        target, output = node.edges[0]
        slots = self._pending.get(target)
        if slots is None or slots[output] is None:
            return False
        (<Context?>node.ctx).before = slots[output]
        return True

    cdef bint _taken(self, Node node, total) except -1:
        """Keep the sum where the operation has added what it was offered; tell whether it has."""
        cdef Context ctx = node.ctx
        cdef Node target
        if ctx.before is not None:
            ctx.before = None
            return False
        target, output = node.edges[0]
        self._pending[target][output] = total
        target.owned = target.owned or output == 0
        return True

    cdef _send_leaf(self, TensorBase leaf, value, bint owned):
        if not leaf._hooks:
            leaf._accumulate(value, owned)
            if leaf._post_hooks:
                self._arrived(leaf)
            return
        before = self._hooked.get(id(leaf))
        self._hooked[id(leaf)] = (leaf, value if before is None else _sum(before[1], value))

    def run(self, bint retain):
        """Visit all nodes that gradients were sent to, then the leaves with hooks."""
        cdef Node node
        cdef TensorBase leaf
        cdef bint owned
        cdef Py_ssize_t i, first
        cdef tuple results
        while self._heap:
            node = heappop(self._heap)
            grads = self._pending.pop(node)
            offered = self._offer(node)
            results = node.run(grads)
            edges, owned = node.edges, not node.op.passes_gradient
            if len(results) != len(edges):
                raise ValueError(f"expected {len(edges)} gradients, got {len(results)}")
            first = offered and self._taken(node, results[0])
            if not retain:
                node.free()
            for i in range(first, len(results)):
                if edges[i] is not None and results[i] is not None:
                    self.send(edges[i], _array(results[i]), owned)
        for leaf, value in self._hooked.values():
            for hook in tuple(leaf._hooks):
                value = _hooked(hook, value)
            leaf._accumulate(value, False)
        for leaf in tuple(self._open):
            if leaf.grad is not None:
                _call_post_hooks(leaf)


cpdef bint literal(value):
    """Tell whether a value is a string, an int, None or a tuple of such.

    Equal ones then mean the same (1.0 and True equal 1, but are no numbers of pixels).
    """
    if type(value) is tuple:
        for v in <tuple>value:
            if not literal(v):
                return False
        return True
    return type(value) is int or type(value) is str or value is None


cdef class Kind:
    """What an operation's class says of itself (`ops.op.Op`), looked up once."""

    cdef bint takes_deferred, packs, views, reads_output, leaves_moments, takes_moments
    cdef Py_ssize_t defers, differentiable
    cdef tuple reads

    def __init__(self, op):
        self.takes_deferred, self.packs, self.views = op.takes_deferred, op.packs, op.views
        self.reads, self.reads_output = op.reads, op.reads_output
        self.defers, self.differentiable = op.defers, op.differentiable
        self.leaves_moments, self.takes_moments = op.leaves_moments, op.takes_moments


cdef dict _kinds = {}


cdef Kind _kind(op):
    kind = _kinds.get(op)
    if kind is None:
        kind = _kinds[op] = Kind(op)
    return kind


def apply(op, *inputs, **attrs):
    """Run an operation on tensors, arrays or None and record it where needed.

    Parameters
    ----------
    op : type of Op
        The operation.
    *inputs : Tensor, numpy.ndarray or None
        Its array inputs, in the operation's order.
    **attrs
        Its attributes.

    Returns
    -------
    Tensor or tuple of Tensor
        As many as the operation has outputs.
    """
    return perform(op, inputs, attrs)


cpdef perform(op, tuple inputs, dict attrs):
    """Do what `apply` does, with attributes that many calls share."""
    cdef Switches now = here()
    cdef object tracer = now.tracer
    cdef object rehearsal = now.rehearsal
    cdef tuple watchers = now.watchers
    cdef Kind kind = _kind(op)
    cdef bint watched = tracer is not None or len(watchers) > 0
    cdef bint takes_deferred = not watched and kind.takes_deferred
    cdef bint wanted = False, unrecorded = False, as_recorded
    cdef Context ctx = Context.__new__(Context)
    cdef Py_ssize_t i, count = len(inputs), sources
    cdef list arguments = [ctx]
    cdef TensorBase t
    for x in inputs:
        if isinstance(x, TensorBase):
            t = x
            arguments.append(t._now() if takes_deferred else t._computed())
            wanted = wanted or t.requires_grad
            unrecorded = unrecorded or t._unrecorded
        else:
            if not (x is None or isinstance(x, cnp.ndarray)):
                x = _Tensor(x).data
            arguments.append(x)
    ctx.precision = _present_precision()
    # In other precisions it makes no difference to the bits.
    unrecorded = not now.grad and rehearsal is None and (unrecorded or (
        wanted and now.training and "medium" in (ctx.precision, attrs.get("precision"))))
    as_recorded = unrecorded or wanted and (now.grad or rehearsal is not None)
    wanted = wanted and now.grad
    ctx.needs = tuple([wanted and isinstance(x, TensorBase) and (<TensorBase>x).requires_grad
                       for x in inputs])
    ctx.threads = _threads()
    ctx.cache = tuple([
        (<Holder>x)._packed(wanted and (<TensorBase>x).requires_grad, tracer is not None)
        if isinstance(x, Holder) else None for x in inputs]) if kind.packs else ()
    ctx.defer = as_recorded and not watched
    sources = kind.defers if ctx.defer else 0
    for i in range(sources):
        ctx.defer = ctx.defer and isinstance(inputs[i], TensorBase) and (
            (<TensorBase>inputs[i])._edge is not None
            or unrecorded and (<TensorBase>inputs[i])._unrecorded)
    if kind.takes_moments and isinstance(inputs[0], TensorBase):
        t = inputs[0]
        ctx.moments = t._moments if t._cell[0] == 0 else None
    result = op.forward(*arguments, **attrs)
    cdef bint several = isinstance(result, tuple)
    cdef tuple tensors = tuple([_result(y, inputs, sources) for y in <tuple>result]) if several \
        else (_result(result, inputs, sources),)
    if kind.leaves_moments:
        (<TensorBase>tensors[0])._moments = ctx.moments
    if kind.views and isinstance(inputs[0], TensorBase):
        (<TensorBase>tensors[0])._cell = (<TensorBase>inputs[0])._cell
    if wanted:
        _record(op, kind, ctx, inputs, tensors)
    elif unrecorded:
        for i in range(kind.differentiable):
            (<TensorBase>tensors[i])._unrecorded = True
    elif as_recorded:
        _attach(Node(op, None, (), (), kind.differentiable), tensors)
    if rehearsal is not None:
        rehearsal(inputs)
    if tracer is not None:
        tracer.record(op, inputs, dict(attrs), tensors)
    for watcher in watchers:
        watcher(op, inputs, dict(attrs), tensors)
    return tensors if several else tensors[0]


cdef TensorBase _result(y, tuple inputs, Py_ssize_t sources):
    """Make the tensor of a result; one that was put off reads the values of some inputs.

    Changes in place of these have it computed first: their cells know of it.
    """
    cdef TensorBase out = wrap(_array(y))
    if isinstance(y, PutOff):
        out._values, out._deferred = None, y
        for source in inputs[:sources]:
            (<TensorBase?>source)._cell.append(weakref.ref(y))
    return out


cdef _record(op, Kind kind, Context ctx, tuple inputs, tuple outputs):
    """Leave a node on the differentiable outputs."""
    cdef list edges = [], versions = []
    cdef Py_ssize_t i, count = kind.differentiable
    cdef TensorBase t
    for x, need in zip(inputs, ctx.needs):
        if need:
            t = x
            edges.append(t if t._edge is None else t._edge)
        else:
            edges.append(None)
    for i in kind.reads:
        if i < len(inputs) and isinstance(inputs[i], TensorBase):
            cell = (<TensorBase>inputs[i])._cell
            versions += [cell, cell[0]]
    if kind.reads_output:
        cell = (<TensorBase>outputs[0])._cell
        versions += [cell, cell[0]]
    _attach(Node(op, ctx, edges, versions, count), outputs)


cdef _attach(Node node, tuple outputs):
    """Have gradients of the differentiable outputs go to a node."""
    cdef TensorBase t
    cdef Py_ssize_t i
    for i in range(node.n_outputs):
        t = outputs[i]
        t._edge = (node, i)
        t.requires_grad = True
