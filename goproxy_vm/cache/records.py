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
"""The tags by which they are told apart. A record is of use only with the tiles that prove it: tiles are
stored before records, and go after them."""
OLD_TAG, OLD_PREFIX = "sumdb", "sumdb/"
"""How earlier versions kept them among the cached answers."""


class Records:
    """Records and tiles on disk, by ``NAME/lookup/…`` and ``NAME/tile/…``. No method raises for the disk's
    sake, as with Answers, whose format it shares."""

    def __init__(self, store: Answers, most_bytes: int) -> None:
        self._store = store
        self._most_bytes = most_bytes - min(most_bytes // SPARE_SHARE, MOST_SPARE)
        self._watchers: list[Callable[[Sequence[str]], None]] = []
        self._writing = asyncio.Lock()
        """Held from making room to the write that takes it."""

    def watch(self, gone: Callable[[Sequence[str]], None]) -> None:
        """Have ``gone`` told of the keys that are dropped for room, before they go."""
        self._watchers.append(gone)

    async def get(self, key: str) -> bytes | None:
        """What is stored under that key."""
        found = await self._store.get(key)
        return None if found is None else found.data

    async def keep(self, found: Mapping[str, bytes]) -> bool:
        """Store what was proven; False where the disk failed, and some of it may be missing."""
        for tag in (TILE, RECORD):
            some = {key: data for key, data in found.items() if _tag(key) == tag}
            if some and not await self._stored(some, tag):
                return False
        return True

    async def _stored(self, some: dict[str, bytes], tag: str) -> bool:
        async with self._writing:
            await self.trim(self._most_bytes - needed(some.values()))
            return await self._store.set_all(some, tag=tag)

    async def delete(self, key: str) -> None:
        """Forget what turned out to be bad."""
        await self._store.delete(key)

    async def trim(self, most_bytes: int | None = None) -> int:
        """Drop the oldest, records first, until the rest fits (None: into the bound); how many."""
        most = self._most_bytes if most_bytes is None else most_bytes
        dropped = 0
        while not await self._store.within(most):
            keys = await self._store.oldest(RECORD) or await self._store.oldest(TILE)
            for gone in self._watchers:
                gone(keys)
            # Nothing waits in between: who looks from here on looks after they are gone.
            if not (done := await self._store.delete_all(keys)):
                break
            dropped += done
        return dropped

    async def retry(self) -> None:
        """Try to write. sqlite3.Error, OSError: it fails."""
        await self._store.retry()

    async def size(self) -> tuple[int, int]:
        """Records and tiles stored, and bytes of their database."""
        return await self._store.size()

    async def take_over(self, answers: Answers) -> None:
        """Move here what an earlier version kept among the cached answers."""
        moved = await answers.move(OLD_TAG, self._store, _new_place)
        if moved:
            log.info("checksum database records moved", count=moved)


def _tag(key: str) -> str:
    return TILE if "/tile/" in key else RECORD


def _new_place(key: str) -> tuple[str, str]:
    key = key.removeprefix(OLD_PREFIX)
    return key, _tag(key)
