"""Plain against residual networks of 20 and 56 layers on CIFAR-10: training loss by epoch.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016, figure 6: plain
networks get worse with depth, residual ones do not.

    python benchmarks/experiments/depth.py --epochs 15 --precision medium
"""

from __future__ import annotations

from runner import (
    Run,
    arguments,
    cifar10,
    cifar10_files,
    flips_and_crops,
    loaders,
    print_table,
    save_curves,
    sgd,
)

from convkit import models


def main() -> None:
    """Run what has not been run, and print the losses."""
    options = arguments(__doc__.splitlines()[0], epochs=20).parse_args()
    train, test = cifar10(options.quick)
    statistics = train.statistics()
    found = {}
    for depth in (20, 56):
        for kind, model in (("plain", f"plain{depth}"), ("residual", f"resnet{depth}")):
            name = f"{kind}-{depth}"
            if not options.only.search(name):
                continue
            run = Run("depth", name, options, {"lr": 0.1, "weight_decay": 1e-4,
                                               "data": cifar10_files()})
            found[name] = run.train(
                lambda model=model: models.create(model), sgd(0.1, 1e-4),
                loaders(train, test, statistics, 128, options.seed, transform=flips_and_crops()))
    save_curves(options.picture, found)
    print_table(["network", "parameters", "training loss", "train", "test", "s"],
                [[name, f"{r['parameters']:,}", f"{r['history'][-1]['loss']:.3f}",
                  f"{r['train_accuracy']:.2%}", f"{r['test_accuracy']:.2%}",
                  f"{r['seconds']:.0f}"] for name, r in found.items()])


if __name__ == "__main__":
    main()
