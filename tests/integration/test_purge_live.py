"""Purge, eviction and hits at once: nothing that was purged is answered afterwards."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import sqlite3
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from goproxy_vm import server
from goproxy_vm.admin.operations import Operations
from goproxy_vm.cache.download import Download
from goproxy_vm.cache.facts import Selection
from goproxy_vm.cache.recency import begin_clock
from goproxy_vm.config.values import Amount
from goproxy_vm.proxy.proxy import Proxy
from tests.fakes.disk import allocated, under
from tests.fakes.lines import logged
from tests.fakes.modules import build_zip
from tests.fakes.stores import artifact
from tests.fakes.wire import until
from tests.integration.stores import drained, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Host, Serve

MIB = 1 << 20
M, V = "example.com/m", "v1.0.0"
INFO, MOD, ZIP, LIST = (f"/{M}/@v/{V}.info", f"/{M}/@v/{V}.mod", f"/{M}/@v/{V}.zip", f"/{M}/@v/list")


def operations(host: Host) -> Operations:
    return Operations(host.server.store, host.server.proxy, "0", lambda: 0)


def info(number: int) -> bytes:
    """An .info that differs each time."""
    return json.dumps({"Version": V, "Time": "2024-01-02T03:04:05Z", "Number": number}).encode()


def retag(upstream: FakeUpstream, number: int) -> None:
    """The version means other files from now on."""
    gomod = f"module {M}\n\n// {number}\n".encode()
    upstream.files[INFO] = info(number)
    upstream.files[MOD] = gomod
    upstream.files[ZIP] = build_zip(M, V, {"go.mod": gomod, "n.go": b"package m // %d\n" % number})
    upstream.files[LIST] = f"{V}\nv1.0.{number + 1}\n".encode()


PURGES = {
    "version": lambda ops: ops.purge_version(M, V, forget_hash=True),
    "module": lambda ops: ops.purge_module(M, forget_hash=True),
    "glob": lambda ops: ops.purge(Selection(match=("example.com/*",)), forget_hash=True, dry_run=False),
    "all of some age": lambda ops: ops.purge(Selection(larger_than=0), forget_hash=True, dry_run=False),
}


@pytest.mark.parametrize("purge", PURGES.values(), ids=PURGES)
async def test_nothing_old_after_a_purge(
    serve: Serve, upstream: FakeUpstream, purge: Callable[[Operations], object]
) -> None:
    host = await serve(upstream)
    ops = operations(host)
    for number in range(4):
        retag(upstream, number)
        for path in (INFO, MOD, ZIP, LIST):
            assert (await host.get(path)).body == upstream.files[path], (number, path)
        retag(upstream, number + 100)
        if number % 2:
            await drained(host.server.store)
        await purge(ops)  # type: ignore[misc]  # a coroutine
        for path in (INFO, MOD, ZIP, LIST):
            assert (await host.get(path)).body == upstream.files[path], (number, path)
        await purge(ops)  # type: ignore[misc]  # a coroutine


@pytest.mark.parametrize("path", [INFO, MOD, ZIP, LIST])
@pytest.mark.parametrize("purge", PURGES.values(), ids=PURGES)
async def test_nobody_joins_a_flight_begun_before(
    serve: Serve, upstream: FakeUpstream, path: str, purge: Callable[[Operations], object]
) -> None:
    host = await serve(upstream)
    ops = operations(host)
    retag(upstream, 1)
    old = dict(upstream.files)
    gate = upstream.hold(path)
    before = asyncio.create_task(host.get(path))
    await gate.arrived.wait()
    await purge(ops)  # type: ignore[misc]  # a coroutine
    # The old flight gets its old bytes only now; the new one asks anew and gets the new ones.
    upstream.forget_rules()
    retag(upstream, 2)
    after = await host.get(path)
    assert after.body == upstream.files[path]
    new = dict(upstream.files)
    upstream.files.update(old)
    gate.open()
    first = await before
    assert first.status in (200, 502)
    if first.status == 200:
        assert first.body == old[path]
    upstream.files.update(new)
    await drained(host.server.store)
    assert (await host.get(path)).body == new[path], "the old flight stored nothing"
    await purge(ops)  # type: ignore[misc]  # a coroutine
    assert (await host.get(path)).body == new[path]


async def test_a_purge_between_the_last_look_and_the_queue(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is closed, which takes a moment, before it is handed over: a purge then must not miss it."""
    host = await serve(upstream)
    ops = operations(host)
    handing = Download.hand_over

    async def slowly(self: Download) -> object:
        reservation = await handing(self)
        monkeypatch.undo()
        await ops.purge_module(M)
        return reservation

    monkeypatch.setattr(Download, "hand_over", slowly)
    assert (await host.get(ZIP)).body == upstream.files[ZIP]
    await until(lambda: not ops.fetches_in_flight)  # what it brings along
    await drained(host.server.store)
    assert await host.server.store.get(artifact(ZIP[1:])) is None
    assert host.server.store.admission.reserved == 0
    assert not list((host.settings.cache_dir / "tmp").iterdir())


async def test_a_purge_of_idle_versions_leaves_downloads_alone(
    serve: Serve, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody who waits for one has it fetched twice, and it is stored."""
    caplog.set_level("INFO")
    host = await serve(upstream)
    ops = operations(host)
    gate = upstream.hold(ZIP)
    first = asyncio.create_task(host.get(ZIP))
    await gate.arrived.wait()
    removal = await ops.purge(Selection(idle_for=86_400.0), forget_hash=False, dry_run=False)
    assert removal.versions == 0
    second = asyncio.create_task(host.get(ZIP))
    while host.server.proxy._files._flights[ZIP[1:]].waiters < 2:
        await asyncio.sleep(0)
    gate.open()
    assert (await first).body == (await second).body == upstream.files[ZIP]
    await drained(host.server.store)
    assert (await host.get(ZIP)).headers["Cache-Status"] == "goproxy-vm; hit"
    assert upstream.count(ZIP) == 1
    assert "kept out by a purge" not in logged(caplog)


@pytest.mark.parametrize("path", [INFO, ZIP, LIST])
async def test_what_a_purge_keeps_out_is_in_the_log(
    serve: Serve, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level("INFO")
    host = await serve(upstream)
    gate = upstream.hold(path)
    before = asyncio.create_task(host.get(path))
    await gate.arrived.wait()
    await operations(host).purge_module(M)
    gate.open()
    assert (await before).status == 200
    assert f"kept out by a purge {{'path': '{path[1:]}'}}" in logged(caplog)


async def test_purge_keeps_what_is_known(serve: Serve, upstream: FakeUpstream) -> None:
    """A version that was re-tagged is refused after a purge as before, until its hash is forgotten."""
    host = await serve(upstream)
    ops = operations(host)
    retag(upstream, 1)
    for path in (INFO, MOD, ZIP):
        assert (await host.get(path)).status == 200
    retag(upstream, 2)
    await ops.purge_version(M, V)
    assert (await host.get(INFO)).body == info(2)
    assert [(await host.get(path)).status for path in (MOD, ZIP)] == [502, 502]
    await ops.purge_version(M, V, forget_hash=True)
    assert [(await host.get(path)).status for path in (MOD, ZIP)] == [200, 200]


async def test_forgetting_after_the_files_are_gone(serve: Serve, upstream: FakeUpstream) -> None:
    """An operator purges first and learns then that the hash must go as well."""
    host = await serve(upstream)
    ops = operations(host)
    retag(upstream, 1)
    for path in (MOD, ZIP):
        assert (await host.get(path)).status == 200
    retag(upstream, 2)
    await ops.purge_module(M)
    await ops.purge_module(M, forget_hash=True)
    assert [(await host.get(path)).status for path in (MOD, ZIP)] == [200, 200]
    retag(upstream, 3)
    await ops.purge_version(M, V)
    await ops.purge(Selection(match=("example.com/*",)), forget_hash=True, dry_run=False)
    assert [(await host.get(path)).status for path in (MOD, ZIP)] == [200, 200]


async def test_a_dry_run_tells_what_a_real_one_does(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    ops = operations(host)
    for path in (INFO, MOD, ZIP, LIST):
        await host.get(path)
    await host.get(f"/{M}/@v/v0.9.0.info")
    while host.server.proxy.fetches_in_flight:  # the .mod that nobody asked for yet
        await asyncio.sleep(0)
    selection = Selection(match=("example.com/m",))
    dry = await ops.purge(selection, forget_hash=False, dry_run=True)
    assert (await host.get(ZIP)).headers["Cache-Status"].endswith("hit")
    real = await ops.purge(selection, forget_hash=False, dry_run=False)
    assert dry.dry_run
    assert not real.dry_run
    assert (dry.items, dry.versions, dry.files, dry.bytes, dry.answers) == (
        *(real.items, real.versions, real.files, real.bytes, real.answers),
    )
    assert (real.versions, real.files, real.answers) == (2, 5, 1)
    again = await ops.purge(selection, forget_hash=False, dry_run=False)
    assert (again.versions, again.files, again.bytes, again.answers, again.items) == (0, 0, 0, 0, [])


async def test_purges_evictions_and_hits_at_once(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Whoever asks after a purge returned gets nothing older than what the upstream had at that time."""
    limit = 2 * MIB
    chance = random.Random(3)
    modules = [f"example.com/p{i}" for i in range(12)]
    for i, module in enumerate(modules):
        files = {"go.mod": f"module {module}\n".encode(), "d": random.Random(i).randbytes(300_000)}
        upstream.add_module(module, V, zipped=build_zip(module, V, files, stored=True))
    host = await serve(upstream, max_size=Amount(limit, None), min_free=Amount(0, None))
    ops = operations(host)
    store = host.server.store
    current = dict.fromkeys(modules, 0)
    purged = dict.fromkeys(modules, 0)
    ended = False

    def set_info(module: str) -> None:
        current[module] += 1
        upstream.files[f"/{module}/@v/{V}.info"] = info(current[module])

    for module in modules:
        set_info(module)
        purged[module] = current[module]

    async def clients() -> None:
        while not ended:
            module = chance.choice(modules)
            least = purged[module]
            kind = chance.choice(("info", "info", "zip", "mod"))
            got = await host.get(f"/{module}/@v/{V}.{kind}")
            assert got.status == 200, got.text
            if kind == "info":
                assert json.loads(got.body)["Number"] >= least
            else:
                assert got.body == upstream.files[f"/{module}/@v/{V}.{kind}"]

    async def purges() -> None:
        nonlocal ended
        for _ in range(60):
            module = chance.choice(modules)
            set_info(module)
            number = current[module]
            if chance.random() < 0.5:
                await ops.purge_version(module, V)
            else:
                await ops.purge(Selection(match=(f"{module}@v1*",)), forget_hash=False, dry_run=False)
            purged[module] = number
            await asyncio.sleep(0)
        ended = True

    async def evictions() -> None:
        while not ended:
            await ops.evict(chance.randrange(limit), dry_run=False)
            assert store.usage.used + store.admission.reserved <= limit
            assert under(tmp_path / "cache") <= limit

    await asyncio.gather(purges(), evictions(), *(clients() for _ in range(8)))
    while store.admission.reserved or store.uncommitted or host.server.proxy.fetches_in_flight:
        await asyncio.sleep(0)
    assert store.usage.used == allocated(tmp_path / "cache" / "modules")


async def test_a_path_twice_in_one_batch_counts_once(tmp_path: Path) -> None:
    """A purge lets the same file be fetched twice while the disk is busy."""
    async with opened(tmp_path / "cache") as store:
        for _ in range(2):  # without an older file, and with one
            async with store.core.queue.disk:
                for number in range(3):
                    data = b"%d" % number * 5000 * (number + 1)
                    (await store.put(artifact(INFO[1:]), data, h1=None)).close()
            await drained(store)
            assert store.usage.entries["info"] == 1
            assert store.usage.used == allocated(tmp_path / "cache" / "modules")


async def test_a_purge_takes_files_without_a_record_too(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next request would have them proven by what is known, and get the old bytes."""
    host = await serve(upstream)
    for path in (MOD, ZIP):
        assert (await host.get(path)).status == 200
    await host.server.stop()
    with closing(sqlite3.connect(tmp_path / "cache" / "index.db")) as index, index:
        index.execute("DELETE FROM files")
        index.execute("DELETE FROM known WHERE kind = 'mod'")
    # Nothing proves them for now: recovery leaves them where they are.
    monkeypatch.setattr("goproxy_vm.proxy.intake.Intake.prove_stray", _cannot_tell)
    host = await serve(upstream)
    store, ops = host.server.store, operations(host)
    while not store.recovery.done:
        await asyncio.sleep(0)
    assert await store.strays.find(ZIP[1:]) is not None
    dry = await ops.purge_version(M, V, dry_run=True)
    assert (dry.versions, dry.files) == (1, 3), "the .info that came along too"
    real = await ops.purge(Selection(match=(f"{M}@{V}",), kinds=("zip",)), forget_hash=False, dry_run=False)
    assert (real.versions, real.files) == (1, 1)
    assert await store.strays.find(ZIP[1:]) is None
    assert (await ops.purge_module(M)).files == 2
    assert store.usage.used == 0
    assert under(tmp_path / "cache") == 0


async def _cannot_tell(*_: object) -> None:
    return None


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return type(self.proof).touch, (self.proof,)


@pytest.mark.parametrize("where", ["value", "key", "file"])
async def test_planted_pickles_are_refused(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, where: str
) -> None:
    """Whoever can write into answers/ can delete answers, and nothing else (CVE-2025-69872)."""
    host = await serve(upstream)
    assert (await host.get(LIST)).status == 200
    await host.server.stop()
    proof = tmp_path / "proof"
    planted = pickle.dumps(Payload(proof))
    answers = tmp_path / "cache" / "answers"
    with closing(sqlite3.connect(answers / "cache.db")) as database, database:
        if where == "value":
            database.execute("UPDATE Cache SET mode = 4, value = ?", (planted,))
        elif where == "key":
            database.execute("UPDATE Cache SET raw = 0, key = ?", (planted,))
        else:
            (answers / "evil.val").write_bytes(planted)
            database.execute("UPDATE Cache SET mode = 4, value = NULL, filename = 'evil.val'")
    asked = upstream.count(LIST)
    host = await serve(upstream)
    ops = operations(host)
    got = await host.get(LIST)
    assert (got.status, got.body) == (200, upstream.files[LIST])
    assert upstream.count(LIST) == asked + 1
    await ops.refresh(M)
    await ops.purge_module(M)
    await host.server.store.answers.trim(0)
    await host.server.stop()
    assert not proof.exists()


# Clocks


DAY = 86_400.0


@pytest.mark.parametrize("years", [pytest.param(-20, marks=pytest.mark.soak), 1])
async def test_a_jump_of_the_clock_neither_expires_nor_keeps_for_ever(
    serve: Serve, upstream: FakeUpstream, years: int
) -> None:
    clocks = [0.0]
    begin = partial(begin_clock, wall=lambda: time.time() + clocks[0])
    settings = {"max_idle": 10 * DAY, "janitor_interval": 3600.0, "store": {"begin": begin}}
    host = await serve(upstream, **settings)
    assert (await host.get(ZIP)).status == 200
    await host.server.stop()
    clocks[0] = years * 365 * DAY
    host = await serve(upstream, **settings)
    store = host.store
    await store.parts.janitor.once()
    asked = upstream.count(ZIP)
    assert (await host.get(ZIP)).status == 200
    assert upstream.count(ZIP) == asked, "one jump expires nothing"
    facts = await store.control.version(M, V)
    assert facts is not None
    assert 0 <= facts.idle_seconds < 2 * DAY
    await host.server.stop()
    # Runs with a day or more between them add up, whatever the clock says of the years before.
    for _ in range(11):
        clocks[0] += 3 * DAY
        host = await serve(upstream, **settings)
        await host.server.stop()
    host = await serve(upstream, **settings)
    await host.store.parts.janitor.once()
    assert await host.server.store.get(artifact(ZIP[1:])) is None, "it was not asked for for eleven days"


async def test_an_answer_from_the_future_is_not_fresh(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = [0.0]
    monkeypatch.setattr(server, "Proxy", partial(Proxy, wall=lambda: time.time() + clocks[0]))
    host = await serve(upstream, fresh=3600.0, fast_path=False)  # which goes by the monotonic clock
    assert (await host.get(LIST)).status == 200
    for clocks[0] in (-10 * DAY, 10 * DAY):
        asked = upstream.count(LIST)
        assert (await host.get(LIST)).status == 200
        assert upstream.count(LIST) == asked + 1
