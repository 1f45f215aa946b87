"""However many ask for one thing at once, the upstream is asked once, and nobody else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy_vm import server as server_module
from goproxy_vm.cache.answers import Answers
from goproxy_vm.cache.store import Store
from goproxy_vm.config import Settings
from goproxy_vm.observe.metrics import Metrics
from goproxy_vm.protocol.request import SumdbResource, parse
from goproxy_vm.prover import ZipProver
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.gate import Gate
from goproxy_vm.proxy.mirror import SumdbMirror
from goproxy_vm.proxy.proxy import Proxy
from goproxy_vm.sumdb.carriers import Carriers
from goproxy_vm.sumdb.client import ChecksumDatabase
from goproxy_vm.sumdb.proof import Proofs
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.chain import Upstreams
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.spec import parse_upstreams
from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import LOOKUP, NAME, World

VMS = 10_000
SOCKETS = 500
M = "/example.com/m"


@pytest.fixture
async def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    return World(upstream, tmp_path)


@dataclass
class Inside:
    """The proxy and the mirror as the server builds them, without the sockets of their clients."""

    proxy: Proxy
    mirror: SumdbMirror

    async def get(self, path: str, client: str) -> bytes:
        """What one client gets, whole."""
        resource = parse(path, NAME).resource
        asker = Asker(client)
        if isinstance(resource, SumdbResource):
            answer = await self.mirror.get(resource, asker)
        else:
            answer = await self.proxy.get(resource, asker)
        try:
            return answer.body if isinstance(answer.body, bytes) else answer.body.pread(0, answer.body.length)
        finally:
            answer.close()


@pytest.fixture
async def inside(world: World, tmp_path: Path) -> AsyncIterator[Inside]:
    settings = Settings(cache_dir=tmp_path / "cache", upstream=world.upstream.url, sumdb=world.spec)
    metrics = Metrics("test")
    async with AsyncExitStack() as stack:
        store = await Store.open(settings.cache_dir)
        stack.push_async_callback(store.close)
        upstreams = Upstreams(parse_upstreams(settings.upstream), Timeouts(5, 30, 60), metrics, "here")
        itself = Upstreams(parse_upstreams(f"http://{NAME}"), Timeouts(5, 30, 60), metrics, "here")
        for chain in (upstreams, itself):
            await chain.start()
            stack.push_async_callback(chain.close)
        slots = FairSlots(settings.max_misses, 1)
        carriers = Carriers(NAME, upstreams, itself, slots)
        database = ChecksumDatabase(world.spec, settings, store, carriers, metrics)
        await database.open()
        stack.push_async_callback(database.close)
        proofs = Proofs(settings, store, database, metrics)
        gate = Gate(settings)
        proxy = Proxy(settings, gate, store, upstreams, ZipProver(), proofs, slots)
        stack.push_async_callback(proxy.close)
        mirror = SumdbMirror(settings, gate, database, proofs, slots)
        stack.push_async_callback(mirror.close)
        yield Inside(proxy, mirror)


def address(number: int) -> str:
    return f"10.0.{number >> 8}.{number & 255}"


@pytest.mark.parametrize(
    "path",
    [
        f"/sumdb/{NAME}/{LOOKUP}",
        pytest.param(f"/sumdb/{NAME}/latest", marks=pytest.mark.soak),
        pytest.param(f"{M}/@v/v1.0.0.mod", marks=pytest.mark.soak),
        f"{M}/@v/list",
    ],
)
async def test_ten_thousand_vms_cost_one_upstream_request(inside: Inside, world: World, path: str) -> None:
    gate = world.upstream.hold(path)
    asking = [asyncio.create_task(inside.get(path, address(number))) for number in range(VMS)]
    await gate.arrived.wait()
    assert len(asking) == VMS
    gate.open()
    answers = set(await asyncio.gather(*asking))
    assert len(answers) == 1
    assert b"" not in answers
    assert world.upstream.count(path) == 1
    assert len(world.upstream.requests) == len(set(world.upstream.requests))


@pytest.mark.parametrize(
    "path", [f"/sumdb/{NAME}/{LOOKUP}", f"{M}/@v/v1.0.0.mod", f"{M}/@v/v1.0.0.zip", f"{M}/@v/list"]
)
async def test_five_hundred_connections_cost_one_upstream_request(
    serve: Serve, world: World, path: str
) -> None:
    host = await serve(world.upstream, sumdb=world.spec, stall_timeout=30.0)
    sent = asyncio.Semaphore(0)

    async def count(*_: Any) -> None:
        sent.release()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(count)
    gate = world.upstream.hold(path)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), trace_configs=[trace]
    ) as session:
        asking = [asyncio.create_task(Host(host.server, session).get(path)) for _ in range(SOCKETS)]
        for _ in range(SOCKETS):
            await sent.acquire()
        await gate.arrived.wait()
        gate.open()
        answers = await asyncio.gather(*asking)
    assert {got.status for got in answers} == {200}
    assert len({got.body for got in answers}) == 1
    assert world.upstream.count(path) == 1


async def test_one_slow_lookup_holds_up_no_other(serve: Serve, world: World) -> None:
    """Those who wait for one record share one slot, though they be more than one address has slots."""
    host = await serve(world.upstream, sumdb=world.spec, max_misses=8, stall_timeout=30.0)
    gate = world.upstream.hold(f"/sumdb/{NAME}/{LOOKUP}")
    slow = [asyncio.create_task(host.get(f"/sumdb/{NAME}/{LOOKUP}")) for _ in range(20)]
    await gate.arrived.wait()
    for number in range(5):
        got = await host.get(f"/sumdb/{NAME}/lookup/example.com/m{number}@v1.0.0")
        assert got.status == 200
    assert not any(task.done() for task in slow)
    gate.open()
    assert {(await task).status for task in slow} == {200}


async def test_no_slot_for_a_lookup_in_time(
    serve: Serve, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host is busy, which is no fault of the database's: the VM is told to come back."""
    made: list[SumdbMirror] = []

    def keep(*args: Any) -> SumdbMirror:
        made.append(SumdbMirror(*args))
        return made[-1]

    monkeypatch.setattr(server_module, "SumdbMirror", keep)
    host = await serve(world.upstream, sumdb=world.spec, max_misses=1, total_timeout=0.3)
    async with made[0]._slots.claim("another client").hold(60):
        got = await host.get(f"/sumdb/{NAME}/{LOOKUP}")
        assert (got.status, got.headers["Retry-After"]) == (503, "5")
        assert "no slot for a fetch came free within 0.3 s" in got.text
    assert (await host.get(f"/sumdb/{NAME}/{LOOKUP}")).status == 200


async def test_server_stops_while_a_lookup_is_under_way(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec, stall_timeout=30.0, shutdown_timeout=0.1)
    gate = world.upstream.hold(f"/sumdb/{NAME}/{LOOKUP}")
    slow = asyncio.create_task(host.get(f"/sumdb/{NAME}/{LOOKUP}"))
    await gate.arrived.wait()
    await host.server.stop()
    with pytest.raises(aiohttp.ClientError):
        await slow


Look = Callable[[Any, str], Awaitable[Any]]


@pytest.mark.parametrize(
    ("path", "owner"),
    [(f"{M}/@v/v1.0.0.mod", Store), (f"{M}/@v/list", Answers)],
    ids=["file", "document"],
)
async def test_flight_that_lands_between_look_and_start_is_found(
    inside: Inside, world: World, monkeypatch: pytest.MonkeyPatch, path: str, owner: Any
) -> None:
    """A request has looked and found nothing; before it goes on, another's fetch is over."""
    looked, landed = asyncio.Event(), asyncio.Event()
    look: Look = owner.get

    async def slow_look(store: Any, key: str) -> Any:
        found = await look(store, key)
        if not looked.is_set():
            looked.set()
            await landed.wait()
        return found

    monkeypatch.setattr(owner, "get", slow_look)
    late = asyncio.create_task(inside.get(path, "10.0.0.1"))
    await looked.wait()
    first = await inside.get(path, "10.0.0.2")
    landed.set()
    assert await late == first
    assert world.upstream.count(path) == 1
