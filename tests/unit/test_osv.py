"""Advisories held against versions, by vectors: the rules are govulncheck's."""

from __future__ import annotations

import json

import pytest

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.osv import Advisories, Advisory, parse_advisory, served_as, subjects
from goproxy_vm.protocol.vulndb import ModuleIndex, parse_modules
from tests.fakes.vulndb import DAY, documents, entry

M = "example.com/m"
PSEUDO = "v0.0.0-20220315160706-3147a52a75dd"


def events(*texts: str) -> list[dict[str, str]]:
    """``events("0", "1.2.0")``: introduced and fixed in turn."""
    return [{("introduced", "fixed")[n % 2]: text} for n, text in enumerate(texts)]


def advisory(*texts: str, **more: object) -> Advisory:
    made = entry("GO-2026-0001", {M: events(*texts)}, **more)
    return parse_advisory(json.dumps(made).encode(), "GO-2026-0001")


def index(*entries: dict[str, object]) -> ModuleIndex:
    steps = parse_modules(documents(entries)["index/modules.json"])
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: ModuleIndex = done.value
            return found


TWICE = ("0", "1.2.0", "1.4.0", "1.4.3")


@pytest.mark.parametrize(
    ("bounds", "version", "affected"),
    [
        (TWICE, "v0.0.0-20200101000000-abcdefabcdef", True),
        (TWICE, "v1.1.9", True),
        (TWICE, "v1.2.0-rc.1", True),
        (TWICE, "v1.2.0", False),
        (TWICE, "v1.3.9", False),
        (TWICE, "v1.4.0-rc.1", False),
        (TWICE, "v1.4.0", True),
        (TWICE, "v1.4.2", True),
        (TWICE, "v1.4.3", False),
        (("1.0.0",), "v0.9.9", False),
        (("1.0.0",), "v99.0.0", True),
        (("0",), "v0.0.1", True),
        (("0", PSEUDO[1:]), "v0.0.0-20220315160705-ffffffffffff", True),
        (("0", PSEUDO[1:]), PSEUDO, False),
        (("0", PSEUDO[1:]), "v0.0.0-20220315160707-000000000000", False),
        (("0", "0.0.1"), PSEUDO, True),
        (("1.19.0-0", "1.19.1"), "v1.19.0-rc.1", True),
        (("2.0.0+incompatible", "2.3.0+incompatible"), "v2.2.9+incompatible", True),
        (("2.0.0+incompatible", "2.3.0"), "v2.3.0+incompatible", False),
        (("0", "1.10.0"), "v1.9.0", True),
        (("1.4.0", "1.4.3", "0", "1.2.0"), "v1.3.0", False),
        (("1.4.0", "1.4.3", "0", "1.2.0"), "v1.0.0", True),
        (("v1.0.0", "v1.1.0"), "v1.0.5", True),
    ],
)
def test_whether_a_version_is_affected(bounds: tuple[str, ...], version: str, affected: bool) -> None:
    assert advisory(*bounds).holds(M, version) is affected
    assert not advisory(*bounds).holds("example.com/other", version)


def ranged(*ranges: dict[str, object]) -> Advisory:
    made = entry("GO-2026-0001", {M: None})
    made["affected"][0]["ranges"] = list(ranges)
    return parse_advisory(json.dumps(made).encode(), "GO-2026-0001")


def test_what_ranges_there_are() -> None:
    other = {"type": "GIT", "events": [{"introduced": "0"}]}
    semver = {"type": "SEMVER", "events": events("1.0.0", "1.1.0")}
    later = {"type": "SEMVER", "events": events("2.0.0")}
    assert ranged().holds(M, "v7.0.0")
    assert ranged(other).holds(M, "v7.0.0")
    assert ranged({"type": "SEMVER", "events": []}).holds(M, "v7.0.0")
    assert not ranged(other, semver).holds(M, "v7.0.0")
    assert ranged(semver, later).holds(M, "v7.0.0")
    assert not ranged(semver, later).holds(M, "v1.5.0")


def test_what_was_withdrawn_is_about_nothing() -> None:
    gone = advisory("0", "1.2.0", withdrawn=DAY)
    assert not gone.holds(M, "v1.0.0")
    assert not gone.fixed(M, "v1.2.0")
    assert gone.rules() == []


def test_what_is_named_as_fixed() -> None:
    known = advisory(*TWICE)
    assert [v for v in ("v1.1.9", "v1.2.0", "v1.2.1", "v1.4.3") if known.fixed(M, v)] == ["v1.2.0", "v1.4.3"]
    assert not known.fixed("example.com/other", "v1.2.0")
    # Named as fixed by one range, and affected by another.
    both = ranged(
        {"type": "SEMVER", "events": events("0", "1.2.0")}, {"type": "SEMVER", "events": events("1.1.0")}
    )
    assert not both.fixed(M, "v1.2.0")


@pytest.mark.parametrize(
    ("bounds", "rules"),
    [
        (("0", "1.2.0"), [f"{M}@<v1.2.0"]),
        (TWICE, [f"{M}@<v1.2.0 || >=v1.4.0 <v1.4.3"]),
        (("0",), [f"{M}@*"]),
        (("1.5.0",), [f"{M}@>=v1.5.0"]),
        (("0", PSEUDO[1:]), [f"{M}@<{PSEUDO}"]),
        (("2.0.0+incompatible", "2.3.0+incompatible"), [f"{M}@>=v2.0.0 <v2.3.0"]),
        ((), [f"{M}@*"]),
    ],
)
def test_rules(bounds: tuple[str, ...], rules: list[str]) -> None:
    assert advisory(*bounds).rules() == rules


def test_rules_of_several_modules_and_none_of_go_itself() -> None:
    made = entry("GO-2026-0001", {M: events("0", "1.2.0"), f"{M}/v2": events("2.0.0"), "stdlib": events("0")})
    known = parse_advisory(json.dumps(made).encode(), "GO-2026-0001")
    assert known.rules() == [f"{M}@<v1.2.0", f"{M}/v2@>=v2.0.0"]


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("v0.0.1-go1.22.3.linux-amd64", "v1.22.3"),
        ("v0.0.1-go1.21.linux-amd64", "v1.21.0"),
        ("v0.0.1-go1.22rc2.darwin-arm64", "v1.22.0-rc.2"),
        ("v0.0.1-go1.20beta1.linux-386", "v1.20.0-beta.1"),
    ],
)
def test_a_toolchain_is_the_standard_library(version: str, known: str) -> None:
    toolchain = "golang.org/toolchain"
    assert subjects(toolchain, version) == [("stdlib", known), ("toolchain", known)]
    assert served_as(["stdlib", "toolchain", M]) == {toolchain, M}


def test_what_is_no_toolchain_is_nothing() -> None:
    assert subjects("golang.org/toolchain", "v0.0.1-go2.linux-amd64") == []
    assert subjects(M, "v0.0.1-go1.22.3.linux-amd64") == [(M, "v0.0.1-go1.22.3.linux-amd64")]


A = entry("GO-2026-0001", {M: events(*TWICE)})
B = entry("GO-2026-0002", {M: events("1.3.0")})
GO = entry("GO-2026-0003", {"stdlib": events("1.22.0-0", "1.22.3")})


def read(made: dict[str, object]) -> Advisory:
    return parse_advisory(json.dumps(made).encode(), str(made["id"]))


def test_a_database() -> None:
    known = Advisories(index(A, B, GO), [read(A), read(B), read(GO)])
    assert [(each.id, each.fixed) for each in known.against(M, "v1.1.0")] == [("GO-2026-0001", "v1.2.0")]
    assert [(each.id, each.fixed) for each in known.against(M, "v1.4.1")] == [
        ("GO-2026-0001", "v1.4.3"),
        ("GO-2026-0002", ""),
    ]
    assert known.against(M, "v1.2.0") == []
    assert known.against("example.com/other", "v1.0.0") == []
    toolchain = "golang.org/toolchain", "v0.0.1-go1.22.1.linux-amd64"
    assert [(each.id, each.fixed) for each in known.against(*toolchain)] == [("GO-2026-0003", "v1.22.3")]
    assert known.fixed(M, "v1.2.0") == known.fixed(M, "v1.4.3") == "GO-2026-0001"
    assert known.fixed(M, "v1.2.1") is None
    assert known.fixed("example.com/other", "v1.2.0") is None
    assert known.affected("GO-2026-0001") == [f"{M}@<v1.2.0 || >=v1.4.0 <v1.4.3"]
    assert known.affected("GO-2026-0009") == []


def test_without_advisories_the_index_is_believed() -> None:
    known = Advisories(index(A, B))
    assert known.concerning(M, "v1.2.0") == {"GO-2026-0001", "GO-2026-0002"}
    assert known.concerning(M, "v1.4.3") == {"GO-2026-0002"}
    assert [(each.id, each.fixed) for each in known.against(M, "v1.2.0")] == [
        ("GO-2026-0001", "v1.4.3"),
        ("GO-2026-0002", ""),
    ]
    assert known.fixed(M, "v1.4.3") == "GO-2026-0001"
    assert known.fixed(M, "v1.2.0") is None
    assert known.affected("GO-2026-0001") == []


def test_what_the_index_does_not_name_is_not_learned() -> None:
    known = Advisories(index(A), [read(B)])
    assert known.get("GO-2026-0002") is None
    assert known.fixed(M, "v1.3.0") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "GO-2026-0002"}, "calls itself 'GO-2026-0002'"),
        ({"modified": "yesterday"}, "no valid time"),
        ({"modified": None}, "no valid time"),
        ({"affected": {}}, "affected is no list of objects"),
        ({"affected": [1]}, "affected is no list of objects"),
        ({"affected": [{"ranges": []}]}, "which module is affected"),
        ({"affected": [{"package": {"name": M}, "ranges": "all"}]}, "ranges is no list"),
    ],
)
def test_what_is_no_advisory(change: dict[str, object], said: str) -> None:
    with pytest.raises(ContentError, match=said):
        parse_advisory(json.dumps({**A, **change}).encode(), "GO-2026-0001")


@pytest.mark.parametrize("bound", ["latest", "1.2.x", 1, ["1.2.0"]])
def test_a_bound_that_is_no_version(bound: object) -> None:
    with pytest.raises(ContentError, match="as a version"):
        ranged({"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": bound}]})


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(ContentError, match="no JSON"):
        parse_advisory(data, "GO-2026-0001")


def test_what_is_shown_is_bounded() -> None:
    made = entry("GO-2026-0001", {M: events("0")}, summary="a\n" * 10_000, aliases=["x" * 1000] * 1000)
    known = read(made)
    assert len(known.summary) == 300
    assert "\n" not in known.summary
    assert len(known.aliases) == 20
    assert max(map(len, known.aliases)) == 100
