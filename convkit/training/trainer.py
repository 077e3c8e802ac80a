"""Trainer: epochs of steps, validation, schedules, checkpoints, and going on after a stop."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convkit import _precision, nn, optim, random
from convkit import functional as F
from convkit.autograd import Tensor
from convkit.data.augment.base import Transform
from convkit.distributed import DistributedDataParallel, all_gather_object, get_rank
from convkit.training.anomaly import detect_anomaly
from convkit.training.callbacks import Callback
from convkit.training.checkpoint import Checkpoints, read_checkpoint
from convkit.training.ema import EMA
from convkit.training.interrupt import finishing_steps
from convkit.training.progress import progress_callbacks
from convkit.training.results import EpochResult, Tally
from convkit.training.run_state import capture, restore
from convkit.training.scoring import evaluate, iterate
from convkit.training.uncertainty import weight_noise
from convkit.training.update import Update

__all__ = ["INTERRUPTED", "Trainer"]

# What the seed is combined with for the random numbers of batch transforms.
MIXING = 2

# What `Trainer.stopped` is after Ctrl-C.
INTERRUPTED = "interrupted"

BatchTransform = Callable[[Any, Any, np.random.Generator], tuple[Any, Any]]


class Trainer:
    """Trains a network, and can go on exactly where a run was stopped.

    Parameters
    ----------
    model : Module
        The network; in a `DistributedDataParallel`, whose processes train together: the first
        one alone writes checkpoints and draws progress bars.
    optimizer : Optimizer
        Of its parameters.
    loss : callable
        ``loss(scores, targets)`` returns the mean loss of a batch as a Tensor. A batch with
        more entries than (inputs, targets) hands them all over.
    scheduler : object with ``step()``, optional
        Learning-rate schedule.
    schedule_every : {"step", "epoch"}, optional
        After what the schedule moves on: "step" by default, "epoch" for `ReduceLROnPlateau`.
    schedule_monitor : str, optional
        An entry of the epoch's record that ``scheduler.step`` gets; "val_loss" by default for
        `ReduceLROnPlateau`.
    accumulate : int
        Batches whose gradients go into one step: their mean over the samples, as if they
        were one batch (batch norm still sees each by itself).
    clip_norm, clip_value : float, optional
        Largest norm of all gradients together, largest absolute value of each element.
    penalty : callable, optional
        ``penalty(model)`` returns what is added to each batch's loss in training, such as a
        multiple of `nn.l1_penalty`; no reported loss holds it.
    max_norm : float, optional
        Bound on the norm of each unit's incoming weights, kept by scaling after every step,
        see `nn.max_norm_`.
    weight_noise : float, optional
        Standard deviation of normal noise on the weights in each batch's forward and backward
        pass, see `training.weight_noise`.
    ema : float or EMA, optional
        Keep a running average of the weights with this decay; validation and the best
        weights use it.
    batch_transform : Transform of `convkit.data.augment`, or callable, optional
        Such as MixUp or CutMix. A callable ``batch_transform(inputs, targets, rng)`` returns what
        to train on instead; `rng`, like a Transform's draws, depends on `seed` and the batch alone.
    precision : {"highest", "high", "medium"}, optional
        Of products in training and validation; that of the caller by default.
    metrics : mapping of str to callable, optional
        ``metric(targets, scores)`` of all validation samples, which enters the record as
        "val_" and the name.
    callbacks : sequence of Callback
        Called in this order.
    checkpoints : Checkpoints or path_like, optional
        Where to keep the run's files; a path stands for ``Checkpoints(path)``.
    time_limit : float, optional
        Seconds after which training stops, those of earlier sittings included.
    fast_dev_run : bool or int
        Try everything out: one epoch of one batch (or that many) of training and validation,
        and no checkpoints.
    detect_anomaly : bool
        Whether to look for NaN and infinities in every operation, see
        `convkit.detect_anomaly`.
    progress : bool, optional
        Whether to draw progress bars; by default where the error stream is a terminal.
    seed : int
        Of the batch transform.

    Attributes
    ----------
    history : list of dict
        One record for each epoch done: "epoch", "step", "lr", "seconds",
        "images_per_second", "loss", "accuracy", with validation data "val_loss" and
        "val_accuracy", and what callbacks added.
    epoch, step, batch : int
        Epochs done, steps of the optimiser done, batches done of the epoch at hand.
    lr : float
        Learning rate (of the first group) in the newest step.
    stopped : str or None
        Why training stopped before its last epoch.
    epochs : int
        How many epochs the run has.
    batches_per_epoch : int or None
        How many batches an epoch has, where the loader knows.

    Raises
    ------
    ValueError, TypeError
        When a setting makes no sense.

    Examples
    --------
    >>> trainer = Trainer(net, optim.SGD(net.parameters(), 0.1), checkpoints="run")
    >>> history = trainer.fit(train_loader, val_loader, epochs=10)
    >>> trainer.fit(train_loader, val_loader, epochs=20, resume=True)  # 10 more
    """

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer,
                 loss: Callable[..., Tensor] = F.cross_entropy, *,
                 scheduler: Any = None, schedule_every: str | None = None,
                 schedule_monitor: str | None = None, accumulate: int = 1,
                 clip_norm: float | None = None, clip_value: float | None = None,
                 penalty: Callable[[nn.Module], Tensor] | None = None,
                 max_norm: float | None = None, weight_noise: float | None = None,
                 ema: float | EMA | None = None,
                 batch_transform: Transform | BatchTransform | None = None,
                 precision: str | None = None,
                 metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] | None = None,
                 callbacks: Sequence[Callback] = (), checkpoints: Any = None,
                 time_limit: float | None = None, fast_dev_run: bool | int = False,
                 detect_anomaly: bool = False, progress: bool | None = None, seed: int = 0):
        if isinstance(scheduler, optim.lr_scheduler.ReduceLROnPlateau):
            schedule_every = schedule_every or "epoch"
            schedule_monitor = schedule_monitor or "val_loss"
        schedule_every = schedule_every or "step"
        if schedule_every not in ("step", "epoch"):
            raise ValueError(f"expected schedule_every 'step' or 'epoch', got {schedule_every!r}")
        if schedule_monitor is not None and schedule_every != "epoch":
            raise ValueError("a schedule that reads a figure of the epoch needs "
                             "schedule_every='epoch'")
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"expected time_limit above 0, got {time_limit}")
        for name, value in (("max_norm", max_norm), ("weight_noise", weight_noise)):
            if value is not None and not value > 0:
                raise ValueError(f"expected {name} above 0, got {value}")
        taken = {"loss", "accuracy"} & set(metrics or ())
        if taken:
            raise ValueError(f"expected other names of metrics than {sorted(taken)}, which are "
                             "figures of every record")
        # The wrapper of several processes, and its network, whose state files hold.
        self.parallel = model if isinstance(model, DistributedDataParallel) else None
        self.model = model if self.parallel is None else self.parallel.module
        self.first_process = self.parallel is None or get_rank() == 0
        self.optimizer = optimizer
        self.loss = loss
        self.scheduler = scheduler
        self.schedule_every = schedule_every
        self.schedule_monitor = schedule_monitor
        self.penalty = penalty
        self.max_norm = max_norm
        self.weight_noise = weight_noise
        self.ema = ema if ema is None or isinstance(ema, EMA) else EMA(self.model, ema)
        self.batch_transform = batch_transform
        self.precision = precision and _precision.checked_precision(precision)
        self.detect_anomaly = detect_anomaly
        self.metrics = dict(metrics or {})
        self.callbacks = [*callbacks,
                          *progress_callbacks(progress if self.first_process else False)]
        self.fast_dev_run = int(fast_dev_run)
        if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
            checkpoints = Checkpoints(checkpoints)
        self.checkpoints: Checkpoints | None = None if fast_dev_run else checkpoints
        self.time_limit = time_limit
        self.seed = seed
        self.history: list[dict[str, Any]] = []
        self.epoch = self.step = self.batch = self.epochs = 0
        self.lr = 0.0
        self.batches_per_epoch: int | None = None
        self.stopped: str | None = None
        self.tally = Tally()
        self.loaders: dict[str, Any] = {}
        self._update = Update(optimizer, accumulate, clip_norm, clip_value, self.parallel)
        # The processes' random numbers; None where there is but one.
        self.streams: list[dict[str, Any]] | None = None
        self._asked: str | None = None  # why this process wants to stop, which all must do
        self._max_steps: int | None = None
        self._seconds = 0.0
        self._since: float | None = None  # when the time that `_seconds` lacks began

    # -- the run ------------------------------------------------------------------------

    def fit(self, train: Iterable, val: Iterable | None = None, epochs: int = 1, *,
            max_steps: int | None = None, resume: Any = False) -> list[dict[str, Any]]:
        """Train until `epochs` epochs are done, counted from the run's beginning.

        Parameters
        ----------
        train : iterable of (inputs, targets)
            Such as a `DataLoader`. One without ``state_dict`` can be resumed exactly where it
            gives the same batches in every epoch.
        val : iterable of (inputs, targets), optional
            Measured after each epoch.
        epochs : int
            How many epochs the run has, those of earlier sittings included.
        max_steps : int, optional
            Stop when so many steps of the optimiser are done.
        resume : bool, "auto" or path_like
            Go on from the checkpoint ``last`` (True), from that if there is one ("auto"), or
            from a file. The weights at the end are, to the bit, those of a run that was never
            stopped.

        Returns
        -------
        list of dict
            `history`.

        Raises
        ------
        FloatingPointError
            When the loss is NaN or infinite; the weights are those before that step.
        ModelFormatError, OSError
            When the checkpoint cannot be read.
        ValueError, RuntimeError
            When it does not fit this trainer.

        Notes
        -----
        At Ctrl-C the step at hand is finished, a checkpoint written, and `fit` returns with
        `stopped` set; a second Ctrl-C interrupts at once. A resumed run has the schedule of
        its beginning: one made for 10 epochs is not stretched when `epochs` is 20 now.
        """
        self.loaders = {"train": train, "val": val}
        self.stopped = None
        self.epochs = 1 if self.fast_dev_run else epochs
        self._max_steps = max_steps
        self.batches_per_epoch = self._length(train)
        if self.checkpoints is not None and self.first_process:
            self.checkpoints.prepare()
        path = self._resumed_file(resume)
        if path is not None:
            self.load_state_dict(read_checkpoint(path))
        self._since, self._asked = time.perf_counter(), None
        try:
            with self._settings(), finishing_steps(lambda: self.stop(INTERRUPTED)):
                self._run(train, val)
        finally:
            self._seconds, self._since = self.seconds, None
            for callback in self.callbacks:
                callback.close()
        return self.history

    def _run(self, train: Iterable, val: Iterable | None) -> None:
        """Train the epochs that are left."""
        self._call("on_fit_start")
        self._check_limits()
        while self.stopped is None and self.epoch < self.epochs:
            self._call("on_epoch_start")
            if not self._pass(train):
                break
            self._end_epoch(val)
        if self.batch and self.checkpoints is not None and self.first_process:
            self.checkpoints.save_last(self)
        self._call("on_fit_end")

    def train_epoch(self, train: Iterable) -> EpochResult:
        """Train on every batch once, without validation, records or checkpoints.

        Parameters
        ----------
        train : iterable of (inputs, targets)

        Returns
        -------
        EpochResult

        Raises
        ------
        FloatingPointError
            When the loss is NaN or infinite; the weights are those before that step.
        """
        self.stopped = None
        self.batches_per_epoch = self._length(train)
        with self._settings():
            self._pass(train)
        result = self._epoch_result()
        self.epoch, self.batch = self.epoch + 1, 0
        return result

    def evaluate(self, loader: Iterable, **options: Any) -> EpochResult:
        """Measure loss and accuracy, by the averaged weights if an average is kept.

        Parameters
        ----------
        loader : iterable of (inputs, targets)
        **options
            See `convkit.training.evaluate`.
        """
        with self._settings(), self.averaged_weights():
            return evaluate(self.model, loader, self.loss, **options)

    def stop(self, reason: str) -> None:
        """Have training stop after the step at hand, for a reason in words."""
        if self.parallel is None:
            self.stopped = self.stopped or reason
        else:
            self._asked = self._asked or reason

    def _agree(self) -> None:
        """Stop where one of the processes wants to: all of them after the same step.

        A checkpoint written now has the random numbers that each goes on with.
        """
        if self.parallel is None:
            return
        answers = all_gather_object((self._asked, random.get_state()))
        self.streams = [stream for _, stream in answers]
        if self.stopped is None:
            self.stopped = next((asked for asked, _ in answers if asked is not None), None)

    @property
    def seconds(self) -> float:
        """Seconds spent in `fit`, those of earlier sittings included."""
        return self._seconds + (time.perf_counter() - self._since if self._since else 0.0)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Give the model its averaged weights within a ``with`` block, if an average is kept."""
        with contextlib.nullcontext() if self.ema is None else self.ema.applied():
            yield

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Apply precision and the search for anomalies within a ``with`` block."""
        with contextlib.ExitStack() as stack:
            if self.precision is not None:
                stack.enter_context(_precision.precision(self.precision))
            if self.detect_anomaly:
                stack.enter_context(detect_anomaly())
            yield

    def _length(self, loader: Iterable) -> int | None:
        """Return how many batches an epoch has, where that is known."""
        known = len(loader) if hasattr(loader, "__len__") else None
        if not self.fast_dev_run:
            return known
        return self.fast_dev_run if known is None else min(known, self.fast_dev_run)

    def _call(self, name: str, *args: Any) -> None:
        for callback in self.callbacks:
            if self.first_process or not callback.first_process_only:
                getattr(callback, name)(self, *args)

    # -- an epoch -----------------------------------------------------------------------

    def _pass(self, train: Iterable) -> bool:
        """Train on the epoch's batches that are not done yet; tell whether all are done."""
        self.model.train()
        if not self.batch:
            self.tally = Tally()
        elif self.batch == self.batches_per_epoch:
            return True  # it was stopped after the epoch's last step
        with iterate(self._rest(train)) as batches:
            for batch in itertools.islice(batches, self.fast_dev_run or None):
                self._train_on(batch)
                if self.stopped is not None and not self._update.pending:
                    return False
        if not self.batch:
            raise ValueError(
                f"the training data gave no batch in epoch {self.epoch + 1}: expected an iterable "
                "that gives at least one, and gives them anew in every epoch")
        if self._update.pending:
            self._step()
        return True

    def _rest(self, train: Iterable) -> Iterable:
        """Return the epoch's batches but for those that are done."""
        if not self.batch:
            return train
        if hasattr(train, "load_state_dict"):
            train.load_state_dict(train.state_dict())  # its next iterator goes on from there
            return train
        return itertools.islice(train, self.batch, None)

    def _train_on(self, batch: Sequence) -> None:
        """Add one batch's gradients, and take a step where it is time."""
        inputs, *targets = batch
        if self.batch_transform is not None:
            inputs, targets[0] = self._changed(inputs, targets[0])
        with (weight_noise(self.model, self.weight_noise) if self.weight_noise
              else contextlib.nullcontext()):
            scores = (self.model if self.parallel is None else self.parallel)(inputs)
            loss = self.loss(scores, *targets)
            if loss.data.size != 1:
                raise ValueError(f"expected the loss of a batch as one number, got shape "
                                 f"{loss.shape}; take its mean")
            value = loss.item()
            self.batch += 1
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss became {value} at batch {self.batch}; a lower "
                                         "learning rate may help")
            if self.penalty is not None:
                loss = loss + self.penalty(self.model)
            self._update.add(loss, len(scores))
        self.tally.add(value, scores.data, targets[0])
        if self._update.due:
            self._step()
        self._call("on_batch_end", self.tally.result())

    def _changed(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return what the batch transform makes of a batch."""
        rng = np.random.default_rng(
            np.random.SeedSequence(self.seed, spawn_key=(MIXING, self.epoch, self.batch)))
        if not isinstance(self.batch_transform, Transform):
            return self.batch_transform(inputs, targets, rng)
        images, labels = self.batch_transform(np.asarray(inputs), np.asarray(targets),
                                              seed=int(rng.integers(2**63)))
        return Tensor(images), Tensor(labels)

    def _step(self) -> None:
        """Change the weights by the gradients that have come together."""
        self._update.average()
        self._call("on_gradients")
        self._update.take()
        if self.max_norm is not None:
            nn.max_norm_(self.model, self.max_norm)
        self.step += 1
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None and self.schedule_every == "step":
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update()
        self._call("on_step")
        self._check_limits()
        if self.checkpoints is not None and self.first_process:
            self.checkpoints.after_step(self)

    def _check_limits(self) -> None:
        if self._max_steps is not None and self.step >= self._max_steps:
            self.stop(f"{self.step} steps are done")
        if self.time_limit is not None and self.seconds >= self.time_limit:
            self.stop(f"the time limit of {self.time_limit:g} s is reached")
        self._agree()

    def _end_epoch(self, val: Iterable | None) -> None:
        """Validate, move the schedule, record, and keep files."""
        result = self._epoch_result()
        self.epoch, self.batch = self.epoch + 1, 0
        record: dict[str, Any] = {
            "epoch": self.epoch, "step": self.step,
            "lr": self.lr, "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "loss": result.loss, "accuracy": result.accuracy}
        if val is not None:
            record.update(self._validate(val))
        if self.parallel is not None:
            # Batch norm's estimates differ between processes, decisions must not.
            record = all_gather_object(record)[0]
        if self.scheduler is not None and self.schedule_every == "epoch":
            self.scheduler.step(*self._monitored(record))
        self.history.append(record)
        self._call("on_epoch_end", record)
        self._agree()
        if self.checkpoints is not None and self.first_process:
            self.checkpoints.after_epoch(self, record)

    def _monitored(self, record: dict[str, Any]) -> tuple:
        """Return the figure that the schedule reads, as arguments of its step."""
        name = self.schedule_monitor
        if name is None:
            return ()
        if name not in record:
            raise KeyError(f"the schedule reads {name!r}, which is not among the epoch's figures "
                           f"({', '.join(record)}); val_ figures need validation data")
        return (record[name],)

    def _epoch_result(self) -> EpochResult:
        """Return the epoch's figures, of all processes' samples."""
        if self.parallel is None:
            return self.tally.result()
        return Tally.joined(all_gather_object(self.tally.state_dict())).result()

    def _validate(self, val: Iterable) -> dict[str, Any]:
        """Return the record's entries on validation data."""
        scores: list[np.ndarray] = []
        targets: list[np.ndarray] = []

        def keep(batch_scores: np.ndarray, batch_targets: tuple) -> None:
            scores.append(batch_scores)
            targets.append(np.asarray(batch_targets[0]))

        if self.fast_dev_run:
            val = itertools.islice(val, self.fast_dev_run)
        result = self.evaluate(val, each=keep if self.metrics else None)
        record = {"val_loss": result.loss, "val_accuracy": result.accuracy}
        for name, metric in self.metrics.items():
            figure = metric(np.concatenate(targets), np.concatenate(scores))
            if np.size(figure) != 1:
                raise ValueError(f"expected metric {name!r} to return one number, got an array of "
                                 f"shape {np.shape(figure)}")
            record[f"val_{name}"] = float(np.asarray(figure).item())
        return record

    # -- state --------------------------------------------------------------------------

    def _resumed_file(self, resume: Any) -> Any:
        """Return the checkpoint to go on from, or None."""
        if resume is False or resume is None:
            return None
        if resume is not True and resume != "auto":
            return resume
        if self.checkpoints is None:
            raise ValueError("resuming without a file needs checkpoints=FOLDER")
        if resume == "auto" and not self.checkpoints.last.exists():
            return None
        return self.checkpoints.last

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on, between two steps."""
        return capture(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        ValueError, RuntimeError, ModelFormatError
            When it does not fit this trainer's parts, or is no such state.
        """
        restore(self, state)

    def go_to(self, epoch: int, step: int, batch: int, lr: float, seconds: float,
              tally: dict[str, Any]) -> None:
        """Set the position in the run, as a checkpoint has it."""
        self.epoch, self.step, self.batch, self.lr = epoch, step, batch, lr
        self._seconds = seconds
        self.tally = Tally()
        self.tally.load_state_dict(tally)
