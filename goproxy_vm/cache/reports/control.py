"""What an operator may ask of the store: look, purge, evict, pin, scrub, compare."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from goproxy_vm.cache.facts import (
    Difference,
    Eviction,
    Page,
    Pass,
    Pin,
    Pins,
    Snapshot,
)
from goproxy_vm.cache.reports.report import removal
from goproxy_vm.cache.threads import paused
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.selector import Selector, normalize
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from goproxy_vm.cache.answers import Answers
    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.facts import Listing, VersionFacts
    from goproxy_vm.cache.reports.purges import Purges
    from goproxy_vm.cache.reports.scanner import Scanner
    from goproxy_vm.cache.reports.snapshots import Snapshots
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.janitor import Janitor
    from goproxy_vm.cache.upkeep.recovery import Recoverer
    from goproxy_vm.cache.upkeep.scrub import Scrubber

log = get_logger("cache")

MOST_ORDERED = 8
"""Ordered scrubs that have not ended: one checks, the others wait."""
MARKED = 128
"""Rows whose pin is marked in one transaction."""


class Control:
    """The operator's side of an open store. sqlite3.Error: index.db cannot be read or written."""

    def __init__(
        self,
        core: Core,
        reader: Scanner,
        reading: Threads,
        reports: Threads,
        snapshots: Snapshots,
        answers: Answers,
        purges: Purges,
        janitor: Janitor,
        scrub: Scrubber,
        recoverer: Recoverer,
        pins: dict[str, str],
    ) -> None:
        self._core = core
        self._reader = reader
        self._reading = reading
        """The threads of ``reader``, which are those of the snapshots."""
        self._reports = reports
        self._snapshots = snapshots
        self._answers = answers
        self._purges = purges
        self._janitor = janitor
        self._scrub = scrub
        self._recoverer = recoverer
        self.pins_settled(pins, Selector(pins))
        self._ordered: dict[int, tuple[Pass, asyncio.Task[None]]] = {}
        """Scrubs that were ordered and have not ended, by pass."""
        self._ordering = asyncio.Lock()
        self._settling = asyncio.Lock()

    def pinned(self, module: str, version: str) -> bool:
        """Whether a version is kept from eviction."""
        return self._pinned(module, version)

    def pins_settled(self, pins: dict[str, str], pinned: Selector) -> None:
        """What is pinned from now on: source by pattern, and what tells by these patterns."""
        self._pins = pins
        self._pinned = pinned

    async def close(self) -> None:
        """End the scrubs that were ordered."""
        # The newest first, lest one begin that waited for another.
        for ordered in reversed(list(self._ordered.values())):
            await self._scrub.cancel(*ordered)

    async def versions(self, asked: Listing) -> Page[VersionFacts]:
        """A page of what is stored. ValueError: a malformed glob, or a cursor that is none."""
        selector = None if asked.match is None else await self._purges.selector(asked.match)
        await self._settled()
        return await self._reading.run(
            self._reader.page, asked.prefix, asked.sort, asked.limit, asked.cursor, selector
        )

    async def version(self, module: str, version: str) -> VersionFacts | None:
        """What is stored of one version."""
        await self._settled()
        return await self._reading.run(self._reader.version, module, version)

    async def zips_of(self, modules: Collection[str]) -> list[tuple[str, str]]:
        """The versions of modules whose zip is stored, module by module."""
        await self._core.queue.flushed()
        return await self._reading.run(self._reader.zips_of, sorted(modules))

    async def _settled(self) -> None:
        """What was fetched and asked for until now is on record."""
        await self._core.queue.flushed()
        await self._core.flush()

    async def count(self) -> int:
        """Versions of which a file is stored."""
        return await self._reading.run(self._reader.versions)

    async def refresh(self, module: str) -> int:
        """Forget a module's cached answers; how many."""
        return await self._answers.drop(module)

    async def evict(self, target_bytes: int | None, *, dry_run: bool) -> Eviction:
        """Evict down to a size, the low water mark where None; returns when that is done."""
        core = self._core
        await core.queue.flushed()
        goal = core.admission.limits.low if target_bytes is None else target_bytes
        if not dry_run:
            return await self._janitor.evict(goal)
        # On the connection of reports, and beside the janitor: hits and downloads must not wait for it.
        await core.flush()
        before = core.usage.used
        victims = await self._reading.run(self._reader.to_evict, before - goal, core.pinned_excess, None)
        after = before - sum(victim.bytes for victim in victims)
        return Eviction(await removal(victims, 0, dry_run=True), goal, before, after, after <= goal, None)

    async def pins(self) -> Pins:
        """All pins and what they cover."""
        items = await self._reading.run(self._reader.pins, dict(self._pins))
        return Pins(items, self._core.usage.pinned, self._core.admission.limits.pinned)

    async def pin(self, pattern: str) -> Pin:
        """Keep versions from eviction, from now on and over restarts. ValueError: a malformed pattern."""
        pattern = normalize(pattern)
        await self._core.ask(self._core.ledger.add_pin, pattern)
        await self._settle_pins()
        (pin,) = await self._reading.run(self._reader.pins, {pattern: self._pins.get(pattern, "api")})
        return pin

    async def unpin(self, pattern: str) -> bool:
        """Take back a pin of the API; False where there is none."""
        removed = await self._core.ask(self._core.ledger.remove_pin, normalize(pattern))
        await self._settle_pins()
        return removed

    async def configure_pins(self, patterns: Sequence[str]) -> None:
        """Replace the pins of the settings, from now on. ValueError: a malformed pattern."""
        core = self._core
        await core.ask(core.ledger.set_pins, [normalize(pattern) for pattern in patterns], "config")
        await self._settle_pins()

    async def _settle_pins(self) -> None:
        """Mark the rows by the pins as they are now. Which ones, the connection of reports finds out; they
        are marked a few at a time: neither hits nor commits wait for long."""
        core = self._core
        async with self._settling:
            pins = await core.ask(core.ledger.pins)
            self.pins_settled(pins, await self._purges.selector(pins))
            await core.queue.flushed()  # what comes from here on comes with its mark
            pin, unpin = await self._reading.run(self._reader.pinned, self._pins, paused)
            for ids, pinned in ((pin, True), (unpin, False)):
                for start in range(0, len(ids), MARKED):
                    async with core.queue.disk:
                        await to_the_end(self._mark(ids[start : start + MARKED], pinned=pinned))
        core.admission.changed()

    async def _mark(self, ids: Sequence[int], *, pinned: bool) -> None:
        marked = await self._core.ask(self._core.index.mark_pinned, ids, pinned=pinned)
        self._core.usage.pinned += marked if pinned else -marked

    async def scrub(self, match: tuple[str, ...] | None, rate: int | None) -> int | None:
        """Begin to check files, all or those of some versions; the pass, None where MOST_ORDERED have not
        ended. ValueError: a malformed glob. Unavailable: as Scrubber.order."""
        selector = None if match is None else await self._purges.selector(match)
        async with self._ordering:
            if len(self._ordered) >= MOST_ORDERED:
                return None
            record, task = await self._scrub.order(selector, rate)
            self._ordered[record.id] = record, task
        task.add_done_callback(lambda _: self._ordered.pop(record.id, None))
        return record.id

    async def cancel_scrub(self, number: int) -> bool:
        """End a scrub that was ordered, under way or waiting; False where that pass is none."""
        ordered = self._ordered.get(number)
        return ordered is not None and await self._scrub.cancel(*ordered)

    async def one_pass(self, number: int) -> Pass | None:
        """The record of a pass."""
        return await self._core.ask(self._core.ledger.find, number)

    async def last_scrub(self) -> Pass | None:
        """The newest scrub, whether it has ended or not."""
        return await self._core.ask(self._core.ledger.newest, "scrub")

    async def passes(self, limit: int) -> list[Pass]:
        """The newest passes, newest first."""
        return await self._core.ask(self._core.ledger.passes, limit)

    async def snapshots(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        return await self._reports.run(self._snapshots.all)

    async def snapshot(self, name: str) -> Snapshot | None:
        """Keep what is stored now; None: the name is taken."""
        await self._core.queue.flushed()
        return await self._reports.run(self._snapshots.take, name)

    async def delete_snapshot(self, name: str) -> Snapshot | None:
        """Forget a snapshot, as it was; None: there is none of that name."""
        return await self._reports.run(self._snapshots.delete, name)

    async def difference(self, a: str, b: str) -> Difference | None:
        """What came and went between two snapshots, or one and ``now``; None: there is no such snapshot."""
        return await self._reports.run(self._snapshots.difference, a, b)
