"""The egress gate by itself: who may connect where, and what it does to those who may not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.upstream.direct import connect as connect_module
from goproxy_vm.upstream.direct.dial import Dial, Roads
from goproxy_vm.upstream.direct.egress import GIT, GO, HEAD_MOST, MOST_TUNNELS, Egress
from goproxy_vm.upstream.direct.policy import Target
from goproxy_vm.upstream.direct.ticket import PATIENT, Ticket
from goproxy_vm.upstream.environment import Environment
from tests.fakes.gitnames import ConnectProxy, Names, mute_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clock:
    """Seconds that a test tells."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """An egress gate into a network of the test's own, and clients of it."""

    def __init__(self, names: Names, environ: Mapping[str, str], seconds: float = 5.0) -> None:
        self.names = names
        self.clock = Clock()
        dial = Dial(Environment(environ), ssl.create_default_context(), seconds, names.roads)
        self.egress = Egress(dial, 8)
        self.writers: list[asyncio.StreamWriter] = []

    def ticket(self, *reachable: str, most: int = 1 << 20, **target: Any) -> Ticket:
        fields = {"module": "git.corp/x", "private": True, "first": "git.corp:443", **target}
        ticket = Ticket(Target(reachable=frozenset(reachable), **fields), self.clock, most)
        self.egress.admit(ticket)
        return ticket

    async def open(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.egress.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, head: str, token: str = "", who: str = GIT) -> tuple[str, Streams]:
        """The status that a request is answered with; "" where the connection is closed."""
        reader, writer = await self.open()
        secret = base64.b64encode(f"{who}:{token}".encode()).decode()
        auth = f"Proxy-Authorization: Basic {secret}\r\n" if token else ""
        writer.write(f"{head} HTTP/1.1\r\n{auth}\r\n".encode())
        line = await reader.readline()
        if line.startswith(b"HTTP/1.1 200"):
            while await reader.readline() != b"\r\n":
                pass
        return line.decode().partition(" ")[2][:3], (reader, writer)

    async def connect(self, ticket: Ticket, target: str, who: str = GIT) -> str:
        return (await self.ask(f"CONNECT {target}", ticket.token, who))[0]


@asynccontextmanager
async def gate(names: Names | None = None, **environ: str) -> AsyncIterator[Gate]:
    made = Gate(names or Names(), environ)
    await made.egress.start()
    try:
        yield made
    finally:
        for writer in made.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await made.egress.close()
        await asyncio.sleep(0)  # for the transports


@asynccontextmanager
async def server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server behind the gate."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await answer(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for the transports


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def test_a_tunnel() -> None:
    async with gate() as made, server(echo) as port:
        made.names.lead("git.corp", 443, port)
        ticket = made.ticket("git.corp:443")
        status, (reader, writer) = await made.ask("CONNECT GIT.corp:443", ticket.token)
        assert status == "200"
        writer.write(b"x" * 300_000)
        assert await reader.readexactly(300_000) == b"x" * 300_000
        assert ticket.received == 300_000
        assert ticket.connected == {"git.corp:443"}
        assert ticket.events == []
        writer.close()
        assert made.names.looked == ["git.corp"]


@pytest.mark.parametrize(
    "target",
    [
        "other.corp:443",
        "git.corp:22",
        "git.corp:0443",
        "git.corp:443x",
        "git.corp",
        ":443",
        "git.corp:443@evil:1",
        "10.99.0.1:443",
        "[::1]:443",
        "127.0.0.1:443",
    ],
)
async def test_only_what_is_allowed(target: str) -> None:
    async with gate() as made:
        made.names.lead("git.corp", 443, 1)
        ticket = made.ticket("git.corp:443")
        assert await made.connect(ticket, target) == "403"
        assert [trouble for trouble, _ in ticket.events] == ["denied"]
        assert made.names.looked == []  # nor is a name server told of it
        assert made.names.connected == []


@pytest.mark.parametrize(
    "request_line", ["GET http://git.corp/", "POST http://git.corp:443/", "HEAD /", "x y"]
)
async def test_nothing_but_connect_is_forwarded(request_line: str) -> None:
    async with gate() as made:
        ticket = made.ticket("git.corp:443", "git.corp:80")
        assert (await made.ask(request_line, ticket.token))[0] == "403"
        assert made.names.looked == []


async def test_a_token_is_needed_and_ends_with_its_run() -> None:
    async with gate() as made, server(echo) as port:
        made.names.lead("git.corp", 443, port)
        ticket = made.ticket("git.corp:443")
        for token in ("", "x", ticket.token[:-1], ticket.token + "0"):
            assert (await made.ask("CONNECT git.corp:443", token))[0] == "407"
        for value in ("Basic", "Basic !", "Basic Z", f"Bearer {ticket.token}", "Basic w4Q6w4Q="):
            reader, writer = await made.open()
            writer.write(f"CONNECT git.corp:443 HTTP/1.1\r\nProxy-Authorization: {value}\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 407")
        status, (reader, _) = await made.ask("CONNECT git.corp:443", ticket.token)
        assert status == "200"
        await made.egress.dismiss(ticket)
        assert await reader.read() == b""  # its tunnels are closed
        assert await made.connect(ticket, "git.corp:443") == "407"
        assert not ticket.silent(0)


async def test_what_becomes_of_connections_is_told_apart() -> None:
    names = Names()
    async with gate(names) as made:
        names.name("closed.corp")
        ticket = made.ticket("nowhere.corp:443", "closed.corp:443")
        assert await made.connect(ticket, "nowhere.corp:443") == "502"
        assert await made.connect(ticket, "closed.corp:443") == "502"
        assert ticket.events == [("dns", "nowhere.corp:443"), ("refused", "closed.corp:443")]
        assert ticket.connected == set()


@pytest.mark.parametrize("silent", ["look_up", "connect"])
async def test_what_takes_too_long(silent: str) -> None:
    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    names = Names()
    names.lead("git.corp", 443, 1)
    ways: dict[str, Any] = {"look_up": names.look_up, "connect": names.connect, silent: never}
    made = Gate(names, {})
    made.egress = Egress(Dial(Environment({}), ssl.create_default_context(), 0.05, Roads(**ways)), 8)
    await made.egress.start()
    ticket = made.ticket("git.corp:443")
    assert await made.connect(ticket, "git.corp:443") == "504"
    assert ticket.events == [("timeout", "git.corp:443")]
    made.writers[0].close()
    await made.egress.close()


async def test_a_public_host_is_one_with_a_public_address() -> None:
    names = Names()
    async with gate(names) as made, server(echo) as port:
        names.lead("ok.example", 443, port, public=True)
        names.answers("inside.example", ["10.0.0.1", "127.0.0.1", "::1", "64:ff9b::a00:1"])
        names.answers("mixed.example", ["10.0.0.1", names.name("ok.example", public=True)])
        ticket = made.ticket(private=False, anywhere=True)
        assert await made.connect(ticket, "ok.example:443") == "200"
        assert await made.connect(ticket, "inside.example:443") == "403"
        assert await made.connect(ticket, "mixed.example:443") == "200"
        assert ticket.events == [("denied", "inside.example:443")]
        assert set(names.connected) == {"ok.example:443"}


async def test_a_name_is_looked_up_once_for_each_connection() -> None:
    """And connected to is what was judged: at a second look it might lead inside."""
    names = Names()
    async with gate(names) as made, server(echo) as port:
        names.lead("ok.example", 443, port, public=True)
        names.answers("rebinds.example", [names.name("ok.example", public=True)], ["127.0.0.1"])
        ticket = made.ticket(private=False, anywhere=True)
        assert await made.connect(ticket, "rebinds.example:443") == "200"
        assert names.looked == ["rebinds.example"]
        assert await made.connect(ticket, "rebinds.example:443") == "403"
        assert set(names.connected) == {"ok.example:443"}


async def test_the_next_address_where_one_does_not_answer() -> None:
    names = Names()
    async with gate(names) as made, server(echo) as port:
        names.lead("git.corp", 443, port)
        names.answers("two.corp", ["10.1.1.1", names.name("git.corp")])
        names.answers("many.corp", [f"10.1.1.{n}" for n in range(100)])
        ticket = made.ticket("two.corp:443", "many.corp:443")
        assert await made.connect(ticket, "two.corp:443") == "200"
        assert await made.connect(ticket, "many.corp:443") == "502"
        assert len(names.connected) < 10


async def test_go_is_told_which_repository_a_setting_names() -> None:
    page = ("git.corp/x", 'ssh://git@git.corp/"x".git')
    async with gate() as made, server(echo) as port:
        made.names.lead("git.corp", 22, port)
        ticket = made.ticket("git.corp:22", "git.corp:443", page=page)
        assert await made.connect(ticket, "git.corp:443", GO) == "403"
        assert ticket.events == []  # it is meant to ask for the page
        status, (reader, _) = await made.ask("GET http://git.corp/x?go-get=1", ticket.token, GO)
        assert status == "200"
        told = await reader.read()
        assert told == (
            b'<meta name="go-import" content="git.corp/x git ssh://git@git.corp/&quot;x&quot;.git">\n'
        )
        assert made.names.connected == []
        assert await made.connect(ticket, "git.corp:22", GIT) == "200"
        assert (await made.ask("GET http://git.corp/x?go-get=1", ticket.token, GIT))[0] == "403"


async def test_half_heads_and_long_ones() -> None:
    async with gate() as made:
        reader, writer = await made.open()
        writer.write(b"CONNECT git.corp:443 HTTP/1.1\r\n")
        writer.write_eof()
        assert await reader.read() == b""
        reader, writer = await made.open()
        writer.write(b"CONNECT git.corp:443 HTTP/1.1\r\nX: " + b"x" * (4 * HEAD_MOST))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_a_run_has_so_many_tunnels_and_no_more() -> None:
    async with gate() as made, server(echo) as port:
        made.names.lead("git.corp", 443, port)
        ticket = made.ticket("git.corp:443")
        found = [await made.connect(ticket, "git.corp:443") for _ in range(MOST_TUNNELS + 1)]
        assert found == ["200"] * MOST_TUNNELS + ["503"]


async def test_a_run_receives_so_many_bytes_and_no_more() -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with gate() as made, server(endless) as port:
        made.names.lead("git.corp", 443, port)
        ticket = made.ticket("git.corp:443", most=200_000)
        _, (reader, _writer) = await made.ask("CONNECT git.corp:443", ticket.token)
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) <= 200_000
        assert ticket.over
        assert ticket.received < 400_000


async def test_a_silent_server() -> None:
    """One that owes an answer has less time than one of which nothing was asked."""
    async with gate() as made, server(echo) as echoing, mute_port() as mute:
        made.names.lead("git.corp", 443, mute)
        made.names.lead("git.corp", 22, echoing)
        ticket = made.ticket("git.corp:443", "git.corp:22")
        assert not ticket.silent(5)
        status, (_, writer) = await made.ask("CONNECT git.corp:443", ticket.token)
        assert status == "200"
        made.clock.now += 4
        assert not ticket.silent(5)
        made.clock.now += 1
        assert ticket.silent(5)
        _, (reader, other) = await made.ask("CONNECT git.corp:22", ticket.token)
        other.write(b"x")
        await reader.readexactly(1)
        made.clock.now += 5
        assert not ticket.silent(5)  # that may rest: what came is being worked on
        made.clock.now += 5 * (PATIENT - 1)
        assert ticket.silent(5)
        for each in (writer, other):
            each.close()
        while ticket.tunnels:
            await asyncio.sleep(0)
        assert not ticket.silent(5)


async def test_an_address_of_a_setting_that_is_one_of_ipv6() -> None:
    """Authorities have brackets, and addresses none: neither for the socket, nor for ssh."""
    async with gate() as made, server(echo) as port:
        for there in (443, 22):
            made.names.lead_address("2001:db8::1", there, port)
        ticket = made.ticket("[2001:db8::1]:443", "[2001:db8::1]:22")
        assert await made.connect(ticket, "[2001:DB8::1]:443") == "200"
        environ = {"EGRESS": f"{made.egress.port} {ticket.token}", "PATH": os.environ["PATH"]}
        command = [sys.executable, "-I", "-S", str(Path(connect_module.__file__)), "2001:db8::1", "22"]
        pipe = asyncio.subprocess.PIPE
        ssh = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environ)
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        ssh.stdin.write(b"SSH-2.0-x\r\n")
        assert await ssh.stdout.readline() == b"SSH-2.0-x\r\n"
        ssh.stdin.close()
        await ssh.wait()
        assert made.names.looked == []
        assert ticket.events == []


async def test_an_address_of_ipv6_behind_a_proxy() -> None:
    names = Names()
    async with server(echo) as port, ConnectProxy(names) as proxy, gate(HTTPS_PROXY=proxy.url) as made:
        names.lead("[2001:db8::1]", 443, port)
        way = int(proxy.url.rpartition(":")[2])
        made.names.lead_address("127.0.0.1", way, way)
        assert await made.connect(made.ticket("[2001:db8::1]:443"), "[2001:db8::1]:443") == "200"


async def test_as_many_connections_as_runs_may_have() -> None:
    """Those of each run, and as many of whoever has not said who it is."""
    async with gate() as made, server(echo) as port:
        await made.egress.close()
        made.egress = Egress(Dial(Environment({}), ssl.create_default_context(), 5.0, Roads()), 12)
        await made.egress.start()
        streams = [await made.open() for _ in range(12 * MOST_TUNNELS)]
        made.egress.admit(ticket := made.ticket(f"127.0.0.1:{port}"))
        assert await made.connect(ticket, f"127.0.0.1:{port}") == "200"
        assert len(streams) == 384


async def test_a_proxy_on_the_way_out() -> None:
    names = Names()
    outside = Names()
    async with ConnectProxy(outside) as proxy, server(echo) as port:
        outside.lead("git.corp", 443, port)
        names.lead("127.0.0.1", int(proxy.url.rpartition(":")[2]), int(proxy.url.rpartition(":")[2]))
        names.answers("127.0.0.1", ["127.0.0.1"])
        names._ports["127.0.0.1", int(proxy.url.rpartition(":")[2])] = int(proxy.url.rpartition(":")[2])
        names.answers("inside.example", ["10.0.0.1"])
        async with gate(names, HTTPS_PROXY=proxy.url, NO_PROXY="near.corp") as made:
            ticket = made.ticket("git.corp:443", "far.corp:443", "near.corp:443")
            status, (reader, writer) = await made.ask("CONNECT git.corp:443", ticket.token)
            assert status == "200"
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert await made.connect(ticket, "far.corp:443") == "502"
            assert "git.corp" not in names.looked  # the proxy does that
            assert await made.connect(ticket, "near.corp:443") == "502"
            assert names.looked == ["near.corp"]
            assert ticket.events == [("refused", "far.corp:443"), ("dns", "near.corp:443")]
            public = made.ticket(private=False, anywhere=True)
            assert await made.connect(public, "inside.example:443") == "403"
            assert outside.looked == ["git.corp", "far.corp"]


async def test_ssh_goes_out_by_a_command_of_its_own() -> None:
    async with gate() as made, server(echo) as port:
        made.names.lead("git.corp", 22, port)
        ticket = made.ticket("git.corp:22")
        command = [sys.executable, "-I", "-S", str(Path(connect_module.__file__))]

        async def run(host: str, token: str) -> tuple[bytes, bytes, int | None]:
            process = await asyncio.create_subprocess_exec(
                *command,
                host,
                "22",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"EGRESS": f"{made.egress.port} {token}", "PATH": os.environ["PATH"]},
            )
            out, err = await process.communicate(b"SSH-2.0-x\r\n" * 20_000 if token == ticket.token else b"")
            return out, err, process.returncode

        out, err, status = await run("other.corp", ticket.token)
        assert (out, status) == (b"", 1)
        assert b"CONNECT tunnel failed, response 403" in err
        out, err, status = await run("git.corp", "wrong")
        assert (out, status) == (b"", 1)
        assert b"response 407" in err
