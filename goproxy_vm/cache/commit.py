"""The commit queue: what has been proven is stored in groups, after the client has its answer."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

from goproxy_vm.cache.health import is_full, reason
from goproxy_vm.cache.publish import publish, withdraw
from goproxy_vm.cache.threads import Threads
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.holders import Holders
    from goproxy_vm.cache.index import Index
    from goproxy_vm.cache.publish import Checkpoint, Item
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.upkeep.leftovers import Leftovers

log = get_logger("cache")

BATCH = 64
"""Files per transaction at most: the database thread is shared with those who read."""
PENDING_FILES = 256
PENDING_BYTES = 64 << 20
"""How much may be queued before misses wait: files, each with a descriptor, and bytes held in memory."""


class CommitQueue:
    """Proven files that are not on record yet: visible at once, durable soon."""

    def __init__(
        self,
        index: Index,
        database: Threads,
        health: Health,
        stored: Callable[[Item], None],
        replaced: Callable[[Victim], None],
        holders: Holders,
        leftovers: Leftovers,
        clock: LogicalClock,
        checkpoint: Checkpoint | None = None,
        full: Callable[[], None] = lambda: None,
    ) -> None:
        self.pending: dict[str, Item] = {}
        """The newest queued item of each path."""
        self.disk = asyncio.Lock()
        """Held while published files and their rows change together."""
        self.threads = Threads("commit", 1)
        """One thread; whatever writes or removes published files runs in it."""
        self._index = index
        self._database = database
        self._health = health
        self._stored = stored
        self._replaced = replaced
        self._holders = holders
        self._leftovers = leftovers
        self._clock = clock
        self._full = full
        self._checkpoint: Checkpoint = checkpoint or (lambda step, path: None)
        self._items: list[Item] = []
        self._queued = 0
        self._in_memory = 0
        self._added = asyncio.Event()
        self._settled = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="commit queue")

    async def room(self) -> None:
        """Wait while too much is queued: a disk slower than the upstreams slows the misses, not the hits."""
        while self._queued >= PENDING_FILES or self._in_memory >= PENDING_BYTES:
            self._settled.clear()
            await self._settled.wait()

    def add(self, item: Item) -> None:
        """Queue a proven file, which belongs to the queue from here on."""
        self.pending[item.path] = item
        self._items.append(item)
        self._queued += 1
        self._in_memory += len(item.content.data or b"")
        self._added.set()

    async def flushed(self) -> None:
        """Wait until what is queued now is stored, or could not be."""
        for item in list(self._items):
            await item.settled.wait()
        async with self.disk:  # what left the queue is settled before the disk is free again
            pass

    async def close(self) -> None:
        """Store what is queued, then end."""
        self._closing = True
        self._added.set()
        await self._task
        self.threads.close()

    async def _run(self) -> None:
        while not (self._closing and not self._items):
            await self._added.wait()
            while self._items:
                batch, self._items = self._items[:BATCH], self._items[BATCH:]
                async with self.disk:
                    await self._commit(batch)
            if not self._closing:
                self._added.clear()

    async def _commit(self, batch: Sequence[Item]) -> None:
        failed: dict[Item, Exception] = {}
        try:
            failed.update(await self.threads.run(publish, batch, self._checkpoint))
            done = [item for item in batch if item not in failed]
            if done:
                for victim in await self._database.run(self._record, done):
                    self._replaced(victim)
                self._health.succeeded("files", "index")
        except (OSError, sqlite3.Error) as error:
            failed = {item: failed.get(item, error) for item in batch}
        except Exception as error:
            # A bug; the next batch must be stored all the same.
            log.exception("commit failed")
            failed = {item: failed.get(item, error) for item in batch}
        for item, left in (await self.threads.run(withdraw, list(failed))).items():
            self._leftovers.keep(*item.lies, item.reservation.size, left)
        for item, cause in failed.items():
            log.error("file not stored", path=item.path, reason=reason(cause))
            self._health.failed(cause)
        if any(is_full(cause) for cause in failed.values()):
            self._full()
        for item in batch:
            self._settle(item, stored=item not in failed)
        self._settled.set()

    def _record(self, items: Sequence[Item]) -> list[Victim]:
        self._checkpoint("index", "")
        replaced = self._index.add([item.row() for item in items], self._clock.wall(), self._clock.now())
        self._checkpoint("done", "")
        return replaced

    def _settle(self, item: Item, *, stored: bool) -> None:
        hold = item.content.hold
        if stored:
            if hold is not None:
                self._holders.published(hold)
            self._stored(item)
            self._leftovers.replaced(item.target)
        item.content.close()
        if hold is not None and not stored:
            self._holders.unlinked(hold, item.reservation.size)
        if self.pending.get(item.path) is item:
            del self.pending[item.path]
        self._queued -= 1
        self._in_memory -= len(item.content.data or b"")
        item.reservation.release()
        item.settled.set()
