"""An index.db that is damaged by whatever: no start ends with it, and a clean restart heals it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.facts import Listing
from goproxy_vm.cache.store import Store
from goproxy_vm.config.values import Amount
from goproxy_vm.errors import Unavailable
from tests.fakes.disk import allocated
from tests.fakes.lines import logged
from tests.fakes.stores import artifact, purge_versions
from tests.hostile.conftest import LARGE
from tests.integration.stores import V, adopt, content, module, opened, path

if TYPE_CHECKING:
    from pathlib import Path

MODULES = 12
SIZE = 30_000
BUDGET = {"max_size": Amount(17 * 32_768, None), "high_water": 99.0, "low_water": 98.0}
"""Room for some more zips than are stored."""
WITHIN = 20.0
"""Seconds that a step of a damaged store may take."""
PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache as a clean end leaves it, with something in every table."""
    root = tmp_path_factory.mktemp("sound") / "cache"

    async def fill() -> None:
        async with opened(root, **BUDGET) as store:
            for i in range(MODULES):
                (await adopt(store, i, bytes([i]) * SIZE)).close()
                mod = await store.put(artifact(path(i, "mod")), b"module m\n", h1=f"h1:m{i}")
                mod.close()
            await store.control.pin(f"{module(0)}@*")
            await store.control.evict(0, dry_run=True)
            await store.control.evict(1 << 40, dry_run=False)
            await store.control.snapshot("before")

    asyncio.run(fill())
    return root


def damage(index: Path, chance: random.Random) -> str:
    """Damage a database in one of many ways; which."""
    data = bytearray(index.read_bytes())
    pages = len(data) // PAGE
    way = chance.choice(["page", "page", "bytes", "zeros", "cut", "swap", "header", "text"])
    if way == "page":
        at = chance.randrange(1, pages) * PAGE
        data[at : at + PAGE] = chance.randbytes(PAGE)
    elif way == "zeros":
        at = chance.randrange(pages) * PAGE
        data[at : at + PAGE] = bytes(PAGE)
    elif way == "cut":
        del data[chance.randrange(1, pages) * PAGE :]
    elif way == "swap":
        one, other = (chance.randrange(1, pages) * PAGE for _ in range(2))
        data[one : one + PAGE], data[other : other + PAGE] = (
            data[other : other + PAGE],
            data[one : one + PAGE],
        )
    elif way == "header":
        for _ in range(4):
            data[chance.randrange(16, 100)] = chance.randrange(256)
    else:
        places = (
            [at for at, byte in enumerate(data) if 97 <= byte <= 122] if way == "text" else range(len(data))
        )
        for at in chance.sample(places, 60):
            data[at] = chance.randrange(128, 256)
    index.write_bytes(data)
    return way


async def used(store: Store) -> None:
    """What a server does with a store, as far as it goes: errors are those that are told to clients."""
    with contextlib.suppress(Unavailable):
        for i in range(MODULES):
            await content(store, i)
            await store.known(module(i), V)
    for number in (50, 51, 52, 53, 54, 55):
        with contextlib.suppress(Unavailable):
            (await adopt(store, number, bytes([number]) * SIZE)).close()
    for work in (
        lambda: store.control.versions(Listing(limit=100)),
        lambda: purge_versions(store, module(1), None, forget_hash=True, dry_run=False),
        lambda: store.control.evict(None, dry_run=False),
        store.control.pins,
        lambda: store.control.pin("example.com/new*"),
        lambda: store.control.passes(100),
        lambda: store.control.difference("before", "now"),
        store.figures.status,
    ):
        with contextlib.suppress(sqlite3.Error):
            await work()
    await store.core.queue.flushed()


async def recovered(store: Store) -> None:
    async def prove(name: str) -> bool | None:
        h1 = f"h1:{'m' if name.endswith('mod') else ''}{name.partition('/@')[0][len('example.com/m') :]}"
        with contextlib.suppress(Unavailable):
            claimed = await store.strays.claim(name, h1=h1, module=name.partition("/@")[0], version=V)
            if claimed is not None:
                claimed.close()
        return True

    store.recover(prove)
    while not store.recovery.done:
        await asyncio.sleep(0.001)


async def heals(root: Path) -> None:
    """Two runs with clean ends, and the third is as good as new."""
    for _ in range(2):
        async with asyncio.timeout(WITHIN), opened(root, **BUDGET) as store:
            await recovered(store)
            await used(store)
    async with asyncio.timeout(WITHIN), opened(root, **BUDGET) as store:
        await recovered(store)
        assert store.usage.used == allocated(root / "modules")
        for number in range(60, 64):
            (await adopt(store, number, bytes([number]) * SIZE)).close()
        await store.core.queue.flushed()
        assert await content(store, 63) == bytes([63]) * SIZE
        assert store.usage.used == allocated(root / "modules") <= 17 * 32_768
        assert len((await store.control.versions(Listing(limit=100))).items) >= 10


@pytest.mark.parametrize("seed", range(80 if LARGE else 24))
async def test_a_damaged_index_heals_over_clean_restarts(sound: Path, tmp_path: Path, seed: int) -> None:
    root = tmp_path / "cache"
    shutil.copytree(sound, root)
    damage(root / "index.db", random.Random(seed))
    await heals(root)


VALUES = {
    "kind": "UPDATE files SET kind = 'exe' WHERE module LIKE '%m3'",
    "all kinds": "UPDATE files SET kind = 'exe'",
    "path": "UPDATE files SET path = '../../' || path WHERE module LIKE '%m3'",
    "path of another kind": "UPDATE files SET path = 'm/@v/v1.0.0.exe' WHERE id = 3",
    "length": "UPDATE files SET length = -1",
    "blocks": "UPDATE files SET blocks = -5 WHERE id = 3",
    "all blocks": "UPDATE files SET blocks = 1 << 60",
    "stray": "INSERT INTO strays VALUES ('../x', 'zip', 1)",
    "stray's kind": "INSERT INTO strays VALUES ('m/@v/v1.0.0.zip', 'exe', 1)",
    "pin": "INSERT INTO pins VALUES ('[', 'api')",
    "pin's source": "UPDATE pins SET source = ''",
    "pass": "UPDATE passes SET record = '{}', finished = NULL",
    "no JSON": "UPDATE passes SET record = '{', finished = NULL",
    "clock": "UPDATE meta SET value = 'noon' WHERE key = 'clock'",
    "clock far off": "UPDATE meta SET value = 1e300 WHERE key = 'clock'",
    "wall": "UPDATE meta SET value = x'00' WHERE key = 'wall'",
    "clean": "UPDATE meta SET value = 'x' WHERE key = 'clean'",
    "first seen": "INSERT OR REPLACE INTO meta VALUES ('first_seen', x'00')",
    "running": "UPDATE meta SET value = 'x' WHERE key = 'running'",
    "no text": "UPDATE files SET module = CAST(x'ff' AS TEXT) WHERE id = 3",
    "no text in pins": "UPDATE pins SET pattern = CAST(x'ff' AS TEXT)",
    "no text in known": "UPDATE known SET h1 = CAST(x'ff' AS TEXT)",
    "schema": "PRAGMA user_version = 123456",
    "no table": "DROP TABLE files",
}


@pytest.mark.parametrize("change", VALUES.values(), ids=VALUES.keys())
async def test_values_that_cannot_be(sound: Path, tmp_path: Path, change: str) -> None:
    root = tmp_path / "cache"
    shutil.copytree(sound, root)
    with closing(sqlite3.connect(root / "index.db", isolation_level=None)) as database:
        database.execute(change)
    await heals(root)
    assert (root / "index.db.broken").exists()


async def test_one_row_that_cannot_be_is_skipped_and_counted(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "cache"
    shutil.copytree(sound, root)
    with closing(sqlite3.connect(root / "index.db", isolation_level=None)) as database:
        database.execute(VALUES["path"])
    async with opened(root, **BUDGET) as store:
        eviction = await store.control.evict(0, dry_run=False)
        assert eviction.removal.files == MODULES - 2, "all others went, but the pinned one"
    assert "index damaged" in logged(caplog)
    assert "index is begun anew at the next start {'skipped': 1}" in logged(caplog)
    assert not (root / "index.db.broken").exists()
    async with opened(root, **BUDGET) as store:
        assert store.recovery.index_rebuilt
