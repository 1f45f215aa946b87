"""The store in figures, for pages, metrics and the admin API."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.cache.facts import CacheStatus

if TYPE_CHECKING:
    from goproxy_vm.cache.opening import Parts
    from goproxy_vm.config import Settings

STATISTICS_AGE = 1.0
"""Seconds for which the totals are not counted again."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is on record: versions of modules, files, and the bytes allocated for them."""

    versions: int
    files: int
    bytes: int


class Figures:
    """Counts what an open store holds."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._parts = parts
        self._core = parts.core
        self._settings = settings
        self._counted: tuple[float, int] | None = None

    async def statistics(self) -> Statistics:
        """Totals over all files on record; the number of versions at most a second old."""
        now = self._core.clock.now()
        if self._counted is None or now - self._counted[0] >= STATISTICS_AGE:
            self._counted = (now, await self._count())
        return Statistics(self._counted[1], self._core.entries, self._core.usage.used)

    async def status(self) -> CacheStatus:
        """Everything about the store in figures."""
        core, settings = self._core, self._settings
        quarantined, quarantine_bytes = await core.disk.run(self._parts.quarantine.totals)
        answers, answers_bytes = await self._parts.answers.size()
        records, records_bytes = await self._parts.records.size()
        return CacheStatus(
            dir=str(core.layout.root),
            policy=settings.policy,
            limit_bytes=core.admission.limits.total,
            used_bytes=core.usage.used,
            reserved_bytes=core.admission.reserved,
            pinned_bytes=core.usage.pinned,
            pinned_limit_bytes=core.admission.limits.pinned,
            min_free_bytes=self._parts.min_free,
            disk_free_bytes=await core.disk.run(core.free),
            max_idle_seconds=settings.max_idle or None,
            oldest_idle_seconds=await core.attempt(0.0, core.ledger.oldest_idle),
            versions=await self._parts.control.count(),
            entries=dict(core.usage.entries),
            sizes=dict(core.usage.sizes),
            answers=answers,
            answers_bytes=answers_bytes,
            answers_limit_bytes=settings.answers_max_size,
            sumdb=records,
            sumdb_bytes=records_bytes,
            sumdb_limit_bytes=settings.sumdb_max_size,
            quarantine_bytes=quarantine_bytes,
            quarantine_entries=quarantined,
        )

    async def _count(self) -> int:
        try:
            return await self._parts.control.count()
        except sqlite3.Error as error:
            self._core.unavailable(error)
            return self._counted[1] if self._counted else 0
