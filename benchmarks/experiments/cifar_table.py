"""CIFAR-10 with small networks, with and without random crops and weight decay.

The table of Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires
rethinking generalization", 2017: small Inception with and without batch norm, small AlexNet,
MLPs of 3 and 1 hidden layers of 512, on 28x28 centres; SGD with momentum 0.9. There the rate falls
by 5% an epoch; here, where epochs are fewer, by the same factor in each step, to a twentieth at the
end: as far as in 60 epochs of theirs.

    python benchmarks/experiments/cifar_table.py --epochs 30
"""

from __future__ import annotations

from typing import Any

import numpy as np
from runner import Run, arguments, cifar10, cifar10_files, print_table, save_curves, sgd

from convkit import data, nn
from convkit import functional as F
from convkit.data import augment

SIZE = 28
DECAY = 5e-4
LAST_RATE = 0.05        # of the first
# Test accuracy by (random crop, weight decay) in the order of FORMS, as published.
FORMS = ((True, True), (True, False), (False, True), (False, False))
PUBLISHED = {"inception": (89.05, 89.31, 86.03, 85.75),
             "inception without norm": (None, None, 83.00, 82.00),
             "alexnet": (81.22, 79.66, 77.36, 76.07), "mlp 3x512": (None, None, 53.35, 52.39),
             "mlp 1x512": (None, None, 50.39, 50.51)}


class Conv(nn.Sequential):
    """Convolution, batch norm where asked for, ReLU."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, norm: bool):
        padding = kernel // 2 if stride == 1 else 0
        layers = [nn.Conv2d(before, after, kernel, stride, padding, bias=not norm)]
        super().__init__(*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU())


class Block(nn.Module):
    """1x1 and 3x3 side by side; or, of half the size, 3x3 beside max pooling."""

    def __init__(self, before: int, one: int, three: int, norm: bool):
        super().__init__()
        self.half = one == 0
        self.one = nn.MaxPool2d(3, 2) if self.half else Conv(before, one, 1, 1, norm)
        self.three = Conv(before, three, 3, 2 if self.half else 1, norm)
        self.channels = (before if self.half else one) + three

    def forward(self, x):
        """Return both sides' channels."""
        return F.concat([self.one(x), self.three(x)], 1)


def inception(norm: bool) -> nn.Module:
    """Return the small Inception network.

    Without batch norm its weights are He's: from PyTorch's smaller ones it never begins to learn.
    """
    layers: list[nn.Module] = [Conv(3, 96, 3, 1, norm)]
    channels = 96
    for one, three in ((32, 32), (32, 48), (0, 80), (112, 48), (96, 64), (80, 80), (48, 96),
                       (0, 96), (176, 160), (176, 160)):
        layers.append(Block(channels, one, three, norm))
        channels = layers[-1].channels
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(channels, 10))
    for module in () if norm else network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def alexnet() -> nn.Module:
    """Return the small AlexNet."""
    def stage(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                nn.LocalResponseNorm(9, alpha=0.009, beta=0.75, k=1.0)]

    return nn.Sequential(*stage(3, 64), *stage(64, 64), nn.Flatten(), nn.Linear(64 * 49, 384),
                         nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, 10))


def mlp(hidden: int) -> nn.Module:
    """Return a multilayer perceptron with so many hidden layers of 512."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = 3 * SIZE * SIZE
    for _ in range(hidden):
        layers += [nn.Linear(width, 512), nn.ReLU()]
        width = 512
    return nn.Sequential(*layers, nn.Linear(width, 10))


NETWORKS: dict[str, tuple[Any, float]] = {
    "inception": (lambda: inception(True), 0.1),
    "inception without norm": (lambda: inception(False), 0.03),
    "alexnet": (alexnet, 0.01), "mlp 3x512": (lambda: mlp(3), 0.01),
    "mlp 1x512": (lambda: mlp(1), 0.01)}


def standardised(images: np.ndarray) -> np.ndarray:
    """Return images with mean 0 and deviation 1, each by itself (at least 1/sqrt(size))."""
    axes = (1, 2, 3)
    least = float(images[0].size) ** -0.5
    spread = np.maximum(images.std(axis=axes, keepdims=True), least)
    return (images - images.mean(axis=axes, keepdims=True)) / spread


def main() -> None:
    """Run what has not been run, and print the table."""
    options = arguments(__doc__.splitlines()[0], epochs=30).parse_args()
    train, test = cifar10(options.quick)
    found = {}
    for name, (build, lr) in NETWORKS.items():
        for form, published in zip(FORMS, PUBLISHED[name], strict=True):
            crop, decay = form
            label = f"{name}{', crop' * crop}{', decay' * decay}"
            if published is None or not options.only.search(label):
                continue
            cut = augment.RandomCrop(SIZE) if crop else augment.CenterCrop(SIZE)
            loaders = (data.DataLoader(train, 128, shuffle=True, seed=options.seed, transform=cut,
                                       preprocess=standardised),
                       data.DataLoader(test, 500, transform=augment.CenterCrop(SIZE),
                                       preprocess=standardised))
            run = Run("cifar-table", label.replace(" ", "-").replace(",", ""), options,
                      {"lr": lr, "last_rate": LAST_RATE, "weight_decay": DECAY * decay,
                       "crop": crop, "data": cifar10_files()})
            found[name, form] = run.train(
                build, sgd(lr, DECAY * decay, last_rate=LAST_RATE), loaders)
    save_curves(options.picture, {f"{name}{', crop' * crop}{', decay' * decay}": r
                                  for (name, (crop, decay)), r in found.items()},
                {"training accuracy": "accuracy", "test accuracy": "val_accuracy"})
    rows = []
    for (name, (crop, decay)), result in found.items():
        published = PUBLISHED[name][FORMS.index((crop, decay))]
        rows.append([name, "yes" if crop else "no", "yes" if decay else "no",
                     f"{result['train_accuracy']:.2%}", f"{result['test_accuracy']:.2%}",
                     f"{published:.2f}%", f"{result['seconds']:.0f}"])
    print_table(["network", "random crop", "weight decay", "train", "test", "published", "s"], rows)


if __name__ == "__main__":
    main()
