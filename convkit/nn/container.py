"""Modules that hold other modules."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from convkit.nn.module import Module
from convkit.nn.parameter import Parameter

__all__ = ["ModuleDict", "ModuleList", "ParameterList", "Sequential"]


def _position(index: int, size: int) -> int:
    """Return a list index as a non-negative one."""
    index = operator.index(index)
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for {size} entries")
    return index % size


class _Numbered(Module):
    """Base of the containers whose entries are named "0", "1", ..."""

    def _room(self) -> dict[str, Any]:
        return self._modules

    def _renumber(self, entries: Iterable[Any]) -> None:
        room, entries = self._room(), list(entries)
        room.clear()
        for i, entry in enumerate(entries):
            self._enter(str(i), entry)

    def _enter(self, name: str, entry: Any) -> None:
        self.register_module(name, entry)

    def __len__(self) -> int:
        return len(self._room())

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._room().values()))

    def __getitem__(self, index: int | slice) -> Any:
        entries = list(self._room().values())
        if isinstance(index, slice):
            return self._like(index)
        return entries[_position(index, len(entries))]

    def _like(self, index: slice) -> Any:
        """Return a container of the same type with some of the entries."""
        return type(self)(list(self._room().values())[index])

    def __setitem__(self, index: int, entry: Any) -> None:
        self._enter(list(self._room())[_position(index, len(self))], entry)

    def __delitem__(self, index: int | slice) -> None:
        entries = list(self._room().values())
        del entries[index if isinstance(index, slice) else _position(index, len(entries))]
        self._renumber(entries)

    def append(self, entry: Any) -> Any:
        """Add an entry at the end, and return the container."""
        self._enter(str(len(self)), entry)
        return self

    def extend(self, entries: Iterable[Any]) -> Any:
        """Add entries at the end, and return the container."""
        for entry in entries:
            self.append(entry)
        return self

    def insert(self, index: int, entry: Any) -> None:
        """Put an entry before the one at `index`."""
        entries = list(self._room().values())
        entries.insert(index, entry)
        self._renumber(entries)


class Sequential(_Numbered):
    """Modules that run one after the other.

    Parameters
    ----------
    *modules : Module or dict of str to Module
        The modules in order, or one dictionary that also names them.
    """

    def __init__(self, *modules: Any):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
        else:
            self.extend(modules)

    def forward(self, input: Any) -> Any:
        """Run the modules in order, each on what the one before returned."""
        for module in self._modules.values():
            input = module(input)
        return input

    def _like(self, index: slice) -> Sequential:
        return Sequential(dict(list(self._modules.items())[index]))


class ModuleList(_Numbered):
    """A list of modules, which are found by walks over the network.

    Parameters
    ----------
    modules : iterable of Module
        The entries.
    """

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        self.extend(modules)


class ModuleDict(Module):
    """Modules by name.

    Parameters
    ----------
    modules : mapping of str to Module
        The entries.
    """

    def __init__(self, modules: Mapping[str, Module] | None = None):
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Enter all modules of a mapping."""
        for name, module in modules.items():
            self.register_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._modules))

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def keys(self):
        """Return the names."""
        return self._modules.keys()

    def values(self):
        """Return the modules."""
        return self._modules.values()

    def items(self):
        """Return (name, module) pairs."""
        return self._modules.items()


class ParameterList(_Numbered):
    """A list of parameters, which are found by walks over the network.

    Parameters
    ----------
    values : iterable of Parameter or Tensor
        The entries; tensors become parameters.
    """

    def __init__(self, values: Iterable[Any] = ()):
        super().__init__()
        self.extend(values)

    def _room(self) -> dict[str, Any]:
        return self._parameters

    def _enter(self, name: str, entry: Any) -> None:
        self.register_parameter(name, entry if isinstance(entry, Parameter) else Parameter(entry))
