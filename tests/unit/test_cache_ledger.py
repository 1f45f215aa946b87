"""upkeep/ledger.py, snapshots, quarantine, reports: what the store remembers of its own doing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.clock import LogicalClock
from goproxy_vm.cache.database import Database
from goproxy_vm.cache.facts import RemovedVersion, Totals, Went
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.reports import report, snapshots
from goproxy_vm.cache.reports.report import removal
from goproxy_vm.cache.reports.snapshots import Snapshots
from goproxy_vm.cache.rows import Row, Victim
from goproxy_vm.cache.upkeep import ledger, quarantine
from goproxy_vm.cache.upkeep.ledger import Ledger
from goproxy_vm.cache.upkeep.quarantine import Quarantine
from goproxy_vm.protocol.artifact import Kind
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHA = "ab" * 32


class Rig:
    """An index with its ledger, and snapshots beside it."""

    def __init__(self, root: Path) -> None:
        self.now = 100.0
        self.path = root / "snapshots.db"
        self.database = Database.open(root / "index.db")
        self.index = Index(self.database)
        clock = LogicalClock((100.0, 100.0), wall=lambda: self.now, monotonic=lambda: self.now)
        self.ledger = Ledger(self.database, clock)
        self.snapshots = Snapshots.open(self.path, root / "index.db")

    def add(self, *names: str, kind: Kind = Kind.ZIP, blocks: int = 1) -> None:
        rows = [Row(artifact(f"{name}/@v/v1.0.0.{kind}"), 5, blocks, SHA, None) for name in names]
        self.index.add(rows, self.now, self.now)

    def remove(self, name: str, reason: str, kind: Kind = Kind.ZIP) -> None:
        self.index.remove(self.index.of_path(f"{name}/@v/v1.0.0.{kind}"), reason, self.now)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.snapshots.close()
    made.database.close()


# Ledger


def test_a_pass(rig: Rig) -> None:
    rig.add("a")
    rig.now = 150.0
    record = rig.ledger.begin("size", 7, 3, 900)
    assert record.before == Totals(3, 900, 50.0)
    assert [each.id for each in rig.ledger.unfinished()] == [record.id]
    record.evicted_entries, record.evicted_bytes, record.scrubbed = 2, 600, (1, 2, 3)
    rig.ledger.save(record)
    assert rig.ledger.unfinished() == [record]
    rig.now = 160.0
    rig.ledger.end(record, 1, 300, reached=True)
    assert record.finished == 160.0
    assert rig.ledger.unfinished() == []
    assert rig.ledger.passes(9) == [record]
    assert rig.ledger.passes(9)[0].after == Totals(1, 300, 60.0)


def test_a_hundred_passes_are_kept(rig: Rig) -> None:
    long_one = rig.ledger.begin("scrub", None, 0, 0)
    for _ in range(ledger.MOST_PASSES + 20):
        rig.ledger.end(rig.ledger.begin("size", 0, 0, 0), 0, 0, reached=True)
    kept = [each.id for each in rig.ledger.passes(1000)]
    assert kept == [*range(121, 21, -1), long_one.id], "and what is not finished yet"
    rig.ledger.end(long_one, 0, 0, reached=None)
    assert rig.ledger.passes(1000)[-1].finished is not None


def test_the_newest_removals_are_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_REMOVALS", 3)
    for name in "abcde":
        rig.add(name)
        rig.remove(name, "size")
    rig.ledger.end(rig.ledger.begin("size", 0, 0, 0), 0, 0, reached=True)
    rows = rig.database.connection.execute("SELECT module, bytes, at FROM removals").fetchall()
    assert rows == [("c", 512, 100.0), ("d", 512, 100.0), ("e", 512, 100.0)]


def test_oldest_idle_is_of_zips(rig: Rig) -> None:
    assert rig.ledger.oldest_idle() == 0.0
    rig.add("a", kind=Kind.MOD)
    rig.now = 110.0
    rig.add("b")
    rig.now = 130.0
    assert rig.ledger.oldest_idle() == 20.0


def test_pins(rig: Rig) -> None:
    rig.ledger.add_pin("a@*")
    rig.ledger.add_pin("a@*")
    rig.ledger.set_pins(["b@*", "a@*"], "config")
    rig.ledger.add_pin("b@*")
    assert rig.ledger.pins() == {"a@*": "config", "b@*": "config"}
    assert not rig.ledger.remove_pin("b@*")
    rig.ledger.add_pin("c@*")
    rig.ledger.set_pins([], "config")
    assert rig.ledger.pins() == {"c@*": "api"}
    assert rig.ledger.remove_pin("c@*")
    assert not rig.ledger.remove_pin("c@*")


# Snapshots


def test_a_difference_says_why(rig: Rig) -> None:
    rig.add("a", "b", "c", "d", "e")
    rig.add("a", kind=Kind.MOD, blocks=2)
    rig.remove("e", "size")
    rig.add("e")
    first = rig.snapshots.take("first")
    assert first is not None
    assert (first.name, first.versions, first.bytes) == ("first", 5, 7 * 512)
    rig.remove("a", "size")
    rig.remove("a", "purge", Kind.MOD)
    rig.remove("b", "idle")
    rig.add("b")
    rig.remove("c", "size")
    rig.add("n", blocks=3)
    assert rig.snapshots.take("second") is not None
    rig.remove("d", "corrupt")
    rig.add("c")
    rig.remove("c", "min_free")
    rig.database.connection.execute("DELETE FROM files WHERE module = 'e'")

    between = rig.snapshots.difference("first", "second")
    assert between is not None
    assert between.came == [RemovedVersion("n", "v1.0.0", ("zip",), 3 * 512)]
    assert between.went == [
        Went("a", "v1.0.0", ("mod", "zip"), 3 * 512, "size"),
        Went("c", "v1.0.0", ("zip",), 512, "size"),
    ]
    assert (between.bytes_came, between.bytes_freed) == (3 * 512, 4 * 512)
    assert between.freed_by_reason == {"purge": 2 * 512, "size": 2 * 512}
    assert not between.truncated

    until_now = rig.snapshots.difference("first", "now")
    assert until_now is not None
    assert {each.module: each.reason for each in until_now.went} == {
        "a": "size",
        "c": "min_free",
        "d": "corrupt",
        "e": "unknown",
    }, "what went before the first snapshot explains nothing"
    assert [each.module for each in until_now.came] == ["n"]

    back = rig.snapshots.difference("second", "first")
    assert back is not None
    assert [each.module for each in back.came] == ["a", "c"]


def test_a_difference_to_nothing(rig: Rig) -> None:
    rig.add("a")
    rig.snapshots.take("first")
    assert rig.snapshots.difference("first", "second") is None
    assert rig.snapshots.difference("zeroth", "first") is None
    assert rig.snapshots.difference("now", "first") is None
    same = rig.snapshots.difference("first", "first")
    assert same is not None
    assert (same.came, same.went) == ([], [])


def test_what_is_dying_is_not_present(rig: Rig) -> None:
    rig.add("a", "b")
    rig.snapshots.take("first")
    rig.index.dying(rig.index.of_path("a/@v/v1.0.0.zip"))
    taken = rig.snapshots.take("second")
    assert taken is not None
    assert taken.versions == 1
    difference = rig.snapshots.difference("first", "now")
    assert difference is not None
    assert [each.module for each in difference.went] == ["a"]


def test_long_answers_are_cut(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MOST_ITEMS", 2)
    rig.snapshots.take("first")
    rig.add("a", "b", "c")
    difference = rig.snapshots.difference("first", "now")
    assert difference is not None
    assert (len(difference.came), difference.truncated, difference.bytes_came) == (2, True, 3 * 512)


def test_names_are_taken_once_and_twenty_are_kept(rig: Rig) -> None:
    rig.add("a")
    assert rig.snapshots.take("now") is None
    for i in range(snapshots.MOST + 3):
        assert rig.snapshots.take(f"s{i}") is not None
        assert rig.snapshots.take(f"s{i}") is None
    assert [each.name for each in rig.snapshots.all()] == [f"s{i}" for i in range(3, snapshots.MOST + 3)]
    assert rig.snapshots.take("s0") is not None, "free again"
    (count,) = rig.snapshots.connection.execute("SELECT count(*) FROM contents").fetchone()
    assert count == snapshots.MOST


def test_a_snapshot_that_fails_is_none(rig: Rig) -> None:
    execute = rig.snapshots.connection.execute
    execute("CREATE TRIGGER kept.full BEFORE INSERT ON contents BEGIN SELECT raise(ABORT, 'full'); END")
    rig.add("a")
    with pytest.raises(sqlite3.Error, match="full"):
        rig.snapshots.take("first")
    execute("DROP TRIGGER full")
    assert rig.snapshots.all() == []
    assert rig.snapshots.take("first") is not None


def test_the_index_is_only_read(rig: Rig) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        rig.snapshots.connection.execute("DELETE FROM live.files")


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_what_is_no_database_is_begun_anew(rig: Rig, tmp_path: Path, suffix: str) -> None:
    rig.snapshots.take("first")
    rig.snapshots.close()
    rig.path.write_bytes(b"no database" * 1000)
    (tmp_path / f"snapshots.db{suffix}").write_bytes(b"no database" * 1000)
    rig.snapshots = Snapshots.open(rig.path, tmp_path / "index.db")
    assert rig.snapshots.all() == []


def test_snapshots_that_cannot_be_opened(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        Snapshots.open(tmp_path / "missing" / "snapshots.db", tmp_path / "index.db")
    with pytest.raises(sqlite3.OperationalError):
        Snapshots.open(tmp_path / "s.db", tmp_path / "missing.db")


# Quarantine


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "quarantine"
    made.mkdir()
    return made


def bad(place: Path, *, blocks: int = 1, name: str = "bad") -> Path:
    file = place.parent / name
    file.write_bytes(os.urandom(blocks * 4096))
    with file.open("rb") as opened:
        os.fsync(opened)
    return file


def kept(place: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in place.iterdir())


def test_the_last_ten_are_kept(place: Path) -> None:
    held = Quarantine(place, 1 << 30)
    for i in range(quarantine.MOST + 3):
        file = bad(place)
        assert held.take(file, f"a.b/@v/v1.0.{i:02}.zip")
        assert not file.exists()
    assert kept(place) == [f"a.b+@v+v1.0.{i:02}.zip" for i in range(3, quarantine.MOST + 3)]
    entries, size = held.totals()
    assert entries == quarantine.MOST
    assert size == sum(path.stat().st_blocks * 512 for path in place.iterdir())


def test_they_stay_within_their_bytes(place: Path) -> None:
    held = Quarantine(place, 4 * 4096)
    for i, blocks in enumerate((2, 1, 1)):
        held.take(bad(place, blocks=blocks), f"{i}.zip")
    assert len(kept(place)) == 3
    held.take(bad(place, blocks=1), "3.zip")
    assert kept(place) == ["1.zip", "2.zip", "3.zip"]
    large = bad(place, blocks=5)
    assert held.take(large, "large.zip")
    assert not large.exists()
    assert kept(place) == ["1.zip", "2.zip", "3.zip"], "what is too large pushes out nothing"


def test_nothing_is_kept_without_room(place: Path) -> None:
    assert Quarantine(place, 0).take(bad(place), "a.zip")
    assert kept(place) == []


def test_long_names(place: Path) -> None:
    held = Quarantine(place, 1 << 30)
    held.take(bad(place), "x" * 500 + "/@v/v1.0.0.zip")
    assert [len(name) for name in kept(place)] == [quarantine.LONGEST_NAME]


def test_what_is_no_file_goes(place: Path) -> None:
    held = Quarantine(place, 1 << 30)
    directory = place.parent / "directory"
    (directory / "x").mkdir(parents=True)
    link = place.parent / "link"
    link.symlink_to(place)
    assert held.take(directory, "d.zip")
    assert held.take(link, "l.zip")
    assert not directory.exists()
    assert not link.is_symlink()
    assert kept(place) == []
    assert place.is_dir()


def test_what_is_gone(place: Path) -> None:
    held = Quarantine(place, 1 << 30)
    assert not held.take(place.parent / "gone", "g.zip")
    assert not held.take(bad(place) / "gone", "g.zip")


def test_a_directory_among_them_goes_too(place: Path) -> None:
    held = Quarantine(place, 1 << 30)
    (place / "0-planted" / "x").mkdir(parents=True)
    for i in range(quarantine.MOST):
        held.take(bad(place), f"{i}.zip")
    assert "planted" not in kept(place)


def test_totals_of_nothing(tmp_path: Path) -> None:
    assert Quarantine(tmp_path / "missing", 1).totals() == (0, 0)


# Report


async def test_a_removal_is_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_ITEMS", 1)

    def victim(module: str, kind: Kind) -> Victim:
        return Victim(1, "", module, "v1.0.0", kind, 5, 512, pinned=False, last_used=0.0)

    found = await removal(
        [victim("b", Kind.ZIP), victim("a", Kind.ZIP), victim("b", Kind.MOD)], 4, dry_run=True
    )
    assert (found.versions, found.files, found.bytes, found.answers) == (2, 3, 3 * 512, 4)
    assert found.items == [RemovedVersion("b", "v1.0.0", ("mod", "zip"), 1024)]
    assert found.truncated


def test_closing_leaves_no_connection(tmp_path: Path) -> None:
    Database.open(tmp_path / "index.db").close()
    with closing(Snapshots.open(tmp_path / "snapshots.db", tmp_path / "index.db")) as opened:
        assert opened.all() == []
