"""Lists, infos and go.mods as long as an upstream can make them, and a second client beside."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from goproxy_vm.errors import UpstreamTimeout
from goproxy_vm.protocol import content
from goproxy_vm.sumdb.carriers import LONGEST_NOTE, LONGEST_TILE
from goproxy_vm.upstream import sink
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import Wire, until
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import LOOKUP, NAME, World
from tests.integration.test_fair import ask

M = "/example.com/m"
INFO = f"{M}/@v/v1.0.0.info"
LONG = b"".join(b"v1.%d.0\n" % n for n in range(content.MOST_VERSIONS))
LIMIT = 16 << 20
"""Bytes that Go allows for a go.mod."""
TOKEN = "0123456789abcdef"


class Turns:
    """The processor's time that the loop's turns take: it is what a second client waits for."""

    def __init__(self) -> None:
        self.longest = self.total = 0.0
        self.answered = 0


@asynccontextmanager
async def beside(host: Host) -> AsyncIterator[Turns]:
    """A second client that asks for a hit again and again, and somebody who looks at the clock each turn."""
    turns, stop = Turns(), asyncio.Event()

    async def look() -> None:
        before = time.thread_time()
        while not stop.is_set():
            await asyncio.sleep(0)
            now = time.thread_time()
            turns.longest = max(turns.longest, now - before)
            turns.total += now - before
            before = now

    async def ask() -> None:
        async with Wire(host.server.url) as wire:
            while not stop.is_set():
                wire.ask(INFO)
                assert (await wire.answer()).status == 200
                turns.answered += 1

    assert (await host.get(INFO)).status == 200
    tasks = [asyncio.create_task(look()), asyncio.create_task(ask())]
    try:
        yield turns
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_hits_beside_the_longest_list(serve: Serve, upstream: FakeUpstream) -> None:
    """One of 4.7 MB made them wait for 8 s, and again each time it was no longer fresh."""
    upstream.on("/example.com/b/@v/list", Reply(LONG))
    host = await serve(upstream, fresh=0.0, stall_timeout=10.0)
    async with beside(host) as turns:
        got = await host.get("/example.com/b/@v/list")
    assert (got.status, got.body.count(b"\n")) == (200, content.MOST_VERSIONS)
    assert turns.longest < turns.total / 8
    assert turns.answered > 50


async def test_long_lists_are_read_one_after_the_other(serve: Serve, upstream: FakeUpstream) -> None:
    """Their memory is that of one, and short ones do not wait for them."""
    upstream.on("/example.com/b*/@v/list", Reply(LONG[: len(LONG) // 5]))
    host = await serve(upstream, stall_timeout=10.0)

    async def peak(names: list[str]) -> int:
        tracemalloc.start()
        try:
            asking = [asyncio.create_task(host.get(f"/example.com/{name}/@v/list")) for name in names]
            if len(names) > 1:
                await until(lambda: upstream.count("/example.com/b*") >= len(names))
                assert (await host.get(f"{M}/@v/list")).status == 200
                assert not all(task.done() for task in asking)
            assert {got.status for got in await asyncio.gather(*asking)} == {200}
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert await peak([f"b{n}" for n in range(6)]) < 3 * await peak(["b"])


@pytest.mark.parametrize(
    ("path", "size"),
    [
        (f"{M}/@v/list", content.LONGEST_LIST),
        (f"{M}/@latest", content.LONGEST_INFO),
        (f"{M}/@v/main.info", content.LONGEST_INFO),
        (f"{M}/@v/v0.9.0.info", content.LONGEST_INFO),
    ],
)
@pytest.mark.parametrize("length", [None, -1])
async def test_what_is_longer_than_any_real_one_is_not_read(
    serve: Serve, upstream: FakeUpstream, path: str, size: int, length: int | None
) -> None:
    upstream.on(path, Reply(b"v1.0.0\n" * (size // 7 + 1), length=length))
    host = await serve(upstream)
    got = await host.get(path)
    assert (got.status, f"over the limit of {size} bytes" in got.text) == (502, True)


async def test_more_versions_than_any_real_list_has(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.on(f"{M}/@v/list", Reply(LONG + b"v2.0.0\nv1.2.3-one.more\n"))
    host = await serve(upstream)
    got = await host.get(f"{M}/@v/list")
    assert (got.status, "more than 50000 versions" in got.text) == (502, True)


async def test_hits_beside_the_longest_go_mod(serve: Serve, upstream: FakeUpstream) -> None:
    text = b"module example.com/b\n" + b"// x\n" * (1 << 20)
    upstream.on("/example.com/b/@v/v1.0.0.mod", Reply(text))
    host = await serve(upstream, stall_timeout=10.0)
    async with beside(host) as turns:
        assert (await host.get("/example.com/b/@v/v1.0.0.mod")).body == text
    assert turns.longest < turns.total / 8
    assert turns.answered > 50


def held() -> int:
    """Bytes that are in memory for fetches."""
    return sum(len(each._data) for each in gc.get_objects() if isinstance(each, sink.Buffer))


async def test_memory_of_many_large_ones(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 of 16 MiB at once took 1,450 MB; here 24 of 4 MiB, which come to a stand before their end."""
    monkeypatch.setattr(sink, "FREE", 64 << 10)
    size = 4 << 20
    body = b"module example.com/b\n" + bytes([10]) * size
    upstream.on("/example.com/b*/@v/*.mod", Reply(body, send=size - 1000, then="stall"))
    upstream.on("/example.com/large/@v/*.mod", Reply(b"module x\n" + b"\n" * (1 << 20)))
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0, max_misses=128)
    asking = [ask(host, f"/example.com/b{n}/@v/v1.0.0.mod", f"127.0.0.{2 + n % 3}") for n in range(24)]
    await until(lambda: held() >= 3 * size)
    await asyncio.sleep(0.3)  # as much as ever comes
    assert held() <= sink.LARGE * size + 24 * sink.FREE
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200  # small ones wait for none of them
    assert (await host.get(f"{M}/@v/list")).status == 200
    monkeypatch.setattr(sink, "PATIENCE", 0.1)
    got = await host.get("/example.com/large/@v/v1.0.0.mod")
    assert (got.status, "no memory" in got.text, got.headers["Retry-After"]) == (503, True, "5")
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_large_ones_take_turns(serve: Serve, upstream: FakeUpstream) -> None:
    body = b"module example.com/b\n" + b"\n" * (1 << 20)
    upstream.on("/example.com/b*/@v/*.mod", Reply(body))
    host = await serve(upstream, stall_timeout=10.0)
    got = await asyncio.gather(*(host.get(f"/example.com/b{n}/@v/v1.0.0.mod") for n in range(10)))
    assert {(each.status, len(each.body)) for each in got} == {(200, len(body))}
    assert host.server.proxy.routing.of("example.com/m").memory.held == 0


async def test_who_waits_for_large_ones_that_trickle_does_not_keep_others_from_theirs(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of one VM took all places: another's was refused after 30 s, also when the first had hung up."""
    size = content.LONGEST_LIST
    upstream.on("/example.com/b*/@v/list", Reply(b"\n" * size, send=size // 2, then="trickle"))
    upstream.on("/example.com/large*/@v/list", Reply(b"v1.0.0\n" + b"\n" * (size // 2)))
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0)
    memory = host.server.proxy.routing.of("example.com/m").memory

    asking = [ask(host, f"/example.com/b{n}/@v/list", "127.0.0.2") for n in range(6)]
    await until(lambda: memory.held == sink.LARGE // 2 and memory.wanted)
    assert (await host.get("/example.com/large1/@v/list")).status == 200

    asking += [ask(host, f"/example.com/b{n}/@v/list", f"127.0.0.{n}") for n in range(6, 9)]
    await until(lambda: memory.held == sink.LARGE)
    monkeypatch.setattr(sink, "PACE", 0.1)
    assert (await host.get("/example.com/large2/@v/list")).status == 200
    for task in asking:
        task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    slow = [each for each in answers if isinstance(each, UpstreamTimeout)]
    assert slow
    assert all("128 KiB a second" in str(each) for each in slow)


async def test_large_ones_that_nobody_waits_for_end(serve: Serve, upstream: FakeUpstream) -> None:
    size = content.LONGEST_LIST
    upstream.on("/example.com/b*/@v/list", Reply(b"\n" * size, send=size // 2, then="stall"))
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0)
    memory = host.server.proxy.routing.of("example.com/m").memory
    asking = [ask(host, f"/example.com/b{n}/@v/list", f"127.0.0.{2 + n % 2}") for n in range(6)]
    await until(lambda: memory.held == sink.LARGE and memory.wanted)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await until(lambda: memory.held == 0 and not memory.wanted)

    gate = upstream.hold("/example.com/b6/@v/list")
    small = ask(host, "/example.com/b6/@v/list", "127.0.0.2")
    await gate.arrived.wait()
    small.cancel()
    await asyncio.gather(small, return_exceptions=True)
    assert host.server.proxy.fetches_in_flight == 1, "it is not large yet"
    gate.open()
    await until(lambda: host.server.proxy.fetches_in_flight == 0)


@pytest.mark.parametrize(
    ("path", "size"), [(LOOKUP, LONGEST_NOTE), ("latest", LONGEST_NOTE), ("tile/8/0/000", LONGEST_TILE)]
)
async def test_what_a_database_sends_is_bounded(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, path: str, size: int
) -> None:
    world = World(upstream, tmp_path)
    host = await serve(world.upstream, sumdb=world.spec)
    world.upstream.on(f"/sumdb/*/{path}", Reply(b"x" * (size + 1)))
    got = await host.get(f"/sumdb/{NAME}/{path}")
    assert got.status == 502
    assert f"over the limit of {size} bytes" in got.text


async def test_hits_beside_a_thousand_globs(serve: Serve, upstream: FakeUpstream) -> None:
    """To make their expressions took a quarter of a second, on the loop."""
    host = await serve(upstream, admin_token=TOKEN)
    globs = [f"*.example.com/{n}/*[a-z]?/*@v{n}.*" for n in range(1000)]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path, body in {
        "purge": {"match": globs, "dry_run": True},
        "scrub": {"match": [f"b{each}" for each in globs]},
    }.items():
        async with beside(host) as turns, aiohttp.ClientSession(headers=headers) as session:
            url = f"{host.server.admin_url}/api/v1/{path}"
            async with session.post(url, json=body) as answer:
                assert answer.status in (200, 202)
        assert turns.longest < turns.total / 8
        assert turns.answered > 50
