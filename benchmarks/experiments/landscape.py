"""Loss and gradient along the gradient's direction, with and without batch norm, on CIFAR-10.

Santurkar, Tsipras, Ilyas and Madry, "How Does Batch Normalization Help Optimization?", 2018,
figure 4: at points of training, steps along the gradient of one batch; the range of the loss there
and how far the gradient turns. A small network in VGG's manner, the same learning rate for both.

    python benchmarks/experiments/landscape.py --epochs 3 --picture landscape.png
"""

from __future__ import annotations

from typing import Any

import numpy as np
from runner import Run, arguments, cifar10, cifar10_files, loaders, print_table, sgd

from convkit import data, nn, plot, training
from convkit import functional as F

LR, STEPS = 0.02, np.geomspace(0.01, 0.4, 6)


class Probe(training.Callback):
    """Looks along the gradient of one batch after every so many steps."""

    def __init__(self, batch: Any, every_steps: int):
        self.batch, self.every_steps = batch, every_steps
        self.points: list[dict[str, list[float]]] = []

    def on_step(self, trainer: training.Trainer) -> None:
        """Keep what lies along the gradient, where it is time."""
        if trainer.step % self.every_steps == 0:
            found = training.loss_along_gradient(trainer.model, F.cross_entropy, *self.batch,
                                                 steps=STEPS)
            self.points.append({key: v.tolist() for key, v in found._asdict().items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the points so far."""
        return {"points": self.points}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with those of a checkpoint."""
        self.points = list(state["points"])

    def landscapes(self) -> list[training.Landscape]:
        """Return the points as `plot.loss_landscape` takes them."""
        return [training.Landscape(**{k: np.array(v) for k, v in p.items()}) for p in self.points]


def network(norm: bool) -> nn.Module:
    """Return six 3x3 convolutions in three stages, and two linear layers."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        for _ in range(2):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=not norm)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            layers += [conv, *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, 128), nn.ReLU(),
                         nn.Linear(128, 10))


def main() -> None:
    """Run what has not been run, print the mean ranges, draw the picture."""
    parser = arguments(__doc__.splitlines()[0], epochs=3)
    parser.add_argument("--every-steps", type=int, default=20)
    options = parser.parse_args()
    train, test = cifar10(options.quick)
    mean, std = train.statistics()
    batch = next(iter(data.DataLoader(train, 128, mean=mean, std=std)))
    every = 1 if options.quick else options.every_steps
    rows, scapes = [], {}
    for name in ("without batch norm", "with batch norm"):
        if not options.only.search(name):
            continue
        norm = name.startswith("with ")
        probe = Probe(batch, every)
        batches = loaders(train, test, (mean, std), 128, options.seed)
        run = Run("landscape", name.replace(" ", "-"), options, {
            "lr": LR, "every": every, "data": cifar10_files()})
        result = run.train(lambda norm=norm: network(norm), sgd(LR, momentum=0.0), batches,
                           callbacks=[probe], extra=lambda _, probe=probe: {"points": probe.points})
        probe.points = result["points"]
        scapes[name] = probe.landscapes()
        ranges = [np.mean([np.ptp(getattr(s, key)) for s in scapes[name]])
                  for key in ("losses", "distances")]
        rows.append([name, f"{result['test_accuracy']:.2%}", *(f"{r:.3g}" for r in ranges)])
    if options.picture is not None:
        plot.loss_landscape(scapes).savefig(options.picture, dpi=80, bbox_inches="tight")
    print_table(["network", "test", "range of the loss", "range of the gradient's distance"], rows)


if __name__ == "__main__":
    main()
