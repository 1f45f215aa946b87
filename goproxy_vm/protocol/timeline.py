"""The signed tree heads of one log that are known to be consistent (PROTOCOL §4, *Verify*)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from goproxy_vm.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Mapping

    from goproxy_vm.protocol.tlog import Head, Tile

MOST_HEADS: Final = 4096
"""Older heads remembered as consistent; mirrors answer lookups with very many of them."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head with the note that carries its signature."""

    head: Head
    note: bytes


class Timeline:
    """The newest head known, and the older ones found consistent with it."""

    def __init__(self, newest: SignedHead) -> None:
        self.newest = newest
        self.edge: tuple[Head, Mapping[Tile, bytes]] | None = None
        """A tree whose root was made from tiles, and those tiles."""
        self._consistent: Lru[Head, None] = Lru(MOST_HEADS)

    def knows(self, head: Head) -> bool:
        """Whether ``head`` needs no tiles to be joined to the newest; an empty tree begins every log."""
        return 0 in (head.size, self.newest.head.size) or head == self.newest.head or head in self._consistent

    def order(self, signed: SignedHead) -> tuple[SignedHead, SignedHead]:
        """``signed`` and the newest head, older first; of one size, ``signed`` counts as the older."""
        if signed.head.size > self.newest.head.size:
            return self.newest, signed
        return signed, self.newest

    def adopt(self, older: SignedHead, newer: SignedHead) -> None:
        """Take two heads that are consistent; the newest never moves back."""
        self.newest = newer
        self._consistent.keep(older.head, None)
