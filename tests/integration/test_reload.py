"""What a reload forbids: it is neither given from memory nor fetched, whatever was asked for before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import LOOKUP, NAME, World

M = "example.com/m"
LIST, LATEST, RECORD = f"/{M}/@v/list", f"/{M}/@latest", f"/sumdb/{NAME}/{LOOKUP}"


@pytest.fixture
def world(upstream: FakeUpstream, tmp_path: Path) -> World:
    return World(upstream, tmp_path)


async def deny(host: Host, patterns: str = M) -> None:
    assert (await host.server.reload(replace(host.server._settings, deny=patterns))).applied == ["deny"]


@pytest.mark.parametrize("path", [LIST, LATEST, RECORD])
async def test_what_was_asked_for_before_is_not_given_after(serve: Serve, world: World, path: str) -> None:
    """A record would have been given for good, a list for as long as it is fresh."""
    host = await serve(world.upstream, sumdb=world.spec)
    gate = world.upstream.hold(path)
    asked = asyncio.create_task(host.get(path))
    await gate.arrived.wait()
    await deny(host)
    gate.open()
    assert (await asked).status == 200
    assert (await host.get(path)).status == 403
    await deny(host, "")
    for _ in range(2):
        assert (await host.get(path)).status == 200
    await deny(host)
    assert (await host.get(path)).status == 403, "it was prepared"
