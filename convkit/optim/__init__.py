"""Optimisers and learning-rate schedules, with PyTorch's names and defaults."""

from __future__ import annotations

from convkit.optim import lr_scheduler
from convkit.optim.adam import Adam, AdamW
from convkit.optim.clip import clip_grad_norm_, clip_grad_value_
from convkit.optim.optimizer import Optimizer
from convkit.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "clip_grad_value_",
           "lr_scheduler"]
