"""Optimizer: the base of all optimisers, with groups of parameters and their state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from convkit._kernels import memory
from convkit._kernels.tape import updates
from convkit.autograd import Tensor, enable_grad
from convkit.ops.layout import axis_order, like

__all__ = ["Optimizer"]

# What settings mean that were added later, in states that were saved before.
ADDED = {"maximize": False}


class Optimizer:
    """Base of the optimisers; subclasses define ``_update(group)``.

    Parameters
    ----------
    params : iterable
        Parameters, (name, parameter) pairs as `Module.named_parameters` gives, or
        dictionaries with "params" and settings of their own.
    defaults : dict
        Settings of groups that do not say otherwise.

    Attributes
    ----------
    param_groups : list of dict
        "params" and the settings of each group; settings may be changed at any time.
    state : dict
        What is kept for each parameter.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        if isinstance(params, (Tensor, np.ndarray, Mapping)):
            raise TypeError(
                f"expected an iterable of parameters or dictionaries, got {type(params).__name__}")
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("expected at least one parameter, got an empty list")
        if not isinstance(groups[0], Mapping):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group of parameters.

        Parameters
        ----------
        param_group : mapping
            "params", and settings that differ from the defaults.

        Raises
        ------
        TypeError, ValueError
            When a parameter is none, is not a leaf, or is in a group already, or a setting
            is unknown.
        """
        group = dict(param_group)
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        params = [p[1] if isinstance(p, tuple) else p for p in params]
        unknown = set(group) - set(self.defaults) - {"params", "initial_lr", "name"}
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}; "
                             f"expected some of {sorted(self.defaults)}")
        taken = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"expected parameters as tensors, got {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("cannot optimise a tensor that an operation made")
            if id(p) in taken:
                raise ValueError("a parameter appears twice")
            taken.add(id(p))
            if _order(p) is None or not p._writable().flags.writeable:
                p.data = np.array(p.data)
        group["params"] = params
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: dict[str, Any]) -> None:
        """Raise ValueError where a group's settings make no sense."""

    def _update(self, group: dict[str, Any]) -> None:
        """Change the parameters of one group that have gradients."""
        raise NotImplementedError

    def _due(self, group: dict[str, Any], *names: str | None, make: Callable | None = None,
             counts: bool = True) -> tuple[list[tuple], list[bool], list[int]]:
        """Return the arrays to update, whose state is new, and the numbers of their steps.

        See `_kernels.tape.updates`; `make` makes state, by default zeros.
        """
        return updates(self.state, group["params"], names, make or zeros_for, _in_order, counts)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all parameters that have gradients.

        Parameters
        ----------
        closure : callable, optional
            Called first; computes the loss and its gradients.

        Returns
        -------
        object
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients (or set them to zero)."""
        params = [p for group in self.param_groups for p in group["params"]]
        if set_to_none:
            for p in params:
                p.grad = None
            return
        for p in params:
            if p.grad is not None:
                p.grad.detach().zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return state and settings; parameters are numbered in the order of the groups."""
        numbers: dict[int, int] = {}
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
        groups = [{**group, "params": [numbers[id(p)] for p in group["params"]]}
                  for group in self.param_groups]
        return {"state": {numbers[id(p)]: dict(s) for p, s in self.state.items()},
                "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and settings that `state_dict` returned; arrays are copied.

        Settings that were added to convkit after a state was saved get the value that they
        had in effect: `maximize` is False.

        Raises
        ------
        ValueError
            When the groups or a state's shape do not fit, or it is another optimiser's.
        """
        groups = state_dict["param_groups"]
        ours, theirs = ([len(g["params"]) for g in gs] for gs in (self.param_groups, groups))
        if ours != theirs:
            raise ValueError(f"expected groups of {ours} parameters, got {theirs}")
        needed = set(self.defaults) - set(ADDED)
        missing = sorted({name for g in groups for name in needed - set(g)})
        if missing:
            raise ValueError(f"the state is of another kind of optimiser: its groups have no "
                             f"settings {missing} of {type(self).__name__}")
        by_number = dict(zip((n for g in groups for n in g["params"]),
                             (p for g in self.param_groups for p in g["params"]), strict=True))
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        for number, entries in state_dict["state"].items():
            p = by_number[number]
            state[p] = {key: _loaded(key, value, p) for key, value in entries.items()}
        self.state = state
        added = {k: v for k, v in ADDED.items() if k in self.defaults}
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update({**added, **saved, "params": group["params"]})

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
        return "\n".join(lines) + "\n)"


def _loaded(key: str, value: Any, p: Tensor) -> Any:
    """Return a copy of one entry of a state, laid out in memory as the parameter is."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    array = value.data if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim == 0 and p.ndim:
        return array.item()
    if array.shape != p.shape:
        raise ValueError(f"expected {key!r} of shape {p.shape}, got {array.shape}")
    copy = like(p.data)
    np.copyto(copy, array)
    return Tensor(copy)


def _order(p: Tensor) -> tuple[int, ...] | None:
    """Return a dense tensor's axes in memory order; None when there are gaps."""
    array = p._writable()
    order = axis_order(array) or tuple(range(array.ndim))
    return order if array.transpose(order).flags.c_contiguous else None


def _in_order(p: Tensor, state: dict[str, Any] | None, names: tuple[str | None, ...]
              ) -> tuple[np.ndarray | None, ...]:
    """Return the arrays of a parameter, its gradient and state as kernels want them.

    All are C-contiguous, in the order in which the parameter lies in memory. State that lay
    otherwise (the parameter was replaced) is replaced.
    """
    own = p._writable()
    order = axis_order(own)
    if not _moved(own, order).flags.c_contiguous:
        raise ValueError("expected a parameter without gaps in memory")
    arrays: list[np.ndarray | None] = [_moved(own, order), _moved(p.grad.data, order)]
    for name in names:
        kept = None if name is None else _moved(state[name].data, order)
        if kept is not None and not (kept.flags.c_contiguous and kept.dtype == own.dtype):
            state[name] = _loaded(name, state[name], p)
            kept = _moved(state[name].data, order)
        arrays.append(kept)
    if not (arrays[1].flags.c_contiguous and arrays[1].dtype == own.dtype):
        copy = memory.empty(arrays[1].shape, own.dtype)
        np.copyto(copy, arrays[1])
        arrays[1] = copy
    return tuple(arrays)


def _moved(array: np.ndarray, order: tuple[int, ...] | None) -> np.ndarray:
    return array if order is None else array.transpose(order)


def zeros_for(p: Tensor) -> Tensor:
    """Return zeros of a parameter's shape and type, laid out in memory as it is."""
    array = like(p.data)
    array.fill(0)
    return Tensor(array)


def at_least(group: dict[str, Any], least: float, *names: str) -> None:
    """Raise ValueError where a setting is below `least`."""
    for name in names:
        if not group[name] >= least:
            raise ValueError(f"expected {name} of at least {least}, got {group[name]}")
