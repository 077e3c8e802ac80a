"""Where values lie in memory while a Program runs.

A `Block` is a piece of memory that is planned as a whole; an `Operand` is a value's view of
one: a shape, and how far apart in bytes its elements are. What grows with the batch is
known for one sample; nothing here depends on the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from convkit.infer.dims import BatchDim, Shape, at_batch
from convkit.infer.graph import Constant
from convkit.ops.layout import LAST_ORDER, dense_strides

__all__ = ["ALIGNMENT", "Block", "Operand"]

ALIGNMENT = 64


@dataclass(eq=False)
class Block:
    """A piece of memory.

    Attributes
    ----------
    scaled, fixed : int
        Bytes for each sample of the batch, and beside those.
    kind : {"arena", "input", "output", "constant"}
        Whose memory it is.
    index : int
        Which input or output.
    constant : Constant or None
        What a constant is read from.
    array : numpy.ndarray or None
        A constant's, where steps read it as it lies.
    first, last : int
        The steps in whose time it holds something: set by the steps that use it.
    home : Block or None
        For an input: where it is put when it does not come as steps want it.
    offset : int
        Where it lies in the arena, in bytes for each sample or in all, once that is planned.
    own : bool
        Whether it lies in a thread's own part of the arena, in the plan made last.
    """

    scaled: int
    fixed: int
    kind: str = "arena"
    index: int = 0
    constant: Constant | None = None
    array: np.ndarray | None = None
    first: int | None = None
    last: int = -1
    home: Block | None = None
    offset: int = 0
    own: bool = False

    def use(self, step: int) -> None:
        """Note that a step reads or writes it."""
        if self.first is None:
            self.first = step
        self.last = max(self.last, step)


class Operand:
    """A value's place: a strided view of a block, never changed.

    Attributes
    ----------
    block : Block
        The memory.
    shape : tuple of int or BatchDim
        Logical shape.
    dtype : numpy.dtype
        Element type.
    strides : tuple of int or None
        Bytes from element to element along each axis. None where the batch is not the
        outermost axis in memory, so that they depend on it: the value is then dense, in C
        order.
    offset : int
        Bytes from the block's begin.
    regular : bool
        Whether it has a first axis of samples, and elements, all at known distances.
    """

    __slots__ = ("_is_constant", "block", "dtype", "offset", "regular", "shape", "strides")

    def __init__(self, block: Block, shape: Shape, dtype: np.dtype,
                 strides: tuple[int, ...] | None, offset: int = 0):
        self.block, self.shape, self.dtype = block, shape, dtype
        self.strides, self.offset = strides, offset
        self.regular = (strides is not None and bool(shape) and 0 not in shape
                        and BatchDim not in map(type, shape[1:]))
        self._is_constant: bool | None = None if block.kind == "constant" and not offset else False

    @property
    def samples(self) -> tuple[int, int]:
        """Its samples: how many for each of the batch, or in all."""
        first = self.shape[0]
        return (first.factor, 0) if isinstance(first, BatchDim) else (0, first)

    @property
    def constant(self) -> np.ndarray | None:
        """The array of a constant, None for what is computed.

        One of a file may be decoded at every call: `is_constant` only tells.
        """
        if not self.is_constant:
            return None
        return self.block.constant.array if self.block.array is None else self.block.array

    @property
    def is_constant(self) -> bool:
        """Whether it is the whole of a constant, as that lies."""
        if self._is_constant is None:
            array = self.block.array
            if array is not None:
                self._is_constant = array.shape == self.shape and array.strides == self.strides
            else:
                self._is_constant = self.shape == self.block.constant.shape and \
                    self.strides == dense_strides(
                        self.shape, tuple(range(len(self.shape))), self.dtype.itemsize)
        return self._is_constant

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the outermost in memory to the innermost."""
        return tuple(sorted(range(len(self.shape)),
                            key=lambda i: (i != 0, -abs(self.strides[i]))))

    @property
    def pixel(self) -> int | None:
        """Elements from one pixel to the next of an array with channels last in memory.

        They may be more than there are channels, for a part of wider pixels. None where
        pixels do not follow each other at one distance, with their channels side by side.
        """
        if len(self.shape) not in LAST_ORDER or not self.regular or len(self.shape) < 3:
            return None
        item = self.dtype.itemsize
        pixels = math.prod(self.shape[2:])
        apart = self.strides[0] // pixels
        if apart * pixels != self.strides[0] or apart % item or apart < item * self.shape[1]:
            return None
        if self.shape[1] > 1 and self.strides[1] != item:
            return None
        wanted = apart
        for size, have in zip(self.shape[:1:-1], self.strides[:1:-1], strict=True):
            if size > 1 and have != wanted:
                return None
            wanted *= size
        return apart // item

    def dense(self, order: tuple[int, ...]) -> bool:
        """Tell whether the elements follow each other with axes in an order."""
        wanted = dense_strides(self.shape, order, self.dtype.itemsize)
        return all(have == want or size == 1
                   for size, have, want in zip(self.shape, self.strides, wanted, strict=True))

    def with_axes(self, shape: Shape, strides: tuple[int, ...]) -> Operand:
        """Return the same elements under another shape."""
        return Operand(self.block, tuple(shape), self.dtype, tuple(strides), self.offset)

    def part(self, axis: int, start: int, stop: int, step: int = 1) -> Operand:
        """Return the elements start, start + step, ... before stop of an axis of fixed size."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis] = len(range(start, stop, step))
        offset = self.offset + start * strides[axis]
        strides[axis] *= step
        return Operand(self.block, tuple(shape), self.dtype, tuple(strides), offset)

    def whole(self) -> bool:
        """Tell whether it is all of its block, dense in some order."""
        size = math.prod(at_batch(self.shape, 1)) * self.dtype.itemsize
        return (self.strides is None or self.dense(self.order)) and self.offset == 0 \
            and size == self.block.scaled + self.block.fixed
