"""What every algorithm of convolution offers to the planner."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np

from convkit.ops.conv_problem import ConvProblem

__all__ = ["TASKS", "Algorithm", "Task", "kept_source", "known_call", "made_of_floats"]

Task = Literal["forward", "grad_input", "grad_weight"]
TASKS: tuple[Task, ...] = ("forward", "grad_input", "grad_weight")


class Algorithm:
    """One way to compute a convolution or some of its gradients; never instantiated."""

    name: ClassVar[str]
    # Whether steps of the gradient of the input add the bias that a transposed convolution has.
    gradient_adds_bias: ClassVar[bool] = True
    # Whether the forward pass takes `gathered`, a `_kernels.gather.Gathered`, and leaves the
    # output's moments there.
    gathers: ClassVar[bool] = False
    # Whether the forward pass's steps take x, the residual and y as bfloat16, as `narrow` says, and
    # `grad_weight` takes gy so (uint16).
    narrows: ClassVar[bool] = False

    @classmethod
    def refuses(cls, problem: ConvProblem, task: Task) -> str | None:
        """Return why this algorithm cannot do the task, or None where it can."""
        return None

    @classmethod
    def declines(cls, problem: ConvProblem, task: Task) -> str | None:
        """Return why this algorithm should not be chosen for the task, or None.

        Asked only where it does not refuse. May depend on anything in the problem but the
        batch.
        """
        return None

    @classmethod
    def call(cls, problem: ConvProblem, task: Task) -> Callable[..., None]:
        """Return what does a task, to be called with its method's arguments but the problem.

        It is kept with the problem: what depends on that alone is worked out here.
        """
        return functools.partial(getattr(cls, task), problem)

    @staticmethod
    def forward(problem: ConvProblem, x: np.ndarray, weight: np.ndarray, y: np.ndarray,
                cache: dict | None, threads: int, **epilogue: Any) -> None:
        """Write the convolution into `y` (N, OH, OW, O)."""
        raise NotImplementedError

    @classmethod
    def reads_parts(cls, problem: ConvProblem) -> bool:
        """Tell whether steps can read pixels that are parts of wider ones."""
        return False

    @classmethod
    def writes_parts(cls, problem: ConvProblem) -> bool:
        """Tell whether steps can write pixels that are parts of wider ones."""
        return False

    @classmethod
    def reads_kept(cls, problem: ConvProblem, kept: Any) -> bool:
        """Tell whether `grad_weight` takes for x what is kept of it (`ops.kept.Kept`)."""
        return False

    @classmethod
    def adds_gradient(cls, problem: ConvProblem) -> bool:
        """Tell whether `grad_input` takes a `residual`, like gx, and adds it."""
        return False

    @classmethod
    def prepared(cls, b: Any, problem: ConvProblem, x: Any) -> Any:
        """Emit what the forward pass's steps want done to x first; return what they read."""
        return x

    @classmethod
    def steps(cls, problem: ConvProblem, task: Task, weight: Any, cache: dict | None,
              threads: int, *, residual: bool, x_pixel: int | None = None,
              y_pixel: int | None = None, **epilogue: Any) -> list[Any] | None:
        """Return compiled steps for the task, or None where there are none.

        Their operands are x, bias, residual and y (for "grad_input", the gradient of the output
        stands for x and that of the input for y).

        Parameters
        ----------
        weight : planner.Taps (O, C / groups, kH, kW)
            A constant.
        residual : bool
            Whether there is one.
        x_pixel, y_pixel : int or None
            Numbers from one pixel to the next; None for as many as there are channels, and
            always None where parts of pixels cannot be read or written.
        epilogue
            activation, alpha and beta; where the algorithm `narrows`, also `narrow`, which of x,
            residual and y are held as bfloat16.
        """
        return None

    @staticmethod
    def grad_input(problem: ConvProblem, gy: np.ndarray, weight: np.ndarray, gx: np.ndarray,
                   cache: dict | None, threads: int, **epilogue: Any) -> None:
        """Write the gradient with respect to x into `gx` (N, H, W, C)."""
        raise NotImplementedError

    @staticmethod
    def grad_weight(problem: ConvProblem, x: np.ndarray, gy: np.ndarray, gw: np.ndarray,
                    threads: int) -> None:
        """Write the gradient with respect to the weight into `gw` (O, C/g, kH, kW)."""
        raise NotImplementedError


_FLOAT = np.dtype(np.float32)


def made_of_floats(problem: ConvProblem, kept: Any) -> bool:
    """Tell whether what is kept of x is float32 with as many channels."""
    return kept.dtype is _FLOAT and kept.channels == problem.in_channels


def kept_source(problem: ConvProblem, x: Any, threads: int) -> tuple[np.ndarray, tuple | None]:
    """Return x, or what lies in memory for it where it is kept, and what it is made by or None."""
    if x.__class__ is np.ndarray:
        return x, None
    source, maker = x.source(threads)
    return source.reshape(problem.x_last), maker


def known_call(algorithm: type[Algorithm], problem: ConvProblem, task: Task) -> Callable[..., None]:
    """Return `Algorithm.call`, worked out once and kept with the problem."""
    key = "call", algorithm, task
    call = problem.plans.get(key)
    if call is None:
        call = problem.plans[key] = algorithm.call(problem, task)
    return call
