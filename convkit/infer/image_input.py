"""Images as they come, bytes with channels last, in place of a network's own input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from convkit.errors import ShapeError
from convkit.infer.dims import Shape, show
from convkit.infer.graph import Graph, Growing, Node, Port, Value
from convkit.infer.schema import complete
from convkit.ops.image import LAYOUTS

__all__ = ["image_layout", "with_images", "with_layout"]


def with_images(graph: Graph, image: Any, layout: str | None = None) -> Graph:
    """Return the graph with an input of uint8 images in place of its own.

    Parameters
    ----------
    graph : Graph
        With one input (N, C, H, W) of floats, among others or alone.
    image : True, dict or convkit.data.preprocess.Pipeline
        What makes the network's input of images: True divides by 255; a dictionary with
        "mean" and "std" (numbers, or one per channel, of values from 0 to 1; each may be left
        out) also subtracts and divides, as torchvision's ``Normalize``; a pipeline is one of
        `Center`, `Normalize` and `MinMax` steps.
    layout : {"NHWC", "NCHW"}, optional
        Of the images; "NHWC" by default.

    Raises
    ------
    ShapeError
        When the graph has no such input, or there are numbers for other channels.
    ValueError
        When `image` is none of those, divides by zero, or has steps that mix pixels.
    """
    layout = _checked("NHWC" if layout is None else layout)
    ports = [p for p in graph.inputs if _takes_images(graph, p.value)]
    if len(ports) != 1:
        raise ShapeError("expected a network with one input (N, C, H, W) of floats to give "
                         f"images to, got {[show(graph.shape(p.value)) for p in graph.inputs]}")
    value = ports[0].value
    info = graph.values[value]
    scale, shift = (np.array(np.broadcast_to(v, info.shape[1]), info.dtype)
                    for v in _numbers(image, info.shape[1]))
    grown = Growing(graph)
    raw = grown.add_value(Value(_laid_out(info.shape, layout), "uint8"))
    numbers = [grown.add_constant(array, f"image.{what}")
               for what, array in (("scale", scale), ("shift", shift))]
    node = Node("image", (raw, *numbers), (value,), {"layout": layout}, "image")
    return _rewired(graph, grown, {value: raw}, (node,))


def with_layout(graph: Graph, layout: str) -> Graph:
    """Return the graph with inputs (N, C, H, W) taken as (N, H, W, C) for "NHWC"."""
    if _checked(layout) == "NCHW":
        return graph
    grown, nodes, renamed = Growing(graph), [], {}
    for port in graph.inputs:
        info = graph.values[port.value]
        if len(info.shape) != 4:
            continue
        raw = renamed[port.value] = grown.add_value(
            Value(_laid_out(info.shape, layout), info.dtype))
        nodes.append(Node("permute", (raw,), (port.value,),
                          complete("permute", {"dims": (0, 3, 1, 2)}), f"{port.name}.layout"))
    if not nodes:
        raise ShapeError("expected an input (N, C, H, W) to take with channels last, got "
                         f"{[show(graph.shape(p.value)) for p in graph.inputs]}")
    return _rewired(graph, grown, renamed, tuple(nodes))


def image_layout(graph: Graph) -> str | None:
    """Return the layout in which a graph takes images of bytes, None where it takes none."""
    given = {p.value for p in graph.inputs}
    return next((n.attrs["layout"] for n in graph.nodes
                 if n.op == "image" and n.inputs[0] in given), None)


def _rewired(graph: Graph, grown: Growing, renamed: dict[int, int],
             first: tuple[Node, ...]) -> Graph:
    """Return the graph with other inputs, and nodes in front that make the old ones of them."""
    ports = tuple([Port(p.name, renamed.get(p.value, p.value)) for p in graph.inputs])
    return dataclasses.replace(graph, inputs=ports, constants=grown.constants,
                               values=grown.values, nodes=(*first, *graph.nodes))


def _checked(layout: Any) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f"expected layout {' or '.join(LAYOUTS)}, got {layout!r}")
    return layout


def _takes_images(graph: Graph, value: int) -> bool:
    info = graph.values[value]
    return (len(info.shape) == 4 and isinstance(info.shape[1], int)
            and info.dtype in ("float32", "float64"))


def _laid_out(shape: Shape, layout: str) -> Shape:
    n, c, h, w = shape
    return (n, h, w, c) if layout == "NHWC" else shape


def _numbers(image: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what bytes are multiplied by and what is added, in float64, one or per channel."""
    scale, shift = np.full(1, 1 / 255), np.zeros(1)
    for mean, std in _steps(image):
        for what, v in (("mean", mean), ("std", std)):
            if v.shape not in ((1,), (channels,)) or not np.isfinite(v).all():
                raise ShapeError(f"expected {what} of one finite number or {channels}, one per "
                                 f"channel, got shape {v.shape}")
        if not std.all():
            raise ValueError("expected std other than 0")
        scale, shift = scale / std, (shift - mean) / std
    return scale, shift


def _steps(image: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what each step subtracts and then divides by."""
    if image is True:
        return []
    if isinstance(image, Mapping):
        if not image.keys() <= {"mean", "std"}:
            raise ValueError(f"image: expected mean and std, got {sorted(map(str, image))}")
        return [(_vector(image.get("mean", 0.0)), _vector(image.get("std", 1.0)))]
    from convkit.data.preprocess import Center, MinMax, Normalize, Pipeline

    if not isinstance(image, Pipeline):
        raise ValueError("image: expected True, a dictionary with mean and std, or a "
                         f"preprocess.Pipeline, got {type(image).__name__}")
    found = []
    for step in image.steps:
        if not isinstance(step, (Center, MinMax, Normalize)):
            raise ValueError(f"image: {type(step).__name__} is no multiply-add per channel; "
                             "apply it to the images instead")
        arrays = {name: _vector(a) for name, a in step.arrays.items()}
        if isinstance(step, MinMax):
            found.append((arrays["low"], arrays["high"] - arrays["low"]))
        else:
            found.append((arrays["mean"], arrays.get("std", np.ones(1))))
    return found


def _vector(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64).reshape(-1)
