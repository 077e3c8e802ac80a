"""The exceptions that convkit raises, beyond Python's own."""

from __future__ import annotations

__all__ = [
    "AnomalyError",
    "ConvkitError",
    "DataFormatError",
    "DTypeError",
    "ModelFormatError",
    "ShapeError",
    "UnsupportedOperatorError",
]


class ConvkitError(Exception):
    """Base of every exception class that convkit defines.

    While it passes up through modules, each puts its child's name in front, so that the
    text names the layer: ``Conv2d 'stem.conv': expected 64 input channels, got ...``.

    Attributes
    ----------
    source : object
        The module that the error passed last, by which its parent knows its name.
    """

    def __init__(self, message: str = ""):
        super().__init__(message)
        self._message = message
        self._layer_type = ""
        self._path: list[str] = []
        self.source: object = None

    def locate(self, layer_type: str) -> None:
        """Say in which type of layer the error arose; the innermost one counts."""
        self._layer_type = self._layer_type or layer_type

    def prepend(self, name: str) -> None:
        """Put the name of a containing module's attribute in front of the path."""
        self._path.insert(0, name)

    def __str__(self) -> str:
        if not self._layer_type:
            return self._message
        path = f" '{'.'.join(self._path)}'" if self._path else ""
        return f"{self._layer_type}{path}: {self._message}"


class ShapeError(ConvkitError, ValueError):
    """An array's shape, or a size derived from it, does not fit the operation."""


class DTypeError(ConvkitError, TypeError):
    """An array's element type does not fit the operation."""


class ModelFormatError(ConvkitError, ValueError):
    """A model file is malformed, truncated, hostile or of an unknown version."""


class DataFormatError(ConvkitError, ValueError):
    """A file of training or test data is malformed, truncated or hostile."""


class UnsupportedOperatorError(ConvkitError, ValueError):
    """A model uses operators that convkit does not implement; all are listed."""


class AnomalyError(ConvkitError, FloatingPointError):
    """An operation gave NaN or an infinity while `convkit.detect_anomaly` looked on."""
