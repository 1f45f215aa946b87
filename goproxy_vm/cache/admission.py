"""Room in the budget: admitted before a download starts, held before its bytes are written, given back
in a ``finally``. What is used and what is held never pass the limit together, not for a moment.

Two numbers, because an upstream may lie about a length: a download is *admitted* with what it declares,
beside all others, so that all admitted ones can always end; room is *held*, and others evicted for it,
only as the bytes really come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.errors import NoRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from goproxy_vm.cache.usage import Usage

UNKNOWN_LENGTH = 64 << 20
"""Bytes admitted for a download whose length was not declared, and the step by which it grows."""
STEP = 8 << 20
"""Bytes held ahead of those that have come: each step may wait for an eviction."""
PINNED_SHARE = 2
"""A half of the budget at most is protected by pins."""
HEADROOM_SHARE = 50
"""A fiftieth of the budget is kept for small files: downloads that take all the rest leave it."""
MOST_HEADROOM = 16 << 20
"""Bytes kept for small files at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``total``: bytes that modules/ and tmp/ may use; ``block``: what the file system allocates by;
    ``high``, ``low``: bytes at which eviction begins and ends; ``patience``: seconds to wait for room."""

    total: int
    block: int = 4096
    high: int = 0
    low: int = 0
    patience: float = 300.0

    @property
    def pinned(self) -> int:
        """Bytes that pins protect at most."""
        return self.total // PINNED_SHARE

    @property
    def headroom(self) -> int:
        """Bytes that downloads leave to ``.info`` and ``.mod``, in whole blocks."""
        return min(self.total // HEADROOM_SHARE, MOST_HEADROOM) // self.block * self.block

    def allocated(self, length: int) -> int:
        """Bytes that a file of that length will use, or a little more: blocks, and the map of them."""
        blocks = -(-length // self.block)
        return (blocks + (length >> 26) + (1 if length > STEP else 0)) * self.block


class Reservation:
    """Room of one file, from before its first byte until it is on record, or gone."""

    def __init__(self, admission: Admission, admitted: int, *, small: bool = False) -> None:
        self._admission = admission
        self.admitted = admitted
        """Bytes it may come to."""
        self.small = small
        """Whether it may use the headroom."""
        self.size = 0
        """Bytes held."""

    async def hold(self, length: int) -> None:
        """Hold room for ``length`` bytes in all, waiting for evictions. NoRoom: there is none."""
        admission = self._admission
        need = admission.limits.allocated(length)
        if need > self.admitted:
            admission.grow(self, need - self.admitted)
        if need > self.size:
            await admission.hold(self, min(self.admitted, need + STEP) - self.size)

    def release(self) -> None:
        """Give the room back; a second call does nothing."""
        self._admission.release(self)


class Admission:
    """Who may write, and how much. ``pressure`` is called when somebody waits for an eviction."""

    def __init__(self, limits: Limits, usage: Usage, pressure: Callable[[], None]) -> None:
        self.limits = limits
        self.reserved = 0
        """Bytes held by all reservations."""
        self.wanted = 0
        """Bytes that reservations wait to hold."""
        self.admitted = 0
        """Bytes that all reservations may come to, small files among them."""
        self.counted = asyncio.Event()
        """Set unless what is on disk is not known yet: until then nobody holds room."""
        self.counted.set()
        self.writing = 0
        """Bytes that are being written to downloads at this moment."""
        self.changes = 0
        """How often room was given back, or a file became one that can be evicted."""
        self._usage = usage
        self._pressure = pressure
        self._small = 0
        """Of those admitted, bytes of small files."""
        self._queue: deque[_Turn] = deque()
        self._changed = asyncio.Event()
        self._hopeless = 0
        self._blocked = 0

    @property
    def capacity(self) -> int:
        """Bytes that downloads may come to together: the limit less what is not evicted for them, and less
        what small files under way have or may need."""
        return max(0, self._unprotected - max(self._small, self.limits.headroom))

    @property
    def waiting(self) -> int:
        """How many downloads wait to be admitted."""
        return len(self._queue)

    @property
    def _unprotected(self) -> int:
        protected = min(self._usage.pinned, self.limits.pinned)
        return self.limits.total - protected - self._usage.metadata

    @property
    def _downloads(self) -> int:
        return self.admitted - self._small

    async def reserve(self, length: int | None) -> Reservation:
        """Admit a file of ``length`` bytes, or of a length not yet known: first come, first served.

        NoRoom: it can never fit, or nothing came free for so long.
        """
        need = self._need(length)
        if need > self.capacity:
            raise self._never(need)
        if self._queue or not self._fits(need):
            need = await self._wait_in_turn(length)
        else:
            self.admitted += need
        return Reservation(self, need)

    def at_once(self, length: int) -> Reservation:
        """As :meth:`reserve`, for a small file whose client must not wait behind large ones: past the queue
        and from the headroom too, or not at all. NoRoom."""
        need = self.limits.allocated(length)
        if need > self._unprotected:
            raise self._never(need)
        if self.admitted + need > self._unprotected:
            raise NoRoom("the budget is taken by downloads under way")
        self.admitted += need
        self._small += need
        return Reservation(self, need, small=True)

    def grow(self, reservation: Reservation, more: int) -> None:
        """Admit at least ``more`` bytes of the same file: at once or not at all, for it holds room already.

        NoRoom: they do not fit beside the others.
        """
        more = max(more, min(UNKNOWN_LENGTH, self.capacity - self._downloads))
        if not self._fits(more):
            total = self.limits.total
            raise NoRoom(
                f"grew beyond the room that a budget of {total} bytes has left beside other downloads"
            )
        self.admitted += more
        reservation.admitted += more

    async def hold(self, reservation: Reservation, more: int) -> None:
        """Room for ``more`` bytes, as soon as evictions have made it. NoRoom: there is nothing to evict."""
        hopeless, blocked = self._hopeless, self._blocked
        self.wanted += more
        try:
            async with asyncio.timeout(self.limits.patience):
                await self.counted.wait()
                while self._usage.used + self.reserved + more > self.limits.total:
                    if self._hopeless != hopeless:
                        raise NoRoom("the disk's budget is full, and nothing in it may be removed")
                    if reservation.small and self._blocked != blocked:
                        raise NoRoom("the disk's budget is full of files that are being read")
                    self._pressure()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NoRoom(f"no room was made within {self.limits.patience:g} s") from None
        finally:
            self.wanted -= more
        self.reserved += more
        reservation.size += more
        if self._usage.used + self.reserved > self.limits.high:
            self._pressure()

    def release(self, reservation: Reservation) -> None:
        """Give back a reservation."""
        self.reserved -= reservation.size
        self.admitted -= reservation.admitted
        if reservation.small:
            self._small -= reservation.admitted
        reservation.size = reservation.admitted = 0
        self.changed()

    def changed(self) -> None:
        """Something was removed or given back: those who wait look again."""
        self.changes += 1
        self._changed.set()
        self._admit_next()

    def give_up(self) -> None:
        """Nothing more can be removed: those who wait for that fail."""
        self._hopeless += 1
        self._changed.set()

    def blocked(self) -> None:
        """Nothing more can be removed before a reader is done: small files do not wait for that."""
        self._blocked += 1
        self._changed.set()

    def set_aside(self, size: int) -> None:
        """Count bytes on the disk that are no file of the store and not a download's: they take room, too."""
        self.reserved += size

    def clear(self, size: int) -> None:
        """Bytes that were set aside are gone."""
        self.reserved -= size
        self.changed()

    def count(self, *, known: bool) -> None:
        """Whether it is ``known`` what is on the disk; nobody gets room until it is."""
        if known:
            self.counted.set()
        else:
            self.counted.clear()

    @contextmanager
    def write(self, size: int) -> Iterator[None]:
        """So many bytes are being written while the block lasts."""
        self.writing += size
        try:
            yield
        finally:
            self.writing -= size

    def _need(self, length: int | None) -> int:
        return min(UNKNOWN_LENGTH, self.capacity) if length is None else self.limits.allocated(length)

    def _fits(self, need: int) -> bool:
        return self._downloads + need <= self.capacity

    def _never(self, need: int) -> NoRoom:
        return NoRoom(f"needs {need} of a budget of {self.limits.total} bytes")

    async def _wait_in_turn(self, length: int | None) -> int:
        turn = _Turn(length, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self.limits.patience):
                return await turn.granted
        except BaseException as error:
            if turn in self._queue:
                self._queue.remove(turn)
            elif turn.granted.done() and not turn.granted.cancelled() and not turn.granted.exception():
                self.admitted -= turn.granted.result()
            self._admit_next()
            if isinstance(error, TimeoutError):
                raise NoRoom(f"no room came free within {self.limits.patience:g} s") from None
            raise

    def _admit_next(self) -> None:
        while self._queue:
            # The capacity changes while somebody waits: metadata comes, pins come and go.
            turn, capacity = self._queue[0], self.capacity
            need = self._need(turn.length)
            if need <= capacity < self._downloads + need:
                break
            self._queue.popleft()
            if turn.granted.done():
                continue
            if need > capacity:
                turn.granted.set_exception(self._never(need))
            else:
                self.admitted += need
                turn.granted.set_result(need)


@dataclass(eq=False, slots=True)
class _Turn:
    length: int | None
    granted: asyncio.Future[int]
