"""Dropout, DropConnect, weight decay and early stopping on 1,000 digits of MNIST.

The same network of two hidden layers from the same start, with one remedy against overfitting
each: accuracy on what it was trained on and on 10,000 digits it has not seen. Early stopping looks
at 1,000 digits more, neither trained on nor tested with, and ends with its best weights.

    python benchmarks/experiments/regularisers.py --epochs 60
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from runner import Run, arguments, mnist, print_table, save_curves, sgd

from convkit import data, nn, training

SAMPLES, WIDTH = 1_000, 800


def network(remedy: str) -> nn.Module:
    """Return the network with one remedy inside, if it is one of layers."""
    def hidden(before: int) -> list[nn.Module]:
        if remedy == "dropconnect":
            return [nn.DropConnectLinear(before, WIDTH), nn.ReLU()]
        drop = [nn.Dropout(0.5)] if remedy == "dropout" else []
        return [nn.Linear(before, WIDTH), nn.ReLU(), *drop]

    return nn.Sequential(nn.Flatten(), *hidden(784), *hidden(WIDTH), nn.Linear(WIDTH, 10))


def callbacks(remedy: str) -> Sequence[Any]:
    """Return what stops early, where that is the remedy."""
    return [training.EarlyStopping(patience=8)] if remedy == "early stopping" else []


def main() -> None:
    """Run what has not been run, and print the table."""
    options = arguments(__doc__.splitlines()[0], epochs=60).parse_args()
    train, test = mnist(options.quick)
    order = np.random.default_rng(0).permutation(len(train))
    part, held_back = (data.ImageDataset(train.images[pick], train.labels[pick], train.classes)
                       for pick in (order[:SAMPLES], order[-SAMPLES:]))
    mean, std = part.statistics()
    tested, watched = (data.DataLoader(images, 500, mean=mean, std=std)
                       for images in (test, held_back))

    def final(trainer: training.Trainer) -> dict[str, Any]:
        found = trainer.evaluate(tested)
        return {"test_loss": found.loss, "test_accuracy": found.accuracy}

    rows, found = [], {}
    for remedy in ("none", "dropout", "dropconnect", "weight decay", "early stopping"):
        if not options.only.search(remedy):
            continue
        decay = 5e-3 if remedy == "weight decay" else 0.0
        loaders = (data.DataLoader(part, 50, shuffle=True, seed=options.seed, mean=mean, std=std),
                   watched if remedy == "early stopping" else tested)
        run = Run("regularisers", remedy.replace(" ", "-"), options,
                  {"lr": 0.02, "weight_decay": decay, "samples": len(part),
                   "val": "held back" if loaders[1] is watched else "test"})
        result = run.train(lambda remedy=remedy: network(remedy), sgd(0.02, decay), loaders,
                           callbacks=callbacks(remedy), extra=final)
        found[remedy] = result
        history = result["history"]
        rows.append([remedy, len(history), f"{result['train_accuracy']:.2%}",
                     f"{result['test_accuracy']:.2%}",
                     f"{result['test_loss']:.3f}", f"{result['seconds']:.0f}"])
    save_curves(options.picture, found, {"accuracy in training": "accuracy",
                                         "accuracy on other digits": "val_accuracy",
                                         "loss on other digits": "val_loss"})
    print_table(["remedy", "epochs", "train", "test", "test loss", "s"], rows)


if __name__ == "__main__":
    main()
