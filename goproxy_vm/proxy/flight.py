"""One flight per key: concurrent requests for one missing file share one fetch (PROTOCOL case 74)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from goproxy_vm.errors import UnderWay

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiters: int = field(default=0)


class Flights(Generic[T]):
    """Shared tasks by key.

    A flight goes on when the clients that wait for it leave, fails for all who wait, and leaves
    nothing behind once it has landed: its failure is not remembered. Each waiter gets a copy of the
    result of its own by ``share``; the result itself is given to ``release`` when nobody waits any more.
    """

    def __init__(self, share: Callable[[T], T], release: Callable[[T], None]) -> None:
        self._share = share
        self._release = release
        self._flights: dict[str, _Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def start(self, key: str, fetch: Callable[[], Coroutine[Any, Any, T]]) -> bool:
        """Begin a flight that nobody waits for yet, unless one is under way; True if it began."""
        if key in self._flights:
            return False
        flight = _Flight(asyncio.create_task(fetch(), name=f"flight {key}"))
        self._flights[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return True

    async def join(
        self, key: str, fetch: Callable[[], Coroutine[Any, Any, T]], patience: float | None = None
    ) -> tuple[T, bool]:
        """The result of the flight for ``key``, begun now if need be, and whether it was another's.

        UnderWay: it has not landed within ``patience`` seconds, and goes on.
        """
        collapsed = not self.start(key, fetch)
        flight = self._flights[key]
        flight.waiters += 1
        try:
            if patience is not None:
                await asyncio.wait((flight.task,), timeout=patience)
                if not flight.task.done():
                    raise UnderWay("it is being fetched; ask again")
            return self._share(await asyncio.shield(flight.task)), collapsed
        finally:
            flight.waiters -= 1
            self._settle(flight)

    async def close(self) -> None:
        """Cancel what is still under way and wait for its clean-up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def detach(self, keys: Callable[[str], bool]) -> None:
        """Let nobody join the flights of these keys any more: who waits for them still gets their result."""
        for key in [key for key in self._flights if keys(key)]:
            del self._flights[key]

    def _land(self, key: str, flight: _Flight[T]) -> None:
        self._tasks.discard(flight.task)
        if self._flights.get(key) is flight:
            del self._flights[key]
        self._settle(flight)

    def _settle(self, flight: _Flight[T]) -> None:
        if flight.waiters or not flight.task.done() or flight.task.cancelled():
            return
        # Reading the exception also marks it as seen: a flight nobody waits for may fail silently,
        # its cause was logged where it happened.
        if flight.task.exception() is None:
            self._release(flight.task.result())
