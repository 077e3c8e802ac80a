"""Data sets, readers of published files, and the loader that makes batches of them."""

from __future__ import annotations

from convkit.data import augment, preprocess
from convkit.data.bundled import digits
from convkit.data.cifar import CIFAR10
from convkit.data.dataset import Dataset, ImageDataset, Subset, TensorDataset, random_split
from convkit.data.folder import ImageFolder, load_image
from convkit.data.imbalance import class_weights
from convkit.data.loader import DataLoader
from convkit.data.mnist import MNIST
from convkit.data.sampler import BalancedBatchSampler, WeightedRandomSampler

__all__ = [
    "CIFAR10",
    "MNIST",
    "BalancedBatchSampler",
    "DataLoader",
    "Dataset",
    "ImageDataset",
    "ImageFolder",
    "Subset",
    "TensorDataset",
    "WeightedRandomSampler",
    "augment",
    "class_weights",
    "digits",
    "load_image",
    "preprocess",
    "random_split",
]
