"""cache/index.py and cache/reports/scanner.py: the order in which files go, and what a selection means."""

from __future__ import annotations

import base64
import json
import sqlite3
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.cache.clock import LogicalClock
from goproxy_vm.cache.database import Database
from goproxy_vm.cache.facts import Selection, Sort
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.reports import scanner
from goproxy_vm.cache.reports.scanner import Scanner
from goproxy_vm.cache.rows import Row, Sum, Touch
from goproxy_vm.cache.schema import SCHEMAS
from goproxy_vm.protocol.artifact import Kind
from goproxy_vm.protocol.selector import Selector
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from goproxy_vm.cache.rows import Victim

SHA = "ab" * 32
BLOCK = 512


class Rig:
    """An index whose clocks stand still unless they are set."""

    def __init__(self, database: Database) -> None:
        self.monotonic = self.wall = 0.0
        self.clock = LogicalClock((0.0, 0.0), wall=lambda: self.wall, monotonic=lambda: self.monotonic)
        self.database = database
        self.index = Index(database)
        self.scanner = Scanner(database.connection, self.clock, database.notice)

    def add(
        self,
        name: str,
        used: float,
        *,
        kind: Kind = Kind.ZIP,
        blocks: int = 1,
        pinned: bool = False,
        fetched: float | None = None,
    ) -> list[Victim]:
        module, _, version = name.partition("@")
        version = version or "v1.0.0"
        row = Row(artifact(f"{module}/@v/{version}.{kind}"), 5, blocks, SHA, "h1:x", pinned)
        return self.index.add([row], used if fetched is None else fetched, used)

    def touch(self, at: float, *names: str, protected: int = 0) -> None:
        self.index.touch({f"{name}/@v/v1.0.0.zip": Touch(at, 1) for name in names}, protected * BLOCK)

    def order(self) -> str:
        return "".join(each.module for each in self.scanner.victims(1 << 60, 1 << 60, None))

    def take(self, need: int, pinned_excess: int = 0, limit: int | None = None) -> str:
        return names(self.scanner.victims(need * BLOCK, pinned_excess * BLOCK, limit))

    def selected(self, **conditions: object) -> list[str]:
        selection = Selection(**conditions)  # type: ignore[arg-type]  # by name
        return [f"{each.module}@{each.version}.{each.kind}" for each in self.scanner.selected(selection)]


def names(victims: Iterable[Victim]) -> str:
    return "".join(each.module for each in victims)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    database = Database.open(tmp_path / "index.db")
    yield Rig(database)
    database.close()


# The order


def test_one_segment_is_plain_lru(rig: Rig) -> None:
    for at, name in enumerate("abcd"):
        rig.add(name, at)
    assert rig.order() == "abcd"
    rig.touch(10.0, "b")
    rig.touch(11.0, "a")
    assert rig.order() == "cdba"


def test_what_was_asked_for_again_is_protected(rig: Rig) -> None:
    for at, name in enumerate("abcd"):
        rig.add(name, at)
    rig.touch(10.0, "a", protected=2)
    rig.add("e", 11.0)
    assert rig.order() == "bcdea"


def test_what_is_too_much_returns_as_the_newest(rig: Rig) -> None:
    for at, name in enumerate("abcd"):
        rig.add(name, at)
    for at, name in enumerate("abc", 10):
        rig.touch(at, name, protected=2)
    assert rig.order() == "dabc", "a came back behind d"
    rig.add("e", 20.0)
    assert rig.order() == "daebc"


def test_what_returns_together_keeps_its_order(rig: Rig) -> None:
    for at, (name, blocks) in enumerate({"a": 3, "b": 2, "c": 1, "d": 6}.items()):
        rig.add(name, at, blocks=blocks)
    for at, name in enumerate("abc", 10):
        rig.touch(at, name, protected=6)
    rig.touch(20.0, "d", protected=6)
    assert rig.order() == "abcd"


def test_a_zip_larger_than_the_protected_share(rig: Rig) -> None:
    rig.add("a", 0.0, blocks=10)
    rig.touch(1.0, "a", protected=5)
    assert rig.order() == "a"


def test_pinned_ones_count_as_protected_too(rig: Rig) -> None:
    rig.add("a", 0.0, pinned=True)
    rig.add("b", 1.0)
    rig.touch(2.0, "a", "b", protected=1)
    assert rig.order() == "ba"


def test_another_policy_begins_with_one_segment(rig: Rig) -> None:
    for at, name in enumerate("abc"):
        rig.add(name, at)
    rig.touch(10.0, "a", protected=9)
    rig.index.settle_policy(9)
    assert rig.order() == "bca"
    rig.add("d", 11.0)
    assert rig.order() == "bcda"
    rig.index.settle_policy(0)
    assert rig.order() == "bcad"


def test_a_touch_never_goes_back(rig: Rig) -> None:
    rig.add("a", 5.0)
    rig.add("b", 6.0)
    rig.touch(7.0, "a")
    rig.touch(3.0, "a")
    assert rig.order() == "ba"


@settings(max_examples=60, deadline=None)
@given(
    trace=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=40),
    protected=st.booleans(),
)
def test_the_order_is_that_of_a_simulation(trace: list[tuple[str, bool]], *, protected: bool) -> None:
    """Two lists, the older end first; ``protected`` holds three."""
    database = Database(sqlite3.connect(":memory:", isolation_level=None))
    try:
        for statements in SCHEMAS:
            for statement in statements:
                database.connection.execute(statement)
        rig, probation, hot = Rig(database), list[str](), list[str]()
        for at, (name, again) in enumerate(trace):
            known = name in probation + hot
            if not known or not again:  # stored, or stored anew
                rig.add(name, at)
                probation, hot = [x for x in probation if x != name], [x for x in hot if x != name]
                probation.append(name)
                continue
            rig.touch(at, name, protected=3 * protected)
            probation, hot = [x for x in probation if x != name], [x for x in hot if x != name]
            (hot if protected else probation).append(name)
            probation += hot[:-3]
            hot = hot[-3:]
        assert rig.order() == "".join(probation + hot)
    finally:
        database.connection.close()


# Rows and strays


def test_a_path_that_comes_twice_replaces_itself(rig: Rig) -> None:
    row = Row(artifact("a/@v/v1.0.0.zip"), 5, 1, SHA, None)
    again = Row(artifact("a/@v/v1.0.0.zip"), 6, 2, SHA, None)
    (replaced,) = rig.index.add([row, again], 0.0, 0.0)
    assert replaced.bytes == BLOCK
    assert rig.index.sums() == [Sum(Kind.ZIP, pinned=False, entries=1, bytes=2 * BLOCK)]


def test_strays(rig: Rig) -> None:
    rig.add("a", 0.0)
    added = rig.index.add_strays(
        [("a/@v/v1.0.0.zip", Kind.ZIP, 4), ("b/@v/v1.0.0.zip", Kind.ZIP, 4), ("b/@v/v1.0.0.zip", Kind.ZIP, 4)]
    )
    assert [(each.path, each.id, each.bytes) for each in added] == [("b/@v/v1.0.0.zip", None, 4 * BLOCK)]
    assert rig.index.of_path("b/@v/v1.0.0.zip") == added
    assert rig.index.entry("b/@v/v1.0.0.zip") is None
    assert rig.index.sums() == [
        Sum(Kind.ZIP, pinned=False, entries=1, bytes=BLOCK),
        Sum(Kind.ZIP, pinned=False, entries=1, bytes=4 * BLOCK),
    ]
    assert rig.index.dying(added) == added
    assert rig.add("b", 1.0) == added
    assert rig.index.dying(added) == []
    assert rig.index.strays() == []


def test_dying_rows_are_gone_for_readers_only(rig: Rig) -> None:
    rig.add("a", 0.0)
    victims = rig.index.of_path("a/@v/v1.0.0.zip")
    assert rig.index.dying(victims) == victims
    assert rig.index.entry("a/@v/v1.0.0.zip") is None
    assert rig.order() == ""
    assert rig.scanner.dying() == victims
    assert rig.index.sums()[0].entries == 1, "it still takes its room"
    assert rig.add("a", 1.0) == victims
    assert rig.index.dying(victims) == [], "another file has come in its place"
    rig.index.remove(victims, "size", 2.0)
    assert rig.order() == "a"


def test_unsure_files(rig: Rig) -> None:
    rig.add("a", 0.0)
    clean = rig.index.newest()
    rig.add("b", 0.0)
    assert rig.index.suspect(clean) == 1
    a, b = (rig.index.entry(f"{name}/@v/v1.0.0.zip") for name in "ab")
    assert a is not None
    assert b is not None
    assert (a.unsure, b.unsure) == (False, True)
    rig.index.checked([b.path], 9.0)
    b = rig.index.entry(b.path)
    assert b is not None
    assert not b.unsure


def test_known_hashes(rig: Rig) -> None:
    rig.index.remember(artifact("a/@v/v1.0.0.zip"), "h1:x", 0.0)
    rig.index.remember(artifact("a/@v/v1.0.0.mod"), "h1:x", 0.0)
    rig.index.remember(artifact("b/@v/v1.0.0.mod"), "h1:x", 0.0)
    assert rig.scanner.known(Selector(["*"])) == [("a", "v1.0.0"), ("b", "v1.0.0")]
    assert rig.scanner.known(Selector(["a"])) == [("a", "v1.0.0")]
    rig.index.forget([("a", "v1.0.0")])
    assert rig.index.known("a", "v1.0.0").zip is None


# Victims


def test_victims_up_to_a_need_or_a_limit(rig: Rig) -> None:
    for at, name in enumerate("abcd"):
        rig.add(name, at, blocks=2)
    rig.add("m", 0.0, kind=Kind.MOD)
    assert rig.take(0) == ""
    assert rig.take(1) == "a"
    assert rig.take(2) == "a"
    assert rig.take(3) == "ab"
    assert rig.take(99) == "abcd"
    assert rig.take(99, limit=3) == "abc"
    assert rig.take(99, limit=0) == ""


def test_pinned_ones_go_last_and_only_the_excess(rig: Rig) -> None:
    for at, name in enumerate("pqr"):
        rig.add(name, at, blocks=2, pinned=True)
    rig.add("a", 50.0, blocks=2)
    assert rig.take(99) == "a"
    assert rig.take(1, pinned_excess=99) == "a"
    assert rig.take(3, pinned_excess=1) == "ap"
    assert rig.take(99, pinned_excess=3) == "apq"
    assert rig.take(5, pinned_excess=99) == "apq"
    assert rig.take(99, pinned_excess=99, limit=2) == "ap"


def test_metadata_of_versions_without_a_zip(rig: Rig) -> None:
    rig.add("a", 0.0, kind=Kind.MOD)
    rig.add("a", 0.0, kind=Kind.ZIP)
    rig.add("p", 0.0, kind=Kind.INFO, pinned=True)
    rig.add("c", 2.0, kind=Kind.INFO)
    rig.add("b", 1.0, kind=Kind.MOD)
    assert names(rig.scanner.metadata(BLOCK, 9)) == "b"
    assert names(rig.scanner.metadata(99 * BLOCK, 9)) == "bcp"
    assert names(rig.scanner.metadata(99 * BLOCK, 1)) == "b"
    assert names(rig.scanner.metadata(0, 9)) == ""


def test_idle(rig: Rig) -> None:
    rig.add("a", 10.0)
    rig.add("b", 20.0)
    rig.add("p", 0.0, pinned=True)
    rig.add("m", 0.0, kind=Kind.MOD)
    rig.monotonic = 30.0
    assert names(rig.scanner.idle(20.0, 9)) == ""
    assert names(rig.scanner.idle(19.0, 9)) == "a"
    assert names(rig.scanner.idle(1.0, 9)) == "ab"
    assert names(rig.scanner.idle(1.0, 1)) == "a"


def test_rows_by_id(rig: Rig) -> None:
    for name in "abc":
        rig.add(name, 0.0)
    first = rig.scanner.after(0, 2)
    assert names(first) == "ab"
    assert names(rig.scanner.after(first[-1].id or 0, 2)) == "c"


# Selections


def test_a_selection_means_all_its_conditions(rig: Rig) -> None:
    rig.wall = rig.monotonic = 100.0
    rig.add("x.org/a", 10.0, kind=Kind.MOD, fetched=1.0)
    rig.add("x.org/a", 90.0, kind=Kind.ZIP, blocks=4, fetched=50.0)
    rig.add("x.org/a@v1.1.0", 10.0, kind=Kind.ZIP, blocks=2, fetched=1.0)
    rig.add("x.org/b", 10.0, kind=Kind.INFO, fetched=1.0)
    every = ["x.org/a@v1.0.0.mod", "x.org/a@v1.0.0.zip", "x.org/a@v1.1.0.zip", "x.org/b@v1.0.0.info"]
    assert rig.selected() == every
    assert rig.selected(match=()) == []
    assert rig.selected(match=("*/b", "*@v1.1.*")) == every[2:]
    assert rig.selected(kinds=("mod", "info")) == [every[0], every[3]]
    assert rig.selected(idle_for=11.0) == every[2:]
    assert rig.selected(idle_for=90.0) == every[2:]
    assert rig.selected(idle_for=90.1) == []
    assert rig.selected(older_than=50.0) == every[2:], "more than, by the newest file"
    assert rig.selected(older_than=49.9) == every
    assert rig.selected(larger_than=2 * BLOCK) == every[:2], "of the version in all"
    assert rig.selected(idle_for=50.0, larger_than=BLOCK, match=("x.org/*",)) == [every[2]]
    assert rig.selected(idle_for=50.0, larger_than=BLOCK, older_than=99.5) == []
    assert [each.kind for each in rig.scanner.of_version("x.org/a", None)] == ["mod", "zip", "zip"]
    with pytest.raises(ValueError, match="not closed"):
        rig.selected(match=("[",))


def test_scrub_order(rig: Rig) -> None:
    for at, name in enumerate("abcd"):
        rig.add(name, at)
    rig.index.checked(["a/@v/v1.0.0.zip"], 3.0)
    batch, after = rig.scanner.to_check(3.0, None, (-1.0, 0))
    assert names([each for each, _ in batch]) == "bc"
    assert after is not None
    assert rig.scanner.to_check(3.0, None, after) == ([], None)
    batch, _ = rig.scanner.to_check(99.0, Selector(["d"]), (-1.0, 0))
    assert names([each for each, _ in batch]) == "d"
    assert rig.scanner.to_check(99.0, Selector(["e"]), (-1.0, 0))[0] == []


def test_few_that_match_are_not_looked_for_at_one_go(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "CHECKS", 2)
    for at, name in enumerate("abcde"):
        rig.add(name, at)
    asked, after = [], scanner.BEGIN
    while after is not None:
        batch, after = rig.scanner.to_check(99.0, Selector(["d"]), after)
        asked.append(names([each for each, _ in batch]))
    assert asked == ["", "d", "", ""]


# Lists


@pytest.mark.parametrize("sort", get_args(Sort))
@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_pages_show_every_version_once(rig: Rig, sort: Sort, limit: int) -> None:
    rig.monotonic = 1000.0
    for i in range(12):
        for kind in Kind if i % 3 else [Kind.MOD]:
            rig.add(f"m{i % 4}@v1.{i}.0", i // 2 * 1.1, kind=kind, blocks=i % 5 + 1)
    rig.index.touch({"m1/@v/v1.1.0.zip": Touch(500.5, 7), "m2/@v/v1.2.0.zip": Touch(500.5, 7)}, 0)
    seen, cursor, pages = [], None, 0
    while True:
        page = rig.scanner.page("", sort, limit, cursor)
        assert page.total == 12 == rig.scanner.versions()
        seen += page.items
        pages += 1
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.items) == limit
    assert pages == -(-12 // limit)
    keys = {
        "name": lambda v: (v.module, v.version),
        "size": lambda v: (-v.bytes, v.module, v.version),
        "idle": lambda v: (-v.idle_seconds, v.module, v.version),
        "hits": lambda v: (-v.hits, v.module, v.version),
    }
    assert len({(v.module, v.version) for v in seen}) == len(seen) == 12
    assert seen == sorted(seen, key=keys[sort])


def test_pages_of_a_prefix(rig: Rig) -> None:
    for name in ("a.b/c", "a.b/c/d", "a.b/cc", "a.bc", "a.a"):
        rig.add(name, 0.0)
    assert [v.module for v in rig.scanner.page("a.b/c", "name", 9, None).items] == [
        "a.b/c",
        "a.b/c/d",
        "a.b/cc",
    ]
    assert rig.scanner.page("a.b/c", "name", 1, None).total == 3
    assert rig.scanner.page("%", "name", 9, None).items == []


@pytest.mark.parametrize("sort", get_args(Sort))
@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_pages_of_what_matches_are_those_of_the_whole_list(rig: Rig, sort: Sort, limit: int) -> None:
    rig.monotonic = 1000.0
    for i in range(12):
        rig.add(f"m{i % 4}@v1.{i}.0", i // 2 * 1.1, blocks=i % 5 + 1)
    match = Selector(["m1", "*@v1.[04].0"])
    every = rig.scanner.page("", sort, 100, None).items
    seen, cursor = [], None
    while True:
        page = rig.scanner.page("", sort, limit, cursor, match)
        assert page.total == 5
        assert len(page.items) <= limit
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [each for each in every if match(each.module, each.version)]
    assert rig.scanner.page("m0", sort, limit, None, match).total == 2


def test_a_version(rig: Rig) -> None:
    rig.wall, rig.monotonic = 5000.0, 100.0
    rig.add("a", 40.0, kind=Kind.MOD, pinned=True, fetched=4000.0)
    rig.add("a", 90.0, kind=Kind.ZIP, blocks=3, fetched=4100.0)
    facts = rig.scanner.version("a", "v1.0.0")
    assert facts is not None
    assert (facts.bytes, facts.fetched, facts.last_used, facts.idle_seconds) == (
        4 * BLOCK,
        4100.0,
        4990.0,
        10.0,
    )
    assert facts.pinned
    assert list(facts.files) == ["mod", "zip"]
    assert rig.scanner.version("a", "v2.0.0") is None


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "%",
        "\udc80",
        "bm8=",
        encoded([]),
        encoded({}),
        encoded(["size", 0, "a", "v"]),
        encoded(["name", "x", "a", "v"]),
        encoded(["name", None, "a", "v"]),
        encoded(["name", float("nan"), "a", "v"]),
        encoded(["name", float("inf"), "a", "v"]),
        encoded(["name", 10**400, "a", "v"]),
        encoded(["name", 0, "\ud800", "v"]),
        encoded(["name", 0, "a"]),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_a_cursor_that_is_none(rig: Rig, cursor: str) -> None:
    with pytest.raises(ValueError, match="the cursor is none"):
        rig.scanner.page("", "name", 9, cursor)


# Pins


def test_pins(rig: Rig) -> None:
    rig.add("a", 0.0, blocks=2)
    rig.add("a", 0.0, kind=Kind.MOD)
    rig.add("b", 0.0, pinned=True)
    (pin,) = rig.scanner.pins({"a@*": "config"})
    assert (pin.source, pin.versions, pin.bytes) == ("config", 1, 2 * BLOCK)
    pin_ids, unpin_ids = rig.scanner.pinned(["a"])
    assert (len(pin_ids), len(unpin_ids)) == (2, 1)
    assert rig.index.mark_pinned(pin_ids, pinned=True) == 2 * BLOCK
    assert rig.index.mark_pinned(pin_ids, pinned=True) == 0, "they are already"
    assert rig.index.mark_pinned(unpin_ids, pinned=False) == BLOCK
    assert rig.scanner.pinned(["a"]) == ([], [])
    assert rig.take(99) == "b"
