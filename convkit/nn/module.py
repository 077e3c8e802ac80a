"""Module: the base of all layers and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels.tape import entry_of, run_module
from convkit.autograd import Tensor, no_grad
from convkit.errors import ConvkitError
from convkit.nn.hooks import RemovableHandle
from convkit.nn.parameter import Parameter

__all__ = ["IncompatibleKeys", "Module", "weight_and_bias"]


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` found missing and left over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A layer or network: parameters, buffers and other modules, and a forward.

    Subclasses call ``super().__init__()``, assign parameters and modules to attributes, and
    define ``forward``.

    Examples
    --------
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(3, 8, 3, padding=1)
    ...     def forward(self, x):
    ...         return F.relu(self.conv(x))
    """

    training: bool

    def __init__(self):
        set_ = object.__setattr__
        set_(self, "training", True)
        set_(self, "_parameters", {})
        set_(self, "_buffers", {})
        set_(self, "_transient", set())
        set_(self, "_modules", {})
        set_(self, "_forward_hooks", {})
        set_(self, "_forward_pre_hooks", {})

    # -- attributes ---------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        rooms = self.__dict__
        if "_modules" not in rooms:
            if isinstance(value, (Parameter, Module)):
                raise AttributeError(
                    f"{type(self).__name__}.__init__ must call super().__init__() before it "
                    f"assigns {name!r}")
            object.__setattr__(self, name, value)
        elif isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self.register_module(name, value)
        elif name in rooms["_parameters"]:
            if value is not None:
                raise TypeError(f"cannot assign {type(value).__name__} as parameter {name!r}: "
                                "expected a Parameter or None")
            rooms["_parameters"][name] = None
        elif name in rooms["_buffers"]:
            rooms["_buffers"][name] = None if value is None else _as_tensor(value)
        elif name in rooms["_modules"]:
            if value is not None:
                raise TypeError(f"cannot assign {type(value).__name__} as module {name!r}: "
                                "expected a Module or None")
            rooms["_modules"][name] = None
        else:
            object.__setattr__(self, name, value)

    __getattr__ = entry_of

    def __delattr__(self, name: str) -> None:
        for room in (self._parameters, self._modules, self._buffers):
            if name in room:
                del room[name]
                self._transient.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._modules, *self._buffers})

    def _claim(self, name: str, room: dict) -> None:
        """Free `name` for an entry of `room`; raise where it cannot be one."""
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"expected a name without dots, got {name!r}")
        if hasattr(type(self), name):
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")
        self.__dict__.pop(name, None)
        for other in (self._parameters, self._buffers, self._modules):
            if other is not room:
                other.pop(name, None)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Enter a parameter under a name (None: a place that is kept free)."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"expected a Parameter or None, got {type(param).__name__}")
        self._claim(name, self._parameters)
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Enter an array that is part of the state, but not learned.

        Parameters
        ----------
        name : str
            Its attribute.
        tensor : Tensor, array or None
            Its value.
        persistent : bool
            Whether `state_dict` has it.
        """
        self._claim(name, self._buffers)
        self._buffers[name] = None if tensor is None else _as_tensor(tensor)
        (self._transient.discard if persistent else self._transient.add)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Enter a module under a name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"expected a Module or None, got {type(module).__name__}")
        self._claim(name, self._modules)
        self._modules[name] = module

    add_module = register_module

    # -- running ------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; defined by subclasses."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    __call__ = run_module

    def _call_hooked(self, args: tuple, kwargs: dict) -> Any:
        for hook in tuple(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, result)
            if changed is not None:
                result = changed
        return result

    def _locate(self, error: ConvkitError) -> None:
        """Put this layer's type, or the name of the layer it came through, into an error.

        That layer is found by the mark that it left on the error; it may lie deeper than a
        child, as where forward walks through a ModuleList.
        """
        if error.source is None:
            error.locate(type(self).__name__)
        else:
            for name, module in self.named_modules():
                if module is error.source and name:
                    error.prepend(name)
                    break
        error.source = self

    def register_forward_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns replaces the arguments."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; a result replaces the output."""
        return RemovableHandle(self._forward_hooks, hook)

    # -- walking ------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted path, module) of this module and all below it, each once."""
        yield from self._walk(prefix, set())

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module._walk(_join(prefix, name), seen)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules directly below, each once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """Yield the modules directly below, each once."""
        return (module for _, module in self.named_children())

    def _named(self, room: str, prefix: str, recurse: bool) -> Iterator[tuple[str, Any]]:
        """Yield (dotted path, entry) of one kind, each entry once."""
        seen: set[int] = set()
        for path, module in self.named_modules(prefix) if recurse else ((prefix, self),):
            for name, value in getattr(module, room).items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield _join(path, name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted path, parameter), each parameter once."""
        return self._named("_parameters", prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters, each once."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted path, buffer), each buffer once."""
        return self._named("_buffers", prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        return (value for _, value in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """Return the module at a dotted path ("" for this one)."""
        module = self
        for name in target.split(".") if target else ():
            child = module._modules.get(name)
            if child is None:
                raise AttributeError(f"{type(self).__name__} has no module {target!r}")
            module = child
        return module

    def apply(self, fn: Callable[[Module], None]) -> Module:
        """Call ``fn`` on every module below and on this one, children first."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # -- modes and types ----------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Set whether this module and all below it are training, and return it."""
        if not isinstance(mode, bool):
            raise ValueError(f"expected a training mode of True or False, got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Set this module and all below it to evaluation, and return it."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Set whether the parameters are learned, and return the module."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients (or set them to zero)."""
        for param in self.parameters():
            if set_to_none:
                param.grad = None
            elif param.grad is not None:
                param.grad.detach().zero_()

    def to(self, dtype: Any) -> Module:
        """Convert floating-point parameters, gradients and buffers to a type, in place.

        Parameters
        ----------
        dtype : dtype_like
            float32 or float64.

        Returns
        -------
        Module
            This module.
        """
        dtype = np.dtype(dtype)
        if dtype.kind != "f" or dtype.itemsize < 4:
            raise TypeError(f"expected float32 or float64, got {dtype}")
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dtype.kind == "f" and tensor.dtype != dtype:
                tensor.data = tensor.data.astype(dtype)
                tensor._cell[0] += 1
                if tensor.grad is not None:
                    tensor.grad = tensor.grad.detach().astype(dtype)
        return self

    astype = to

    def double(self) -> Module:
        """Convert to float64, in place."""
        return self.to(np.float64)

    def float(self) -> Module:
        """Convert to float32, in place."""
        return self.to(np.float32)

    # -- state --------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Return all parameters and persistent buffers by dotted path, over their own memory.

        The keys are PyTorch's for the same network.
        """
        state = {}
        for name, param in self._parameters.items():
            if param is not None:
                state[prefix + name] = param.detach()
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._transient:
                state[prefix + name] = buffer.detach()
        for name, module in self._modules.items():
            if module is not None:
                state.update(module.state_dict(f"{prefix}{name}."))
        return state

    def _targets(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield what `state_dict` lists, but the tensors themselves."""
        for name, param in self._parameters.items():
            if param is not None:
                yield prefix + name, param
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._transient:
                yield prefix + name, buffer
        for name, module in self._modules.items():
            if module is not None:
                yield from module._targets(f"{prefix}{name}.")

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into the parameters and buffers; nothing changes when anything is wrong.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Tensors, arrays, or anything that ``numpy.asarray`` takes (PyTorch tensors too).
        strict : bool
            Whether keys must agree exactly.

        Returns
        -------
        IncompatibleKeys
            Keys missing from, and unexpected in, `state_dict`.

        Raises
        ------
        RuntimeError
            When keys do not agree (and `strict`), or a shape does not fit; all are listed.
        """
        targets = dict(self._targets())
        missing = [k for k in targets if k not in state_dict]
        unexpected = [k for k in state_dict if k not in targets]
        problems = []
        if strict and missing:
            problems.append("missing keys: " + ", ".join(map(repr, missing)))
        if strict and unexpected:
            problems.append("unexpected keys: " + ", ".join(map(repr, unexpected)))
        values = {}
        for key, target in targets.items():
            if key in state_dict:
                values[key] = value = _as_array(state_dict[key])
                if value.shape != target.shape:
                    problems.append(f"size mismatch for {key!r}: expected shape {target.shape}, "
                                    f"got {value.shape}")
        if problems:
            raise RuntimeError(f"cannot load the state of {type(self).__name__}:\n    "
                               + "\n    ".join(problems))
        with no_grad():
            for key, value in values.items():
                targets[key].copy_(value.astype(targets[key].dtype, copy=False))
        return IncompatibleKeys(missing, unexpected)

    # -- text ---------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows between the brackets."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        if not self._modules:
            return f"{type(self).__name__}({extra})"
        lines = extra.split("\n") if extra else []
        for name, module in self._modules.items():
            lines.append(f"({name}): " + repr(module).replace("\n", "\n  "))
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def weight_and_bias(layer: Module) -> tuple[Any, Any]:
    """Return a layer's weight and bias.

    Python asks `__getattr__` only after it has looked everywhere else, which takes several times
    as long as looking where parameters are.
    """
    own = layer._parameters
    try:
        return own["weight"], own["bias"]
    except KeyError:  # one was replaced by a plain tensor
        return layer.weight, layer.bias


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _as_tensor(value: Any) -> Tensor:
    """Return a buffer's value as a tensor that is no part of any tape."""
    return value.detach() if isinstance(value, Tensor) else Tensor(np.asarray(value))


def _as_array(value: Any) -> np.ndarray:
    """Return a state's value as an array, from PyTorch tensors that require grad too."""
    if isinstance(value, Tensor):
        return value.data
    if hasattr(value, "detach"):
        value = value.detach()
    return np.asarray(value)
