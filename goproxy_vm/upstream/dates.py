"""What time it is: by this host's clock, and by the dates that upstreams' answers tell."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp

from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import SimpleNamespace

APART = 600.0
"""Seconds by which this host's clock and an upstream's may differ before it is said."""

log = get_logger("upstream")


def clock_offset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds by which an answer's clock is ahead of ``now`` (Unix time); None where it tells no date.

    What a cache on the way has held for ``Age`` seconds was dated that long ago.
    """
    try:
        date = parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
    age = headers.get("Age", "0").strip()
    return date + (int(age) if age.isdecimal() and len(age) < 10 else 0) - now


class DatedClock:
    """This host's clock, held against the last date that an upstream told and the time since.

    Whichever is behind counts where something must be old (:meth:`earliest`), whichever is ahead where the
    time of something is noted (:meth:`latest`): then no clock that is set makes anything older than it is.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._told: float | None = None
        """What an upstream's clock shows when ``monotonic`` is 0."""
        self._apart = False

    def heard(self, headers: Mapping[str, str]) -> None:
        """An answer came with these."""
        now = self._wall()
        offset = clock_offset(headers, now)
        if offset is None:
            return
        self._told = now + offset - self._monotonic()
        apart = abs(offset) > APART
        if apart and not self._apart:
            log.warning("clocks differ", seconds=round(offset))
        self._apart = apart

    def earliest(self) -> float:
        """Epoch seconds: it is not earlier, if one of the clocks is right."""
        return min(self._clocks())

    def latest(self) -> float:
        """Epoch seconds: it is not later, if one of the clocks is right."""
        return max(self._clocks())

    @property
    def confirmed(self) -> bool:
        """Whether an upstream's last date agrees with this host's clock."""
        return self._told is not None and self.latest() - self.earliest() <= APART

    def _clocks(self) -> tuple[float, ...]:
        wall = self._wall()
        return (wall,) if self._told is None else (wall, self._told + self._monotonic())

    def trace(self) -> aiohttp.TraceConfig:
        """Has a client session tell the clock of each answer."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        return trace

    async def _answered(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        self.heard(params.response.headers)
