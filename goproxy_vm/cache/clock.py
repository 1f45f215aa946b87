"""Recency's own clock: steps of the host's clock neither expire everything nor keep it for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_GAP = 86_400.0
"""Seconds that may pass between two runs, whatever the host's clock says of it."""


class LogicalClock:
    """Seconds that only ever go forward: monotonic while running, at most a day between two runs.

    It begins at the epoch time of the first run, so that an index of an older schema stays comparable.
    """

    def __init__(
        self,
        last: tuple[float, float] | None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._started = monotonic()
        if last is None:
            self._base = wall()
        else:
            logical, at = last
            self._base = logical + min(max(wall() - at, 0.0), MOST_GAP)

    def now(self) -> float:
        """Seconds, comparable over restarts."""
        return self._base + self._monotonic() - self._started

    def wall(self) -> float:
        """The host's clock: epoch seconds, for people."""
        return self._wall()

    def mark(self) -> tuple[float, float]:
        """What the next run needs to go on: this clock's time and the host's."""
        return self.now(), self._wall()

    def epoch(self, logical: float) -> float:
        """Epoch seconds, as near as can be told, of a time of this clock."""
        return self._wall() - max(0.0, self.now() - logical)
