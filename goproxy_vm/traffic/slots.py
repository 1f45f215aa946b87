"""Slots for requests to upstreams: misses share them fairly by client address, proofs have a part of them."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from goproxy_vm.errors import Overloaded, UpstreamTimeout

MOST_OF_CLIENT = 1000
"""Fetches that may wait on behalf of one client."""
MOST_WAITING = 10_000
"""Fetches that may wait in all: one VM may have many addresses."""


class FairSlots:
    """At most ``total`` misses and requests of proofs at once; a slot that comes free goes to a proof, else
    to the client that holds fewest, and among those to whoever has waited longest.

    Neither kind ever takes the last ``share`` slots from the other: a miss holds its slot until it is proven,
    and would otherwise wait for a proof that waits for it. Proofs go first, for misses wait for them.

    No client ever holds more than one part of the slots, a quarter as a rule, alone or not: a fetch cannot be
    taken back, so that a newcomer would wait behind one greedy VM for as long as its fetches take. Whoever
    wants more waits its turn. VMs behind one NAT share an address, hence a share. Each step costs the
    logarithm of the number of clients that wait, however much they wait for.
    """

    def __init__(self, total: int, share: int = 0, *, parts: int = 4) -> None:
        """``parts``: as many clients can have all of them together."""
        self._free = total
        self._share = share
        self._most = max(1, total // parts)
        self._most_proofs = total - share
        self._proofs = 0
        """Slots that proofs hold."""
        self._proving: deque[asyncio.Future[None]] = deque()
        """Proofs that wait."""
        self._held: Counter[str] = Counter()
        self._queues: dict[str, dict[Claim, int]] = {}
        """By client, what waits for it in order, each with its number."""
        self._next: list[tuple[int, int, str]] = []
        """A heap of clients that wait: slots held, the number of what waits first, the client. An entry that
        is no longer true is passed over."""
        self._numbers = count()
        self.waiting = 0
        """Claims that wait; one counts for each client that it waits for."""

    def claim(self, client: str) -> Claim:
        """Something that will need one slot, on behalf of ``client`` (its address)."""
        return Claim(self, client)

    def enter(self, claim: Claim, client: str) -> None:
        """Have a claim wait in a client's queue. Overloaded: that is full, or all are together."""
        queue = self._queues.get(client, {})
        if len(queue) >= MOST_OF_CLIENT:
            raise Overloaded(f"{len(queue)} fetches wait for {client} already")
        if self.waiting >= MOST_WAITING:
            raise Overloaded(f"{self.waiting} fetches wait already")
        self._queues[client] = queue
        queue[claim] = next(self._numbers)
        self.waiting += 1
        if len(queue) == 1:
            self._line_up(client)

    def leave(self, claim: Claim) -> None:
        """Have a claim wait no longer."""
        for client in claim.clients:
            queue = self._queues.get(client, {})
            if claim not in queue:
                continue
            first = next(iter(queue)) is claim
            del queue[claim]
            self.waiting -= 1
            if not queue:
                del self._queues[client]
            elif first:
                self._line_up(client)

    def release(self, client: str) -> None:
        """Take back a slot that was held by a client."""
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._line_up(client)
        self.grant()

    @asynccontextmanager
    async def proof(self) -> AsyncIterator[None]:
        """Hold a slot for one request that a proof needs. Whoever holds it must wait for nothing but the
        answer: neither for a slot, nor for who may hold one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proving.append(turn)
        self.grant()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._proofs -= 1
            self.grant()

    def grant(self) -> None:
        """Give away what is free."""
        while self._free and self._proving and self._proofs < self._most_proofs:
            turn = self._proving.popleft()
            if not turn.done():  # else it was cancelled
                self._free -= 1
                self._proofs += 1
                turn.set_result(None)
        while self._free > max(0, self._share - self._proofs) and self._next:
            held, number, client = self._next[0]
            queue = self._queues.get(client)
            if queue is None or held != self._held[client] or number != next(iter(queue.values())):
                heapq.heappop(self._next)
                continue
            if held >= self._most:
                return
            claim = next(iter(queue))
            self.leave(claim)
            self._free -= 1
            self._held[client] += 1
            self._line_up(client)
            claim.take(client)

    def _line_up(self, client: str) -> None:
        queue = self._queues.get(client)
        if not queue:
            return
        if len(self._next) > 2 * len(self._queues) + 64:  # most of it is no longer true
            self._next = [
                (self._held[each], next(iter(waiting.values())), each)
                for each, waiting in self._queues.items()
            ]
            heapq.heapify(self._next)
        else:
            heapq.heappush(self._next, (self._held[client], next(iter(queue.values())), client))


class Claim:
    """A claim to one slot, of one client or of several that want the same: whoever's turn comes first."""

    def __init__(self, slots: FairSlots, client: str) -> None:
        self._slots = slots
        self.client = client
        """Who made it."""
        self.clients = {client: None}
        """Whose shares count."""
        self.wanted = True
        """Whether somebody waits for what is fetched, or may come back for it."""
        self.large = False
        """Whether the fetch has much memory, or waits for it: nobody else should wait for it in vain."""
        self._turn: asyncio.Future[None] | None = None
        self._holder: str | None = None

    @property
    def held(self) -> bool:
        """Whether it holds a slot now."""
        return self._holder is not None

    def lend(self, client: str) -> None:
        """Another client wants the same: its share counts, too, if it has room for more."""
        if client in self.clients or self.held:
            return
        if self._turn is not None:
            try:
                self._slots.enter(self, client)
            except Overloaded:
                return  # it waits as long as the others do
        self.clients[client] = None
        self._slots.grant()

    def take(self, client: str) -> None:
        """Its turn has come, by a client's share."""
        self._holder = client
        if self._turn is not None and not self._turn.done():  # cancelled: its clean-up has not run yet
            self._turn.set_result(None)

    @asynccontextmanager
    async def hold(self, limit: float) -> AsyncIterator[None]:
        """Hold the slot, waiting for a turn if need be.

        ``limit``: seconds for the waiting and the body together (setting total_timeout). Overloaded: no slot
        came free in time, or too many wait; UpstreamTimeout: the body was cancelled.
        """
        if self._turn is not None or self.held:
            raise RuntimeError("one claim is to one slot")
        worked = False
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                await self._acquire()
                worked = True
                try:
                    yield
                finally:
                    self._release()
        except TimeoutError:
            if not deadline.expired():
                raise  # the body's own
            if not worked:
                raise Overloaded(f"no slot for a fetch came free within {limit:g} s") from None
            raise UpstreamTimeout(f"not fetched within {limit:g} s (setting total_timeout)") from None

    async def _acquire(self) -> None:
        self._turn = turn = asyncio.get_running_loop().create_future()
        try:
            self._slots.enter(self, self.client)
            others, self.clients = self.clients, {self.client: None}
            for client in others:
                self.lend(client)
            self._slots.grant()
            await turn
        except BaseException:
            if self.held:  # granted in the same turn of the loop: pass it on
                self._release()
            else:
                self._slots.leave(self)
                self._slots.grant()
            raise
        finally:
            self._turn = None

    def _release(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            self._slots.release(holder)
