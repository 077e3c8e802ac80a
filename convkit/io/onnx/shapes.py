"""Operators that move elements, make constants, and tell shapes."""

from __future__ import annotations

import math

import numpy as np

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, axes_of, axis_of, handles
from convkit.io.onnx.node import Operator, Val

__all__: list[str] = []

LIMIT = 2**31 - 1


def _ints(b: Builder, node: Operator, name: str, index: int) -> tuple[int, ...] | None:
    """Return a list that is an attribute in older operators and an input in newer ones."""
    if node.input(index) is not None:
        return b.integers(node.input(index), name)
    return node.attrs.get(name)


# -- shapes -----------------------------------------------------------------------------------


@handles("Reshape")
def reshape(b: Builder, node: Operator) -> Val:
    """Return the same elements under another shape; 0 keeps a size, -1 is what is left."""
    x, wanted = node.input(0), b.integers(node.input(1), "shape")
    if not node.attrs.get("allowzero", 0):
        if any(n == 0 and i >= x.rank for i, n in enumerate(wanted)):
            raise ModelFormatError(f"shape {wanted[:16]} keeps an axis that x of shape {x.shape} "
                                   "does not have")
        wanted = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(wanted))
    return _reshaped(b, x, wanted)


def _reshaped(b: Builder, x: Val, wanted: tuple[int, ...]) -> Val:
    """Return x under a shape with one -1 at most."""
    if wanted.count(-1) > 1 or any(n < -1 for n in wanted):
        raise ModelFormatError(f"shape {wanted[:16]} has more than one -1 or other negative sizes")
    known = math.prod(n for n in wanted if n != -1)
    left = x.size // known if known else 0
    shape = tuple(left if n == -1 else n for n in wanted)
    if math.prod(shape) != x.size:
        raise ModelFormatError(f"cannot reshape {x.shape} to {wanted[:16]}")
    return b.reshape(x, shape)


@handles("Flatten")
def flatten(b: Builder, node: Operator) -> Val:
    """Return a matrix: the axes before `axis` as rows, the others as columns."""
    x, axis = node.input(0), node.attrs["axis"]
    axis = axis if axis == x.rank else axis_of(axis, max(x.rank, 1))
    return b.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@handles("Squeeze")
def squeeze(b: Builder, node: Operator) -> Val:
    """Return x without axes of size one."""
    x, axes = node.input(0), _ints(b, node, "axes", 1)
    if axes is None:
        axes = tuple(i for i, n in enumerate(x.shape) if n == 1)
    gone = axes_of(axes, x.rank)
    if any(x.shape[i] != 1 for i in gone):
        raise ModelFormatError(f"cannot squeeze axes {gone} of shape {x.shape}")
    return b.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


@handles("Unsqueeze")
def unsqueeze(b: Builder, node: Operator) -> Val:
    """Return x with new axes of size one."""
    x, axes = node.input(0), _ints(b, node, "axes", 1)
    if axes is None:
        raise ModelFormatError("axes are missing")
    new = axes_of(axes, x.rank + len(axes))
    sizes = iter(x.shape)
    return b.reshape(x, tuple(1 if i in new else next(sizes) for i in range(x.rank + len(axes))))


@handles("Transpose")
def transpose(b: Builder, node: Operator) -> Val:
    """Return x with its axes in another order; reversed by default."""
    x = node.input(0)
    order = node.attrs.get("perm") or tuple(reversed(range(x.rank)))
    if sorted(order) != list(range(x.rank)):
        raise ModelFormatError(f"perm {order[:16]} does not order {x.rank} axes")
    return b.op("permute", x, dims=order) if x.rank else x


@handles("Trilu")
def trilu(b: Builder, node: Operator) -> Val:
    """Return x with zeros below (or, for `upper` of 0, above) the k-th diagonal of its matrices."""
    x, shift = node.input(0), 0 if node.input(1) is None else int(b.number(node.input(1), "k"))
    if x.rank < 2:
        raise ModelFormatError(f"Trilu of x with {x.rank} axes")
    b.spend(math.prod(x.shape[-2:]))
    row, column = np.ogrid[:x.shape[-2], :x.shape[-1]]
    kept = column - row >= shift if node.attrs["upper"] else column - row <= shift
    return b.op("where", b.constant(kept), x, b.like(0, x))


@handles("Expand")
def expand(b: Builder, node: Operator) -> Val:
    """Return x broadcast with a shape."""
    return _expanded(b, node.input(0), b.integers(node.input(1), "shape"))


def _expanded(b: Builder, x: Val, wanted: tuple[int, ...]) -> Val:
    """Return x broadcast with a shape; axes that x has in full are named -1, as they may grow."""
    if any(n < 0 for n in wanted):
        raise ModelFormatError(f"negative sizes in shape {wanted[:16]}")
    shape = np.broadcast_shapes(x.shape, wanted)
    extra = len(shape) - x.rank
    target = tuple(-1 if i >= extra and x.shape[i - extra] == n else n
                   for i, n in enumerate(shape))
    return x if x.shape == shape else b.op("expand", x, shape=target)


@handles("Tile")
def tile(b: Builder, node: Operator) -> Val:
    """Return x repeated along every axis."""
    x, repeats = node.input(0), b.integers(node.input(1), "repeats")
    if len(repeats) != x.rank or any(not 0 <= n <= LIMIT for n in repeats):
        raise ModelFormatError(f"Tile of {x.rank} axes with repeats {repeats[:16]}")
    for axis, n in enumerate(repeats):
        if n != 1:
            x = _repeated(b, x, axis, n)
    return x


def _repeated(b: Builder, x: Val, axis: int, times: int) -> Val:
    before, after = x.shape[:axis], x.shape[axis:]
    y = b.reshape(x, (*before, 1, *after))
    y = b.op("expand", y, shape=(*(-1,) * axis, times, *(-1,) * len(after)))
    return b.reshape(y, (*before, times * after[0], *after[1:]))


@handles("Concat")
def concat(b: Builder, node: Operator) -> Val:
    """Return arrays side by side."""
    if any(x is None for x in node.inputs):
        raise ModelFormatError("an input is missing")
    rank = node.inputs[0].rank
    return b.op("concat", *node.inputs, dim=axis_of(node.attrs["axis"], rank))


@handles("Slice")
def slice_(b: Builder, node: Operator) -> Val:
    """Return parts of axes, with steps."""
    x = node.input(0)
    starts, ends = _ints(b, node, "starts", 1), _ints(b, node, "ends", 2)
    axes, steps = _ints(b, node, "axes", 3), _ints(b, node, "steps", 4)
    if starts is None or ends is None:
        raise ModelFormatError("starts or ends are missing")
    axes = axes_of(tuple(range(len(starts))) if axes is None else axes, x.rank)
    steps = (1,) * len(axes) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ModelFormatError(f"Slice with {len(starts)} starts, {len(ends)} ends, {len(axes)} "
                               f"axes and steps {steps[:16]}")
    cut = {axis: (_bound(start), _bound(end), _bound(step))
           for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)}
    return _cut(b, x, cut)


def _bound(n: int) -> int:
    return max(-LIMIT, min(n, LIMIT))


def _cut(b: Builder, x: Val, cut: dict[int, tuple[int, int, int]]) -> Val:
    """Return parts of some axes; limits at or beyond the ends are left open."""
    starts, stops, steps = ([None] * x.rank for _ in range(3))
    for axis, (start, stop, step) in cut.items():
        size = x.shape[axis]
        if step > 0:
            start = None if start == 0 or start <= -size else start
            stop = None if stop >= size else stop
        else:
            start = None if start >= size - 1 or start == -1 else start
            stop = None if stop < -size else stop
        if (start, stop, step) != (None, None, 1):
            starts[axis], stops[axis], steps[axis] = start, stop, step
    if steps == [None] * x.rank:
        return x
    return b.op("slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


@handles("Split")
def split(b: Builder, node: Operator) -> tuple[Val, ...]:
    """Return parts along one axis: of given sizes, or as equal as may be."""
    x = node.input(0)
    axis = axis_of(node.attrs["axis"], x.rank)
    sizes, size = _ints(b, node, "split", 1), x.shape[axis]
    if sizes is None:
        parts = node.attrs.get("num_outputs") or len(node.outputs)
        if parts != len(node.outputs):
            raise ModelFormatError(f"Split into {parts} parts with {len(node.outputs)} outputs")
        each = -(-size // parts)
        sizes = tuple(max(0, min(each, size - i * each)) for i in range(parts))
    if len(sizes) != len(node.outputs) or sum(sizes) != size or min(sizes) < 0:
        raise ModelFormatError(f"Split of an axis of {size} elements into {sizes[:16]}")
    ends = np.cumsum(sizes).tolist()
    return tuple(_cut(b, x, {axis: (end - n, end, 1)})
                 for end, n in zip(ends, sizes, strict=True))


@handles("Pad")
def pad(b: Builder, node: Operator) -> Val:
    """Return x with edges added, by a value or from x itself."""
    x, flat = node.input(0), _ints(b, node, "pads", 1)
    given = node.input(2)
    value = node.attrs.get("value", 0.0) if given is None else b.number(given, "the pad value")
    axes = _ints(b, node, "axes", 3)
    axes = axes_of(tuple(range(x.rank)) if axes is None else axes, x.rank)
    if flat is None or len(flat) != 2 * len(axes):
        raise ModelFormatError(f"Pad of {len(axes)} axes with {len(flat or ())} pads")
    edges = [(0, 0)] * x.rank
    for i, axis in enumerate(axes):
        edges[axis] = flat[i], flat[i + len(axes)]
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes.get(node.attrs.get("mode", "constant"))
    if mode is None:
        raise ModelFormatError(f"Pad in mode {node.attrs['mode']!r:.80}")
    if not any(e for pair in edges for e in pair):
        return x
    as_bytes = x.dtype == "bool"
    y = b.op("pad", b.cast(x, "uint8") if as_bytes else x, padding=tuple(edges), mode=mode,
             value=float(value) if mode == "constant" else 0.0)
    return b.cast(y, "bool") if as_bytes else y


# -- blocks -----------------------------------------------------------------------------------


@handles("DepthToSpace")
def depth_to_space(b: Builder, node: Operator) -> Val:
    """Return channels laid out as blocks of pixels."""
    x, k = node.input(0), node.attrs["blocksize"]
    if x.rank != 4 or k < 1 or x.shape[1] % (k * k):
        raise ModelFormatError(f"DepthToSpace of {x.shape} with blocks of {k}")
    n, c, h, w = x.shape
    if node.attrs.get("mode", "DCR") == "CRD":
        y = b.op("permute", b.reshape(x, (n, c // k**2, k, k, h, w)), dims=(0, 1, 4, 2, 5, 3))
    else:
        y = b.op("permute", b.reshape(x, (n, k, k, c // k**2, h, w)), dims=(0, 3, 4, 1, 5, 2))
    return b.reshape(y, (n, c // k**2, h * k, w * k))


@handles("SpaceToDepth")
def space_to_depth(b: Builder, node: Operator) -> Val:
    """Return blocks of pixels laid out as channels."""
    x, k = node.input(0), node.attrs["blocksize"]
    if x.rank != 4 or k < 1 or x.shape[2] % k or x.shape[3] % k:
        raise ModelFormatError(f"SpaceToDepth of {x.shape} with blocks of {k}")
    n, c, h, w = x.shape
    y = b.reshape(x, (n, c, h // k, k, w // k, k))
    if node.attrs.get("mode", "DCR") == "CRD":
        y = b.op("permute", y, dims=(0, 1, 3, 5, 2, 4))
    else:
        y = b.op("permute", y, dims=(0, 3, 5, 1, 2, 4))
    return b.reshape(y, (n, c * k * k, h // k, w // k))


# -- picking ----------------------------------------------------------------------------------


@handles("Gather")
def gather(b: Builder, node: Operator) -> Val:
    """Return slices at indices; one constant index is a plain slice."""
    x, indices = node.inputs
    axis = axis_of(node.attrs["axis"], x.rank)
    if indices.array is not None and indices.size == 1 and x.array is None:
        i = int(b.number(indices, "index"))
        i = axis_of(i, x.shape[axis])
        y = _cut(b, x, {axis: (i, i + 1, 1)})
        return b.reshape(y, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]))
    return b.op("take", x, indices, dim=axis)


@handles("GatherElements")
def gather_elements(b: Builder, node: Operator) -> Val:
    """Return one element per index."""
    x, indices = node.inputs
    return b.op("gather", x, indices, dim=axis_of(node.attrs["axis"], x.rank))


# -- constants --------------------------------------------------------------------------------


@handles("Shape")
def shape(b: Builder, node: Operator) -> Val:
    """Return the sizes of x, or of some of its axes."""
    x = node.input(0)
    return b.constant(np.asarray(x.shape, np.int64)[node.attrs.get("start", 0):
                                                    node.attrs.get("end")])


@handles("Size")
def size(b: Builder, node: Operator) -> Val:
    """Return the number of elements."""
    return b.constant(np.asarray(node.input(0).size, np.int64))


@handles("Constant")
def constant(b: Builder, node: Operator) -> Val:
    """Return a value that is an attribute."""
    if len(node.attrs) != 1:
        raise ModelFormatError(f"Constant with {len(node.attrs)} values, expected one")
    (name, value), = node.attrs.items()
    match name:
        case "value":
            return b.constant(value[1], elem=value[0].data_type)
        case "value_float" | "value_floats":
            return b.constant(np.asarray(value, np.float32))
        case "value_int" | "value_ints":
            return b.constant(np.asarray(value, np.int64))
    raise UnsupportedOperatorError(f"Constant with {name}")


@handles("ConstantOfShape")
def constant_of_shape(b: Builder, node: Operator) -> Val:
    """Return an array of one value."""
    wanted = b.integers(node.input(0), "shape")
    if any(n < 0 for n in wanted) or len(wanted) > 16:
        raise ModelFormatError(f"ConstantOfShape of shape {wanted[:17]}")
    value = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else value[1]
    if fill.size != 1:
        raise ModelFormatError(f"ConstantOfShape of a value of shape {fill.shape}")
    b.spend(math.prod(wanted) * fill.itemsize)
    return b.constant(np.full(wanted, fill.reshape(-1)[0], fill.dtype),
                      elem=None if value is None else value[0].data_type)


@handles("Range")
def range_(b: Builder, node: Operator) -> Val:
    """Return numbers from a start to a limit by a step."""
    start, limit, delta = (b.known(x, "a bound of Range") for x in node.inputs)
    if any(v.size != 1 for v in (start, limit, delta)) or not delta.item():
        raise ModelFormatError("Range needs three numbers and a step other than 0")
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    b.spend(count * start.itemsize)
    return b.constant((np.arange(count) * delta.item() + start.item()).astype(start.dtype))


@handles("EyeLike")
def eye_like(b: Builder, node: Operator) -> Val:
    """Return ones on a diagonal."""
    from convkit.io.onnx.types import held

    x = node.input(0)
    if x.rank != 2:
        raise ModelFormatError(f"EyeLike of shape {x.shape}")
    dtype = held(node.attrs["dtype"]) if "dtype" in node.attrs else x.dtype
    b.spend(x.size * 8)
    return b.constant(np.eye(*x.shape, k=_bound(node.attrs["k"]), dtype=dtype))
