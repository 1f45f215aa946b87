"""A histogram that costs a search in a short list and two additions, without a lock."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

REQUEST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
"""Bounds for requests, from a hit in memory to a zip of 500 MB over a slow line."""
IDLE_SECONDS = (
    60.0,
    600.0,
    3600.0,
    6 * 3600.0,
    86400.0,
    3 * 86400.0,
    7 * 86400.0,
    30 * 86400.0,
    90 * 86400.0,
)
"""Bounds for the age at eviction: whether the budget is too small shows in days."""


class Histogram:
    """Counts of values up to each of ``bounds``, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus has them."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]
