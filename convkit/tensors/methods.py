"""What tensors have of PyTorch's methods, besides those that need a tensor's insides."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.tensors import arranging, elements, products, reductions

__all__ = ["Methods"]


class Methods:
    """Functions of `convkit.tensors` as methods, and names for what tensors do already."""

    __slots__ = ()

    abs = __abs__ = elements.abs
    acos = elements.acos
    acosh = elements.acosh
    add = elements.add
    asin = elements.asin
    asinh = elements.asinh
    atan = elements.atan
    atanh = elements.atanh
    ceil = elements.ceil
    clamp = elements.clamp
    cos = elements.cos
    cosh = elements.cosh
    div = elements.div
    eq = elements.eq
    erf = elements.erf
    exp = elements.exp
    floor = elements.floor
    fmod = elements.fmod
    ge = elements.ge
    gt = elements.gt
    isfinite = elements.isfinite
    isinf = elements.isinf
    isnan = elements.isnan
    le = elements.le
    log = elements.log
    log10 = elements.log10
    log2 = elements.log2
    logical_and = elements.logical_and
    logical_not = elements.logical_not
    logical_or = elements.logical_or
    logical_xor = elements.logical_xor
    lt = elements.lt
    masked_fill = elements.masked_fill
    maximum = elements.maximum
    minimum = elements.minimum
    mul = elements.mul
    ne = elements.ne
    neg = elements.neg
    pow = elements.pow
    reciprocal = elements.reciprocal
    remainder = elements.remainder
    round = elements.round
    rsqrt = elements.rsqrt
    sign = elements.sign
    sin = elements.sin
    sinh = elements.sinh
    sqrt = elements.sqrt
    square = elements.square
    sub = elements.sub
    tan = elements.tan

    all = reductions.all
    amax = reductions.amax
    amin = reductions.amin
    any = reductions.any
    argmax = reductions.argmax
    argmin = reductions.argmin
    argsort = reductions.argsort
    cumsum = reductions.cumsum
    logsumexp = reductions.logsumexp
    max = reductions.max
    mean = reductions.mean
    median = reductions.median
    min = reductions.min
    norm = reductions.norm
    prod = reductions.prod
    sort = reductions.sort
    std = reductions.std
    sum = reductions.sum
    topk = reductions.topk
    var = reductions.var

    broadcast_to = arranging.broadcast_to
    chunk = arranging.chunk
    diff = arranging.diff
    expand = arranging.expand
    flip = arranging.flip
    gather = arranging.gather
    index_select = arranging.index_select
    movedim = arranging.movedim
    narrow = arranging.narrow
    repeat = arranging.repeat
    repeat_interleave = arranging.repeat_interleave
    roll = arranging.roll
    select = arranging.select
    split = arranging.split
    swapaxes = arranging.swapaxes
    t = arranging.t
    tile = arranging.tile
    tril = arranging.tril
    triu = arranging.triu
    unbind = arranging.unbind
    unflatten = arranging.unflatten

    bmm = products.bmm
    dot = products.dot
    matmul = products.matmul
    mm = products.mm
    outer = products.outer

    def where(self, condition: Any, other: Any) -> Any:
        """Return this tensor's elements where `condition` is true, those of `other` elsewhere."""
        return elements.where(condition, self, other)

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def view_as(self, other: Any) -> Any:
        """Return the elements under another tensor's shape."""
        return self.reshape(*other.shape)

    def expand_as(self, other: Any) -> Any:
        """Repeat axes of size 1 to get another tensor's shape."""
        return arranging.expand(self, other.shape)

    def contiguous(self) -> Any:
        """Return this tensor: how it lies in memory is convkit's affair."""
        return self

    def cpu(self) -> Any:
        """Return this tensor, which is on the CPU."""
        return self

    def float(self) -> Any:
        """Return the tensor as float32."""
        return self.astype(np.float32)

    def double(self) -> Any:
        """Return the tensor as float64."""
        return self.astype(np.float64)

    def long(self) -> Any:
        """Return the tensor as int64."""
        return self.astype(np.int64)

    def int(self) -> Any:
        """Return the tensor as int32."""
        return self.astype(np.int32)

    def bool(self) -> Any:
        """Tell which elements are not 0."""
        return self.astype(np.bool_)
