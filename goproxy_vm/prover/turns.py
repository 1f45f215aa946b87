"""Whose zip is checked next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """One at a time. Clients take turns, whatever each of them has waiting: so one with many costly zips
    costs another the time of one of them, and each client's own come in the order of its calls."""

    def __init__(self) -> None:
        self._taken = False
        self._queues: OrderedDict[str, dict[TurnClaim, None]] = OrderedDict()
        """By client, in the order of their next turns."""

    def claim(self, client: str) -> TurnClaim:
        """Something that will need one turn, on behalf of ``client`` (its address)."""
        return TurnClaim(self, client)

    @asynccontextmanager
    async def take(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        async with self.claim(client).hold():
            yield

    def enter(self, claim: TurnClaim, client: str) -> None:
        """Have a claim wait in a client's queue."""
        self._queues.setdefault(client, {})[claim] = None

    def leave(self, claim: TurnClaim) -> None:
        """Have a claim wait no longer."""
        for client in claim.clients:
            queue = self._queues.get(client, {})
            queue.pop(claim, None)
            if not queue:
                self._queues.pop(client, None)

    def grant(self) -> None:
        """Give the turn away if nobody has it."""
        if self._taken or not self._queues:
            return
        client, queue = self._queues.popitem(last=False)
        claim = next(iter(queue))
        self._queues[client] = queue
        self.leave(claim)
        self._taken = True
        claim.take()

    def release(self) -> None:
        """Take the turn back, and give it to whoever is next."""
        self._taken = False
        self.grant()


class TurnClaim:
    """A claim to one turn, of one client or of several that want the same: whoever's comes first."""

    large = False
    """It has no memory that others wait for."""

    def __init__(self, turns: Turns, client: str) -> None:
        self._turns = turns
        self.client = client
        """Who made it."""
        self.clients = {client: None}
        """In whose queues it waits."""
        self.wanted = True
        """Whether somebody waits for what it is for."""
        self.held = False
        """Whether it has its turn now."""
        self._turn: asyncio.Future[None] | None = None

    def lend(self, client: str) -> None:
        """Another client wants the same: its turn will do, too."""
        if client in self.clients or self.held:
            return
        self.clients[client] = None
        if self._turn is not None:
            self._turns.enter(self, client)

    def take(self) -> None:
        """Its turn has come."""
        self.held = True
        if self._turn is not None and not self._turn.done():  # cancelled: its clean-up has not run yet
            self._turn.set_result(None)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for the turn and hold it."""
        self._turn = asyncio.get_running_loop().create_future()
        for client in self.clients:
            self._turns.enter(self, client)
        try:
            self._turns.grant()
            await self._turn
            yield
        finally:
            self._turn = None
            if self.held:  # be it that it was given in the same turn of the loop
                self.held = False
                self._turns.release()
            else:
                self._turns.leave(self)
