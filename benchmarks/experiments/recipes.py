"""ResNet-20 on CIFAR-10: a recipe after He et al. 2016 (91.25% published), and a short one.

python benchmarks/experiments/recipes.py --only full    # 60 epochs
python benchmarks/experiments/recipes.py --only short   # ten minutes
"""

from __future__ import annotations

from runner import Run, arguments, cifar10, one_cycle, print_table

from convkit import data, models
from convkit import functional as F
from convkit.data import augment

# Name: epochs (None for the option's), highest rate, weight decay, label smoothing, time limit.
RECIPES: dict[str, tuple[int | None, float, float, float, float | None]] = {
    "full": (None, 0.2, 5e-4, 0.0, None), "short": (8, 0.4, 5e-4, 0.0, 600.0)}


def main() -> None:
    """Run what has not been run, and print the table."""
    options = arguments(__doc__.splitlines()[0], epochs=60).parse_args()
    train, test = cifar10(options.quick)
    mean, std = train.statistics()
    change = augment.Compose([augment.RandomHorizontalFlip(), augment.RandomCrop(32, padding=4)])
    rows, asked = [], options.epochs
    for name, (epochs, lr, decay, smoothing, limit) in RECIPES.items():
        if options.only not in name:
            continue
        options.epochs = epochs or asked
        loaders = (data.DataLoader(train, 128, shuffle=True, seed=options.seed, mean=mean, std=std,
                                   transform=change),
                   data.DataLoader(test, 500, mean=mean, std=std))
        run = Run("recipes", name, options, {"lr": lr, "weight_decay": decay,
                                             "label_smoothing": smoothing})

        def loss(scores, targets, smoothing=smoothing):
            return F.cross_entropy(scores, targets, label_smoothing=smoothing)

        result = run.train(models.resnet20, one_cycle(lr, decay), loaders, loss=loss,
                           time_limit=limit)
        rows.append([name, len(result["history"]), f"{result['train_accuracy']:.2%}",
                     f"{result['test_accuracy']:.2%}", f"{result['seconds']:.0f}"])
    print_table(["recipe", "epochs", "train", "test", "s"], rows)


if __name__ == "__main__":
    main()
