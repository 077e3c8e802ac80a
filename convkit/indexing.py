"""What ``t[index]`` means for numbers, slices, ``...`` and None: a slice, then a reshape."""

from __future__ import annotations

from typing import Any

__all__ = ["is_basic", "resolve"]


def _is_int(i: Any) -> bool:
    return hasattr(i, "__index__") and not isinstance(i, bool) and not getattr(i, "ndim", 0)


def is_basic(index: Any) -> bool:
    """Tell whether an index has only integers, slices, an ellipsis and None."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, slice) or _is_int(i) for i in parts)


def _expand(ndim: int, index: Any) -> list:
    """Return the index as a list in which every axis has its entry."""
    parts = list(index) if isinstance(index, tuple) else [index]
    named = sum(i is not None and i is not Ellipsis for i in parts)
    dots = [n for n, i in enumerate(parts) if i is Ellipsis]
    if named > ndim or len(dots) > 1:
        raise IndexError(f"too many indices for a tensor of {ndim} axes: {index!r}")
    at = dots[0] if dots else len(parts)
    return parts[:at] + [slice(None)] * (ndim - named) + parts[at + 1:]


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
