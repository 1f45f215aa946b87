"""Which of the cached answers were stored first, by what diskcache tells: its keys in the order of its rows.
Everything blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from goproxy_vm.cache.plain import ReadOnly, UnsafeRow

if TYPE_CHECKING:
    from collections.abc import Callable

    import diskcache

SLICE = 100
"""Rows that go or move at once, as in diskcache: who else writes waits for that many."""
SLICE_BYTES = 256 << 10
"""Bytes of the rows that go at once for their age, a single one excepted."""
TURN = 200
"""Keys that are walked along at once: half a millisecond, and then it is others' turn."""


def every(cache: diskcache.Cache | ReadOnly) -> Iterator[str]:
    """All keys in the order of their storing, those past their keep among them; no values are read."""
    return (key for key in iter(cache) if type(key) is str)


@dataclass(frozen=True, slots=True)
class Oldest:
    """A step of a walk."""

    keys: list[str] = field(default_factory=list)
    ended: bool = False


class Walk:
    """A way along the keys, from the oldest on, a few at a time; ``tag_of`` a key is its tag."""

    def __init__(self, cache: diskcache.Cache | ReadOnly, tag_of: Callable[[str], str]) -> None:
        self._cache = cache
        self._tag_of = tag_of
        self._keys: Iterator[str] | None = None

    def tags(self) -> list[str]:
        """The tags of the next few keys; none at the end."""
        return [self._tag_of(key) for key in self._next()]

    def oldest(self, tag: str | None) -> Oldest:
        """Those of the next few keys, or of these the ones with a tag, that may go at once. At the end it
        begins anew."""
        some = self._next()
        if not some:
            self._keys = None
            return Oldest(ended=True)
        keys = [key for key in some if tag is None or self._tag_of(key) == tag]
        going = self._fitting(keys)
        if len(going) < len(keys):
            self._keys = itertools.chain(keys[len(going) :], self._keys or ())
        return Oldest(going)

    def _next(self) -> list[str]:
        if self._keys is None:
            self._keys = every(self._cache)
        return list(itertools.islice(self._keys, TURN))

    def _fitting(self, keys: list[str]) -> list[str]:
        size = 0
        for count, key in enumerate(keys[:SLICE]):
            size += self._length(key)
            if count and size > SLICE_BYTES:
                return keys[:count]
        return keys[:SLICE]

    def _length(self, key: str) -> int:
        try:
            value = self._cache.get(key)
        except UnsafeRow:
            return 0
        return len(value) if isinstance(value, bytes) else 0
