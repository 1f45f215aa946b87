"""Proof by the checksum database, and its mirror: PROTOCOL cases 57–62a, 77a, 81–98."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from goproxy_vm.admin.operations import Operations
from goproxy_vm.cache.facts import Selection
from goproxy_vm.cache.records import Records
from goproxy_vm.cache.store import Store
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.errors import StartError
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.modzip import check_zip
from goproxy_vm.protocol.tlog import Tile
from goproxy_vm.protocol.verifier import Verifier
from tests.fakes.lines import logged
from tests.fakes.modules import build_zip
from tests.fakes.sumdb import FakeSumdb, Signer
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Host, Serve
from tests.integration.test_cases import fails

M = "/example.com/m"
NAME = "127.0.0.1:1/log"
"""A database whose own host refuses connections at once: its answers come through the upstream."""
LOOKUP = "lookup/example.com/m@v1.0.0"


class World:
    """An upstream that carries an honest log with the upstream's two versions among others."""

    def __init__(self, upstream: FakeUpstream, tmp_path: Path, name: str = NAME) -> None:
        self.upstream = upstream
        self.database = FakeSumdb.make(300, name=name)
        self.tmp_path = tmp_path
        for version in ("v0.9.0", "v1.0.0"):
            self.record("example.com/m", version)
        self.database.grow(40)
        self.carry(upstream)

    @property
    def prefix(self) -> str:
        return f"/sumdb/{self.database.name}"

    def record(self, module: str, version: str) -> None:
        """Add the record of what the upstream serves."""
        path = f"/{module}/@v/{version}"
        file = self.tmp_path / "zip"
        file.write_bytes(self.upstream.files[f"{path}.zip"])
        with file.open("rb") as opened:
            report = check_zip(opened, module, version)
        self.database.add(module, version, report.h1, h1_mod(self.upstream.files[f"{path}.mod"]))

    def carry(
        self, upstream: FakeUpstream, database: FakeSumdb | None = None, prefix: str | None = None
    ) -> None:
        """Have an upstream carry the database's answers."""
        start = f"{self.prefix}/" if prefix is None else prefix

        def answer(path: str) -> Reply:
            status, body = (database or self.database).answer(path.removeprefix(start))
            return Reply(body, status, {"Content-Type": "text/plain"})

        upstream.on(f"{start}*", answer)

    def lookups(self) -> int:
        return sum(path.startswith("lookup/") for path in self.database.requests)

    @property
    def spec(self) -> SumdbSpec:
        return SumdbSpec(self.database.name, str(self.database.key), None)


@pytest.fixture
async def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    return World(upstream, tmp_path)


@pytest.fixture
async def host(serve: Serve, world: World) -> Host:
    return await serve(world.upstream, sumdb=world.spec)


@pytest.fixture
async def other() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


async def verifications(host: Host, kind: str, outcome: str) -> float:
    return await host.metric(f'goproxy_vm_verifications_total{{kind="{kind}",outcome="{outcome}"}}')


async def test_both_files_are_proven_by_one_lookup(host: Host, world: World) -> None:
    for extension in ("info", "mod", "zip"):
        assert (await host.get(f"{M}/@v/v1.0.0.{extension}")).status == 200
    assert world.lookups() == 1
    assert await verifications(host, "mod", "verified") + await verifications(host, "mod", "known") == 1
    assert await verifications(host, "zip", "verified") + await verifications(host, "zip", "known") == 1
    assert await verifications(host, "lookup", "verified") == 1


async def test_lookup_runs_beside_the_download(host: Host, world: World) -> None:
    gate = world.upstream.hold("*.zip")
    asked = asyncio.create_task(host.get(f"{M}/@v/v1.0.0.zip"))
    await gate.arrived.wait()
    while await verifications(host, "lookup", "verified") < 1:
        await asyncio.sleep(0.01)
    gate.open()
    assert (await asked).status == 200


async def test_case_78_after_eviction_it_is_fetched_and_proven_again_without_a_lookup(
    serve: Serve, world: World
) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).status == 200
    await host.server.stop()
    for file in (world.tmp_path / "cache" / "modules").rglob("v1.0.0.*"):
        file.unlink()
    for file in (world.tmp_path / "cache" / "sumdb" / "_records").iterdir():
        file.unlink()
    world.database.lose(LOOKUP)
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).status == 200
    assert world.lookups() == 1
    assert await verifications(host, "zip", "known") == 1


@pytest.mark.parametrize(("case", "extension"), [("57", "zip"), ("58", "mod")])
async def test_case_57_58_mismatch(host: Host, world: World, case: str, extension: str) -> None:
    path = f"{M}/@v/v1.0.0.{extension}"
    good = world.upstream.files[path]
    world.upstream.files[path] = (
        build_zip("example.com/m", "v1.0.0", {"evil.go": b"x"}) if extension == "zip" else b"module evil\n"
    )
    await fails(host, path, 502, "h1:", NAME, "records")
    assert (await host.get(path, Disable_Module_Fetch="true")).status == 404
    assert await verifications(host, extension, "mismatch") == 1
    world.upstream.files[path] = good
    assert (await host.get(path)).body == good


async def test_mismatch_at_one_upstream_is_right_at_the_next(
    serve: Serve, world: World, other: FakeUpstream
) -> None:
    other.files[f"{M}/@v/v1.0.0.mod"] = b"module evil\n"
    host = await serve(f"{other.url}|{world.upstream.url}", sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).body == b"module example.com/m\n"


async def test_case_59_another_modules_record(host: Host, world: World) -> None:
    world.database.redirect(LOOKUP, 7)
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, "not about example.com/m@v1.0.0")
    await fails(host, f"{world.prefix}/{LOOKUP}", 502, "not about")
    assert await verifications(host, "lookup", "malformed") == 2


async def test_case_60_database_out_of_reach(host: Host, world: World) -> None:
    assert (await host.get(f"{M}/@v/v0.9.0.zip")).status == 200
    world.upstream.on(f"{world.prefix}/*", Reply(b"", 500))
    await fails(host, f"{M}/@v/v1.0.0.zip", 502, "not proven by checksum database", NAME, "nosumdb")
    assert (await host.get(f"{M}/@v/v0.9.0.zip")).status == 200  # stored files go on being served
    assert await verifications(host, "zip", "unavailable") == 1


async def test_case_60a_no_record_anywhere(serve: Serve, world: World, other: FakeUpstream) -> None:
    world.database.lose(LOOKUP)
    world.carry(other, prefix="/")
    spec = SumdbSpec(NAME, str(world.database.key), other.url)
    host = await serve(world.upstream, sumdb=spec)
    for _ in range(2):
        await fails(host, f"{M}/@v/v1.0.0.mod", 403, NAME, "nosumdb")
    assert world.lookups() == 1  # remembered
    await fails(host, f"/sumdb/{NAME}/{LOOKUP}", 404)


async def test_case_60a_absent_at_one_source_while_another_is_unreachable(host: Host, world: World) -> None:
    world.database.lose(LOOKUP)
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, world.upstream.name, "404", "127.0.0.1:1:", "nosumdb")


async def test_a_database_out_of_reach_is_no_trouble_where_a_carrier_answers(
    serve: Serve, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """As ``go get`` does: a prefix of the import path that is no module, then the module."""
    host = await serve(world.upstream, sumdb=world.spec)
    for prefix in ("a", "b", "c", "d", "e"):
        await fails(host, f"/example.com/m/{prefix}/@v/v1.0.0.info", 404)
        await fails(host, f"{world.prefix}/lookup/example.com/m/{prefix}@v1.0.0", 502, "404", "127.0.0.1:1:")
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).status == 200
    asked = 'goproxy_vm_upstream_requests_total{outcome="connection",upstream="127.0.0.1:1"}'
    assert await host.metric(asked) == 3, "the first time, and no more"
    assert await verifications(host, "lookup", "unavailable") == 0
    assert await verifications(host, "lookup", "absent") >= 5
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


async def test_lookups_that_fail_are_told(
    serve: Serve, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "goproxy_vm")
    world.upstream.forget_rules()  # it carries no database
    host = await serve(world.upstream, sumdb=world.spec)
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, "404", "127.0.0.1:1:", "nosumdb")
    assert await verifications(host, "lookup", "unavailable") == 1
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == ["request failed"]
    assert "not proven" in logged(caplog)


async def test_case_61_61a_exempt_module(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec, nosumdb="example.com/*")
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).status == 200
    assert world.database.requests == []
    await fails(host, f"{world.prefix}/{LOOKUP}", 404, "go env -w GONOSUMDB=example.com/*")  # case 61a
    assert world.upstream.count("/sumdb/*") == 0
    assert "go env -w GONOSUMDB=example.com/*" in (await host.get("/")).text


async def test_exempt_module_is_held_to_its_first_hash(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec, nosumdb="example.com/*")
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    await host.server.stop()
    next((world.tmp_path / "cache" / "modules").rglob("v1.0.0.mod")).unlink()
    world.upstream.files[f"{M}/@v/v1.0.0.mod"] = b"module changed.example/m\n"
    host = await serve(world.upstream, sumdb=world.spec, nosumdb="example.com/*")
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, "when first seen")
    # Once it is no longer exempt, the database is asked, and the first hash was right.
    await host.server.stop()
    world.upstream.files[f"{M}/@v/v1.0.0.mod"] = b"module example.com/m\n"
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    assert await verifications(host, "mod", "verified") == 1


async def test_case_62_toolchains_are_always_verified(serve: Serve, world: World) -> None:
    version = "v0.0.1-go1.99.1.linux-amd64"
    world.upstream.add_module("golang.org/toolchain", version, {"bin/go": b"x"})
    host = await serve(world.upstream, sumdb=world.spec, nosumdb="*")
    await fails(host, f"/golang.org/toolchain/@v/{version}.zip", 502, "not proven")
    world.record("golang.org/toolchain", version)
    host2 = await serve(world.upstream, sumdb=world.spec, nosumdb="*", cache_dir=world.tmp_path / "2")
    assert (await host2.get(f"/golang.org/toolchain/@v/{version}.zip")).status == 200
    assert await verifications(host2, "zip", "verified") == 1


async def test_case_62a_toolchain_without_database(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, sumdb=None)
    await fails(host, "/golang.org/toolchain/@v/v0.0.1-go1.99.1.linux-amd64.zip", 403, "setting sumdb")
    assert upstream.requests == []


async def test_case_77a_cached_only(host: Host, world: World) -> None:
    base = f"/cached-only{world.prefix}"
    assert (await host.get(f"{base}/supported")).status == 200
    for path in ("latest", LOOKUP, "tile/8/0/000"):
        assert (await host.get(f"{base}/{path}")).status == 404
    assert world.upstream.requests == []
    for path in ("latest", LOOKUP, "tile/8/0/000"):
        got = await host.get(f"{world.prefix}/{path}")
        assert got.status == 200
        assert (await host.get(f"{base}/{path}")).body == got.body


async def test_case_81_82_83_supported(host: Host, world: World) -> None:
    assert (await host.get(f"{world.prefix}/supported")).status == 200
    assert (await host.get("/sumdb/unknown.example/supported")).status == 404
    assert (await host.get("/sumdb/supported")).status == 404
    assert world.upstream.requests == []


async def test_without_database_nothing_is_mirrored(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, sumdb=None)
    assert (await host.get("/sumdb/sum.golang.org/supported")).status == 404


async def test_case_84_latest(host: Host, world: World) -> None:
    got = await host.get(f"{world.prefix}/latest")
    assert (got.status, got.body) == (200, world.database.head())
    assert got.headers["Cache-Control"] == "public, max-age=60"
    assert (await host.get(f"{world.prefix}/latest")).headers["Cache-Status"] == "goproxy-vm; hit"
    assert world.database.requests.count("latest") == 1


async def test_latest_is_stale_when_sources_fail(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec, fresh=0.0)
    head = (await host.get(f"{world.prefix}/latest")).body
    world.upstream.on("*", Reply(b"", 500))
    got = await host.get(f"{world.prefix}/latest")
    assert (got.body, got.headers["Cache-Status"]) == (head, "goproxy-vm; hit; detail=stale")


async def test_latest_without_any_head(host: Host, world: World) -> None:
    world.upstream.on("*", Reply(b"", 500))
    await fails(host, f"{world.prefix}/latest", 502)
    assert await verifications(host, "head", "unavailable") == 1


@pytest.mark.parametrize("escaped", ["!azure", "%21azure"])
async def test_case_85_escaped_lookup(host: Host, world: World, escaped: str) -> None:
    world.database.add("example.com/Azure", "v1.0.0", "h1:a", "h1:b")
    assert (await host.get(f"{world.prefix}/lookup/example.com/{escaped}@v1.0.0")).status == 200
    assert "lookup/example.com/!azure@v1.0.0" in world.database.requests


async def test_case_86_and_91_malformed(host: Host, world: World) -> None:
    for path in ("lookup/example.com/m@v1", "tile/8/0/0", "tile/8/0/000.p/256", "tile/8/0/000.p/01"):
        await fails(host, f"{world.prefix}/{path}", 400)
    assert world.upstream.requests == []


async def test_case_87_unknown_lookup(serve: Serve, world: World, other: FakeUpstream) -> None:
    world.carry(other, prefix="/")
    spec = SumdbSpec(NAME, str(world.database.key), other.url)
    host = await serve(world.upstream, sumdb=spec)
    await fails(host, f"{world.prefix}/lookup/example.com/none@v1.0.0", 404, "not found: no record")


async def test_a_lookup_that_is_gone_is_410_as_upstream(
    serve: Serve, world: World, other: FakeUpstream
) -> None:
    world.carry(other, prefix="/")
    for source in (world.upstream, other):
        source.on("*/lookup/example.com/none@v1.0.0", Reply(b"gone\n", 410, {"Content-Type": "text/plain"}))
    host = await serve(world.upstream, sumdb=SumdbSpec(NAME, str(world.database.key), other.url))
    for _ in range(2):  # the second is answered from memory
        await fails(host, f"{world.prefix}/lookup/example.com/none@v1.0.0", 410, "gone")


async def test_lookup_is_served_as_it_came_and_once_for_all(host: Host, world: World) -> None:
    gate = world.upstream.hold(f"{world.prefix}/lookup/*")
    clients = [asyncio.create_task(host.get(f"{world.prefix}/{LOOKUP}")) for _ in range(200)]
    await gate.arrived.wait()
    gate.open()
    answers = await asyncio.gather(*clients)
    assert {(got.status, got.body) for got in answers} == {(200, world.database.lookup(300 + 1))}
    assert world.lookups() == 1
    assert answers[0].headers["Cache-Control"].endswith("immutable")


async def test_no_vm_waits_for_records_to_be_stored(
    serve: Serve, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was proven is answered, again and to others, while the disk is slow; then it is all there."""
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{world.prefix}/{LOOKUP}")).status == 200  # the head is stored before its answer
    store, free, stored = Records.keep, asyncio.Event(), []

    async def slowly(self: Records, found: Mapping[str, bytes]) -> bool:
        stored.append(len(found))
        await free.wait()
        return await store(self, found)

    monkeypatch.setattr(Records, "keep", slowly)
    paths = [f"{world.prefix}/lookup/example.com/m{number}@v1.0.0" for number in (3, 4, 5)]
    first = [(await host.get(path)).body for path in paths]
    asked = world.lookups()
    assert [(await host.get(path)).body for path in paths] == first
    assert world.lookups() == asked
    free.set()
    await host.server.stop()
    assert len(stored) == 2, "those that came meanwhile go together"
    host = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert [(await host.get(path)).body for path in paths] == first


async def test_case_88_89_94_tiles(host: Host, world: World) -> None:
    full = await host.get(f"{world.prefix}/tile/8/0/000")
    assert (full.status, len(full.body)) == (200, 8192)
    assert full.headers["Content-Type"] == "application/octet-stream"
    part = await host.get(f"{world.prefix}/tile/8/0/001.p/44")
    assert (part.status, len(part.body)) == (200, 1408)
    for path in ("tile/8/data/000", "tile/8/data/001.p/44"):
        data = await host.get(f"{world.prefix}/{path}")
        assert data.headers["Content-Type"].startswith("text/plain")
        assert data.body == world.database.body(path)


async def test_case_90_partial_gone_upstream(host: Host, world: World) -> None:
    assert (await host.get(f"{world.prefix}/tile/8/0/000")).status == 200
    world.upstream.on(f"{world.prefix}/tile/*", Reply(b"", 404))
    part = await host.get(f"{world.prefix}/tile/8/0/000.p/100")
    assert part.body == world.database.body("tile/8/0/000")[:3200]


async def test_case_90_partial_is_a_prefix_of_the_full_one_upstream(host: Host, world: World) -> None:
    stale = world.database.snapshot(300)
    world.carry(world.upstream, stale)
    world.database.grow(600)
    world.upstream.on(
        f"{world.prefix}/tile/8/0/001.p/*", Reply(b"", 404)
    )  # the partial is gone, the full one published meanwhile
    world.upstream.on(f"{world.prefix}/tile/8/0/001", Reply(world.database.body("tile/8/0/001")))
    assert (await host.get(f"{world.prefix}/lookup/example.com/m270@v1.0.0")).status == 200


async def test_case_92_wrong_length(host: Host, world: World) -> None:
    world.database.cut("tile/8/0/000", 8191)
    await fails(host, f"{world.prefix}/tile/8/0/000", 502, "8191 bytes")
    world.database.answers.clear()
    assert (await host.get(f"{world.prefix}/tile/8/0/000")).status == 200


async def test_case_93_published_after_404(host: Host, world: World) -> None:
    assert (await host.get(f"{world.prefix}/tile/8/0/002.p/1")).status == 404
    world.database.grow(400)
    assert (await host.get(f"{world.prefix}/tile/8/0/002.p/1")).status == 200


async def test_case_96_fork(host: Host, world: World) -> None:
    assert (await host.get(f"{M}/@v/v0.9.0.mod")).status == 200
    head = world.database.head()
    forked = world.database.fork(5)
    forked.grow(50)
    honest = list(world.upstream.rules)
    world.carry(world.upstream, forked)
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, "SECURITY ERROR", "two different logs")
    await fails(host, f"{world.prefix}/{LOOKUP}", 502, "SECURITY ERROR")
    kept = list((world.tmp_path / "cache" / "sumdb").rglob("forks/*"))
    assert kept
    evidence = kept[0].read_bytes()
    assert head in evidence
    assert forked.head() in evidence
    assert (world.tmp_path / "cache" / "sumdb" / NAME / "latest").read_bytes() == head
    assert await verifications(host, "lookup", "fork") == 2
    world.upstream.rules[:] = honest
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200


async def test_case_97_older_consistent_head(host: Host, world: World) -> None:
    assert (await host.get(f"{world.prefix}/lookup/example.com/m1@v1.0.0")).status == 200
    newest = world.database.head()
    world.carry(world.upstream, world.database.snapshot(310))
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    assert (world.tmp_path / "cache" / "sumdb" / NAME / "latest").read_bytes() == newest


async def test_case_98_restart(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v0.9.0.mod")).status == 200
    await host.server.stop()
    forked = world.database.fork(5)
    world.carry(world.upstream, forked)
    host = await serve(world.upstream, sumdb=world.spec)
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, "SECURITY ERROR")


async def test_head_of_another_key_is_no_start(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v0.9.0.mod")).status == 200
    await host.server.stop()
    other = Signer.make(NAME, bytes(32))
    with pytest.raises(StartError, match="remove the file"):
        await serve(world.upstream, sumdb=SumdbSpec(NAME, str(other.key)))


@pytest.mark.parametrize("damage", [b"", bytes(100), b"<html>", b"go.sum database tree\n1\n"])
async def test_damaged_head_is_no_start(serve: Serve, world: World, damage: bytes) -> None:
    """It is not forgotten silently: a server without its head would believe a forked log."""
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v0.9.0.mod")).status == 200
    await host.server.stop()
    (world.tmp_path / "cache" / "sumdb" / NAME / "latest").write_bytes(damage)
    with pytest.raises(StartError, match="remove the file"):
        await serve(world.upstream, sumdb=world.spec)


async def test_unreadable_head_is_no_start(serve: Serve, world: World) -> None:
    (world.tmp_path / "cache" / "lock").parent.mkdir()
    (world.tmp_path / "cache" / "lock").touch()
    (world.tmp_path / "cache" / "sumdb" / NAME / "latest").mkdir(parents=True)
    with pytest.raises(StartError, match="latest: Is a directory"):
        await serve(world.upstream, sumdb=world.spec)


async def test_fork_is_told_though_its_evidence_cannot_be_kept(
    host: Host, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await host.get(f"{M}/@v/v0.9.0.mod")).status == 200
    (world.tmp_path / "cache" / "sumdb" / NAME / "forks").write_bytes(b"no directory")
    forked = world.database.fork(5)
    forked.grow(50)
    world.carry(world.upstream, forked)
    await fails(host, f"{M}/@v/v1.0.0.mod", 502, "SECURITY ERROR", "two different logs")
    assert "not kept" in logged(caplog)


ATTACKS = {
    "tampered lookup": lambda db: db.tamper(LOOKUP, 400),
    "tampered tile": lambda db: db.tamper("tile/8/0/001.p/86", 5),
    "tampered upper tile": lambda db: db.tamper("tile/8/1/000.p/1", 99),
    "lost tile": lambda db: (db.lose("tile/8/0/001.p/86"), db.lose("tile/8/0/001")),
    "cut tile": lambda db: db.cut("tile/8/0/001.p/86", 64),
    "record of another": lambda db: db.redirect(LOOKUP, 3),
    "number of another": lambda db: db.renumber(LOOKUP, 3),
    "number outside the tree": lambda db: db.renumber(LOOKUP, 5000),
    "forged record": lambda db: db.forge(LOOKUP, b" h1:", b" h1:A"),
    "broken signature": lambda db: db.break_signature(),
    "unknown signer": lambda db: db.sign_as(Signer.make("evil.example", bytes(32))),
    "signer with a known name": lambda db: db.sign_as(Signer.make(NAME, bytes(32))),
    "no note": lambda db: db.answers.__setitem__(LOOKUP, (200, b"<html>")),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_attack_on_our_upstream_side_reaches_nobody(host: Host, world: World, attack: str) -> None:
    ATTACKS[attack](world.database)
    for path in (f"{M}/@v/v1.0.0.mod", f"{M}/@v/v1.0.0.zip", f"{world.prefix}/{LOOKUP}"):
        assert (await host.get(path)).status == 502
    world.database.answers.clear()
    world.database.change_head = lambda note: note
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    assert (await host.get(f"{world.prefix}/{LOOKUP}")).status == 200


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_honest_second_source_is_enough(
    serve: Serve, world: World, other: FakeUpstream, attack: str
) -> None:
    liar = world.database.snapshot(len(world.database))
    ATTACKS[attack](liar)
    world.carry(other, liar)
    host = await serve(f"{other.url},{world.upstream.url}", sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200


async def test_source_that_lacks_the_database_is_asked_last(
    serve: Serve, world: World, other: FakeUpstream
) -> None:
    host = await serve(f"{other.url},{world.upstream.url}", sumdb=world.spec)
    assert (await host.get(f"{world.prefix}/lookup/example.com/m1@v1.0.0")).status == 200
    seen = other.count("/sumdb/*")
    assert (await host.get(f"{world.prefix}/lookup/example.com/m290@v1.0.0")).status == 200
    assert other.count("/sumdb/*") == seen


async def test_explicit_url_is_asked_alone(serve: Serve, world: World, other: FakeUpstream) -> None:
    world.carry(other, prefix="/")
    host = await serve(world.upstream, sumdb=SumdbSpec(NAME, str(world.database.key), other.url))
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    assert world.upstream.count("/sumdb/*") == 0


async def test_stored_lookup_that_rots_is_fetched_anew(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{world.prefix}/{LOOKUP}")).status == 200
    await host.server.stop()
    opened = await Store.open(world.tmp_path / "cache")
    await opened.records.keep({f"{NAME}/{LOOKUP}": b"rotten", f"{NAME}/tile/8/0/000": b"x" * 8192})
    await opened.close()
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    assert (await host.get(f"{world.prefix}/lookup/example.com/m3@v1.0.0")).status == 200


@pytest.mark.parametrize("seed", range(5))
async def test_fresh_clients_verify_offline_from_the_mirror_alone(
    serve: Serve, world: World, seed: int
) -> None:
    """A stored lookup implies every tile that a fresh client needs, in whatever order it looks up."""
    chance = random.Random(seed)
    host = await serve(world.upstream, sumdb=world.spec)
    numbers = []
    for _ in range(12):
        number = chance.randrange(300)
        numbers.append(number)
        got = await host.get(f"{world.prefix}/lookup/example.com/m{number}@v1.0.0")
        assert got.status == 200
        world.database.grow(chance.randrange(300))
    await host.server.stop()
    host = await serve(world.upstream, sumdb=world.spec, offline=True)
    seen = len(world.upstream.requests)
    chance.shuffle(numbers)
    client = Verifier(world.database.key, None)
    for number in numbers:
        data = (await host.get(f"{world.prefix}/lookup/example.com/m{number}@v1.0.0")).body
        session = client.lookup(f"example.com/m{number}", "v1.0.0", data)
        while wanted := session.wanted():
            for tile in wanted:
                got = await host.get(f"{world.prefix}/{tile.path}")
                assert got.status == 200, tile.path
                session.feed(tile, got.body)
        assert session.finish().number == number
    assert len(world.upstream.requests) == seen


async def looked_up(host: Host, world: World, *numbers: int) -> list[bytes]:
    """Lookups and all tiles a fresh client asks for; what the lookups say."""
    client, found = Verifier(world.database.key, None), []
    for number in numbers:
        data = (await host.get(f"{world.prefix}/lookup/example.com/m{number}@v1.0.0")).body
        session = client.lookup(f"example.com/m{number}", "v1.0.0", data)
        while wanted := session.wanted():
            for tile in wanted:
                got = await host.get(f"{world.prefix}/{tile.path}")
                assert got.status == 200, tile.path
                session.feed(tile, got.body)
        session.finish()
        found.append(data)
    return found


async def test_no_purge_means_the_database(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    found = await looked_up(host, world, 3, 290)
    ops = Operations(host.server.store, host.server.proxy, "0", lambda: 0)
    for selection in (Selection(match=("*",), kinds=("zip",)), Selection(match=("sumdb",)), Selection()):
        await ops.purge(selection, forget_hash=False, dry_run=False)
    await ops.purge_module("sumdb")
    assert await ops.refresh("sumdb") == 0
    await host.server.stop()
    host = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert await looked_up(host, world, 3, 290) == found


async def test_the_answers_may_be_deleted_whole(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    found = await looked_up(host, world, 3, 290)
    await host.server.stop()
    shutil.rmtree(world.tmp_path / "cache" / "answers")
    host = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert await looked_up(host, world, 3, 290) == found


async def test_what_was_trimmed_is_brought_again(serve: Serve, world: World) -> None:
    """While the server runs and after a restart: no memory of what was there stands in the way."""
    host = await serve(world.upstream, sumdb=world.spec)
    await looked_up(host, world, 3, 290)
    records = host.server.store.records
    assert host.server.mirror is not None
    await host.server.mirror._database._saved()
    await records.trim(0)
    assert (await records.size())[0] == 0
    found = await looked_up(host, world, 3, 290)
    await host.server.stop()
    host = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert await looked_up(host, world, 3, 290) == found


async def test_tiles_used_last_stay_in_memory(
    serve: Serve, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goproxy_vm.sumdb.client.TILES", 2)
    host = await serve(world.upstream, sumdb=world.spec)
    assert host.server.mirror is not None
    database = host.server.mirror._database
    first, second, third = (Tile.parse(f"tile/8/0/00{number}") for number in range(3))
    for tile in (first, second, first, third):
        await database._widest(tile)
    assert list(database._tiles) == [first, third]


async def test_a_head_is_kept_only_with_its_tiles(
    serve: Serve, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that took the head and not the tiles would promise what is not there after a restart."""
    host = await serve(world.upstream, sumdb=world.spec)
    found = await looked_up(host, world, 3)
    head = (world.tmp_path / "cache" / "sumdb" / NAME / "latest").read_bytes()
    world.database.grow(700)

    async def fail(*_: object) -> bool:
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Records, "keep", fail)
        found += await looked_up(host, world, 290)
        assert (world.tmp_path / "cache" / "sumdb" / NAME / "latest").read_bytes() == head
    found += await looked_up(host, world, 5)
    assert (world.tmp_path / "cache" / "sumdb" / NAME / "latest").read_bytes() != head
    await host.server.stop()
    host = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert await looked_up(host, world, 3, 290, 5) == found


async def test_a_disk_that_takes_no_records_fills_no_memory(
    serve: Serve, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> bool:
        return False

    monkeypatch.setattr("goproxy_vm.sumdb.client.TILES", 8)
    monkeypatch.setattr(Records, "keep", fail)
    host = await serve(world.upstream, sumdb=world.spec)
    for number in range(40):
        await looked_up(host, world, number)
    assert host.server.mirror is not None
    assert len(host.server.mirror._database._unsaved) <= 16


@pytest.mark.parametrize("genuine", [True, False])
async def test_stored_unproven_is_proven_when_the_database_is_turned_on(
    serve: Serve, world: World, *, genuine: bool
) -> None:
    if not genuine:
        good = world.upstream.files["/example.com/m/@v/v1.0.0.mod"]
        world.upstream.files["/example.com/m/@v/v1.0.0.mod"] = good + b"// changed\n"
    before = await serve(world.upstream, sumdb=None)
    for kind in ("mod", "zip"):
        assert (await before.get(f"{M}/@v/v1.0.0.{kind}")).status == 200
    await before.server.stop()
    count = world.upstream.count("/example.com/m/@v/v1.0.0.zip")
    after = await serve(world.upstream, sumdb=world.spec)
    got = await after.get(f"{M}/@v/v1.0.0.zip")
    assert (got.status, got.body) == (200, world.upstream.files["/example.com/m/@v/v1.0.0.zip"])
    assert world.upstream.count("/example.com/m/@v/v1.0.0.zip") == count  # proven where it lay
    assert (await after.get(f"{M}/@v/v1.0.0.mod")).status == (200 if genuine else 502)
    await after.server.stop()
    offline = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert (await offline.get(f"{M}/@v/v1.0.0.zip")).status == 200
    assert (await offline.get(f"{M}/@v/v1.0.0.mod")).status == (200 if genuine else 404)


async def test_stored_unproven_is_served_as_first_seen_where_nobody_can_be_asked(
    serve: Serve, world: World
) -> None:
    before = await serve(world.upstream, sumdb=None)
    assert (await before.get(f"{M}/@v/v1.0.0.zip")).status == 200
    await before.server.stop()
    offline = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert (await offline.get(f"{M}/@v/v1.0.0.zip")).status == 200
    await offline.server.stop()
    assert world.lookups() == 0
    online = await serve(world.upstream, sumdb=world.spec)
    assert (await online.get(f"{M}/@v/v1.0.0.zip")).status == 200
    assert world.lookups() == 1
    await online.server.stop()
    again = await serve(world.upstream, sumdb=world.spec, nosumdb="example.com")
    assert (await again.get(f"{M}/@v/v1.0.0.zip")).status == 200


async def test_lookups_of_what_nobody_fetches_leave_nothing_in_the_index(host: Host, world: World) -> None:
    """Any VM can look up whatever the log has, as often as it likes."""
    store = host.server.store

    def rows() -> int:
        with closing(sqlite3.connect(world.tmp_path / "cache" / "index.db")) as database:
            return int(database.execute("SELECT count(*) FROM known").fetchone()[0])

    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    before = rows()
    assert before == 2
    for number in range(60):
        assert (await host.get(f"{world.prefix}/lookup/example.com/m{number}@v1.0.0")).status == 200
    assert rows() == before
    known = await store.known("example.com/m", "v1.0.0")
    assert known.mod_database == known.zip_database == world.database.name, (
        "what is stored is proven for good"
    )
