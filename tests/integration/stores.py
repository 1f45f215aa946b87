"""Stores without a server, for tests of what they do to the disk."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from goproxy_vm.cache.recency import begin_clock
from goproxy_vm.config import Settings
from goproxy_vm.config.values import Amount
from tests.fakes.stores import OpenStore, artifact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.database import Database
    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.cache.store import Store

V = "v1.0.0"


async def open_store(
    root: Path,
    *,
    boot: str | None = None,
    checkpoint: Any = None,
    begin: Callable[[Database], LogicalClock] = begin_clock,
    **settings: Any,
) -> OpenStore:
    """A store with these settings, and no minimum of free disk."""
    given = Settings(cache_dir=root, **{"min_free": Amount(0, None), **settings})
    return await OpenStore.open(root, given, lock_wait=0, boot=boot, checkpoint=checkpoint, begin=begin)


@asynccontextmanager
async def opened(root: Path, **options: Any) -> AsyncIterator[OpenStore]:
    """As :func:`open_store`, for a block."""
    store = await open_store(root, **options)
    try:
        yield store
    finally:
        await store.close()


def module(i: int) -> str:
    return f"example.com/m{i}"


def path(i: int, kind: str = "zip") -> str:
    return f"{module(i)}/@v/{V}.{kind}"


async def adopt(store: Store, i: int, data: bytes, *, h1: str | None = None) -> StoredFile:
    """Store a zip of module ``i``."""
    download = store.download()
    try:
        await download.begin(len(data))
        await download.write(data)
        return await store.adopt(artifact(path(i)), download, h1=h1 or f"h1:{i}")
    finally:
        await download.discard()


async def content(store: Store, i: int, kind: str = "zip") -> bytes | None:
    """What is served for module ``i``."""
    stored = await store.get(artifact(path(i, kind)))
    if stored is None:
        return None
    with stored:
        return stored.pread(0, stored.length + 1)


async def drained(store: Store) -> None:
    """Until everything queued is on record."""
    while store.uncommitted:
        await asyncio.sleep(0)
