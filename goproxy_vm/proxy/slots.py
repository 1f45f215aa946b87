"""Slots for misses, shared fairly by client address."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from goproxy_vm.errors import Overloaded, UpstreamTimeout


class FairSlots:
    """At most ``total`` misses at once; a slot that comes free goes to the client that holds fewest.

    No client ever holds more than a quarter of the slots, alone or not: a fetch cannot be taken back, so
    that a newcomer would wait behind one greedy VM for as long as its fetches take. Whoever wants more
    waits its turn. VMs behind one NAT share an address, hence a share.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._most = max(1, total // 4)
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def hold(self, client: str, limit: float) -> AsyncIterator[None]:
        """Hold one slot on behalf of ``client`` (its address), waiting for a turn if need be.

        ``limit``: seconds for the waiting and the body together (setting total_timeout). Overloaded: no slot
        came free in time; UpstreamTimeout: the body was cancelled.
        """
        held = False
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                await self._acquire(client)
                held = True
                try:
                    yield
                finally:
                    self._release(client)
        except TimeoutError:
            if not deadline.expired():
                raise  # the body's own
            if not held:
                raise Overloaded(f"no slot for a fetch came free within {limit:g} s") from None
            raise UpstreamTimeout(f"not fetched within {limit:g} s (setting total_timeout)") from None

    async def _acquire(self, client: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (client, turn)
        self._waiting.append(waiter)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._grant()
            elif not turn.cancelled():
                self._release(client)  # granted in the same turn of the loop: pass it on
            raise

    def _take(self, client: str) -> None:
        self._free -= 1
        self._held[client] += 1

    def _release(self, client: str) -> None:
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            index = min(range(len(self._waiting)), key=lambda i: (self._held[self._waiting[i][0]], i))
            client, turn = self._waiting[index]
            if self._held[client] >= self._most:
                return
            del self._waiting[index]
            if turn.cancelled():  # its clean-up has not run yet
                continue
            self._take(client)
            turn.set_result(None)
