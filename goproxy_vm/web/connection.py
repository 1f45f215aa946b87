"""Who owns a connection: one small protocol in front of aiohttp's.

``Connection`` accepts the transport and keeps it for its whole life; it forwards everything to the
protocol that speaks HTTP on it. So limits per address, idle timers and send timers hold whatever
writes the answer (docs/decisions/0001-one-process-proves-and-serves.md).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from goproxy_vm.hostos import unsent_bytes
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.web.front import Front

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

_WHOLE = re.compile(
    rb"(?:GET|HEAD) [^\r\n]* HTTP/1\.1\r\n"
    rb"(?:(?!content-|transfer-|upgrade|expect|connection)[^\r\n:]+:[^\r\n]*\r\n)*\r\n",
    re.IGNORECASE,
)
"""One request, its head whole, without a body, after which the next one can begin."""
MOST_HELD = 64 << 10
"""Bytes of further requests taken in while one is answered."""

log = get_logger("connection")


def client_address(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address, or ``unix`` for a local socket (one client as far as limits go)."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "unix"
    address = str(peer[0])
    return address.removeprefix("::ffff:").partition("%")[0]


class Connection(asyncio.Protocol):
    """Owns one client's connection: answers hits by the short cut, and forwards the rest to aiohttp.

    The short cut gets each request first as long as it is clear where a request begins: aiohttp is done
    with everything that it was given, and that was one whole head without a body.
    """

    transport: asyncio.Transport

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._inner: asyncio.Protocol | None = None
        self.client = "unix"
        self.answering = 0
        self.fronting = False
        """Whether the short cut is at work beside the loop."""
        self.progress = 0
        """Bytes sent past the transport's buffer."""
        self._front = connections.front
        self._clear = True
        self._held: list[bytes] = []
        self._refused = False
        self._last_busy = 0.0
        self._last_progress = 0.0
        self._unsent = (0, 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection against its address."""
        self.transport = cast("asyncio.Transport", transport)
        self.client = client_address(transport)
        self._last_busy = self._last_progress = self._connections.now()
        if not self._connections.add(self):
            self._refused = True
            self.transport.write(TOO_MANY)
            self._connections.refused(len(_TEXT))
            self.transport.close()
        elif self._front is not None and not self._front.allows(self.client):
            self._front = None

    def data_received(self, data: bytes) -> None:
        """Answer a request, or forward it."""
        if self._refused:
            return
        if self._held or self.fronting:
            self._held.append(data)  # a second request before the first is answered: in order
            if sum(map(len, self._held)) > MOST_HELD:
                self.transport.pause_reading()
            return
        if self.answering:
            self._clear = False
        if not (self._front is not None and self._clear and self._front.take(self, data)):
            self.hand_over(data)

    def hand_over(self, data: bytes) -> None:
        """Have aiohttp answer what begins with ``data``."""
        if self.transport.is_closing():
            return
        if self._inner is None:
            self._inner = self._connections.inner()
            self._inner.connection_made(self.transport)
        if self._clear and not _WHOLE.fullmatch(data):
            self._clear = False
        self._inner.data_received(data)

    def answered(self) -> None:
        """The short cut is done with a request: go on with what came meanwhile."""
        if not self._held or self.transport.is_closing():
            return
        data, self._held = b"".join(self._held), []
        self.transport.resume_reading()
        self._clear = False
        self.hand_over(data)

    def eof_received(self) -> bool | None:
        """Forward the end of what the client sends; an answer under way is still sent."""
        if self._inner is not None:
            return self._inner.eof_received()
        return bool(self.answering)

    def pause_writing(self) -> None:
        """Forward: the client reads more slowly than we write."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward: the client caught up."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward, and give the connection's place back."""
        if self._refused:
            return
        self._connections.remove(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    @property
    def busy(self) -> bool:
        """Whether an answer is being made, or waits to be sent (on a closing transport too)."""
        return bool(self.answering or self.transport.get_write_buffer_size())

    def sweep(self, now: float, send_timeout: float) -> None:
        """Abort a send without progress, close a connection that asks for nothing."""
        transport = self.transport
        unsent = transport.get_write_buffer_size() + unsent_bytes(transport.get_extra_info("socket"))
        if unsent == 0 or (unsent, self.progress) != self._unsent:
            self._unsent = (unsent, self.progress)
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

    ``inner`` makes the protocol that speaks HTTP; ``front`` answers hits before it; ``most`` is the limit per
    address; ``send_timeout`` the seconds after which a send that makes no progress is aborted (a VM that was
    suspended in the middle of a download never says so). ``refused`` is told of each connection beyond the
    limit and the bytes of the answer's body: whatever it asks is answered 503 unread.
    """

    def __init__(
        self,
        inner: Callable[[], asyncio.Protocol],
        front: Front | None = None,
        *,
        most: int,
        send_timeout: float,
        refused: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inner = inner
        self.front = front
        self._most = most
        self._send_timeout = send_timeout
        self.refused = refused
        self.now = clock
        self._all: set[Connection] = set()
        self._by_client: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        """The protocol factory for ``loop.create_server``."""
        return Connection(self)

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
        """Close what is idle, until no answer is under way and nothing is left to send, ``timeout`` seconds
        at most."""
        end = self.now() + timeout
        self.close_idle()
        while any(connection.busy for connection in self._all) and self.now() < end:
            await asyncio.sleep(DRAIN_POLL)
            self.close_idle()

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
