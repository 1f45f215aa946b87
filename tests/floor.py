"""Prints pip constraints from pyproject.toml, for ``make floor``.

What the server needs is held to the lowest version that is allowed there; the tests' own packages are free.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def constraints(project: dict[str, object]) -> Iterator[str]:
    """One a line. ValueError for a dependency without a lowest version, or with more than that."""
    table: dict[str, list[str]] = {"runtime": project["dependencies"], **project["optional-dependencies"]}  # type: ignore[dict-item]
    for each in table["runtime"]:
        if not re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", each):
            raise ValueError(f"{each}: expected NAME>=VERSION")
        yield each.replace(">=", "==")
    yield from table["test"]


if __name__ == "__main__":
    print("\n".join(constraints(tomllib.loads(PROJECT.read_text())["project"])))
