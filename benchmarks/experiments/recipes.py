"""ResNet-20 on CIFAR-10 by a recipe after He et al. 2016, who publish 91.25%.

    python benchmarks/experiments/recipes.py --epochs 60

What learns most in ten minutes is a network of its own: ten_minutes.py.
"""

from __future__ import annotations

from runner import Run, arguments, cifar10, one_cycle, print_table, save_curves

from convkit import data, models
from convkit.data import augment

LR, DECAY = 0.2, 5e-4


def main() -> None:
    """Train, unless that has been done, and print what came out."""
    options = arguments(__doc__.splitlines()[0], epochs=60).parse_args()
    train, test = cifar10(options.quick)
    mean, std = train.statistics()
    change = augment.Compose([augment.RandomHorizontalFlip(), augment.RandomCrop(32, padding=4)])
    loaders = (data.DataLoader(train, 128, shuffle=True, seed=options.seed, mean=mean, std=std,
                               transform=change),
               data.DataLoader(test, 500, mean=mean, std=std))
    found = Run("recipes", "resnet20", options, {"lr": LR, "weight_decay": DECAY}).train(
        models.resnet20, one_cycle(LR, DECAY), loaders)
    save_curves(options.picture, {"ResNet-20": found},
                {"training loss": "loss", "test accuracy": "val_accuracy"})
    print_table(["epochs", "train", "test", "s"],
                [[len(found["history"]), f"{found['train_accuracy']:.2%}",
                  f"{found['test_accuracy']:.2%}", f"{found['seconds']:.0f}"]])


if __name__ == "__main__":
    main()
