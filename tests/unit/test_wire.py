"""What lies between a connection to an upstream and aiohttp: portions, turns, flow control, heads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.http_exceptions import LineTooLong

from goproxy_vm.upstream import wire
from goproxy_vm.upstream.wire import FIRST, LEAST, MOST, MOST_FIELDS, Portion, RoundRobin, _Head, _Layer

CHUNK = b"1\r\nx\r\n"


class Clock:
    """Time passes only where something works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn = 0

    def perf_counter(self) -> float:
        return self.now


class Below(asyncio.Transport):
    """A connection."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self.reading = True
        self.closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def write(self, data: Any) -> None:
        return None


class Handler:
    """Works on what it gets, a millisecond for each KiB; ``turns`` are those of the loop in which it did."""

    def __init__(self, clock: Clock, cost: float) -> None:
        self.transport: asyncio.Transport | None = None
        self.got = b""
        self.turns: list[int] = []
        self.lost: list[Exception | None] = []
        self.failed: list[BaseException] = []
        self._clock = clock
        self._cost = cost

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.turns.append(self._clock.turn)
        self._clock.now += len(data) / 1024 * self._cost

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def set_exception(self, error: BaseException) -> None:
        self.failed.append(error)

    def eof_received(self) -> None:
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(wire, "time", made)
    return made


def layer(clock: Clock, turns: RoundRobin, cost: float) -> tuple[_Layer, Handler, Below]:
    handler, below = Handler(clock, cost), Below()
    return _Layer(handler, below, turns), handler, below  # type: ignore[arg-type]


async def turns_until(clock: Clock, condition: Any) -> None:
    while not condition():
        clock.turn += 1
        await asyncio.sleep(0)


async def test_what_is_dear_is_handed_on_in_turns(clock: Clock) -> None:
    turns = RoundRobin()
    data = CHUNK * 30_000
    both = [layer(clock, turns, 0.001) for _ in range(2)]
    for each, _, below in both:
        each.data_received(data)
        assert not below.reading
    began = clock.now
    await turns_until(clock, lambda: all(handler.got == data for _, handler, _ in both))
    assert clock.now > began
    assert all(below.reading for _, _, below in both)
    used = sorted(both[0][1].turns[1:] + both[1][1].turns[1:])
    assert len(used) == len(set(used)), "one connection in each turn"
    assert len(used) > 2 * len(data) // (8 << 10)


async def test_what_is_quick_is_handed_on_at_once(clock: Clock) -> None:
    each, handler, below = layer(clock, RoundRobin(), 0.0)
    each.data_received(bytes(10 << 20))
    assert len(handler.got) == 10 << 20
    assert len(handler.turns) < 60
    assert below.reading


async def test_who_has_enough_gets_no_more(clock: Clock) -> None:
    each, handler, below = layer(clock, RoundRobin(), 0.0)
    each.pause_reading()
    each.data_received(b"x")
    assert handler.got == b""
    assert not below.reading
    each.connection_lost(None)
    assert handler.lost == [], "not before all is handed on"
    each.resume_reading()
    await turns_until(clock, lambda: handler.lost)
    assert handler.got == b"x"
    assert handler.lost == [None]


async def test_who_wants_no_more_gets_none(clock: Clock) -> None:
    each, handler, below = layer(clock, RoundRobin(), 0.0)
    each.pause_reading()
    each.data_received(b"x")
    each.connection_lost(None)
    each.close()
    await turns_until(clock, lambda: handler.lost)
    assert handler.got == b""
    assert below.closed


def test_portion() -> None:
    portion = Portion(MOST)
    for _ in range(20):
        portion.took(0.0)
    assert (portion.bytes, portion.slow) == (MOST, False)
    for _ in range(20):
        portion.took(0.1)
    assert (portion.bytes, portion.slow) == (LEAST, True)


class Slow:
    """Takes heads, a microsecond for each byte."""

    def __init__(self, clock: Clock) -> None:
        self.ended = False
        self.taken: list[int] = []
        self._clock = clock

    def take(self, data: bytes) -> bytes:
        self.taken.append(len(data))
        self._clock.now += len(data) / 1e6
        return data


async def test_heads_are_taken_in_turns_and_small_portions(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the answer before it was like."""
    head = Slow(clock)
    monkeypatch.setattr(wire, "_Head", lambda: head)
    each, handler, _ = layer(clock, RoundRobin(), 0.0)
    each.data_received(bytes(1 << 20))
    assert len(handler.got) == 1 << 20
    each.write(b"GET")
    each.data_received(bytes(256 << 10))
    assert sum(head.taken) <= FIRST, "no more than a millisecond's work at once"
    await turns_until(clock, lambda: len(handler.got) == (1 << 20) + (256 << 10))
    assert max(head.taken) <= FIRST
    head.ended = True


async def test_small_portions_together_take_no_longer_than_one(clock: Clock) -> None:
    """Each of them is quick, and there are many."""
    each, handler, _ = layer(clock, RoundRobin(), 0.00015)
    each.data_received(bytes(FIRST))
    began = clock.now
    each.data_received(bytes(1 << 20))
    assert clock.now - began < 3 * wire.TURN
    await turns_until(clock, lambda: len(handler.got) == FIRST + (1 << 20))


async def test_a_head_without_an_end_is_given_up(clock: Clock) -> None:
    """As soon as it has too many fields, and nothing of it is handed on then."""
    each, handler, below = layer(clock, RoundRobin(), 0.0)
    each.write(b"GET")
    data = b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * (MOST_FIELDS + 2 * FIRST)
    each.data_received(data)
    await turns_until(clock, lambda: handler.failed)
    assert below.closed
    got = len(handler.got)
    each.connection_lost(None)
    await turns_until(clock, lambda: handler.lost)
    assert len(handler.got) == got < 5 * MOST_FIELDS + 20
    assert isinstance(handler.failed[0], LineTooLong)


async def test_a_long_line_of_a_head_is_put_together_once() -> None:
    head = _Head()
    pieces = [b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 1000] * 1000, b"\r\n", b"Y: y\r\n\r\nrest"]
    handed = [head.take(piece) for piece in pieces]
    assert b"".join(handed) == b"".join(pieces)
    assert [bool(each) for each in handed] == [True, *[False] * 1000, True, True]
    endless = _Head()
    assert [endless.take(b"x" * 1024) for _ in range(wire.HEAD_MOST // 1024)] == [b""] * 1024
    with pytest.raises(LineTooLong):
        endless.take(b"x")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\nContent-length:3 \r\nZ: z\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_head(size: int) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"abc"
    head, handed = _Head(), b""
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        handed += piece if head.ended else head.take(piece)
    assert handed == data.replace(b"Content-length:3 \r\n", b"")
