"""Which pixels a decision hangs on: gradients of a class's score, and Grad-CAM."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import nn
from convkit.autograd import Tensor, enable_grad
from convkit.errors import ShapeError
from convkit.training.layer_values import gradients_aside, keep_outputs
from convkit.training.modes import evaluating

__all__ = ["grad_cam", "saliency"]


def saliency(model: nn.Module, images: Any, classes: Any = None) -> np.ndarray:
    """Return how much each pixel would change the score of a class.

    The largest absolute gradient over the channels (Simonyan, Vedaldi and Zisserman, "Deep
    Inside Convolutional Networks", 2014). The model runs in evaluation mode; its gradients
    are left as they were.

    Parameters
    ----------
    model : Module
        From images (N, C, H, W) to scores (N, K).
    images : array_like, shape (N, C, H, W)
    classes : array_like of int, shape (N,), optional
        By default those with the highest scores.

    Returns
    -------
    numpy.ndarray, shape (N, H, W)
    """
    x = Tensor(np.array(images, np.float32), requires_grad=True)
    _score_backward(model, x, classes)
    return np.abs(x.grad.numpy()).max(axis=1)


def grad_cam(model: nn.Module, images: Any, layer: str, classes: Any = None) -> np.ndarray:
    """Return where a layer sees what speaks for a class.

    The layer's maps are added up with the means of their gradients as weights, and negative
    sums dropped (Selvaraju et al., "Grad-CAM", 2017).

    Parameters
    ----------
    model : Module
        From images (N, C, H, W) to scores (N, K); runs in evaluation mode.
    images : array_like, shape (N, C, H, W)
    layer : str
        Name of a module (see ``model.named_modules()``) that returns maps (N, D, h, w),
        such as the last convolutional stage.
    classes : array_like of int, shape (N,), optional
        By default those with the highest scores.

    Returns
    -------
    numpy.ndarray, shape (N, h, w)
        At least 0.

    Raises
    ------
    KeyError
        When there is no such module.
    ShapeError
        When the layer's output has no maps.
    """
    with keep_outputs(model, [layer], gradients=True) as kept:
        _score_backward(model, Tensor(np.asarray(images, np.float32)), classes)
    maps = kept[layer]
    if maps.ndim != 4:
        raise ShapeError(f"expected layer {layer!r} to return maps (N, C, H, W), got shape "
                         f"{maps.shape}")
    weights = maps.grad.numpy().mean(axis=(2, 3), keepdims=True)
    return np.maximum((weights * maps.detach().numpy()).sum(axis=1), 0)


def _score_backward(model: nn.Module, x: Tensor, classes: Any) -> None:
    """Run the model in evaluation mode and send back the sum of the classes' scores."""
    with evaluating(model), gradients_aside(model), enable_grad():
        scores = model(x)
        if scores.ndim != 2:
            raise ShapeError(f"expected scores (N, classes), got shape {scores.shape}")
        values = scores.detach().numpy()
        chosen = values.argmax(axis=1) if classes is None else np.asarray(classes)
        if chosen.shape != values.shape[:1]:
            raise ShapeError(f"expected {len(values)} classes, got shape {chosen.shape}")
        gradient = np.zeros_like(values)
        gradient[np.arange(len(values)), chosen] = 1
        scores.backward(gradient)
