"""What layers give, and the gradients that reach them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convkit import nn
from convkit.autograd import Tensor, no_grad

__all__ = ["gradients_aside", "keep_outputs", "layer_gradients", "layer_outputs"]


@contextlib.contextmanager
def gradients_aside(model: nn.Module) -> Iterator[None]:
    """Let a block send gradients back; the parameters' own are as before afterwards."""
    grads = [(p, p.grad) for p in model.parameters()]
    try:
        for parameter, _ in grads:
            parameter.grad = None
        yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad


@contextlib.contextmanager
def keep_outputs(model: nn.Module, layers: Sequence[str],
                 gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of some modules, by name, as they are made within the block.

    Parameters
    ----------
    model : Module
    layers : sequence of str
        Names of modules, as ``model.named_modules()`` gives them.
    gradients : bool
        Whether the outputs keep their gradients in `grad`.

    Raises
    ------
    KeyError
        When there is no such module; the text lists those there are.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise KeyError(f"no module {unknown[0]!r}; there are {', '.join(filter(None, modules))}")
    kept: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                kept[name] = output
                if gradients and output.requires_grad:
                    output.retain_grad()
        return keep

    handles = [modules[name].register_forward_hook(hook(name)) for name in layers]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def leaves(model: nn.Module) -> list[str]:
    """Return the names of the modules that hold no others."""
    return [name for name, module in model.named_modules()
            if name and not list(module.children())]


def layer_outputs(model: nn.Module, inputs: Any,
                  layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return what layers give for some inputs, in the order in which they run.

    Parameters
    ----------
    model : Module
        Runs in the mode that it is in.
    inputs : array_like
    layers : sequence of str, optional
        Names of modules; by default all that hold no others.

    Returns
    -------
    dict of str to numpy.ndarray
    """
    chosen = leaves(model) if layers is None else list(layers)
    with keep_outputs(model, chosen) as kept, no_grad():
        model(Tensor(np.asarray(inputs, np.float32)))
    return {name: np.array(value.numpy()) for name, value in kept.items()}


def layer_gradients(model: nn.Module, loss_fn: Any, inputs: Any, targets: Any,
                    layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return the loss's gradients with respect to what layers give.

    Parameters
    ----------
    model : Module
        Runs in the mode that it is in; its parameters' gradients are left as they were.
    loss_fn : callable
        From scores and targets to a loss.
    inputs, targets : array_like
    layers : sequence of str, optional
        Names of modules; by default all that hold no others.
    """
    chosen = leaves(model) if layers is None else list(layers)
    with gradients_aside(model), keep_outputs(model, chosen, gradients=True) as kept:
        loss_fn(model(Tensor(np.asarray(inputs, np.float32))), targets).backward()
    return {name: np.array(value.grad.numpy()) for name, value in kept.items()
            if value.grad is not None}
