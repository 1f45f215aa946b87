"""Who owns a connection: one small protocol in front of aiohttp's.

``Connection`` accepts the transport and keeps it for its whole life: it takes the requests off the wire one
by one, and gives the next to whoever answers it only when the last is answered and the client has taken the
answer. So order, limits per address, bounds on memory, idle timers and send timers hold whatever writes the
answer (docs/decisions/0001-one-process-proves-and-serves.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import weakref
from typing import TYPE_CHECKING, Protocol, cast

from goproxy_vm.hostos import acknowledged_bytes, unsent_bytes
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from goproxy_vm.web.unread import Unread

IDLE = 75.0
"""Seconds a connection may wait for a first or next whole request. aiohttp's own timer is much longer,
and is not started before the first answer by every version of it."""
PARTING = 10.0
"""Seconds in which a client that has closed its side still gets an answer that is being made: most have gone,
and what is fetched for them alone need not wait for its turn."""
LONGEST_HEAD = 64 << 10
"""Bytes of a request's head, from its first line to the empty one."""
MOST_WAITING = 16 << 10
"""Bytes of answers that wait in memory for a client to read; above, nothing more is answered or read."""

_END = b"\r\n\r\n"
_ORDINARY = re.compile(
    rb"(?!CONNECT )[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\r\n]* HTTP/1\.[01]\r\n"
    rb"(?:(?!content-length:(?![\t ]*0[\t ]*\r)|transfer-|upgrade)[^\r\n:]+:[^\r\n]*\r\n)*\r\n",
    re.IGNORECASE,
)
"""A whole head without a body, after which the next request can begin."""
_BEGINNING = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: [^\x00-\x20\x7f]*(?: [HTP/.0-9]{,8}(?:\r(?:\n.*)?)?)?)?", re.DOTALL
)
"""What can become a head, as far as it has come."""

log = get_logger("connection")


def client_address(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address, or ``unix`` for a local socket (one client as far as limits go)."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "unix"
    address = str(peer[0])
    return address.removeprefix("::ffff:").partition("%")[0]


class ShortCut(Protocol):
    """What may answer a request before aiohttp sees it."""

    def allows(self, client: str) -> bool:
        """Whether who connects from here is answered."""
        ...

    def take(self, connection: Connection, data: bytes) -> bool:
        """Answer the request ``data``; False: it is aiohttp's."""
        ...


class Others(Protocol):
    """What a connection knows of its listener, and of the other connections there."""

    @property
    def front(self) -> ShortCut | None:
        """What is asked first."""
        ...

    @property
    def bodies(self) -> bool:
        """Whether requests may have one; where not, none is read."""
        ...

    @property
    def unread(self) -> Unread:
        """What all clients have not read yet of documents."""
        ...

    def now(self) -> float:
        """The monotonic clock, in seconds."""
        ...

    def inner(self) -> asyncio.Protocol:
        """Make the protocol that speaks HTTP."""
        ...

    def least_rate(self) -> int:
        """Bytes a second that a client must take of what waits for it."""
        ...

    def add(self, connection: Connection) -> str:
        """Take a connection in; else why not, in a sentence."""
        ...

    def remove(self, connection: Connection) -> None:
        """Give a connection's place back, if it has one."""
        ...

    def refusal(self, status: int, sentence: str, /) -> bytes:
        """Make the answer to what is refused unread."""
        ...

    def refused(self, status: int, sent: int, /) -> None:
        """Such an answer was given, with so many bytes of a body."""
        ...


class Connection(asyncio.Protocol):
    """Owns one client's connection: the short cut gets each request first, then aiohttp.

    Both get one whole head at a time, in order. A request that has a body, wants another protocol or is no
    proper head is the connection's last.
    """

    transport: asyncio.Transport
    sock: socket.socket
    """The transport's, which closes it; for what the transport cannot send itself."""

    def __init__(self, connections: Others) -> None:
        self._connections = connections
        self._inner: asyncio.Protocol | None = None
        self.client = "unix"
        self.answering = 0
        """Requests being answered: from when one is taken off the wire until its answer is written."""
        self.last = False
        """Whether nothing that still comes is answered."""
        self.progress = 0
        """Bytes sent past the transport's buffer."""
        self.sending_file = False
        """Whether the loop's sendfile is under way: it fails if the socket is shut down, and cuts us off."""
        self.unread = connections.unread
        self._front = connections.front
        self._held = bytearray()
        self._looked = 0
        self._ended = False
        self._ended_at = 0.0
        self._stuffed = False
        self._relieved: asyncio.Future[None] | None = None
        self._asked = False
        self._last_busy = 0.0
        self._unsent = 0
        self._taken = 0
        self._window = (0.0, 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection against its address."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(MOST_WAITING)
        self.client = client_address(transport)
        sock = transport.get_extra_info("socket")
        self.sock = socket.socket(sock.family, sock.type, sock.proto, sock.fileno())
        self.sock.setblocking(False)
        weakref.finalize(self, self.sock.detach)  # never closed by us, even if nobody tells of the end
        self._last_busy = self._connections.now()
        self._window = (self._last_busy, 0)
        refusal = self._connections.add(self)
        if refusal:
            self._refuse(503, refusal)
        else:
            self.reconsider()

    def reconsider(self) -> None:
        """Leave the short cut if its rules no longer allow it to this client."""
        if self._front is not None and not self._front.allows(self.client):
            self._front = None

    # What comes

    def data_received(self, data: bytes) -> None:
        """Answer a request, or keep it until its turn."""
        if self.answering or self._held or self._stuffed or self.last:
            self._hold(data)
        elif self._front is not None and self._front.take(self, data):
            self._asked = True
        else:
            self._held += data
            self._go_on(tried=len(data))

    def eof_received(self) -> bool:
        """The client asks for nothing more: what it has asked for is still answered."""
        self._ended = True
        self._ended_at = self._connections.now()
        if self.last and self._connections.bodies:
            return False  # perhaps in the middle of a body
        if not self.answering:
            self._go_on()
        return True

    def _hold(self, data: bytes) -> None:
        if self.last:
            if self._inner is not None and self._connections.bodies:
                self._inner.data_received(data)
            return
        self._held += data
        if self.answering or self._stuffed:
            self.transport.pause_reading()
        else:
            self._go_on()

    def _go_on(self, tried: int = 0) -> None:
        """Answer the next of what is held, if it is whole and nothing is in its way.

        The short cut has declined a head of ``tried`` bytes already.
        """
        if self.answering or self._stuffed or self.last or self.transport.is_closing():
            return
        head = self._next_head()
        if head is None:
            if self._ended:
                self.transport.close()
            elif not self.last:
                self.transport.resume_reading()
            return
        self._asked = True
        if self._front is None or len(head) == tried or not self._front.take(self, head):
            self.hand_over(head)
        if not self.answering:
            asyncio.get_running_loop().call_soon(self._go_on)  # others have their turn

    def _soon(self) -> None:
        """Go on when others have had their turn. What was held may all have been taken: whoever waits to be
        read again waits for this."""
        if self._held or self._ended or not self.transport.is_reading():
            asyncio.get_running_loop().call_soon(self._go_on)

    def _next_head(self) -> bytes | None:
        """The next whole head; None if it has not come, or never will."""
        held = self._held
        if held.startswith((b"\r", b"\n")):  # before a request line these are ignored (RFC 9112 §2.2)
            held[:] = held.lstrip(b"\r\n")
        end = held.find(_END, self._looked) + len(_END)
        if end < len(_END):
            if len(held) > LONGEST_HEAD:
                self._refuse(431, "the request's head is too long")
            elif held and not (self._looked or _BEGINNING.fullmatch(held)):
                self._refuse(400, "not a valid HTTP/1.1 request")
            self._looked = max(0, len(held) - len(_END) + 1)
            return None
        if end > LONGEST_HEAD:
            self._refuse(431, "the request's head is too long")
            return None
        head = bytes(held[:end])
        del held[:end]
        self._looked = 0
        return head

    def _refuse(self, status: int, sentence: str) -> None:
        self.last = True
        self._held.clear()
        text = self._connections.refusal(status, sentence)
        self.transport.write(text)
        self._connections.refused(status, len(text) - text.index(_END) - len(_END))
        self.transport.close()

    # Who answers

    def hand_over(self, head: bytes) -> None:
        """Have aiohttp answer a request; it says so by :meth:`answered`."""
        if self.transport.is_closing():
            return
        if head.startswith(
            b"PRI "
        ):  # HTTP/2's preface (RFC 9113 §3.4), of which aiohttp's parser makes nothing
            self._refuse(400, "not a valid HTTP/1.1 request")
            return
        if self._inner is None:
            self._inner = self._connections.inner()
            self._inner.connection_made(self.transport)
            if self._stuffed:
                self._inner.pause_writing()
        self.answering += 1
        self.last = not _ORDINARY.fullmatch(head)
        self._inner.data_received(head)
        if self.last and self._held:
            rest, self._held = bytes(self._held), bytearray()
            self._hold(rest)

    def answered(self, *, last: bool = False) -> None:
        """The answer to a request has been written: go on with what came meanwhile."""
        self.answering -= 1
        self.last = self.last or last
        self._soon()

    # What goes

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._stuffed = True
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._stuffed = False
        if self._inner is not None:
            self._inner.resume_writing()
        self._relieve()
        self._soon()

    async def taken(self) -> None:
        """Wait until the client has taken what was written, but for a little. ConnectionError: it left."""
        if self._stuffed and not self.transport.is_closing():
            self._relieved = asyncio.get_running_loop().create_future()
            await self._relieved
        if self.transport.is_closing():
            raise ConnectionResetError("the connection is closing")

    def _relieve(self) -> None:
        if self._relieved is not None and not self._relieved.done():
            self._relieved.set_result(None)
        self._relieved = None

    # How it ends

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward, and give the connection's place back."""
        self.sock.detach()
        self.last = True
        self._held.clear()
        self._relieve()
        self._connections.remove(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    @property
    def busy(self) -> bool:
        """Whether an answer is being made, or waits to be sent (on a closing transport too)."""
        return bool(self.answering or self.transport.get_write_buffer_size())

    def abort(self) -> None:
        """Cut the connection off, whatever waits to be sent."""
        if self.sending_file and not self.transport.is_closing():
            # The loop's sendfile would wait for ever on a socket that the transport has closed.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        else:
            self.transport.abort()

    def sweep(self, now: float, send_timeout: float) -> None:
        """Abort a send to a client that takes too little, close a connection that asks for nothing."""
        transport, sock = self.transport, self.sock
        before, self._unsent = self._unsent, transport.get_write_buffer_size() + unsent_bytes(sock)
        unsent = self._unsent
        if unsent:
            self._count_taken(acknowledged_bytes(sock), before - unsent)
        since, taken = self._window
        if not (unsent and before):
            self._window = (now, self._taken)
        elif now - since > send_timeout:
            if self._taken - taken < self._connections.least_rate() * (now - since):
                seconds = round(now - since, 3)
                log.warning(
                    "send without progress",
                    client=self.client,
                    unsent=unsent,
                    taken=self._taken - taken,
                    seconds=seconds,
                )
                self.abort()
                return
            self._window = (now, self._taken)
        # Who hangs up looks at first like who sends no more and waits for the answer.
        if self._ended and self.answering and not unsent and now - self._ended_at > PARTING:
            self.abort()
            return
        # Bytes that arrive are no sign of life: a head that trickles in would hold its place for ever. Whole
        # requests are: the answer may have come and gone since the last look.
        if self.answering or unsent or self._asked:
            self._last_busy, self._asked = now, False
        elif now - self._last_busy > IDLE:
            transport.close()

    def _count_taken(self, acknowledged: int | None, fewer: int) -> None:
        if acknowledged is not None:
            self._taken = acknowledged
            return
        # A local socket: nothing is written while it is stuffed, save by sendfile.
        self._taken += max(0, fewer) + self.progress
        self.progress = 0
