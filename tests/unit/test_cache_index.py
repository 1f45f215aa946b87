"""cache/index.py: schema, rows, hashes seen first."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.database import Database, Impossible
from goproxy_vm.cache.index import MOST_SEEN, Index
from goproxy_vm.cache.rows import Entry, Known, Proven, Row, Sight, Sum, Touch
from goproxy_vm.cache.schema import SCHEMAS
from goproxy_vm.errors import StartError
from goproxy_vm.protocol.artifact import Artifact, Kind
from tests.fakes.lines import logged
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHA = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    opened = Database.open(path)
    yield Index(opened)
    opened.close()


def row(name: str, *, version: str = "v1.0.0", kind: Kind = Kind.MOD, length: int = 5) -> Row:
    return Row(artifact(f"{name}/@v/{version}.{kind}"), length, 8, SHA, "h1:x")


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


def test_schema_version_and_journal(index: Index, path: Path) -> None:
    assert query(path, "PRAGMA user_version") == [(len(SCHEMAS),)]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]


def test_rows_come_back(path: Path, index: Index) -> None:
    index.add([row("a.b")], now=10.0, used=10.0)
    assert index.entry("a.b/@v/v1.0.0.mod") == Entry("a.b/@v/v1.0.0.mod", 5, SHA)
    assert index.entry("a.b/@v/v2.0.0.mod") is None
    again = Database.open(path)
    assert Index(again).entry("a.b/@v/v1.0.0.mod") is not None
    again.close()


def test_a_dying_row_is_no_entry(path: Path, index: Index) -> None:
    index.add([row("a.b")], now=10.0, used=10.0)
    database = sqlite3.connect(path)
    database.execute("UPDATE files SET state = 1")
    database.commit()
    database.close()
    assert index.entry("a.b/@v/v1.0.0.mod") is None
    assert index.kinds("a.b") == []


def test_add_replaces_and_is_all_or_nothing(index: Index) -> None:
    assert index.add([row("a.b", length=5)], now=1.0, used=1.0) == []
    (replaced,) = index.add([row("a.b", length=6)], now=2.0, used=2.0)
    assert (replaced.path, replaced.length, replaced.bytes) == ("a.b/@v/v1.0.0.mod", 5, 4096)
    bad = Row(artifact("c.d/@v/v1.0.0.mod"), 5, 8, SHA, h1=None)
    with pytest.raises(sqlite3.Error):
        index.add([bad, Row(Artifact(None, None, Kind.MOD, None), 1, 8, SHA, None)], now=3.0, used=3.0)  # type: ignore[list-item]  # a bad row is meant
    entry = index.entry("a.b/@v/v1.0.0.mod")
    assert entry is not None
    assert entry.length == 6
    assert index.sums() == [Sum(Kind.MOD, pinned=False, entries=1, bytes=4096)]


def test_remove(index: Index) -> None:
    index.add([row("a.b")], now=1.0, used=1.0)
    victims = index.of_path("a.b/@v/v1.0.0.mod")
    index.remove(victims, "purge", 2.0)
    index.remove(victims, "purge", 2.0)
    assert index.sums() == []


def test_touch_adds_hits_and_never_goes_back(path: Path, index: Index) -> None:
    index.add([row("a.b"), row("c.d")], now=100.0, used=100.0)
    index.touch({"a.b/@v/v1.0.0.mod": Touch(150.0, 3), "gone/@v/v1.0.0.mod": Touch(150.0, 1)}, 0)
    index.touch({"a.b/@v/v1.0.0.mod": Touch(120.0, 2)}, 0)
    facts = query(path, "SELECT module, fetched, last_used, hits FROM files ORDER BY module")
    assert facts == [("a.b", 100.0, 150.0, 5), ("c.d", 100.0, 100.0, 0)]


def test_the_hash_seen_first_stays(path: Path, index: Index) -> None:
    assert index.known("a.b", "v1.0.0") == Known(None, None)
    assert index.remember(artifact("a.b/@v/v1.0.0.zip"), "h1:first", 1.0) == "h1:first"
    assert index.remember(artifact("a.b/@v/v1.0.0.zip"), "h1:other", 2.0) == "h1:first"
    assert index.remember(artifact("a.b/@v/v1.0.0.mod"), "h1:mod", 2.0) == "h1:mod"
    assert index.known("a.b", "v1.0.0") == Known("h1:mod", "h1:first")
    assert query(path, "SELECT seen FROM known WHERE kind = 'zip'") == [(1.0,)]


PROVEN = Proven({"mod": "h1:mod", "zip": "h1:zip"}, "db", 7)


def test_the_number_of_a_record_is_kept_with_what_it_proves(index: Index) -> None:
    index.prove("a.b", "v1.0.0", PROVEN, 5.0)
    assert index.known("a.b", "v1.0.0").numbers == {"db": 7}
    assert index.known("a.b", "v1.0.0").zip_seen == 5.0
    index.prove("a.b", "v1.0.0", replace(PROVEN, database="other", hashes={"zip": "h1:zip"}, number=9), 6.0)
    assert index.known("a.b", "v1.0.0").numbers == {"db": 7, "other": 9}
    index.forget([("a.b", "v1.0.0")])
    assert index.known("a.b", "v1.0.0").numbers == {}


def test_a_hash_from_before_numbers_were_kept_gets_its_number(path: Path, index: Index) -> None:
    index.prove("a.b", "v1.0.0", replace(PROVEN, number=None), 5.0)
    assert index.known("a.b", "v1.0.0").numbers == {}
    index.prove("a.b", "v1.0.0", PROVEN, 6.0, fetched=False)
    assert index.known("a.b", "v1.0.0").numbers == {"db": 7}
    assert query(path, "SELECT DISTINCT seen FROM known") == [(5.0,)]


def test_another_hash_is_seen_first_when_it_is_proven(index: Index) -> None:
    """Else bytes that were swapped would count as old as those in whose place they came."""
    index.remember(artifact("a.b/@v/v1.0.0.zip"), "h1:swapped", 5.0)
    index.prove("a.b", "v1.0.0", PROVEN, 900.0)
    assert index.known("a.b", "v1.0.0").zip_seen == 900.0
    index.prove("a.b", "v1.0.0", PROVEN, 1000.0)
    assert index.known("a.b", "v1.0.0").zip_seen == 900.0


def test_a_number_that_cannot_be_is_damage(path: Path, index: Index) -> None:
    index.prove("a.b", "v1.0.0", PROVEN, 5.0)
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE known SET number = -1")
    database.close()
    with pytest.raises(Impossible, match=r"known a\.b@v1\.0\.0"):
        index.known("a.b", "v1.0.0")


def test_a_first_sight_stays_the_first(path: Path, index: Index) -> None:
    assert index.first_sight("a.b", "v1.0.0", 5.0) == Sight(5.0, 5.0)
    assert index.first_sight("a.b", "v1.0.0", 9.0) == Sight(5.0, 5.0)
    assert index.first_sight("a.b", "v1.1.0", 9.0) == Sight(9.0, 5.0)
    again = Database.open(path)
    assert Index(again).first_sight("a.b", "v1.1.0", 70.0) == Sight(9.0, 5.0)
    again.close()


def test_first_sights_have_a_bound(path: Path, index: Index) -> None:
    index.first_sight("a.b", "v1.0.0", 5.0)
    database = sqlite3.connect(path)
    with database:
        database.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO first_seen SELECT 'm' || i, 'v1.0.0', 10.0 + i FROM n",
            (MOST_SEEN - 1,),
        )
    database.close()
    index.first_sight("new", "v1.0.0", 1e6)
    ((count,),) = query(path, "SELECT count(*) FROM first_seen")
    assert count == MOST_SEEN - MOST_SEEN // 100
    assert index.first_sight("new", "v1.0.0", 2e6) == Sight(1e6, 5.0)
    assert index.first_sight("a.b", "v1.0.0", 3e6) == Sight(3e6, 5.0), "it was the first to go"


def test_the_second_schema_is_migrated(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        for statement in (*SCHEMAS[0], *SCHEMAS[1], "PRAGMA user_version = 2"):
            database.execute(statement)
        database.execute("INSERT INTO known VALUES ('a.b', 'v1.0.0', 'zip', 'h1:zip', 5.0, 'db')")
    database.close()
    opened = Database.open(path)
    known = Index(opened).known("a.b", "v1.0.0")
    assert (known, known.numbers, known.zip_seen) == (Known(None, "h1:zip", "", "db"), {}, 5.0)
    opened.close()


def test_sums_and_kinds(index: Index) -> None:
    rows = [row("a.b"), row("a.b", kind=Kind.ZIP), row("a.b", version="v1.1.0"), row("c.d")]
    index.add(rows, now=1.0, used=1.0)
    assert index.sums() == [
        Sum(Kind.MOD, pinned=False, entries=3, bytes=3 * 4096),
        Sum(Kind.ZIP, pinned=False, entries=1, bytes=4096),
    ]
    assert sorted(index.kinds("a.b")) == [("v1.0.0", "mod"), ("v1.0.0", "zip"), ("v1.1.0", "mod")]


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StartError) as caught:
        Database.open(path)
    assert str(path) in caught.value.sentence
    assert "99" in caught.value.sentence
    assert "\n" not in caught.value.sentence
    assert query(path, "PRAGMA user_version") == [(99,)]


@pytest.mark.parametrize("content", [b"not a database at all\n" * 400, b"SQLite format 3\0" + b"\xff" * 4096])
def test_what_is_no_database_is_moved_aside(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    path.with_name("index.db-wal").write_bytes(b"old log")
    database = Database.open(path)
    assert database.rebuilt
    assert Index(database).sums() == []
    database.close()
    assert path.with_name("index.db.broken").read_bytes() == content
    assert "index moved aside" in logged(caplog)


def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartError, match="is a directory"):
        Database.open(path)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="unable to open database file"):
        Database.open(tmp_path / "missing" / "index.db")


def test_what_cannot_be_moved_aside_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all\n" * 400)
    path.with_name("index.db.broken").mkdir()
    with pytest.raises(StartError, match="Is a directory"):
        Database.open(path)


def test_a_strangers_database_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE files (x)")
    database.close()
    with pytest.raises(StartError, match="none of goproxy-vm"):
        Database.open(path)
