"""Clients that ask and do not read, or sip."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from goproxy_vm.cache.store import Store
from goproxy_vm.config.address import Address
from goproxy_vm.proxy import documents
from goproxy_vm.web import connection, connections
from tests.fakes.lines import logged
from tests.fakes.stores import artifact
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import Wire, until
from tests.hostile.conftest import Inside
from tests.integration.conftest import Host, Serve

M = "/example.com/m"
SMALL = "/example.com/small/@v/v1.0.0.zip"
BIG = "/example.com/big/@v/v1.0.0.zip"
SIZES = {SMALL: 60_000, BIG: 16 << 20}


@pytest.fixture
async def stored(tmp_path: Path) -> dict[str, bytes]:
    """A small and a large file, where the server will find them."""
    found = {}
    store = await Store.open(tmp_path / "cache")
    try:
        for path, size in SIZES.items():
            found[path] = random.Random(size).randbytes(size)
            download = store.download()
            await download.begin(size)
            await download.write(found[path])
            (await store.adopt(artifact(path[1:]), download, h1="h1:x")).close()
    finally:
        await store.close()
    return found


async def still_served(host: Host) -> None:
    async with Wire(host.server.url) as other:
        other.ask(SMALL)
        assert len((await other.answer()).body) == SIZES[SMALL]


async def asks(wire: Wire, path: str, times: int) -> None:
    """Ask one request a segment."""
    for _ in range(times):
        wire.ask(path)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_asks_and_never_reads(serve: Serve, inside: Inside, stored: dict[str, bytes]) -> None:
    """Each request a segment of its own: 18 MB of answers for 20 kB."""
    host = await serve("http://127.0.0.1:9", offline=True)
    await still_served(host)  # prepared from here on
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        await asks(wire, SMALL, 300)
        await until(lambda: any(each._stuffed for each in inside.all))
        await still_served(host)
        assert inside.buffered() <= connection.MOST_WAITING + SIZES[SMALL] + 1000
        assert inside.held() < 2 * connection.LONGEST_HEAD
        for _ in range(300):  # all are answered, once they are read
            assert (await wire.answer()).body == stored[SMALL]


async def test_a_document_is_not_copied_for_who_does_not_read(
    serve: Serve, inside: Inside, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of 4 MB, more than kernels hold, asked for by ten who do not read: on both ways, for the first
    asks aiohttp."""
    monkeypatch.setattr(documents, "LONGEST_LIST", 8 << 20)
    lines = b"".join(b"v1.0.%d-%b\n" % (number, b"x" * 190) for number in range(20_000))
    upstream.on(f"{M}/@v/list", Reply(lines))
    host = await serve(upstream, fresh=60.0, stall_timeout=10.0)
    await host.get(f"{M}/@v/list")
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(Wire(host.server.url, receive_buffer=4096)) for _ in range(10)
        ]
        for number, wire in enumerate(wires):
            wire.ask(f"{M}/@v/list", *(["Connection: keep-alive"] if number % 2 else []))
        await until(lambda: sum(each._stuffed for each in inside.all) == 10)
        assert inside.buffered() <= 10 * (128 << 10)
        for wire in wires:
            assert len((await wire.answer()).body) > 2 << 20


async def test_ranges_that_nobody_reads(serve: Serve, inside: Inside, stored: dict[str, bytes]) -> None:
    host = await serve("http://127.0.0.1:9", offline=True)
    await still_served(host)
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(Wire(host.server.url, receive_buffer=4096)) for _ in range(20)
        ]
        tracemalloc.start()
        try:
            for wire in wires:
                wire.ask(BIG, "Range: bytes=1-")
            for wire in wires:
                assert (await wire.head()).status == 206
            await asyncio.sleep(0.1)  # what is sent at once has gone
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 20 * (64 << 10)
        await still_served(host)
        async with asyncio.timeout(10):
            assert await wires[0].reader.readexactly(SIZES[BIG] - 1) == stored[BIG][1:]


@pytest.mark.parametrize("local", [False, True])
async def test_sipping_is_no_progress(
    serve: Serve,
    inside: Inside,
    stored: dict[str, bytes],
    tmp_path: Path,
    quick: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    local: bool,
) -> None:
    """Some bytes now and then, a fifth of the least rate, and a new request each time."""
    monkeypatch.setattr(connections, "LEAST_RATE", 4 << 20)
    more = {"listen": (Address("", 0, str(tmp_path / "socket")),)} if local else {}
    host = await serve("http://127.0.0.1:9", offline=True, send_timeout=0.3, **more)
    async with Wire(host.server.url, receive_buffer=None if local else 4096) as wire:
        wire.ask(BIG)
        await wire.head()
        taken = 0
        try:
            while "send without progress" not in logged(caplog) and taken < SIZES[BIG]:
                taken += len(await wire.reader.read(8 << 10))
                wire.ask(SMALL)
                await asyncio.sleep(0.01)
        except ConnectionError:
            await until(lambda: "send without progress" in logged(caplog))
        assert "send without progress" in logged(caplog)
        assert taken < SIZES[BIG]
    await until(lambda: not inside.all)
    assert "Traceback" not in caplog.text


async def test_more_requests_are_no_progress(
    serve: Serve, inside: Inside, stored: dict[str, bytes], quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits for the client grows: that is not what it takes."""
    host = await serve("http://127.0.0.1:9", offline=True, send_timeout=0.3)
    await still_served(host)
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        for _ in range(300):
            wire.ask(SMALL)
            await asyncio.sleep(0.01)
            if "send without progress" in logged(caplog):
                break
        assert "send without progress" in logged(caplog)
