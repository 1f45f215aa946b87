"""Absence is remembered for a while, in bounded memory."""

from __future__ import annotations

import pytest

from goproxy_vm.errors import Absent
from goproxy_vm.traffic import negative
from goproxy_vm.traffic.negative import Negatives


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_absence_is_remembered_until_its_time_is_over() -> None:
    clock = Clock()
    negatives = Negatives(60, clock)
    negatives.check("a")
    negatives.add("a", "not found upstream")
    clock.now += 59.9
    with pytest.raises(Absent, match="not found upstream"):
        negatives.check("a")
    clock.now += 0.1
    negatives.check("a")
    assert not negatives.has("a")


def test_memory_is_bounded_and_what_nobody_asks_for_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative, "MOST", 2)
    negatives = Negatives(60, Clock())
    for path in ("a", "b"):
        negatives.add(path, path)
    assert negatives.has("a")
    negatives.add("c", "c")
    assert not negatives.has("b")
    assert negatives.has("a")
    assert negatives.has("c")
