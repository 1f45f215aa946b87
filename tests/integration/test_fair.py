"""What one greedy VM costs the others: nothing that they notice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from goproxy_vm.protocol.request import ModuleResource, parse
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.web import connection, connections
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import until
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import NAME, World

LOOKUP = "lookup/example.com/m@v1.0.0"
M = "/example.com/m"


@pytest.fixture
async def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    """An upstream that carries a checksum database, too."""
    return World(upstream, tmp_path)


def ask(host: Host, path: str, client: str) -> asyncio.Task[None]:
    """Ask as a client with that address."""

    async def get() -> None:
        resource = parse(path, NAME).resource
        if isinstance(resource, ModuleResource):
            answer = await host.server.proxy.get(resource, Asker(client))
        else:
            assert host.server.mirror is not None
            answer = await host.server.mirror.get(resource, Asker(client))
        answer.close()

    return asyncio.create_task(get())


async def test_abandoned_misses_leave_nothing(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0, max_misses=8)
    gate = upstream.hold("*")
    asking = [ask(host, f"/example.com/m{n}/@v/list", "greedy") for n in range(500)]
    await gate.arrived.wait()
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await until(lambda: host.server.proxy.fetches_in_flight == 2)  # those that have their slots
    assert upstream.count("*") == 2
    gate.open()


async def test_a_greedy_client_is_told_and_others_are_served(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0, max_misses=8)
    gate = upstream.hold("/example.com/m[0-9]*")
    asking = [ask(host, f"/example.com/m{n}/@v/list", "greedy") for n in range(2000)]
    await gate.arrived.wait()
    await until(lambda: sum(task.done() for task in asking) == 998)  # all but 1,000 waiting and 2 under way
    refused = next(task.exception() for task in asking if task.done())
    assert "1000 fetches wait for greedy already" in str(refused)
    assert (await host.get(f"{M}/@v/list")).status == 200
    gate.open()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize("path", [f"{M}/@v/list", f"{M}/@v/v1.0.0.zip", f"/sumdb/{NAME}/{LOOKUP}"])
async def test_a_popular_file_does_not_wait_for_a_greedy_client(
    serve: Serve, world: World, path: str
) -> None:
    host = await serve(
        world.upstream, sumdb=world.spec, stall_timeout=60.0, shutdown_timeout=0.0, max_misses=8
    )
    gate = world.upstream.hold("/example.com/slow*")
    asking = [ask(host, f"/example.com/slow{n}/@v/list", "greedy") for n in range(200)]
    await gate.arrived.wait()
    asking.append(ask(host, path, "greedy"))
    await until(lambda: host.server.proxy.fetches_in_flight + host.server.mirror.fetches_in_flight >= 201)
    async with asyncio.timeout(10):
        got = await host.get(path)
    assert got.status == 200
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_modules_and_the_mirror_share_the_slots(serve: Serve, world: World) -> None:
    host = await serve(
        world.upstream, sumdb=world.spec, stall_timeout=60.0, shutdown_timeout=0.0, max_misses=4
    )
    gate = world.upstream.hold("*")
    asking = [ask(host, f"/example.com/m{n}/@v/list", f"10.0.0.{n}") for n in range(3)]
    await until(lambda: world.upstream.count("*/@v/list") == 3)
    asking.append(ask(host, f"/sumdb/{NAME}/{LOOKUP}", "10.0.1.1"))
    await until(lambda: host.server.mirror.fetches_in_flight == 1)
    assert world.upstream.count("/sumdb/*") == 0
    gate.open()
    await asyncio.gather(*asking, return_exceptions=True)
    assert world.upstream.count("/sumdb/*") > 0


async def test_who_hangs_up_leaves_nothing(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PARTING", 0.0)
    monkeypatch.setattr(connections, "SWEEP", 0.01)
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0, max_misses=8)
    gate = upstream.hold("*")
    asking = [
        asyncio.create_task(host.get(f"/example.com/m{n}/@v/{file}"))
        for n in range(20)
        for file in ("list", "v1.0.0.zip")
    ]
    await until(lambda: host.server.proxy.fetches_in_flight == 60)  # each zip with its .mod
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await until(lambda: host.server.proxy.fetches_in_flight == 2)
    assert upstream.count("*") == 2
    gate.open()


class Under:
    """How many requests an upstream has at a time."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.now = self.most = 0
        self._reply = upstream.reply
        upstream.reply = self._count  # type: ignore[method-assign]

    async def _count(self, path: str) -> Reply:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.01)
            return await self._reply(path)
        finally:
            self.now -= 1


async def many(world: World, count: int) -> list[str]:
    """Modules with records all over the log, so that each proof needs tiles of its own."""
    modules = [f"example.com/n{n}" for n in range(count)]
    for module in modules:
        world.upstream.add_module(module, "v1.0.0")
        world.database.grow(60)
        world.record(module, "v1.0.0")
    return modules


@pytest.mark.parametrize("max_misses", [1, 2, 5, 16])
async def test_proofs_are_among_the_requests_that_are_bounded(
    serve: Serve, world: World, max_misses: int
) -> None:
    """By modules and by the mirror; each zip holds a slot while it waits for its proof, and gets it."""
    modules = await many(world, 24)
    host = await serve(world.upstream, sumdb=world.spec, max_misses=max_misses, stall_timeout=10.0)
    under = Under(world.upstream)
    asking = [ask(host, f"/{module}/@v/v1.0.0.zip", f"10.0.0.{n}") for n, module in enumerate(modules)]
    asking += [
        ask(host, f"/sumdb/{NAME}/lookup/{module}@v1.0.0", f"10.0.1.{n}") for n, module in enumerate(modules)
    ]
    async with asyncio.timeout(30):
        await asyncio.gather(*asking)
    assert under.most <= max(2, max_misses)


async def test_zips_that_hold_every_slot_are_proven(serve: Serve, world: World) -> None:
    modules = await many(world, 12)
    host = await serve(world.upstream, sumdb=world.spec, max_misses=8, stall_timeout=20.0, prefetch=False)
    gate = world.upstream.hold("/example.com/*")
    asking = [ask(host, f"/{module}/@v/v1.0.0.zip", f"10.0.0.{n}") for n, module in enumerate(modules)]
    await until(lambda: world.upstream.count("/example.com/*") == 6)  # all but the share of proofs
    gate.open()
    async with asyncio.timeout(30):
        await asyncio.gather(*asking)
