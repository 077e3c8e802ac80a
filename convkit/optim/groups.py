"""Groups of parameters: weight decay on weights only, rates scaled with the batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convkit.nn import Module, Parameter

__all__ = ["linear_scaled_lr", "param_groups_no_decay"]


def param_groups_no_decay(
    model: Module, weight_decay: float, no_decay: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Return two groups: weights that decay, and biases and norm parameters that do not.

    Vectors (biases, and the factors and offsets of normalisation layers) set no scale that a
    penalty should hold down: shrinking them shrinks the function, not its complexity.

    Parameters
    ----------
    model : Module
        Parameters that do not require a gradient are left out.
    weight_decay : float
        Of the first group; the second has 0.
    no_decay : iterable of str
        Dotted names of further parameters (or of modules, whose parameters are meant) that do
        not decay.

    Returns
    -------
    list of dict
        For an optimiser's first argument; groups without parameters are left out.

    References
    ----------
    He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks",
    2019, section 3.1 (no bias decay).
    """
    spared = tuple(no_decay)
    groups: dict[bool, list[Parameter]] = {True: [], False: []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            named = any(name == s or name.startswith(s + ".") for s in spared)
            groups[p.ndim > 1 and not named].append(p)
    return [{"params": params, "weight_decay": weight_decay if decays else 0.0}
            for decays, params in groups.items() if params]


def linear_scaled_lr(lr: float, batch_size: int, base_batch_size: int = 256) -> float:
    """Return the rate for a batch size, in proportion: ``lr * batch_size / base_batch_size``.

    Parameters
    ----------
    lr : float
        Rate that suits `base_batch_size`.
    batch_size, base_batch_size : int
        At least 1.

    References
    ----------
    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section
    2.1; it goes with a warm-up (`lr_scheduler.LinearLR`).
    """
    if batch_size < 1 or base_batch_size < 1:
        raise ValueError(f"expected batch sizes of at least 1, got {batch_size} and "
                         f"{base_batch_size}")
    return lr * batch_size / base_batch_size
