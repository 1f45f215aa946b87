"""Back-off from an upstream that fails, with probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FIRST = 1.0
"""Seconds of back-off after the first failure; doubled with each that follows."""
LONGEST = 60.0
"""Seconds of back-off at most, unless the upstream's own Retry-After asks for more."""
MOST_RETRY_AFTER = 600.0
"""Seconds of a Retry-After that are honoured at most: an upstream must not silence itself for a day."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How an upstream does: ``untried`` since the start, ``ok``, ``failing``, or ``backed_off`` from.

    ``failing_seconds`` have gone since the first failure, as far as that is known; ``retry_seconds`` are left
    of the back-off; ``reason`` is the sentence of the latest failure.
    """

    state: Literal["untried", "ok", "failing", "backed_off"]
    failing_seconds: float | None = None
    retry_seconds: float | None = None
    reason: str = ""


class Backoff:
    """Whether an upstream may be asked, by the clock ``now`` (seconds, monotonic).

    After its back-off one request is let through as a probe; others keep passing it over until the probe's
    outcome is known, or ``probe_time`` seconds have gone. Requests that were under way together and fail
    together are one failure: the back-off grows with each probe that fails, not with the traffic.
    """

    def __init__(self, now: Callable[[], float], probe_time: float) -> None:
        self._now = now
        self._probe_time = probe_time
        self._failures = 0
        self._until = 0.0
        self._probing = False
        self._asked = False
        self._since = 0.0
        self._reason = ""

    @property
    def condition(self) -> Condition:
        """In words and figures, for operators."""
        if not self._failures:
            return Condition("ok" if self._asked else "untried")
        now = self._now()
        left = self._until - now
        # During a probe too, others are turned away until its time is over.
        off = left > 0
        return Condition(
            "backed_off" if off else "failing", now - self._since, left if off else None, self._reason
        )

    @property
    def failing(self) -> bool:
        """Whether the latest request failed in a way that counts."""
        return self._failures > 0

    @property
    def backed_off(self) -> bool:
        """Whether it failed, and is not to be asked yet, or a probe's outcome is not known yet."""
        return self._failures > 0 and self._now() < self._until

    def admit(self) -> bool:
        """Whether a request may be sent now; one that is let through after a back-off is the probe."""
        if not self._failures:
            return True
        if self._now() < self._until:
            return False
        self._until = self._now() + self._probe_time
        self._probing = True
        return True

    def failed(self, retry_after: float | None, reason: str) -> None:
        """A request failed: back off, for longer than the last time, and as long as the upstream asks for.

        ``retry_after``: the seconds that it asked for, or None; ``reason``: a sentence.
        """
        now = self._now()
        self._asked, self._reason = True, reason
        if not self._failures:
            self._since = now
        asked = now + min(retry_after or 0.0, MOST_RETRY_AFTER)
        if not self._failures or self._probing or now >= self._until:
            self._failures += 1
            self._probing = False
            self._until = now + min(LONGEST, FIRST * 2 ** min(self._failures - 1, 10))
        self._until = max(self._until, asked)

    def succeeded(self) -> None:
        """The upstream answered."""
        self._asked = True
        self._failures = 0
        self._probing = False
