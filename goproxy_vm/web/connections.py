"""All connections of a listener."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from goproxy_vm.observe.logs import get_logger
from goproxy_vm.web.connection import Connection
from goproxy_vm.web.refusal import plain
from goproxy_vm.web.unread import Unread

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.web.connection import ShortCut
    from goproxy_vm.web.refusal import Refusal

SWEEP = 1.0
"""Seconds between two looks at all connections."""
A_TURN = 256
"""Connections looked at before other work has its turn."""
DRAIN_POLL = 0.05
"""Seconds between two looks whether all answers are sent, at shutdown."""
LEAST_RATE = 1024
"""Bytes a second that a client must take of what waits for it, on average over ``send_timeout``."""
PRESSED_RATE = 64 << 10
"""The same while downloads wait for the room of files that are being sent: one client that sips at many of
them would have the whole budget."""

log = get_logger("connection")


class Connections:
    """All connections of a listener: how many each address holds, and their timers.

    ``inner`` makes the protocol that speaks HTTP; ``front`` answers hits before it; ``most`` is the limit per
    address, ``in_all`` that of all together. ``send_timeout`` is the number of seconds over which a client
    must take :data:`LEAST_RATE` of what waits for it (a VM that was suspended in the middle of a download
    never says that it is gone). ``bodies`` says whether requests may have one; where not, none is read.
    ``refusal`` makes the answer to what is refused unread; ``refused`` is told its status and the bytes of
    its body. ``exempt`` says whose address many clients share, so that only the limit of all holds for
    it; ``pressed`` whether downloads wait for the room of what is being sent (:data:`PRESSED_RATE`).
    """

    def __init__(
        self,
        inner: Callable[[], asyncio.Protocol],
        front: ShortCut | None = None,
        *,
        most: int,
        send_timeout: float,
        in_all: int | None = None,
        bodies: bool = False,
        refusal: Refusal = plain,
        refused: Callable[[int, int], None] = lambda _status, _sent: None,
        exempt: Callable[[str], bool] = lambda _client: False,
        pressed: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inner = inner
        self.front = front
        self._most = most
        self._in_all = in_all
        self._send_timeout = send_timeout
        self.bodies = bodies
        self.refusal = refusal
        self.refused = refused
        self._exempt = exempt
        self._pressed = pressed
        self.now = clock
        self.unread = Unread()
        """What its clients have not read yet of documents."""
        self._all: set[Connection] = set()
        self._by_client: Counter[str] = Counter()
        self._timer: asyncio.Handle | None = None

    def __call__(self) -> Connection:
        """The protocol factory for the listener."""
        return Connection(self)

    def __len__(self) -> int:
        return len(self._all)

    def least_rate(self) -> int:
        """Bytes a second that a client must take of what waits for it."""
        return PRESSED_RATE if self._pressed() else LEAST_RATE

    @property
    def addresses(self) -> int:
        """Different clients among them."""
        return len(self._by_client)

    def add(self, connection: Connection) -> str:
        """Take a connection in; else why not, in a sentence."""
        client = connection.client
        if self._by_client[client] >= self._most and client != "unix" and not self._exempt(client):
            log.warning("too many connections", client=client, most=self._most)
            return "too many connections from this address; retry later"
        if self._in_all is not None and len(self._all) >= self._in_all:
            log.warning("too many connections in all", client=client, most=self._in_all)
            return "too many connections; retry later"
        self._all.add(connection)
        self._by_client[client] += 1
        return ""

    def remove(self, connection: Connection) -> None:
        """Give a connection's place back, if it has one."""
        if connection not in self._all:
            return
        self._all.remove(connection)
        self._by_client[connection.client] -= 1
        if not self._by_client[connection.client]:
            del self._by_client[connection.client]

    def reconsider(self) -> None:
        """Who may use the short cut has changed."""
        for connection in self._all:
            connection.reconsider()

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
            connection.abort()

    def start(self) -> None:
        """Begin to look after timers."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def stop(self) -> None:
        """Stop looking after timers."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self._look_after(list(self._all))

    def _look_after(self, left: list[Connection]) -> None:
        now = self.now()
        for connection in left[-A_TURN:]:
            if connection in self._all:
                connection.sweep(now, self._send_timeout)
        del left[-A_TURN:]
        if left:
            self._timer = asyncio.get_running_loop().call_soon(self._look_after, left)
        else:
            self.start()
