"""ResNet-20 on CIFAR-10 by a recipe after He et al. 2016, who publish 91.25%.

    python benchmarks/experiments/recipes.py

What learns most in ten minutes is a network of its own: ten_minutes.py.
"""

from __future__ import annotations

from runner import (
    Run,
    arguments,
    cifar10,
    cifar10_files,
    flips_and_crops,
    loaders,
    one_cycle,
    print_table,
    save_curves,
)

from convkit import models

LR, DECAY = 0.2, 5e-4


def main() -> None:
    """Train, unless that has been done, and print what came out."""
    options = arguments(__doc__.splitlines()[0], epochs=80, precision="medium").parse_args()
    train, test = cifar10(options.quick)
    run = Run("recipes", "resnet20", options,
              {"lr": LR, "weight_decay": DECAY, "data": cifar10_files()})
    found = run.train(
        models.resnet20, one_cycle(LR, DECAY),
        loaders(train, test, train.statistics(), 128, options.seed, transform=flips_and_crops()))
    save_curves(options.picture, {"ResNet-20": found})
    print_table(["epochs", "train", "test", "s"],
                [[len(found["history"]), f"{found['train_accuracy']:.2%}",
                  f"{found['test_accuracy']:.2%}", f"{found['seconds']:.0f}"]])


if __name__ == "__main__":
    main()
