"""How much is stored, as the loop knows it at any moment without asking the index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.protocol.artifact import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from goproxy_vm.cache.rows import Row, Sum, Victim
    from goproxy_vm.protocol.artifact import Kind


class Usage:
    """Files and allocated bytes by kind: what ``du`` says of modules/, directories left out; and what it does
    not see, files without a name that are still being read."""

    sizes: dict[str, int]
    entries: dict[str, int]
    pinned: int
    """Bytes of pinned zips: only those would be evicted otherwise."""

    def __init__(self) -> None:
        self.lingering = 0
        """Bytes of files that were removed while they were being read, and still are."""
        self.reset(())

    def reset(self, sums: Iterable[Sum]) -> None:
        """Begin with what the index says."""
        self.sizes = dict.fromkeys(KINDS, 0)
        self.entries = dict.fromkeys(KINDS, 0)
        self.pinned = 0
        for each in sums:
            self._count(each.kind, each.entries, each.bytes, pinned=each.pinned)

    @property
    def used(self) -> int:
        """Bytes of all files, those included that were removed and are still being read."""
        return sum(self.sizes.values()) + self.lingering

    @property
    def metadata(self) -> int:
        """Bytes of ``.info`` and ``.mod``, which are not evicted for room."""
        return self.sizes["info"] + self.sizes["mod"]

    def add(self, row: Row | Victim) -> None:
        """A file has come."""
        self._count(row.kind, 1, row.bytes, pinned=row.pinned)

    def remove(self, victim: Victim) -> None:
        """A file has gone."""
        self._count(victim.kind, -1, -victim.bytes, pinned=victim.pinned)

    def _count(self, kind: Kind, entries: int, size: int, *, pinned: bool) -> None:
        self.entries[kind] += entries
        self.sizes[kind] += size
        if pinned and kind == "zip":
            self.pinned += size
