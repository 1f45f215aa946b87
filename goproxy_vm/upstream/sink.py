"""Where the bytes of a fetch go."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from goproxy_vm.errors import Overloaded

FREE = 512 << 10
"""Bytes that each fetch may have in memory; hardly any list, ``.info`` or ``.mod`` has more."""
LARGE = 4
"""Fetches that may have more than that in memory, at a time; those of one client, half as many."""
PATIENCE = 30.0
"""Seconds that one waits for that."""
PACE = 10.0
"""Seconds over which it is looked at how fast a large one comes."""
LEAST_RATE = 128 << 10
"""Bytes a second that it has to bring while others wait for its memory."""


class Sink(Protocol):
    """Takes the bytes of one file, possibly in several attempts."""

    async def begin(self, length: int | None) -> None:
        """A new attempt: forget earlier bytes. ``length`` is what the upstream declares. May raise NoRoom."""
        ...

    async def write(self, chunk: bytes) -> None:
        """The next bytes. May raise NoRoom, Overloaded or TooSlow."""
        ...

    def stand_in(self) -> None:
        """What comes is what the upstream, a server like this one, answers in place of its own upstreams."""
        ...


class TooSlow(Exception):
    """What comes keeps others waiting for memory."""


class Demand(Protocol):
    """For whom something is fetched."""

    client: str
    """The client whose share counts."""
    wanted: bool
    """Whether somebody waits for it, or may come back for it."""
    large: bool
    """Set while it has a place for large ones, or waits for one: unwanted, it is to end then."""


class MemoryBudget:
    """What all fetches into memory may have there: a little each, and some of them more.

    It counts what has come, and not what is declared: an upstream that lies about a length takes nothing
    from others. Large ones wait for large ones only. A client has half of the places at most, and the next
    one goes to whoever has fewest, then to whoever has waited longest.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}

    @property
    def held(self) -> int:
        """Places that are taken."""
        return self._held.total()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._waiting)

    async def grow(self, demand: Demand) -> None:
        """Have more than ``FREE``, until :meth:`shrink`. Overloaded: not within ``PATIENCE``, or nobody wants
        what is fetched."""
        if not demand.wanted:
            raise Overloaded("nobody waits any more for a file so large")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = demand.client
        demand.large = True
        self._grant()
        try:
            async with asyncio.timeout(PATIENCE):
                await turn
        except BaseException as error:
            if self._waiting.pop(turn, None) is None:  # granted in the same turn of the loop
                self.shrink(demand)
            demand.large = False
            if isinstance(error, TimeoutError):
                late = f"no memory for so large a file came free within {PATIENCE:g} s"
                raise Overloaded(late) from None
            raise

    def shrink(self, demand: Demand) -> None:
        """Give it back."""
        demand.large = False
        self._held[demand.client] -= 1
        if not self._held[demand.client]:
            del self._held[demand.client]
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.held < LARGE:
            turn = min(self._waiting, key=lambda each: self._held[self._waiting[each]])
            client = self._waiting[turn]
            if self._held[client] >= LARGE // 2:
                return
            del self._waiting[turn]
            self._held[client] += 1
            if not turn.done():  # else it was cancelled, and gives back what it was given
                turn.set_result(None)


class Buffer:
    """A sink for small documents: the whole content in ``data``.

    ``with Buffer(budget, demand) as sink``: what it holds counts until the block ends. Without a budget it is
    the caller who knows that there are few, or that they are small.
    """

    substitute = False
    """Whether the latest attempt brought a substitute, which is not to be stored as an upstream's word."""

    def __init__(self, budget: MemoryBudget | None = None, demand: Demand | None = None) -> None:
        self._place = None if budget is None or demand is None else (budget, demand)
        self._grown = False
        self._data: bytearray | bytes = bytearray()
        self._looked, self._then = 0.0, 0
        """When it was looked at last how fast it comes, and the bytes since then."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grown and self._place is not None:
            budget, demand = self._place
            budget.shrink(demand)
        self._data, self._grown = b"", False

    @property
    def data(self) -> bytes:
        """All bytes of the latest attempt."""
        if isinstance(self._data, bytearray):
            self._data = bytes(self._data)
        return self._data

    async def begin(self, _length: int | None) -> None:
        """Forget earlier bytes."""
        self._data = bytearray()
        self._looked, self._then = time.monotonic(), 0
        self.substitute = False

    def stand_in(self) -> None:
        """Note it."""
        self.substitute = True

    async def write(self, chunk: bytes) -> None:
        """Keep the next bytes. Overloaded: there is no memory for them. TooSlow: there is, but others wait
        for it."""
        if not isinstance(self._data, bytearray):
            raise TypeError("write after the end")
        if self._place is not None:
            budget, demand = self._place
            if self._grown:
                self._keep_pace(len(chunk), pressed=budget.wanted)
            elif len(self._data) + len(chunk) > FREE:
                await budget.grow(demand)
                self._grown = True
                self._looked, self._then = time.monotonic(), 0
        self._data += chunk

    def _keep_pace(self, more: int, *, pressed: bool) -> None:
        self._then += more
        seconds = time.monotonic() - self._looked
        if seconds >= PACE:
            if pressed and self._then < LEAST_RATE * seconds:
                rate = f"{LEAST_RATE >> 10} KiB a second"
                raise TooSlow(f"less than {rate} of a large file, and others wait for its memory")
            self._looked, self._then = time.monotonic(), 0


class Nowhere:
    """A sink for what only shows that an upstream answers."""

    async def begin(self, _length: int | None) -> None:
        """Nothing to forget."""

    def stand_in(self) -> None:
        """Nothing to note."""

    async def write(self, _chunk: bytes) -> None:
        """Nothing is kept."""
