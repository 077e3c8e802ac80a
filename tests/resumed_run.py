"""A small training run for tests that stop it: ``python resumed_run.py FOLDER [KILL_STEP]``.

Everything that a resumed run depends on is in it: shuffling, a random transform, dropout,
batch norm, momentum, a schedule, accumulation, averaged weights, mixing, early stopping. At
KILL_STEP the process kills itself by SIGKILL (-KILL_STEP: while it writes the file). The final
weights go to FOLDER/weights.npz.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

import convkit as ck
from convkit import data, nn, optim, training
from convkit.training import Callback, Checkpoints, EarlyStopping, Trainer

EPOCHS = 3
STEPS = 12  # 80 samples in batches of 10, two to a step


class KillAt(Callback):
    """Kill the process after a step of the optimiser, before anything is written."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, trainer):
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class KillWhileWriting(Callback):
    """Kill the process at a step when its checkpoint is written but not in place."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, trainer):
        if trainer.step == self.step:
            os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)


class Interrupt(Callback):
    """Press Ctrl-C in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_gradients(self, trainer):
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def flip(images, rng):
    """Mirror some of a batch's images."""
    return np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[..., ::-1], images)


def mix(images, labels, rng):
    """Mix each sample with another one."""
    share = np.float32(rng.beta(0.4, 0.4))
    other = rng.permutation(len(images))
    x, t = np.asarray(images), np.eye(3, dtype=np.float32)[np.asarray(labels)]
    return ck.Tensor(share * x + (1 - share) * x[other]), share * t + (1 - share) * t[other]


def build(folder, callbacks=(), **options):
    """Return the trainer and its loaders."""
    ck.manual_seed(3)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((110, 2, 6, 6)).astype(np.float32)
    labels = (images.mean((1, 2, 3)) > 0).astype(np.int64) + (images[:, 0, 0, 0] > 1)
    train = data.DataLoader(data.TensorDataset(images[:80], labels[:80]), 10, shuffle=True,
                            transform=flip)
    val = data.DataLoader(data.TensorDataset(images[80:], labels[80:]), 15)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
                          nn.Flatten(), nn.Dropout(0.3), nn.Linear(180, 3))
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    settings = dict(
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), accumulate=2,
        clip_norm=1.0, ema=0.9, batch_transform=mix, progress=False,
        checkpoints=Checkpoints(folder, every_steps=1) if folder else None)
    trainer = Trainer(model, optimizer,
                      callbacks=[*callbacks, EarlyStopping(patience=2, restore_best=False)],
                      **{**settings, **options})
    return trainer, train, val


def weights(trainer) -> dict[str, np.ndarray]:
    """Return the weights and their average."""
    own = {name: np.array(t.data) for name, t in trainer.model.state_dict().items()}
    return own | {f"ema.{k}": np.array(v) for k, v in trainer.ema.average.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    step = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    callbacks = [KillAt(step)] if step > 0 else [KillWhileWriting(-step)] if step else []
    trainer, train, val = build(folder, callbacks)
    trainer.fit(train, val, EPOCHS, resume="auto")
    np.savez(folder / "weights.npz", **weights(trainer))
    assert training.read_checkpoint(folder / "last.safetensors")


if __name__ == "__main__":
    main()
