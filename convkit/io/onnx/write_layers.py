"""Layers as ONNX nodes: convolutions, pools, normalisations, resampling."""

from __future__ import annotations

import math

import numpy as np

from convkit.errors import UnsupportedOperatorError
from convkit.io.onnx.types import elem_of
from convkit.io.onnx.write_math import activated
from convkit.io.onnx.writer import Step, Writer, writes
from convkit.ops.resample import nearest_sources

__all__ = ["average", "flat_pads"]

PAD_MODES = {"zeros": "constant", "constant": "constant", "reflect": "reflect",
             "replicate": "edge", "circular": "wrap"}


def flat_pads(pairs) -> list[int]:
    """Return ((before, after), ...) as ONNX lists it: all before, then all after."""
    return [p[0] for p in pairs] + [p[1] for p in pairs]


def _finish(w: Writer, s: Step, y: str) -> str:
    """Add what is fused behind a layer."""
    if s.input(3) is not None:
        y = w.op("Add", y, s.input(3))
    return activated(w, y, s.attrs.get("activation"), s.attrs.get("activation_args", ()), s.dtype)


@writes("conv")
def conv(w: Writer, s: Step) -> str:
    """Write Conv, with a Pad before it where padding is not by zeros."""
    a, x, pads = s.attrs, s.ins[0], s.attrs["padding"]
    if a["padding_mode"] != "zeros" and any(e for p in pads for e in p):
        x = w.op("Pad", x, w.ints(*flat_pads(((0, 0), (0, 0), *pads))), mode=PAD_MODES[
            a["padding_mode"]])
        pads = [(0, 0)] * len(pads)
    y = w.op("Conv", x, s.ins[1], s.input(2), kernel_shape=list(s.shapes[1][2:]),
             strides=list(a["stride"]), pads=flat_pads(pads), dilations=list(a["dilation"]),
             group=a["groups"])
    return _finish(w, s, y)


@writes("conv_transpose")
def conv_transpose(w: Writer, s: Step) -> str:
    """Write ConvTranspose; output padding of a stride or more becomes less padding, or a Pad."""
    a, bias = s.attrs, s.input(2)
    pads, extra, rest = [], [], []
    for (before, after), e, stride in zip(a["padding"], a["output_padding"], a["stride"],
                                          strict=True):
        less = min(e, after) if e >= stride else 0
        pads.append((before, after - less))
        rest.append(e - less if e >= stride else 0)
        extra.append(e if e < stride else 0)
    late = any(rest)
    y = w.op("ConvTranspose", s.ins[0], s.ins[1], None if late else bias,
             strides=list(a["stride"]), kernel_shape=list(s.shapes[1][2:]), pads=flat_pads(pads),
             dilations=list(a["dilation"]), group=a["groups"], output_padding=extra)
    if not late:
        return y
    y = w.op("Pad", y, w.ints(*flat_pads(((0, 0), (0, 0), *((0, e) for e in rest)))))
    return y if bias is None else w.op("Add", y, _column(w, bias, s.rank))


@writes("linear")
def linear(w: Writer, s: Step) -> str:
    """Write Gemm of matrices, MatMul of anything else."""
    if s.rank == 2:
        return _finish(w, s, w.op("Gemm", *s.ins[:2], s.input(2), transB=1))
    weight = w.op("Transpose", s.ins[1], perm=[1, 0])
    y = w.op("MatMul", s.ins[0], weight)
    return _finish(w, s, y if s.input(2) is None else w.op("Add", y, s.input(2)))


# -- pools ------------------------------------------------------------------------------------


def windows(s: Step) -> dict:
    """Return a pool's windows as attributes.

    With ceil_mode PyTorch drops a last window that would begin in the padding behind; some
    readers of ONNX do not. Such windows are written without ceil_mode, and where other axes need
    that, by explicit padding.
    """
    a, out = s.attrs, s.out[2:]
    dilation = a.get("dilation", (1,) * len(out))
    axes = list(zip(s.shapes[0][2:], a["kernel_size"], a["stride"], a["padding"], dilation,
                    strict=True))
    spans = [n + 2 * p - d * (k - 1) - 1 for n, k, _, p, d in axes]
    strides = [st for _, _, st, _, _ in axes]
    below = all(span // st + 1 == m for span, st, m in zip(spans, strides, out, strict=True))
    above = all(-(-span // st) + 1 == m for span, st, m in zip(spans, strides, out, strict=True))
    form = {"kernel_shape": list(a["kernel_size"]), "strides": strides,
            "pads": list(a["padding"]) * 2, "ceil_mode": int(a["ceil_mode"] and above)}
    if not a["ceil_mode"] or below or above:
        return form
    after = [max(0, (m - 1) * st + d * (k - 1) + 1 - n - p)
             for m, (n, k, st, p, d) in zip(out, axes, strict=True)]
    return {**form, "pads": [*a["padding"], *after]}


def average(w: Writer, s: Step, x: str) -> str:
    """Write AveragePool of `x`; padding that counts is put around it where the form is explicit."""
    padding, form = s.attrs["padding"], windows(s)
    counted = s.attrs["count_include_pad"] and any(padding)
    if counted and form["pads"] != list(padding) * 2:
        rest = [max(0, e - p) for p, e in zip(padding, form["pads"][len(padding):], strict=True)]
        around = flat_pads(((0, 0), (0, 0), *((p, p) for p in padding)))
        x, form["pads"], counted = w.op("Pad", x, w.ints(*around)), [0] * len(rest) + rest, False
    return w.op("AveragePool", x, count_include_pad=int(counted), **form)


@writes("max_pool")
def max_pool(w: Writer, s: Step):
    """Write MaxPool; its indices count over the whole tensor, ours over the spatial axes."""
    form = {**windows(s), "dilations": list(s.attrs["dilation"])}
    if not s.attrs["return_indices"]:
        # onnxruntime (its pull request 18136; still in 1.31) lets MaxPool, which pads with -inf,
        # do what a Pad before it does with any number; not where there are indices as well.
        if w.makes(s.ins[0]) == "Pad":
            return w.op("MaxPool", s.ins[0], outputs=2, **form)[0]
        return w.op("MaxPool", s.ins[0], **form)
    return _with_places(w, s, form)


def _with_places(w: Writer, s: Step, form: dict) -> tuple[str, str]:
    y, places = w.op("MaxPool", s.ins[0], outputs=2, **form)
    plane = w.scalar(math.prod(s.shapes[0][2:]), "int64")
    return y, w.op("Mod", places, plane)


@writes("avg_pool")
def avg_pool(w: Writer, s: Step) -> str:
    """Write AveragePool; with a divisor of its own, over explicit zeros."""
    a = s.attrs
    if a["divisor_override"] is None:
        return average(w, s, s.ins[0])
    edges = [(p, (o - 1) * st + k - n - p) for p, o, st, k, n in zip(
        a["padding"], s.out[2:], a["stride"], a["kernel_size"], s.shapes[0][2:], strict=True)]
    x = w.op("Pad", s.ins[0], w.ints(*flat_pads(((0, 0), (0, 0), *edges))))
    y = w.op("AveragePool", x, kernel_shape=list(a["kernel_size"]), strides=list(a["stride"]))
    return w.op("Mul", y, w.scalar(math.prod(a["kernel_size"]) / a["divisor_override"], s.dtype))


def _even(s: Step) -> list[int] | None:
    """Return the windows' size where an adaptive pool has equal ones side by side."""
    pairs = list(zip(s.shapes[0][2:], s.attrs["output_size"], strict=True))
    return [n // m for n, m in pairs] if all(n % m == 0 for n, m in pairs) else None


@writes("adaptive_avg_pool")
def adaptive_avg_pool(w: Writer, s: Step) -> str:
    """Write GlobalAveragePool, AveragePool, or a product with a matrix of averages per axis."""
    if all(n == 1 for n in s.attrs["output_size"]):
        return w.op("GlobalAveragePool", s.ins[0])
    kernel = _even(s)
    if kernel is not None:
        return w.op("AveragePool", s.ins[0], kernel_shape=kernel, strides=kernel)
    matrices = [_averages(n, m, s.dtype) for n, m in zip(
        s.shapes[0][2:], s.attrs["output_size"], strict=True)]
    y = w.op("MatMul", s.ins[0], w.constant(matrices[-1].T, "averages"))
    return w.op("MatMul", w.constant(matrices[0], "averages"), y) if s.rank == 4 else y


def _bounds(n: int, m: int) -> list[tuple[int, int]]:
    """Return where the windows of an adaptive pool begin and end."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _averages(n: int, m: int, dtype: str) -> np.ndarray:
    matrix = np.zeros((m, n), dtype)
    for row, (begin, end) in enumerate(_bounds(n, m)):
        matrix[row, begin:end] = 1 / (end - begin)
    return matrix


@writes("adaptive_max_pool")
def adaptive_max_pool(w: Writer, s: Step):
    """Write GlobalMaxPool, MaxPool, or the largest of every window."""
    kernel = _even(s)
    if kernel is not None:
        form = {"kernel_shape": kernel, "strides": kernel}
        if s.attrs["return_indices"]:
            return _with_places(w, s, form)
        if all(n == 1 for n in s.attrs["output_size"]):
            return w.op("GlobalMaxPool", s.ins[0])
        return w.op("MaxPool", s.ins[0], **form)
    if s.attrs["return_indices"]:
        raise UnsupportedOperatorError("adaptive_max_pool with indices over windows of several "
                                       "sizes has no form in ONNX")
    y = s.ins[0]
    for axis, n, m in zip(range(2, s.rank), s.shapes[0][2:], s.attrs["output_size"], strict=True):
        parts = [w.op("ReduceMax", w.op("Slice", y, w.ints(begin), w.ints(end), w.ints(axis)),
                      w.ints(axis)) for begin, end in _bounds(n, m)]
        y = w.op("Concat", *parts, axis=axis)
    return y


# -- normalisations ---------------------------------------------------------------------------


def _filled(w: Writer, name: str | None, value: float, shape, dtype: str) -> str:
    """Return a parameter's name, or that of one that changes nothing."""
    return name or w.constant(np.full(shape, value, dtype), "filled")


def _affine(w: Writer, s: Step, shape) -> tuple[str, str]:
    """Return the names of weight and bias."""
    return (_filled(w, s.input(1), 1, shape, s.dtype), _filled(w, s.input(2), 0, shape, s.dtype))


@writes("batch_norm")
def batch_norm(w: Writer, s: Step) -> str:
    """Write BatchNormalization."""
    return w.op("BatchNormalization", s.ins[0], *_affine(w, s, s.shapes[0][1:2]), *s.ins[3:5],
                epsilon=s.attrs["eps"])


def _column(w: Writer, name: str, rank: int) -> str:
    """Return a vector of channels in the form that broadcasts against (N, C, ...)."""
    return name if rank == 2 else w.op("Unsqueeze", name, w.ints(*range(1, rank - 1)))


@writes("batch_norm_train")
def batch_norm_train(w: Writer, s: Step) -> tuple[str, str, str]:
    """Write Mean and variance of the batch, and what they normalise."""
    axes = w.ints(0, *range(2, s.rank))
    mean = w.op("ReduceMean", s.ins[0], axes)
    apart = w.op("Sub", s.ins[0], mean)
    var = w.op("ReduceMean", w.op("Mul", apart, apart), axes)
    y = w.op("Div", apart, w.op("Sqrt", w.op("Add", var, w.scalar(s.attrs["eps"], s.dtype))))
    if s.input(1) is not None:
        y = w.op("Mul", y, _column(w, s.ins[1], s.rank))
    if s.input(2) is not None:
        y = w.op("Add", y, _column(w, s.ins[2], s.rank))
    return y, *(w.reshape(v, s.shapes[0][1:2]) for v in (mean, var))


@writes("image")
def image(w: Writer, s: Step) -> str:
    """Write bytes as floats with channels second, times and plus one number per channel."""
    y = w.op("Cast", s.ins[0], to=elem_of(s.dtypes[1]))
    if s.attrs["layout"] == "NHWC":
        y = w.op("Transpose", y, perm=[0, 3, 1, 2])
    return w.op("Add", w.op("Mul", y, _column(w, s.ins[1], 4)), _column(w, s.ins[2], 4))


@writes("affine")
def affine(w: Writer, s: Step) -> str:
    """Write a product and a sum per channel."""
    y = w.op("Mul", s.ins[0], _column(w, s.ins[1], s.rank))
    y = w.op("Add", y, _column(w, s.ins[2], s.rank))
    return activated(w, y, s.attrs["activation"], s.attrs["activation_args"], s.dtype)


@writes("layer_norm")
def layer_norm(w: Writer, s: Step) -> str:
    """Write LayerNormalization."""
    shape = s.attrs["normalized_shape"]
    return w.op("LayerNormalization", s.ins[0], *_affine(w, s, shape), axis=-len(shape),
                epsilon=s.attrs["eps"])


@writes("group_norm")
def group_norm(w: Writer, s: Step) -> str:
    """Write InstanceNormalization of the groups, then a product and a sum per channel."""
    groups, eps = s.attrs["num_groups"], s.attrs["eps"]
    flat = w.op("Reshape", s.ins[0], w.ints(0, groups, -1))
    y = w.op("InstanceNormalization", flat, *(
        w.constant(np.full(groups, v, s.dtype), "filled") for v in (1, 0)), epsilon=eps)
    y = w.op("Reshape", y, w.op("Shape", s.ins[0]))
    if s.input(1) is not None:
        y = w.op("Mul", y, _column(w, s.ins[1], s.rank))
    return y if s.input(2) is None else w.op("Add", y, _column(w, s.ins[2], s.rank))


@writes("instance_norm")
def instance_norm(w: Writer, s: Step) -> str:
    """Write InstanceNormalization."""
    return w.op("InstanceNormalization", s.ins[0], *_affine(w, s, s.shapes[0][1:2]),
                epsilon=s.attrs["eps"])


@writes("local_response_norm")
def local_response_norm(w: Writer, s: Step) -> str:
    """Write LRN; over an even number of channels the sum it stands for, centred as by PyTorch."""
    a, size = s.attrs, s.attrs["size"]
    if size % 2 and s.rank == 4:
        return w.op("LRN", s.ins[0], size=size, alpha=a["alpha"], beta=a["beta"], bias=a["k"])
    edges = [(0, 0)] * s.rank
    edges[1] = (size // 2, (size - 1) // 2)
    squares = w.op("Pad", w.op("Mul", s.ins[0], s.ins[0]), w.ints(*flat_pads(edges)))
    parts = [w.op("Slice", squares, w.ints(i), w.ints(i + s.out[1]), w.ints(1))
             for i in range(size)]
    total = w.op("Sum", *parts)
    inner = w.op("Mul", total, w.scalar(a["alpha"] / size, s.dtype))
    inner = w.op("Pow", w.op("Add", inner, w.scalar(a["k"], s.dtype)), w.scalar(a["beta"], s.dtype))
    return w.op("Div", s.ins[0], inner)


# -- resampling -------------------------------------------------------------------------------


@writes("pad")
def pad(w: Writer, s: Step) -> str:
    """Write Pad; what is cut off is cut off last, as every mode looks at the whole input."""
    a = s.attrs
    wide = [(max(before, 0), max(after, 0)) for before, after in a["padding"]]
    value = w.scalar(a["value"], s.dtype) if a["mode"] == "constant" else None
    y = s.ins[0]
    if any(e for p in wide for e in p):
        y = w.op("Pad", y, w.ints(*flat_pads(wide)), value, mode=PAD_MODES[a["mode"]])
    cuts = [(i, max(-before, 0), min(after, 0) or 2**31 - 1)
            for i, (before, after) in enumerate(a["padding"]) if min(before, after) < 0]
    if cuts:
        axes, starts, ends = zip(*cuts, strict=True)
        y = w.op("Slice", y, w.ints(*starts), w.ints(*ends), w.ints(*axes))
    return y if y != s.ins[0] else w.op("Identity", y)


@writes("upsample")
def upsample(w: Writer, s: Step) -> str:
    """Write Resize; nearest neighbours at uneven ratios by place, so that no rounding differs."""
    a, before, after = s.attrs, s.shapes[0][2:], s.out[2:]
    factors = a["scale_factor"] or (None,) * len(after)
    axes = list(range(2, s.rank))
    whole = all(m % n == 0 and f in (None, m // n)
                for n, m, f in zip(before, after, factors, strict=True))
    if whole:
        times = w.constant(np.asarray([m // n for n, m in zip(before, after, strict=True)],
                                      np.float32))
    if a["mode"] == "nearest":
        if whole:
            return w.op("Resize", s.ins[0], None, times, axes=axes, mode="nearest",
                        coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        y = s.ins[0]
        for axis, (n, m, f) in enumerate(zip(before, after, factors, strict=True), 2):
            if n != m:
                y = w.op("Gather", y, w.constant(nearest_sources(n, m, f), "places"), axis=axis)
        return y if y != s.ins[0] else w.op("Identity", y)
    form = {"mode": "linear", "coordinate_transformation_mode":
            "align_corners" if a["align_corners"] else "half_pixel"}
    if whole:
        return w.op("Resize", s.ins[0], None, times, axes=axes, **form)
    if a["scale_factor"] is None or a["align_corners"]:
        return w.op("Resize", s.ins[0], None, None, w.ints(*after), axes=axes, **form)
    scales = [1.0 if n == m else f for n, m, f in zip(before, after, factors, strict=True)]
    return w.op("Resize", s.ins[0], None, w.constant(np.asarray((1, 1, *scales), np.float32)),
                **form)


@writes("resize")
def resize(w: Writer, s: Step) -> str:
    """Write Resize, attribute by attribute."""
    a = s.attrs
    # Only the axes that change: runtimes have no kernels that resample a batch.
    crop = a["coordinates"] == "tf_crop_and_resize"
    axes = [i for i, (n, m) in enumerate(zip(s.shapes[0], s.out, strict=True))
            if n != m or crop or (a["scale"] is not None and a["scale"][i] != 1)]
    if not axes:
        return w.op("Identity", s.ins[0])
    roi = None
    if a["roi"] is not None and crop:
        ends = [a["roi"][i][0] for i in axes] + [a["roi"][i][1] for i in axes]
        roi = w.constant(np.asarray(ends, np.float32), "roi")
    scales = sizes = None
    if a["scale"] is None:
        sizes = w.ints(*(s.out[i] for i in axes))
    else:
        scales = w.constant(np.asarray([a["scale"][i] for i in axes], np.float32), "scales")
    return w.op("Resize", s.ins[0], roi, scales, sizes, axes=axes, mode=a["mode"],
                coordinate_transformation_mode=a["coordinates"], nearest_mode=a["nearest_mode"],
                cubic_coeff_a=a["cubic_coeff_a"], exclude_outside=int(a["exclude_outside"]),
                antialias=int(a["antialias"]), extrapolation_value=a["extrapolation_value"])
