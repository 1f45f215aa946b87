"""Back-off from an upstream that fails, with probes."""

from __future__ import annotations

from collections.abc import Callable

FIRST = 1.0
"""Seconds of back-off after the first failure; doubled with each that follows."""
LONGEST = 60.0
"""Seconds of back-off at most, unless the upstream's own Retry-After asks for more."""
MOST_RETRY_AFTER = 600.0
"""Seconds of a Retry-After that are honoured at most: an upstream must not silence itself for a day."""


class Health:
    """Whether an upstream may be asked, by the clock ``now`` (seconds, monotonic).

    After its back-off one request is let through as a probe; others keep passing it over until the probe's
    outcome is known, or ``probe_time`` seconds have gone.
    """

    def __init__(self, now: Callable[[], float], probe_time: float) -> None:
        self._now = now
        self._probe_time = probe_time
        self._failures = 0
        self._until = 0.0

    @property
    def failing(self) -> bool:
        """Whether the latest request failed in a way that counts."""
        return self._failures > 0

    def admit(self) -> bool:
        """Whether a request may be sent now; one that is let through after a back-off is the probe."""
        if not self._failures:
            return True
        if self._now() < self._until:
            return False
        self._until = self._now() + self._probe_time
        return True

    def failed(self, retry_after: float | None) -> None:
        """A request failed: back off for longer than before, and as long as the upstream asks for."""
        self._failures += 1
        wait = min(LONGEST, FIRST * 2 ** min(self._failures - 1, 10))
        self._until = self._now() + max(wait, min(retry_after or 0.0, MOST_RETRY_AFTER))

    def succeeded(self) -> None:
        """The upstream answered."""
        self._failures = 0
