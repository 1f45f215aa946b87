"""The one way out for go, git and ssh: a proxy on the loopback that lets each run reach what it may.

It knows a run by a token, looks names up itself, and connects by an address that it has judged: what a name
says at a second look, or to somebody else, does not matter. For repositories that a setting names it
answers go's question for them. It forwards nothing but CONNECT.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import html
from typing import TYPE_CHECKING

from goproxy_vm.upstream.direct.ticket import Blocked, Ticket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

HEAD_MOST = 16 << 10
"""Bytes of a request's head."""
HEAD_SECONDS = 10.0
"""Seconds that it may take to come."""
MOST_TUNNELS = 32
"""Connections of one run at a time. Twice as many as runs may have are taken in all, for who is no run is not
known at once; more are closed."""
CHUNK = 64 << 10
"""Bytes that are passed on at once; each direction of a tunnel holds a few of them at most."""
CLOSING = 2.0
"""Seconds that the last bytes of a connection may take."""
GO, GIT = "go", "git"
"""Users by which those who ask can be told apart: the go command, and git and ssh."""

_ANSWERS = {
    "denied": b"403 Forbidden",
    "dns": b"502 Bad Gateway",
    "refused": b"502 Bad Gateway",
    "timeout": b"504 Gateway Timeout",
}


class Egress:
    """The gate. ``dial``: how a connection is made; ``runs``: how many there may be at a time. :meth:`start`
    it; one event loop."""

    def __init__(self, dial: Callable[[Ticket, str, int], Awaitable[Streams]], runs: int) -> None:
        self._dial = dial
        self._most = 2 * runs * MOST_TUNNELS
        self._tickets: dict[str, Ticket] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        """Where it listens, on 127.0.0.1."""

    async def start(self) -> None:
        """Listen. OSError: it cannot."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=HEAD_MOST)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Close all tunnels, and listen no longer."""
        if self._server is not None:
            self._server.close()
        await _ended(self._tasks)

    def admit(self, ticket: Ticket) -> None:
        """Let a run in, by its token."""
        self._tickets[ticket.token] = ticket

    async def dismiss(self, ticket: Ticket) -> None:
        """The run has ended: close its tunnels."""
        self._tickets.pop(ticket.token, None)
        await _ended(ticket.tunnels)

    def address(self, who: str, ticket: Ticket) -> str:
        """The gate as the proxy of ``who``, GO or GIT."""
        return f"http://{who}:{ticket.token}@127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= self._most:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="egress")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(
            lambda _: writer.transport.abort()
        )  # also where it was cancelled before it began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever asked may have gone, or never have been one who asks.
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            await self._answer(reader, writer)
        await _close(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        request, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = request.partition(" ")
        target = rest.partition(" ")[0]
        who, ticket = self._who(fields)
        if ticket is None:
            challenge = b'Proxy-Authenticate: Basic realm="egress"\r\n'
            await _say(writer, b"407 Proxy Authentication Required", challenge)
            return
        task = asyncio.current_task()
        if task is None or len(ticket.tunnels) >= MOST_TUNNELS:
            await _say(writer, b"503 Service Unavailable")
            return
        ticket.tunnels.add(task)
        try:
            page = ticket.target.page
            if page is None or who != GO:
                await self._tunnel(ticket, who, method, target, reader, writer)
            elif method == "GET" and "go-get=1" in target:
                await _say(writer, b"200 OK", b"Content-Type: text/html\r\n", _page(*page))
            else:  # it goes on to ask for the page
                await _say(writer, b"403 Forbidden")
        finally:
            ticket.tunnels.discard(task)

    def _who(self, fields: list[str]) -> tuple[str, Ticket | None]:
        for field in fields:
            name, _, value = field.partition(":")
            scheme, _, secret = value.strip().partition(" ")
            if name.strip().lower() == "proxy-authorization" and scheme.lower() == "basic":
                with contextlib.suppress(binascii.Error, UnicodeDecodeError, ValueError):
                    who, _, token = base64.b64decode(secret, validate=True).decode("ascii").partition(":")
                    return who, self._tickets.get(token)
        return "", None

    async def _tunnel(
        self,
        ticket: Ticket,
        who: str,
        method: str,
        target: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        host, _, port = target.lower().rpartition(":")
        try:
            if method != "CONNECT" or not port.isdecimal() or not ticket.target.allows(f"{host}:{port}"):
                raise Blocked("denied")
            up, down = await self._dial(ticket, host.strip("[]"), int(port))
        except Blocked as blocked:
            ticket.note(blocked.trouble, f"{host}:{port}")
            await _say(writer, _ANSWERS[blocked.trouble])
            return
        git = who != GO
        ticket.opened(f"{host}:{port}", git=git)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _first(_pump(reader, down, ticket.asked), _pump(up, writer, ticket.got, ticket))
        finally:
            ticket.closed(git=git)
            down.transport.abort()  # whatever it has not taken yet, nobody waits for its answer


async def _say(writer: asyncio.StreamWriter, status: bytes, fields: bytes = b"", body: bytes = b"") -> None:
    head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), fields)
    writer.write(head + body)
    await writer.drain()


def _page(root: str, url: str) -> bytes:
    """A go-import page (go.dev/ref/mod#vcs-find)."""
    return f'<meta name="go-import" content="{html.escape(root)} git {html.escape(url)}">\n'.encode()


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    note: Callable[[int], None],
    bounded: Ticket | None = None,
) -> None:
    while chunk := await source.read(CHUNK):
        note(len(chunk))
        if bounded is not None and bounded.over:
            return  # and its tunnels are closed, before anybody looks
        sink.write(chunk)
        await sink.drain()


async def _first(*ways: Coroutine[None, None, None]) -> None:
    """Go both ways until one ends. No protocol of git's goes on in one direction alone."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _ended(tasks)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel them, and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection: what was written still goes out, if that is quick."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSING):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
