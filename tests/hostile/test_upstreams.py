"""Upstreams that cost more than they should: what they send must not hurt who asks for something else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import until
from tests.integration.conftest import Host, Serve

M = "/example.com/m"
CHUNKS = b"1\r\n \r\n" * 100_000


@asynccontextmanager
async def crumbling(upstream: FakeUpstream) -> AsyncIterator[str]:
    """What answers lists of ``crumbs*`` in chunks of a byte, and for all else asks the other upstream."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                if "crumbs" not in path:
                    body = upstream.files.get(path, b"")
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(10):
                    writer.write(CHUNKS)
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def signs(host: Host) -> int:
    """Grows with each byte of a body that was worked on."""
    return host.server.proxy.routing.of("example.com/m").upstreams.signs


async def test_crumbs(serve: Serve, upstream: FakeUpstream) -> None:
    """Eight bodies in chunks of a byte; what is worked on of them before another client has its hit."""
    async with crumbling(upstream) as url:
        host = await serve(url, stall_timeout=30.0, fresh=3600.0)
        assert (await host.get(f"{M}/@v/list")).status == 200
        slow = [asyncio.create_task(host.get(f"/example.com/crumbs{n}/@v/list")) for n in range(8)]
        begun = signs(host)
        await until(lambda: signs(host) > begun + 10_000)
        worked: list[int] = []
        for _ in range(20):
            before = signs(host)
            assert (await host.get(f"{M}/@v/list")).status == 200
            worked.append(signs(host) - before)
        assert not any(task.done() for task in slow)
        assert sorted(worked)[10] < 20_000, worked
        for task in slow:
            task.cancel()


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """``slow*`` is looked up as long as the test runs."""
    asked: list[str] = []
    over = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *given: Any, **more: Any) -> Any:
        if str(host).startswith("slow"):
            asked.append(str(host))
            over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "it took its time")
        return real(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    over.set()


async def test_redirects_to_names_that_nobody_knows(
    serve: Serve, upstream: FakeUpstream, slow_names: list[str]
) -> None:
    """One VM asks for what an upstream redirects to 30 such names; another one for files and a list."""
    big = f"{M}/@v/v1.0.0.zip"
    host = await serve(upstream.url.replace("127.0.0.1", "localhost"), connect_timeout=30.0, max_misses=400)
    assert (await host.get(big)).status == 200
    await until(lambda: not host.server.store.uncommitted)
    upstream.on("/example.com/slow*", lambda path: Reply(b"", 302, {"Location": f"http://slow{hash(path)}/"}))
    slow = [asyncio.create_task(host.get(f"/example.com/slow{n}/@v/list")) for n in range(30)]
    await until(lambda: len(slow_names) >= 6)
    async with asyncio.timeout(20):
        assert (await host.get(big)).body == upstream.files[big]
        assert (await host.get(f"{M}/@v/list")).status == 200
        assert (await host.get(f"{M}/@v/v0.9.0.zip")).status == 200
        assert (await asyncio.to_thread(lambda: "a file is read")) != ""
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
