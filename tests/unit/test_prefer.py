"""Prefer, as far as two servers in a row use it."""

from __future__ import annotations

import pytest

from goproxy_vm.protocol.prefer import is_under_way, patience, preference


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        (["respond-async, wait=10"], 10),
        (["Wait=10", "Respond-Async"], 10),
        (["respond-async;x=y, wait = 0.25"], 0.25),
        (['respond-async, wait="5", wait=9'], 5),
        ([], None),
        (["respond-async"], None),
        (["wait=10"], None),
        (["respond-async, wait=-1"], None),
        (["respond-async, wait=1e9"], None),
        (["respond-async, wait=٣"], None),
        (["respond-async, wait=9999999"], None),
        (["respond-asynchronously, wait=1"], None),
    ],
)
def test_patience(fields: list[str], seconds: float | None) -> None:
    assert patience(fields) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(10, "wait=10"), (6.67, "wait=6"), (1.5, "wait=1"), (0.25, "wait=0.25")]
)
def test_preference(seconds: float, text: str) -> None:
    assert preference(seconds) == f"respond-async, {text}"
    assert patience([preference(seconds)]) == pytest.approx(float(text.partition("=")[2]))


def test_under_way() -> None:
    assert is_under_way(202, " Respond-Async ")
    assert not is_under_way(202, "")
    assert not is_under_way(200, "respond-async")
