"""Globs over ``module@version``, by which operators name versions: pins, purges, scrubs.

``*`` matches any run of characters, slashes too; ``?`` one character; ``[…]`` one of a set, ``[!…]`` one
outside it. A glob without ``@`` means every version. Case counts.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

MOST = 1000
"""Characters in a glob."""
_SET = re.compile(r"\[!?+\]?+[^\]]*\]")


def normalize(glob: str) -> str:
    """The glob with its ``@``. ValueError with a reason where it is malformed."""
    if not glob:
        raise ValueError("it is empty")
    if len(glob) > MOST:
        raise ValueError(f"it is longer than {MOST} characters")
    if not glob.isprintable() or " " in glob:
        raise ValueError("it holds a space or a control character")
    if "[" in glob and "[" in _SET.sub("", glob):
        raise ValueError("a [ is not closed")
    return glob if "@" in glob else f"{glob}@*"


class Selector:
    """Says whether a version is meant by any of some globs. ValueError as :func:`normalize`.

    To make one takes a quarter of a millisecond for each glob, and more for long ones.
    """

    def __init__(self, globs: Iterable[str]) -> None:
        self._patterns = [re.compile(fnmatch.translate(normalize(glob))) for glob in globs]

    def __call__(self, module: str, version: str) -> bool:
        """Whether any glob matches; False where there are none."""
        name = f"{module}@{version}"
        return any(pattern.match(name) for pattern in self._patterns)
