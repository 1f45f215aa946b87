"""What a request needs without asking the index, and what it leaves behind without writing.

The index is read beside its writer: an answer of it may be older than what the loop has been told since.
So whoever is to remember an answer says before it asks that it will (:meth:`Memory.look`).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.cache.rows import Touch
from goproxy_vm.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.rows import Entry, Known, Standing

ENTRIES = 20_000
"""Entries kept, the most recently used."""
MISSING = 1_000
"""Paths remembered of which the index has nothing, and versions with what it knows of them: a miss asks once
and not at each of its steps. VMs choose what they ask for."""


TOUCHES = 40_000
"""Different files hit since the last flush, from which on the next one does not wait for its time."""
MOST_TOUCHES = 60_000
"""From which on others are not remembered: a disk that takes nothing loses their order, nothing else."""


@dataclass(eq=False, slots=True)
class Look:
    """A question to the index that is under way."""

    path: str
    version: tuple[str, str]
    stale: bool = False
    """Whether what was asked about has changed since: the answer may be either."""
    known_stale: bool = False
    """The same of what is known of the version."""


@dataclass(eq=False, slots=True)
class Changes:
    """What has been forgotten while the index was asked about many paths."""

    paths: set[str]
    everything: bool = False


class Memory:
    """Entries of files used recently, and the hits since the last flush."""

    def __init__(self, clock: LogicalClock) -> None:
        self._clock = clock
        self._entries: Lru[str, Entry] = Lru(ENTRIES)
        self._missing: Lru[str, None] = Lru(MISSING)
        self._known: Lru[tuple[str, str], Known] = Lru(MISSING)
        self._looks: set[Look] = set()
        self._changes: set[Changes] = set()
        self._touches: dict[str, Touch] = {}
        self.crowded = asyncio.Event()
        """Set while the hits should be written down."""
        self._watchers: list[Callable[[str | None], None]] = []

    def watch(self, gone: Callable[[str | None], None]) -> None:
        """Have ``gone`` told whenever an entry is forgotten or replaced; None stands for all."""
        self._watchers.append(gone)

    def entry(self, path: str) -> Entry | None:
        """The entry kept for a path."""
        return self._entries.get(path)

    @contextlib.contextmanager
    def look(self, path: str, version: tuple[str, str]) -> Iterator[Look]:
        """While the index is asked about a path, and a module and version."""
        look = Look(path, version)
        self._looks.add(look)
        try:
            yield look
        finally:
            self._looks.discard(look)

    def learn(self, look: Look, standing: Standing) -> None:
        """Remember what the index said."""
        if standing.entry is None and not standing.other and not look.stale:
            self._missing.keep(look.path, None)
        if standing.known is not None and not look.known_stale:
            self._known.keep(look.version, standing.known)

    def missing(self, path: str) -> bool:
        """Whether the index has nothing under a path: neither a row nor a stray."""
        return path in self._missing

    def known(self, module: str, version: str) -> Known | None:
        """What the index knows of a version; None where it must be asked."""
        return self._known.get((module, version))

    @contextlib.contextmanager
    def changes(self) -> Iterator[Changes]:
        """What is forgotten meanwhile."""
        changes = Changes(set())
        self._changes.add(changes)
        try:
            yield changes
        finally:
            self._changes.discard(changes)

    def warm(self, entries: Iterable[Entry], changes: Changes) -> None:
        """Keep what the index said, of what has not changed since and is not kept already."""
        for entry in [] if changes.everything else entries:
            if entry.path not in changes.paths and not self._entries.has(entry.path):
                self.keep(entry)

    def forget_known(self, *versions: tuple[str, str]) -> None:
        """What is known of versions has changed."""
        for version in versions:
            self._known.forget(version)
        for look in self._looks:
            if look.version in versions:
                look.known_stale = True

    def keep(self, entry: Entry) -> None:
        """Keep an entry, as the newest."""
        self._missing.forget(entry.path)
        self._entries.keep(entry.path, entry)

    def forget(self, path: str) -> None:
        """The file has come, is gone, or about to be looked at more closely."""
        self._entries.forget(path)
        self._missing.forget(path)
        for look in self._looks:
            if look.path == path:
                look.stale = True
        for changes in self._changes:
            changes.paths.add(path)
        for gone in self._watchers:
            gone(path)

    def forget_all(self) -> None:
        """Every file may be about to be looked at more closely."""
        self._entries.clear()
        self._missing.clear()
        self._known.clear()
        for look in self._looks:
            look.stale = look.known_stale = True
        for changes in self._changes:
            changes.everything = True
        for gone in self._watchers:
            gone(None)

    def touch(self, path: str) -> None:
        """A hit."""
        before = self._touches.get(path)
        if before is None and len(self._touches) >= TOUCHES:
            self.crowded.set()
            if len(self._touches) >= MOST_TOUCHES:
                return
        self._touches[path] = Touch(self._clock.now(), 1 if before is None else before.hits + 1)

    def drain(self) -> dict[str, Touch]:
        """The hits since the last call."""
        touches, self._touches = self._touches, {}
        self.crowded.clear()
        return touches
