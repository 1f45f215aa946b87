"""Runs that several may wait for, and their turns."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from goproxy_vm.upstream.direct.answer import Found, Kind
    from goproxy_vm.upstream.direct.policy import Target


class Turn(Protocol):
    """A claim to one of the processes."""

    def hold(self, limit: float, /) -> AbstractAsyncContextManager[None]:
        """Have it, for ``limit`` seconds at most, those of waiting included. Overloaded."""
        ...

    def lend(self, client: str, /) -> None:
        """Another client wants the same: its share counts, too."""
        ...


class Slots(Protocol):
    """Who may run a process when."""

    def claim(self, client: str, /) -> Turn:
        """A turn on behalf of a client."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one run is for."""

    target: Target
    query: str
    kind: Kind

    @property
    def key(self) -> tuple[bool, str, str, str]:
        """The same for all that one run can be for."""
        return self.target.private, self.target.module, self.query, self.kind

    @property
    def what(self) -> str:
        """As it is told to people."""
        return self.target.module if self.kind == "list" else f"{self.target.module}@{self.query}"


@dataclass(eq=False, slots=True)
class Joint:
    """A run that several may wait for, and its directory, which stays until the last has what it wants.
    ``outdated``: its module was purged since it began, so that it is for those alone who wait already."""

    wanted: Wanted
    directory: Path
    claim: Turn
    task: asyncio.Task[Found] = field(init=False)
    waiters: int = 0
    outdated: bool = False
