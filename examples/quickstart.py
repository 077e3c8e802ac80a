"""From handwritten digits to a file that predicts: train, fold, export, load, predict.

Run it with ``python examples/quickstart.py``; the data comes with the package.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import convkit as ck
from convkit import data, nn, optim, training


class Net(nn.Module):
    """Convolution, batch norm, ReLU, pooling, four times over; then ten scores."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(
            *self.stage(1, 16), nn.MaxPool2d(2),
            *self.stage(16, 32), nn.MaxPool2d(2),
            *self.stage(32, 64), nn.MaxPool2d(2),
            *self.stage(64, 128), nn.AdaptiveAvgPool2d(1))
        self.scores = nn.Linear(128, 10)

    @staticmethod
    def stage(before: int, after: int) -> list[nn.Module]:
        """List the layers of one stage; batch norm makes the convolution's bias idle."""
        return [nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after), nn.ReLU()]

    def forward(self, x):
        """Return scores (N, 10) of images (N, 1, 28, 28)."""
        return self.scores(self.stages(x).flatten(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("digits.ckit"))
    args = parser.parse_args()
    ck.manual_seed(0)

    # Real images, 28x28 pixels, one byte each; the loader scales and normalises batches.
    train, test = data.digits("train"), data.digits("test")
    mean, std = train.statistics()
    batches = data.DataLoader(train, batch_size=50, shuffle=True, mean=mean, std=std)
    tests = data.DataLoader(test, batch_size=250, mean=mean, std=std)

    # Train.
    net = Net()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(batches))
    start = time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        result = training.train_epoch(net, batches, optimizer, scheduler=schedule)
        print(f"epoch {epoch}: loss {result.loss:.3f}, accuracy {result.accuracy:.1%}, "
              f"{result.images_per_second:,.0f} images/s")
    trained = time.perf_counter() - start

    # Fold batch norm into the convolutions, export, and load what was exported.
    program = ck.compile(net, (1, 1, 28, 28), metadata={"labels": train.classes})
    ck.save(program, args.output)
    start = time.perf_counter()
    loaded = ck.load(args.output)
    load_time = time.perf_counter() - start

    # Predict with the network as trained, and with the file.
    before, after = training.evaluate(net, tests), training.evaluate(loaded, tests)
    difference = np.abs(training.predict(net, tests) - training.predict(loaded, tests)).max()
    image, label = next(iter(tests))
    guess = loaded.labels[loaded(image[:1]).argmax()]
    start = time.perf_counter()
    for _ in range(100):
        loaded(image[:1])
    single = (time.perf_counter() - start) / 100

    print(f"""
training                   {trained:.1f} s for {args.epochs} epochs of {len(train):,} images
accuracy before folding    {before.accuracy:.2%} of {before.samples:,} test images
accuracy after folding     {after.accuracy:.2%}, read back from the file
largest difference         {difference:.1e} between their scores
file                       {args.output}, {args.output.stat().st_size:,} bytes, \
read in {load_time * 1e3:.1f} ms
one image                  {single * 1e6:.0f} us; the first one is a {label[0].item()}, \
predicted {guess}""")


if __name__ == "__main__":
    main()
