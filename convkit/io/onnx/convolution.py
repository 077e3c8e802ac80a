"""Convolutions, of one to three spatial axes, and their transposed forms."""

from __future__ import annotations

import numpy as np

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, handles
from convkit.io.onnx.node import Operator, Val
from convkit.io.onnx.windows import Windows, per_axis, windows

__all__ = ["conv", "padding_of"]


def _operands(node: Operator) -> tuple[Val, Val, Val | None, tuple[int, ...]]:
    """Return x, weight, bias and the kernel's size, ranks checked."""
    x, weight, bias = node.input(0), node.input(1), node.input(2)
    kernel = weight.shape[2:]
    if x.rank != weight.rank or not 3 <= x.rank <= 5:
        raise UnsupportedOperatorError(
            f"{node.type} of x with {x.rank} axes and weight with {weight.rank}")
    declared = node.attrs.get("kernel_shape")
    if declared and tuple(declared) != kernel:
        raise ModelFormatError(f"kernel_shape is {declared[:8]}, the weight's is {kernel}")
    return x, weight, bias, kernel


@handles("Conv")
def conv(b: Builder, node: Operator) -> Val:
    """Return convolution; one over volumes runs as one over slices (`_volumes`)."""
    x, weight, bias, kernel = _operands(node)
    form = windows(node, x.shape[2:], kernel)
    if x.rank == 5:
        return _volumes(b, x, weight, bias, form, node.attrs["group"])
    return _conv(b, x, weight, bias, form, node.attrs["group"])


def _conv(b: Builder, x: Val, weight: Val, bias: Val | None, form: Windows, groups: int) -> Val:
    return b.op("conv", x, weight, bias, stride=form.stride, padding=padding_of(form, x.shape[2:]),
                dilation=form.dilation, groups=groups, padding_mode="zeros")


def padding_of(form: Windows, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return (before, after) per axis with which a convolution has as many outputs as declared."""
    if form.outputs != tuple((n + sum(p) - form.reach(i)) // form.stride[i] + 1 for i, (n, p) in
                             enumerate(zip(sizes, form.pads, strict=True))):
        return form.exact(sizes)
    return form.pads


def _volumes(b: Builder, x: Val, weight: Val, bias: Val | None, form: Windows, groups: int) -> Val:
    """Convolve over depth, height and width as one convolution over height and width.

    The slices that each output slice is made of are laid side by side as channels, and the
    output slices become samples.
    """
    n, c, *sizes = x.shape
    o, per_group, taps, *kernel = weight.shape
    depth, stride, step = form.outputs[0], form.stride[0], form.dilation[0]
    before, after = form.exact(tuple(sizes))[0]
    if before or after:
        x = b.op("pad", x, padding=((0, 0), (0, 0), (before, after), (0, 0), (0, 0)))
    slices = []
    for tap in range(taps):
        cut = b.op("slice", x, starts=(None, None, tap * step, None, None),
                   stops=(None, None, tap * step + (depth - 1) * stride + 1, None, None),
                   steps=(None, None, stride, None, None))
        grouped = b.reshape(cut, (n, groups, c // groups, depth, *sizes[1:]))
        slices.append(b.op("permute", grouped, dims=(0, 3, 1, 2, 4, 5)))
    stack = b.op("concat", *slices, dim=3) if taps > 1 else slices[0]
    flat = b.reshape(stack, (n * depth, c * taps, *sizes[1:]))
    weight = b.op("permute", weight, dims=(0, 2, 1, 3, 4))
    weight = b.reshape(weight, (o, taps * per_group, *kernel))
    y = _conv(b, flat, weight, bias, form.only(1, 2), groups)
    y = b.reshape(y, (n, depth, o, *form.outputs[1:]))
    return b.op("permute", y, dims=(0, 2, 1, 3, 4))


@handles("ConvTranspose")
def conv_transpose(b: Builder, node: Operator) -> Val:
    """Return transposed convolution, cut or padded to the size that is asked for."""
    x, weight, bias, kernel = _operands(node)
    count, groups = len(kernel), node.attrs["group"]
    stride, dilation = per_axis(node, "strides", count, 1), per_axis(node, "dilations", count, 1)
    pads, extra = _transposed_pads(node, x.shape[2:], kernel, stride, dilation)
    if x.rank == 5:
        y = _transposed_volumes(b, x, weight, stride, dilation, groups)
    elif all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)) and all(
            p >= 0 for pair in pads for p in pair):
        return b.op("conv_transpose", x, weight, bias, stride=stride, padding=pads,
                    output_padding=extra, groups=groups, dilation=dilation)
    else:
        y = _transposed(b, x, weight, stride, dilation, groups)
    edges = tuple((-before, e - after) for (before, after), e in zip(pads, extra, strict=True))
    if any(e for pair in edges for e in pair):
        y = b.op("pad", y, padding=((0, 0), (0, 0), *edges))
    return y if bias is None else b.op("add", y, b.reshape(bias, (bias.size, *(1,) * count)))


def _transposed(b: Builder, x: Val, weight: Val, stride, dilation, groups: int) -> Val:
    """Return the whole result, without padding cut off."""
    zeros = (0,) * len(stride)
    return b.op("conv_transpose", x, weight, stride=stride, padding=tuple((0, 0) for _ in stride),
                output_padding=zeros, groups=groups, dilation=dilation)


def _transposed_pads(node: Operator, sizes, kernel, stride, dilation):
    """Return what is cut off before and after each axis, and the output padding."""
    count = len(sizes)
    extra = per_axis(node, "output_padding", count, 0)
    auto, wanted = node.attrs.get("auto_pad", "NOTSET"), node.attrs.get("output_shape")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ModelFormatError(f"auto_pad: unknown word {auto!r:.80}")
    if not wanted and auto.startswith("SAME"):
        wanted = tuple(n * s for n, s in zip(sizes, stride, strict=True))
    if wanted:
        wanted = wanted[-count:]
        if len(wanted) != count or min(wanted) < 1:
            raise ModelFormatError(f"output_shape: expected {count} sizes, got {wanted[:8]}")
        totals = [(n - 1) * s + e + d * (k - 1) + 1 - w for n, s, e, d, k, w in
                  zip(sizes, stride, extra, dilation, kernel, wanted, strict=True)]
        smaller = [(t // 2, t - t // 2) for t in totals]
        # Without SAME_UPPER, the larger part comes first, as the operator's document has it.
        return tuple(p if auto == "SAME_UPPER" else p[::-1] for p in smaller), extra
    flat = (node.attrs.get("pads") or (0,) * (2 * count)) if auto != "VALID" else (0,) * (2 * count)
    if len(flat) != 2 * count:
        raise ModelFormatError(f"pads: expected {2 * count} values, got {len(flat)}")
    return tuple(zip(flat[:count], flat[count:], strict=True)), extra


def _transposed_volumes(b: Builder, x: Val, weight: Val, stride, dilation, groups: int) -> Val:
    """Return a transposed convolution over volumes, nothing cut off.

    All kernel slices run as one transposed convolution of the input's slices; each result is
    then spread along the depth and added where it belongs.
    """
    n, c, depth, *sizes = x.shape
    _, per_group, taps, *kernel = weight.shape
    flat = b.reshape(b.op("permute", x, dims=(0, 2, 1, 3, 4)), (n * depth, c, *sizes))
    # Output channels of one group: its own, for every kernel slice.
    weight = b.reshape(b.op("permute", weight, dims=(0, 2, 1, 3, 4)),
                       (c, taps * per_group, *kernel))
    y = _transposed(b, flat, weight, stride[1:], dilation[1:], groups)
    o, after = groups * per_group, y.shape[2:]
    y = b.reshape(y, (n, depth, groups, taps, per_group, *after))
    y = b.op("permute", y, dims=(0, 3, 2, 4, 1, 5, 6))
    y = b.reshape(y, (n, taps, o, depth, 1, after[0] * after[1]))
    total = (depth - 1) * stride[0] + (taps - 1) * dilation[0] + 1
    parts = []
    for tap in range(taps):
        part = b.op("slice", y, starts=(None, tap, *(None,) * 4), stops=(None, tap + 1,
                    *(None,) * 4), steps=(None,) * 6)
        part = b.op("pad", part, padding=((0, 0),) * 4 + ((0, stride[0] - 1), (0, 0)))
        part = b.reshape(part, (n, o, depth * stride[0], after[0] * after[1]))
        start = tap * dilation[0]
        part = b.op("pad", part, padding=(
            (0, 0), (0, 0), (start, total - start - depth * stride[0]), (0, 0)))
        parts.append(part)
    y = parts[0]
    for part in parts[1:]:
        y = b.op("add", y, part)
    return b.reshape(y, (n, o, total, *after))


@handles("Gemm")
def gemm(b: Builder, node: Operator) -> Val:
    """Return alpha A B + beta C, as a linear layer."""
    a, w, c = node.input(0), node.input(1), node.input(2)
    if a.rank != 2 or w.rank != 2:
        raise ModelFormatError(f"Gemm of shapes {a.shape} and {w.shape}, expected matrices")
    alpha, beta = node.attrs["alpha"], node.attrs["beta"]
    if not a.is_float:
        return _integer_gemm(b, node)
    if node.attrs["transA"]:
        a = b.op("permute", a, dims=(1, 0))
    if not node.attrs["transB"]:
        w = b.op("permute", w, dims=(1, 0))
    if alpha != 1:
        w = b.op("mul", w, b.like(alpha, w))
    if c is not None and beta != 1:
        c = b.op("mul", c, b.like(beta, c))
    if c is not None and c.array is not None and c.size in (1, w.shape[0]) and (
            c.size == 1 or c.shape[-1:] == w.shape[:1]):
        bias = b.constant(np.broadcast_to(c.array.reshape(-1), w.shape[:1]).copy(),
                          b.constants[c.number].name)
        return b.op("linear", a, w, bias)
    if c is not None and c.shape == w.shape[:1]:
        return b.op("linear", a, w, c)
    y = b.op("linear", a, w)
    return y if c is None else b.op("add", y, c)


def _integer_gemm(b: Builder, node: Operator) -> Val:
    """Return Gemm of integers, computed in float64, which is exact up to 2^53."""
    wide = Operator(node.type, node.opset,
                    [None if x is None else b.cast(x, "float64") for x in node.inputs],
                    node.attrs, node.outputs)
    return b.cast(gemm(b, wide), node.input(0).dtype)


@handles("MatMul")
def matmul(b: Builder, node: Operator) -> Val:
    """Return a matrix product; one by a constant matrix is a linear layer with packed weights."""
    a, w = node.input(0), node.input(1)
    if not a.is_float:
        return b.cast(b.op("matmul", b.cast(a, "float64"), b.cast(w, "float64")), a.dtype)
    if w.array is not None and w.rank == 2 and 0 not in w.shape and a.rank >= 1:
        return b.op("linear", a, b.op("permute", w, dims=(1, 0)))
    return b.op("matmul", a, w)
