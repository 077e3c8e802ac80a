"""What ``t[index]`` means.

Numbers, slices, ``...`` and None are a slice, then a reshape; where there are arrays of integers or
truth values too, they pick from what these leave.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels.tape import literal

__all__ = ["Pick", "is_basic", "pick", "resolve"]

# What stands for an ellipsis where indices are compared.
_DOTS = "..."


def _is_int(i: Any) -> bool:
    return hasattr(i, "__index__") and not isinstance(i, bool) and not getattr(i, "ndim", 0)


def is_basic(index: Any) -> bool:
    """Tell whether an index has only integers, slices, an ellipsis and None."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, slice) or _is_int(i) for i in parts)


def _expand(ndim: int, index: Any) -> list:
    """Return the index as a list in which every axis has its entry."""
    parts = list(index) if isinstance(index, tuple) else [index]
    named = sum(i.ndim if _is_mask(i) else i is not None and i is not Ellipsis for i in parts)
    dots = [n for n, i in enumerate(parts) if i is Ellipsis]
    if named > ndim or len(dots) > 1:
        raise IndexError(f"too many indices for a tensor of {ndim} axes: {index!r}")
    at = dots[0] if dots else len(parts)
    return parts[:at] + [slice(None)] * (ndim - named) + parts[at + 1:]


def _plain(index: Any) -> tuple | None:
    """Return a basic index of plain numbers as something to look up, or None for others."""
    parts = []
    for i in index if type(index) is tuple else (index,):
        if type(i) is slice:
            parts.append((i.start, i.stop, i.step))
        elif i is None or type(i) is int:
            parts.append(i)
        elif i is Ellipsis:
            parts.append(_DOTS)
        else:
            return None
    return tuple(parts) if literal(tuple(parts)) else None


@functools.lru_cache(maxsize=1024)
def _known(shape: tuple[int, ...], parts: tuple) -> tuple:
    """Return `resolve` of what `_plain` returned."""
    return _resolve(shape, tuple([
        slice(*i) if type(i) is tuple else Ellipsis if i is _DOTS else i for i in parts]))


def resolve(shape: tuple[int, ...], index: Any) -> tuple[dict | None, tuple[int, ...] | None]:
    """Return the attributes of the slice and the shape of the reshape that an index means.

    Parameters
    ----------
    shape : tuple of int
        Shape of what is indexed.
    index : object
        A basic index (see `is_basic`).

    Returns
    -------
    cut : dict or None
        ``starts``, ``stops`` and ``steps``; None when everything is kept.
    new_shape : tuple of int or None
        The shape after axes were dropped and put in; None when there are none.

    Raises
    ------
    IndexError
        When there are too many indices or one is out of range.
    """
    parts = _plain(index)
    return _resolve(shape, index) if parts is None else _known(shape, parts)


def _resolve(shape: tuple[int, ...], index: Any) -> tuple[dict | None, tuple[int, ...] | None]:
    cuts: list[tuple] = []
    new_shape: list[int] = []
    reshaped = False
    for i in _expand(len(shape), index):
        if i is None:
            new_shape.append(1)
            reshaped = True
            continue
        size = shape[len(cuts)]
        if isinstance(i, slice):
            cuts.append(tuple(None if v is None else v.__index__()
                              for v in (i.start, i.stop, i.step)))
            new_shape.append(len(range(*i.indices(size))))
            continue
        i = i.__index__()
        if not -size <= i < size:
            raise IndexError(f"index {i} is out of range for axis {len(cuts)} of size {size}")
        cuts.append((i % size, i % size + 1, None))
        reshaped = True
    whole = all(cut == (None, None, None) for cut in cuts)
    starts, stops, steps = zip(*cuts, strict=True) if cuts else ((), (), ())
    return (None if whole else {"starts": starts, "stops": stops, "steps": steps},
            tuple(new_shape) if reshaped else None)


class Pick(NamedTuple):
    """Elements at places along some axes, as PyTorch means them.

    Unlike NumPy it does not count numbers among the arrays: they are applied before.

    Attributes
    ----------
    basic : tuple
        The index that is applied before: numbers, slices and None, all of the picked axes.
    axes : tuple of int
        Axes, after that, along which elements are picked; ascending.
    places : tuple of numpy.ndarray
        For each of them, integers of shapes that broadcast together.
    front : bool
        Whether the new axes come first, as where other axes stand between the picked ones; else
        they take the place of `axes`.
    """

    basic: tuple
    axes: tuple[int, ...]
    places: tuple[np.ndarray, ...]
    front: bool

    def index(self) -> tuple:
        """Return what NumPy takes for the picked axes, after `basic`."""
        index: list = [slice(None)] * (self.axes[-1] + 1)
        for axis, at in zip(self.axes, self.places, strict=True):
            index[axis] = at
        return tuple(index)

    def flat(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the places among the elements of the picked axes, counted in order.

        Raises
        ------
        IndexError
            When places do not broadcast together or one is out of range. `shape` is that to which
            `basic` leads.
        """
        try:
            places = np.broadcast_arrays(*self.places)
        except ValueError:
            raise IndexError(f"indices of shapes {[p.shape for p in self.places]} do not broadcast "
                             f"together") from None
        flat = np.zeros(places[0].shape, np.int64)
        for axis, at in zip(self.axes, places, strict=True):
            size = shape[axis]
            outside = (at < -size) | (at >= size)
            if outside.any():
                raise IndexError(f"index {at[outside][0]} is out of range for axis {axis} of size "
                                 f"{size}")
            flat = flat * size + np.where(at < 0, at + size, at)
        return flat


def _read(entry: Any) -> Any:
    """Return an entry of an index, arrays as NumPy's."""
    if entry is None or entry is Ellipsis or isinstance(entry, slice):
        return entry
    if _is_int(entry):
        return entry.__index__()    # an array of no axes is a number too, unlike in NumPy
    array = np.asarray(entry)
    if array.size == 0 and array.dtype.kind == "f":      # []
        return array.astype(np.int64)
    if array.dtype.kind not in "iub" or (array.dtype.kind == "b" and array.ndim == 0):
        raise TypeError(f"expected numbers, slices, ..., None, and arrays of integers or truth "
                        f"values as an index, got {array.dtype} of shape {array.shape}")
    return array


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, np.ndarray) and entry.dtype.kind == "b"


def pick(shape: tuple[int, ...], index: Any) -> Pick:
    """Return what an index that is not basic means for a tensor of a shape.

    Raises
    ------
    IndexError, TypeError
        When there are too many indices, a mask does not fit, or an entry is of another kind.
    """
    parts = tuple([_read(i) for i in (index if isinstance(index, tuple) else (index,))])
    basic: list = []
    axes: list[int] = []
    places: list[np.ndarray] = []
    axis = new = 0      # of the shape, and of what `basic` leads to
    for entry in _expand(len(shape), parts):
        if not isinstance(entry, np.ndarray):
            basic.append(entry)
            axis += entry is not None
            new += not _is_int(entry)
            continue
        found = (entry,)
        if _is_mask(entry):
            if shape[axis:axis + entry.ndim] != entry.shape:
                raise IndexError(f"a mask of shape {entry.shape} does not fit axes of sizes "
                                 f"{shape[axis:axis + entry.ndim]}")
            found = entry.nonzero()
        for array in found:
            axes.append(new)
            places.append(array)
            basic.append(slice(None))
            new += 1
        axis += len(found)
    return Pick(tuple(basic), tuple(axes), tuple(places), axes[-1] - axes[0] + 1 != len(axes))
