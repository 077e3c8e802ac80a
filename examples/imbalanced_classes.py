"""Rare classes: plain cross-entropy beside class weights, balanced batches and focal loss.

Of the bundled digits, all but a few of the eights and nines are taken away; each remedy trains
the same network from the same start. What counts is the recall of the rare classes, and what
the others lose for it. Run it with ``python examples/imbalanced_classes.py``.
"""

from __future__ import annotations

import argparse

import numpy as np

import convkit as ck
from convkit import data, nn, optim

RARE = (8, 9)


def unbalanced(labels: np.ndarray, kept: int) -> np.ndarray:
    """Return the indices of all samples of the common classes and `kept` of each rare one."""
    parts = [np.flatnonzero(~np.isin(labels, RARE))]
    parts += [np.flatnonzero(labels == c)[:kept] for c in RARE]
    return np.sort(np.concatenate(parts))


def network() -> nn.Module:
    """Return a small network, the same every time."""
    ck.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16 * 49, 10))


def recalls(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the mean recall over the rare classes and over the common ones."""
    model.eval()
    with ck.no_grad():
        found = model(ck.Tensor(images)).data.argmax(1)
    by_class = np.array([np.mean(found[labels == c] == c) for c in range(10)])
    return float(by_class[list(RARE)].mean()), float(np.delete(by_class, RARE).mean())


def main() -> None:
    """Train four ways and print the recalls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=int, default=15, help="samples of each rare class")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    train, test = (data.digits(split) for split in ("train", "test"))
    picked = unbalanced(np.asarray(train.labels), args.kept)
    labels = np.asarray(train.labels)[picked]
    weights = data.class_weights(labels, 10)
    few = data.Subset(train, picked)
    balanced = data.BalancedBatchSampler(labels, 50)
    images = np.stack([test[i][0] for i in range(len(test))])
    remedies = {
        "plain": (nn.CrossEntropyLoss(), None),
        "class weights": (nn.CrossEntropyLoss(weight=weights), None),
        "balanced batches": (nn.CrossEntropyLoss(), balanced),
        "focal loss": (nn.FocalLoss(gamma=2.0, weight=weights), None),
    }
    print(f"{len(few)} samples, {args.kept} of each of the classes {RARE}")
    print(f"{'':18s}{'rare':>8s}{'common':>8s}   (mean recall)")
    for name, (loss_fn, sampler) in remedies.items():
        model = network()
        optimizer = optim.Adam(model.parameters(), lr=3e-3)
        loader = data.DataLoader(few, 50, shuffle=sampler is None, sampler=sampler, seed=1)
        for _ in range(args.epochs):
            model.train()
            for batch, target in loader:
                loss = loss_fn(model(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        rare, common = recalls(model, images, np.asarray(test.labels))
        print(f"{name:18s}{rare:8.1%}{common:8.1%}")


if __name__ == "__main__":
    main()
