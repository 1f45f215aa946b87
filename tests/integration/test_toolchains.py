"""``/vm/toolchain/``: a proven zip as a tarball, by the rules of zips."""

from __future__ import annotations

import asyncio
import io
import random
import tarfile
from pathlib import Path

import pytest

from goproxy_vm.admin.operations import Operations
from goproxy_vm.config.values import NETWORKS
from goproxy_vm.errors import Barred, Unavailable, UnderWay
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.protocol.tarball import Tarball
from goproxy_vm.prover import Repacker, TurnClaim
from goproxy_vm.prover.repacker import DEADLINE
from goproxy_vm.proxy.answer import Answer
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.toolchains import RETRY, Toolchains, zip_of
from tests.fakes.lines import logged
from tests.fakes.modules import build_zip
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Wire, until
from tests.integration.conftest import Host, Serve
from tests.integration.test_cases import fails
from tests.integration.test_database import World

MODULE = "golang.org/toolchain"
VERSION = "v0.0.1-go1.99.1.linux-amd64"
ZIP = f"/{MODULE}/@v/{VERSION}.zip"
BASE = "/vm/toolchain/go1.99.1.linux-amd64"
TARBALL, H1 = f"{BASE}.tar.gz", f"{BASE}.h1"
RESOURCE = ModuleResource(MODULE, Endpoint.ZIP, VERSION)
FILES = {
    "VERSION": b"go1.99.1\n",
    "bin/go": b"#!/bin/sh\n",
    "pkg/tool/linux_amd64/compile": random.Random(1).randbytes(700_000),
    "src/_go.mod": b"module std\n",
}


def add(world: World, version: str = VERSION, more: int = 0) -> None:
    """Have the upstream serve a toolchain, of so many bytes more, and the database record it."""
    files = {**FILES, "pkg/more": random.Random(2).randbytes(more)}
    world.upstream.add_module(MODULE, version, zipped=build_zip(MODULE, version, files))
    world.record(MODULE, version)


LARGE = "v0.0.1-go1.99.9.linux-amd64"
"""More than sockets hold for a client that reads nothing."""
LARGE_TARBALL = f"/vm/toolchain/{LARGE.removeprefix('v0.0.1-')}.tar.gz"


@pytest.fixture
async def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    world = World(upstream, tmp_path)
    add(world)
    return world


@pytest.fixture
async def host(serve: Serve, world: World) -> Host:
    return await serve(world.upstream, sumdb=world.spec)


class Held(Repacker):
    """Counts plans, and makes none before it may."""

    def __init__(self, *, deadline: float = DEADLINE) -> None:
        super().__init__(deadline=deadline)
        self.plans = 0
        self.versions: list[str] = []
        self.clients: list[str] = []
        """Who has asked for a plan, whoever makes it."""
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    def claim(self, client: str) -> TurnClaim:
        self.clients.append(client)
        return super().claim(client)

    async def plan(self, zipped: int | bytes, module: str, version: str, claim: TurnClaim) -> Tarball:
        async with claim.hold():
            self.plans += 1
            self.versions.append(version.removeprefix("v0.0.1-").removesuffix(".linux-amd64"))
            self.begun.set()
            await self.let.wait()
        return await super().plan(zipped, module, version, self.claim(claim.client))


class Own:
    """Toolchains beside those of a server, of the same store."""

    def __init__(self, host: Host, repacker: Held | None = None) -> None:
        self.repacker, self.now = repacker or Held(), 0.0
        self._toolchains = Toolchains(
            host.server.proxy, host.server.store, self.repacker, monotonic=lambda: self.now
        )

    async def get(
        self, path: str = TARBALL, patience: float | None = None, client: str = "192.0.2.1"
    ) -> Answer:
        resource = zip_of(path)
        assert resource is not None
        return await self._toolchains.get(path, resource, Asker(client, patience=patience))

    def ask(self, minor: int, client: str) -> asyncio.Task[Answer]:
        """For go1.99.MINOR."""
        return asyncio.create_task(
            self.get(f"/vm/toolchain/go1.99.{minor}.linux-amd64.tar.gz", client=client)
        )


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


async def test_it_is_the_zip_that_was_proven(host: Host, world: World) -> None:
    got = await host.get(TARBALL)
    assert (got.status, got.headers["Content-Type"]) == (200, "application/gzip")
    assert unpacked(got.body) == {f"go/{name}": data for name, data in {**FILES, "pkg/more": b""}.items()}
    assert got.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert got.headers["Cache-Status"] == "goproxy-vm; fwd=uri-miss; stored"
    again = await host.get(TARBALL)
    assert again.body == got.body
    assert again.headers["Cache-Status"] == "goproxy-vm; hit"
    assert world.upstream.count("*.zip") == 1
    head = await host.get(TARBALL, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(got.body))
    assert got.headers["ETag"] == again.headers["ETag"] == head.headers["ETag"]
    zipped = await host.get(ZIP)
    assert zipped.headers["Cache-Status"] == "goproxy-vm; hit"
    assert zipped.headers["ETag"] != got.headers["ETag"]
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="miss"}') == 1


async def test_h1_is_what_the_database_has(host: Host, world: World) -> None:
    got = await host.get(H1)
    assert (got.status, got.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    record = world.database.log.texts[world.database.log.numbers[f"{MODULE}@{VERSION}"]].decode()
    assert got.text == record.splitlines()[0].split()[2] + "\n"
    assert (await host.get(ZIP)).headers["Cache-Status"] == "goproxy-vm; hit", "asking for it has it proven"


async def test_not_modified_and_parts(host: Host) -> None:
    whole = await host.get(TARBALL)
    etag = whole.headers["ETag"]
    assert (await host.get(TARBALL, If_None_Match=etag)).status == 304
    part = await host.get(TARBALL, Range="bytes=1000-400999", If_Range=etag)
    assert (part.status, part.body) == (206, whole.body[1000:401_000])
    small = await host.get(TARBALL, Range="bytes=-100")
    assert (small.status, small.body) == (206, whole.body[-100:])
    other = await host.get(TARBALL, Range="bytes=1000-2000", If_Range='"other"')
    assert (other.status, other.body) == (200, whole.body)


@pytest.mark.parametrize(
    "path",
    [
        "go1.99.1.linux-amd64",
        "go1.99.1.linux-amd64.zip",
        "1.99.1.linux-amd64.tar.gz",
        "go1.99.1.tar.gz",
        "go1.99.1.linux-amd64.tar.gz/",
        "../toolchain/go1.99.1.linux-amd64.tar.gz",
        "go1.99.1.linux%2damd64.tar.gz",
        "go1.99.1.linux-amd64\n.h1".replace("\n", "%0a"),
        "go1.99999.1.linux-amd64.tar.gz",
        f"go1.99.1.{'l' * 17}-amd64.tar.gz",
        "",
    ],
)
async def test_other_paths(host: Host, world: World, path: str) -> None:
    assert (await host.get(f"/vm/toolchain/{path}")).status == 404
    assert world.upstream.requests == []


async def test_what_there_is_none_of(host: Host) -> None:
    await fails(host, "/vm/toolchain/go1.99.2rc1.linux-amd64.tar.gz", 404, "not found")
    await fails(host, "/vm/toolchain/go1.99.2.linux-amd64.h1", 404, "not found")
    assert (await host.get(TARBALL, method="POST")).status == 405


async def test_without_a_database_there_is_no_toolchain(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, sumdb=None)
    for path in (TARBALL, H1):
        await fails(host, path, 403, "setting sumdb")
    assert upstream.requests == []


async def test_a_zip_that_is_another(host: Host, world: World) -> None:
    world.upstream.files[ZIP] = build_zip(MODULE, VERSION, {**FILES, "bin/go": b"evil"})
    for path in (TARBALL, H1):
        await fails(host, path, 502, "h1:")


async def test_rules_of_zips_hold(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec)
    assert (await host.get(TARBALL, Disable_Module_Fetch="true")).status == 404
    assert (await host.get(TARBALL)).status == 200
    await until(lambda: not host.server.store.uncommitted)
    await host.server.stop()
    offline = await serve(world.upstream, sumdb=world.spec, offline=True)
    assert unpacked((await offline.get(TARBALL)).body)["go/VERSION"] == b"go1.99.1\n"
    assert (await offline.get(H1)).status == 200
    await fails(offline, "/vm/toolchain/go1.99.2.linux-amd64.tar.gz", 404, "offline")
    await offline.server.stop()
    denying = await serve(world.upstream, sumdb=world.spec, deny="golang.org/toolchain")
    for path in (TARBALL, H1):
        await fails(denying, path, 403, "setting deny")
    await denying.server.stop()
    networks = NETWORKS.parse("192.0.2.0/24")
    closed = await serve(world.upstream, sumdb=world.spec, allow_clients=networks)
    await fails(closed, TARBALL, 403, "allow_clients")


@pytest.mark.parametrize("rule", [MODULE, f"{MODULE}@{VERSION}"])
async def test_a_block_while_it_is_planned(serve: Serve, world: World, rule: str) -> None:
    """What is ready then is not given."""
    host = await serve(world.upstream, sumdb=world.spec, admin_token="x" * 16)
    own = Own(host)
    asked = asyncio.create_task(own.get())
    await own.repacker.begun.wait()
    body = {"kind": "block", "rule": rule, "reason": "INC-4711"}
    url, token = f"{host.server.admin_url}/api/v1/gate/rules", {"Authorization": f"Bearer {'x' * 16}"}
    async with host.session.post(url, json=body, headers=token) as got:
        assert got.status == 201
    own.repacker.let.set()
    with pytest.raises(Barred, match="INC-4711"):
        await asked
    await until(lambda: not host.server.store._core.holders.busy)


async def test_many_at_once_are_one_fetch_and_one_plan(host: Host, world: World) -> None:
    gate = world.upstream.hold("*.zip")
    own = Own(host)
    asked = [asyncio.create_task(own.get()) for _ in range(6)]
    await gate.arrived.wait()
    gate.open()
    await own.repacker.begun.wait()
    own.repacker.let.set()
    answers = [await each for each in asked]
    assert len({answer.etag for answer in answers}) == 1
    for answer in answers:
        answer.close()
    (await own.get()).close()
    assert world.upstream.count("*.zip") == 1
    assert own.repacker.plans == 1
    await until(lambda: not host.server.store._core.holders.busy)


async def test_under_way(host: Host, world: World) -> None:
    """Who would rather ask again is told so, while it is fetched and while it is planned."""
    gate = world.upstream.hold("*.zip")
    got = await host.get(TARBALL, Prefer="respond-async, wait=0")
    assert got.status == 202
    gate.open()
    assert (await host.get(TARBALL)).status == 200


async def test_a_purge_in_the_middle(serve: Serve, world: World) -> None:
    """Who is being sent it gets all of it; who asks then has it fetched again."""
    add(world, LARGE, 16 << 20)
    host = await serve(world.upstream, sumdb=world.spec)
    whole = (await host.get(LARGE_TARBALL)).body
    operations = Operations(host.server.store, host.server.proxy, "0", lambda: 0)
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        wire.ask(LARGE_TARBALL)
        head = await wire.head()
        await operations.purge_version(MODULE, LARGE, forget_hash=False)
        assert not list((world.tmp_path / "cache" / "modules").rglob("*.zip"))
        assert host.server.store.usage.lingering > 0
        body = await wire.reader.readexactly(int(head.headers["Content-Length"]))
    assert body == whole
    await until(lambda: host.server.store.usage.lingering == 0)
    assert (await host.get(LARGE_TARBALL)).body == whole
    assert world.upstream.count("*.zip") == 2


async def test_who_hangs_up_leaves_nothing_open(host: Host, world: World) -> None:
    add(world, LARGE, 16 << 20)
    assert (await host.get(LARGE_TARBALL)).status == 200
    holders = host.server.store._core.holders
    for _ in range(3):
        async with Wire(host.server.url, receive_buffer=4096) as wire:
            wire.ask(LARGE_TARBALL)
            await wire.head()
            assert holders.busy
    await until(lambda: not holders.busy)
    assert (await host.get(LARGE_TARBALL)).status == 200


async def test_who_takes_nothing_is_cut_off(
    serve: Serve, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    add(world, LARGE, 16 << 20)
    host = await serve(world.upstream, sumdb=world.spec, send_timeout=0.5)
    holders = host.server.store._core.holders
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        wire.ask(LARGE_TARBALL)
        await wire.head()
        await until(lambda: not holders.busy)
    assert "send without progress" in logged(caplog)


async def test_hits_go_on_while_it_is_planned(host: Host) -> None:
    """A plan that does not come to its end holds up nobody but those who want it."""
    own = Own(host)
    waiting = asyncio.create_task(own.get())
    await own.repacker.begun.wait()
    assert (await host.get(ZIP)).headers["Cache-Status"] == "goproxy-vm; hit"
    assert (await host.get("/example.com/m/@v/v1.0.0.mod")).status == 200
    assert (await host.get(H1)).status == 200
    assert not waiting.done()
    with pytest.raises(UnderWay):
        await own.get(patience=0.0)
    own.repacker.let.set()
    (await waiting).close()


async def test_a_plan_goes_on_when_whoever_wanted_it_leaves(host: Host) -> None:
    own = Own(host)
    leaving = asyncio.create_task(own.get())
    await own.repacker.begun.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    assert host.server.store._core.holders.busy == 1
    own.repacker.let.set()
    await until(lambda: not host.server.store._core.holders.busy)
    (await own.get()).close()
    assert own.repacker.plans == 1


@pytest.fixture
async def stored(host: Host, world: World) -> Host:
    """It has go1.99.1 to go1.99.6."""
    for minor in range(1, 7):
        add(world, f"v0.0.1-go1.99.{minor}.linux-amd64")
        await host.get(f"/{MODULE}/@v/v0.0.1-go1.99.{minor}.linux-amd64.zip")
    return host


async def test_who_joins_a_plan_lends_its_turn(stored: Host) -> None:
    """A client with many of them costs another one of them, though it was quicker to ask for the same."""
    own = Own(stored)
    asked = [own.ask(1, "192.0.2.1")]
    await own.repacker.begun.wait()
    for minor in (2, 3, 4, 5):
        asked.append(own.ask(minor, "192.0.2.1"))
        await until(lambda: stored.server.store._core.holders.busy == len(asked))
    asked.append(own.ask(5, "192.0.2.2"))
    await until(lambda: "192.0.2.2" in own.repacker.clients)
    own.repacker.let.set()
    for each in asked:
        (await each).close()
    assert own.repacker.versions == ["go1.99.1", "go1.99.2", "go1.99.5", "go1.99.3", "go1.99.4"]


async def test_what_waits_and_nobody_wants_is_not_planned(stored: Host) -> None:
    own = Own(stored)
    first = own.ask(1, "192.0.2.1")
    await own.repacker.begun.wait()
    holders = stored.server.store._core.holders
    left = [own.ask(minor, "192.0.2.1") for minor in (2, 3, 4)]
    await until(lambda: holders.busy == 4)
    for each in left:
        each.cancel()
    await asyncio.wait(left)
    await until(lambda: holders.busy == 1)
    own.repacker.let.set()
    (await first).close()
    (await own.ask(5, "192.0.2.1")).close()
    assert own.repacker.versions == ["go1.99.1", "go1.99.5"]


@pytest.mark.parametrize(
    ("repacker", "why"),
    [
        (Repacker(deadline=0), "it took more than 0 s"),
        (Repacker(memory_limit=1 << 20), "(Can't allocate memory|MemoryError|the process that does it died)"),
    ],
)
async def test_a_plan_that_cannot_be_made(
    host: Host, caplog: pytest.LogCaptureFixture, repacker: Repacker, why: str
) -> None:
    toolchains = Toolchains(host.server.proxy, host.server.store, repacker)
    with pytest.raises(Unavailable, match=f"cannot make a tar.gz of the zip: {why}"):
        await toolchains.get(TARBALL, RESOURCE, Asker("192.0.2.1"))
    assert "toolchain not repacked" in logged(caplog)
    await until(lambda: not host.server.store._core.holders.busy)


async def test_a_plan_that_takes_too_long() -> None:
    """Of the processor's time, of which a busy host leaves it little: it may take a while in all."""
    zipped = build_zip(MODULE, VERSION, {**FILES, "pkg/zeros": bytes(64 << 20)})
    repacker = Repacker(cpu_limit=0.01)
    with pytest.raises(Unavailable, match=r"it takes more than 0\.01 s of the processor's time"):
        await repacker.plan(zipped, MODULE, VERSION, repacker.claim(""))


async def test_a_plan_that_failed_is_not_tried_again_at_once(host: Host) -> None:
    own = Own(host, Held(deadline=0))
    own.repacker.let.set()
    for own.now, plans in ((0.0, 1), (1.0, 1), (RETRY - 1, 1), (RETRY, 2), (RETRY + 1, 2)):
        with pytest.raises(Unavailable, match="of the zip: it took more than 0 s"):
            await own.get()
        assert own.repacker.plans == plans
    await until(lambda: not host.server.store._core.holders.busy)


async def test_plans_of_what_is_no_zip(tmp_path: Path) -> None:
    repacker = Repacker()
    with pytest.raises(Unavailable, match="not a valid zip file"):
        await repacker.plan(b"no zip", MODULE, VERSION, repacker.claim(""))
    file = tmp_path / "zip"
    file.write_bytes(build_zip(MODULE, VERSION, FILES))
    with file.open("rb") as opened:
        opened.seek(1000)
        plan = await repacker.plan(opened.fileno(), MODULE, VERSION, repacker.claim(""))
        assert opened.tell() == 1000
    same = await repacker.plan(file.read_bytes(), MODULE, VERSION, repacker.claim(""))
    assert plan.to_bytes() == same.to_bytes()


async def test_the_last_plans_are_kept(host: Host, world: World) -> None:
    own = Own(host)
    own.repacker.let.set()
    for i in range(2, 7):
        version = f"v0.0.1-go1.99.{i}.linux-amd64"
        add(world, version)
        (await own.get(f"/vm/toolchain/{version.removeprefix('v0.0.1-')}.tar.gz")).close()
    for i, plans in ((6, 5), (3, 5), (2, 6)):
        (await own.get(f"/vm/toolchain/go1.99.{i}.linux-amd64.tar.gz")).close()
        assert own.repacker.plans == plans
