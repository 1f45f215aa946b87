"""What files and records come from, opened together: upstreams, version control, the checksum database."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.background import cancel, supervised
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import match_prefix_patterns
from goproxy_vm.sumdb.carriers import Carriers
from goproxy_vm.sumdb.client import ChecksumDatabase
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.chain import Upstreams
from goproxy_vm.upstream.dates import DatedClock
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.spec import PRIVATE, parse_upstreams

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.upstream.direct.dial import Roads
    from goproxy_vm.upstream.source import Source
    from goproxy_vm.upstream.spec import UpstreamList
    from goproxy_vm.upstream.upstream import Pace
log = get_logger("server")

NOTE = "private"
"""The file below the cache directory that has the patterns of private modules as of the last start."""
LOOK_SECONDS = 2.0
"""Seconds between two looks at the room on the disk."""


@dataclass(frozen=True, slots=True)
class Sources:
    """``upstreams`` are those of the setting of that name, ``private`` what private modules come from,
    ``database`` the checksum database and ``vulndb`` the vulnerability database; None where the settings name
    none."""

    upstreams: Upstreams
    private: Upstreams | None
    direct: Direct | None
    database: ChecksumDatabase | None
    vulndb: Upstreams | None

    @classmethod
    async def open(
        cls,
        stack: AsyncExitStack,
        settings: Settings,
        store: Store,
        slots: FairSlots,
        metrics: Metrics,
        name: str,
        roads: Roads,
        pace: Pace | None = None,
        clock: DatedClock | None = None,
    ) -> Sources:
        """Open what the settings name; ``stack`` closes it. ``name`` is this server's in CDN-Loop; ``roads``
        lead to version control; ``pace`` is the clock by which upstreams are tried again, ``clock`` tells the
        time, and hears what they say of it.

        StartError: something that a setting needs is missing, or cannot be used.
        """
        await settle(store, settings)
        opening = _Opening(stack, settings, metrics, name, roads, pace, clock or DatedClock())
        direct = await opening.direct(store)
        listed = parse_upstreams(settings.upstream)
        upstreams = await opening.upstreams(listed, direct=direct.source(private=False) if direct else None)
        private = None
        if settings.private:
            private = await opening.upstreams(PRIVATE, direct=direct.source(private=True) if direct else None)
        vulndb = None
        if settings.vulndb:
            vulndb = await opening.upstreams(parse_upstreams(settings.vulndb), database=True)
        return cls(upstreams, private, direct, await opening.database(store, upstreams, slots), vulndb)


@dataclass(frozen=True, slots=True)
class _Opening:
    stack: AsyncExitStack
    settings: Settings
    metrics: Metrics
    name: str
    roads: Roads
    pace: Pace | None
    clock: DatedClock

    async def upstreams(
        self,
        listed: UpstreamList,
        *,
        database: bool = False,
        probe: bool = True,
        direct: Source | None = None,
    ) -> Upstreams:
        settings = self.settings
        timeouts = Timeouts(settings.connect_timeout, settings.stall_timeout, settings.total_timeout)
        found = Upstreams(
            listed,
            timeouts,
            self.metrics,
            self.name,
            ca_file=settings.upstream_ca_file,
            database=database,
            pace=self.pace,
            direct=direct,
            clock=self.clock,
        )
        if not settings.offline:
            await found.start(probe=probe)
        self.stack.push_async_callback(found.close)
        return found

    async def direct(self, store: Store) -> Direct | None:
        """What fetches from version control, where a setting has it do so."""
        settings = self.settings
        if settings.offline or not (settings.private or parse_upstreams(settings.upstream).direct):
            return None
        options = await asyncio.to_thread(Options.of, settings)

        async def known_mod(module: str, version: str) -> str:
            return (await store.known(module, version)).mod or ""

        processes = settings.direct_processes
        direct = Direct(
            options,
            FairSlots(processes, parts=2),
            # Whoever may have no private modules does not keep all processes from those who may.
            public=FairSlots(max(1, processes - 1), parts=2),
            room=await self._room(store),
            known_mod=known_mod,
            roads=self.roads,
        )
        await direct.start()
        self.stack.push_async_callback(direct.close)
        return direct

    async def database(self, store: Store, upstreams: Upstreams, slots: FairSlots) -> ChecksumDatabase | None:
        """The checksum database: through the upstreams, and itself last; an explicit URL is asked alone."""
        spec = self.settings.sumdb
        if spec is None:
            return None
        # What the upstreams carry need not be within reach itself: no trial connection, no warning.
        itself = await self.upstreams(
            parse_upstreams(spec.url or f"https://{spec.name}"),
            database=True,
            probe=spec.url is not None,
        )
        carriers = Carriers(spec.name, None if spec.url else upstreams, itself, slots)
        database = ChecksumDatabase(spec, self.settings, store, carriers, self.metrics, self.clock)
        await database.open()
        self.stack.push_async_callback(database.close)
        if not self.settings.offline:
            noting = partial(database.history.run, database.latest)
            task = asyncio.create_task(supervised(noting), name="newest-head")
            self.stack.push_async_callback(cancel, task)
        return database

    async def _room(self, store: Store) -> Callable[[], bool]:
        """What tells whether the disk has more than ``min_free`` left, as of some seconds ago."""
        has_room = await asyncio.to_thread(store.has_room)

        async def look() -> None:
            nonlocal has_room
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                has_room = await asyncio.to_thread(store.has_room)

        task = asyncio.create_task(supervised(look), name="room")
        self.stack.push_async_callback(cancel, task)
        return lambda: has_room


async def settle(store: Store, settings: Settings) -> None:
    """Let go of lists and absences of the modules that have become private, or are not any more, since the
    last start: somebody else has said them. What is stored of them stays."""
    note = settings.cache_dir / NOTE
    before = await asyncio.to_thread(_noted, note)
    if before == settings.private:
        return

    def moved(module: str, _version: str) -> bool:
        was, now = (match_prefix_patterns(patterns, module) for patterns in (before, settings.private))
        return was != now

    for module in await store.answers.modules(moved):
        await store.answers.drop(module)
    log.warning(
        "private modules changed",
        before=before,
        now=settings.private,
        consequence="what is stored of others stays: purge what is not to be served as it is",
    )
    await asyncio.to_thread(_write_down, note, settings.private)


def _noted(note: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return note.read_text("utf-8")
    return ""


def _write_down(note: Path, patterns: str) -> None:
    root = note.parent
    try:
        tree.write(patterns.encode(), note, root, root / "tmp")
    except OSError as error:  # it is done again at the next start
        log.warning("note of private modules not written", reason=error.strerror or str(error))
