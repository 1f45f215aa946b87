"""What is kept of the values used last."""

from __future__ import annotations

import pytest

from goproxy_vm.lru import Lru


@pytest.mark.parametrize(
    "use", [Lru.__getitem__, Lru.get, Lru.__contains__, lambda kept, key: kept.keep(key, 1)]
)
def test_what_is_used_stays(use: object) -> None:
    kept: Lru[str, int] = Lru(2)
    kept.keep("a", 1)
    kept.keep("b", 2)
    use(kept, "a")  # type: ignore[operator]  # each of them can be called so
    kept.keep("c", 3)
    assert dict(kept) == {"a": 1, "c": 3}


def test_to_ask_for_one_is_no_use_of_it() -> None:
    kept: Lru[str, int] = Lru(2)
    kept.keep("a", 1)
    kept.keep("b", 2)
    assert kept.has("a")
    kept.keep("c", 3)
    assert "a" not in kept


def test_looking_through_all_of_them_uses_none() -> None:
    kept: Lru[str, int] = Lru(2)
    kept.keep("a", 1)
    kept.keep("b", 2)
    assert list(kept) == ["a", "b"]
    kept.keep("c", 3)
    assert list(kept) == ["b", "c"]
    assert list(kept.items()) == [("b", 2), ("c", 3)]


def test_what_is_forgotten_is_gone() -> None:
    kept: Lru[str, int] = Lru(3)
    for key in "abc":
        kept.keep(key, 0)
    kept.forget("a")
    kept.forget("x")
    assert (len(kept), kept.get("a")) == (2, None)
    kept.clear()
    assert not kept
