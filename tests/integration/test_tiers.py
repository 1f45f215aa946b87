"""Two servers in a row: the edge waits for a central one that is at work, and for no other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Got, Host, Serve
from tests.integration.test_cases import fails
from tests.integration.test_database import LOOKUP, NAME, M, World, other

__all__ = ["other"]  # a fixture

STALL = 0.6
"""Seconds without a byte after which the edge gives up, three times over."""
PENDING = 12
"""Times that the central server says it is at work, a third of STALL apart: longer than that."""


@pytest.fixture
async def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    return World(upstream, tmp_path)


async def tiers(serve: Serve, world: World, tmp_path: Path) -> tuple[Host, Host]:
    """The central server and the edge."""
    central = await serve(
        world.upstream, sumdb=world.spec, cache_dir=tmp_path / "central", stall_timeout=60.0
    )
    edge = await serve(central.server.url, sumdb=world.spec, cache_dir=tmp_path / "edge", stall_timeout=STALL)
    return central, edge


async def told(central: Host, endpoint: str, asked: asyncio.Task[Got]) -> None:
    """Return when the edge was told often enough, or the answer is there."""
    sample = f'goproxy_vm_requests_total{{endpoint="{endpoint}",result="pending"}}'
    while not asked.done() and await central.metric(sample) < PENDING:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "endpoint", "held"),
    [
        (f"{M}/@v/v1.0.0.zip", "zip", "*.zip"),
        (f"{M}/@v/list", "list", "*/list"),
        (f"/sumdb/{NAME}/{LOOKUP}", "sumdb", "*/lookup/*"),
    ],
)
async def test_the_edge_waits_for_a_central_server_at_work(
    serve: Serve, world: World, tmp_path: Path, path: str, endpoint: str, held: str
) -> None:
    central, edge = await tiers(serve, world, tmp_path)
    gate = world.upstream.hold(held)
    asked = asyncio.create_task(edge.get(path))
    await told(central, endpoint, asked)
    assert not asked.done(), (await asked).text
    gate.open()
    assert (await asked).status == 200
    assert world.upstream.count(held) == 1
    assert (await edge.get(path)).body == (await central.get(path)).body == (await asked).body


async def test_an_edge_gets_what_became_of_it(serve: Serve, world: World, tmp_path: Path) -> None:
    central, edge = await tiers(serve, world, tmp_path)
    gate = world.upstream.hold("*.zip")
    del world.upstream.files[f"{M}/@v/v1.0.0.zip"]
    asked = asyncio.create_task(edge.get(f"{M}/@v/v1.0.0.zip"))
    await told(central, "zip", asked)
    gate.open()
    assert (await asked).status == 404


async def test_a_dead_central_server_is_given_up(
    serve: Serve, world: World, tmp_path: Path, other: FakeUpstream
) -> None:
    edge = await serve(other, cache_dir=tmp_path / "edge", stall_timeout=STALL / 3)
    other.hold("*")  # never opened
    await fails(edge, f"{M}/@v/list", 504, "no byte for 0.2 s")
    assert other.count("*/list") == 3


async def test_only_who_asks_for_it_is_told(serve: Serve, world: World, tmp_path: Path) -> None:
    central, _ = await tiers(serve, world, tmp_path)
    gate = world.upstream.hold("*/list")
    go = asyncio.create_task(central.get(f"{M}/@v/list"))
    await gate.arrived.wait()
    got = await central.get(f"{M}/@v/list", Prefer="respond-async, wait=0")
    assert got.status == 202
    assert got.headers["Preference-Applied"] == "respond-async"
    assert got.headers["Retry-After"] == "0"
    assert got.headers["Cache-Control"] == "no-store"
    assert not go.done()
    gate.open()
    assert (await go).status == 200
    got = await central.get(f"{M}/@v/list", Prefer="respond-async, wait=0")
    assert (got.status, got.body) == (200, (await go).body)
