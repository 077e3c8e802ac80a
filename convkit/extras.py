"""Optional packages: imported where they are used, and asked for by name where missing."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["require"]


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional package's module.

    Parameters
    ----------
    module : str
        Its dotted name.
    extra : str
        The extra of convkit that brings it.
    what : str
        What needs it, as the beginning of a sentence.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        When it is not installed; the text names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module.partition('.')[0]}: "
                          f"pip install 'convkit[{extra}]'") from error
