"""observe/traffic.py: what a day and a minute are, by few readings; and what counts as saved."""

from __future__ import annotations

import pytest

from goproxy_vm.observe.metrics import Metrics
from goproxy_vm.observe.traffic import HOURS, Served, Traffic


class Counted:
    """One request a second since the start, every other one a hit of ten bytes."""

    now = 500.0

    def __init__(self) -> None:
        self.traffic = Traffic(self.served, lambda: self.now)

    @staticmethod
    def served(seconds: float) -> Served:
        count = int(seconds)
        return Served(seconds, count, count, count // 2, count // 2 * 10)

    def minutes(self, count: int) -> None:
        for _ in range(count):
            self.now += 60
            self.traffic.take()


def test_a_young_server() -> None:
    counted = Counted()
    assert counted.traffic.since_start == counted.traffic.last_day == Served()
    assert (counted.traffic.rate, counted.traffic.since_start.hit_ratio) == (0.0, None)
    counted.now += 10
    assert counted.traffic.last_day == counted.traffic.since_start == Served(10.0, 10, 10, 5, 50)
    assert counted.traffic.rate == 1.0


def test_a_day_and_a_minute_of_an_old_one() -> None:
    counted = Counted()
    counted.minutes(24 * 60)
    assert counted.traffic.last_day == Served(86400.0, 86400, 86400, 43200, 432000)
    counted.minutes(13 * 24 * 60 + 59)
    assert counted.traffic.since_start.seconds == 14 * 86400 + 59 * 60
    assert counted.traffic.last_day.seconds == 86400 + 59 * 60
    assert counted.traffic.last_day.hit_ratio == 0.5
    assert len(counted.traffic._hours) == HOURS


def test_a_burst_counts_for_two_minutes_in_the_rate() -> None:
    counts, now = [0], [0.0]
    traffic = Traffic(lambda seconds: Served(seconds, counts[0]), lambda: now[0])
    counts[0], now[0] = 600, 60.0
    traffic.take()
    assert traffic.rate == 10.0
    now[0] = 120.0
    traffic.take()
    assert traffic.rate == 0.0


def test_what_the_counters_say() -> None:
    metrics = Metrics("1")
    for endpoint, result, sent in (
        ("zip", "hit", 100),
        ("sumdb", "stale", 10),
        ("mod", "miss", 1000),
        ("zip", "collapsed", 1000),
        ("info", "negative", 50),
        ("zip", "error", 60),
        ("other", "hit", 7),
    ):
        metrics.request(endpoint, result, 0.1, sent)
    served = metrics.served(9.0)
    assert served == Served(9.0, 6, 4, 2, 110)
    assert served.hit_ratio == pytest.approx(0.5)
