"""Connections and listeners: limits, timers, a clean stop, and what can be listened on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm import server as server_module
from goproxy_vm.admin.status import InForce
from goproxy_vm.cache import background
from goproxy_vm.cache.store import Store
from goproxy_vm.config import Settings, Shown
from goproxy_vm.config.address import Address, parse_address
from goproxy_vm.config.values import RULES
from goproxy_vm.errors import StartError
from goproxy_vm.observe.traffic import Traffic
from goproxy_vm.server import Server
from goproxy_vm.web import connection, listener
from goproxy_vm.web import connections as connections_module
from goproxy_vm.web.connections import Connections
from goproxy_vm.web.listener import bind
from tests.fakes.lines import logged
from tests.fakes.stores import FAILS, artifact
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import Wire, until
from tests.integration.conftest import LOOPBACK, Host, Serve

BIG = "/example.com/big/@v/v1.0.0.zip"
M = "/example.com/m"
SIZE = 8 << 20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers are looked at often."""
    monkeypatch.setattr(connections_module, "SWEEP", 0.02)
    monkeypatch.setattr(connections_module, "DRAIN_POLL", 0.01)


async def store_big(tmp_path: Path, size: int = SIZE) -> bytes:
    """Store a large file where the server will find it."""
    data = random.Random(1).randbytes(size)
    store = await Store.open(tmp_path / "cache")
    try:
        download = store.download()
        await download.begin(len(data))
        await download.write(data)
        stored = await store.adopt(artifact(BIG[1:]), download, h1="h1:x")
        stored.close()
    finally:
        await store.close()
    return data


def fetch_of(size: int) -> Reply:
    """An answer that is kept in memory while it is sent."""
    return Reply(json.dumps({"Version": "v1.0.0", "Padding": "x" * size}).encode())


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connections]:
    """All that servers make."""
    made: list[Connections] = []

    class Kept(Connections):
        def __init__(self, inner: Callable[[], asyncio.Protocol], *given: Any, **more: Any) -> None:
            super().__init__(inner, *given, **more)
            made.append(self)

    monkeypatch.setattr(server_module, "Connections", Kept)
    return made


# How many an address may hold


async def test_connections_per_address(
    serve: Serve, upstream: FakeUpstream, connections: list[Connections], caplog: pytest.LogCaptureFixture
) -> None:
    host = await serve(upstream, max_client_connections=2)
    async with Wire(host.server.url) as first, Wire(host.server.url) as second:
        for wire in (first, second):
            wire.ask("/healthz")
            assert (await wire.answer()).status == 200
        async with Wire(host.server.url) as third:
            refused = await third.answer()
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
            assert refused.headers["Cache-Status"] == "goproxy-vm; detail=refused"
            assert refused.body.startswith(b"goproxy-vm: too many connections")
            assert await third.rest() == b""
        assert "too many connections" in logged(caplog)
        second.ask("/healthz")
        assert (await second.answer()).status == 200  # who is in stays in
    await until(lambda: not len(connections[0]))
    async with Wire(host.server.url) as wire:
        wire.ask("/healthz")
        assert (await wire.answer()).status == 200


async def test_one_that_is_refused_may_be_gone_already(
    serve: Serve, upstream: FakeUpstream, connections: list[Connections]
) -> None:
    host = await serve(upstream, max_client_connections=1)
    async with Wire(host.server.url) as first:
        first.ask("/healthz")
        await first.answer()
        for _ in range(20):
            async with Wire(host.server.url) as wire:
                wire.ask("/healthz")
        assert len(connections[0]) == 1
    await until(lambda: not len(connections[0]))


async def test_a_local_socket_has_no_limit(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    path = Address("", 0, str(tmp_path / "socket"))
    host = await serve(upstream, listen=(path,), max_client_connections=1)
    async with Wire(host.server.url) as first, Wire(host.server.url) as second:
        for wire in (first, second):
            wire.ask("/healthz")
            assert (await wire.answer()).status == 200


# Clients that do not read


async def test_send_without_progress_is_aborted(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = await store_big(tmp_path)
    host = await serve(upstream, send_timeout=0.3)
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        wire.ask(BIG)
        await until(lambda: "send without progress" in logged(caplog))
        got = await wire.rest()
        assert 0 < len(got) < len(whole)


class _Hasty(asyncio.Protocol):
    """Writes a large answer at once, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(bytes(SIZE))
        transport.close()


async def test_a_closing_connection_is_aborted_too(quick: None) -> None:
    connections = Connections(_Hasty, most=1, send_timeout=0.3)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    connections.start()
    async with Wire(listener.url_of(server.sockets[0]), receive_buffer=4096) as wire:
        wire.ask("/")
        await until(lambda: len(connections) == 1)
        await until(lambda: not len(connections))
        assert len(await wire.rest()) < SIZE
    connections.stop()
    server.close()


async def test_a_closing_connection_is_waited_for(quick: None) -> None:
    connections = Connections(_Hasty, most=1, send_timeout=60.0)
    made: list[connection.Connection] = []

    def make() -> connection.Connection:
        made.append(connections())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with Wire(listener.url_of(server.sockets[0]), receive_buffer=4096) as wire:
        wire.ask("/")
        await until(lambda: any(each.busy for each in made))
        draining = asyncio.create_task(connections.drained(10))
        done, _ = await asyncio.wait([draining], timeout=0.1)
        assert not done
        assert await wire.rest() == bytes(SIZE)
        await draining
        assert not len(connections)
    server.close()


async def test_a_slow_but_steady_reader_survives(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quick: None
) -> None:
    whole = await store_big(tmp_path)
    host = await serve(upstream, send_timeout=0.3)
    async with Wire(host.server.url, receive_buffer=64 << 10) as wire:
        wire.ask(BIG)
        await wire.head()
        got = b""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while len(got) < len(whole):
            got += await wire.reader.readexactly(256 << 10)
            await asyncio.sleep(0.03)  # the pace of the client
        assert loop.time() - began > 2 * 0.3
        assert got == whole


async def test_a_client_that_leaves_in_the_middle_is_nothing_to_report(
    serve: Serve,
    upstream: FakeUpstream,
    tmp_path: Path,
    connections: list[Connections],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "goproxy_vm")
    await store_big(tmp_path)
    host = await serve(upstream)
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        wire.ask(BIG)
        await wire.head()
    await until(lambda: "client left" in logged(caplog))
    await until(lambda: not len(connections[0]))
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


# Clients that ask for nothing


async def test_idle_connections_are_closed(
    serve: Serve, upstream: FakeUpstream, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.2)
    host = await serve(upstream)
    async with Wire(host.server.url) as silent, Wire(host.server.url) as done:
        done.ask("/healthz")
        assert (await done.answer()).status == 200
        assert await silent.rest() == b""
        assert await done.rest() == b""


async def test_a_head_that_trickles_in_is_no_request(
    serve: Serve, upstream: FakeUpstream, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.2)
    host = await serve(upstream)
    async with Wire(host.server.url) as wire:
        wire.writer.write(b"GET /healthz HTTP/1.1\r\nX: ")

        async def trickle() -> None:
            while True:
                wire.writer.write(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await wire.rest() == b""
        trickling.cancel()


async def test_who_waited_long_for_an_answer_is_not_idle(
    serve: Serve, upstream: FakeUpstream, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.4)
    gate = upstream.hold("*.mod")
    host = await serve(upstream, stall_timeout=10.0)
    async with Wire(host.server.url) as wire:
        wire.ask(f"{M}/@v/v1.0.0.mod")
        await gate.arrived.wait()
        await asyncio.sleep(0.6)  # longer than IDLE
        gate.open()
        assert (await wire.answer()).status == 200
        await asyncio.sleep(0.1)  # several sweeps
        wire.ask("/healthz")
        assert (await wire.answer()).status == 200


# Stop


async def stop_soon(host: Host) -> asyncio.Task[None]:
    """Begin to stop; returns when nothing is listening any more."""
    stopping = asyncio.create_task(host.server.stop())
    address, _, port = host.server.url.removeprefix("http://").rpartition(":")

    def refused() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((address, int(port))) != 0

    await until(refused)
    return stopping


async def test_stop_lets_a_slow_reader_finish(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quick: None
) -> None:
    whole = await store_big(tmp_path)
    host = await serve(upstream, shutdown_timeout=10.0)
    async with Wire(host.server.url, receive_buffer=4096) as wire, Wire(host.server.url) as idle:
        idle.ask("/healthz")
        await idle.answer()
        wire.ask(BIG)
        await wire.head()
        stopping = await stop_soon(host)
        assert await idle.rest() == b""  # at once, not when all is over
        assert not stopping.done()
        assert await wire.rest() == whole
        await stopping


@pytest.mark.parametrize("close", [(), ("Connection: close",)])
async def test_stop_waits_for_what_is_written_but_not_read(
    serve: Serve, upstream: FakeUpstream, quick: None, close: tuple[str, ...]
) -> None:
    upstream.on(f"{M}/@v/big.info", fetch_of(SIZE))
    host = await serve(upstream, shutdown_timeout=10.0)
    async with Wire(host.server.url, receive_buffer=4096) as wire:
        wire.ask(f"{M}/@v/big.info", *close)
        length = int((await wire.head()).headers["Content-Length"])
        stopping = await stop_soon(host)
        assert len(await wire.rest()) == length
        await stopping


async def test_stop_lets_a_miss_finish(serve: Serve, upstream: FakeUpstream, quick: None) -> None:
    gate = upstream.hold("*.mod")
    host = await serve(upstream, shutdown_timeout=10.0, stall_timeout=10.0)
    async with Wire(host.server.url) as wire:
        wire.ask(f"{M}/@v/v1.0.0.mod")
        await gate.arrived.wait()
        stopping = await stop_soon(host)
        gate.open()
        assert (await wire.answer()).body == upstream.files[f"{M}/@v/v1.0.0.mod"]
        await stopping


async def test_stop_cuts_what_takes_too_long(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quick: None
) -> None:
    whole = await store_big(tmp_path)
    upstream.hold("*.mod")
    host = await serve(upstream, shutdown_timeout=0.3, stall_timeout=10.0)
    async with Wire(host.server.url, receive_buffer=4096) as stalled, Wire(host.server.url) as waiting:
        waiting.ask(f"{M}/@v/v1.0.0.mod")
        stalled.ask(BIG)
        await stalled.head()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await host.server.stop()
        assert 0.3 <= loop.time() - began < 5
        assert len(await stalled.rest()) < len(whole)
        assert await waiting.rest() == b""


async def test_stop_of_connections_that_never_started() -> None:
    unused = Connections(asyncio.Protocol, most=1, send_timeout=1.0)
    await unused.drained(0)
    unused.stop()
    assert len(unused) == 0


# What can be listened on


def settings(tmp_path: Path, **given: object) -> Settings:
    return Settings(
        **{
            "listen": (LOOPBACK,),
            "admin_listen": LOOPBACK,
            "cache_dir": tmp_path / "cache",
            "upstream": "http://127.0.0.1:9",
            "sumdb": None,
            "offline": True,
            **given,
        }
    )


async def refused_start(given: Settings, **more: Any) -> str:
    with pytest.raises(StartError) as caught:
        await Server(given, **more).start()
    assert len(caught.value.sentence.splitlines()) == 1
    return caught.value.sentence


@pytest.mark.parametrize("key", ["listen", "admin_listen"])
async def test_port_in_use(tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        given = settings(tmp_path, **{key: (address,) if key == "listen" else address})
        sentence = await refused_start(given)
    assert sentence == f"{key}: cannot listen on {address}: Address already in use"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("host", ["a" * 64, "192.0.2.1"])
def test_no_address_of_ours(host: str) -> None:
    with pytest.raises(StartError, match=f"^listen: cannot listen on {host}:0: [a-zA-Z]"):
        bind(Address(host, 0), "listen")


async def test_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    running = Server(settings(tmp_path))
    await running.start()
    try:
        elsewhere = settings(tmp_path, listen=(Address("", 0, str(path)),))
        sentence = await refused_start(elsewhere, open_store=partial(Store.open, lock_wait=0))
        assert str(tmp_path / "cache") in sentence
        assert not path.exists()
    finally:
        await running.stop()


async def test_unix_socket(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    main, admin = tmp_path / "socket", tmp_path / "admin"
    host = await serve(
        upstream,
        listen=(Address("", 0, str(main)), LOOPBACK),
        admin_listen=Address("", 0, str(admin)),
        allow_clients=Settings(cache_dir=tmp_path).allow_clients,
    )
    assert host.server.url == f"unix:{main}"
    assert host.server.urls[1].startswith("http://127.0.0.1:")
    for url in (host.server.url, host.server.admin_url, host.server.urls[1]):
        async with Wire(url) as wire:
            wire.ask("/healthz")
            assert (await wire.answer()).body == b"ok\n"
    async with Wire(host.server.url) as wire:
        wire.ask("/", "Host: <bad>")  # two Hosts
        assert (await wire.answer()).status == 400
    await host.server.stop()
    assert not main.exists()
    assert not admin.exists()


async def test_unix_socket_left_behind(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    host = await serve(upstream, listen=(Address("", 0, str(path)),))
    async with Wire(host.server.url) as wire:
        wire.ask("/healthz")
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("full", [False, True])
async def test_unix_socket_of_another_server(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "socket"
    given = settings(tmp_path, listen=(Address("", 0, str(path)),))
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        if full:
            client.connect(str(path))
        sentence = await refused_start(given)
        assert sentence == f"listen: cannot listen on unix:{path}: another server listens there"
        assert path.exists()


async def test_unix_socket_that_has_another_file_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (tmp_path / "file").write_text("precious")
    sentence = await refused_start(settings(tmp_path, listen=(Address("", 0, str(tmp_path / "file")),)))
    assert "Address already in use" in sentence
    assert (tmp_path / "file").read_text() == "precious"
    server = Server(settings(tmp_path, listen=(Address("", 0, str(path)),)))
    await server.start()
    path.unlink()
    path.write_text("another's")
    await server.stop()
    assert path.read_text() == "another's"


async def test_unix_socket_in_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "none" / "socket"
    sentence = await refused_start(settings(tmp_path, listen=(Address("", 0, str(path)),)))
    assert sentence == f"listen: cannot listen on unix:{path}: No such file or directory"


async def test_ipv6(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, listen=(parse_address("[::1]:0"),))
    assert host.server.url.startswith("http://[::1]:")
    address = host.server.url.removeprefix("http://")
    got = await host.get("/")
    assert f"GOPROXY=http://{address}" in got.text
    assert f"GOPROXY=http://{address}" in (await host.get("/", Host="<x>")).text


async def test_ipv6_any_takes_ipv4_clients_too(serve: Serve, upstream: FakeUpstream) -> None:
    networks = Settings.__dataclass_fields__["allow_clients"].metadata["key"].form.parse("127.0.0.0/8")
    host = await serve(upstream, listen=(parse_address("[::]:0"),), allow_clients=networks)
    port = host.server.url.rpartition(":")[2]
    async with Wire(f"http://127.0.0.1:{port}") as wire:
        wire.ask(f"{M}/@v/list")
        assert (await wire.answer()).status == 200
    async with Wire(f"http://[::1]:{port}") as wire:
        wire.ask(f"{M}/@v/list")
        assert (await wire.answer()).status == 403


async def test_sockets_handed_over(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "theirs"
    main, admin = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
    main.bind(str(path))
    main.listen()
    monkeypatch.setattr(server_module, "listen_fds", lambda: [("main", main), ("admin", admin)])
    wrong = Address("192.0.2.1", 1)
    host = await serve(upstream, listen=(wrong,), admin_listen=wrong)
    assert host.server.url == f"unix:{path}"
    assert host.server.admin_url == listener.url_of(admin)
    async with Wire(host.server.url) as wire:
        wire.ask("/healthz")
        assert (await wire.answer()).status == 200
    assert (await host.admin("/healthz")).status == 200
    await host.server.stop()
    assert path.exists()  # it is systemd's
    assert main.fileno() == admin.fileno() == -1


async def test_wrong_descriptors_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr("goproxy_vm.hostos.FIRST_HANDED_FD", file.fileno())
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        assert "LISTEN_FDS: descriptor" in await refused_start(settings(tmp_path))


async def test_a_reload_that_fails_changes_nothing(serve: Serve, upstream: FakeUpstream) -> None:
    """The next one finds all that has changed, still."""
    host = await serve(upstream)
    server = host.server
    wanted = replace(host.settings, pins=("example.com/*",), deny=RULES.parse("example.com/m"))

    with closing(sqlite3.connect(host.settings.cache_dir / "index.db")) as index:
        index.execute(f"CREATE TRIGGER fails BEFORE INSERT ON pins {FAILS}")
        with pytest.raises(sqlite3.OperationalError):
            await server.reload(wanted)
        index.execute("DROP TRIGGER fails")
    assert (await host.get("/example.com/m/@v/list")).status == 200
    assert server.in_force == InForce()
    shown = {"deny": Shown("example.com/m", "file x")}
    assert (await server.reload(wanted, shown)).applied == ["deny", "pins"]
    assert server.in_force.settings == shown
    need_a_restart = {"fresh": Shown("5s", "file x")}
    await server.reload(replace(wanted, fresh=5), need_a_restart)
    assert server.in_force.settings == shown
    assert [pin.pattern for pin in (await server.store.control.pins()).items] == ["example.com/*@*"]
    assert (await host.get("/example.com/m/@v/list")).status == 403


async def test_a_bug_does_not_end_the_readings_of_the_traffic(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again = asyncio.Event()
    calls = 0

    async def run(_: Traffic) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        again.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(background, "AGAIN", 0.0)
    monkeypatch.setattr(Traffic, "run", run)
    await serve(upstream)
    async with asyncio.timeout(5.0):
        await again.wait()
    assert "background task failed" in logged(caplog)


@pytest.mark.parametrize("second", ["/healthz", f"{M}/@v/list"])
async def test_who_asks_while_an_answer_is_made_is_heard_afterwards_too(
    serve: Serve, upstream: FakeUpstream, connections: list[Connections], second: str
) -> None:
    host = await serve(upstream)
    await host.get(f"{M}/@v/list")
    gate = upstream.hold("*.zip")
    async with Wire(host.server.url) as wire:
        wire.ask(f"{M}/@v/v1.0.0.zip")
        await gate.arrived.wait()
        (one,) = (each for each in connections[0]._all if each.answering)
        wire.ask(second)
        await until(lambda: not one.transport.is_reading())
        gate.open()
        for _ in range(2):
            assert (await wire.answer()).status == 200
        wire.ask("/readyz")  # its segment comes when nothing is held any more
        assert (await wire.answer()).body == b"ready\n"
