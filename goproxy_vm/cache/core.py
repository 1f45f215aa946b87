"""What the parts of the store that work in the background share."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from goproxy_vm.cache.health import reason as phrase
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from goproxy_vm.cache.admission import Admission
    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.commit import CommitQueue
    from goproxy_vm.cache.facts import Pass, PassReason
    from goproxy_vm.cache.fences import Fences
    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.holders import Holders
    from goproxy_vm.cache.index import Index
    from goproxy_vm.cache.layout import Layout
    from goproxy_vm.cache.memory import Memory
    from goproxy_vm.cache.reader import Lookups, Reader
    from goproxy_vm.cache.reports.scanner import Scanner
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.ledger import Ledger
    from goproxy_vm.cache.upkeep.leftovers import Leftovers
    from goproxy_vm.cache.upkeep.removal import Remover
    from goproxy_vm.cache.usage import Usage

log = get_logger("cache")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Core:
    """The open store's pieces, and the short ways to ask them."""

    layout: Layout
    memory: Memory
    index: Index
    lookups: Lookups
    scanner: Scanner
    ledger: Ledger
    fences: Fences
    usage: Usage
    admission: Admission
    holders: Holders
    leftovers: Leftovers
    clock: LogicalClock
    health: Health
    queue: CommitQueue
    remover: Remover
    database: Threads
    """The one thread that writes to index.db."""
    scans: Threads
    """The thread of ``scanner``, which looks through index.db in the background."""
    disk: Threads
    """Threads for reading and looking at files in the background."""
    flush: Callable[[], Awaitable[None]]
    """An async function: write down the recency that is only in memory."""
    free: Callable[[], int]
    """A function that blocks: the bytes that the file system has left for this user."""

    async def ask(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the index in the thread that writes to it. sqlite3.Error as the function."""
        return await self.database.run(function, *args, **kwargs)

    async def scan(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the scanner: nobody waits behind it but what scans too. sqlite3.Error as the
        function."""
        return await self.scans.run(function, *args, **kwargs)

    async def attempt(self, otherwise: T, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the index says, or ``otherwise`` where it cannot be read or written."""
        try:
            return await self.ask(function, *args, **kwargs)
        except sqlite3.Error as error:
            self.unavailable(error)
            return otherwise

    async def attempt_look(
        self,
        otherwise: T,
        function: Callable[Concatenate[Reader, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`attempt`, of a reader, beside whatever is written."""
        try:
            return await self.lookups.run(function, *args, **kwargs)
        except sqlite3.Error as error:
            self.unavailable(error)
            return otherwise

    def unavailable(self, error: sqlite3.Error) -> None:
        """The index cannot be read or written."""
        log.warning("index unavailable", reason=phrase(error))
        self.health.failed(error)

    async def begin(self, reason: PassReason, target: int | None) -> Pass:
        """Open the record of a pass."""
        return await self.ask(self.ledger.begin, reason, target, self.entries, self.usage.used)

    async def end(self, record: Pass, *, reached: bool | None) -> None:
        """Close the record of a pass."""
        await self.ask(self.ledger.end, record, self.entries, self.usage.used, reached=reached)

    @property
    def entries(self) -> int:
        """Files stored."""
        return sum(self.usage.entries.values())

    @property
    def pinned_excess(self) -> int:
        """Bytes of pinned zips beyond those that pins protect."""
        return max(0, self.usage.pinned - self.admission.limits.pinned)
