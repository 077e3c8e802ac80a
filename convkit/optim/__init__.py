"""Optimisers and learning-rate schedules, with PyTorch's names and defaults."""

from __future__ import annotations

from convkit.optim import lr_scheduler
from convkit.optim.adadelta import Adadelta
from convkit.optim.adagrad import Adagrad
from convkit.optim.adam import Adam, AdamW
from convkit.optim.clip import clip_grad_norm_, clip_grad_value_
from convkit.optim.groups import linear_scaled_lr, param_groups_no_decay
from convkit.optim.optimizer import Optimizer
from convkit.optim.rmsprop import RMSprop
from convkit.optim.sgd import SGD

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop",
           "clip_grad_norm_", "clip_grad_value_", "linear_scaled_lr", "lr_scheduler",
           "param_groups_no_decay"]
