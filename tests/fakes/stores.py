"""A store in a directory of its own, with nothing going on by itself, and files of any size in it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

from goproxy_vm.cache.facts import Removal, Selection
from goproxy_vm.cache.layout import free_bytes
from goproxy_vm.cache.opening import Parts, begin_work, open_parts
from goproxy_vm.cache.recency import begin_clock
from goproxy_vm.cache.rows import Victim
from goproxy_vm.cache.store import Store
from goproxy_vm.cache.threads import Threads
from goproxy_vm.config import Settings
from goproxy_vm.config.values import Amount
from goproxy_vm.protocol.artifact import Artifact, Kind

BLOCK = 4096
NOTHING_FREE = Amount(0, None)
FAILS = "BEGIN DELETE FROM nothing_of_the_kind; END"
"""The body of a trigger with which a statement ends as on a failing disk."""


def artifact(path: str) -> Artifact:
    """The file of a version with that path, whose module need not be a domain's."""
    module, _, name = path.partition("/@v/")
    version, _, kind = name.rpartition(".")
    return Artifact(module, version, Kind(kind), path)


async def purge(store: Store, selection: Selection, *, forget_hash: bool, dry_run: bool) -> Removal:
    """As the admin API does it, where nothing above the store has to forget anything."""
    chosen = await store.purges.choose(selection, forget_hash=forget_hash, dry_run=dry_run)
    if dry_run:
        return await store.purges.foretell(chosen)
    return await store.purges.remove(chosen)


async def purge_versions(
    store: Store, module: str, version: str | None, *, forget_hash: bool, dry_run: bool
) -> Removal:
    """As :func:`purge`, one version, or all of a module."""
    chosen = await store.purges.choose_versions(module, version, forget_hash=forget_hash, dry_run=dry_run)
    if dry_run:
        return await store.purges.foretell(chosen)
    return await store.purges.remove(chosen)


class OpenStore(Store):
    """A store of whose pieces tests know."""

    def __init__(self, parts: Parts, settings: Settings, exits: AsyncExitStack) -> None:
        super().__init__(parts, settings, exits)
        self.parts = parts
        self.core = parts.core


class Time:
    """The host's monotonic clock, which a test may put forward, and stop."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.stopped: float | None = None

    def __call__(self) -> float:
        return (time.monotonic() if self.stopped is None else self.stopped) + self.offset

    def stop(self) -> None:
        self.stopped = time.monotonic()


@contextmanager
def held_up(threads: Threads) -> Iterator[threading.Event]:
    """Have what is asked of one thread from here on wait until the event is set."""
    go_on = threading.Event()
    threads.executor.submit(go_on.wait)
    try:
        yield go_on
    finally:
        go_on.set()


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.evictions: list[tuple[str, int, float | None]] = []
        self.read = 0
        self.corrupted = 0

    def eviction(self, reason: str, size: int, idle_seconds: float | None) -> None:
        self.evictions.append((reason, size, idle_seconds))

    def scrubbed(self, size: int) -> None:
        self.read += size

    def corrupt(self) -> None:
        self.corrupted += 1


class Shop:
    """An open store and its pieces; ``told`` is its observer, ``time`` its clock."""

    def __init__(self, store: OpenStore, told: Told, time: Time) -> None:
        self.store = store
        self.told = told
        self.time = time
        self.parts = parts = store.parts
        self.core = parts.core
        self.janitor = parts.janitor
        self.control = parts.control
        self.scrub = parts.scrub
        self.quarantine = parts.quarantine
        self.root = self.core.layout.root
        self.modules = self.core.layout.modules

    async def put(self, *names: str, kind: str = "zip", blocks: int = 1, h1: str = "h1:x") -> None:
        """Store files, named by module and version, one after the other; each is committed."""
        for name in names:
            data = os.urandom(blocks * BLOCK - 1)
            path = self.path(name, kind)
            known = None if kind == "info" else h1
            (await self.store.put(artifact(path), data, h1=known)).close()
            await self.settled()

    async def settled(self) -> None:
        """Whatever was put is on record."""
        await self.core.queue.flushed()

    async def touch(self, *names: str, kind: str = "zip") -> None:
        """Ask for files."""
        for name in names:
            stored = await self.store.get(artifact(self.path(name, kind)))
            assert stored is not None, name
            stored.close()

    def later(self, seconds: float) -> None:
        """Let time pass, by the logical clock."""
        self.time.offset += seconds

    def path(self, name: str, kind: str = "zip") -> str:
        module, _, version = name.partition("@")
        return f"{module}/@v/{version or 'v1.0.0'}.{kind}"

    def file(self, name: str, kind: str = "zip") -> Path:
        return self.modules / self.path(name, kind)

    def files(self) -> list[str]:
        """What lies in modules/."""
        return sorted(
            str(path.relative_to(self.modules)).replace("/@v/", "@")
            for path in self.modules.rglob("*")
            if not path.is_dir() or path.is_symlink()
        )

    def zips(self) -> str:
        """The modules of which a zip is stored."""
        return "".join(name.partition("@")[0] for name in self.files() if name.endswith(".zip"))

    def victim(self, name: str, kind: str = "zip") -> Victim:
        """The row of a file, read by nobody's thread."""
        future = self.core.database.executor.submit(self.core.index.of_path, self.path(name, kind))
        return future.result()[0]

    async def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Ask, or break, the index, by a connection of another's, between two jobs of its writer."""

        def execute() -> list[tuple[object, ...]]:
            with closing(sqlite3.connect(self.core.layout.index, isolation_level=None)) as database:
                return database.execute(statement).fetchall()

        return await asyncio.wrap_future(self.core.database.executor.submit(execute))

    def consistent(self) -> None:
        """The usage is what the index says, and the index what the disk says."""
        found = self.core.database.executor.submit(self.core.index.sums).result()
        kinds: dict[str, int] = {"info": 0, "mod": 0, "zip": 0}
        for each in found:
            kinds[each.kind] += each.bytes
        assert self.core.usage.sizes == kinds
        assert self.core.usage.pinned == sum(
            each.bytes for each in found if each.pinned and each.kind == "zip"
        )
        on_disk = sum(path.stat().st_blocks * 512 for path in self.modules.rglob("*") if path.is_file())
        assert self.core.usage.used == on_disk


@asynccontextmanager
async def open_shop(
    root: Path,
    *,
    boot: str = "b",
    still: bool = True,
    free: Callable[[Path], int] = free_bytes,
    told: Told | None = None,
    **given: object,
) -> AsyncIterator[Shop]:
    """Open a store; keywords are settings, ``max_size`` in blocks. ``still``: nothing works in the
    background. ``free`` as for a store; ``told`` is its observer."""
    blocks = given.pop("max_size", 1 << 20)
    assert isinstance(blocks, int)
    plain: dict[str, object] = {
        "max_size": Amount(blocks * BLOCK, None),
        "min_free": NOTHING_FREE,
        "janitor_interval": 3600.0,
        "scrub_interval": 0.0,
    }
    settings = Settings(cache_dir=root, **{**plain, **given})  # type: ignore[arg-type]  # by name
    told, clock = told or Told(), Time()
    async with AsyncExitStack() as stack:
        parts = await open_parts(
            stack,
            root,
            settings,
            lock_wait=0,
            checkpoint=None,
            observer=told,
            boot=boot,
            begin=partial(begin_clock, monotonic=clock),
            free=free,
        )
        if not still:
            begin_work(stack, parts, settings)
        yield Shop(OpenStore(parts, settings, stack), told, clock)
