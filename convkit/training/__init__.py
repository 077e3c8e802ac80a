"""Training: the `Trainer` and what goes with it, and functions for loops written by hand."""

from __future__ import annotations

from convkit.training.anomaly import detect_anomaly
from convkit.training.attribution import grad_cam, saliency
from convkit.training.batch_stats import biases_before_batch_norm, recompute_batch_stats
from convkit.training.callbacks import Callback, EarlyStopping
from convkit.training.checkpoint import Checkpoints, load_weights, read_checkpoint
from convkit.training.checks import check_initial_loss, overfit_one_batch
from convkit.training.ema import EMA
from convkit.training.landscape import Landscape, loss_along_gradient
from convkit.training.layer_values import layer_gradients, layer_outputs
from convkit.training.logs import CSVLog, JSONLinesLog
from convkit.training.loop import train_epoch
from convkit.training.monitor import LayerMonitor, dead_relu_share
from convkit.training.progress import ProgressBar
from convkit.training.range_test import RangeTest, lr_range_test
from convkit.training.report import write_report
from convkit.training.results import EpochResult
from convkit.training.scoring import evaluate, predict, predict_with_targets
from convkit.training.tensorboard import TensorBoardLog
from convkit.training.trainer import Trainer
from convkit.training.uncertainty import (
    CropAverage,
    Ensemble,
    Prediction,
    bootstrap,
    monte_carlo_dropout,
    weight_noise,
)

__all__ = ["EMA", "CSVLog", "Callback", "Checkpoints", "CropAverage", "EarlyStopping", "Ensemble",
           "EpochResult", "JSONLinesLog", "Landscape", "LayerMonitor", "Prediction", "ProgressBar",
           "RangeTest", "TensorBoardLog", "Trainer", "biases_before_batch_norm", "bootstrap",
           "check_initial_loss", "dead_relu_share", "detect_anomaly", "evaluate", "grad_cam",
           "layer_gradients", "layer_outputs", "load_weights", "loss_along_gradient",
           "lr_range_test", "monte_carlo_dropout", "overfit_one_batch", "predict",
           "predict_with_targets", "read_checkpoint", "recompute_batch_stats", "saliency",
           "train_epoch", "weight_noise", "write_report"]
