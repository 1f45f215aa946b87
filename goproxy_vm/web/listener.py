"""Listening sockets, and a stop that lets answers under way finish."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from goproxy_vm.config import Address
    from goproxy_vm.web.connection import Connections

BACKLOG = 1024
AT_ONCE = 0.001
"""Seconds that ``web.Server.shutdown`` still waits for handlers; it takes 0 for no limit."""


def bind(address: Address, key: str) -> socket.socket:
    """A bound, not yet listening socket; StartError naming the setting ``key`` and the address."""
    if address.path is not None:
        return _bind_unix(Path(address.path), key)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartError(f"{key}: {address}: {error.strerror}") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"{key}: cannot listen on {address}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


def _bind_unix(path: Path, key: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            if sock.connect_ex(str(path)) == 0:
                raise StartError(f"{key}: cannot listen on unix:{path}: another server answers there")
            path.unlink()  # left behind by a server that was killed
            sock.close()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"{key}: cannot listen on unix:{path}: {error.strerror}") from None
    except StartError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def url_of(sock: socket.socket) -> str:
    """The address a socket really listens on, as a URL."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in str(name[0]) else str(name[0])
    return f"http://{host}:{name[1]}"


class Listener:
    """Serves one ``aiohttp.web.Server`` on several sockets, behind ``Connections``."""

    def __init__(
        self, server: web.Server, connections: Connections, sockets: Sequence[socket.socket]
    ) -> None:
        self._server = server
        self._connections = connections
        self._sockets = sockets
        self._listening: list[asyncio.Server] = []
        self.urls = [url_of(sock) for sock in sockets]

    async def start(self) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            unix = sock.family == socket.AF_UNIX
            create = loop.create_unix_server if unix else loop.create_server
            self._listening.append(await create(self._connections, sock=sock, backlog=BACKLOG))
        self._connections.start()

    async def stop(self, timeout: float) -> None:
        """Stop accepting, close idle connections, give answers under way ``timeout`` seconds."""
        for listening in self._listening:
            listening.close()
        self._server.pre_shutdown()
        await self._connections.drained(timeout)
        await self._server.shutdown(AT_ONCE)
        self._connections.abort()
        self._connections.stop()
        for url in self.urls:
            if url.startswith("unix:"):
                with contextlib.suppress(OSError):
                    os.unlink(url.removeprefix("unix:"))  # noqa: PTH108 (one quick call at the very end)
