"""Which of the cached answers were stored first, by what diskcache tells: its keys in the order of its rows.
Everything blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from goproxy_vm.cache.plain import ReadOnly, UnsafeRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import diskcache

SLICE = 100
"""Rows that go or move at once, as in diskcache: who else writes waits for that many."""
SLICE_BYTES = 256 << 10
"""Bytes of the rows that go at once for their age, a single one excepted."""
TURN = 200
"""Keys that are walked along at once: half a millisecond, and then it is others' turn."""
NEWEST = 10_000
"""Keys that a queue knows at most of what was stored since its walk began: about 2 MB."""


def every(cache: diskcache.Cache | ReadOnly) -> Iterator[str]:
    """All keys that are there, in the order of their storing, those past their keep among them; no values
    are read."""
    return (key for key in iter(cache) if type(key) is str)


def fitting(cache: diskcache.Cache | ReadOnly, keys: Iterable[str]) -> list[str]:
    """The first of those keys, as many as may go at once."""
    going: list[str] = []
    size = 0
    for key in itertools.islice(keys, SLICE):
        size += _length(cache, key)
        if going and size > SLICE_BYTES:
            break
        going.append(key)
    return going


def _length(cache: diskcache.Cache | ReadOnly, key: str) -> int:
    try:
        value = cache.get(key)
    except UnsafeRow:
        return 0
    return len(value) if isinstance(value, bytes) else 0


class Walk:
    """A way along the keys, from the oldest on, a few at a time."""

    def __init__(self, cache: diskcache.Cache | ReadOnly) -> None:
        self._cache = cache
        self._keys: Iterator[str] | None = None

    def next(self) -> list[str]:
        """The next few of the keys that were there when it was asked first; none at the end."""
        if self._keys is None:
            self._keys = every(self._cache)
        return list(itertools.islice(self._keys, TURN))


@dataclass(frozen=True, slots=True)
class Step:
    """What a queue found in its turn; none, and it has not ended: there is more to look through."""

    keys: list[str] = field(default_factory=list)
    ended: bool = False


class Queue:
    """The keys with one tag, from the oldest on, however many others lie between them: by one walk along all
    keys, and then by what was stored since. So nothing is looked through to see that none is left.

    It remembers :data:`TURN` and :data:`NEWEST` keys at most: where more were stored since, another walk
    follows.
    """

    def __init__(self, cache: diskcache.Cache | ReadOnly, tag_of: Callable[[str], str], tag: str) -> None:
        self._cache = cache
        self._tag_of = tag_of
        self._tag = tag
        self._begin()

    def _begin(self) -> None:
        self._walk = Walk(self._cache)
        self._found: dict[str, None] = {}
        """Where the walk is."""
        self._since: dict[str, None] = {}
        """Stored since the walk began: it does not come to them."""
        self._overflowed = False
        """Whether those were too many to be remembered."""

    def __len__(self) -> int:
        return len(self._found) + len(self._since)

    def next(self) -> Step:
        """The oldest, as many as may go at once; they are said again until they are :meth:`gone`."""
        if not self._found:
            some = self._walk.next()
            if not some and self._overflowed:
                self._begin()
                some = self._walk.next()
            self._found = {key: None for key in some if self._tag_of(key) == self._tag}
            if not some:
                going = fitting(self._cache, self._since)
                return Step(going, ended=not going)
        return Step(fitting(self._cache, self._found))

    def stored(self, key: str) -> None:
        """A key is the newest now."""
        self.gone([key])
        if self._tag_of(key) != self._tag or self._overflowed:
            return
        self._since[key] = None
        if len(self._since) > NEWEST:
            self._since.clear()
            self._overflowed = True

    def gone(self, keys: Iterable[str]) -> None:
        """Those are not there any more."""
        for key in keys:
            self._found.pop(key, None)
            self._since.pop(key, None)
