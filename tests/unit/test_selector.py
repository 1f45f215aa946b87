"""protocol/selector.py: globs over module@version."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.protocol.selector import MOST, Selector, normalize


@pytest.mark.parametrize(
    ("glob", "meant", "not_meant"),
    [
        (
            "x.org/a",
            ["x.org/a@v1.0.0", "x.org/a@"],
            ["x.org/a/b@v1.0.0", "x.org/ab@v1.0.0", "X.org/a@v1.0.0"],
        ),
        ("x.org/*", ["x.org/a@v1.0.0", "x.org/a/b@v2.0.0"], ["x.org@v1.0.0", "y.x.org/a@v1.0.0"]),
        ("*@v0.*", ["x.org/a@v0.1.0"], ["x.org/a@v1.0.0", "x.org/v0.1@v1.0.0"]),
        ("x.org/a@v1.?.0", ["x.org/a@v1.2.0"], ["x.org/a@v1.22.0", "x.org/a@v1..0"]),
        ("x.org/[ab]", ["x.org/a@v1.0.0", "x.org/b@v1.0.0"], ["x.org/c@v1.0.0"]),
        ("x.org/[!ab]", ["x.org/c@v1.0.0"], ["x.org/a@v1.0.0"]),
        ("x.org/[a-c]", ["x.org/b@v1.0.0"], ["x.org/d@v1.0.0"]),
        ("x.org/[]a]", ["x.org/]@v1.0.0", "x.org/a@v1.0.0"], ["x.org/b@v1.0.0"]),
        ("x.org/a.b", ["x.org/a.b@v1.0.0"], ["x.org/axb@v1.0.0"]),
        ("x.org/a@v1.0.0+incompatible", ["x.org/a@v1.0.0+incompatible"], ["x.org/a@v1.0.00incompatible"]),
    ],
)
def test_globs(glob: str, meant: list[str], not_meant: list[str]) -> None:
    matches = Selector([glob])
    for name in meant:
        assert matches(*name.split("@")), name
    for name in not_meant:
        assert not matches(*name.split("@")), name


def test_any_of_many_and_none_of_none() -> None:
    assert Selector(["a", "b@v1.*"])("b", "v1.0.0")
    assert not Selector([])("a", "v1.0.0")


def test_a_line_feed_is_no_end() -> None:
    assert not Selector(["a@v1.0.0"])("a", "v1.0.0\n")


@pytest.mark.parametrize(
    ("glob", "reason"),
    [
        ("", "empty"),
        ("a" * (MOST + 1), "longer than"),
        ("a b", "a space"),
        ("a\tb", "control"),
        ("a\u2028b", "control"),
        ("x[", "not closed"),
        ("x[a", "not closed"),
        ("x[]", "not closed"),
        ("x[!]", "not closed"),
        ("[a][", "not closed"),
    ],
)
def test_malformed(glob: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        normalize(glob)
    with pytest.raises(ValueError, match=reason):
        Selector(["ok", glob])


def test_normalize() -> None:
    assert normalize("a") == "a@*"
    assert normalize("a@v1") == normalize(normalize("a@v1")) == "a@v1"
    assert len(normalize("a" * MOST)) == MOST + 2


@given(st.text("ab@*?[]!^-&|~\\.{}()$", max_size=12), st.text("ab@[]!^-.", max_size=6))
def test_whatever_is_allowed_can_be_asked(glob: str, module: str) -> None:
    try:
        name = normalize(glob)
    except ValueError:
        return
    assert Selector([glob])(module, "v1") == fnmatch.fnmatchcase(f"{module}@v1", name)


def test_no_glob_takes_long() -> None:
    matches = Selector(["*a" * 400 + "b"])
    assert not matches("a" * 2000, "v1.0.0")
