"""Recency on disk: hits are written down in one transaction now and then, with the clock they are told by."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from goproxy_vm.cache.clock import LogicalClock
from goproxy_vm.cache.health import reason
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from goproxy_vm.cache.database import Database
    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.index import Index
    from goproxy_vm.cache.memory import Memory
    from goproxy_vm.cache.rows import Touch
    from goproxy_vm.cache.threads import Threads

log = get_logger("cache")

TOGETHER = 2_000
"""Hits that are written down in one transaction."""
CLEAN_AGE = 60.0
"""Seconds after which what was synced is certainly on disk: longer than a drive keeps it in its cache."""


@dataclass(slots=True)
class Recency:
    """Writes down what :class:`Memory` collects. ``protected``: bytes of the protected segment."""

    database: Database
    index: Index
    memory: Memory
    clock: LogicalClock
    thread: Threads
    health: Health
    protected: int
    _mark: tuple[float, int] | None = None
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, interval: float) -> None:
        """Flush at an interval (seconds), and whenever there are many, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self.memory.crowded.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write down the hits until now; a disk that fails loses their order, nothing else."""
        async with self._flushing:  # who asks for it now relies on what another one has taken, too
            await to_the_end(self._flush(list(self.memory.drain().items())))

    async def _flush(self, touches: Sequence[tuple[str, Touch]]) -> None:
        try:
            for start in range(0, max(1, len(touches)), TOGETHER):  # others have their turn in between
                await self.thread.run(self._write, dict(touches[start : start + TOGETHER]))
            self.health.succeeded("index")
        except sqlite3.Error as error:
            log.warning("index unavailable", reason=reason(error))
            self.health.failed(error)

    async def settle(self) -> None:
        """At a clean end all is on disk."""
        await self.flush()
        try:
            await self.thread.run(self._all_clean)
        except sqlite3.Error as error:
            log.warning("index unavailable", reason=reason(error))

    def _write(self, touches: dict[str, Touch]) -> None:
        with self.database.transaction():
            self.index.touch(touches, self.protected)
            logical, wall = self.clock.mark()
            self.database.set("clock", logical)
            self.database.set("wall", wall)
            if self._mark is None:
                # What earlier runs have vouched for stands until this one knows more.
                self._mark = logical, self.index.newest()
            since, newest = self._mark
            if logical - since >= CLEAN_AGE and self.index.doubts.suspected is None:
                self.database.set("clean", newest)
                self._mark = logical, self.index.newest()

    def _all_clean(self) -> None:
        if self.index.doubts.suspected is not None:
            return  # on a full disk: which files a power loss may have damaged is not written down yet
        self.database.set("clean", self.index.newest())


def begin_clock(
    database: Database,
    *,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> LogicalClock:
    """The clock of this run, going on where the last one's was; ``wall`` and ``monotonic`` are the host's."""
    last = None
    if database.get("clock", None) is not None and database.get("wall", None) is not None:
        last = database.number("clock", None), database.number("wall", None)
    return LogicalClock(last, wall=wall, monotonic=monotonic)
