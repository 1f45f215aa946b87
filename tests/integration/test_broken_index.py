"""A broken index is moved aside; what lies on disk is proven again before it is served."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import tree
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.config.values import Amount
from tests.fakes.disk import allocated, copy_of, under
from tests.fakes.lines import logged
from tests.fakes.modules import build_zip
from tests.fakes.upstream import Reply
from tests.integration.stores import adopt, drained, opened, path
from tests.integration.test_database import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Host, Serve

VERSIONS = ("v0.9.0", "v1.0.0")
FILES = [f"/example.com/m/@v/{version}.{kind}" for version in VERSIONS for kind in ("info", "mod", "zip")]
MOD = "/example.com/m/@v/v1.0.0.mod"
ZIPS = [file for file in FILES if file.endswith(".zip")]


@pytest.fixture
async def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    return World(upstream, tmp_path)


async def filled(serve: Serve, world: World, tmp_path: Path) -> Path:
    """A cache directory as a kill would leave it, with all files stored and proven."""
    host = await serve(world.upstream, sumdb=world.spec)
    for file in FILES:
        assert (await host.get(file)).status == 200
    await drained(host.server.store)
    copy = tmp_path / "killed"
    copy_of(tmp_path / "cache", copy)
    # What is in the log would heal what is broken in the database.
    with closing(sqlite3.connect(copy / "index.db")) as index:
        index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return copy


async def recovered(host: Host) -> None:
    while not host.server.store.recovery.done:
        await asyncio.sleep(0)


def flip_pages(index: Path) -> None:
    """Nonsense from the second page on."""
    data = bytearray(index.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    index.write_bytes(data)


def flip_one_page(index: Path) -> None:
    data = bytearray(index.read_bytes())
    with closing(sqlite3.connect(index)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'files'").fetchone()
    data[(root - 1) * 4096 : root * 4096] = random.Random(2).randbytes(4096)
    index.write_bytes(data)


def cut_short(index: Path) -> None:
    data = index.read_bytes()
    index.write_bytes(data[: len(data) // 2 // 4096 * 4096])


def no_database(index: Path) -> None:
    index.write_bytes(b"no database\n" * 1000)


def gone(index: Path) -> None:
    index.unlink()


BROKEN = [flip_pages, flip_one_page, cut_short, no_database]


@pytest.mark.parametrize("damage", BROKEN)
async def test_files_are_proven_again_by_the_checksum_database(
    serve: Serve,
    world: World,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    cache = await filled(serve, world, tmp_path)
    damage(cache / "index.db")
    world.upstream.requests.clear()
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache)
    await recovered(host)
    store = host.server.store
    assert "index moved aside" in logged(caplog)
    assert (cache / "index.db.broken").exists()
    assert store.recovery.index_rebuilt
    facts = store.recovery
    assert (facts.adopted, facts.first_seen, facts.refused, facts.withheld, facts.discarded) == (
        6,
        0,
        0,
        0,
        0,
    )
    assert store.usage.used == allocated(cache / "modules")
    for file in FILES:
        got = await host.get(file)
        assert (got.status, got.body) == (200, world.upstream.files[file])
    assert not set(FILES) & set(world.upstream.requests)
    await drained(store)
    assert store.usage.used == allocated(cache / "modules")
    assert (await store.known("example.com/m", "v1.0.0")).zip is not None


async def test_an_index_that_is_gone(serve: Serve, world: World, tmp_path: Path) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")
    world.upstream.requests.clear()
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache)
    await recovered(host)
    assert host.server.store.recovery.adopted == 6
    for file in FILES:
        assert (await host.get(file)).body == world.upstream.files[file]
    assert not set(FILES) & set(world.upstream.requests)


async def test_the_budget_holds_while_the_disk_is_looked_at(tmp_path: Path) -> None:
    """Nobody writes beside files that are not counted yet, nor beside what an earlier run left in tmp/."""
    cache, limit = tmp_path / "cache", 2 << 20
    settings = {"max_size": Amount(limit, None)}
    async with opened(cache, **settings) as store:
        for i in range(6):
            (await adopt(store, i, bytes([i]) * 300_000)).close()
    for leftover in (None, cache / "tmp" / "half"):
        if leftover is None:
            no_database(cache / "index.db")
        else:
            leftover.write_bytes(b"x" * (limit - under(cache) - 4096))
        async with opened(cache, **settings) as store:
            wanting = asyncio.create_task(adopt(store, 7, b"z" * 300_000))
            for _ in range(50):
                await asyncio.sleep(0)
            assert under(cache) <= limit
            assert not wanting.done()
            store.recover(_cannot_tell)
            (await wanting).close()
            await drained(store)
            assert under(cache) <= limit
            while not store.recovery.done:
                await asyncio.sleep(0)
            assert store.admission.reserved == 0
            assert store.usage.used == allocated(cache / "modules")


async def test_a_file_to_be_proven_that_is_gone(tmp_path: Path) -> None:
    """A kill came between its removal and the note of that."""
    cache = tmp_path / "cache"
    async with opened(cache) as store:
        for i in range(3):
            (await adopt(store, i, b"x" * 300_000)).close()
    no_database(cache / "index.db")
    for gone in (None, 1, 2):
        if gone is not None:
            (cache / "modules" / path(gone)).unlink()
        async with opened(cache) as store:
            store.recover(_cannot_tell)
            while not store.recovery.done:
                await asyncio.sleep(0)
            assert store.recovery.ghosts == (gone is not None)
            assert store.usage.used == allocated(cache / "modules")


async def _cannot_tell(_: str) -> None:
    return None


async def test_wrong_bytes_are_not_adopted(serve: Serve, world: World, tmp_path: Path) -> None:
    cache = await filled(serve, world, tmp_path)
    flip_pages(cache / "index.db")
    file = cache / "modules" / ZIPS[0][1:]
    gomod = b"module example.com/m\n"
    file.write_bytes(build_zip("example.com/m", "v0.9.0", {"go.mod": gomod, "m.go": b"package x\n"}))
    mod = cache / "modules" / "example.com/m/@v/v1.0.0.mod"
    mod.write_bytes(bytes(len(mod.read_bytes())))
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache)
    await recovered(host)
    facts = host.server.store.recovery
    assert (facts.adopted, facts.refused) == (4, 2)
    assert not file.exists()
    assert not mod.exists()
    assert len(list((cache / "quarantine").iterdir())) == 2, "their bytes are kept"
    for each in FILES:
        assert (await host.get(each)).body == world.upstream.files[each]


async def test_with_the_database_unreachable_files_are_first_seen_here(
    serve: Serve, world: World, tmp_path: Path
) -> None:
    cache = await filled(serve, world, tmp_path)
    flip_pages(cache / "index.db")
    forget_the_database(cache)
    url = world.upstream.url
    await world.upstream.__aexit__()
    host = await serve(url, sumdb=world.spec, cache_dir=cache, connect_timeout=0.5)
    await recovered(host)
    store = host.server.store
    assert (store.recovery.adopted, store.recovery.first_seen) == (2, 4)
    for file in FILES:
        assert (await host.get(file)).body == world.upstream.files[file]
    assert store.usage.used == allocated(cache / "modules")
    await host.server.stop()
    # A start that can ask it has them proven where they lie.
    back = World(await _again(world), tmp_path)
    try:
        host = await serve(back.upstream, sumdb=back.spec, cache_dir=cache)
        await recovered(host)
        assert (host.server.store.recovery.adopted, host.server.store.recovery.first_seen) == (4, 0)
        assert (await host.server.store.known("example.com/m", "v1.0.0")).zip_database == back.database.name
        for file in FILES:
            assert (await host.get(file)).body == back.upstream.files[file]
        assert not set(FILES) & set(back.upstream.requests)
        assert host.server.store.usage.used == allocated(cache / "modules")
        await host.server.stop()
        # Once is enough.
        host = await serve(back.upstream, sumdb=back.spec, cache_dir=cache)
        await recovered(host)
        assert (host.server.store.recovery.adopted, host.server.store.recovery.first_seen) == (0, 0)
    finally:
        await back.upstream.__aexit__()


async def test_what_was_first_seen_is_held_to_the_next_lookup(
    serve: Serve, world: World, tmp_path: Path
) -> None:
    """The database comes back while the server runs: whoever looks the version up settles its files."""
    cache = await filled(serve, world, tmp_path)
    flip_pages(cache / "index.db")
    forget_the_database(cache)
    mod = cache / "modules" / "example.com/m/@v/v1.0.0.mod"
    mod.write_bytes(b"module example.com/m // damaged\n")
    down = world.upstream
    down.on(f"{world.prefix}/*", Reply(b"", 503, {"Retry-After": "3600"}))
    host = await serve(down, sumdb=world.spec, cache_dir=cache)
    await recovered(host)
    store = host.server.store
    assert store.recovery.first_seen == 4
    assert (await host.get(MOD)).body == mod.read_bytes()
    down.forget_rules()
    world.carry(down)
    down.requests.clear()
    assert (await host.get(f"{world.prefix}/lookup/example.com/m@v1.0.0")).status == 200
    assert (await store.known("example.com/m", "v1.0.0")).zip_database == world.database.name
    assert (await host.get(MOD)).body == down.files[MOD], "fetched anew"
    assert store.recovery.refused == 1
    for file in ZIPS:
        assert (await host.get(file)).body == down.files[file]
    assert not set(ZIPS) & set(down.requests)
    await drained(store)
    assert store.usage.used == allocated(cache / "modules")


async def test_a_damaged_file_first_seen_offline_is_refused_once_the_database_can_be_asked(
    serve: Serve, world: World, tmp_path: Path
) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")
    forget_the_database(cache)
    mod = cache / "modules" / MOD[1:]
    mod.write_bytes(b"module example.com/m // damaged\n")
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache, offline=True)
    await recovered(host)
    assert host.server.store.recovery.first_seen == 4
    await host.server.stop()
    # Offline there is nothing that could be proven at the next start either.
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache, offline=True)
    await recovered(host)
    assert host.server.store.recovery.first_seen == 0
    assert (await host.get(MOD)).status == 200
    await host.server.stop()
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache)
    await recovered(host)
    assert (host.server.store.recovery.adopted, host.server.store.recovery.refused) == (3, 1)
    assert (await host.get(MOD)).body == world.upstream.files[MOD], "its hash binds nobody"


@pytest.mark.parametrize("index", ["gone", "broken"])
@pytest.mark.parametrize("database", ["asked", "off", "exempt"])
async def test_offline_without_an_index_everything_is_served(
    serve: Serve, world: World, tmp_path: Path, index: str, database: str
) -> None:
    """An air-gapped host has nobody to ask, whatever it was that lost the index."""
    cache = await filled(serve, world, tmp_path)
    (gone if index == "gone" else flip_pages)(cache / "index.db")
    forget_the_database(cache)
    settings = {"sumdb": None if database == "off" else world.spec}
    if database == "exempt":
        settings["nosumdb"] = "example.com"
    host = await serve(world.upstream, cache_dir=cache, offline=True, **settings)
    await recovered(host)
    facts = host.server.store.recovery
    assert (facts.adopted, facts.first_seen, facts.refused, facts.withheld, facts.discarded) == (
        2,
        4,
        0,
        0,
        0,
    )
    for file in FILES:
        assert (await host.get(file)).body == world.upstream.files[file]
    # Another file that turns up later is held to what was seen first.
    await host.server.stop()
    with closing(sqlite3.connect(cache / "index.db")) as rows, rows:
        rows.execute("DELETE FROM files WHERE kind = 'mod'")
    mod = cache / "modules" / MOD[1:]
    mod.write_bytes(b"module example.com/m // other\n")
    host = await serve(world.upstream, cache_dir=cache, offline=True, **settings)
    await recovered(host)
    assert (await host.get(MOD)).status == 404
    assert host.server.store.recovery.refused == 1


async def test_offline_a_stored_lookup_proves_and_condemns(
    serve: Serve, world: World, tmp_path: Path
) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")
    mod = cache / "modules" / MOD[1:]
    mod.write_bytes(b"module example.com/m // other\n")
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache, offline=True)
    await recovered(host)
    facts = host.server.store.recovery
    assert (facts.adopted, facts.first_seen, facts.refused) == (5, 0, 1)


async def test_offline_a_file_is_served_before_recovery_has_come_to_it(
    serve: Serve, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")
    forget_the_database(cache)
    held = asyncio.Event()

    async def wait(_: object) -> None:
        await held.wait()

    monkeypatch.setattr("goproxy_vm.cache.upkeep.recovery.Recoverer._look_at_files", wait)
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache, offline=True)
    answers = await asyncio.gather(*(host.get(file) for file in FILES for _ in range(3)))
    assert [got.body for got in answers] == [world.upstream.files[file] for file in FILES for _ in range(3)]
    assert not host.server.store.recovery.done
    assert (await host.get("/example.com/m/@v/v2.0.0.mod")).status == 404
    held.set()
    await recovered(host)
    assert host.server.store.usage.used == allocated(cache / "modules")


async def test_what_the_database_has_no_record_of_is_withheld_and_kept(
    serve: Serve, world: World, tmp_path: Path
) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")
    forget_the_database(cache)
    world.database.lose("lookup/example.com/m@v1.0.0")
    spec = SumdbSpec(world.spec.name, world.spec.vkey, world.upstream.url + world.prefix)
    host = await serve(world.upstream, sumdb=spec, cache_dir=cache)
    await recovered(host)
    facts = host.server.store.recovery
    assert (facts.adopted, facts.refused, facts.withheld) == (4, 0, 2)
    assert (await host.get(MOD)).status == 403
    assert (cache / "modules" / MOD[1:]).exists()
    await host.server.stop()
    host = await serve(world.upstream, sumdb=spec, nosumdb="example.com", cache_dir=cache)
    await recovered(host)
    assert (await host.get(MOD)).body == world.upstream.files[MOD]


async def test_a_file_that_cannot_be_read_now_stays(
    serve: Serve, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")

    real = tree.read

    def fail(file: Path, top: Path, most: int = -1) -> bytes:
        if top.name == "modules":
            raise OSError(errno.EMFILE, "Too many open files")
        return real(file, top, most)

    with monkeypatch.context() as patch:
        patch.setattr(tree, "read", fail)
        host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache)
        await recovered(host)
        assert (host.server.store.recovery.refused, host.server.store.recovery.withheld) == (0, 4)
    for file in FILES:
        assert (await host.get(file)).body == world.upstream.files[file]


@pytest.mark.parametrize("kind", ["info", "mod"])
async def test_what_a_power_loss_left_empty_is_refused(
    serve: Serve, world: World, tmp_path: Path, kind: str
) -> None:
    cache = await filled(serve, world, tmp_path)
    gone(cache / "index.db")
    forget_the_database(cache)
    file = cache / "modules" / f"example.com/m/@v/v1.0.0.{kind}"
    file.write_bytes(bytes(file.stat().st_size))
    host = await serve(world.upstream, sumdb=world.spec, cache_dir=cache, offline=True)
    await recovered(host)
    assert host.server.store.recovery.refused == 1
    got = await host.get(f"/example.com/m/@v/v1.0.0.{kind}")
    if kind == "mod":
        assert got.status == 404
    else:
        assert got.headers["Cache-Status"].endswith("detail=built-from-stored-mod")


def forget_the_database(cache: Path) -> None:
    """Neither a lookup, nor a tile, nor a head is stored."""
    shutil.rmtree(cache / "answers")
    shutil.rmtree(cache / "sumdb")


async def _again(world: World) -> FakeUpstream:
    fresh = type(world.upstream)()
    await fresh.__aenter__()
    fresh.files.update(world.upstream.files)
    return fresh
