"""Versions against Go's own verdicts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.protocol import semver
from tests.vectors import vectors

NAMES = vectors()["names"]


def test_semver_sort() -> None:
    group = NAMES["semver_sort"]
    shuffled = random.Random(1).sample(group["input"], len(group["input"]))
    assert sorted(shuffled, key=semver.order) == group["sorted"]


@pytest.mark.parametrize("case", NAMES["check_path_version"], ids=lambda c: f"{c['path']}@{c['version']}")
def test_check_path_version(case: dict[str, Any]) -> None:
    assert semver.is_canonical(case["version"]) is case["is_canonical"]
    assert semver.agrees(case["path"], case["version"]) is case["check_ok"]


@pytest.mark.parametrize("case", NAMES["pseudo_version"], ids=lambda c: c["version"])
def test_pseudo_version(case: dict[str, Any]) -> None:
    pseudo = semver.pseudo(case["version"])
    assert (pseudo is not None) is case["is_pseudo"]
    if pseudo is not None:
        assert pseudo.revision == case["rev"]
        assert pseudo.time == "".join(c for c in case["time"] if c.isdigit())


@pytest.mark.parametrize(
    ("version", "is_pseudo"),
    [
        ("v2.0.0-20191109021931-daa7c04131f5", True),
        ("v2.0.1-20191109021931-daa7c04131f5", False),
        ("v2.1.0-20191109021931-daa7c04131f5", False),
        ("v1.2.3-0.20191109021931-daa7c04131f5+meta", True),
        ("v1.2.3-a.b.0.20191109021931-daa7c04131f5", True),
        ("v1.2.3-a.1.20191109021931-daa7c04131f5", False),
        ("v1.2.3-x0.20191109021931-daa7c04131f5", False),
        ("v1.2.3-0.20191109021931-daa7-c041", False),
        ("v0.0.0-20191109021931-a.b", False),
        ("master-20191109021931-daa7c04131f5", False),
    ],
)
def test_where_the_time_stamp_may_stand(version: str, *, is_pseudo: bool) -> None:
    assert (semver.pseudo(version) is not None) is is_pseudo


@pytest.mark.parametrize(
    ("version", "valid", "prerelease"),
    [("v1", True, False), ("v1.2.3-rc.1", True, True), ("v1.2.3+meta", True, False), ("1.2.3", False, False)],
)
def test_valid_and_prerelease(version: str, *, valid: bool, prerelease: bool) -> None:
    assert semver.is_valid(version) is valid
    assert semver.is_prerelease(version) is prerelease


def test_malformed_path_agrees_with_nothing() -> None:
    assert not semver.agrees("example.com/m/v1", "v1.0.0")


VERSIONS = st.one_of(
    st.from_regex(r"v[0-9]{1,3}\.[0-9]{1,2}\.[0-9]{1,2}(-[0-9a-zA-Z.-]{1,6})?", fullmatch=True),
    st.text(max_size=8),
)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_order_is_total(a: str, b: str, c: str) -> None:
    x, y, z = map(semver.order, (a, b, c))
    assert (x < y) + (y < x) + (x == y) == 1
    assert (a == b) == (x == y)
    if x <= y <= z:
        assert x <= z
    assert len({x, semver.order(a)}) == 1
