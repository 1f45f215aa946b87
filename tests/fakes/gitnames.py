"""A network of a test's own: which name has which address, and which loopback port that leads to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from goproxy_vm.upstream.direct.dial import Roads
from tests.fakes.ports import closed_port

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Names:
    """What the egress gate looks up and connects to, in place of the resolver and the kernel's routes.

    Each name has an address of its own that nobody has here: 10.99.0.N, or for a public one 93.184.216.N.
    ``looked`` are the names that were looked up, ``connected`` what was connected to, as ``HOST:PORT``;
    an address that no name has stands for itself. So a connection that should not be shows, whatever came of
    it.
    """

    def __init__(self) -> None:
        self._addresses: dict[str, deque[Sequence[str]]] = {}
        self._hosts: dict[str, str] = {}
        self._ports: dict[tuple[str, int], int] = {}
        self._numbers = itertools.count(1)
        self.looked: list[str] = []
        self.connected: list[str] = []

    @property
    def roads(self) -> Roads:
        """It, for whoever is to go out into it."""
        return Roads(self.look_up, self.connect)

    def name(self, host: str, *, public: bool = False) -> str:
        """Give a name its address, if it has none, and return it."""
        if host not in self._addresses:
            address = f"{'93.184.216' if public else '10.99.0'}.{next(self._numbers)}"
            self._addresses[host] = deque([[address]])
            self._hosts[address] = host
        return next(iter(self._addresses[host][0]))

    def lead(self, host: str, port: int, there: int, *, public: bool = False) -> None:
        """``port`` of ``host`` is the loopback's port ``there``."""
        self._ports[self.name(host, public=public), port] = there

    def lead_address(self, address: str, port: int, there: int) -> None:
        """``port`` of an address that no name has is the loopback's port ``there``."""
        self._ports[address, port] = there

    def answers(self, host: str, *answers: Sequence[str]) -> None:
        """What the look-ups of a name say, one after the other; the last for good."""
        self._addresses[host] = deque(answers)

    async def look_up(self, host: str, port: int) -> list[str]:
        """The addresses of a name. OSError: there is no such name."""
        del port
        self.looked.append(host)
        known = self._addresses.get(host)
        if known is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(known.popleft() if len(known) > 1 else known[0])

    async def connect(self, address: str, port: int) -> Stream:
        """A connection to an address. OSError: nothing is there."""
        self.connected.append(f"{self._hosts.get(address, address)}:{port}")
        there = self._ports.get((address, port))
        if there is None:
            raise ConnectionRefusedError(111, "Connection refused")
        return await asyncio.open_connection("127.0.0.1", there)


class ConnectProxy:
    """A proxy for whoever goes out by CONNECT alone, into such a network: ``async with`` serves, ``url``."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b" ", 2)
            host, _, port = target.decode().rpartition(":")
            if method != b"CONNECT":
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            try:
                (address, *_rest) = await self._names.look_up(host, int(port))
                there = await self._names.connect(address, int(port))
            except OSError:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with contextlib.closing(there[1]):
                await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(1 << 16):
        sink.write(chunk)
        await sink.drain()
    sink.write_eof()


@asynccontextmanager
async def mute_port() -> AsyncIterator[int]:
    """A port that takes connections and never says a word on them."""
    closing = asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing.wait()
        writer.transport.abort()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        closing.set()


@asynccontextmanager
async def deaf_port() -> AsyncIterator[int]:
    """A port that does not answer who connects to it: as many as it may keep wait there already."""
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(socket.socket())
        there.bind(("127.0.0.1", closed_port()))
        there.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # the kernel takes one or two of them
            waiting.connect_ex(there.getsockname())
        yield there.getsockname()[1]
