"""Programs for the sizes that inputs had lately, where heights and widths are open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convkit.infer.fixing import sizes_from
from convkit.infer.graph import Graph

__all__ = ["MOST_SIZES", "BySize"]

# Sizes that are kept ready; of more, the one that was used longest ago is forgotten.
MOST_SIZES = 16


class BySize:
    """Keeps a Program for each of the last sizes of a graph with open ones.

    Parameters
    ----------
    graph : Graph
        With open sizes.
    make : callable
        Makes a Program from a graph whose sizes are fixed.
    """

    def __init__(self, graph: Graph, make: Callable[[Graph], Any]):
        self._graph, self._make = graph, make
        self._shapes = {p.name: graph.shape(p.value) for p in graph.inputs}
        self._ready: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._last: Any = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ready)

    def program(self, x: Any) -> Any:
        """Return the Program for the sizes of inputs, in any form that `Program.run` takes.

        Raises
        ------
        ShapeError
            When a size is not in its range, or the network does not take it.
        """
        sizes = sizes_from(self._shapes, self._given(x))
        # Sizes of inputs whose form is wrong are missing; run says what is wrong with them.
        return self._at({s.name: sizes.get(s.name, s.low) for s in self._graph.open_sizes()})

    def largest(self) -> Any:
        """Return the Program for the largest sizes."""
        return self._at({s.name: s.high for s in self._graph.open_sizes()})

    def _at(self, sizes: dict[str, int]) -> Any:
        """Return the Program for some sizes, made where it is not ready."""
        key = tuple(sizes.values())
        found = self._ready.get(key)
        if found is None:
            found = self._make(self._graph.at_size(**sizes))
        with self._lock:
            found = self._ready.setdefault(key, found)
            self._ready.move_to_end(key)
            while len(self._ready) > MOST_SIZES:
                self._ready.popitem(last=False)
            last, self._last = self._last, found
        if last is not None and last is not found:
            # Intermediates of one size at a time: the pool hands the memory on to the next.
            last.free_arenas()
        return found

    def programs(self) -> list[Any]:
        """Return the Programs that are ready, the one used last at the end."""
        with self._lock:
            return list(self._ready.values())

    def _given(self, x: Any) -> dict[str, tuple[int, ...]]:
        """Return the shapes of inputs by name."""
        if isinstance(x, Mapping):
            given = {name: x.get(name, ()) for name in self._shapes}
        elif isinstance(x, (tuple, list)) and len(x) == len(self._shapes):
            given = dict(zip(self._shapes, x, strict=True))
        else:
            given = dict.fromkeys(self._shapes, x)
        return {name: tuple(getattr(v, "shape", None) or np.shape(v))
                for name, v in given.items()}
