"""Pictures of networks, data and training, drawn with matplotlib (the extra "plot").

Every function draws into `ax` where one is given, else into a new figure, and returns the
Axes (those with several panels take `figure` and return it). Nothing is shown or saved:
``ax.figure.savefig("curves.png")``. The numbers come from functions that can be used without
pictures: `convkit.training`, `convkit.nn`, `convkit.infer`.
"""

from __future__ import annotations

from convkit.plot.attention import grad_cam, receptive_field, saliency
from convkit.plot.curves import curves, loss_landscape, range_test, schedule
from convkit.plot.distributions import (
    activation_histograms,
    activations_by_depth,
    gradient_histograms,
)
from convkit.plot.images import augmentations, feature_maps, filters, image_grid
from convkit.plot.model import model_graph
from convkit.plot.quality import confusion_matrix, precision_recall, roc

__all__ = [
    "activation_histograms",
    "activations_by_depth",
    "augmentations",
    "confusion_matrix",
    "curves",
    "feature_maps",
    "filters",
    "grad_cam",
    "gradient_histograms",
    "image_grid",
    "loss_landscape",
    "model_graph",
    "precision_recall",
    "range_test",
    "receptive_field",
    "roc",
    "saliency",
    "schedule",
]
