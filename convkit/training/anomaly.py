"""Finding the first operation that gives NaN or an infinity, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from convkit._kernels.tape import PutOff
from convkit.autograd import Tensor, watching
from convkit.errors import AnomalyError
from convkit.training.layers import Place, current_place

__all__ = ["detect_anomaly"]


@contextmanager
def detect_anomaly(infinities: bool = True) -> Iterator[None]:
    """Raise at the first operation that gives NaN or an infinity within a ``with`` block.

    The error names the layer and the operation. Gradients are checked wherever backward goes
    through what was recorded within the block. Everything that is computed is read once
    more, so this is for finding a fault, not for every run.

    Parameters
    ----------
    infinities : bool
        Whether infinities count; NaN always does.

    Raises
    ------
    AnomalyError
        A FloatingPointError.

    Examples
    --------
    >>> with ck.detect_anomaly():
    ...     loss = F.cross_entropy(net(images), labels)
    ...     loss.backward()
    AnomalyError: Conv2d 'stem.conv': operation 'conv' gave NaN at 3 of 8192 places ...
    """
    def fault(array: np.ndarray) -> str | None:
        return _fault(array, infinities)

    def check(op: Any, inputs: tuple, attrs: dict, outputs: tuple) -> None:
        place = current_place()
        for number, x in enumerate(inputs):
            found = x is not None and fault(x.data if isinstance(x, Tensor) else np.asarray(x))
            if found:
                name = place.parameter(x)
                raise AnomalyError(f"operation {op.name!r} got {found} in its "
                                   + (f"parameter {name!r}" if name else f"input {number}"))
        for y in outputs:
            found = fault(y.data)
            if found:
                raise AnomalyError(f"operation {op.name!r} gave {found} in its output")
        node = outputs[0]._edge and outputs[0]._edge[0]
        if node:
            node.op = _CheckedOp(op, place, fault)

    with watching(check):
        yield


def _fault(array: np.ndarray, infinities: bool) -> str | None:
    """Say what is wrong with an array, or return None."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    for what, test in (("NaN", np.isnan), ("infinities", np.isinf)):
        count = np.count_nonzero(test(array))
        if count and (infinities or what == "NaN"):
            return f"{what} at {count} of {array.size} places (shape {array.shape})"
    return None


class _CheckedOp:
    """Stands in for a recorded operation, and looks at what its backward gives."""

    def __init__(self, op: Any, place: Place, fault: Any):
        self._op = op
        self._place = place
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)

    def backward(self, ctx: Any, *grads: Any) -> tuple:
        """Return the operation's gradients; raise where one is not finite."""
        results = self._op.backward(ctx, *grads)
        for number, grad in enumerate(results):
            if isinstance(grad, PutOff):    # bfloat16, or still to be computed
                grad = grad.array()
            found = grad is not None and self._fault(grad)
            if found:
                # Forward is over, so no module that the error passes could name the layer.
                error = AnomalyError(f"the gradient of operation {self._op.name!r} has {found} "
                                     f"for its input {number}")
                if self._place.layer is not None:
                    error.locate(type(self._place.layer).__name__)
                if self._place.path:
                    error.prepend(self._place.path)
                raise error
        return results
