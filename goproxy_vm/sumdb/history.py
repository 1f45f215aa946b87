"""When the log of a checksum database was how large, as this host had proof of it; it outlives the process.

Heads are noted from the first day on, whether anything asks for ages or not: what has not been noted cannot
be shown later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from goproxy_vm.errors import GoproxyError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.growth import EVERY, Growth, NotedHead, line, parse

if TYPE_CHECKING:
    from goproxy_vm.cache.heads import Heads
    from goproxy_vm.upstream.dates import DatedClock

HOUR = 3600.0
"""Seconds between two questions for the newest head."""
SETTLED = 60.0
"""Seconds after a start before it is asked for."""
EARLIEST = 1_767_225_600.0
"""Epoch seconds, the beginning of 2026: this program is younger, and a clock that shows less was not set."""
THIN = 200
"""Lines that are added to the file before it is written anew, without those that tell little."""
LOST = NotedHead(1, 0.0)
"""What begins a history whose beginning is lost: this host has noted heads for longer than it can say."""

log = get_logger("sumdb")


class HeadHistory:
    """The heads noted of one database: ``growth``. :meth:`open` it."""

    def __init__(
        self,
        name: str,
        heads: Heads,
        clock: DatedClock,
        *,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.growth = Growth()
        self._name = name
        self._heads = heads
        self._clock = clock
        self._pause = pause
        self._began = clock.earliest()
        self._added = b""
        """Lines that are not in the file yet."""
        self._lines: int | None = None
        """Lines added to the file since it was written whole; None: it has to be."""
        self._saving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take up what was noted before; a damaged file is begun anew, and nothing is believed of it."""
        try:
            data = await self._heads.read_growth(self._name)
            if data is not None:
                self.growth, torn = await asyncio.to_thread(parse, data)
                self._lines = None if torn else 0
        except (OSError, ValueError) as error:
            log.warning("noted heads begun anew", database=self._name, reason=str(error))
            self.growth = Growth([LOST])

    async def close(self) -> None:
        """Wait until what was noted is on disk."""
        if self._saving is not None:
            await asyncio.wait([self._saving])

    @property
    def idle_seconds(self) -> float:
        """Seconds since the head last grew; since the start, where it never did."""
        last = self.growth.last
        return max(0.0, self._clock.earliest() - (self._began if last is None else last))

    def note(self, size: int) -> None:
        """A head of so many records has been proven now. Whatever is not on disk when the host dies is only
        noted later."""
        now = self._clock.latest()
        if now < EARLIEST:
            return
        if self._clock.confirmed and self.growth.forget_after(now + EVERY):
            log.warning("noted heads forgotten", database=self._name, reason="the clock ran ahead then")
            self.growth = self.growth if len(self.growth) else Growth([LOST])
            self._lines = None
        head = self.growth.note(size, now)
        if head is None:
            return
        self._added += line(head)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save(), name="heads")

    async def _save(self) -> None:
        while added := self._added:
            self._added = b""
            try:
                if self._lines is None or self._lines >= THIN:
                    await self._write()
                    self._lines = 0
                else:
                    await self._heads.append_growth(self._name, added)
                    self._lines += added.count(b"\n")
            except OSError as error:
                self._lines = None  # the next one brings all of them
                log.error("tree head cannot be noted", database=self._name, reason=str(error))

    async def _write(self) -> None:
        thinner = self.growth.copy()
        await self._heads.write_growth(
            self._name, await asyncio.to_thread(_thinned, thinner, self._clock.earliest())
        )
        if thinner.last == self.growth.last:
            self.growth = thinner

    async def run(self, latest: Callable[[], Awaitable[object]]) -> None:
        """Ask for the newest head each hour, for ever; who fails to bring one has said so."""
        since = self.growth.last
        waited = HOUR if since is None else self._clock.earliest() - since
        await self._pause(max(SETTLED, min(HOUR, HOUR - waited)))
        while True:
            with contextlib.suppress(GoproxyError):
                await latest()
            await self._pause(HOUR)


def _thinned(growth: Growth, now: float) -> bytes:
    growth.thin(now)
    return b"".join(map(line, growth.heads))
