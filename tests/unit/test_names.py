"""Names against Go's own verdicts."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol import names
from tests.vectors import vectors

NAMES = vectors()["names"]


def label(value: object) -> str | None:
    return ascii(str(value))[:40] if isinstance(value, dict) else None


@pytest.mark.parametrize("case", NAMES["escape_path"], ids=lambda c: ascii(c["path"])[:40])
def test_escape_path(case: dict[str, str | None]) -> None:
    assert case["path"] is not None
    if case["escaped"] is None:
        with pytest.raises(MalformedPath):
            names.escape_path(case["path"])
    else:
        assert names.escape_path(case["path"]) == case["escaped"]
        assert names.unescape_path(case["escaped"]) == case["path"]


@pytest.mark.parametrize("case", NAMES["escape_version"], ids=lambda c: ascii(c["version"])[:40])
def test_escape_version(case: dict[str, str | None]) -> None:
    assert case["version"] is not None
    if case["escaped"] is None:
        with pytest.raises(MalformedPath):
            names.escape_version(case["version"])
    else:
        assert names.escape_version(case["version"]) == case["escaped"]
        assert names.unescape_version(case["escaped"]) == case["version"]


@pytest.mark.parametrize("case", NAMES["unescape_path"], ids=lambda c: ascii(c["escaped"])[:40])
def test_unescape_path(case: dict[str, str | None]) -> None:
    assert case["escaped"] is not None
    if case["path"] is None:
        with pytest.raises(MalformedPath):
            names.unescape_path(case["escaped"])
    else:
        assert names.unescape_path(case["escaped"]) == case["path"]


@pytest.mark.parametrize("case", NAMES["unescape_version"], ids=lambda c: ascii(c["escaped"])[:40])
def test_unescape_version(case: dict[str, str | None]) -> None:
    assert case["escaped"] is not None
    if case["version"] is None:
        with pytest.raises(MalformedPath):
            names.unescape_version(case["escaped"])
    else:
        assert names.unescape_version(case["escaped"]) == case["version"]


@pytest.mark.parametrize("case", NAMES["check_file_path"], ids=label)
def test_check_file_path(case: dict[str, str]) -> None:
    if "file_b64" in case:
        name = base64.b64decode(case["file_b64"]).decode("utf-8", "surrogateescape")
    else:
        name = case["file"]
    if case["ok"]:
        names.check_file_path(name)
    else:
        with pytest.raises(MalformedPath):
            names.check_file_path(name)


def test_letters_that_this_python_does_not_know_yet() -> None:
    unassigned = "\U000323b0"  # CJK Extension J, Unicode 17
    names.check_file_path(unassigned)
    with pytest.raises(MalformedPath):
        names.check_file_path("\u0378", unassigned_ok=False)


@pytest.mark.parametrize("case", NAMES["match_prefix_patterns"], ids=lambda c: c["patterns"] or "empty")
def test_match_prefix_patterns(case: dict[str, str]) -> None:
    assert names.match_prefix_patterns(case["patterns"], case["target"]) is case["match"]


@pytest.mark.parametrize(
    ("pattern", "target", "match"),
    [
        ("[^a]x.com", "bx.com", True),
        ("[^a]x.com", "ax.com", False),
        ("[a-]x.com", "ax.com", False),
        ("[]x.com", "]x.com", False),
        (r"[\]]x.com", "]x.com", True),
        ("[b-a]x.com", "ax.com", False),
        ("[^b-a]x.com", "ax.com", True),
        ("a?c.com", "abc.com", True),
        ("a?c.com", "a/c.com", False),
        ("abc.com\\", "abc.com", False),
        ("[a", "a", False),
        ("[\\", "a", False),
        ("A.com", "a.com", False),
    ],
)
def test_globs_are_gos_and_not_fnmatchs(pattern: str, target: str, *, match: bool) -> None:
    assert names.match_prefix_patterns(pattern, target) is match


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_pattern_gives_a_verdict(pattern: str, target: str) -> None:
    assert names.match_prefix_patterns(pattern, target) in (True, False)


ELEMENTS = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)


@given(st.lists(ELEMENTS, max_size=4))
def test_escaping_round_trips_and_is_safe_on_case_insensitive_file_systems(elements: list[str]) -> None:
    path = "/".join(["example.com", *elements])
    try:
        escaped = names.escape_path(path)
    except MalformedPath:
        return
    assert escaped == escaped.lower()
    assert names.unescape_path(escaped) == path


@given(st.text(max_size=40))
def test_nothing_but_malformed_path_is_raised(text: str) -> None:
    for check in (names.check_path, names.check_version, names.check_file_path, names.unescape_path):
        with contextlib.suppress(MalformedPath):
            check(text)


ATOMS = st.sampled_from(["a", "b", "*", "?", "[ab]", "/", "\\*", "."])


@given(st.lists(ATOMS, max_size=8), st.text("ab*/.", max_size=8))
def test_globs_match_what_trying_everything_matches(atoms: list[str], text: str) -> None:
    def tries(left: list[str], rest: str) -> bool:
        if not left:
            return not rest
        atom, *others = left
        if atom == "*":
            ends = range((rest + "/").index("/") + 1)
            return any(tries(others, rest[end:]) for end in ends)
        if not rest:
            return False
        char = rest[0]
        one = {"?": char != "/", "[ab]": char in "ab", "\\*": char == "*"}
        return one.get(atom, char == atom) and tries(others, rest[1:])

    compiled = names.compile_glob("".join(atoms))
    assert compiled is not None
    assert (compiled.fullmatch(text) is not None) is tries(atoms, text)


def test_many_stars_cost_no_more_than_their_number() -> None:
    """Trying every way to cut 150 characters with 30 stars would not end."""
    assert not names.match_prefix_patterns("*a" * 30 + "b", "a" * 150)
    assert not names.match_prefix_patterns("*?" * 60 + "b", "a" * 200)


def test_like_go_a_star_stops_where_the_rest_fits_first() -> None:
    """``[^a]`` may match a slash, a star may not: Go does not go back to try that."""
    assert not names.match_prefix_patterns("*[^a]*c", "b/c")
    assert names.match_prefix_patterns("*/[^a]*c", "b/bc")
