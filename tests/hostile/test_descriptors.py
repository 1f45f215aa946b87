"""Connections that take all descriptors, and what must work when there are none left."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from goproxy_vm.admin.app import ADMIN_CONNECTIONS
from goproxy_vm.web import connection, listener
from goproxy_vm.web.connections import Connections
from goproxy_vm.web.listener import Acceptor
from goproxy_vm.web.shares import EACH, OWN, least, most_connections, most_kept, most_of_one
from tests.fakes.lines import logged
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Wire, until
from tests.integration.conftest import Serve

LIMIT = 160
"""Descriptors of the server below: its own, and what it takes in any case."""


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server that may open few files, by its port and its log."""
    argv = [sys.executable, "-m", "goproxy_vm", "serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]
    argv += [f"--cache-dir={tmp_path}/cache", "--offline", "--sumdb=off", "--log-format=json"]
    path = tmp_path / "log"
    with path.open("wb") as stderr:
        process = subprocess.Popen(["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh", *argv], stderr=stderr)
    try:
        for _ in range(1000):
            lines = [
                json.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"
            ]
            urls = [line["url"] for line in lines if line["event"] == "serving"]
            if urls:
                break
            time.sleep(0.01)
        yield int(urls[0].rpartition(":")[2]), path
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return sock.recv(1000)


def test_one_client_cannot_take_all_connections(limited: tuple[int, Path]) -> None:
    """300 of its connections wait for nothing; the next client is served."""
    port, log = limited
    with ExitStack() as stack:
        for _ in range(300):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.2", 0))
            sock.connect(("127.0.0.1", port))
        assert ask(port).startswith(b"HTTP/1.1 200 OK")
        assert log.read_text().count("Traceback") == 0
        assert len(log.read_bytes()) < 50_000


def test_shares() -> None:
    assert most_connections(65_536, 64) == 24_384
    assert (most_kept(65_536), most_kept(1 << 30), most_kept(1024)) == (16_384, 16_384, 256)
    assert most_kept(least(64)) + OWN + EACH * 64 == least(64) == 512
    assert most_connections(1024, 64) == 192
    assert most_connections(100, 64) == 16
    assert most_of_one(192, 1024) == 96
    assert most_of_one(32_000, 1024) == 1024


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    script = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, min(hard, 900)))
from goproxy_vm.hostos import open_files_limit, raise_open_files_limit
raise_open_files_limit()
print(open_files_limit(0))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "900\n"


async def test_admin_connections_are_bounded_and_timed(
    serve: Serve, upstream: FakeUpstream, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await serve(upstream)
    with ExitStack() as stack:
        path = host.server.admin_url.removeprefix("http://").split(":")
        for _ in range(ADMIN_CONNECTIONS):
            stack.enter_context(socket.create_connection((path[0], int(path[1]))))
        async with Wire(host.server.admin_url) as wire:
            refused = await wire.answer()
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
            assert json.loads(refused.body)["title"] == "Service Unavailable"
        monkeypatch.setattr(connection, "IDLE", 0.1)

        async def served() -> bool:
            async with Wire(host.server.admin_url) as wire:
                wire.ask("/healthz")
                return (await wire.answer()).status == 200

        while not await served():  # pytest-timeout bounds it
            pass


class _Exhausted(socket.socket):
    """A listening socket for whose connections there are no descriptors, for a while."""

    failures = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_accepting_goes_on_after_descriptors_ran_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.01)
    sock = _Exhausted()
    sock.bind(("127.0.0.1", 0))
    connections = Connections(lambda: None, most=5, send_timeout=60.0)  # type: ignore[arg-type, return-value]  # none is made
    acceptor = Acceptor(sock, connections)
    acceptor.start()
    async with Wire(listener.url_of(sock)):
        await until(lambda: len(connections) == 1)
    assert logged(caplog).count("cannot accept connections") == 3
    assert "Traceback" not in caplog.text
    acceptor.stop()


LATE = """
import asyncio, pathlib, sys
from goproxy_vm.config import Settings
from goproxy_vm.config.address import Address
from goproxy_vm.observe import logs
from goproxy_vm.server import Server
from goproxy_vm.web import connections

connections.SWEEP = 0.02

async def ask(url, head, *, body=b"", close=True):
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write(head.encode() + (b"\\r\\nConnection: close" if close else b"") + b"\\r\\n\\r\\n" + body)
    got = await reader.read() if close else await reader.readline()
    writer.close()
    return got

async def main():
    here = Address("127.0.0.1", 0)
    server = Server(Settings(listen=(here,), admin_listen=here, cache_dir=pathlib.Path(sys.argv[1]),
                             upstream="http://127.0.0.1:9", sumdb=None, admin_token="x" * 16))
    await server.start()
    before = set(sys.modules)
    m, host = "/example.com/m/@v/", "HTTP/1.1\\r\\nHost: x"
    for head in (f"GET / {host}", f"GET /vm/setup.sh {host}", f"GET /x {host}", f"HEAD {m}list {host}",
                 f"GET {m}v1.0.0.mod {host}", f"GET {m}v1.0.0.zip {host}\\r\\nRange: bytes=0-1",
                 f"GET {m}v1.0.0.zip {host}\\r\\nPrefer: respond-async, wait=0", f"POST / {host}",
                 f"GET /x {host}\\r\\nno colon", f"GET / {host}\\r\\nUpgrade: h2c", "nonsense",
                 f"GET /sumdb/x/latest {host}", f"GET /readyz {host}", f"GET /%zz/@v/list {host}"):
        await ask(server.url, head)
    await ask(server.url, f"GET /robots.txt {host}", close=False)
    auth = f"{host}\\r\\nAuthorization: Bearer {'x' * 16}"
    for head in (f"GET /healthz {host}", f"GET /metrics {host}", f"GET /api/v1/status {host}",
                 f"GET /api/v1/status {auth}", f"GET /api/v1/modules {auth}", f"GET /x {host}", "nonsense"):
        await ask(server.admin_url, head)
    for name, body in (("purge", b'{"match": ["x"]}'), ("evict", b"{}"), ("evict", b"nonsense")):
        sort = f"Content-Type: application/json\\r\\nContent-Length: {len(body)}"
        head = f"POST /api/v1/{name} {auth}\\r\\n{sort}"
        await ask(server.admin_url, head, body=body)
    await asyncio.sleep(0.1)  # some sweeps
    print(sorted(set(sys.modules) - before))
    await server.stop()

with logs.setup("json", "debug"):
    asyncio.run(main())
"""


def test_nothing_is_imported_late(tmp_path: Path) -> None:
    """What is imported under load fails for want of descriptors, and has the loop read files."""
    done = subprocess.run([sys.executable, "-c", LATE, f"{tmp_path}/cache"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
