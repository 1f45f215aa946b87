"""How old a version provably is, for the setting ``min_age``.

A version's time is the committer's to choose. What counts is for how long its hash has been where everybody
could see it: in the log of the checksum database, by heads of which this host, or its release, has noted when
they were there; or on record here. Each error goes one way, and makes it younger.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from goproxy_vm.config.sumdb import GOOGLE_KEY
from goproxy_vm.errors import GoproxyError, NoRecord
from goproxy_vm.lru import Lru
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.anchors import shipped
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import LONGEST_INFO, commit_time, minimal_info
from goproxy_vm.protocol.growth import Growth
from goproxy_vm.sumdb.history import EARLIEST

if TYPE_CHECKING:
    from goproxy_vm.cache.rows import Sight
    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.sumdb.history import HeadHistory
    from goproxy_vm.sumdb.proof import Proofs
    from goproxy_vm.upstream.dates import DatedClock

KEPT = 50_000
"""Versions of which it is kept in memory that they are old enough, and as many numbers of records."""
LINES = 4
"""Minor versions, the newest ones, whose newest versions are judged before a list is offered."""
LOOKUPS = 16
"""Versions that are looked up for one list."""
BEGINNING = 7200.0
"""Seconds from the first head noted that count as this host's beginning: the first ones may be stale."""

Evidence = Literal["exempt", "seen", "log", "shipped", "time", "unlogged"]
"""What an age is known by. ``exempt``: none is asked for. ``seen``: its hash, or it, was on record here.
``log``: a head that this host noted, ``shipped``: one that came with the release, has its record. ``time``:
the commit's time alone, which proves nothing. ``unlogged``: as ``log``, of one that was committed long ago,
and that nobody has looked up in the checksum database until lately."""

_LINE = re.compile(r"(v[0-9]+\.[0-9]+)\.")


@dataclass(frozen=True, slots=True)
class Age:
    """How old a version is, and whether that is old enough (``passes``). Times are epoch seconds.

    ``seconds``: its age by the ``evidence``; None where nothing bounds it, so that it may be any.
    ``number``: that of its record in the log; ``noted``: since when the evidence is there; ``passes_after``:
    when it will be old enough, as far as can be told; ``committed``: what its ``.info`` says, where that was
    looked at.
    """

    passes: bool
    evidence: Evidence
    seconds: float | None = None
    number: int | None = None
    noted: float | None = None
    passes_after: float | None = None
    committed: float | None = None


@dataclass(frozen=True, slots=True)
class Aging:
    """How old versions must be, and how long ago the checksum database's log last grew, in seconds; 0 where
    there is no such database."""

    min_age: float
    head_age: float


class Ages:
    """Which versions are older than ``min_age``; :meth:`change` puts another one into force."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        proofs: Proofs,
        clock: DatedClock,
        history: HeadHistory | None,
        *,
        anchors: Growth | None = None,
        info: Callable[[str, str], Awaitable[bytes]] | None = None,
        kept: int = KEPT,
    ) -> None:
        """``history`` is that of the checksum database, None without one. ``anchors`` came with the release,
        by default those of sum.golang.org where that is asked. ``info`` brings the ``.info`` of a version
        that is not stored, and may raise GoproxyError; by default nobody does. So many versions are ``kept``
        in memory."""
        self._store = store
        self._proofs = proofs
        self._clock = clock
        self._history = history
        googles = settings.sumdb is not None and settings.sumdb.vkey == GOOGLE_KEY
        self._anchors = anchors if anchors is not None else shipped() if googles else Growth()
        self._info = info
        self._old: Lru[tuple[str, str], None] = Lru(kept)
        self._numbers: Lru[tuple[str, str], int] = Lru(kept)
        self._sights: Lru[tuple[str, str], Sight] = Lru(kept)
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """From now on ``min_age`` and the settings beside it count as they are there."""
        self._settings = settings
        self._least = settings.min_age
        self._old.clear()

    @property
    def on(self) -> bool:
        """Whether any version may be too young."""
        return self._least > 0

    @property
    def aging(self) -> Aging:
        """For the metrics."""
        return Aging(self._least, 0.0 if self._history is None else self._history.idle_seconds)

    def exempt(self, module: str, version: str) -> bool:
        """Whether a version passes at any age, by the settings."""
        if not self.on or any(rule.covers(module, version) for rule in self._settings.min_age_exempt):
            return True
        return self._proofs.exempt(module) and not self._settings.min_age_private

    def passes(self, module: str, version: str) -> bool:
        """Whether a version is known to pass, which costs nothing; False says nothing."""
        return not self.on or (module, version) in self._old or self.exempt(module, version)

    async def judge(self, module: str, version: str, *, bring: bool = False) -> Age:
        """How old a version is. What was old enough once stays so. ``bring`` its ``.info`` where all depends
        on its commit's time.

        NoRecord: the checksum database has no record of it. Unproven: it could not be looked up now.
        Unavailable: the index cannot be read.
        """
        if self.passes(module, version):
            return Age(True, "exempt" if self.exempt(module, version) else "seen")
        age = await self._judged(module, version, bring=bring)
        if age.passes:
            self._old.keep((module, version), None)
        return age

    async def young(self, module: str, versions: Sequence[str]) -> dict[str, Age | None]:
        """Versions of a list that are not to be offered, for they are too young; None as the age of those
        that could not be looked up now. ``versions`` are in their order.

        Looked at are the newest minor versions, from the top of each to the first that is old enough, and
        no more than ``LOOKUPS`` that have to be looked up. What is young below that stays in the list, and is
        refused as a file.
        """
        if not self.on:
            return {}
        found: dict[str, Age | None] = {}
        left = LOOKUPS

        async def walk(line: Iterable[str]) -> None:
            nonlocal left
            for version in line:
                if self.passes(module, version):
                    return
                if not await self._at_hand(module, version):
                    if not left:
                        return
                    left -= 1
                try:
                    age: Age | None = await self.judge(module, version)
                except NoRecord:
                    continue  # who asks for it is told what that means
                except GoproxyError:
                    age = None
                if age is not None and age.passes:
                    return
                found[version] = age

        await asyncio.gather(*(walk(line) for line in _lines(versions)[:LINES]))
        return found

    async def _at_hand(self, module: str, version: str) -> bool:
        """Whether judging it takes no look-up at the database."""
        if (module, version) in self._numbers or not self._proofs.recorded(module):
            return True
        return await self._proofs.number_at_hand(module, version) is not None

    async def _judged(self, module: str, version: str, *, bring: bool) -> Age:
        known = await self._store.known(module, version)
        then = self._clock.earliest() - self._least
        seen = known.zip_seen if known.zip_seen is not None and known.zip_seen >= EARLIEST else None
        if seen is not None and seen <= then:
            return self._age("seen", seen)
        if self._history is None or not self._proofs.recorded(module):
            return await self._by_sight(module, version, seen, bring=bring)
        number = await self._number(module, version)
        return await self._by_log(module, version, number, seen, self._history.growth, bring=bring)

    async def _number(self, module: str, version: str) -> int:
        number = self._numbers.get((module, version))
        if number is None:
            number = await self._proofs.number(module, version)
            self._numbers.keep((module, version), number)
        return number

    async def _by_log(
        self, module: str, version: str, number: int, seen: float | None, growth: Growth, *, bring: bool
    ) -> Age:
        places: list[tuple[float, Evidence]] = []
        if (noted := growth.logged_before(number)) is not None:
            places.append((noted, "log"))
        if (anchor := self._anchors.logged_before(number)) is not None:
            places.append((anchor, "shipped"))
        if seen is not None:
            places.append((seen, "seen"))
        now = self._clock.earliest()
        then = now - self._least
        since: float | None = None
        evidence: Evidence = "log"
        if places:
            since, evidence = min(places)
            if since <= then:
                return self._age(evidence, since, number=number)
        before_us = _before_us(growth, number, now)
        new_here = growth.first is None or growth.first > then
        unproven = before_us and new_here and number >= self._anchors.size
        by_time = unproven and self._settings.min_age_unproven == "time"
        committed = await self._committed(module, version, bring=bring and by_time)
        if committed is not None and by_time:
            age = self._age("time", min(committed, now), number=number, committed=committed)
            if age.passes or since is None or committed < since:
                return age
        bounded = evidence == "shipped" or not before_us
        if bounded and committed is not None and committed <= then:
            evidence = "unlogged"
        return self._age(evidence, since, number=number, committed=committed, bounded=bounded)

    async def _by_sight(self, module: str, version: str, seen: float | None, *, bring: bool) -> Age:
        """Of what no checksum database knows: since when it is known here."""
        sight = self._sights.get((module, version))
        if sight is None:
            sight = await self._store.first_sight(module, version, self._clock.latest())
            self._sights.keep((module, version), sight)
        first = sight.seen if seen is None else min(sight.seen, seen)
        age = self._age("seen", first)
        now = self._clock.earliest()
        if age.passes or self._settings.min_age_unproven != "time" or sight.since <= now - self._least:
            return age
        committed = await self._committed(module, version, bring=bring)
        return age if committed is None else self._age("time", min(first, committed), committed=committed)

    def _age(
        self,
        evidence: Evidence,
        since: float | None,
        *,
        number: int | None = None,
        committed: float | None = None,
        bounded: bool = True,
    ) -> Age:
        now = self._clock.earliest()
        if since is None:
            return Age(False, evidence, None, number, None, now + self._least, committed)
        passes = since <= now - self._least
        seconds = max(0.0, now - since) if bounded or passes else None
        return Age(passes, evidence, seconds, number, since, since + self._least, committed)

    async def _committed(self, module: str, version: str, *, bring: bool) -> float | None:
        if semver.pseudo(version):
            return commit_time(minimal_info(version))
        try:
            return commit_time(await self._info_of(module, version, bring=bring))
        except GoproxyError:
            return None

    async def _info_of(self, module: str, version: str, *, bring: bool) -> bytes:
        stored = await self._store.get(Artifact.of(module, version, Kind.INFO), asked=False)
        if stored is not None:
            with stored:
                return await asyncio.to_thread(stored.pread, 0, LONGEST_INFO)
        return await self._info(module, version) if bring and self._info is not None else b""


def _before_us(growth: Growth, number: int, now: float) -> bool:
    """Whether a record may have been in the log before this host began to note heads, and be of any age."""
    if growth.first is None or now < growth.first + BEGINNING:
        return True
    return number < growth.size_at(growth.first + BEGINNING)


def _lines(versions: Sequence[str]) -> list[list[str]]:
    """The versions by major and minor number, the newest ones first in all and in each."""
    lines: dict[str, list[str]] = {}
    for version in reversed(versions):
        match = _LINE.match(version)
        if match is not None:
            lines.setdefault(match[1], []).append(version)
    return list(lines.values())
