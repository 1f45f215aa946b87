"""HTTP as ``go`` takes it, whatever stands between us and a file: proxies, redirects, heads, encodings."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.errors import StartError, UpstreamError
from goproxy_vm.upstream import http, resolver
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import until
from tests.integration.test_chain import (
    PATH,
    Tls,
    World,
    certificate,
    closed_port,
    failure,
    fetch,
    fetch_ignoring,
    first,
    second,
    tls,
    world,
)

__all__ = ["certificate", "first", "second", "tls", "world"]  # fixtures


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")


# Proxies and credentials.


async def test_a_proxy_without_a_scheme(
    world: World, second: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"us%40er:pass@{second.name}")
    assert await fetch(await world.make("http://upstream.invalid")) == b"from second"
    assert second.heads[0].startswith(f"GET http://upstream.invalid/{PATH} ".encode())
    assert b"Proxy-Authorization: Basic dXNAZXI6cGFzcw==\r\n" in second.heads[0]


async def test_no_proxy_towards_this_host(
    world: World, first: FakeUpstream, second: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", second.url)
    first.files[f"/{PATH}"] = b"directly"
    assert await fetch(await world.make(first.url)) == b"directly"


async def test_a_redirect_goes_by_the_rules_for_its_own_host(
    world: World, first: FakeUpstream, second: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", second.url)
    first.on("*", Reply(b"", 302, {"Location": "http://storage.invalid/x"}))
    assert await fetch(await world.make(first.url)) == b"from second"
    assert second.heads[0].startswith(b"GET http://storage.invalid/x ")


async def test_a_proxy_by_https(
    world: World, certificate: Path, second: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        monkeypatch.setenv("HTTP_PROXY", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await fetch(await world.make("http://upstream.invalid", ca_file=certificate)) == b"ok"
    assert heads[0].startswith(b"GET http://upstream.invalid/")


async def test_a_tunnel_through_a_proxy(
    world: World, certificate: Path, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await tls(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok")
    heads: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        there = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as server:
        monkeypatch.setenv("https_proxy", f"me:pass@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        upstreams = await world.make("https://upstream.invalid", ca_file=certificate)
        assert await fetch(upstreams) == b"ok"
        await upstreams.close()
    assert heads[0].startswith(b"CONNECT upstream.invalid:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==\r\n" in heads[0]


async def test_a_start_names_the_proxy_that_cannot_be_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(StartError) as caught:
        await world.make("http://127.0.0.1:1")
    assert caught.value.sentence.startswith("HTTPS_PROXY: ")
    assert "socks5://" in caught.value.sentence
    assert "secret" not in caught.value.sentence


async def test_netrc_is_for_the_upstream_alone(
    world: World, first: FakeUpstream, second: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(file))
    first.on("*", Reply(b"", 302, {"Location": f"{second.url}/x"}))
    assert await fetch(await world.make(first.url)) == b"from second"
    assert b"Authorization: Basic bWU6c2VjcmV0" in first.heads[0]
    assert b"Authorization" not in second.heads[0]


# Redirects.


async def test_a_redirects_host_that_fails_is_named_and_to_blame(
    world: World, first: FakeUpstream, second: FakeUpstream
) -> None:
    storage = f"127.0.0.1:{closed_port()}"
    first.on("*.zip", Reply(b"", 302, {"Location": f"http://{storage}/x"}))
    first.files["/other"] = b"first"
    alone = await world.make(first.url)
    assert (
        await failure(alone, UpstreamError, path="a.zip")
        == f"{first.name}: redirected to {storage}: cannot connect: Connection refused"
    )
    assert [outcome for _, outcome in world.counts.outcomes] == ["redirect"] * 3
    assert not alone.resting
    assert "cannot connect" in await failure(alone, UpstreamError, path="a.zip")
    assert first.count("*.zip") == 4, "one try while it is backed off from"
    both = await world.make(f"{first.url}|{second.url}")
    assert await fetch(both, path="a.zip") == b"from second"
    before = first.count("*.zip")
    assert await fetch(both, path="a.zip") == b"from second"
    assert first.count("*.zip") == before + 1
    assert await fetch(both, path="other") == b"first", "the registry is not backed off from"


async def test_a_backed_off_host_is_asked_if_nothing_else_can_answer(
    world: World, first: FakeUpstream, second: FakeUpstream
) -> None:
    async with FakeUpstream() as storage:
        first.on("*", Reply(b"", 302, {"Location": f"{storage.url}/x"}))
        storage.on("*", Reply(b"", 503), times=3)
        both = await world.make(f"{first.url}|{second.url}")
        assert await fetch(both) == b"from second"
        second.on("*", Reply(b"", 404))
        storage.files["/x"] = b"stored"
        assert await fetch(both) == b"stored"
        second.forget_rules()
        asked = len(second.requests)
        assert await fetch(both) == b"stored", "it has answered: the back-off is over"
        assert len(second.requests) == asked


async def test_hosts_elsewhere_are_bounded(
    world: World, first: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ELSEWHERE", 2)
    port, numbers = closed_port(), iter(range(2, 100))
    first.on("*", lambda _: Reply(b"", 302, {"Location": f"http://127.0.0.{next(numbers)}:{port}/"}))
    upstreams = await world.make(first.url)
    for _ in range(3):
        await fetch_ignoring(upstreams)
    source = upstreams._upstreams[0].source
    assert isinstance(source, http.HttpUpstream)
    assert len(source._elsewhere) == 2


# Heads.


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Long": "x" * 9000},
        {"X-Long": "x" * 100_000},
        {f"X-{number}": "y" for number in range(200)},
        {"Content-Length": "11"},
        {"content-length": " 11 "},
    ],
)
async def test_heads_as_go_takes_them(world: World, first: FakeUpstream, headers: dict[str, str]) -> None:
    first.on("*", Reply(b"from first\n", headers=headers))
    upstreams = await world.make(first.url)
    for _ in range(2):  # the second time by the same connection
        assert await fetch(upstreams) == b"from first\n"


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "10"}, {"X-Long": "x" * (2 << 20)}, dict.fromkeys(map(str, range(20_000)), "x")],
)
async def test_heads_that_are_not_taken(world: World, first: FakeUpstream, headers: dict[str, str]) -> None:
    first.on("*", Reply(b"from first\n", headers=headers))
    assert "no valid HTTP" in await failure(await world.make(first.url), UpstreamError)


async def test_interim_answers_are_passed_over(world: World) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Le")
            await writer.drain()
            writer.write(b"ngth: 2\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        upstreams = await world.make(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await fetch(upstreams) == b"ok"
        assert await fetch(upstreams) == b"ok"


# Bodies.


@pytest.mark.parametrize(
    "rest",
    [b"zz\r\n", b"0\r\nX-Long: " + b"x" * (2 << 20), b"0\r\n" + b"X: x\r\n" * 20_000, b"0\r\nno field\r\n"],
    ids=["chunk", "long trailer", "many trailers", "no trailer"],
)
async def test_a_body_that_ends_in_no_http(world: World, rest: bytes) -> None:
    """It is noticed when it comes, however much was read before: not at ``total_timeout``."""
    read = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(1000):
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        await read.wait()
        writer.write(rest)
        await asyncio.gather(reader.read(), return_exceptions=True)  # it is not for this side to close
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        upstreams = await world.make(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(10):
            failed = asyncio.create_task(failure(upstreams, UpstreamError))
            await until(lambda: upstreams.signs > 0)
            read.set()
            assert re.search("was cut off before its end|no valid HTTP", await failed)


# Encodings.


@pytest.mark.parametrize("encoding", ["", "identity", "aws-chunked", "UTF-8", "br", "none", "x-y, gzip"])
async def test_an_encoding_that_means_nothing(world: World, first: FakeUpstream, encoding: str) -> None:
    first.on("*", Reply(b"v1.0.0\n", headers={"Content-Encoding": encoding}))
    assert await fetch(await world.make(first.url)) == b"v1.0.0\n"


async def test_empty_gzip_members_have_an_end(world: World, first: FakeUpstream) -> None:
    """They bring no bytes, and never an end: what was sent counts, too."""
    body = gzip.compress(b"") * 1000
    first.on("*", Reply(body, length=-1, headers={"Content-Encoding": "GZIP"}))
    assert await fetch(await world.make(first.url), limit=len(body)) == b""
    with pytest.raises(UpstreamError, match=f"limit of {len(body) - 1} bytes"):
        await fetch(await world.make(first.url), limit=len(body) - 1)


# Names.


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Name servers: ``quick.*`` is this host, ``slow.*`` is looked up as long as the test runs."""
    asked: list[str] = []
    over = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *given: Any, **more: Any) -> Any:
        asked.append(str(host))
        if "slow" in str(host):
            over.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "it took its time")
        return real("127.0.0.1" if "quick" in str(host) else host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    over.set()


async def slow_fetches(world: World, first: FakeUpstream, count: int) -> AsyncIterator[asyncio.Task[bytes]]:
    numbers = iter(range(1000))
    first.on("*", lambda _: Reply(b"", 302, {"Location": f"http://slow{next(numbers)}.example/"}))
    upstreams = await world.make(first.url)
    for _ in range(count):
        yield asyncio.create_task(fetch(upstreams))


async def test_slow_names_hold_up_no_others(
    world: World, first: FakeUpstream, second: FakeUpstream, names: list[str]
) -> None:
    slow = [task async for task in slow_fetches(world, first, 40)]
    await until(lambda: sum("slow" in name for name in names) >= 6)
    quick = await world.make(second.url.replace("127.0.0.1", "quick.example"))
    async with asyncio.timeout(1.5):  # less than it takes to give up the slow ones
        assert await fetch(quick) == b"from second"
        assert await asyncio.to_thread(lambda: 1) == 1, "nor files, which are read in the loop's own threads"
    for task in slow:
        with pytest.raises(UpstreamError, match="redirected to slow"):
            await task


async def test_slow_names_are_bounded(
    world: World, first: FakeUpstream, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MOST", 5)
    slow = [task async for task in slow_fetches(world, first, 8)]
    for task in slow:
        with pytest.raises(UpstreamError, match=r"cannot be resolved|no connection within"):
            await task
    assert sum("slow" in name for name in names) == 5
    own = await world.make(first.url.replace("127.0.0.1", "quick.example"))
    first.forget_rules()
    first.files[f"/{PATH}"] = b"first"
    assert await fetch(own) == b"first", "configured hosts find a thread in any case"
