"""What is in memory because clients have not read it yet."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Protocol

from goproxy_vm.observe.logs import get_logger

MOST = 32 << 20
"""Bytes of documents that are being sent. Of real ones, even the longest, a hundred are less."""

log = get_logger("connection")


class Receiver(Protocol):
    """A connection, as far as what it sends matters here."""

    client: str
    """Who reads: by address, or ``unix``."""

    def abort(self) -> None:
        """Cut it off, whatever waits to be sent."""
        ...


class Unread:
    """Bodies in memory that are being sent, each no longer than ``MOST``; one that several connections send
    counts once, and for each of these a part. Where they are more than that together, the client that keeps
    most of them is cut off: on the connection that has waited longest for it to take something, of those
    whose bodies the fewest others send.
    """

    def __init__(self) -> None:
        self.bytes = 0
        """Of all of them together."""
        self._bodies: OrderedDict[Receiver, bytes] = OrderedDict()
        """By connection; the one that has waited longest comes first."""
        self._senders: Counter[int] = Counter()
        """By body, which is known by its identity."""

    def add(self, connection: Receiver, body: bytes) -> None:
        """A connection, which sends one at a time, begins to send a body."""
        self._bodies[connection] = body
        self._senders[id(body)] += 1
        if self._senders[id(body)] == 1:
            self.bytes += len(body)
        while self.bytes > MOST:
            self._cut()

    def taken(self, connection: Receiver) -> None:
        """Its client has taken what was written so far."""
        if connection in self._bodies:
            self._bodies.move_to_end(connection)

    def remove(self, connection: Receiver) -> None:
        """It has sent its body, or never will; nothing where it has none."""
        body = self._bodies.pop(connection, None)
        if body is None:
            return
        self._senders[id(body)] -= 1
        if not self._senders[id(body)]:
            del self._senders[id(body)]
            self.bytes -= len(body)

    def _cut(self) -> None:
        """Free one body. All that send it are cut off at once: to go on without one of very many frees
        nothing, and to look for the next takes as long as there are connections."""
        kept: dict[str, float] = defaultdict(float)
        for connection, body in self._bodies.items():
            kept[connection.client] += len(body) / self._senders[id(body)]
        client = max(kept, key=kept.__getitem__)
        dropped = min(
            (body for connection, body in self._bodies.items() if connection.client == client),
            key=lambda body: self._senders[id(body)],
        )
        senders = [connection for connection, body in self._bodies.items() if body is dropped]
        log.warning(
            "unread answer dropped", client=client, bytes=round(kept[client]), connections=len(senders)
        )
        for connection in senders:
            self.remove(connection)
            connection.abort()
