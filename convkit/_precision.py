"""How exactly convolutions and linear layers multiply: the precision setting.

The words are PyTorch's for matrix products (`torch.set_float32_matmul_precision`):

========= ===============================================================================
highest   plain float32 multiply-adds; normwise error of a layer about 1e-6
high      float32-grade: error of any layer at most 1e-5, by whatever means is fastest
          (Winograd, or float32 split into two bfloat16 where the CPU multiplies those)
medium    products of 16-bit numbers: error at most 1e-2. bfloat16 summed in float32 on CPUs
          with AMX and on AMD's with AVX512-BF16; else scaled float16 on CPUs with AVX512-FP16;
          in 3x3 layers, where there is AVX-512 VNNI and no AMX, integers (error 5e-4). Layers
          for which that is no faster are computed as under "high". In training, large
          activations are kept in bfloat16 for backward, on any CPU
========= ===============================================================================

Errors are normwise: the norm of the difference from float64 over the norm of the result.
float64 arrays are always multiplied in float64.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

__all__ = ["PRECISIONS", "checked_precision", "get_precision", "precision", "set_precision"]

PRECISIONS = ("highest", "high", "medium")

_process_precision = "high"
_local_precision: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "convkit_precision", default=None)


def checked_precision(name: str) -> str:
    """Return `name`, or raise ValueError when it names no precision."""
    if name == "int8":
        raise ValueError("precision 'int8' needs a quantised network, whose ranges were found on "
                         "sample data: make one with convkit.quantize(model, calibration_data)")
    if not isinstance(name, str) or name not in PRECISIONS:
        raise ValueError(f"expected precision {', '.join(map(repr, PRECISIONS))}, got {name!r}")
    return name


def get_precision() -> str:
    """Return the precision of operations called from here."""
    return _local_precision.get() or _process_precision


def set_precision(name: str) -> None:
    """Set the precision of convolutions and linear layers, for the whole process.

    Parameters
    ----------
    name : {"highest", "high", "medium"}
        See the module's text; "high" at the start.

    Raises
    ------
    ValueError
        When `name` is none of these.
    """
    global _process_precision
    _process_precision = checked_precision(name)


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Use a precision within a ``with`` block, in this Python thread (or task) only.

    The gradients of what is computed within the block have that precision too, wherever
    ``backward`` is called.
    """
    token = _local_precision.set(checked_precision(name))
    try:
        yield
    finally:
        _local_precision.reset(token)
