"""What was used last, of whatever costs something to have again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Lru(Mapping[K, V]):
    """The ``most`` values used last, by their keys: whoever looks one up uses it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __getitem__(self, key: K) -> V:
        value = self._kept[key]
        self._kept.move_to_end(key)
        return value

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...

    @overload
    def get(self, key: K, default: V | D, /) -> V | D: ...

    def get(self, key: K, default: D | None = None, /) -> V | D | None:
        """The value, which is used; else ``default``."""
        if key not in self._kept:
            return default
        self._kept.move_to_end(key)
        return self._kept[key]

    def has(self, key: K) -> bool:
        """Whether there is a value, which is not used by that."""
        return key in self._kept

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._kept))  # what is looked up on the way moves

    def oldest_first(self) -> list[V]:
        """The values, those used least recently first; none is used by that."""
        return list(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: K, value: V) -> None:
        """Remember a value; the one that was used least recently goes."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, key: K) -> None:
        """It is not what it was."""
        self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
