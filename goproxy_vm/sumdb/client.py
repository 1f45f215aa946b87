"""The checksum database: lookups proven once for all who ask, and every tile kept that proves them.

The rules are in ``protocol.verifier``; here is what they need fetched and stored (PROTOCOL §4).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from goproxy_vm.cache.rows import Proven
from goproxy_vm.errors import (
    Absent,
    ContentError,
    ForkError,
    GoproxyError,
    InconsistentTile,
    StartError,
    Unconfirmed,
    Unproven,
)
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import escape_path, escape_version
from goproxy_vm.protocol.note import VerifierKey
from goproxy_vm.protocol.tlog import DATA_LEVEL, Tile
from goproxy_vm.protocol.verifier import LookupVerdict, Verdict, Verifier
from goproxy_vm.sumdb.history import HeadHistory
from goproxy_vm.traffic.flight import Flights
from goproxy_vm.traffic.negative import Negatives
from goproxy_vm.upstream.dates import DatedClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.config.sumdb import SumdbSpec
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.sumdb.carriers import Carriers
    from goproxy_vm.upstream.backoff import Condition

TILES = 1024
"""Authenticated tiles kept in memory, of at most 8 KiB each."""

log = get_logger("sumdb")
_V_co = TypeVar("_V_co", bound=Verdict, covariant=True)


class _Provable(Protocol[_V_co]):
    """A session of ``protocol.verifier``, by the kind of its verdict."""

    def wanted(self) -> list[Tile]: ...
    def feed(self, tile: Tile, data: bytes) -> None: ...
    def finish(self) -> _V_co: ...


@dataclass(frozen=True, slots=True)
class Lookup:
    """A proven lookup: the response to serve, and what it says."""

    data: bytes
    verdict: LookupVerdict


class ChecksumDatabase:
    """One database, held to its signed log. ``open`` it; its head outlives the process."""

    def __init__(
        self,
        spec: SumdbSpec,
        settings: Settings,
        store: Store,
        carriers: Carriers,
        metrics: Metrics,
        clock: DatedClock | None = None,
    ) -> None:
        """``clock``: by which heads are noted, by default this host's alone."""
        self.name = spec.name
        self.history = HeadHistory(spec.name, store.heads, clock or DatedClock())
        self._key = VerifierKey.parse(spec.vkey)
        self._store = store
        self._carriers = carriers
        self._metrics = metrics
        self._tiles: Lru[Tile, bytes] = Lru(TILES)  # each lookup needs those at the top of the tree
        self._verifier = Verifier(self._key)
        self._absent = Negatives(settings.negative, time.monotonic)
        self._persisting = asyncio.Lock()
        self._unsaved: dict[str, bytes] = {}
        self._saving: asyncio.Task[None] | None = None
        self._persisted: bytes | None = None
        self._dropped = 0
        """How often something that was remembered as stored was not, or not any more."""
        self._lookups: Flights[Lookup] = Flights(lambda found: found, lambda _: None)
        self._bytes: Flights[bytes] = Flights(lambda data: data, lambda _: None)
        store.records.watch(self._gone)

    async def open(self) -> None:
        """Take up the head that was persisted last; StartError if it is not one of this database."""
        await self.history.open()
        file = self._store.heads.file(self.name)
        try:
            self._persisted = await self._store.heads.read(self.name)
            self._verifier = Verifier(self._key, self._persisted, tiles=self._tiles)
        except OSError as error:
            raise StartError(f"sumdb: {file}: {error.strerror}") from None
        except ContentError as error:
            raise StartError(
                f"sumdb: {file}: {error.sentence}; if the database's key has changed, remove the file"
            ) from None

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._lookups.close()
        await self._bytes.close()
        await self._saved()
        await self.history.close()

    @property
    def condition(self) -> Condition:
        """How asking it goes, itself or those who carry it."""
        return self._carriers.condition

    @property
    def head(self) -> bytes | None:
        """The newest signed head known."""
        return self._verifier.head

    async def stored(self, path: str) -> bytes | None:
        """A stored lookup, or a stored tile at least as wide as asked for; both were proven."""
        tile = Tile.parse(path) if path.startswith("tile/") else None
        if tile is None or tile.level == DATA_LEVEL:
            return await self._answer(path)
        data = await self._stored_tile(tile)
        return None if data is None else data[: tile.length]

    async def lookup(self, module: str, version: str, *, hold: bool = True) -> tuple[Lookup, bool]:
        """The proven record of a version, to which what is on record of it is held, unless nothing is
        (``hold``); and whether another's request for it was joined.

        Absent: every source says so. ForkError, ContentError and its kin, Unproven: it could not be proven.
        """
        path = f"lookup/{escape_path(module)}@{escape_version(version)}"
        self._absent.check(path)
        found, joined = await self._lookups.join(path, lambda: self._lookup(path, module, version))
        if hold:
            await self._store.prove(module, version, self.proven(found.verdict))
        return found, joined

    async def latest(self) -> tuple[bytes, bool]:
        """The newest signed head, asked for now and found consistent; and whether another's request did."""
        return await self._bytes.join("latest", self._latest)

    async def tile(self, path: str) -> tuple[bytes, bool]:
        """A proven tile that is not stored, and whether it was another's request; Absent: not in the log."""
        return await self._bytes.join(path, lambda: self._tile(Tile.parse(path)))

    async def _lookup(self, path: str, module: str, version: str) -> Lookup:
        kept = await self._answer(path)
        if kept is not None:
            try:
                verdict = await self._prove(self._verifier.lookup(module, version, kept), "lookup")
                return Lookup(kept, verdict)
            except ContentError as error:
                log.error("stored lookup is bad", path=path, reason=error.sentence)
                await self._store.records.delete(self._key_of(path))

        async def check(data: bytes) -> Lookup:
            session = self._verifier.lookup(module, version, data)
            return Lookup(data, await self._prove(session, "lookup", {path: data}))

        try:
            return await self._carriers.fetch(path, check)
        except GoproxyError as error:
            if isinstance(error, Absent):
                # go treats both alike, but a client may want to know which it was.
                self._absent.add(path, error.sentence, error.as_said().status)
            await self._failed("lookup", error, path)
            raise

    def proven(self, verdict: LookupVerdict) -> Proven:
        """What this database has proven by it, for the index."""
        return Proven(verdict.hashes, self.name, verdict.number)

    async def _latest(self) -> bytes:
        async def check(data: bytes) -> Verdict:
            return await self._prove(self._verifier.latest(data), "head")

        try:
            verdict = await self._carriers.fetch("latest", check)
        except GoproxyError as error:
            await self._failed("head", error, "latest")
            raise
        self._save("latest", verdict.head)
        return verdict.head

    async def _tile(self, tile: Tile) -> bytes:
        if not self._verifier.covers(tile):
            await self.latest()
        try:
            verdict = await self._prove(self._verifier.tile(tile), "tile")
        except GoproxyError as error:
            await self._failed("tile", error, tile.path)
            raise
        if tile.level == DATA_LEVEL and tile == tile.full:
            self._save(tile.path, verdict.data)
        return verdict.data

    # Proof: bring the tiles that a session wants until it can finish, then keep what it has proven.

    async def _prove(
        self, session: _Provable[_V_co], kind: str, found: Mapping[str, bytes] | None = None
    ) -> _V_co:
        """``found``: what is to be stored with its tiles once it is proven."""
        attempt = 0
        while True:
            while wanted := session.wanted():
                if attempt == 0:
                    await self._look_up(wanted)
                await asyncio.gather(*(self._bring(session, tile, attempt) for tile in wanted))
            try:
                verdict = session.finish()  # no await since wanted() was empty
            except InconsistentTile as error:
                self._metrics.verification("tile", "malformed")
                log.error("inconsistent tile", database=self.name, tiles=error.paths, attempt=attempt)
                await self._forget(error.paths)
                attempt += 1
                if attempt > len(self._carriers):
                    raise
            else:
                self._metrics.verification(kind, "verified")
                await self._keep(verdict, found or {})
                return verdict

    async def _bring(self, session: _Provable[Verdict], tile: Tile, attempt: int) -> None:
        if tile.level != DATA_LEVEL and attempt == 0:
            kept = await self._stored_tile(tile)
            if kept is not None:
                session.feed(tile, kept[: tile.length])
                return
        key = f"{attempt} {tile.path}"  # a carrier that lied is not asked first again
        data, _ = await self._bytes.join(key, lambda: self._fetch_tile(tile, attempt))
        session.feed(tile, data)

    async def _fetch_tile(self, tile: Tile, attempt: int) -> bytes:
        try:
            return await self._carriers.fetch(tile.path, _as_long_as(tile), skip=attempt)
        except (Absent, Unproven, ContentError) as error:
            missing = Unproven(f"{tile.path}: {error.sentence}")
        if tile != tile.full and tile.level != DATA_LEVEL:
            # A partial tile that is gone is a prefix of the full one (PROTOCOL case 90).
            with contextlib.suppress(Absent, Unproven, ContentError):
                full = await self._carriers.fetch(tile.full.path, _as_long_as(tile.full), skip=attempt)
                return full[: tile.length]
        raise missing

    async def _keep(self, verdict: Verdict, found: Mapping[str, bytes]) -> None:
        """Store what was proven, the head last: it promises that its tiles are there."""
        self.history.note(self._verifier.size)
        for tile, data in verdict.tiles.items():
            if len(data) > len(await self._widest(tile.full)):
                self._tiles.keep(tile.full, data)
                self._save(tile.full.path, data)
        for path, data in found.items():
            self._save(path, data)
        if len(self._unsaved) > TILES:
            await self._saved()
        async with self._persisting:
            head = self._verifier.head
            if head is None or head == self._persisted:
                return
            dropped = self._dropped
            await self._saved()
            if self._dropped != dropped or any(path.startswith("tile/") for path in self._unsaved):
                return  # some of its tiles may be missing: the next one to be proven brings them
            try:
                await self._store.heads.write(self.name, head)
            except OSError as error:
                log.error("tree head cannot be stored", database=self.name, reason=str(error))
            else:
                self._persisted = head

    async def _look_up(self, tiles: Sequence[Tile]) -> None:
        """Have those that are stored in memory, asked for together."""
        places = [
            tile.full
            for tile in tiles
            if tile.level != DATA_LEVEL
            and tile.full not in self._tiles
            and tile.full.path not in self._unsaved
        ]
        if len(places) < 2:
            return
        dropped = self._dropped
        found = await self._store.records.get_all([self._key_of(place.path) for place in places])
        if self._dropped == dropped:
            for place in places:
                if place not in self._tiles and place.path not in self._unsaved:
                    self._tiles.keep(place, found.get(self._key_of(place.path), b""))

    async def _stored_tile(self, tile: Tile) -> bytes | None:
        data = await self._widest(tile.full)
        return data if len(data) >= tile.length else None

    async def _widest(self, place: Tile) -> bytes:
        """As much of a tile as is stored; nothing else writes there, so that it is looked up once."""
        data = self._tiles.get(place)
        if data is None:
            dropped = self._dropped
            data = await self._answer(place.path) or b""
            if self._dropped == dropped:
                self._tiles.keep(place, data)
        return data

    def _save(self, path: str, data: bytes) -> None:
        """Store an answer soon, with others: no client waits for the disk."""
        self._unsaved[path] = data
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_all())

    async def _save_all(self) -> None:
        while batch := dict(self._unsaved):
            found = {self._key_of(path): data for path, data in batch.items()}
            if not await self._store.records.keep(found):
                # They go with the next ones; not all of them, if the disk stays as it is.
                self._gone([self._key_of(path) for path in list(self._unsaved)[:-TILES]])
                return
            for path, data in batch.items():
                if self._unsaved.get(path) is data:
                    del self._unsaved[path]

    async def _saved(self) -> None:
        """Wait until what was to be stored is."""
        if self._unsaved and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save_all())  # what failed before
        if self._saving is not None:
            await asyncio.shield(self._saving)

    async def _forget(self, paths: tuple[str, ...]) -> None:
        for path in paths:
            place = Tile.parse(path).full
            self._tiles.forget(place)
            self._unsaved.pop(place.path, None)
            await self._store.records.delete(self._key_of(place.path))

    async def _answer(self, path: str) -> bytes | None:
        if (unsaved := self._unsaved.get(path)) is not None:
            return unsaved
        return await self._store.records.get(self._key_of(path))

    def _key_of(self, path: str) -> str:
        return f"{self.name}/{path}"

    def _gone(self, keys: Sequence[str]) -> None:
        """What is not on disk is not remembered as if it were, nor is the head that promises it."""
        prefix = f"{self.name}/"
        for path in (key.removeprefix(prefix) for key in keys if key.startswith(prefix)):
            self._unsaved.pop(path, None)
            if path.startswith("tile/"):
                self._tiles.forget(Tile.parse(path).full)
        self._persisted = None
        self._dropped += 1

    async def _failed(self, kind: str, error: GoproxyError, path: str) -> None:
        """Count and log; keep the evidence of a fork (PROTOCOL case 96)."""
        absent = isinstance(error, Absent | Unconfirmed)
        outcomes = ((ForkError, "fork"), (ContentError, "malformed"))
        outcome = next((name for family, name in outcomes if isinstance(error, family)), "unavailable")
        outcome = "absent" if absent else outcome
        self._metrics.verification(kind, outcome)
        if isinstance(error, ForkError):
            evidence = await self._keep_fork(error)
            log.error("fork", database=self.name, path=path, reason=error.sentence, evidence=evidence)
        elif not isinstance(error, Absent):
            # No warning: each client that is told has one of its own.
            log.info("not proven", database=self.name, path=path, reason=error.sentence)

    async def _keep_fork(self, fork: ForkError) -> str:
        """Where the evidence lies; a disk that fails must not hide the fork itself."""
        try:
            kept = await self._store.heads.keep_fork(self.name, fork.report, fork.older, fork.newer)
        except OSError as error:
            return f"not kept: {error}; {fork.report}"
        return str(kept) if kept is not None else "as kept before"


def _as_long_as(tile: Tile) -> Callable[[bytes], Awaitable[bytes]]:
    """A check that refuses a hash tile of a wrong length (case 92), so that another source is asked."""

    async def check(data: bytes) -> bytes:
        if tile.level != DATA_LEVEL and len(data) != tile.length:
            raise ContentError(f"{tile.path} has {len(data)} bytes; expected {tile.length}")
        return data

    return check
