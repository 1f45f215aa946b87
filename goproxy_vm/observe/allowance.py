"""How many log lines one client may cause, and one event may have: whoever sends nonsense all day must not
fill the disk with it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD = 60.0
"""Seconds after which each client begins anew."""
WARNINGS = 60
"""Lines of level warning and above that name a client, in a period."""
REFUSALS = 600
"""Other lines that name it, but for those of the access log about requests that succeeded, in a period."""
EVENTS = 600
"""Lines of one event that name no client, in a period: clients cause many of those, too."""
MOST_CLIENTS = 1_000
"""Clients that are told apart; all others share one allowance, and are called :data:`OTHERS`."""
OTHERS = "others"


class Allowance:
    """Counts the lines of each client, or of each event. One thread at a time may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = clock() + PERIOD
        self._lines: Counter[tuple[str, int]] = Counter()

    def take(self, client: str, most: int) -> bool:
        """Whether one more line may be written, of at most ``most`` of its sort in a period."""
        sort = (client, most)
        if sort not in self._lines and len(self._lines) >= 2 * MOST_CLIENTS:
            sort = (OTHERS, most)
        self._lines[sort] += 1
        return self._lines[sort] <= most

    def left_out(self) -> list[tuple[str, int]]:
        """Clients, and how many of their lines were left out; once, when the period is over."""
        if self._clock() < self._ends:
            return []
        over: Counter[str] = Counter()
        for (client, most), lines in self._lines.items():
            if lines > most:
                over[client] += lines - most
        self._lines.clear()
        self._ends = self._clock() + PERIOD
        return sorted(over.items())
