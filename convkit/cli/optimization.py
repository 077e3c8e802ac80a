"""Losses, optimisers and schedules by the names that ``convkit train`` takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from convkit.cli.options import UsageError, not_negative, positive, share
from convkit.cli.settings import add_settings, settings

__all__ = ["add_optimization", "loss_of", "optimizer_and_schedule"]

# By their names in `convkit.functional`.
LOSSES = {"cross-entropy": "cross_entropy", "focal": "focal_loss",
          "multi-margin": "multi_margin_loss"}

# What --lr and --weight-decay are without a word: they belong together with the optimiser.
RATES = {"sgd": 0.1, "adam": 0.002, "adamw": 0.002, "rmsprop": 0.001, "adagrad": 0.02,
         "adadelta": 1.0}
DECAYS = {"sgd": 5e-4, "adamw": 1e-2}  # 0 for the others
MOMENTUM = ("sgd", "rmsprop")

# Schedules that no warm-up goes before.
NO_WARMUP = ("one-cycle", "plateau")

# How many epochs without a better figure the schedule "plateau" bears.
PLATEAU = 2

# What "exponential" leaves of the rate at the end of the run.
LEFT = 0.01

# Share of the highest rate that warm-up begins with.
WARMUP_START = 0.01


def add_optimization(add: Any) -> None:
    """Add the arguments that say what training lowers, and how weights are updated."""
    add("--loss", choices=LOSSES, default="cross-entropy", help="what training lowers")
    add_settings(add, "loss", "gamma=3 (focal), p=2, margin=0.5 (multi-margin)")
    add("--label-smoothing", type=share, default=0.0, metavar="SHARE",
        help="of each target, spread over all classes")
    add("--class-weights", choices=("balanced", "sqrt", "effective"),
        help="let rare classes count more in the loss")
    add("--optimizer", choices=sorted(RATES), default="sgd", help="how weights are updated")
    add("--lr", type=positive, metavar="RATE", help=f"learning rate (default: {_each(RATES)})")
    add("--momentum", type=not_negative, metavar="SHARE",
        help="for sgd (default: 0.9) and rmsprop (default: 0)")
    add("--nesterov", action=argparse.BooleanOptionalAction, default=False, help="for sgd")
    add_settings(add, "optimizer", "betas=0.9,0.95, amsgrad=true, alpha=0.9, eps=1e-6")
    add("--weight-decay", type=not_negative, metavar="RATE",
        help=f"pull of the weights towards 0 (default: {_each(DECAYS)}, else 0)")
    add("--decay-all", action=argparse.BooleanOptionalAction, default=False,
        help="decay biases and the parameters of norms too")
    add("--l1", type=not_negative, default=0.0, metavar="RATE",
        help="times the sum of the weights' absolute values, added to the loss in training")
    add("--max-norm", type=positive, metavar="NORM",
        help="largest norm of a unit's weights, kept by scaling after each step")
    add("--weight-noise", type=positive, metavar="STD",
        help="of normal noise on the weights while gradients are computed")
    add("--schedule", default="cosine",
        choices=("cosine", "one-cycle", "step", "exponential", "plateau", "none"),
        help="of the learning rate: down to 0 along a cosine; up to --lr and down again; a tenth "
             "after a half and after three quarters; down to a hundredth by equal factors; a "
             f"tenth after {PLATEAU + 1} epochs without a better --watch figure; constant")
    add_settings(add, "schedule", "gamma=0.2, milestones=10,15, eta_min=1e-4, patience=5")
    add("--schedule-every", choices=("step", "epoch"),
        help="after what the schedule moves on (default: step; plateau: epoch)")
    add("--warmup", type=share, default=0.0, metavar="SHARE",
        help=f"of the run, in which the rate first rises to --lr (not for {', '.join(NO_WARMUP)})")


def _each(values: dict[str, float]) -> str:
    return ", ".join(f"{value:g} for {name}" for name, value in values.items())


def loss_of(args: argparse.Namespace, labels: Any, classes: int) -> Callable[..., Any]:
    """Return the loss that the arguments ask for, given the labels trained on."""
    from convkit import data
    from convkit import functional as F

    kind = getattr(F, LOSSES[args.loss])
    values = settings(args, "loss", kind)
    if args.label_smoothing:
        if args.loss != "cross-entropy":
            raise UsageError(f"--label-smoothing is for cross-entropy, not for {args.loss}")
        values["label_smoothing"] = args.label_smoothing
    if args.class_weights:
        values["weight"] = data.class_weights(labels, classes, args.class_weights)
    return partial(kind, **values)


def optimizer_and_schedule(args: argparse.Namespace, model: Any, steps: int) -> tuple[Any, Any]:
    """Return the optimiser and the schedule (or None) for a run of so many steps.

    Raises
    ------
    UsageError
        When options do not go together, or a setting makes no sense.
    """
    try:
        optimizer = _optimizer(args, model)
        return optimizer, _schedule(args, optimizer,
                                    args.epochs if args.schedule_every == "epoch" else steps)
    except (ValueError, ArithmeticError) as error:
        raise UsageError(str(error)) from None


def _optimizer(args: argparse.Namespace, model: Any) -> Any:
    from convkit import optim

    kinds = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW,
             "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad, "adadelta": optim.Adadelta}
    name = args.optimizer
    values = {"lr": args.lr if args.lr is not None else RATES[name],
              "weight_decay": (args.weight_decay if args.weight_decay is not None
                               else DECAYS.get(name, 0.0))}
    if args.momentum is not None and name not in MOMENTUM:
        raise UsageError(f"--momentum is for {' and '.join(MOMENTUM)}, not for {name}")
    if args.nesterov and name != "sgd":
        raise UsageError(f"--nesterov is for sgd, not for {name}")
    if name == "sgd":
        values |= {"momentum": 0.9 if args.momentum is None else args.momentum,
                   "nesterov": args.nesterov}
    elif args.momentum is not None:
        values["momentum"] = args.momentum
    values |= settings(args, "optimizer", kinds[name])
    parameters = model.parameters()
    if not args.decay_all:
        parameters = optim.param_groups_no_decay(model, values["weight_decay"])
    return kinds[name](parameters, **values)


def _schedule(args: argparse.Namespace, optimizer: Any, steps: int) -> Any:
    from convkit.optim import lr_scheduler as kinds
    from convkit.training.callbacks import Watched

    name = args.schedule
    if args.warmup and name in NO_WARMUP:
        raise UsageError(f"--warmup does not go with --schedule {name}")
    if name == "plateau" and args.schedule_every == "step":
        raise UsageError("--schedule plateau moves on after each epoch")
    if name == "plateau" and not args.validation:
        raise UsageError("--schedule plateau needs --validation SHARE")
    warm = min(round(args.warmup * steps), steps - 1)
    rest = steps - warm
    kind, values = {
        "cosine": (kinds.CosineAnnealingLR, {"T_max": rest}),
        "one-cycle": (kinds.OneCycleLR, {
            "max_lr": optimizer.param_groups[0]["lr"], "total_steps": steps,
            "cycle_momentum": False}),
        "step": (kinds.MultiStepLR, {"milestones": [rest // 2, rest * 3 // 4]}),
        "exponential": (kinds.ExponentialLR, {"gamma": LEFT ** (1 / rest)}),
        "plateau": (kinds.ReduceLROnPlateau, {"patience": PLATEAU,
                                                "mode": Watched(args.watch).mode}),
        "none": (None, {}),
    }[name]
    if kind is None and args.schedule_option:
        raise UsageError("--schedule-option does not go with --schedule none")
    schedule = kind and kind(optimizer, **values | settings(args, "schedule", kind))
    if not warm:
        return schedule
    rising = kinds.LinearLR(optimizer, WARMUP_START, total_iters=warm)
    return rising if schedule is None else kinds.SequentialLR(optimizer, [rising, schedule],
                                                              [warm])
