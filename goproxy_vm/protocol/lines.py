"""Texts of an upstream's that may be long, worked on in steps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Something that may take long, in steps of a millisecond at most; a short one is a single step."""

LONGEST_LINE = 64 << 10
"""Bytes of a line in a list or a go.mod that are looked at."""


def blocks(data: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """Lines of about ``size`` bytes together, and whether the last is whole, or is cut for its length: what
    takes long is done for one after the other."""
    at = 0
    while at < len(data):
        end = data.find(b"\n", at + size, at + size + LONGEST_LINE) + 1
        whole = bool(end)
        if not whole:
            end = min(len(data), at + size + LONGEST_LINE)
            whole = end == len(data)
        yield data[at:end], whole
        at = end
