"""Records of figures as columns: what long runs keep must stay small in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["pack_records", "unpack_records"]

# What a record has in a column.
NOTHING, VALUE, NONE = 0, 1, 2


def pack_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return records of numbers as one array for each name.

    Parameters
    ----------
    records : sequence of dict
        Names need not be the same in all; values that are no numbers are kept as they are.

    Returns
    -------
    dict
        For `unpack_records`.
    """
    names = dict.fromkeys(name for record in records for name in record)
    return {"count": len(records), "columns": {name: _column(records, name) for name in names}}


def _column(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    there = np.array([NOTHING if name not in r else NONE if r[name] is None else VALUE
                      for r in records], np.uint8)
    values = [r[name] for r in records if r.get(name) is not None]
    if values and all(type(v) is float for v in values):
        return {"there": there, "values": np.array(values, np.float64)}
    if values and all(type(v) is int and abs(v) < 2**63 for v in values):
        return {"there": there, "values": np.array(values, np.int64)}
    return {"there": there, "values": values}


def unpack_records(packed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records that `pack_records` was given."""
    records: list[dict[str, Any]] = [{} for _ in range(packed["count"])]
    for name, column in packed["columns"].items():
        values = column["values"]
        values = iter(values.tolist() if isinstance(values, np.ndarray) else values)
        for record, there in zip(records, column["there"].tolist(), strict=True):
            if there != NOTHING:
                record[name] = next(values) if there == VALUE else None
    return records
