"""convkit as a backend of ONNX's own interface, so that ONNX's standard tests run against it."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit.errors import ShapeError
from convkit.infer import Program, run_pipeline
from convkit.io.onnx.importer import Importer, NeedsInputs
from convkit.io.onnx.package import require_onnx
from convkit.io.onnx.parse import check_model
from convkit.io.onnx.types import held

__all__ = ["Backend", "BackendRep"]

require_onnx()
import onnx.backend.base as _base  # noqa: E402

MAX_PROGRAMS = 8


class BackendRep(_base.BackendRep):
    """A model made ready; programs are compiled for the shapes that come and kept.

    Inputs whose values decide shapes (the target of a Reshape) are bound when they come.
    """

    def __init__(self, model: Any):
        self._importer = Importer(model, None, model.ByteSize())
        self._elems = [o.type.tensor_type.elem_type for o in model.graph.output]
        self._bound: set[str] = set()
        self._programs: OrderedDict[Any, Program] = OrderedDict()

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence or dict of array_like
            One array per input of the graph, in order or by name.

        Returns
        -------
        tuple of numpy.ndarray
            The outputs in order, in the element types that the model declares.
        """
        arrays = self._arrays(inputs)
        program = self._program(arrays)
        given = {n: a for n, a in arrays.items() if n in program.input_shapes}
        results = program.run(given)
        results = results if isinstance(results, tuple) else (results,)
        to_numpy = require_onnx().helper.tensor_dtype_to_np_dtype
        return tuple([r.astype(to_numpy(elem), copy=False) if elem else r
                      for r, elem in zip(results, self._elems, strict=True)])

    def _arrays(self, inputs: Any) -> dict[str, np.ndarray]:
        """Return inputs by name, in the types in which convkit holds them."""
        infos = self._importer.inputs
        if isinstance(inputs, Mapping):
            inputs = [inputs[i.name] for i in infos]
        elif not isinstance(inputs, Sequence):
            inputs = [inputs]
        if len(inputs) != len(infos):
            raise ShapeError(f"expected {len(infos)} inputs, got {len(inputs)}")
        return {i.name: _array(x).astype(held(i.elem), copy=False)
                for i, x in zip(infos, inputs, strict=True)}

    def _program(self, arrays: dict[str, np.ndarray]) -> Program:
        """Return the program for these shapes, and for the values of inputs that decide some."""
        while True:
            bound = {n: arrays[n] for n in sorted(self._bound)}
            key = (tuple((n, a.shape) for n, a in arrays.items()),
                   tuple(a.tobytes() for a in bound.values()))
            if key in self._programs:
                self._programs.move_to_end(key)
                return self._programs[key]
            try:
                graph = self._importer.build({n: a.shape for n, a in arrays.items()}, bound)
            except NeedsInputs as need:
                self._bound |= need.names
                continue
            self._programs[key] = program = Program(run_pipeline(graph))
            if len(self._programs) > MAX_PROGRAMS:
                self._programs.popitem(last=False)
            return program


def _array(x: Any) -> np.ndarray:
    """Return an input as an array."""
    onnx = require_onnx()
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)


class Backend(_base.Backend):
    """``onnx.backend.base.Backend`` for convkit; devices: "CPU"."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Tell whether a device is the CPU."""
        return _base.Device(device).type == _base.DeviceType.CPU

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Return a model made ready to run.

        Raises
        ------
        ModelFormatError, UnsupportedOperatorError
            As `convkit.io.onnx.load`; what depends on shapes may come with the first run.
        """
        if not cls.supports_device(device):
            raise ValueError(f"expected device 'CPU', got {device!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().prepare(model, device, **kwargs)
        check_model(model)
        return BackendRep(model)

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None,
                 **kwargs: Any) -> tuple:
        """Run a single node.

        Parameters
        ----------
        node : onnx.NodeProto
            The node.
        inputs : sequence of array_like
            One array per named input.
        device : str
            "CPU".
        outputs_info : sequence of (dtype, shape), optional
            Element types and shapes of the outputs; types default to the first input's.
        **kwargs
            ``opset_version`` chooses the version of the operators.
        """
        onnx = require_onnx()
        helper = onnx.helper
        arrays = [np.asarray(x) for x in inputs]
        names = [n for n in node.input if n]
        types = [helper.np_dtype_to_tensor_dtype(a.dtype) for a in arrays]
        infos = [helper.make_tensor_value_info(n, t, a.shape)
                 for n, t, a in zip(names, types, arrays, strict=True)]
        outputs = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
        if outputs_info is not None:
            outputs = [helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), s)
                for n, (t, s) in zip([n for n in node.output if n], outputs_info, strict=True)]
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        graph = helper.make_graph([node], "node", infos, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
        check_model(model)
        return BackendRep(model).run(arrays)
