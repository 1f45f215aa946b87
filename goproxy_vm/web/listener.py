"""Listening sockets, and a stop that lets answers under way finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.config.address import UNIX_PATH_MAX
from goproxy_vm.errors import StartError
from goproxy_vm.hostos import outward_address
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from goproxy_vm.config import Address
    from goproxy_vm.web.connections import Connections

BACKLOG = 1024
"""Connections that the kernel keeps for us until we accept them."""
BATCH = 32
"""Connections accepted before other work has its turn."""
PAUSE = 1.0
"""Seconds without accepting after the system had nothing left for a connection."""
RECEIVE_BUFFER = 64 << 10
"""Bytes that the kernel keeps of what a client sends: requests are small."""
AT_ONCE = 0.001
"""Seconds that ``web.Server.shutdown`` still waits for handlers; it takes 0 for no limit."""

_PASSING = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH})
"""What accept(2) says of one connection, and not of those behind it."""

log = get_logger("listener")


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket, and for a Unix socket of our making the inode of its file."""

    sock: socket.socket
    inode: int | None = None

    def unlink(self) -> None:
        """Remove the socket's file if we made it and nobody has put another in its place."""
        if self.inode is None:
            return
        path = self.sock.getsockname()
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == self.inode:  # noqa: PTH116 (two quick calls at the very end)
                os.unlink(path)  # noqa: PTH108

    def close(self) -> None:
        """Stop listening where nothing has been served yet."""
        if self.sock.fileno() >= 0:
            self.unlink()
            self.sock.close()


def bind(address: Address, key: str) -> Bound:
    """A listening socket; StartError naming the setting ``key`` and the address."""
    try:
        if address.path is not None:
            return bind_unix(address.path)
        return Bound(_bind_tcp(address))
    except UnicodeError:
        reason = "the host name has a part that is too long"
    except OSError as error:
        reason = error.strerror or str(error)
    raise StartError(f"{key}: cannot listen on {address}: {reason}")


def _bind_tcp(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        stack.pop_all()
    return sock


def bind_unix(path: str, mode: int | None = None) -> Bound:
    """A listening Unix socket, its file with these permissions, or as the umask has it (blocking).

    A file that a killed server has left there is replaced. OSError, its ``strerror`` a sentence.
    """
    length = len(os.fsencode(path))
    if length > UNIX_PATH_MAX:
        raise OSError(
            errno.ENAMETOOLONG, f"the path has {length} bytes, and that of a socket {UNIX_PATH_MAX} at most"
        )
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.setblocking(False)
        if _left_behind(path):
            os.unlink(path)  # noqa: PTH108 (before anything is served)
        sock.bind(path)
        if mode is not None:
            os.chmod(path, mode)  # noqa: PTH101 (nobody can connect before it listens)
        sock.listen(BACKLOG)
        bound = Bound(sock, os.stat(path).st_ino)  # noqa: PTH116
        stack.pop_all()
    return bound


def _left_behind(path: str) -> bool:
    """Whether a socket's file is there that nobody listens on: its server was killed. OSError: one does."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH110, PTH116
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog must not hold us up
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            return True
    raise OSError(errno.EADDRINUSE, "another server listens there")


def url_of(sock: socket.socket) -> str:
    """The address a socket really listens on, as a URL."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in str(name[0]) else str(name[0])
    return f"http://{host}:{name[1]}"


def reachable(urls: Sequence[str]) -> str:
    """The URL by which other hosts reach one of these listeners, as far as can be told; "" if none do."""
    for url in urls:
        host, port = url.removeprefix("http://").rsplit(":", 1) if url.startswith("http://") else ("", "")
        if host in ("0.0.0.0", "[::]"):  # noqa: S104 (every address)
            host = outward_address() or socket.gethostname()
        if host and host != "[::1]" and not host.startswith("127."):
            return f"http://{host}:{port}"
    return ""


class Acceptor:
    """Accepts the connections of one listening socket; ``factory`` makes the protocol of each.

    asyncio's own would accept the whole backlog before anything else has its turn, and log a traceback for
    each attempt where descriptors are short.
    """

    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        self._sock = sock
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._made: set[asyncio.Task[object]] = set()
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._sock.listen(BACKLOG)
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._accept)

    def stop(self) -> None:
        """Stop, and close the socket."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._pause(error)
                return
            sock.setblocking(False)
            task: asyncio.Task[object] = self._loop.create_task(self._connect(sock))
            self._made.add(task)
            task.add_done_callback(self._made.discard)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, sock)
        except OSError as error:
            sock.close()
            log.warning("connection not served", reason=error.strerror or str(error))

    def _pause(self, error: OSError) -> None:
        """The socket stays readable: without a pause the loop would do nothing else."""
        log.warning("cannot accept connections", reason=error.strerror, seconds=PAUSE)
        self._loop.remove_reader(self._sock)
        self._paused = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._sock, self._accept)


class Listener:
    """Serves one ``aiohttp.web.Server`` on several sockets, behind ``Connections``."""

    def __init__(self, server: web.Server, connections: Connections, sockets: Sequence[Bound]) -> None:
        self._server = server
        self._connections = connections
        self._sockets = sockets
        self._listening: list[Acceptor] = []
        self.urls = [url_of(bound.sock) for bound in sockets]

    def start(self) -> None:
        """Accept connections from now on."""
        for bound in self._sockets:
            self._listening.append(Acceptor(bound.sock, self._connections))
            self._listening[-1].start()
        self._connections.start()

    async def stop(self, timeout: float) -> None:
        """Stop accepting, close idle connections, give answers under way ``timeout`` seconds."""
        for bound in self._sockets:
            bound.unlink()
        for listening in self._listening:
            listening.stop()
        await self._connections.drained(timeout)
        # Not earlier: it closes what it takes for idle, also where the short cut is sending.
        self._server.pre_shutdown()
        await self._server.shutdown(AT_ONCE)
        self._connections.abort()
        self._connections.stop()
