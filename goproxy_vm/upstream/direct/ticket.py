"""What one run may reach, and what became of its connections."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from goproxy_vm.upstream.direct.policy import Target

LONGEST = 300
"""Characters of a host and port that are kept."""
MOST_EVENTS = 64
"""Events of one run that are kept."""
PATIENT = 4
"""How many times longer than for an answer is waited for nothing that was asked for: the connection may rest
while what came is worked on, and the rest of an answer that breaks off cannot be told from that."""

Trouble = Literal["denied", "dns", "refused", "timeout"]
"""``denied``: not allowed; ``dns``: no such name; ``refused``: no connection; ``timeout``: none in time."""


class Blocked(Exception):
    """No connection is made."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble)
        self.trouble = trouble


@dataclass(eq=False)
class Ticket:
    """One run's leave to connect; it may receive ``most`` bytes.

    ``events``: what went wrong, with the ``host:port``; ``connected``: those that could be connected to;
    ``received``: bytes that came, heads of TLS and SSH included.
    """

    target: Target
    now: Callable[[], float]
    most: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    events: list[tuple[Trouble, str]] = field(default_factory=list)
    connected: set[str] = field(default_factory=set)
    received: int = 0
    tunnels: set[asyncio.Task[None]] = field(default_factory=set)
    _open: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    """Tunnels that are open, by whether they are git's."""
    _fetching: bool = False
    _waiting: bool = False
    _last: float = 0.0

    def note(self, trouble: Trouble, target: str) -> None:
        """Something went wrong."""
        if len(self.events) < MOST_EVENTS:
            self.events.append((trouble, target[:LONGEST]))

    def opened(self, target: str, *, git: bool) -> None:
        """A tunnel is open. ``git``: it is git's or ssh's, and not one by which go asks for a page."""
        self.connected.add(target)
        self._fetching = self._fetching or git
        self._open[git] += 1
        self.asked()

    def closed(self, *, git: bool) -> None:
        """A tunnel is closed."""
        self._open[git] -= 1
        self._waiting, self._last = False, self.now()

    def asked(self, _count: int = 0) -> None:
        """Something was sent."""
        self._waiting, self._last = True, self.now()

    def got(self, count: int) -> None:
        """Bytes came."""
        self.received += count
        self._waiting, self._last = False, self.now()

    @property
    def down(self) -> bool:
        """Whether what is asked first took no connection. All else may be one repository's trouble."""
        first = self.target.first
        failed = any(target == first and trouble != "denied" for trouble, target in self.events)
        return failed and first not in self.connected

    @property
    def over(self) -> bool:
        """Whether it has received too much."""
        return self.received > self.most

    def silent(self, seconds: float) -> bool:
        """Whether a server has sent nothing for ``seconds``, or longer where nothing is asked of it. Once git
        has asked, go has all pages: it keeps its connections, however long this host works on a clone."""
        patience = seconds if self._waiting else PATIENT * seconds
        return self._open[self._fetching] > 0 and self.now() - self._last >= patience
