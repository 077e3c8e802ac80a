"""Distances, and losses made of them, as layers."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = ["CosineEmbeddingLoss", "CosineSimilarity", "GaussianNLLLoss", "HingeEmbeddingLoss",
           "MarginRankingLoss", "PairwiseDistance", "PoissonNLLLoss", "SoftMarginLoss",
           "TripletMarginLoss"]


class CosineSimilarity(Module):
    """The cosine of the angle between vectors; see `functional.cosine_similarity`."""

    def __init__(self, dim: int = 1, eps: float = 1e-8):
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x1: Any, x2: Any) -> Tensor:
        """Return the cosines."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The distance of vectors; see `functional.pairwise_distance`."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False):
        super().__init__()
        self.p, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Any, x2: Any) -> Tensor:
        """Return the distances."""
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)


class MarginRankingLoss(Module):
    """Which of two is to be larger, and by how much; see `functional.margin_ranking_loss`."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__()
        self.margin, self.reduction = margin, reduction

    def forward(self, input1: Any, input2: Any, target: Any) -> Tensor:
        """Return the loss for targets of 1 and -1."""
        return F.margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


class CosineEmbeddingLoss(MarginRankingLoss):
    """Whether two vectors are to point alike; see `functional.cosine_embedding_loss`."""

    def forward(self, input1: Any, input2: Any, target: Any) -> Tensor:
        """Return the loss for targets of 1 and -1."""
        return F.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class SoftMarginLoss(Module):
    """Two classes by the sign; see `functional.soft_margin_loss`."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss for targets of 1 and -1."""
        return F.soft_margin_loss(input, target, self.reduction)


class HingeEmbeddingLoss(Module):
    """Alike or not, from distances; see `functional.hinge_embedding_loss`."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean"):
        super().__init__()
        self.settings = margin, reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of distances for targets of 1 and -1."""
        return F.hinge_embedding_loss(input, target, *self.settings)


class TripletMarginLoss(Module):
    """Nearer to one than to the other; see `functional.triplet_margin_loss`."""

    def __init__(self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False,
                 reduction: str = "mean"):
        super().__init__()
        self.settings = margin, p, eps, swap, reduction

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Tensor:
        """Return the loss of three vectors each."""
        return F.triplet_margin_loss(anchor, positive, negative, *self.settings)


class PoissonNLLLoss(Module):
    """The likelihood of counts; see `functional.poisson_nll_loss`."""

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8,
                 reduction: str = "mean"):
        super().__init__()
        self.settings = log_input, full, eps, reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of means (or their logarithms) for counts."""
        return F.poisson_nll_loss(input, target, *self.settings)


class GaussianNLLLoss(Module):
    """The likelihood under normal distributions; see `functional.gaussian_nll_loss`."""

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__()
        self.settings = full, eps, reduction

    def forward(self, input: Any, target: Any, var: Any) -> Tensor:
        """Return the loss of means and variances."""
        return F.gaussian_nll_loss(input, target, var, *self.settings)
