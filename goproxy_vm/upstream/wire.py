"""Between a connection to an upstream and aiohttp: heads as Go takes them, bodies in small portions.

What an upstream sends in one piece can cost a hundred times what it usually does: each chunk of a chunked
body is a step of its own, and a chunk may be one byte long. So aiohttp is given what it can digest in a
millisecond, and the rest later, one connection in each turn of the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import LineTooLong

HEAD_MOST = 1 << 20
"""Bytes of an answer's head, interim answers included."""
MOST_FIELDS = 10_000
"""Lines of an answer's head, interim answers included."""
TURN = 0.001
"""Seconds that one portion is to cost at most."""
LEAST = 256
"""Bytes of a portion at least."""
FIRST = 4 << 10
"""Bytes of an answer's first portion, and of each of its head: there may be a field in every four."""
MOST = 512 << 10
"""Bytes that are handed on at once."""


class Portion:
    """How many bytes to work on at once, so that it costs about a millisecond: up to ``most`` while that is
    quick."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = FIRST
        self.slow = False
        """Whether the latest one took longer than it should."""

    def took(self, seconds: float) -> None:
        """Note what the latest one cost."""
        self.slow = seconds > TURN
        if self.slow:
            self.bytes = max(LEAST, self.bytes // 2)
        elif seconds < TURN / 4:
            self.bytes = min(self.most, self.bytes * 2)


class RoundRobin:
    """Connections with more to hand on than is quick: one in each turn of the loop."""

    def __init__(self) -> None:
        self._waiting: deque[_Layer] = deque()
        self._called = False

    def enter(self, layer: _Layer) -> None:
        """Have one wait for its turn, behind the others."""
        self._waiting.append(layer)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._called = False
        layer = self._waiting.popleft()
        if self._waiting:
            self._called = True
            asyncio.get_running_loop().call_soon(self._next)
        layer.turn()


class Connector(aiohttp.TCPConnector):
    """Puts a layer under each connection that it makes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._turns = RoundRobin()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # The method that aiohttp has derived classes override.
        handler = await super()._create_connection(req, traces, timeout)
        if handler.transport is not None:
            _Layer(handler, handler.transport, self._turns)
        return handler


def watch_body(response: aiohttp.ClientResponse) -> None:
    """Have the end of the connection end the body, too: where a chunk's or a trailer's bytes are not HTTP,
    aiohttp (3.14) closes the connection and leaves waiting who reads."""
    connection = response.connection
    if connection is not None and isinstance(connection.transport, _Layer):
        connection.transport.body = response.content


class _Layer(asyncio.Protocol, asyncio.Transport):
    """For the transport a protocol, for aiohttp's handler a transport."""

    def __init__(self, handler: ResponseHandler, transport: asyncio.Transport, turns: RoundRobin) -> None:
        super().__init__()
        self._handler = handler
        self._transport = transport
        self._turns = turns
        self._pending: deque[bytes] = deque()
        self._taken = 0  # of the first
        self._portion = Portion(MOST)
        self._held = False  # by the handler
        self._queued = False
        self._lost: tuple[Exception | None] | None = None  # kept back until all is handed on
        self._head: _Head | None = None
        self.body: aiohttp.StreamReader | None = None  # the latest that is watched
        transport.set_protocol(self)
        handler.transport = self

    # From below.

    def data_received(self, data: bytes) -> None:
        self._pending.append(data)
        self._hand_on()

    def eof_received(self) -> bool | None:
        if not self._pending:
            self._handler.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = (exc,)
        self._hand_on()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    # Handing on.

    def turn(self) -> None:
        """Hand on one portion, however much there is."""
        self._queued = False
        if self._pending and not self._held:
            self._one()
        self._wait_or_settle()

    def _hand_on(self) -> None:
        """Hand on what is there, for as long as one portion may take."""
        until = time.perf_counter() + TURN
        while self._pending and not (self._held or self._queued or self._portion.slow):
            self._one()
            if time.perf_counter() >= until:
                break
        self._wait_or_settle()

    def _wait_or_settle(self) -> None:
        if self._pending and not (self._held or self._queued):
            self._queued = True
            self._turns.enter(self)
        self._settle()

    def _one(self) -> None:
        piece, begin = self._pending[0], self._taken
        size = self._portion.bytes if self._head is None else min(self._portion.bytes, FIRST)
        self._taken += size
        if begin or self._taken < len(piece):  # else as it came: a copy costs as much as all the rest
            piece = piece[begin : self._taken]
        if self._taken >= len(self._pending[0]):
            self._pending.popleft()
            self._taken = 0
        started = time.perf_counter()
        self._pass(piece)
        self._portion.took(time.perf_counter() - started)

    def _pass(self, piece: bytes) -> None:
        if self._head is not None:
            try:
                piece = self._head.take(piece)
            except LineTooLong as error:
                self._handler.set_exception(error)
                self.abort()
                return
            if self._head.ended:
                self._head = None
        if piece:
            self._handler.data_received(piece)

    def _settle(self) -> None:
        if self._lost is not None:
            if not self._pending:
                (error,), self._lost = self._lost, None
                self._handler.connection_lost(error)
                if self.body is not None and not self.body.is_eof() and self.body.exception() is None:
                    self.body.set_exception(aiohttp.ClientPayloadError("no valid HTTP"))
        elif self._held or self._pending:
            self._transport.pause_reading()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    # From above.

    def write(self, data: Any) -> None:
        self._begin()
        self._transport.write(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self._begin()
        self._transport.writelines(list_of_data)

    def _begin(self) -> None:
        """An answer is to come; what the one before it was like says nothing about its portions."""
        if self._head is None:
            self._head = _Head()
            self._portion = Portion(MOST)

    def pause_reading(self) -> None:
        self._held = True
        self._settle()

    def resume_reading(self) -> None:
        # Never from here: whoever reads would find more, and more, and not come to an end.
        self._held = False
        self._wait_or_settle()

    def is_reading(self) -> bool:
        return not self._held

    def close(self) -> None:
        self._drop()
        self._transport.close()

    def abort(self) -> None:
        self._drop()
        self._transport.abort()

    def _drop(self) -> None:
        """The handler wants no more."""
        self._pending.clear()
        self._taken = 0
        if self._lost is not None:
            asyncio.get_running_loop().call_soon(self._settle)

    def is_closing(self) -> bool:
        return self._lost is not None or self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._transport.write_eof()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._handler)


class _Head:
    """An answer's head on its way, line by line: a Content-Length that is said again is left out, as Go does
    it, for aiohttp refuses two equal ones; and the whole is bounded."""

    def __init__(self) -> None:
        self.ended = False
        self._line: list[bytes] = []  # the pieces of one that has not come whole
        self._bytes = 0
        self._fields = 0
        self._interim = False
        self._length: bytes | None = None

    def take(self, data: bytes) -> bytes:
        """What is to be handed on of ``data``. LineTooLong: it is longer than ``HEAD_MOST``, or has more than
        ``MOST_FIELDS``."""
        *lines, rest = data.split(b"\n")
        taken: list[bytes] = []
        if lines:
            lines[0] = b"".join([*self._line, lines[0]])
            self._bytes -= sum(map(len, self._line))
            self._line.clear()
        for number, line in enumerate(lines):
            self._bytes += len(line) + 1
            self._fields += 1
            if self._keep(line.rstrip(b"\r")):
                taken.append(line + b"\n")
            if self.ended:
                taken += [b"\n".join([*lines[number + 1 :], rest])]
                break
        else:
            self._line.append(rest)
            self._bytes += len(rest)
        if self._bytes > HEAD_MOST:
            raise LineTooLong(b"the head of an answer", HEAD_MOST)
        if self._fields > MOST_FIELDS:
            raise LineTooLong(b"the fields of an answer's head", MOST_FIELDS)
        return b"".join(taken)

    def _keep(self, line: bytes) -> bool:
        if line.startswith(b"HTTP/"):
            status = line.split(b" ", 2)[1:2]
            self._interim = len(status) == 1 and status[0].startswith(b"1") and status[0] != b"101"
            self._length = None
        elif not line:
            self.ended = not self._interim
        else:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                repeated = value.strip() == self._length
                self._length = value.strip()
                return not repeated
        return True
