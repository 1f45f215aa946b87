"""Carriers of the checksum database and the database itself: whom a lookup asks, and whom it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from goproxy_vm.errors import Absent, GoproxyError, Unconfirmed, Unproven
from goproxy_vm.sumdb.carriers import Carriers
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.chain import Upstreams
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.test_chain import World, fetch, first, second, world

__all__ = ["first", "second", "world"]  # fixtures

LOOKUP = "lookup/example.com/m@v1.0.0"
CARRIED = f"/sumdb/db/{LOOKUP}"
SUPPORTED = "/sumdb/db/supported"


@pytest.fixture
async def database() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


async def as_it_is(data: bytes) -> bytes:
    return data


async def ask(sources: Carriers) -> bytes:
    return await sources.fetch(LOOKUP, as_it_is)


async def sentence(sources: Carriers, family: type[GoproxyError]) -> str:
    with pytest.raises(family) as caught:
        await ask(sources)
    assert type(caught.value) is family
    return caught.value.sentence


class Both:
    """An upstream that carries the database, or not, and the database."""

    def __init__(self, upstreams: Upstreams, itself: Upstreams) -> None:
        self.upstreams = upstreams
        self.itself = itself
        self.sources = Carriers("db", upstreams, itself, FairSlots(8))

    @classmethod
    async def make(cls, world: World, carrier: FakeUpstream, database: FakeUpstream) -> Both:
        return cls(await world.make(carrier.url), await world.make(database.url))

    async def settled(self) -> None:
        """Whatever nobody waits for has ended."""
        for carrier in (*self.upstreams.carriers, *self.itself.carriers):
            await carrier.looked()


async def test_nobody_waits_for_a_dead_database_where_a_carrier_has_no_record(
    world: World, first: FakeUpstream, database: FakeUpstream
) -> None:
    first.files[SUPPORTED] = b""
    database.on("*", Reply(b"", 503))
    both = await Both.make(world, first, database)
    said = await sentence(both.sources, Unconfirmed)
    assert "404" in said
    assert "503" in said
    assert len(database.requests) == 3
    gate = database.hold("*")
    assert await sentence(both.sources, Unconfirmed) == said
    assert len(database.requests) == 3, "backed off from"
    world.now += 1.1
    assert await sentence(both.sources, Unconfirmed) == said  # while the probe is out
    await gate.arrived.wait()
    assert await sentence(both.sources, Unconfirmed) == said
    assert len(database.requests) == 4, "one probe"
    gate.open()
    await both.settled()
    assert world.counts.outcomes[-1] == (database.name, "probe")
    database.forget_rules()
    world.now += 2.1
    assert await sentence(both.sources, Unconfirmed) == said
    await both.settled()
    assert world.counts.outcomes[-1] == (database.name, "not_found")
    await sentence(both.sources, Absent)


async def test_the_404_of_an_upstream_that_does_not_carry_it_says_nothing(
    world: World, first: FakeUpstream, database: FakeUpstream
) -> None:
    database.on("*", Reply(b"", 503), times=3)
    both = await Both.make(world, first, database)
    await sentence(both.sources, Unproven)
    database.files[f"/{LOOKUP}"] = b"record"
    assert await ask(both.sources) == b"record"  # backed off from, and nothing else could answer


async def test_a_probe_ends_with_the_server(
    world: World, first: FakeUpstream, database: FakeUpstream
) -> None:
    first.files[SUPPORTED] = b""
    database.on("*", Reply(b"", 503), times=3)
    both = await Both.make(world, first, database)
    await sentence(both.sources, Unconfirmed)
    gate = database.hold("*")
    world.now += 1.1
    await sentence(both.sources, Unconfirmed)
    await gate.arrived.wait()
    async with asyncio.timeout(10):
        await both.itself.close()
        await both.settled()  # nothing is under way


async def test_a_silent_database_is_not_waited_for_when_its_carrier_fails(
    world: World, first: FakeUpstream, database: FakeUpstream
) -> None:
    first.files[SUPPORTED] = b""
    first.on(CARRIED, Reply(b"", 502))
    database.on("*", Reply(b"", length=9, send=0, then="stall"))
    both = await Both.make(world, first, database)
    said = await sentence(both.sources, Unproven)
    assert "502" in said
    assert "no byte for" in said
    asked, carried = len(database.requests), first.count(CARRIED)
    assert await sentence(both.sources, Unproven) == said
    assert len(database.requests) == asked
    assert first.count(CARRIED) > carried
    first.forget_rules()
    first.files[CARRIED] = b"record"
    assert await ask(both.sources) == b"record"


async def test_a_carrier_that_fails_is_looked_at_while_the_database_answers(
    world: World, first: FakeUpstream, database: FakeUpstream
) -> None:
    database.files[f"/{LOOKUP}"] = b"record"
    first.on(CARRIED, Reply(b"", 503), times=3)
    first.files[CARRIED] = b"record"
    both = await Both.make(world, first, database)
    for _ in range(2):
        assert await ask(both.sources) == b"record"
    assert (first.count(CARRIED), len(database.requests)) == (3, 2)
    world.now += 1.1
    assert await ask(both.sources) == b"record"
    await both.settled()
    assert await ask(both.sources) == b"record"
    assert (first.count(CARRIED), len(database.requests)) == (5, 3), "the carrier again"


async def test_an_upstream_that_cannot_carry_is_not_backed_off_from(
    world: World, first: FakeUpstream, second: FakeUpstream, database: FakeUpstream
) -> None:
    """A central server that cannot reach the database still has every module, and is up."""
    for fake in (first, second):
        fake.on("/sumdb/*", Reply(b"", 502))
    database.on("*", Reply(b"", 503))
    first.files["/m"] = b"first"
    upstreams = await world.make(f"{first.url}|{second.url}")
    sources = Carriers("db", upstreams, await world.make(database.url), FairSlots(8))
    await sentence(sources, Unproven)
    assert upstreams.carriers[0].failing
    assert [watch()[1] for watch in world.counts.watches[:2]] == [True, True]
    assert await fetch(upstreams, path="m") == b"first"
    first.on("/m", Reply(b"", 503))
    second.files["/m"] = b"second"
    second.forget_rules()
    assert await fetch(upstreams, path="m") == b"second"
    assert [watch()[1] for watch in world.counts.watches[:2]] == [False, True]


@pytest.mark.parametrize("page", [b"<!doctype html>", b" \n<html>", b'{"error": "log in"}'])
async def test_a_page_does_not_say_that_the_database_is_carried(
    world: World, first: FakeUpstream, database: FakeUpstream, page: bytes
) -> None:
    """A portal that answers everything, or a wiki that makes a page of it."""
    first.on(SUPPORTED, Reply(page))
    database.on("*", Reply(b"", 503), times=3)
    both = await Both.make(world, first, database)
    await sentence(both.sources, Unproven)
    database.files[f"/{LOOKUP}"] = b"record"
    assert await ask(both.sources) == b"record", "its 404 is none of the database"


@pytest.mark.parametrize("reply", [Reply(b"", 403), Reply(b"<html>"), Reply(b"", 500)])
async def test_whether_it_is_carried_is_not_asked_at_each_lookup(
    world: World, first: FakeUpstream, database: FakeUpstream, reply: Reply
) -> None:
    first.on(SUPPORTED, reply)
    database.on("*", Reply(b"", 503))
    both = await Both.make(world, first, database)
    for _ in range(3):
        await sentence(both.sources, Unproven)
    await asyncio.gather(*(sentence(both.sources, Unproven) for _ in range(5)))
    assert first.count(SUPPORTED) == 1


async def test_one_asks_whether_it_is_carried_for_all(
    world: World, first: FakeUpstream, database: FakeUpstream
) -> None:
    first.files[SUPPORTED] = b""
    database.on("*", Reply(b"", 503))
    both = await Both.make(world, first, database)
    await asyncio.gather(*(sentence(both.sources, Unconfirmed) for _ in range(5)))
    assert first.count(SUPPORTED) == 1
