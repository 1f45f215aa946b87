"""Answers come in the order of the requests, to whoever has asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from goproxy_vm.hostos import unsent_bytes
from goproxy_vm.web.connection import IDLE
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Wire, until
from tests.hostile.conftest import Inside
from tests.integration.conftest import Serve

M = "/example.com/m"
MOD = f"{M}/@v/v1.0.0.mod"
NEVER = 1e9


def request(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


@pytest.mark.parametrize("first", ["/healthz", f"{M}/@v/list", "/nonsense"])
async def test_a_hit_does_not_overtake(
    serve: Serve, upstream: FakeUpstream, inside: Inside, first: str
) -> None:
    """The second segment comes before the task that answers the first request has begun."""
    host = await serve(upstream)
    for _ in range(2):
        await host.get(MOD)
        await until(lambda: not host.server.store.uncommitted)
    async with Wire(host.server.url) as wire:
        wire.ask(MOD)
        assert (await wire.answer()).body == upstream.files[MOD]
        (mine,) = [
            each
            for each in inside.all
            if each.transport.get_extra_info("peername") == wire.writer.get_extra_info("sockname")
        ]
        for _ in range(3):
            mine.data_received(request(first))
            mine.data_received(request(MOD))
            assert (await wire.answer()).body != upstream.files[MOD]
            assert (await wire.answer()).body == upstream.files[MOD]


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/", ()),
        ("/healthz", ()),
        ("/nonsense", ()),
        (f"{M}/@v/list", ()),
        (MOD, ()),
        (MOD, ("Connection: close",)),
        (MOD, ("Content-Length: 3",)),
    ],
)
async def test_who_closes_its_half_is_answered(
    serve: Serve, upstream: FakeUpstream, inside: Inside, path: str, lines: tuple[str, ...]
) -> None:
    host = await serve(upstream)
    for _ in range(3):  # a miss, then opened, then prepared
        async with Wire(host.server.url) as wire:
            wire.ask(path, *lines)
            wire.writer.write_eof()
            heard = await wire.answer()
            assert heard.status == (404 if path == "/nonsense" else 200)
            assert await wire.rest() == b""
        await until(lambda: not host.server.store.uncommitted)
    await until(lambda: not inside.all)


@pytest.mark.parametrize("path", [MOD, "/healthz", f"{M}/@v/list"])
async def test_who_asks_between_two_looks_is_not_idle(
    serve: Serve, upstream: FakeUpstream, inside: Inside, path: str
) -> None:
    """Its answers take no time: whenever somebody looks, nothing is under way."""
    host = await serve(upstream, fresh=60.0)
    async with Wire(host.server.url) as wire:
        for _ in range(3):
            wire.ask(path)
            await wire.answer()
        (mine,) = inside.all
        sock = mine.transport.get_extra_info("socket")

        def acknowledged() -> bool:
            return not (mine.answering or unsent_bytes(sock))

        begun = time.monotonic()
        mine.sweep(begun, NEVER)
        for number in range(1, 4):
            wire.ask(path)
            await wire.answer()
            await until(acknowledged)
            mine.sweep(begun + number * (IDLE - 1), NEVER)
            assert not mine.transport.is_closing()
        mine.sweep(begun + 5 * IDLE, NEVER)
        assert mine.transport.is_closing()


async def test_who_closes_its_half_without_a_request(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    for begun in (b"", b"\r\n", b"GET / HTTP/1.1\r\nHo"):
        async with Wire(host.server.url) as wire:
            wire.writer.write(begun)
            wire.writer.write_eof()
            assert await wire.rest() == b""


@pytest.mark.parametrize("value", ["close", "keep-alive"])
async def test_proxy_connection_on_both_ways(serve: Serve, upstream: FakeUpstream, value: str) -> None:
    host = await serve(upstream)
    await host.get(MOD)
    await until(lambda: not host.server.store.uncommitted)
    ends = []
    for path in (MOD, "/healthz"):
        async with Wire(host.server.url) as wire:
            wire.ask(path, f"Proxy-Connection: {value}")
            heard = await wire.answer()
            wire.ask("/robots.txt")
            ends.append((heard.headers.get("Connection"), await wire.reader.read(8)))
    assert ends[0] == ends[1]


SCRIPT = """
import asyncio, pathlib, sys
from goproxy_vm.config import Settings
from goproxy_vm.config.address import Address
from goproxy_vm.server import Server

async def main():
    here = Address("127.0.0.1", 0)
    server = Server(Settings(listen=(here,), admin_listen=here, cache_dir=pathlib.Path(sys.argv[1]),
                             upstream="http://127.0.0.1:9", sumdb=None, offline=True))
    await server.start()
    for url in (server.url, server.admin_url):
        for target in (b"/\\xff", b"/m\\xe9%41/@v/list", b"/api/v1/\\xff", b"/a%20\\xed\\xa0\\x80.info"):
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(b"GET " + target + b" HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            print((await reader.read()).split()[1].decode())
            writer.close()
    await server.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize("extensions", [True, False])
def test_bytes_outside_ascii_in_the_target(tmp_path: object, *, extensions: bool) -> None:
    """With aiohttp's parser in C, and with the one in Python, which lets them through."""
    environ = os.environ | {"AIOHTTP_NO_EXTENSIONS": "" if extensions else "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"{tmp_path}/cache"], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.split()) == 8
    assert set(done.stdout.split()) <= {"400", "401", "404"}
