"""Training and evaluation loops."""

from __future__ import annotations

from convkit.training.loop import EpochResult, evaluate, predict, train_epoch

__all__ = ["EpochResult", "evaluate", "predict", "train_epoch"]
