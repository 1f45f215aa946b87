"""What was served, since the start and over the last day: differences between readings of the counters."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READING_SECONDS = 60.0
"""Between two readings; the rate is that of the last one to two minutes."""
HOUR = 3600.0
HOURS = 25
"""Readings kept, an hour apart: the oldest is a day old, and less than an hour more."""


@dataclass(frozen=True, slots=True)
class Served:
    """Requests for modules and the checksum database within ``seconds``; pages and probes do not count.

    ``decided`` of them found something: ``hits`` in the store, the rest of them waited for an upstream.
    ``saved_bytes`` were sent from the store, so that no upstream sent them.
    """

    seconds: float = 0.0
    requests: int = 0
    decided: int = 0
    hits: int = 0
    saved_bytes: int = 0

    def __sub__(self, earlier: Served) -> Served:
        return Served(
            self.seconds - earlier.seconds,
            self.requests - earlier.requests,
            self.decided - earlier.decided,
            self.hits - earlier.hits,
            self.saved_bytes - earlier.saved_bytes,
        )

    @property
    def hit_ratio(self) -> float | None:
        """From 0 to 1; None where nothing was found."""
        return self.hits / self.decided if self.decided else None


class Traffic:
    """Keeps some readings of ``served``, which takes seconds and returns the counters as they are."""

    def __init__(self, served: Callable[[float], Served], now: Callable[[], float] = time.monotonic) -> None:
        self._served = served
        self._now = now
        self._started = now()
        self._minutes: deque[Served] = deque([self._read()], maxlen=2)
        self._hours: deque[Served] = deque(self._minutes, maxlen=HOURS)

    async def run(self) -> None:
        """Read again and again."""
        while True:
            await asyncio.sleep(READING_SECONDS)
            self.take()

    def take(self) -> None:
        """Keep a reading."""
        read = self._read()
        self._minutes.append(read)
        if read.seconds - self._hours[-1].seconds >= HOUR:
            self._hours.append(read)

    @property
    def since_start(self) -> Served:
        """Everything of this run."""
        return self._read()

    @property
    def last_day(self) -> Served:
        """The last 24 hours, an hour more at most; everything where the run is shorter."""
        return self._read() - self._hours[0]

    @property
    def rate(self) -> float:
        """Requests a second, lately."""
        lately = self._read() - self._minutes[0]
        return lately.requests / lately.seconds if lately.seconds > 0 else 0.0

    def _read(self) -> Served:
        return self._served(self._now() - self._started)
