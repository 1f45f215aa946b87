"""The mirror of a Go vulnerability database under ``/vulndb/`` (setting vulndb).

govulncheck and gopls learn there what is known of the modules that this host gives, without internet too.
Nothing is signed: a file is as trustworthy as where it came from, and is kept under that URL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.cache.answers import VULNDB
from goproxy_vm.errors import Absent, GoproxyError, Overloaded, Refused, UnderWay, UpstreamError
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.osv import Advisory, parse_advisory
from goproxy_vm.protocol.vulndb import (
    DATABASE,
    MODULES,
    VULNS,
    DatabaseFile,
    ModuleIndex,
    longest,
    moment,
    pack,
    parse_database,
    parse_modules,
    parse_vulns,
    unpack,
)
from goproxy_vm.proxy.answer import CACHE_STATUS, Answer, Result, max_age
from goproxy_vm.traffic.flight import Flights
from goproxy_vm.traffic.negative import Negatives
from goproxy_vm.traffic.steps import in_turns
from goproxy_vm.upstream.sink import Buffer

if TYPE_CHECKING:
    from goproxy_vm.cache.answers import Answers
    from goproxy_vm.config import Settings
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.gate import Gate
    from goproxy_vm.traffic.slots import Claim, FairSlots
    from goproxy_vm.upstream.chain import Upstreams

FRESH = 3600.0
"""Seconds after which the database is asked whether anything was modified."""
PATIENCE = 2.0
"""Seconds for which a client waits for the database where there is an older file to answer with."""
REST = 60.0
"""Seconds for which an older file is given at once after it could not be had anew."""
MOST_RESTING = 1000
"""Files of which that is remembered."""

log = get_logger("proxy")


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file as it is kept: ``data`` is packed, ``stored`` when it came, in epoch seconds.

    ``as_of``: of the database, and of an advisory, its own ``modified``; of an index, that of the database
    which it is as new as, or nothing where nobody can tell.
    """

    as_of: str
    data: bytes
    stored: float


class VulndbMirror:
    """Answers requests for files of the database. ``wall`` in epoch seconds."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        answers: Answers,
        upstreams: Upstreams,
        slots: FairSlots,
        *,
        patience: float = PATIENCE,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``patience``: for how many seconds a client waits where there is an older file to answer with."""
        self.url = settings.vulndb
        self.changed = asyncio.Event()
        """Set when the database is found to be another than before."""
        self._settings = settings
        self._gate = gate
        self._answers = answers
        self._upstreams = upstreams
        self._slots = slots
        self._patience = patience
        self._wall = wall
        self._now = monotonic
        self._flights: Flights[KeptFile] = Flights(lambda kept: kept, lambda _: None)
        self._parsing: Flights[ModuleIndex] = Flights(lambda index: index, lambda _: None)
        self._absent = Negatives(settings.negative, monotonic)
        self._resting: Lru[str, float] = Lru(MOST_RESTING)
        """Until when a file that failed is given as it is kept."""
        self._parsed: tuple[bytes, ModuleIndex] | None = None
        """The packed index of modules, and what it says."""

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()
        await self._parsing.close()

    @property
    def fetches_in_flight(self) -> int:
        """How many fetches are under way."""
        return len(self._flights)

    async def get(self, file: DatabaseFile, asker: Asker) -> Answer:
        """Answer one request. Absent: the database has no such file, or it may not be asked. UpstreamError
        and its kin: it failed, and nothing older is kept."""
        kept, result = await self.file(file.name, asker)
        # Packed files are data here, and no encoding: clients unpack them by themselves.
        kind = "application/gzip" if file.zipped else "application/json"
        data = kept.data if file.zipped else await plain(kept, file.name)
        left = FRESH - (self._wall() - kept.stored) if result is not Result.STALE else 0
        return Answer(data, kind, max_age(min(left, self._settings.fresh)), CACHE_STATUS[result], result)

    async def file(self, name: str, asker: Asker) -> tuple[KeptFile, Result]:
        """A file, and how it was come by; raises as :meth:`get`."""
        kept = await self._kept(name)
        sure = None if kept is None else await self._judged(name, kept, asker)
        if kept is not None and sure is not None:
            return kept, sure
        if not self._gate.may_fetch(asker):
            if kept is None:
                raise self._gate.not_here()
            return kept, Result.STALE
        if kept is None:
            self._absent.check(name)
        elif self._resting.get(name, 0.0) > self._now() or not self._upstreams.due():
            return kept, Result.STALE
        claim = self._slots.claim(asker.client)
        patience = asker.patience
        if kept is not None:
            patience = min(self._patience, patience or self._patience)
        try:
            found, joined = await self._flights.join(name, partial(self._fly, name, claim), claim, patience)
        except UnderWay:
            if kept is None:
                raise
            self._resting.keep(name, self._now() + REST)
            return kept, Result.STALE
        except (UpstreamError, Refused, Overloaded) as error:
            if kept is None:
                raise
            log.warning("serving stale", path=f"vulndb/{name}", reason=error.sentence)
            return kept, Result.STALE
        return found, Result.COLLAPSED if joined else Result.MISS

    async def index(self, asker: Asker) -> ModuleIndex:
        """The index of modules; raises as :meth:`get`."""
        kept, _ = await self.file(MODULES, asker)
        if self._parsed is None or self._parsed[0] != kept.data:
            index, _ = await self._parsing.join(MODULES, partial(self._parse, kept))
            return index
        return self._parsed[1]

    async def advisory(self, id_: str, asker: Asker) -> Advisory:
        """An advisory; raises as :meth:`get`."""
        kept, _ = await self.file(f"ID/{id_}", asker)
        return parse_advisory(await plain(kept, f"ID/{id_}"), id_)

    async def kept_database(self) -> KeptFile | None:
        """The newest ``index/db`` that is kept, however old."""
        return await self._kept(DATABASE)

    async def _parse(self, kept: KeptFile) -> ModuleIndex:
        index = await in_turns(parse_modules(await plain(kept, MODULES)))
        self._parsed = kept.data, index
        return index

    # What is kept, and whether it is as new as the database

    async def _kept(self, name: str) -> KeptFile | None:
        answer = await self._answers.get(f"{VULNDB}/{name}")
        if answer is None:
            return None
        url, as_of, stored, data = answer.data.split(b"\n", 3)
        return KeptFile(as_of.decode(), data, float(stored)) if url == self.url.encode() else None

    async def _judged(self, name: str, kept: KeptFile, asker: Asker) -> Result | None:
        """How a file that is kept may be given without asking for it; None: it is to be asked for."""
        age = self._wall() - kept.stored
        recent = 0 <= age < FRESH
        if name == DATABASE:
            return Result.HIT if recent else None
        try:
            database, result = await self.file(DATABASE, asker)
            if result is Result.STALE:
                return Result.STALE  # whoever cannot tell what is new has nothing newer
            if name in (MODULES, VULNS):
                same = kept.as_of == database.as_of or (not kept.as_of and recent)
                return Result.HIT if same else None
            listed = (await self.index(asker)).modified.get(name.removeprefix("ID/"))
        except GoproxyError:
            return Result.STALE
        if listed is None:
            return Result.HIT if recent else None
        # An upstream may give an index that is newer than its files, for a while: not asked all the time.
        new = moment(kept.as_of, "advisory") >= listed or 0 <= age < self._settings.fresh
        return Result.HIT if new else None

    # Fetching

    async def _fly(self, name: str, claim: Claim) -> KeptFile:
        """A flight: the file by the database's word of now."""
        try:
            async with claim.hold(self._settings.total_timeout):
                found = await self._fetch(name)
        except Absent as error:
            await self._answers.delete(f"{VULNDB}/{name}")
            self._absent.add(name, error.sentence)
            raise
        except (UpstreamError, Refused) as error:
            self._resting.keep(name, self._now() + REST)
            log.info("fetch failed", path=f"vulndb/{name}", client=claim.client, reason=error.sentence)
            raise
        self._resting.forget(name)
        before = await self._kept(DATABASE) if name == DATABASE else None
        head = f"{self.url}\n{found.as_of}\n{found.stored!r}\n".encode()
        await self._answers.set(f"{VULNDB}/{name}", head + found.data, keep=None)
        if name == DATABASE and (before is None or before.as_of != found.as_of):
            self.changed.set()
        return found

    async def _fetch(self, name: str) -> KeptFile:
        database = await self._kept(DATABASE) if name in (MODULES, VULNS) else None
        as_of = "" if database is None else database.as_of
        sink = Buffer()

        async def check() -> KeptFile:
            data = await asyncio.to_thread(unpack, sink.data, longest(name))
            found = await _as_of(name, data, as_of)
            return KeptFile(found, await asyncio.to_thread(pack, data), self._wall())

        fetch = partial(self._upstreams.fetch, sink=sink, limit=longest(name), check=check)
        try:
            return await fetch(f"{name}.json.gz")
        except Absent:
            try:
                return await fetch(f"{name}.json")  # as in a directory that was unpacked from vulndb.zip
            except Absent as error:
                if name in (DATABASE, MODULES):
                    raise UpstreamError(
                        f"{error.sentence}: no vulnerability database (setting vulndb)"
                    ) from None
                raise


async def plain(kept: KeptFile, name: str) -> bytes:
    """The JSON of a file that is kept."""
    return await asyncio.to_thread(unpack, kept.data, longest(name))


async def _as_of(name: str, data: bytes, database: str) -> str:
    """What a file is as new as (see :class:`KeptFile`). ContentError: it is not the file of that name."""
    if name == DATABASE:
        return parse_database(data)
    if name == MODULES:
        return _as_new((await in_turns(parse_modules(data))).modified.values(), database)
    if name == VULNS:
        return _as_new((await in_turns(parse_vulns(data))).values(), database)
    return (await asyncio.to_thread(parse_advisory, data, name.removeprefix("ID/"))).modified


def _as_new(modified: Iterable[datetime], database: str) -> str:
    """The database's ``modified`` where something in its index is as new, else nothing."""
    newest = max(modified, default=None)
    as_new = database and newest is not None and newest >= moment(database, "index")
    return database if as_new else ""
