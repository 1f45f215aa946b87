"""Proven records and tiles of checksum databases: what VMs verify with, kept for good within a bound.

Apart from the cached answers, for it is precious where nobody can be asked (offline), and no purge of
modules means it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from goproxy_vm.cache.answers import MOST_SPARE, SPARE_SHARE, needed
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from goproxy_vm.cache.answers import Answers

log = get_logger("cache")

RECORD, TILE = "record", "tile"
"""The tags by which they are told apart. A record is of use only with the tiles that prove it: it is
stored with them or after them, and goes before."""
OLD_PREFIX = "sumdb/"
"""What their keys began with where earlier versions kept them among the cached answers."""


class Records:
    """Records and tiles on disk, by ``NAME/lookup/…`` and ``NAME/tile/…``. No method raises for the disk's
    sake, as with Answers, whose format it shares."""

    def __init__(self, store: Answers, most_bytes: int) -> None:
        self._store = store
        self._most_bytes = most_bytes - min(most_bytes // SPARE_SHARE, MOST_SPARE)
        self._watchers: list[Callable[[Sequence[str]], None]] = []
        self._writing = asyncio.Lock()
        """Held from making room to the write that takes it, and while a few are dropped: between two such
        steps of a trim it is who keeps something's turn."""
        self._going: frozenset[str] = frozenset()
        """Keys that are being dropped: a reader may see them until they are."""

    def watch(self, gone: Callable[[Sequence[str]], None]) -> None:
        """Have ``gone`` told of the keys that are dropped for room, before they go."""
        self._watchers.append(gone)

    async def get(self, key: str) -> bytes | None:
        """What is stored under that key."""
        return (await self.get_all([key])).get(key)

    async def get_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """What is stored under those keys."""
        some = [key for key in keys if key not in self._going]
        found = await self._store.get_all(some) if some else {}
        return {key: answer.data for key, answer in found.items()}

    async def keep(self, found: Mapping[str, bytes]) -> bool:
        """Store what was proven, all or none of it; False where the disk failed."""
        most = self._most_bytes - needed(found.values())
        async with self._writing:
            while (stored := await self._store.set_all(found, most_bytes=most)) is False:
                if not await self._drop():  # nothing is left
                    stored = await self._store.set_all(found)
                    break
        return bool(stored)

    async def delete(self, key: str) -> None:
        """Forget what turned out to be bad."""
        await self._store.delete(key)

    async def trim(self, most_bytes: int | None = None) -> int:
        """Drop the oldest, records first, until the rest fits (None: into the bound); how many."""
        most = self._most_bytes if most_bytes is None else most_bytes
        dropped = 0
        while not await self._store.within(most):
            gone: int | None = 0
            while gone == 0:
                async with self._writing:
                    gone = await self._step()
            if gone is None:
                break
            dropped += gone
        return dropped

    async def _drop(self) -> bool:
        """Drop some of the oldest; False: nothing is left, or the disk failed."""
        gone: int | None = 0
        while gone == 0:
            gone = await self._step()
        return gone is not None

    async def _step(self) -> int | None:
        """Look for the oldest and drop what was found; how many went. None: nothing is left that
        could, or the disk failed."""
        found = await self._store.oldest(RECORD)
        if not found.ended:
            return await self._drop_all(found.keys)
        others = await self._store.oldest()
        return await self._drop_all(others.keys) or None

    async def _drop_all(self, keys: Sequence[str]) -> int | None:
        if not keys:
            return 0
        for gone in self._watchers:
            gone(keys)
        # Nothing waits in between: who looks from here on finds that they are gone.
        self._going = frozenset(keys)
        try:
            return await self._store.delete_all(keys)
        finally:
            self._going = frozenset()

    async def retry(self) -> None:
        """Try to write. sqlite3.Error, OSError: it fails."""
        await self._store.retry()

    async def size(self) -> tuple[int, int]:
        """Records and tiles stored, and bytes of their database."""
        return await self._store.size()

    async def take_over(self, answers: Answers) -> None:
        """Move here what an earlier version kept among the cached answers."""
        moved = await answers.move(OLD_PREFIX, self._store, lambda key: key.removeprefix(OLD_PREFIX))
        if moved:
            log.info("checksum database records moved", count=moved)


def tag_of(key: str) -> str:
    """Whether a key is a tile's or a record's."""
    return TILE if "/tile/" in key else RECORD
