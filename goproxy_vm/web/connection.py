"""Who owns a connection: one small protocol in front of aiohttp's.

``Connection`` accepts the transport and keeps it for its whole life; it forwards everything to the
protocol that speaks HTTP on it. So limits per address, idle timers and send timers hold whatever
writes the answer (docs/decisions/0001-one-process-proves-and-serves.md).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from goproxy_vm.hostos import unsent_bytes
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

SWEEP = 1.0
"""Seconds between two looks at all connections."""
DRAIN_POLL = 0.05
"""Seconds between two looks whether all answers are sent, at shutdown."""
IDLE = 75.0
"""Seconds a connection may wait for a first or next whole request. aiohttp's own timer is much longer,
and is not started before the first answer by every version of it."""
_TEXT = b"goproxy-vm: too many connections from this address; retry later\n"
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nCache-Status: goproxy-vm; detail=refused\r\n"
    b"Retry-After: 5\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_TEXT), _TEXT)
)

log = get_logger("connection")


def client_address(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address, or ``unix`` for a local socket (one client as far as limits go)."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "unix"
    address = str(peer[0])
    return address.removeprefix("::ffff:").partition("%")[0]


class Connection(asyncio.Protocol):
    """Owns one client's connection and forwards its events to aiohttp's protocol."""

    transport: asyncio.Transport

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self.client = "unix"
        self.answering = 0
        self._refused = False
        self._last_busy = 0.0
        self._last_progress = 0.0
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection against its address, then hand it on."""
        self.transport = cast("asyncio.Transport", transport)
        self.client = client_address(transport)
        self._last_busy = self._last_progress = self._connections.now()
        if not self._connections.add(self):
            self._refused = True
            self.transport.write(TOO_MANY)
            self.transport.close()
            return
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Forward what the client sent."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Forward the end of what the client sends."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Forward: the client reads more slowly than we write."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward: the client caught up."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward, and give the connection's place back."""
        if not self._refused:
            self._connections.remove(self)
            self._inner.connection_lost(exc)

    @property
    def busy(self) -> bool:
        """Whether an answer is being made, or waits to be sent (on a closing transport too)."""
        return bool(self.answering or self.transport.get_write_buffer_size())

    def sweep(self, now: float, send_timeout: float) -> None:
        """Abort a send without progress, close a connection that asks for nothing."""
        transport = self.transport
        unsent = transport.get_write_buffer_size() + unsent_bytes(transport.get_extra_info("socket"))
        if unsent == 0 or unsent != self._unsent:
            self._unsent = unsent
            self._last_progress = now
        elif now - self._last_progress > send_timeout:
            log.warning("send without progress", client=self.client, unsent=unsent, seconds=send_timeout)
            transport.abort()
            return
        # Bytes that arrive are no sign of life: a head that trickles in would hold its place for ever.
        if self.answering or unsent:
            self._last_busy = now
        elif now - self._last_busy > IDLE:
            transport.close()


class Connections:
    """All connections of a listener: how many each address holds, and their timers.

    ``inner`` makes the protocol that speaks HTTP; ``most`` is the limit per address; ``send_timeout`` the
    seconds after which a send that makes no progress is aborted (a VM that was suspended in the middle of
    a download never says so).
    """

    def __init__(
        self,
        inner: Callable[[], asyncio.Protocol],
        *,
        most: int,
        send_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._most = most
        self._send_timeout = send_timeout
        self.now = clock
        self._all: set[Connection] = set()
        self._by_client: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        """The protocol factory for ``loop.create_server``."""
        return Connection(self, self._inner())

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> bool:
        """Take a connection in; False if its address holds too many already."""
        client = connection.client
        if client != "unix" and self._by_client[client] >= self._most:
            log.warning("too many connections", client=client, most=self._most)
            return False
        self._all.add(connection)
        self._by_client[client] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """Give a connection's place back."""
        self._all.discard(connection)
        self._by_client[connection.client] -= 1
        if not self._by_client[connection.client]:
            del self._by_client[connection.client]

    def close_idle(self) -> None:
        """Close what waits for a request, so that its client asks elsewhere at once."""
        for connection in self._all:
            if not connection.busy:
                connection.transport.close()

    async def drained(self, timeout: float) -> None:
        """Wait until no answer is under way and nothing is left to send, ``timeout`` seconds at most."""
        end = self.now() + timeout
        while any(connection.busy for connection in self._all) and self.now() < end:
            await asyncio.sleep(DRAIN_POLL)

    def abort(self) -> None:
        """Cut what is still open: a client that reads nothing would keep its connection for ever."""
        for connection in self._all:
            connection.transport.abort()

    def start(self) -> None:
        """Begin to look after timers."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def stop(self) -> None:
        """Stop looking after timers."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self.start()
        now = self.now()
        for connection in self._all:
            connection.sweep(now, self._send_timeout)
