"""What convolutions and pools share: padding by name, sizes, and windows along each axis."""

from __future__ import annotations

from typing import NamedTuple

from convkit.errors import ModelFormatError
from convkit.io.onnx.node import Operator

__all__ = ["Windows", "per_axis", "windows"]


class Windows(NamedTuple):
    """Windows over spatial axes, one entry of each field per axis.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
        As in the operator.
    pads : tuple of (int, int)
        Padding before and after as declared, or as `auto_pad` says.
    outputs : tuple of int
        How many windows there are.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]

    def reach(self, i: int) -> int:
        """Return how many elements a window of axis i spans."""
        return self.dilation[i] * (self.kernel[i] - 1) + 1

    def exact(self, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Return padding with which the windows just fill each axis; negative cuts off."""
        return tuple(
            (before, (self.outputs[i] - 1) * self.stride[i] + self.reach(i) - sizes[i] - before)
            for i, (before, _) in enumerate(self.pads))

    def only(self, *axes: int) -> Windows:
        """Return the windows along some of the axes."""
        return Windows(*[tuple(field[i] for i in axes) for field in self])


def per_axis(node: Operator, name: str, count: int, default: int) -> tuple[int, ...]:
    """Return an attribute with one entry per spatial axis."""
    values = node.attrs.get(name) or (default,) * count
    if len(values) != count:
        raise ModelFormatError(f"{name}: expected {count} values, got {len(values)}")
    if min(values) < (0 if name == "output_padding" else 1):
        raise ModelFormatError(f"{name}: expected positive values, got {values}")
    return values


def windows(node: Operator, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Windows:
    """Return the windows of a convolution or pool over axes of the given sizes."""
    count = len(sizes)
    stride = per_axis(node, "strides", count, 1)
    dilation = per_axis(node, "dilations", count, 1)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        outputs = tuple(-(-n // s) for n, s in zip(sizes, stride, strict=True))
        totals = [max((m - 1) * s + r - n, 0)
                  for m, s, r, n in zip(outputs, stride, reach, sizes, strict=True)]
        smaller = [(t // 2, t - t // 2) for t in totals]
        pads = tuple(p if auto == "SAME_UPPER" else p[::-1] for p in smaller)
        return Windows(kernel, stride, dilation, pads, outputs)
    if auto not in ("NOTSET", "VALID", ""):
        raise ModelFormatError(f"auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, "
                               f"got {auto!r:.80}")
    flat = (node.attrs.get("pads") or (0,) * (2 * count)) if auto != "VALID" else (0,) * (2 * count)
    if len(flat) != 2 * count or min(flat) < 0:
        raise ModelFormatError(f"pads: expected {2 * count} values of at least 0, got {flat[:16]}")
    pads = tuple(zip(flat[:count], flat[count:], strict=True))
    ceil = bool(node.attrs.get("ceil_mode", 0))
    outputs = tuple(_count(n, r, s, *p, ceil)
                    for n, r, s, p in zip(sizes, reach, stride, pads, strict=True))
    if min(outputs) < 1:
        raise ModelFormatError(f"windows of {reach} elements do not fit sizes {sizes} with "
                               f"padding {pads}")
    return Windows(kernel, stride, dilation, pads, outputs)


def _count(size: int, reach: int, stride: int, before: int, after: int, ceil: bool) -> int:
    """Return how many windows there are; the last must begin inside the input or before it."""
    span = size + before + after - reach
    if not ceil:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count
