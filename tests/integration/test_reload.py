"""What a reload forbids: it is neither given from memory nor fetched, whatever was asked for before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from goproxy_vm.config.values import RULES
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import until
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import LOOKUP, NAME, World

M, V = "example.com/m", "v1.0.0"
INFO, MOD, ZIP = (f"/{M}/@v/{V}.{kind}" for kind in ("info", "mod", "zip"))
LIST, LATEST, RECORD = f"/{M}/@v/list", f"/{M}/@latest", f"/sumdb/{NAME}/{LOOKUP}"
FIRST = "/example.com/first/@v/list"


@pytest.fixture
def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    upstream.add_module("example.com/first", V)
    return World(upstream, tmp_path)


async def deny(host: Host, patterns: str = M) -> None:
    assert (await host.server.reload(replace(host.settings, deny=RULES.parse(patterns)))).applied == ["deny"]


@asynccontextmanager
async def no_slot(host: Host, upstream: FakeUpstream) -> AsyncIterator[None]:
    """Whoever fetches meanwhile waits for the one slot there is."""
    gate = upstream.hold(FIRST)
    first = asyncio.create_task(host.get(FIRST))
    await gate.arrived.wait()
    try:
        yield
    finally:
        gate.open()
    assert (await first).status == 200


async def waiting(host: Host, count: int) -> None:
    await until(lambda: host.server.proxy.routing.of("example.com/m").slots.waiting == count)


async def quiet(host: Host) -> None:
    """Nothing is fetched any more."""
    assert host.server.mirror is not None
    await waiting(host, 0)
    await until(lambda: not host.server.operations.fetches_in_flight)


@pytest.mark.parametrize("path", [LIST, LATEST, INFO, MOD, ZIP])
async def test_what_was_asked_for_before_is_not_given_after(serve: Serve, world: World, path: str) -> None:
    """Whatever lands is stored, not given: a rule counts from the moment it is in force."""
    host = await serve(world.upstream, sumdb=world.spec)
    gate = world.upstream.hold(path)
    asked = asyncio.create_task(host.get(path))
    await gate.arrived.wait()
    await deny(host)
    gate.open()
    assert (await asked).status == 403
    assert (await host.get(path)).status == 403
    assert (await host.get(RECORD)).status == 200, "go.sum is still checked"
    await deny(host, "")
    for _ in range(2):
        assert (await host.get(path)).status == 200
    await deny(host)
    assert (await host.get(path)).status == 403, "it was prepared"


@pytest.mark.parametrize("path", [INFO, ZIP, LIST, LATEST])
async def test_what_waits_for_its_slot_is_not_asked_for(serve: Serve, world: World, path: str) -> None:
    host = await serve(world.upstream, sumdb=world.spec, max_misses=1)
    async with no_slot(host, world.upstream):
        asked = asyncio.create_task(host.get(path))
        await waiting(host, 2 if path in (INFO, ZIP) else 1)  # the .mod beside it
        await deny(host)
    got = await asked
    assert got.status == 403
    assert "setting deny" in got.text
    await quiet(host)
    assert [each for each in world.upstream.requests if M in each] == []
    await deny(host, "")
    assert (await host.get(path)).status == 200, "it is not remembered as absent"


async def test_what_is_fetched_behind_an_answer_is_not_asked_for(serve: Serve, world: World) -> None:
    host = await serve(
        world.upstream, sumdb=world.spec, max_misses=1, fresh=0.0, stale_while_revalidate=3600.0
    )
    assert (await host.get(LIST)).status == 200
    async with no_slot(host, world.upstream):
        assert (await host.get(LIST)).headers["Cache-Status"] == "goproxy-vm; hit; detail=stale"
        await waiting(host, 1)
        await deny(host)
    await quiet(host)
    assert world.upstream.count(LIST) == 1


async def test_what_was_announced_is_not_asked_for(serve: Serve, world: World) -> None:
    host = await serve(world.upstream, sumdb=world.spec, max_misses=1)
    gate = world.upstream.hold(MOD)
    asked = asyncio.create_task(host.get(MOD))
    await gate.arrived.wait()
    held = world.upstream.hold(FIRST)
    first = asyncio.create_task(host.get(FIRST))
    await waiting(host, 1)
    gate.open()
    assert (await asked).status == 200
    await held.arrived.wait()  # its turn was before that of the .info
    await waiting(host, 1)
    await deny(host)
    held.open()
    assert (await first).status == 200
    await quiet(host)
    assert world.upstream.count(INFO) == 0
