"""This host's clock and the dates that upstreams tell."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from goproxy_vm.upstream.dates import APART, DatedClock
from tests.fakes.lines import logged

NOW = 1_800_000_000.0


class Host:
    """Two clocks of one host, which a test sets."""

    def __init__(self) -> None:
        self.wall = NOW
        self.monotonic = 50.0
        self.clock = DatedClock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def later(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def hears(self, date: float, **more: str) -> None:
        self.clock.heard({"Date": formatdate(date, usegmt=True), **more})


@pytest.fixture
def host() -> Host:
    return Host()


def test_alone_it_is_this_hosts(host: Host) -> None:
    assert (host.clock.earliest(), host.clock.latest(), host.clock.confirmed) == (NOW, NOW, False)
    host.clock.heard({})
    host.clock.heard({"Date": "yesterday"})
    assert not host.clock.confirmed


def test_a_clock_set_forward_makes_nothing_older(host: Host) -> None:
    host.hears(NOW)
    host.later(3600.0)
    host.wall += 30 * 86_400.0
    assert host.clock.earliest() == NOW + 3600
    assert host.clock.latest() == host.wall
    assert not host.clock.confirmed


def test_a_clock_set_back_notes_nothing_as_earlier(host: Host) -> None:
    host.hears(NOW)
    host.wall = 0.0
    host.monotonic += 60.0
    assert host.clock.earliest() == 0.0
    assert host.clock.latest() == NOW + 60


def test_the_last_date_counts_with_the_age_of_the_answer(host: Host) -> None:
    host.hears(NOW - 86_400)
    host.hears(NOW - 300, Age="300")
    assert host.clock.earliest() == host.clock.latest() == NOW
    assert host.clock.confirmed


def test_clocks_that_differ_are_told_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.hears(NOW + APART)
    assert logged(caplog) == ""
    for _ in range(3):
        host.hears(NOW - APART - 60)
    assert logged(caplog).count("clocks differ") == 1
    assert "'seconds': -660" in logged(caplog)
    host.hears(NOW)
    host.hears(NOW + 86_400)
    assert logged(caplog).count("clocks differ") == 2
