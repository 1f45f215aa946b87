"""Where the bytes of a fetch go."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from goproxy_vm.errors import Overloaded

FREE = 512 << 10
"""Bytes that each fetch may have in memory; hardly any list, ``.info`` or ``.mod`` has more."""
LARGE = 4
"""Fetches that may have more than that in memory, at a time."""
PATIENCE = 30.0
"""Seconds that one waits for that."""


class Sink(Protocol):
    """Takes the bytes of one file, possibly in several attempts."""

    async def begin(self, length: int | None) -> None:
        """A new attempt: forget earlier bytes. ``length`` is what the upstream declares. May raise NoRoom."""
        ...

    async def write(self, chunk: bytes) -> None:
        """The next bytes. May raise NoRoom or Overloaded."""
        ...

    def stand_in(self) -> None:
        """What comes is what the upstream, a server like this one, answers in place of its own upstreams."""
        ...


class MemoryBudget:
    """What all fetches into memory may have there: a little each, and some of them more.

    It counts what has come, and not what is declared: an upstream that lies about a length takes nothing
    from others. Large ones wait for large ones only.
    """

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(LARGE)

    async def grow(self) -> None:
        """Have more than ``FREE``, until :meth:`shrink`. Overloaded: not within ``PATIENCE``."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._large.acquire()
        except TimeoutError:
            raise Overloaded(f"no memory for so large a file came free within {PATIENCE:g} s") from None

    def shrink(self) -> None:
        """Give it back."""
        self._large.release()


class Memory:
    """A sink for small documents: the whole content in ``data``.

    ``with Memory(budget) as sink``: what it holds counts until the block ends. Without a budget it is the
    caller who knows that there are few, or that they are small.
    """

    substitute = False
    """Whether the latest attempt brought a substitute, which is not to be stored as an upstream's word."""

    def __init__(self, budget: MemoryBudget | None = None) -> None:
        self._budget = budget
        self._grown = False
        self._data: bytearray | bytes = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grown and self._budget is not None:
            self._budget.shrink()
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
        self.substitute = False

    def stand_in(self) -> None:
        """Note it."""
        self.substitute = True

    async def write(self, chunk: bytes) -> None:
        """Keep the next bytes. Overloaded: there is no memory for them."""
        if not isinstance(self._data, bytearray):
            raise TypeError("write after the end")
        if self._budget is not None and not self._grown and len(self._data) + len(chunk) > FREE:
            await self._budget.grow()
            self._grown = True
        self._data += chunk


class Nowhere:
    """A sink for what only shows that an upstream answers."""

    async def begin(self, _length: int | None) -> None:
        """Nothing to forget."""

    def stand_in(self) -> None:
        """Nothing to note."""

    async def write(self, _chunk: bytes) -> None:
        """Nothing is kept."""
