"""CIFAR-10 in ten minutes of two cores: a small network built to learn fast.

What makes it fast: a first layer that whitens 2x2 patches, set from the training images and not
trained (Coates and Ng 2012; Page, "How to train your ResNet", 2019), three stages of two 3x3
convolutions with pooling early in each, batch norm without factors and with offsets that learn
faster than the weights, scores scaled down by nine, label smoothing, one cycle of the rate
(Smith 2018), and at the end scores averaged over each image and its mirror image. Jordan,
"94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, measures what each of these brings.

    python benchmarks/experiments/ten_minutes.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from runner import Run, arguments, cifar10, cifar10_files, loaders, print_table

from convkit import Tensor, nn, no_grad, optim, training
from convkit import functional as F
from convkit.data import augment
from convkit.data.preprocess import PCAWhitening

WIDTHS = (64, 128, 256)
BATCH, RATE, DECAY, OFFSETS, SMOOTHING, LIMIT = 256, 0.3, 1e-3, 16.0, 0.2, 600.0
PATCHES = 20_000


class Stage(nn.Sequential):
    """Convolution, pooling, convolution, each convolution normalised."""

    def __init__(self, before: int, after: int):
        super().__init__(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.MaxPool2d(2),
                         nn.BatchNorm2d(after), nn.GELU(),
                         nn.Conv2d(after, after, 3, padding=1, bias=False),
                         nn.BatchNorm2d(after), nn.GELU())


class Network(nn.Module):
    """Whitening, three stages, the largest value of each channel, a linear layer."""

    def __init__(self, whitening: np.ndarray):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        with no_grad():
            self.whiten.weight.copy_(whitening)
        self.whiten.weight.requires_grad = False
        self.stages = nn.Sequential(*[Stage(before, after) for before, after in
                                      zip((24, *WIDTHS), WIDTHS, strict=False)])
        self.head = nn.Linear(WIDTHS[-1], 10, bias=False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.requires_grad = False

    def forward(self, x):
        """Return scores (N, 10) of images (N, 3, 32, 32)."""
        x = self.stages(F.gelu(self.whiten(x)))
        return self.head(F.max_pool2d(x, 3).flatten(1)) / 9


class Mirrored(nn.Module):
    """Scores averaged over an image and its mirror image."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x):
        """Return scores (N, 10)."""
        return (self.network(x) + self.network(Tensor(x.data[..., ::-1]))) / 2


def whitening(images: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """Return weights (24, 3, 2, 2): the principal directions of patches, and their negatives."""
    rng = np.random.default_rng(0)
    n, y, x = (rng.integers(limit, size=PATCHES) for limit in (len(images), 31, 31))
    patches = np.stack([images[n, :, y + dy, x + dx] for dy in (0, 1) for dx in (0, 1)], axis=-1)
    patches = (patches / 255 - np.reshape(mean, (3, 1))) / np.reshape(std, (3, 1))
    found = PCAWhitening(eps=5e-4).fit(patches.reshape(PATCHES, 3, 2, 2).astype(np.float32))
    spread = np.sqrt(found.arrays["variances"][0] + found.eps)
    rows = found.arrays["directions"][0] / spread[:, None]
    return np.concatenate([rows, -rows]).reshape(24, 3, 2, 2)


def optimiser(model: nn.Module, steps: int) -> tuple[Any, Any]:
    """Return Nesterov momentum, offsets with a rate of their own, and one cycle."""
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in learned if p.ndim > 1], "weight_decay": DECAY},
              {"params": [p for p in learned if p.ndim == 1], "lr": RATE * OFFSETS}]
    optimizer = optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=True)
    return optimizer, optim.lr_scheduler.OneCycleLR(
        optimizer, [RATE, RATE * OFFSETS], steps, pct_start=0.25, anneal_strategy="linear",
        cycle_momentum=False)


def loss(scores: Any, targets: Any) -> Any:
    """Return cross-entropy with smoothed labels."""
    return F.cross_entropy(scores, targets, label_smoothing=SMOOTHING)


def main() -> None:
    """Train, unless that has been done, and print what came out."""
    options = arguments(__doc__.splitlines()[0], epochs=12, precision="medium").parse_args()
    train, test = cifar10(options.quick)
    statistics = train.statistics()
    change = augment.Compose([augment.RandomHorizontalFlip(),
                              augment.RandomCrop(32, padding=2, padding_mode="reflect")])
    batches = loaders(train, test, statistics, BATCH, options.seed, transform=change,
                      drop_last=not options.quick)

    def mirrored(trainer: training.Trainer) -> dict[str, Any]:
        found = training.evaluate(Mirrored(trainer.model), batches[1], loss)
        return {"test_accuracy": found.accuracy,
                "without_mirror": trainer.history[-1]["val_accuracy"]}

    run = Run("ten-minutes", "-".join(map(str, WIDTHS)), options, {
        "batch": BATCH, "lr": RATE, "weight_decay": DECAY, "label_smoothing": SMOOTHING,
        "time_limit": LIMIT, "data": cifar10_files()})
    found = run.train(lambda: Network(whitening(train.images, *statistics)), optimiser, batches,
                      loss=loss, extra=mirrored, time_limit=LIMIT)
    print_table(["epochs", "train", "test", "without mirror images", "s"],
                [[len(found["history"]), f"{found['train_accuracy']:.2%}",
                  f"{found['test_accuracy']:.2%}", f"{found['without_mirror']:.2%}",
                  f"{found['seconds']:.0f}"]])


if __name__ == "__main__":
    main()
