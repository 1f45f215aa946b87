"""The janitor: keeps the store within its budget, off the request path, in small batches."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.cache.facts import Eviction, Pass, PassReason
from goproxy_vm.cache.health import reason as phrase
from goproxy_vm.cache.reports.report import removal
from goproxy_vm.cache.upkeep.removal import BATCH
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Container, Sequence

    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.rows import Victim

log = get_logger("cache")

METADATA_SHARE = 10
"""A tenth of the budget at most for ``.info`` and ``.mod``, beyond those of versions with a zip."""
DISK_STEP = 16 << 20
"""Bytes freed at least for a write that found the disk full."""


@dataclass(frozen=True, slots=True)
class Policy:
    """``min_free`` in bytes; ``max_idle`` (None: off) and ``interval`` in seconds."""

    min_free: int
    max_idle: float | None
    interval: float


class Janitor:
    """One task that runs at an interval and when ``pressed`` is set: somebody waits for room, or the high
    water mark is passed. One pass at a time; ``trim`` bounds the cached answers."""

    def __init__(
        self,
        core: Core,
        policy: Policy,
        pressed: asyncio.Event,
        trim: Callable[[], Awaitable[object]],
        *,
        interrupted: bool,
    ) -> None:
        """``interrupted``: the run before did not end cleanly, so that a pass without an end goes on."""
        self._interrupted = interrupted
        self._core = core
        self._policy = policy
        self._trim = trim
        self._lock = asyncio.Lock()
        self._pressed = pressed
        self._starved = False
        self.last: Pass | None = None
        """The newest pass that ended."""
        self._missed: set[PassReason] = set()
        self._unmet: int | None = None
        """What an operator's eviction was to leave and could not, until no more is used."""

    @property
    def reached(self) -> bool:
        """Whether the last passes for room, and what an operator ordered, freed what they had to."""
        return not self._missed and self._unmet is None

    async def run(self) -> None:
        """Work until cancelled."""
        await self._guarded(self._resume)
        loop = asyncio.get_running_loop()
        due = loop.time() + self._policy.interval
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._pressed.wait()
            # By the clock: where somebody always waits for room, the wait never ends by its timeout.
            if loop.time() >= due:
                await self._guarded(self.once)
                due = loop.time() + self._policy.interval
            self._pressed.clear()
            if self._starved:
                self._starved = False
                await self._guarded(partial(self.full, 0))
            await self._guarded(self.relieve)

    async def once(self) -> None:
        """What is due at each interval: what is idle goes, ``min_free`` is held, the answers are trimmed."""
        await self._clear_idle()
        await self.make_room(0)
        await self._trim()

    def starve(self) -> None:
        """What was to be stored found the disk full: make room for what comes next."""
        self._starved = True
        self._pressed.set()

    async def relieve(self) -> None:
        """Evict from the high water mark to the low one, and what somebody waits for in any case."""
        admission = self._core.admission
        limits = admission.limits
        if self._unmet is not None and self._core.usage.used <= self._unmet:
            self._unmet = None

        def held() -> int:
            return self._core.usage.used + admission.reserved

        def target() -> int:
            return min(limits.low, limits.total - admission.wanted)

        if admission.wanted or held() > limits.high:
            seen = admission.changes
            done = await self._clear("size", target(), lambda: held() - target())
            if not done and admission.wanted and held() + admission.wanted > limits.total:
                # What was on its way into the store can be evicted now, and a purge under way frees room too.
                await self._core.queue.flushed()
                if admission.changes != seen:
                    self._pressed.set()
                elif self._core.holders.busy:
                    admission.blocked()
                else:
                    admission.give_up()
        else:
            self._missed.discard("size")
        await self._clear_metadata()

    async def make_room(self, more: int) -> bool:
        """Leave ``min_free`` and ``more`` bytes on the file system, beside what is being written just now;
        whether that was possible."""

        async def short() -> int:
            needed = self._policy.min_free + self._core.admission.writing + more
            return needed - await self._core.disk.run(self._core.free)

        if await short() <= 0:
            self._missed.discard("min_free")
            return True  # without waiting for a pass under way
        try:
            return await self._clear_until("min_free", None, short)
        except sqlite3.Error as error:
            self._failed(error)
            return False

    async def full(self, more: int) -> bool:
        """A write of ``more`` bytes found the disk full, whatever its numbers say: free some, once."""
        before = self._core.usage.used
        goal = max(0, before - max(more, DISK_STEP))
        try:
            await self._clear("min_free", goal, partial(self._above, goal))
        except sqlite3.Error as error:
            self._failed(error)
        return self._core.usage.used < before

    async def evict(self, goal: int) -> Eviction:
        """An operator's eviction, to ``goal`` bytes used; answers when done."""
        core = self._core
        async with self._lock:
            await self._flush()
            before = core.usage.used
            record = await core.begin("evict", goal)
            gone: list[Victim] = []
            async with self._ended_if_failed(record):
                # No more than was too much at first, however much is fetched meanwhile.
                while (need := min(before - record.evicted_bytes, core.usage.used) - goal) > 0:
                    some = await self._remove(record, await self._choose(need))
                    if not some:
                        break
                    gone += some
            after = core.usage.used
            reached = after <= goal
            self._unmet = None if reached else goal
            self._missed.discard("evict")
            await self._end(record, reached=reached)
        return Eviction(await removal(gone, 0, dry_run=False), goal, before, after, reached, record.id)

    async def _resume(self) -> None:
        """Go on with the pass that a kill interrupted, to its target. After a clean end there is none: what
        has no end then could not write it, and its order may be old."""
        core = self._core
        for record in await core.ask(core.ledger.unfinished):
            if record.reason in ("scrub", "recovery"):
                record.cancelled = True
                await core.end(record, reached=None)
                continue
            goal = record.target_bytes
            if record.reason == "size" and goal is not None:
                goal = max(goal, core.admission.limits.low)  # who waited is gone; the budget may have grown
            if self._interrupted and record.reason in ("size", "evict") and goal is not None:
                await self._clear(record.reason, goal, partial(self._above, goal), record)
            if record.finished is None:
                await self._end(record, reached=None if goal is None else core.usage.used <= goal)

    def _above(self, goal: int) -> int:
        return self._core.usage.used - goal

    async def _clear(
        self, reason: PassReason, target: int | None, excess: Callable[[], int], record: Pass | None = None
    ) -> bool:
        async def need() -> int:
            return excess()

        return await self._clear_until(reason, target, need, record)

    async def _clear_until(
        self,
        reason: PassReason,
        target: int | None,
        excess: Callable[[], Awaitable[int]],
        record: Pass | None = None,
    ) -> bool:
        """Evict in batches until no excess is left; whether that was possible. No record of nothing."""
        core = self._core
        async with self._lock:
            if await excess() <= 0:
                self._missed.discard(reason)
                return True
            reached = True
            while (need := await excess()) > 0:
                async with self._ended_if_failed(record):
                    # What waits for its commit cannot be chosen yet: others would go in its place.
                    await core.queue.flushed()
                    await self._flush()
                    # What is being sent stays on the disk, removed or not.
                    victims = await self._choose(need, core.holders.paths)
                if victims and record is None:
                    record = await core.begin(reason, target)
                async with self._ended_if_failed(record):
                    if record is None or not await self._remove(record, victims):
                        reached = False
                        break
            if record is not None:
                await self._end(record, reached=reached)
            if reached:
                self._missed.discard(reason)
            elif reason not in self._missed and not core.holders.busy:  # else it comes with their end
                self._missed.add(reason)
                log.warning("cache target missed", reason=reason, target=target, used=core.usage.used)
            return reached

    async def _choose(self, need: int, spared: Container[str] = ()) -> list[Victim]:
        core = self._core
        return await core.scan(core.scanner.to_evict, need, core.pinned_excess, BATCH, spared)

    async def _clear_idle(self) -> None:
        longest = self._policy.max_idle
        if longest is None:
            return
        await self._clear_chosen("idle", lambda: self._core.scanner.idle(longest, BATCH))

    async def _clear_metadata(self) -> None:
        usage, total = self._core.usage, self._core.admission.limits.total

        def choose() -> list[Victim]:
            return self._core.scanner.metadata(usage.metadata - total // METADATA_SHARE, BATCH)

        if usage.metadata > total // METADATA_SHARE:
            await self._clear_chosen("size", choose)

    async def _clear_chosen(self, reason: PassReason, choose: Callable[[], list[Victim]]) -> None:
        async with self._lock:
            await self._flush()
            record, reached = None, True
            while reached and (victims := await self._core.scan(choose)):
                record = record or await self._core.begin(reason, None)
                async with self._ended_if_failed(record):
                    reached = bool(await self._remove(record, victims))
            if record is not None:
                await self._end(record, reached=reached)

    @contextlib.asynccontextmanager
    async def _ended_if_failed(self, record: Pass | None) -> AsyncIterator[None]:
        """A pass that fails has ended: a later start must not go on with it."""
        try:
            yield
        except (sqlite3.Error, OSError):
            if record is not None:
                await self._end(record, reached=False)
            raise

    async def _remove(self, record: Pass, victims: Sequence[Victim]) -> list[Victim]:
        gone = await self._core.remover.remove(victims, record.reason)
        record.evicted_entries += len(gone)
        record.evicted_bytes += sum(victim.bytes for victim in gone)
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk: its end is written down
            await self._core.ask(self._core.ledger.save, record)
        return gone

    async def _end(self, record: Pass, *, reached: bool | None) -> None:
        await self._core.end(record, reached=reached)
        self.last = record
        log.info(
            "evicted",
            reason=record.reason,
            files=record.evicted_entries,
            bytes=record.evicted_bytes,
            used=self._core.usage.used,
            reached=reached,
        )

    async def _flush(self) -> None:
        # An order without the newest hits would evict what was just asked for.
        await self._core.flush()

    def _failed(self, error: sqlite3.Error | OSError) -> None:
        log.error("janitor failed", reason=phrase(error))
        self._core.health.failed(error)

    async def _guarded(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            self._core.admission.give_up()
        except Exception:
            # A bug; without a janitor every download would wait for room in vain.
            log.exception("janitor failed")
            self._core.admission.give_up()
