"""Lists of words with values, such as flip,crop=4,noise=0:0.1, that options take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from convkit.cli.options import UsageError, unknown

__all__ = ["Words", "made"]

Value = float | tuple[float, ...] | None

# Word -> (its value where none is given, or None; a function that gets the value first).
Words = Mapping[str, tuple[Value, Callable[..., Any]]]


def split(texts: Sequence[str] | None) -> list[str]:
    """Return the words of a repeatable option, each with commas between words."""
    return [word.strip() for text in texts or () for word in text.split(",")]


def made(option: str, texts: Sequence[str] | None, known: Words, *args: Any) -> Iterator[Any]:
    """Yield what each word stands for.

    Parameters
    ----------
    option : str
        Its name, for errors.
    texts : sequence of str or None
        Each "NAME", "NAME=NUMBER" or "NAME=LOW:HIGH", or several with commas between.
    known : mapping
        See `Words`.
    *args
        What the words' functions get after the value.

    Raises
    ------
    UsageError
        When a word is unknown, or its value makes no sense.
    """
    for word in split(texts):
        name, equals, text = word.partition("=")
        if name not in known:
            raise unknown(f"{option}: unknown word", name, known)
        value, make = known[name]
        try:
            if equals:
                value = _value(text)
            if value is None:
                raise ValueError(f"expected {name}=VALUE")
            yield make(value, *args)
        except TypeError:
            raise UsageError(f"{option} {word}: expected one number") from None
        except ValueError as error:
            raise UsageError(f"{option} {word}: {error}") from None


def _value(text: str) -> Value:
    """Return a number, or the two of a range."""
    numbers = tuple(float(part) for part in text.split(":"))
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"expected a finite number, got {number}")
    return numbers if len(numbers) > 1 else numbers[0]
