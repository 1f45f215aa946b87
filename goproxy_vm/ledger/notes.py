"""Who got which zip, in memory until it is written down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from goproxy_vm.ledger.facts import Noted

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = 10_000
"""Pairs of client and zip that are written down at once, though it is not time yet."""
MOST = 20_000
"""Such pairs at most; where the disk is slower than the clients, others are left out."""
LONGEST = 1_100
"""Characters of a path: more than that of any zip that can be stored; whoever is refused may name any."""


class Notes:
    """Takes a note in a few tenths of a microsecond, for it is taken of every hit on a zip."""

    def __init__(
        self,
        full: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``full`` is called when they should be written down."""
        self._full = full
        self._monotonic = monotonic
        self._wall = wall
        self._quick = self._most = 0
        """Entries up to which nothing need be thought of, and at most."""
        self._entries: dict[tuple[str, str], list[float]] = {}
        """By client and path: first and last, on the monotonic clock; how often whole, how often refused."""
        self.dropped = 0
        """Fetches and refusals of which nothing is known."""

    def __len__(self) -> int:
        return len(self._entries)

    def switch(self, *, on: bool) -> None:
        """Whether notes are taken, which they are not at first."""
        self._quick, self._most = (FULL - 1, MOST) if on else (0, 0)

    def fetched(self, client: str, path: str, now: float) -> None:
        """A client was sent the whole zip with that escaped path; ``now`` by the monotonic clock."""
        key, entries = (client, path), self._entries
        entry = entries.get(key)
        if entry is not None:
            entry[1] = now
            entry[2] += 1
        elif len(entries) < self._quick or self._has_room():
            entries[key] = [now, now, 1, 0]

    def refused(self, client: str, path: str, now: float) -> None:
        """A client was refused it."""
        entry = self._entries.get((client, path))
        if entry is not None:
            entry[1] = now
            entry[3] += 1
        elif len(path) <= LONGEST and self._has_room():
            self._entries[client, path] = [now, now, 0, 1]

    def _has_room(self) -> bool:
        count = len(self._entries)
        if count == FULL - 1 and self._most:
            self._full()
        if count < self._most:
            return True
        self.dropped += bool(self._most)
        return False

    def take(self) -> list[Noted]:
        """All notes, which are the caller's from now on."""
        entries, self._entries = self._entries, {}
        epoch = self._wall() - self._monotonic()
        return [
            Noted(client, path, int(epoch + first), int(epoch + last), int(count), int(refused))
            for (client, path), (first, last, count, refused) in entries.items()
        ]
