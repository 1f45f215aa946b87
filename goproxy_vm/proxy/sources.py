"""What files and records come from, opened together: upstreams, version control, the checksum database."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.sumdb.carriers import Carriers
from goproxy_vm.sumdb.client import ChecksumDatabase
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.chain import Upstreams
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.spec import PRIVATE, parse_upstreams

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.upstream.direct.dial import Roads
    from goproxy_vm.upstream.source import Source
    from goproxy_vm.upstream.spec import UpstreamList
    from goproxy_vm.upstream.upstream import Pace


@dataclass(frozen=True, slots=True)
class Sources:
    """``upstreams`` are those of the setting of that name, ``private`` what private modules come from, and
    ``database`` the checksum database, None where the settings name none."""

    upstreams: Upstreams
    private: Upstreams | None
    direct: Direct | None
    database: ChecksumDatabase | None

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
    ) -> Sources:
        """Open what the settings name; ``stack`` closes it. ``name`` is this server's in CDN-Loop; ``roads``
        lead to version control; ``pace`` is the clock by which upstreams are tried again.

        StartError: something that a setting needs is missing, or cannot be used.
        """
        opening = _Opening(stack, settings, metrics, name, roads, pace)
        direct = await opening.direct(store)
        listed = parse_upstreams(settings.upstream)
        upstreams = await opening.upstreams(listed, direct=direct.source(private=False) if direct else None)
        private = None
        if settings.private:
            private = await opening.upstreams(PRIVATE, direct=direct.source(private=True) if direct else None)
        return cls(upstreams, private, direct, await opening.database(store, upstreams, slots))


@dataclass(frozen=True, slots=True)
class _Opening:
    stack: AsyncExitStack
    settings: Settings
    metrics: Metrics
    name: str
    roads: Roads
    pace: Pace | None

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

        direct = Direct(
            options,
            FairSlots(settings.direct_processes, parts=2),
            room=partial(_has_room, settings),
            known_mod=known_mod,
            look_up=self.roads.look_up,
            connect=self.roads.connect,
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
        database = ChecksumDatabase(spec, self.settings, store, carriers, self.metrics)
        await database.open()
        self.stack.push_async_callback(database.close)
        return database


def _has_room(settings: Settings) -> bool:
    """Whether the disk has more than ``min_free`` left."""
    facts = os.statvfs(settings.cache_dir)
    total = facts.f_blocks * facts.f_frsize
    return facts.f_bavail * facts.f_frsize > settings.min_free.of(total)
