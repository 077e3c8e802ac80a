"""``python -m convkit``: the same as the ``convkit`` command."""

from __future__ import annotations

import sys

from convkit.cli import main

sys.exit(main())
