"""Requests that ``go`` never sends: heads without an end, pipelines, bodies that nobody wants."""

from __future__ import annotations

import asyncio
import gzip
import logging
from contextlib import AsyncExitStack

import pytest

from goproxy_vm.web.connection import LONGEST_HEAD
from goproxy_vm.web.http_protocol import HttpProtocol
from tests.fakes.lines import logged
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Wire, until
from tests.hostile.conftest import Inside
from tests.integration.conftest import Host, Serve

M = "/example.com/m"
MOD = f"{M}/@v/v1.0.0.mod"
FIELD = b"X-Some-Field: " + b"y" * 4000 + b"\r\n"
ONE_READ = 256 << 10
"""Bytes that asyncio takes from a socket at a time."""


async def still_served(host: Host) -> None:
    async with Wire(host.server.url) as other:
        other.ask("/healthz")
        assert (await other.answer()).body == b"ok\n"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What aiohttp was given."""
    given: list[bytes] = []
    really = HttpProtocol.data_received

    def data_received(self: HttpProtocol, data: bytes) -> None:
        given.append(data)
        really(self, data)

    monkeypatch.setattr(HttpProtocol, "data_received", data_received)
    return given


@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize("piece", [FIELD, b"X: " + b"y" * 4000, b"z" * 4000, b"A: b\r\n" * 600])
async def test_a_head_without_an_end(
    serve: Serve, upstream: FakeUpstream, inside: Inside, piece: bytes, *, admin: bool
) -> None:
    host = await serve(upstream)
    url = host.server.admin_url if admin else host.server.url
    async with Wire(url) as wire:
        wire.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        while sent < LONGEST_HEAD:
            assert inside.held() <= LONGEST_HEAD
            wire.writer.write(piece)
            sent += len(piece)
            await wire.writer.drain()
            await asyncio.sleep(0)
        heard = await wire.answer()
        assert (heard.status, heard.headers["Connection"]) == (431, "close")
        assert heard.headers["Content-Type"].startswith("application/problem" if admin else "text/plain")
        assert await wire.rest() == b""
    await still_served(host)


async def test_many_heads_that_do_not_end(serve: Serve, upstream: FakeUpstream, inside: Inside) -> None:
    host = await serve(upstream)
    async with AsyncExitStack() as stack:
        for _ in range(20):
            wire = await stack.enter_async_context(Wire(host.server.url))
            wire.writer.write(b"GET / HTTP/1.1\r\n" + FIELD * 15)
        await until(lambda: inside.held() > 20 * 14 * len(FIELD))
        assert inside.held() <= 20 * LONGEST_HEAD
        await still_served(host)


async def test_a_long_head_that_comes_at_once(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    async with Wire(host.server.url) as wire:
        wire.writer.write(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 11_000 + b"\r\n")
        assert (await wire.answer()).status == 431


async def test_a_pipeline_behind_a_slow_answer(
    serve: Serve, upstream: FakeUpstream, inside: Inside, parsed: list[bytes]
) -> None:
    """3 MB of requests while the first is answered: what is not read stays with the client."""
    gate = upstream.hold("*.mod")
    host = await serve(upstream, stall_timeout=10.0)
    async with Wire(host.server.url) as wire:
        wire.ask(MOD)
        await gate.arrived.wait()
        one = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000 + b"\r\n\r\n"
        for _ in range(1000):
            wire.writer.write(one)
        await until(lambda: inside.held() > 0)
        await still_served(host)
        await asyncio.sleep(0.05)  # as much as would ever be read
        assert inside.held() <= ONE_READ
        assert len(b"".join(parsed)) < 1000  # the first, and those of the other client
        gate.open()
        assert (await wire.answer()).body == upstream.files[MOD]
        for _ in range(50):
            assert (await wire.answer()).body == b"ok\n"


@pytest.mark.parametrize("lines", [("Upgrade: h2c", "Connection: upgrade"), ("Content-Length: 9000000",)])
async def test_what_follows_another_protocol_or_a_body_is_not_kept(
    serve: Serve, upstream: FakeUpstream, inside: Inside, parsed: list[bytes], lines: tuple[str, ...]
) -> None:
    gate = upstream.hold("*.mod")
    host = await serve(upstream, stall_timeout=10.0)
    async with Wire(host.server.url) as wire:
        wire.ask(MOD, *lines)
        await gate.arrived.wait()
        for _ in range(200):
            wire.writer.write(bytes(4000))
            await asyncio.sleep(0)
        assert inside.held() == 0
        assert len(b"".join(parsed)) < 1000
        gate.open()
        heard = await wire.answer()
        assert (heard.body, heard.headers["Connection"]) == (upstream.files[MOD], "close")


BOMB = gzip.compress(bytes(4 << 20))


async def test_a_compressed_body_is_not_decoded(
    serve: Serve, upstream: FakeUpstream, parsed: list[bytes]
) -> None:
    """Of a request to the main listener the body is not even read."""
    host = await serve(upstream)
    async with Wire(host.server.url) as wire:
        wire.ask("/healthz", "Content-Encoding: gzip", f"Content-Length: {len(BOMB)}")
        wire.writer.write(BOMB)
        heard = await wire.answer()
        assert (heard.status, heard.headers["Connection"]) == (200, "close")
    assert len(b"".join(parsed)) < 200
    await still_served(host)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "purge", 415), ("GET", "status", 200), ("DELETE", "pins/x", 400), ("PUT", "pins/x", 415)],
)
async def test_a_compressed_body_for_the_api(
    serve: Serve, upstream: FakeUpstream, method: str, path: str, status: int
) -> None:
    host = await serve(upstream, admin_token="x" * 16)
    async with Wire(host.server.admin_url) as wire:
        wire.ask(
            f"/api/v1/{path}",
            f"Authorization: Bearer {'x' * 16}",
            "Content-Type: application/json",
            "Content-Encoding: gzip",
            f"Content-Length: {len(BOMB)}",
            method=method,
        )
        wire.writer.write(BOMB)
        heard = await wire.answer()
        assert (heard.status, heard.headers["Connection"]) == (status, "close")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /a b HTTP",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI /x HTTP/1.0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("admin", [False, True])
async def test_what_is_no_http_is_told_at_once(
    serve: Serve, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, sent: bytes, *, admin: bool
) -> None:
    caplog.set_level(logging.INFO)
    host = await serve(upstream)
    async with Wire(host.server.admin_url if admin else host.server.url) as wire:
        wire.writer.write(sent)
        heard = await wire.answer()
        assert await wire.rest() == b""
    assert heard.status == 400
    kind = "application/problem+json" if admin else "text/plain; charset=utf-8"
    assert heard.headers["Content-Type"] == kind
    assert b"not a valid HTTP/1.1 request" in heard.body
    assert b"nonsense" not in heard.body
    assert "Traceback" not in caplog.text
    assert "aiohttp" not in logged(caplog)
