"""The scrub: reads stored files at a bounded rate and compares them with the hashes on record."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import sqlite3
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.health import reason as phrase
from goproxy_vm.cache.reports.scanner import BEGIN
from goproxy_vm.errors import Unavailable
from goproxy_vm.hostos import read_cached
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.facts import Pass
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.upkeep.quarantine import Quarantine
    from goproxy_vm.protocol.selector import Selector

log = get_logger("cache")

CHUNK = 256 << 10
"""Bytes read at once: what the page cache did not hold is given back right after. A smaller file counts
for as many: opening it costs the disk and the hits beside it no less."""
STEP = 4 << 20
"""Bytes of one file read between two pauses."""
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM})
"""Errors that say nothing of the file: the host cannot look at it now."""
SAVE_EVERY = 30.0
"""Seconds between two notes of how far a pass has come."""


class Hasher:
    """The SHA-256 of a file, read in steps without leaving traces in the page cache. Blocking; close it."""

    def __init__(self, file: Path, top: Path) -> None:
        """``file`` is below ``top``."""
        self.fd = tree.opened(file, top)
        self._size = os.fstat(self.fd).st_size
        self._hash = hashlib.sha256()
        self._offset = 0

    def step(self, most: int) -> int:
        """Read on; the number of bytes, 0 at the end."""
        done = 0
        while done < most and (piece := self._read()):
            self._hash.update(piece)
            done += len(piece)
        return done

    def hexdigest(self) -> str:
        """Of what was read."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Release the file."""
        os.close(self.fd)

    def _read(self) -> bytes:
        buffer = bytearray(CHUNK)
        cold = True
        try:
            # Up to the end or a whole chunk: a part means that the rest is not in memory.
            resident = read_cached(self.fd, [buffer], self._offset)
            cold = resident < min(CHUNK, self._size - self._offset)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EOPNOTSUPP}:
                raise
        piece = os.pread(self.fd, CHUNK, self._offset)
        if cold and piece:
            os.posix_fadvise(self.fd, self._offset, len(piece), os.POSIX_FADV_DONTNEED)
        self._offset += len(piece)
        return piece


class Scrubber:
    """Checks files, least recently checked first; what is not what it was goes to quarantine.

    ``interval`` in seconds (0: only when asked), ``rate`` in bytes a second; ``read`` and ``corrupt`` tell
    the metrics.
    """

    def __init__(
        self,
        core: Core,
        quarantine: Quarantine,
        interval: float,
        rate: int,
        read: Callable[[int], None],
        corrupt: Callable[[], None],
    ) -> None:
        self._core = core
        self._quarantine = quarantine
        self._interval = interval
        self._rate = rate
        self._read = read
        self._corrupt = corrupt
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Check whatever was not checked for an interval, until cancelled."""
        while self._interval:
            try:
                await self.once()
            except sqlite3.Error as error:
                log.error("scrub failed", reason=phrase(error))
            await asyncio.sleep(min(self._interval, 3600.0))

    async def once(self) -> None:
        """Check whatever was not checked for an interval, if there is any."""
        before = self._core.clock.now() - self._interval
        due, _ = await self._core.scan(self._core.scanner.to_check, before, None, BEGIN)
        if not due:
            return
        async with self._lock:
            record = await self._core.begin("scrub", None)
            try:
                await self._guarded(record, before, None, self._rate)
            except asyncio.CancelledError:
                await to_the_end(self._cancelled(record))
                raise

    async def order(self, match: Selector | None, rate: int | None) -> tuple[Pass, asyncio.Task[None]]:
        """Begin a pass over all files, or those of some versions; its record, and the task that does it.

        It waits for others that are under way. Unavailable: its record cannot be written, so that nobody
        could see what becomes of it.
        """
        core = self._core
        record = await core.begin("scrub", None)
        if not record.id:
            raise Unavailable("this host cannot write down that a scrub has begun")
        record.scrubbed, record.waiting = (0, 0, 0), True
        await core.ask(core.ledger.save, record)

        async def work() -> None:
            async with self._lock:
                record.waiting = False
                await core.attempt(None, core.ledger.save, record)
                await self._guarded(record, core.clock.now(), match, rate or self._rate)

        return record, asyncio.create_task(work(), name="scrub")

    async def cancel(self, record: Pass, task: asyncio.Task[None]) -> bool:
        """End an ordered pass before it is done; False where it has ended by itself."""
        task.cancel()
        await asyncio.wait([task])
        if record.finished is not None:
            return False
        await self._cancelled(record)
        return True

    async def _cancelled(self, record: Pass) -> None:
        record.cancelled = True
        await self._core.end(record, reached=None)

    async def check(self, victim: Victim, sha256: str, rate: int | None = None) -> bool:
        """Whether a file still has the hash on record; else it is gone or in quarantine now. OSError: the
        host cannot look at it now."""
        if not await self._compare(victim, sha256, rate):
            return False
        try:
            await self._note([victim])
        except sqlite3.Error as error:
            # It is sound all the same; on a full disk it is read again after a restart.
            self._core.health.failed(error)
        return True

    async def _compare(self, victim: Victim, sha256: str, rate: int | None) -> bool | None:
        """As :meth:`check`, with None for a file that is gone, and nothing noted of a sound one."""
        try:
            sound = await self._hash(victim, rate) == sha256
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return None  # evicted meanwhile, or a ghost: the next hit or start sees to it
            log.error("stored file unreadable", path=victim.path, reason=phrase(error))
            if error.errno == errno.EIO:
                self._core.health.failed(error)
            sound = False
        return sound or (False if await self.condemn(victim) else None)

    async def _note(self, sound: Sequence[Victim]) -> None:
        paths = [victim.path for victim in sound]
        await self._core.ask(self._core.index.checked, paths, self._core.clock.now())

    async def condemn(self, victim: Victim) -> bool:
        """Take a file that is not what it was off the record, and keep its bytes for the operator; False for
        one that has gone by itself."""
        core = self._core
        async with core.queue.disk:
            if [victim.id] != [each.id for each in await core.ask(core.index.of_path, victim.path)]:
                return False
            file = core.layout.file(victim.path)
            there = True
            try:
                there = await core.queue.threads.run(self._quarantine.take, file, victim.path)
            except OSError as error:
                log.warning("corrupt file not kept", path=victim.path, reason=phrase(error))
            if there:
                log.error("corrupt file", path=victim.path, module=victim.module, version=victim.version)
                self._corrupt()
            await core.remover.remove_now([victim], "corrupt" if there else "ghost")
            return there

    async def _guarded(self, record: Pass, before: float, match: Selector | None, rate: int) -> None:
        """A pass to its end, which is a failure where the index cannot be read."""
        try:
            await self._pass(record, before, match, rate)
        except sqlite3.Error as error:
            log.error("scrub failed", reason=phrase(error))
            self._core.health.failed(error)
            await self._core.end(record, reached=False)
        except Exception:
            log.exception("scrub failed")  # a bug: whoever waits for its end is told all the same
            await self._core.end(record, reached=False)

    async def _pass(self, record: Pass, before: float, match: Selector | None, rate: int) -> None:
        core = self._core
        entries = size = corrupt = 0
        after: tuple[float, int] | None = BEGIN
        saved = core.clock.now()
        while after is not None:
            batch, after = await core.scan(core.scanner.to_check, before, match, after)
            passed = []
            for victim, sha256 in batch:
                try:
                    sound = await self._compare(victim, sha256, rate)
                except OSError as error:
                    log.warning("stored file not checked", path=victim.path, reason=phrase(error))
                    continue
                if sound is None:
                    continue
                if sound:
                    passed.append(victim)
                entries, size, corrupt = entries + 1, size + victim.length, corrupt + (not sound)
                record.scrubbed = (entries, size, corrupt)
                if core.clock.now() - saved > SAVE_EVERY:
                    saved = core.clock.now()
                    await core.ask(core.ledger.save, record)
            if passed:
                await self._note(passed)
        record.scrubbed = (entries, size, corrupt)
        await core.end(record, reached=None)
        log.info("scrubbed", files=entries, bytes=size, corrupt=corrupt)

    async def _hash(self, victim: Victim, rate: int | None) -> str:
        file = self._core.layout.file(victim.path)
        top = self._core.layout.modules
        clock = self._core.clock
        started = clock.now()
        step = STEP if rate is None else min(STEP, rate)
        done = 0

        async def keep_pace(n: int) -> None:
            nonlocal done
            done += n
            self._read(n)
            if rate is not None:
                await asyncio.sleep(max(0.0, started + max(done, CHUNK) / rate - clock.now()))

        if victim.length < step:
            digest, n = await self._core.disk.run(_whole, file, top, step)
            await keep_pace(n)
            return digest
        hasher = await self._core.disk.open(Hasher, file, top)
        try:
            while n := await self._core.disk.run(hasher.step, step):
                await keep_pace(n)
            return hasher.hexdigest()
        finally:
            hasher.close()


def _whole(file: Path, top: Path, most: int) -> tuple[str, int]:
    """The SHA-256 of a small file's first ``most`` bytes, and how many there are."""
    with contextlib.closing(Hasher(file, top)) as hasher:
        n = hasher.step(most)
        return hasher.hexdigest(), n
