"""JSON from strangers: parsed only when it is what an honest file holds."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from convkit.errors import ModelFormatError

__all__ = ["parse_json"]

MAX_DEPTH = 16
MAX_ENTRIES = 1_000_000
# What parsing may take: four times the file's size, or this for small files.
MEMORY_FLOOR = 16 * 2**20
# Upper bounds on what CPython takes for one container and for one entry of one.
CONTAINER_BYTES = 256
ENTRY_BYTES = 160


def parse_json(text: bytes, what: str, file_size: int) -> Any:
    """Parse JSON, refusing what is legal JSON but no honest file holds.

    These are duplicate keys, NaN and infinities as bare words, nesting deeper than 16,
    unpaired surrogates, and more structure than fits into four times the file's size in
    memory (16 MiB for small files).

    Raises
    ------
    ModelFormatError
    """
    containers = text.count(b"[") + text.count(b"{")
    entries = text.count(b",") + text.count(b":") + containers
    copies = 2 if text.isascii() else 8  # decoded, and cut into strings of 1 to 4 bytes a letter
    estimate = containers * CONTAINER_BYTES + entries * ENTRY_BYTES + copies * len(text)
    if estimate > max(4 * file_size, MEMORY_FLOOR) or entries > MAX_ENTRIES:
        raise ModelFormatError(f"{what}: {containers} lists and objects with {entries} entries are "
                               f"out of proportion to a file of {file_size} bytes")
    if _nests_deeper(text, MAX_DEPTH):
        raise ModelFormatError(f"{what}: nested deeper than {MAX_DEPTH}")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique,
                           parse_constant=_no_constant)
    except ModelFormatError as error:
        raise ModelFormatError(f"{what}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{what}: not valid JSON ({error})") from None
    if b"\\u" in text:
        _refuse_surrogates(value, what)
    return value


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _nests_deeper(text: bytes, most: int) -> bool:
    """Tell whether lists and objects nest deeper than `most`, strings left out.

    Each round takes the innermost ones away. What is left of brackets that do not match is none of
    an honest file's either; JSON's own parser says so where it is not deep.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(text.split(b'"')[::2]).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(most):
        brackets = brackets.replace(b"[]", b"")
    return brackets.count(b"[") > most or b"[]" in brackets


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ModelFormatError(f"key {twice[:80]!r} appears twice")
    return found


def _no_constant(word: str) -> None:
    raise ModelFormatError(f"the word {word} is not JSON")


def _refuse_surrogates(value: Any, what: str) -> None:
    """Raise ModelFormatError where an escape left half a character in a string."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_surrogates(key, what)
            _refuse_surrogates(item, what)
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item, what)
    elif isinstance(value, str) and _SURROGATE.search(value):
        raise ModelFormatError(f"{what}: a string holds half of a surrogate pair")
