"""convkit: train and run convolutional networks on CPUs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from convkit._precision import get_precision, precision, set_precision
from convkit._version import __version__
from convkit.autograd import Tensor, enable_grad, is_grad_enabled, no_grad
from convkit.creation import (
    arange,
    from_numpy,
    full,
    ones,
    ones_like,
    rand,
    randn,
    tensor,
    zeros,
    zeros_like,
)
from convkit.errors import (
    AnomalyError,
    ConvkitError,
    DTypeError,
    ModelFormatError,
    ShapeError,
    UnsupportedOperatorError,
)
from convkit.random import manual_seed
from convkit.runtime import get_num_threads, set_num_threads, show_config, threads
from convkit.tensors import *  # noqa: F403
from convkit.tensors import __all__ as _tensor_functions

if TYPE_CHECKING:
    from convkit import (
        data,
        distributed,
        functional,
        infer,
        io,
        models,
        nn,
        optim,
        plot,
        training,
    )
    from convkit.functional import concat, flatten, stack
    from convkit.functional import concat as cat
    from convkit.infer import compile, quantize, summary
    from convkit.io import load, save
    from convkit.ops.autotune import set_autotune
    from convkit.recompute import checkpoint, checkpoint_sequential
    from convkit.training.anomaly import detect_anomaly

__all__ = [
    "AnomalyError",
    "ConvkitError",
    "DTypeError",
    "ModelFormatError",
    "ShapeError",
    "Tensor",
    "UnsupportedOperatorError",
    "__version__",
    "arange",
    "cat",
    "checkpoint",
    "checkpoint_sequential",
    "compile",
    "concat",
    "data",
    "detect_anomaly",
    "distributed",
    "enable_grad",
    "flatten",
    "from_numpy",
    "full",
    "functional",
    "get_num_threads",
    "get_precision",
    "infer",
    "io",
    "is_grad_enabled",
    "load",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "plot",
    "precision",
    "quantize",
    "rand",
    "randn",
    "save",
    "set_autotune",
    "set_num_threads",
    "set_precision",
    "show_config",
    "stack",
    "summary",
    "tensor",
    "threads",
    "training",
    "zeros",
    "zeros_like",
    *_tensor_functions,
]

# Loaded when first asked for, so that `import convkit` costs little.
_MODULES = ("data", "distributed", "functional", "infer", "io", "models", "nn", "optim",
            "plot", "reference", "training")
_FUNCTIONS = {"cat": "convkit.functional", "concat": "convkit.functional",
              "flatten": "convkit.functional", "stack": "convkit.functional",
              **dict.fromkeys(("log_softmax", "relu", "sigmoid", "softmax", "tanh"),
                              "convkit.functional"),
              "checkpoint": "convkit.recompute",
              "checkpoint_sequential": "convkit.recompute",
              "compile": "convkit.infer", "detect_anomaly": "convkit.training.anomaly",
              "load": "convkit.io", "quantize": "convkit.infer", "save": "convkit.io",
              "summary": "convkit.infer",
              "set_autotune": "convkit.ops.autotune"}

# PyTorch's second names.
_ALIASES = {"cat": "concat"}


def __getattr__(name: str) -> Any:
    """Load a submodule, or a function of one, on first use."""
    if name in _MODULES:
        return importlib.import_module(f"convkit.{name}")
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(_FUNCTIONS[name]), _ALIASES.get(name, name))
        globals()[name] = value
        return value
    raise AttributeError(f"module 'convkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
