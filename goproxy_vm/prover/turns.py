"""Whose zip is checked next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """One at a time. Clients take turns, whatever each of them has waiting: so one with many costly zips
    costs another the time of one of them, and each client's own come in the order of its calls."""

    def __init__(self) -> None:
        self._taken = False
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By client, in the order of their next turns."""

    @asynccontextmanager
    async def take(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        await self._acquire(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _acquire(self, client: str) -> None:
        if not self._taken:
            self._taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given in the same turn of the loop
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._queues:
            client, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[client] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
