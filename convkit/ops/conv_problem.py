"""The shape rule of convolution: one problem, checked and named."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from convkit._kernels.tape import literal
from convkit.errors import DTypeError, ShapeError

__all__ = ["ConvProblem", "check_dtypes", "tuple_of_ints"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvProblem:
    """A 2-D convolution (a 1-D one has height 1), validated.

    Sizes are of the convolution x (N, C, H, W) -> y (N, O, OH, OW), also when the problem
    serves its gradients or a transposed convolution, which is the gradient of the input.
    """

    batch: int
    in_channels: int
    in_size: Pair
    out_channels: int
    out_size: Pair
    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int
    dtype: np.dtype
    precision: str = "high"
    # What was worked out from the problem alone, kept with it: task -> the candidate that takes
    # it, and what candidates keep under keys of their own.
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    # Its tasks, each an algorithm and its prepared call: by task, or by task and algorithm.
    calls: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def in_group(self) -> int:
        """Input channels per group."""
        return self.in_channels // self.groups

    @property
    def out_group(self) -> int:
        """Output channels per group."""
        return self.out_channels // self.groups

    @cached_property
    def x_last(self) -> tuple[int, int, int, int]:
        """The shape (N, H, W, C) of x."""
        return self.batch, *self.in_size, self.in_channels

    @cached_property
    def y_last(self) -> tuple[int, int, int, int]:
        """The shape (N, H, W, C) of y."""
        return self.batch, *self.out_size, self.out_channels

    @cached_property
    def pointwise(self) -> bool:
        """Whether each output pixel depends on the one input pixel at its place."""
        return self.kernel == (1, 1) == self.stride and self.padding == ((0, 0), (0, 0))

    @cached_property
    def rows(self) -> list[int]:
        """Where kernel rows lie in x relative to ``stride * (output row)``."""
        return [i * self.dilation[0] - self.padding[0][0] for i in range(self.kernel[0])]

    @cached_property
    def cols(self) -> list[int]:
        """Where kernel columns lie in x relative to ``stride * (output column)``."""
        return [i * self.dilation[1] - self.padding[1][0] for i in range(self.kernel[1])]

    def __str__(self) -> str:
        """One line that names the problem in logs and benchmarks."""
        return f"conv n{self.batch} {self.layer}"

    @property
    def layer(self) -> str:
        """The problem's name without the batch: what the choice of an algorithm depends on."""
        def pair(p: Any) -> str:
            return f"{p[0]}" if p[0] == p[1] else f"{p[0]}x{p[1]}"

        (top, bottom), (left, right) = self.padding
        if (top, left) == (bottom, right):
            pad = pair((top, left))
        else:
            pad = f"{top},{bottom}x{left},{right}"
        return (f"c{self.in_channels} {self.in_size[0]}x{self.in_size[1]} "
                f"o{self.out_channels} k{self.kernel[0]}x{self.kernel[1]} s{pair(self.stride)} "
                f"p{pad} d{pair(self.dilation)} g{self.groups} {self.dtype} {self.precision}")


def tuple_of_ints(value: Any, length: int, what: str, low: int) -> tuple[int, ...]:
    """Check that `value` is a sequence of `length` ints of at least `low` each."""
    try:
        result = tuple(v.__index__() for v in value)
    except (TypeError, AttributeError):
        raise ShapeError(f"expected {what} to be {length} integers, got {value!r}") from None
    if len(result) != length:
        raise ShapeError(f"expected {what} to be {length} integers, got {value!r}")
    if any(v < low for v in result):
        raise ShapeError(f"expected {what} of at least {low}, got {value!r}")
    return result


def check_dtypes(x: np.ndarray, **others: np.ndarray | None) -> None:
    """Raise DTypeError unless every other array has the element type of `x`."""
    for name, array in others.items():
        if array is not None and array.dtype != x.dtype:
            raise DTypeError(f"expected {name} of {x.dtype} like x, got {array.dtype}")


def _padding_pairs(padding: Any, rank: int) -> tuple[Pair, ...]:
    """Check that `padding` is one (before, after) pair of non-negative ints per axis."""
    try:
        pairs = tuple(padding)
    except TypeError:
        pairs = ()
    if len(pairs) != rank:
        raise ShapeError(f"expected padding as {rank} (before, after) pairs, got {padding!r}")
    return tuple(tuple_of_ints(p, 2, "padding", 0) for p in pairs)


def _check_weight(x_channels: int, shape: tuple[int, ...], groups: Any, transposed: bool,
                  x_shape: tuple[int, ...]) -> int:
    """Check groups and channels against the weight's shape; return groups as an int."""
    if isinstance(groups, bool) or not hasattr(groups, "__index__") or groups < 1:
        raise ShapeError(f"expected groups of at least 1, got {groups!r}")
    groups = groups.__index__()
    if 0 in shape:
        raise ShapeError(f"expected a weight with no empty axis, got shape {shape}")
    if shape[0] % groups:
        what = "input" if transposed else "output"
        raise ShapeError(f"expected groups to divide the {shape[0]} {what} channels of the "
                         f"weight, got groups={groups}")
    expected = shape[0] if transposed else shape[1] * groups
    if x_channels != expected:
        raise ShapeError(f"expected {expected} input channels, got x of shape {x_shape}")
    return groups


def _check_ranks(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> int:
    """Return the number of spatial axes."""
    if len(x_shape) not in (3, 4):
        raise ShapeError(f"expected x of shape (N, C, L) or (N, C, H, W), got {x_shape}")
    if len(w_shape) != len(x_shape):
        raise ShapeError(f"expected a weight with {len(x_shape)} axes for x of shape {x_shape}, "
                         f"got weight of shape {w_shape}")
    return len(x_shape) - 2


def forward_problem(x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype, *,
                    stride: Any, padding: Any, dilation: Any, groups: Any,
                    precision: str = "high") -> ConvProblem:
    """Validate a convolution of x (N, C, spatial...) with weight (O, C/groups, k...).

    Raises
    ------
    ShapeError
        When anything does not fit; the text says what was expected and what came.
    """
    if literal((stride, padding, dilation, groups)):
        return _known_problem(x_shape, w_shape, dtype, stride, padding, dilation, groups,
                              precision)
    return _problem(x_shape, w_shape, dtype, precision,
                    _layer(x_shape, w_shape, stride, padding, dilation, groups))


def output_shape(x_shape: tuple[int, ...], w_shape: tuple[int, ...], *, stride: Any, padding: Any,
                 dilation: Any, groups: Any) -> tuple[int, ...]:
    """Return the shape of what `forward_problem` describes, with the same checks."""
    layer = _known_layer if literal((stride, padding, dilation, groups)) else _layer
    return (x_shape[0], w_shape[0], *layer(x_shape, w_shape, stride, padding, dilation, groups)[0])


# A network's layers come back with the same few shapes; checking them took half of the time
# that a call spends around its kernel. Problems keep prepared calls, a few kilobytes: no more are
# remembered than several networks have.
@lru_cache(maxsize=1024)
def _known_problem(x_shape, w_shape, dtype, stride, padding, dilation, groups,
                   precision) -> ConvProblem:
    """Return `forward_problem` of plain arguments."""
    return _problem(x_shape, w_shape, dtype, precision,
                    _known_layer(x_shape, w_shape, stride, padding, dilation, groups))


def _known_layer(x_shape, w_shape, *geometry) -> tuple:
    """Return `_layer` of plain arguments, which is the same for every batch."""
    try:
        return _cached_layer(("N", *x_shape[1:]), w_shape, *geometry)
    except (ShapeError, TypeError):  # whose text names the batch
        return _layer(x_shape, w_shape, *geometry)


def _problem(x_shape, w_shape, dtype, precision, layer: tuple) -> ConvProblem:
    out, kernel, stride, padding, dilation, groups = layer
    return _make(x_shape[0], x_shape[1], x_shape[2:], w_shape[0], out, kernel, stride, padding,
                 dilation, groups, dtype, precision)


def _layer(x_shape, w_shape, stride, padding, dilation, groups) -> tuple:
    """Validate; return the output's size, and the geometry."""
    rank = _check_ranks(x_shape, w_shape)
    groups = _check_weight(x_shape[1], w_shape, groups, False, x_shape)
    stride = tuple_of_ints(stride, rank, "stride", 1)
    dilation = tuple_of_ints(dilation, rank, "dilation", 1)
    padding = _padding_pairs(padding, rank)
    kernel = w_shape[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padded = [s + sum(p) for s, p in zip(x_shape[2:], padding, strict=True)]
    if any(r > s for r, s in zip(reach, padded, strict=True)):
        raise ShapeError(f"kernel of size {tuple(kernel)} with dilation {dilation} does not fit "
                         f"the padded input of size {tuple(padded)} (x of shape {x_shape})")
    out = tuple([(s - r) // t + 1 for s, r, t in zip(padded, reach, stride, strict=True)])
    # A longer step is never taken; kernels size their strips by it.
    stride = tuple([min(t, s) for t, s in zip(stride, padded, strict=True)])
    return out, kernel, stride, padding, dilation, groups


_cached_layer = lru_cache(maxsize=4096)(_layer)


def transposed_problem(x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype, *,
                       stride: Any, padding: Any, output_padding: Any, dilation: Any,
                       groups: Any, precision: str = "high") -> ConvProblem:
    """Validate a transposed convolution of x (N, C, ...) with weight (C, O/groups, k...).

    The problem returned is that of the convolution whose input gradient it computes, so
    `in_channels` and `in_size` are those of the transposed convolution's output.

    Raises
    ------
    ShapeError
        When anything does not fit.
    """
    rank = _check_ranks(x_shape, w_shape)
    groups = _check_weight(x_shape[1], w_shape, groups, True, x_shape)
    stride = tuple_of_ints(stride, rank, "stride", 1)
    dilation = tuple_of_ints(dilation, rank, "dilation", 1)
    padding = _padding_pairs(padding, rank)
    extra = tuple_of_ints(output_padding, rank, "output_padding", 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ShapeError(f"expected output_padding {extra} to be smaller than stride {stride} "
                         f"or dilation {dilation}")
    kernel = w_shape[2:]
    if 0 in x_shape[2:]:
        raise ShapeError(f"expected x with no empty spatial axis, got shape {x_shape}")
    size = [(n - 1) * s - sum(p) + d * (k - 1) + e + 1 for n, s, p, d, k, e
            in zip(x_shape[2:], stride, padding, dilation, kernel, extra, strict=True)]
    if any(s < 1 for s in size):
        raise ShapeError(f"output would have size {tuple(size)}: padding {padding} is too large "
                         f"for x of shape {x_shape} and a kernel of size {tuple(kernel)}")
    return _make(x_shape[0], w_shape[1] * groups, size, x_shape[1], x_shape[2:], kernel, stride,
                 padding, dilation, groups, dtype, precision)


def _make(batch, in_channels, in_size, out_channels, out_size, kernel, stride, padding, dilation,
          groups, dtype, precision) -> ConvProblem:
    """Build the problem; one spatial axis becomes width, with height 1."""
    def two(pair, fill):
        pair = tuple(pair)
        return pair if len(pair) == 2 else (fill, *pair)

    return ConvProblem(batch, in_channels, two(in_size, 1), out_channels, two(out_size, 1),
                       two(kernel, 1), two(stride, 1), two(padding, (0, 0)), two(dilation, 1),
                       groups, np.dtype(dtype), precision)
