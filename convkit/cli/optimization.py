"""Optimisers and schedules by the names that ``convkit train`` takes."""

from __future__ import annotations

import argparse
from typing import Any

from convkit.cli.options import UsageError, not_negative, positive, share

__all__ = ["add_optimization", "optimizer_and_schedule"]

# What --lr and --weight-decay are without a word: they belong together with the optimiser.
RATES = {"sgd": 0.1, "adam": 0.002, "adamw": 0.002, "rmsprop": 0.001, "adagrad": 0.02,
         "adadelta": 1.0}
DECAYS = {"sgd": 5e-4, "adamw": 1e-2}  # 0 for the others
MOMENTUM = ("sgd", "rmsprop")

# How many epochs without a lower validation loss the schedule "plateau" bears.
PLATEAU = 2

# What "exponential" leaves of the rate at the end of the run.
LEFT = 0.01

# Share of the highest rate that warm-up begins with.
WARMUP_START = 0.01


def add_optimization(add: Any) -> None:
    """Add the arguments that say how weights are updated."""
    add("--optimizer", choices=sorted(RATES), default="sgd", help="how weights are updated")
    add("--lr", type=positive, metavar="RATE", help=f"learning rate (default: {_each(RATES)})")
    add("--momentum", type=not_negative, metavar="SHARE",
        help="for sgd (default: 0.9) and rmsprop (default: 0)")
    add("--nesterov", action=argparse.BooleanOptionalAction, default=False, help="for sgd")
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
             f"tenth after {PLATEAU + 1} epochs without a lower validation loss; constant")
    add("--warmup", type=share, default=0.0, metavar="SHARE",
        help="of the steps, in which the rate first rises to --lr (not for one-cycle, plateau)")


def _each(values: dict[str, float]) -> str:
    return ", ".join(f"{value:g} for {name}" for name, value in values.items())


def optimizer_and_schedule(args: argparse.Namespace, model: Any, steps: int) -> tuple[Any, Any]:
    """Return the optimiser and the schedule (or None) that the arguments ask for.

    Parameters
    ----------
    args : Namespace
        With what `add_optimization` adds.
    model : Module
        Whose parameters are updated.
    steps : int
        Of the optimiser in the whole run; the schedule is stepped after each.

    Raises
    ------
    UsageError
        When options do not go together.
    """
    optimizer = _optimizer(args, model)
    return optimizer, _schedule(args, optimizer, steps)


def _optimizer(args: argparse.Namespace, model: Any) -> Any:
    from convkit import optim

    kinds = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW,
             "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad, "adadelta": optim.Adadelta}
    name = args.optimizer
    settings = {"lr": args.lr if args.lr is not None else RATES[name],
                "weight_decay": (args.weight_decay if args.weight_decay is not None
                                 else DECAYS.get(name, 0.0))}
    if args.momentum is not None and name not in MOMENTUM:
        raise UsageError(f"--momentum is for {' and '.join(MOMENTUM)}, not for {name}")
    if args.nesterov and name != "sgd":
        raise UsageError(f"--nesterov is for sgd, not for {name}")
    if name == "sgd":
        settings |= {"momentum": 0.9 if args.momentum is None else args.momentum,
                     "nesterov": args.nesterov}
    elif args.momentum is not None:
        settings["momentum"] = args.momentum
    parameters = model.parameters()
    if not args.decay_all:
        parameters = optim.param_groups_no_decay(model, settings["weight_decay"])
    return kinds[name](parameters, **settings)


def _schedule(args: argparse.Namespace, optimizer: Any, steps: int) -> Any:
    from convkit.optim import lr_scheduler as kinds

    if args.warmup and args.schedule in ("one-cycle", "plateau"):
        raise UsageError(f"--warmup does not go with --schedule {args.schedule}")
    if args.schedule == "plateau":
        if not args.validation:
            raise UsageError("--schedule plateau needs --validation SHARE")
        return kinds.ReduceLROnPlateau(optimizer, patience=PLATEAU)
    if args.schedule == "one-cycle":
        return kinds.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], steps,
                                cycle_momentum=False)
    warm = min(round(args.warmup * steps), steps - 1)
    rest = steps - warm
    schedule = None
    if args.schedule == "cosine":
        schedule = kinds.CosineAnnealingLR(optimizer, rest)
    elif args.schedule == "exponential":
        schedule = kinds.ExponentialLR(optimizer, LEFT ** (1 / rest))
    elif args.schedule == "step":
        schedule = kinds.MultiStepLR(optimizer, [rest // 2, rest * 3 // 4])
    if not warm:
        return schedule
    rising = kinds.LinearLR(optimizer, WARMUP_START, total_iters=warm)
    if schedule is None:
        return rising
    return kinds.SequentialLR(optimizer, [rising, schedule], [warm])
