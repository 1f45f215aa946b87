"""Which stored versions advisories are about: looked into beside requests, each hour, and when the database
changes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from goproxy_vm.cache.background import cancel, supervised
from goproxy_vm.errors import Absent, GoproxyError, Unavailable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.lines import Steps
from goproxy_vm.protocol.osv import Advisories, Advisory, Exposure, place_of, served_as, subjects
from goproxy_vm.protocol.vulndb import DATABASE, moment
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.vulndb import FRESH, VulndbMirror
from goproxy_vm.traffic.flight import Flights
from goproxy_vm.traffic.steps import in_turns

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.proxy.gate import Gate
    from goproxy_vm.traffic.slots import FairSlots
    from goproxy_vm.upstream.chain import Upstreams

RETRY = 60.0
"""Seconds until the next look after one that failed."""
AT_ONCE = 4
"""Advisories that are fetched at a time."""
MOST = 10_000
"""Versions that a report names; of the others it tells the number."""
STEP = 10
"""Versions that are compared in one step."""
OURSELVES = Asker("vulndb")
"""Whose share of the slots is used."""

log = get_logger("proxy")

Stored = Callable[[Collection[str]], Awaitable[list[tuple[str, str]]]]
"""Tells which versions of modules are stored with their zip, module by module."""


@dataclass(frozen=True, slots=True)
class VulnerableVersion:
    """A stored version, and what there is against it."""

    module: str
    version: str
    exposures: tuple[Exposure, ...]

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it is in a report."""
        return self.module, place_of(self.version), self.version


@dataclass(frozen=True, slots=True)
class VulnerabilityReport:
    """What a look has found: ``total`` versions, of which ``items`` are the first so many, in their order.

    ``modified``, the database's, and ``checked`` are in epoch seconds; ``unread``: the ids of
    advisories that could not be read, of which the index alone was believed.
    """

    modified: float
    checked: float
    total: int
    items: tuple[VulnerableVersion, ...]
    unread: frozenset[str]

    def page(self, limit: int, cursor: str | None) -> tuple[Sequence[VulnerableVersion], str | None]:
        """So many of them at most, and the cursor of the next page. ValueError: a cursor that is none."""
        start = 0
        if cursor is not None:
            module, version = _named(cursor)
            start = bisect_right(
                self.items, (module, place_of(version), version), key=lambda each: each.place
            )
        found = self.items[start : start + limit]
        more = start + limit < len(self.items)
        return found, _cursor(found[-1]) if more else None


class AdvisoryWatch:
    """Keeps what is known of the advisories that concern this host. ``wall`` in epoch seconds."""

    def __init__(
        self,
        mirror: VulndbMirror,
        stored: Stored,
        *,
        interval: float = FRESH,
        most: int = MOST,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``interval``: seconds between two looks; ``most``: versions that a report names."""
        self.mirror = mirror
        self.url = mirror.url
        self.known: Advisories | None = None
        """None until the database was read for the first time."""
        self.report: VulnerabilityReport | None = None
        """The last one; None before there was one."""
        self._stored = stored
        self._interval = interval
        self._most = most
        self._wall = wall
        self._modified = 0.0
        self._trouble = "it was not read yet"
        self._looks: Flights[VulnerabilityReport] = Flights(lambda report: report, lambda _: None)

    async def close(self) -> None:
        """End what is under way."""
        await self._looks.close()

    async def run(self) -> None:
        """Look each hour, and when the database changes, until cancelled."""
        while True:
            await self.check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(RETRY, self._interval) if self._trouble else self._interval):
                    await self.mirror.changed.wait()

    async def check(self) -> None:
        """Read the database, and the advisories that concern what is stored; look. What fails is logged."""
        try:
            database, _ = await self.mirror.file(DATABASE, OURSELVES)
            self.mirror.changed.clear()
            index = await self.mirror.index(OURSELVES)
            known = Advisories(index, await in_turns(self._still_right(index.modified)))
            await self._read(known)
            self._modified = moment(database.as_of, "index").timestamp()
            self.known, self._trouble = known, ""
            await self.look()
        except (GoproxyError, sqlite3.Error) as error:
            self._trouble = error.sentence if isinstance(error, GoproxyError) else str(error)
            log.warning("vulnerabilities not checked", reason=self._trouble)

    async def look(self) -> VulnerabilityReport:
        """What is stored now, by what is known. Unavailable: nothing is. sqlite3.Error: the index fails."""
        if self.known is None:
            raise Unavailable(f"the vulnerability database cannot be told of now: {self._trouble}")
        report, _ = await self._looks.join("", self._look)
        return report

    async def learn(self, module: str, version: str) -> Advisories | None:
        """What is known, every advisory read that may be about a version or names it as fixed, as far as the
        database can be asked. None: nothing is."""
        known = self.known
        if known is not None:
            listed = (
                each for name, _ in subjects(module, version) for each in known.index.modules.get(name, ())
            )
            await self._fetch(known, {each.id for each in listed})
        return known

    async def advisory(self, id_: str) -> Advisory:
        """An advisory, for ``block --from``; raises as the mirror. Absent: there is none of that id."""
        return await self.mirror.advisory(id_, OURSELVES)

    def _still_right(self, modified: Mapping[str, datetime]) -> Steps[list[Advisory]]:
        """The advisories that were read already and have not been modified since."""
        right: list[Advisory] = []
        known = self.known
        for id_, when in modified.items() if known is not None else ():
            advisory = known.get(id_) if known is not None else None
            if advisory is not None and moment(advisory.modified, "advisory") >= when:
                right.append(advisory)
                if len(right) % 100 == 0:
                    yield
        return right

    async def _read(self, known: Advisories) -> None:
        """Have it learn the advisories that may be about what is stored."""
        stored = await self._stored(served_as(known.index.modules))
        await self._fetch(known, await in_turns(_concerning(known, stored)))

    async def _fetch(self, known: Advisories, ids: Collection[str]) -> None:
        missing = iter(sorted(id_ for id_ in ids if known.get(id_) is None))
        failed: list[str] = []

        async def work() -> None:
            for id_ in missing:
                if failed:
                    return  # others would wait for as long
                try:
                    known.learn(await self.mirror.advisory(id_, OURSELVES))
                except Absent:
                    continue
                except GoproxyError as error:
                    failed.append(error.sentence)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(), name="advisories")
        if failed:
            log.warning("advisories not read", reason=failed[0])

    async def _look(self) -> VulnerabilityReport:
        known = self.known
        if known is None:
            raise Unavailable("the vulnerability database was not read yet")
        stored = await self._stored(served_as(known.index.modules))
        total, items, unread = await in_turns(_against(known, stored, self._most))
        self.report = VulnerabilityReport(
            self._modified, self._wall(), total, tuple(items), frozenset(unread)
        )
        return self.report


def open_advisories(
    stack: AsyncExitStack,
    settings: Settings,
    gate: Gate,
    store: Store,
    upstreams: Upstreams | None,
    slots: FairSlots,
) -> AdvisoryWatch | None:
    """The mirror of the database that is ``upstreams``, and the watch over it, which ``stack`` ends."""
    if upstreams is None:
        return None
    mirror = VulndbMirror(settings, gate, store.answers, upstreams, slots)
    stack.push_async_callback(mirror.close)
    watch = AdvisoryWatch(mirror, store.control.zips_of)
    stack.push_async_callback(watch.close)
    stack.push_async_callback(cancel, asyncio.create_task(supervised(watch.run), name="advisories"))
    return watch


def _concerning(known: Advisories, stored: Sequence[tuple[str, str]]) -> Steps[set[str]]:
    found: set[str] = set()
    for number, (module, version) in enumerate(stored, 1):
        found |= known.concerning(module, version)
        if number % STEP == 0:
            yield
    return found


def _against(
    known: Advisories, stored: Sequence[tuple[str, str]], most: int
) -> Steps[tuple[int, list[VulnerableVersion], set[str]]]:
    """How many versions, the first ``most`` of them, and which advisories were not read."""
    total = number = 0
    items: list[VulnerableVersion] = []
    unread: set[str] = set()
    for module, versions in groupby(stored, itemgetter(0)):
        places: list[tuple[str, str]] = []
        for _, version in versions:
            places.append((place_of(version), version))
            if len(places) % (10 * STEP) == 0:
                yield
        for _, version in sorted(places):
            exposures = known.against(module, version)
            number += 1
            if exposures:
                total += 1
                unread.update(each.id for each in exposures if each.advisory is None)
                if len(items) < most:
                    items.append(VulnerableVersion(module, version, tuple(exposures)))
            if number % STEP == 0:
                yield
    return total, items, unread


def _cursor(last: VulnerableVersion) -> str:
    return base64.urlsafe_b64encode(json.dumps([last.module, last.version]).encode()).decode()


def _named(cursor: str) -> tuple[str, str]:
    try:
        module, version = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        f"{module}{version}".encode()
    except (ValueError, TypeError, RecursionError):
        raise ValueError("the cursor is none that this server gave") from None
    return str(module), str(version)
