"""PyTorch's functions of tensors (`torch.cos`, `torch.where`, ...): `convkit` has them by name.

Each is one operation or is made of several, so gradients flow through all of them and
`convkit.compile` sees what they are made of. Most are methods of `Tensor` too (`methods`).
Arguments are tensors, arrays or, beside one of these, numbers.
"""

from __future__ import annotations

from convkit.tensors import arranging, elements, products, reductions
from convkit.tensors.arranging import *  # noqa: F403
from convkit.tensors.elements import *  # noqa: F403
from convkit.tensors.products import *  # noqa: F403
from convkit.tensors.reductions import *  # noqa: F403

__all__ = [*elements.__all__, *products.__all__, *reductions.__all__, *arranging.__all__]
