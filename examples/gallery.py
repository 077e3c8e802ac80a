"""Draw the pictures of docs/pictures.md from a network trained on the bundled digits.

``python examples/gallery.py FOLDER`` takes about half a minute, and less with fewer ``--images``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import convkit as ck
from convkit import data, models, nn, optim, plot, training
from convkit import functional as F
from convkit.data import augment
from convkit.optim import lr_scheduler


def network(batch_norm: bool) -> nn.Module:
    """Return a small network, with or without batch norm."""
    ck.manual_seed(0)

    def stage(before: int, after: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(after)] if batch_norm else []
        return [nn.Conv2d(before, after, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*stage(1, 16), *stage(16, 32), *stage(32, 64), nn.Flatten(),
                         nn.Linear(576, 10))


def landscapes(loader: Any, batch_norm: bool, points: int = 12) -> list[training.Landscape]:
    """Train for a little, and look along the gradient every few steps."""
    net = network(batch_norm)
    optimizer = optim.SGD(net.parameters(), lr=0.05)
    found = []
    while len(found) < points:
        for step, (x, target) in enumerate(loader):
            if step % 10 == 0 and len(found) < points:
                found.append(training.loss_along_gradient(net, F.cross_entropy, x, target))
            optimizer.zero_grad()
            F.cross_entropy(net(x), target).backward()
            optimizer.step()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("pictures"))
    parser.add_argument("--images", type=int, default=4000, help="to train on")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    def save(drawn: Any, name: str) -> None:
        figure = drawn if hasattr(drawn, "savefig") else drawn.figure
        figure.savefig(folder / f"{name}.png", dpi=60)

    train, test = data.digits("train"), data.digits("test")
    mean, std = train.statistics()
    train = data.Subset(train, range(options.images))
    batches = data.DataLoader(train, batch_size=50, shuffle=True, mean=mean, std=std)
    tests = data.DataLoader(test, batch_size=250, mean=mean, std=std)
    net = network(batch_norm=True)
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    trainer = training.Trainer(net, optimizer, F.cross_entropy)
    history = trainer.fit(batches, tests, epochs=options.epochs)
    scores, targets = training.predict_with_targets(net, tests)
    x = (test.images[:8].astype(np.float32) / 255 - mean[0]) / std[0]

    save(plot.curves(history), "curves")
    save(plot.confusion_matrix(targets, scores), "confusion")
    save(plot.roc(targets, scores), "roc")
    save(plot.precision_recall(targets, scores), "precision-recall")
    save(plot.filters(net[0]), "filters")
    save(plot.feature_maps(net.eval(), x[0], "4"), "feature-maps")
    save(plot.saliency(net, x[0]), "saliency")
    save(plot.grad_cam(net, x[0], "8"), "grad-cam")
    save(plot.activation_histograms(net, x), "activations")
    save(plot.gradient_histograms(net.train(), F.cross_entropy, x, test.labels[:8]), "gradients")
    save(plot.activations_by_depth(), "depth")
    save(plot.model_graph(models.resnet_cifar.BasicBlock(16, 16), (1, 16, 32, 32)), "graph")
    save(plot.receptive_field(models.resnet20(), (1, 3, 32, 32)), "receptive-field")
    change = augment.Compose([augment.RandomAffine(15, translate=(0.1, 0.1), scale=(0.8, 1.2)),
                              augment.RandomErasing(0.5)])
    save(plot.augmentations(test.images[:4], change), "augmentations")
    rates = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)
    save(plot.schedule(rates, 100), "schedule")
    fresh = network(batch_norm=True)
    save(plot.range_test(training.lr_range_test(
        fresh, optim.SGD(fresh.parameters(), lr=0.1), batches, start_lr=1e-4)), "range-test")
    save(plot.loss_landscape({"without batch norm": landscapes(batches, False),
                              "with batch norm": landscapes(batches, True)}), "landscape")


if __name__ == "__main__":
    main()
