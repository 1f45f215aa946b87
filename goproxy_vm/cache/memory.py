"""What a hit needs without asking the index, and what it leaves behind without writing."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from goproxy_vm.cache.rows import Touch

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.files import Entry

ENTRIES = 20_000
"""Entries kept, the most recently used."""


class Memory:
    """Entries of files used recently, and the hits since the last flush."""

    def __init__(self, clock: LogicalClock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._touches: dict[str, Touch] = {}
        self._watchers: list[Callable[[str | None], None]] = []

    def watch(self, gone: Callable[[str | None], None]) -> None:
        """Have ``gone`` told whenever an entry is forgotten or replaced; None stands for all."""
        self._watchers.append(gone)

    def entry(self, path: str) -> Entry | None:
        """The entry kept for a path."""
        return self._entries.get(path)

    def keep(self, entry: Entry) -> None:
        """Keep an entry, as the newest."""
        self._entries[entry.path] = entry
        self._entries.move_to_end(entry.path)
        if len(self._entries) > ENTRIES:
            self._entries.popitem(last=False)

    def forget(self, path: str) -> None:
        """The file is gone, or about to be looked at more closely."""
        self._entries.pop(path, None)
        for gone in self._watchers:
            gone(path)

    def forget_all(self) -> None:
        """Every file may be about to be looked at more closely."""
        self._entries.clear()
        for gone in self._watchers:
            gone(None)

    def touch(self, path: str) -> None:
        """A hit."""
        before = self._touches.get(path)
        self._touches[path] = Touch(self._clock.now(), 1 if before is None else before.hits + 1)

    def drain(self) -> dict[str, Touch]:
        """The hits since the last call."""
        touches, self._touches = self._touches, {}
        return touches
