"""Learning-rate schedules, with PyTorch's names and defaults.

`step` is called after each epoch or after each batch, whichever a schedule's numbers count.
Several schedules of one optimiser that are stepped in turn go together, as in PyTorch, where each
changes the rate that it finds: `ReduceLROnPlateau`, `StepLR`, `MultiStepLR`, `ExponentialLR`,
`PolynomialLR`, `CosineAnnealingLR`, `LinearLR`, `ConstantLR` and `MultiplicativeLR`. The others set
rates of their own, whatever they find. `SequentialLR` has schedules one after the other.
"""

from __future__ import annotations

from convkit.optim.lr_scheduler.base import LRScheduler
from convkit.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from convkit.optim.lr_scheduler.custom import LambdaLR, MultiplicativeLR, SequentialLR
from convkit.optim.lr_scheduler.cyclic import CyclicLR
from convkit.optim.lr_scheduler.decay import ExponentialLR, MultiStepLR, PolynomialLR, StepLR
from convkit.optim.lr_scheduler.one_cycle import OneCycleLR
from convkit.optim.lr_scheduler.plateau import ReduceLROnPlateau
from convkit.optim.lr_scheduler.warmup import ConstantLR, LinearLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
