"""The test vectors, made by running Go's own packages and commands."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def vectors() -> dict[str, Any]:
    """All groups of ``vectors.json``, by name."""
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text())
    return loaded
