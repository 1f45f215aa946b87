"""One flight per key: concurrent requests for one missing file share one fetch (PROTOCOL case 74)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from goproxy_vm.errors import UnderWay
from goproxy_vm.upstream import trail

T = TypeVar("T")

RETURN = 30.0
"""Seconds in which somebody who was told to ask again does, or the flight is given up that has no slot."""


class Claimed(Protocol):
    """A claim to what a flight has to wait for: a slot, or a turn."""

    wanted: bool
    """Whether somebody waits for the flight, or may come back for it."""

    @property
    def client(self) -> str:
        """Who made it."""

    @property
    def held(self) -> bool:
        """Whether it has what it is a claim to."""

    @property
    def large(self) -> bool:
        """Whether others may wait for the memory that the flight has."""

    def lend(self, client: str, /) -> None:
        """Another client wants the same: its share counts, too."""


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    claim: Claimed | None
    wanted: bool
    """Whether it was begun for somebody who waits."""
    trail: trail.Trail
    """On whose behalf upstreams are asked."""
    told: bool = False
    """Whether those it was begun for were told to ask again, and have not."""
    waiters: int = 0
    released: bool = False
    returning: asyncio.TimerHandle | None = None
    """When those who were told have had their time."""

    @property
    def ends_unwanted(self) -> bool:
        """Whether it ends where nobody waits for it: it waits for its slot or turn still, or others
        may wait for the memory that it has."""
        claim = self.claim
        return claim is not None and not self.task.done() and (claim.large or not claim.held)


class Flights(Generic[T]):
    """Shared tasks by key.

    A flight goes on when the clients that wait for it leave, unless it has not got its slot yet, or has more
    than its share of memory: then it ends with the last of them. It fails for all who wait, and leaves
    nothing behind once it has landed: its failure is not remembered. Each waiter gets a copy of the result of
    its own by ``share``; the result itself is given to ``release`` when nobody waits any more.
    """

    def __init__(self, share: Callable[[T], T], release: Callable[[T], None]) -> None:
        self._share = share
        self._release = release
        self._flights: dict[str, _Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: str) -> bool:
        flight = self._flights.get(key)
        return flight is not None and not flight.task.done()

    def start(
        self, key: str, fetch: Callable[[], Coroutine[Any, Any, T]], claim: Claimed | None = None
    ) -> bool:
        """Begin a flight that nobody waits for yet, unless one is under way; True if it began.

        ``claim`` is to the slot that ``fetch`` will hold, if it needs one.
        """
        return self._start(key, fetch, claim, wanted=False)

    async def join(
        self,
        key: str,
        fetch: Callable[[], Coroutine[Any, Any, T]],
        claim: Claimed | None = None,
        patience: float | None = None,
    ) -> tuple[T, bool]:
        """The result of the flight for ``key``, begun now if need be, and whether it was another's.

        The client of ``claim`` lends its share to a flight that another has begun. UnderWay: it has not
        landed within ``patience`` seconds, and goes on for who asks again.
        """
        collapsed = not self._start(key, fetch, claim, wanted=True)
        flight = self._flights[key]
        flight.waiters += 1
        about = trail.current()
        flight.trail.join(about)
        flight.wanted = flight.wanted or flight.told
        if flight.claim is not None:
            flight.claim.wanted = True
        if collapsed and claim is not None and flight.claim is not None:
            flight.claim.lend(claim.client)
        try:
            if patience is not None:
                await asyncio.wait((flight.task,), timeout=patience)
                if not flight.task.done():
                    flight.told, flight.wanted = flight.told or flight.wanted, False
                    self._await_return(key, flight, patience + RETURN)
                    raise UnderWay("it is being fetched; ask again")
            return self._share(await asyncio.shield(flight.task)), collapsed
        finally:
            flight.waiters -= 1
            flight.trail.leave(about)
            if flight.wanted:
                self._end_if_unwanted(key, flight)
            self._settle(flight)

    def _start(
        self, key: str, fetch: Callable[[], Coroutine[Any, Any, T]], claim: Claimed | None, *, wanted: bool
    ) -> bool:
        if key in self:
            return False
        about, context = trail.shared()
        task = asyncio.create_task(fetch(), name=f"flight {key}", context=context)
        flight = _Flight(task, claim, wanted, about)
        self._flights[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return True

    def _await_return(self, key: str, flight: _Flight[T], seconds: float) -> None:
        """Have the flight end if nobody wants it then: one look, however many were told."""
        loop = asyncio.get_running_loop()
        if flight.returning is not None:
            seconds = max(seconds, flight.returning.when() - loop.time())
            flight.returning.cancel()
        flight.returning = loop.call_later(seconds, self._end_if_unwanted, key, flight, context=Context())

    def abandon(self, key: str) -> None:
        """End the flight if it waits for its slot still, and nobody for it."""
        flight = self._flights.get(key)
        if flight is not None:
            self._end_if_unwanted(key, flight)

    def _end_if_unwanted(self, key: str, flight: _Flight[T]) -> None:
        if flight.waiters:
            return
        if flight.claim is not None:
            flight.claim.wanted = False
        if flight.ends_unwanted:
            flight.task.cancel()
            self._leave(key, flight)  # nobody may join what is being cancelled

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
        if flight.returning is not None:
            flight.returning.cancel()
        self._leave(key, flight)
        self._settle(flight)

    def _leave(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _settle(self, flight: _Flight[T]) -> None:
        if flight.waiters or flight.released or not flight.task.done() or flight.task.cancelled():
            return
        flight.released = True
        # Reading the exception also marks it as seen: a flight nobody waits for may fail silently,
        # its cause was logged where it happened.
        if flight.task.exception() is None:
            self._release(flight.task.result())
