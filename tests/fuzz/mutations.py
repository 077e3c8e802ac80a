"""Changes to bytes and to JSON values."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "places"]

VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, -2**63, 1.5, 1e308, "", "N",
          "0N", "999999999999N", "conv", "inf", "nan", "x" * 600, [], {}, [0], [[]], [[1, 1]] * 2,
          {"a": 1}, [1, 1], [0, 0], ["N"], "float32", "F32", "BF16", [None] * 70]


def mutate_bytes(rng: random.Random, data: bytes, head: int | None = None) -> bytes:
    """Return data with bytes changed, taken out, doubled or put in, mostly within its head."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        within = len(out) if head is None or rng.random() < 0.1 else min(head, len(out))
        at, size = rng.randrange(max(1, within)), rng.choice((1, 1, 2, 8, 40))
        match rng.randrange(7) if out else 4:
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((rng.randrange(256), 0, 255))
            case 2:
                del out[at:at + size]
            case 3:
                out[at:at] = out[at:at + size]
            case 4:
                out[at:at] = rng.randbytes(size)
            case 5 if rng.random() < 0.3:
                del out[at:]
            case _:
                out[at:at + 1] = rng.choice((b"9", b"-", b"[", b"}", b'"', b",", b"\0"))
    return bytes(out)


def places(data: Any, found: list | None = None) -> list:
    """List (container, key) of everything in JSON data."""
    found = [] if found is None else found
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(items):
        found.append((data, key))
        if isinstance(value, (dict, list)):
            places(value, found)
    return found


def mutate_json(rng: random.Random, data: Any) -> None:
    """Change one place of JSON data: set, remove, copy from elsewhere, swap or rename."""
    container, key = rng.choice(places(data))
    kind = rng.randrange(5)
    if kind == 0:
        container[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 1:
        del container[key]
    elif kind == 2:
        other, name = rng.choice(places(data))
        container[key] = json.loads(json.dumps(other[name]))
    elif kind == 3 and isinstance(container[key], int):
        container[key] += rng.choice([-1, 1, 2**16, -2**33])
    elif isinstance(container, dict):
        container[rng.choice(["", "x", "op", "attrs", key + "0"])] = copy.deepcopy(container[key])
    else:
        container.insert(key, copy.deepcopy(container[key]))
