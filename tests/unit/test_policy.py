"""protocol/policy.py: what a rule means."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.protocol import names
from goproxy_vm.protocol.lines import Steps
from goproxy_vm.protocol.policy import (
    A_STEP,
    LONGEST,
    MOST_BOUNDS,
    REMEMBERED,
    GateRule,
    Offer,
    Rule,
    RuleSet,
    Versions,
    offered,
)
from goproxy_vm.protocol.semver import latest, order

M = "github.com/x/y"


@pytest.mark.parametrize(
    ("text", "holds", "others"),
    [
        ("v1.2.3", "v1.2.3", "v1.2.4 v1.2.3-rc.1 v1.2.3+incompatible"),
        ("=v1.2.3", "v1.2.3", "v1.2.4"),
        ("v1.2.*", "v1.2.0 v1.2.10 v1.2.0-rc.1", "v1.20.0 v1.3.0"),
        ("*-rc*", "v1.0.0-rc.1 v2.0.0-rc1", "v1.0.0 v1.0.0-beta"),
        ("*", "v0.0.0-20260102000000-abcdef123456 v1.0.0", ""),
        ("v1.[02].*", "v1.0.9 v1.2.0", "v1.1.0"),
        ("v1.[^2].*", "v1.0.9 v1.3.0", "v1.2.0"),
        ("v1.2.0-RC*", "v1.2.0-RC1", "v1.2.0-rc1"),
        # Go's order: v1.2.0-rc.1 comes before v1.2.0, v1.2.7-rc.1 before v1.2.7.
        (">=v1.2.0 <v1.2.7", "v1.2.0 v1.2.6 v1.2.7-rc.1", "v1.2.0-rc.1 v1.2.7 v1.1.9"),
        (">v1.2.0 <=v1.3", "v1.2.1 v1.3.0 v1.3.0-rc.1", "v1.2.0 v1.3.1"),
        ("<v1", "v0.9.9 v1.0.0-alpha", "v1.0.0 v1.0.1"),
        (">=v1.10.0", "v1.10.0 v1.100.0 v3.0.0+incompatible", "v1.9.0 v1.2.0"),
        ("<v2.0.0+incompatible", "v1.9.0 v2.0.0-rc.1+incompatible", "v2.0.0+incompatible v2.0.0"),
        ("<v1.2.0 || =v1.4.0||v1.5.*", "v1.1.0 v1.4.0 v1.5.2", "v1.3.0 v1.4.1"),
        (
            "<v0.0.0-20260102000000-0",
            "v0.0.0-20260101235959-ffffffffffff",
            "v0.0.0-20260102000000-000000000000 v0.0.0-20260103000000-abcdef123456 v0.1.0",
        ),
    ],
)
def test_versions(text: str, holds: str, others: str) -> None:
    versions = Versions.parse(text)
    assert [each for each in (holds + " " + others).split() if each in versions] == holds.split()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no version follows the @"),
        ("  ", "no version follows the @"),
        ("v1.2.3 ||", "no version beside ||"),
        ("1.2.3", "'1.2.3': expected a version"),
        ("^v1.2", r"'\^v1.2': expected a version"),
        ("~v1.2.0", "'~v1.2.0': expected a version"),
        ("latest", "'latest': expected a version"),
        (">= v1.2.0", "'>=': expected a version"),
        ("v1.2", r"expected a whole version, vX.Y.Z; v1.2.\* means all of v1.2"),
        ("=v1", "expected a whole version"),
        ("v01.2.3", "expected a version"),
        (">=v1.2.*", "a glob stands alone"),
        ("v1.* <v1.5.0", "a glob stands alone"),
        ("1.*", "a glob stands alone, and begins with v"),
        ("v1.[2", "a malformed glob"),
        ("v1.[!2].*", r"a malformed glob; \[\^0-9\]"),
        ("<v1.2.3+meta", r"expected a version without \+"),
        ("<v0.0.0-20260102000000", "write v0.0.0-20260102000000-0"),
        ("<v1.2.4-0.20260102000000", "write v1.2.4-0.20260102000000-0"),
        (" ".join(["<v1.0.0"] * (MOST_BOUNDS + 1)), "more than 20 bounds"),
    ],
)
def test_versions_malformed(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Versions.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected MODULE or MODULE@VERSIONS"),
        ("@v1.0.0", "expected MODULE or MODULE@VERSIONS"),
        (f"{M}@", "no version follows the @"),
        ("a.b,c.d", "without commas"),
        ("a b", "holds a space"),
        ("a.b/ü", "expected MODULE or MODULE@VERSIONS"),
        ("https://a.b", "empty part"),
        ("GitHub.com/x", "capitals"),
        ("github.com/[x", "malformed"),
        ("nodomain/x@v1.0.0", "no domain name"),
        ("a.b/" + "c" * LONGEST, f"longer than {LONGEST}"),
        # What no module can be is a rule that never holds.
        ("github.com/!burnt!sushi/toml", "holds '!', which no module path does: write the capital"),
        ("github.com/!azure/*", "holds '!'"),
        ("github.com/x/y#v1.2.3", "holds '#'"),
        (f"{M}@v2.1.0", r"no version v2.1.0, by its major: write v2.1.0\+incompatible, or name .*/v2"),
        (f"{M}@<v1.2.0 ||=v2.1.0", r"no version v2.1.0, by its major"),
        (f"{M}/v3@v2.1.0", "no version v2.1.0, by its major"),
    ],
)
def test_rule_malformed(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Rule.parse(text)


@pytest.mark.parametrize(
    ("text", "covers", "others"),
    [
        (M, f"{M}@v1.0.0 {M}/v2@v2.0.0 {M}/sub@v1.0.0", "github.com/x/yy@v1.0.0 github.com/x@v1.0.0"),
        ("github.com/*/y", f"{M}@v1.0.0 github.com/z/y/sub@v1.0.0", "github.com/x/z/y@v1.0.0"),
        # A version says nothing of submodules, nor of another major.
        (f"{M}@v1.0.0", f"{M}@v1.0.0", f"{M}/sub@v1.0.0 {M}/v2@v1.0.0 {M}@v1.0.1"),
        ("github.com/*/y@*", f"{M}@v1.0.0", "github.com/x/z@v1.0.0 github.com/z/y/sub@v1.0.0"),
        ("github.com/*/y/@*", f"{M}@v1.0.0", "github.com/x/z@v1.0.0 github.com/z/y/sub@v1.0.0"),
        ("github.com/*/", f"{M}@v1.0.0 github.com/x@v1.0.0", "gitlab.com/x@v1.0.0"),
        (f"{M}@v2.1.0+incompatible", f"{M}@v2.1.0+incompatible", f"{M}@v2.1.1+incompatible"),
        (f"{M}@>=v2.1.0 <v3", f"{M}@v2.1.0+incompatible", f"{M}@v1.0.0"),
    ],
)
def test_rule_covers(text: str, covers: str, others: str) -> None:
    rule = Rule.parse(text)
    every = [each.split("@") for each in (covers + " " + others).split()]
    assert ["@".join(each) for each in every if rule.covers(*each)] == covers.split()
    # Kept with others, those of one module by its name, it means the same.
    rules = RuleSet([GateRule("block", Rule.parse("z.example/z@v1.9.9")), GateRule("block", rule)])
    assert ["@".join(each) for each in every if rules.find(*each)] == covers.split()


def test_rule_text() -> None:
    rule = Rule.parse(f" {M}@ >=v1.2.0   <v1.3.0 ", whole=True)
    assert (rule.text, rule.whole) == (f"{M}@>=v1.2.0 <v1.3.0", True)
    assert Rule.parse(rule.text, whole=True) == rule
    assert Rule.parse(M).whole
    assert not Rule.parse(f"{M}@v1.0.0").whole


def test_find_code_alone() -> None:
    code, whole = GateRule("block", Rule.parse(f"{M}@v1.0.0"), 1), GateRule("block", Rule.parse("a.b"), 2)
    rules = RuleSet([code, whole])
    assert rules.find(M, "v1.0.0") is code
    assert rules.find(M, "v1.0.0", code=False) is None, ".mod and .info pass"
    assert rules.find(M) is None, "the module does"
    assert rules.find("a.b/c", code=False) is whole
    assert rules
    assert not RuleSet()


def test_offered_in_steps() -> None:
    versions = [f"v1.0.{n}" for n in range(250)]
    steps = offered(versions, lambda version: "bad" if version in ("v1.0.7", "v1.0.249") else None)
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            offer = done.value
            break
        turns += 1
    assert turns == 250 // A_STEP
    assert offer == Offer(
        [each for each in versions if each not in ("v1.0.7", "v1.0.249")], "v1.0.248", Counter(bad=2)
    )


def test_offered_newest_is_latests_choice() -> None:
    every = ["v1.0.0-rc.1", "v0.0.0-20260102000000-abcdef123456", "v0.9.0", "v0.10.0"]
    for count in range(len(every) + 1):
        (offer,) = _ends(offered(every[:count], lambda _: None))
        assert offer.newest == latest(every[:count])


def _ends(steps: Steps[Offer]) -> list[Offer]:
    try:
        next(steps)
    except StopIteration as done:
        return [done.value]
    return []


@pytest.mark.parametrize(
    "text", ["x.example/m{}", "x.example/*/m{}", "x.example/*/m{}@>=v1.2.0", "x.example/m@<v1.0.{}"]
)
def test_what_a_rule_costs(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rules as may be in force are looked through once for a module, and not for each version; and
    none of their patterns is made anew for it."""
    rules = RuleSet(GateRule("block", Rule.parse(text.format(n)), n) for n in range(1000))
    assert rules.find("x.example/other/m", "v0.0.1") is None
    misses = names.compile_glob.cache_info().misses
    asked = 0
    named = Rule.names

    def counted(rule: Rule, module: str) -> bool:
        nonlocal asked
        asked += 1
        return named(rule, module)

    monkeypatch.setattr(Rule, "names", counted)
    for module in ("x.example/a/b", "x.example/c/d"):
        for n in range(100):
            assert rules.find(module, f"v0.0.{n}") is None
    assert names.compile_glob.cache_info().misses == misses
    assert asked <= 2 * 1000


def test_modules_remembered_are_bounded() -> None:
    rules = RuleSet([GateRule("block", Rule.parse(M))])
    for n in range(REMEMBERED + 10):
        assert rules.find(f"a.example/m{n}", "v1.0.0") is None
    assert len(rules._known) == REMEMBERED


NUMBERS = st.integers(0, 30)
VERSIONS = st.builds(
    lambda a, b, c, pre: f"v{a}.{b}.{c}{pre}",
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["", "-rc.1", "-rc.10", "-alpha", "-0.20260102000000-abcdef123456"]),
)


@given(VERSIONS, VERSIONS)
def test_bounds_are_gos_order(limit: str, version: str) -> None:
    lower = order(version).rpartition("\0")[0] < order(limit).rpartition("\0")[0]
    assert (version in Versions.parse(f"<{limit}")) == lower
    assert (version in Versions.parse(f">={limit}")) == (not lower)
    both = Versions.parse(f">={limit} <={limit}")
    assert (version in both) == (version == limit)
