"""cache/clock.py, database.py, memory.py, recency.py: what is known of use, over restarts and failures."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import memory
from goproxy_vm.cache.clock import MOST_GAP, LogicalClock
from goproxy_vm.cache.database import Database, damaged
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.memory import Memory
from goproxy_vm.cache.recency import CLEAN_AGE, Recency, begin_clock
from goproxy_vm.cache.rows import Entry, Row, Touch
from goproxy_vm.cache.schema import SCHEMAS
from goproxy_vm.cache.threads import Threads
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.waiting import to_the_end
from tests.fakes.lines import logged
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHA = "ab" * 32


class Hands:
    """A host's two clocks, set by hand."""

    wall = 1000.0
    monotonic = 50.0

    def clock(self, last: tuple[float, float] | None) -> LogicalClock:
        return LogicalClock(last, wall=lambda: self.wall, monotonic=lambda: self.monotonic)


@pytest.fixture
def hands() -> Hands:
    return Hands()


# Clock


def test_the_first_run_begins_at_the_epoch_time(hands: Hands) -> None:
    clock = hands.clock(None)
    assert clock.now() == 1000.0
    hands.monotonic += 5
    assert clock.now() == 1005.0
    assert clock.mark() == (1005.0, 1000.0)


@pytest.mark.parametrize("jump", [-1e9, -1.0, 1.0, 1e9])
def test_a_jump_while_running_is_none(hands: Hands, jump: float) -> None:
    clock = hands.clock(None)
    hands.wall += jump
    hands.monotonic += 1
    assert clock.now() == 1001.0
    assert clock.wall() == 1000.0 + jump


@pytest.mark.parametrize(
    ("gap", "counted"),
    [(-1e9, 0), (-1, 0), (0, 0), (60, 60), (MOST_GAP, MOST_GAP), (MOST_GAP + 1, MOST_GAP), (1e9, MOST_GAP)],
)
def test_a_restart_counts_a_day_at_most(hands: Hands, gap: float, counted: float) -> None:
    clock = hands.clock((500.0, 1000.0 - gap))
    assert clock.now() == 500.0 + counted


def test_epoch(hands: Hands) -> None:
    clock = hands.clock((100.0, 1000.0))
    assert clock.epoch(90.0) == 990.0
    assert clock.epoch(200.0) == 1000.0, "nothing was used in the future"


# Database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


def running(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT value FROM meta WHERE key = 'running'").fetchone()[0])


def test_a_run_is_known_until_its_end(path: Path) -> None:
    database = Database.open(path)
    assert (database.unclean, database.rebuilt, running(path)) == (False, False, 1)
    killed = Database.open(path)
    assert killed.unclean
    killed.close()
    assert running(path) == 1, "a start that failed early has seen to nothing"
    again = Database.open(path)
    assert again.unclean
    again.unclean = False
    again.close()
    assert running(path) == 0
    database.connection.close()


def test_a_database_that_failed_is_closed_all_the_same(path: Path) -> None:
    database = Database.open(path)
    database.connection.execute("DROP TABLE meta")
    database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        database.connection.execute("SELECT 1")


def misplaced(path: Path, page: str) -> None:
    """Have an index's content begin at another page."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(f"UPDATE sqlite_schema SET rootpage = {page} WHERE name = 'removals_version'")


def test_damage_is_looked_for_after_an_unclean_end_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Database.open(path).close()
    misplaced(path, "(SELECT rootpage FROM sqlite_schema WHERE name = 'files_order')")
    unseen = Database.open(path)
    assert not unseen.rebuilt, "that takes reading the whole file"
    unseen.connection.close()
    rebuilt = Database.open(path)
    assert rebuilt.rebuilt
    rebuilt.close()
    assert "index moved aside" in logged(caplog)
    assert path.with_name("index.db.broken").exists()


def test_damage_that_shows_at_once_is_seen_after_a_clean_end_too(path: Path) -> None:
    Database.open(path).close()
    misplaced(path, "999")
    rebuilt = Database.open(path)
    assert rebuilt.rebuilt
    rebuilt.close()


@pytest.mark.parametrize("code", ["SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CORRUPT_INDEX", "SQLITE_FULL"])
def test_damaged(code: str) -> None:
    error = sqlite3.DatabaseError(code)
    error.sqlite_errorcode = getattr(sqlite3, code)
    assert damaged(error) == (code != "SQLITE_FULL")


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    database = Database.open(path)

    def begin(*, rolled_back: bool) -> None:
        with database.transaction():
            database.set("a", 1)
            with database.transaction():
                database.set("b", 2)
            if rolled_back:
                database.connection.execute("ROLLBACK")  # as SQLite does by itself on a full disk
            raise ZeroDivisionError

    for rolled_back in (False, True):
        with pytest.raises(ZeroDivisionError):
            begin(rolled_back=rolled_back)
        assert (database.get("a", 0), database.get("b", 0)) == (0, 0)
    database.close()


def test_the_first_schema_is_migrated(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old, old:
        for statement in SCHEMAS[0]:
            old.execute(statement)
        old.execute("PRAGMA user_version = 1")
        old.execute(
            "INSERT INTO files (path, module, version, kind, length, blocks, sha256, fetched, last_used,"
            " hits) VALUES ('a/@v/v1.0.0.zip', 'a', 'v1.0.0', 'zip', 5, 8, x'abab', 100, 150, 3)"
        )
    database = Database.open(path)
    index = Index(database)
    (victim,) = index.of_path("a/@v/v1.0.0.zip")
    assert victim.last_used == 150.0
    assert database.connection.execute("SELECT rank, checked, unsure, hits FROM files").fetchall() == [
        (150.0, 100.0, 0, 3)
    ]
    row = Row(artifact("b/@v/v1.0.0.zip"), 5, 8, SHA, None)
    index.add([row], 0.0, 0.0)
    assert index.newest() == 2
    database.close()


# Memory


def test_memory(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ENTRIES", 2)
    kept = Memory(hands.clock(None))
    a, b, c = (Entry(name, 1, SHA, None) for name in "abc")
    for each in (a, b, a, c):
        kept.keep(each)
    assert (kept.entry("a"), kept.entry("b"), kept.entry("c")) == (a, None, c)
    kept.forget("a")
    kept.forget("a")
    assert kept.entry("a") is None
    kept.touch("x")
    hands.monotonic += 1
    kept.touch("x")
    kept.touch("y")
    assert kept.drain() == {"x": Touch(1001.0, 2), "y": Touch(1001.0, 1)}
    assert kept.drain() == {}


# Recency


class Here(Threads):
    """Runs everything in the caller's thread."""

    async def run(self, function, *args, **kwargs):  # type: ignore[no-untyped-def]  # as in the parent
        return function(*args, **kwargs)


class Rig:
    """Recency over an index."""

    def __init__(self, path: Path, hands: Hands) -> None:
        self.hands = hands
        self.database = Database.open(path)
        self.index = Index(self.database)
        self.health = Health()
        clock = hands.clock(None)
        self.memory = Memory(clock)
        self.recency = Recency(self.database, self.index, self.memory, clock, Here("", 1), self.health, 0)

    def add(self, name: str) -> None:
        self.index.add([Row(Artifact("m", "v1.0.0", Kind.ZIP, name), 5, 8, SHA, None)], 0.0, 0.0)

    def clean(self) -> int | None:
        found = self.database.get("clean", None)
        return found if found is None else int(found)


@pytest.fixture
def rig(path: Path, hands: Hands) -> Iterator[Rig]:
    made = Rig(path, hands)
    yield made
    made.database.close()


async def test_a_flush_writes_the_hits_and_the_clock(rig: Rig) -> None:
    rig.add("a")
    rig.memory.touch("a")
    rig.hands.wall += 7
    await rig.recency.flush()
    assert rig.database.connection.execute("SELECT hits, last_used FROM files").fetchall() == [(1, 1000.0)]
    rig.hands.wall += 3
    clock = begin_clock(rig.database)
    assert clock.now() >= 1000.0
    assert (rig.database.get("clock", 0), rig.database.get("wall", 0)) == (1000.0, 1007.0)


async def test_the_clean_mark_follows_behind(rig: Rig) -> None:
    rig.add("a")
    rig.database.set("clean", 1)
    await rig.recency.flush()
    assert rig.clean() == 1, "a start leaves it where it was"
    rig.add("b")
    rig.hands.monotonic += CLEAN_AGE - 1
    await rig.recency.flush()
    assert rig.clean() == 1
    rig.hands.monotonic += 1
    await rig.recency.flush()
    assert rig.clean() == 1, "what was newest when the time began"
    rig.hands.monotonic += CLEAN_AGE
    await rig.recency.flush()
    assert rig.clean() == 2
    rig.add("c")
    await rig.recency.settle()
    assert rig.clean() == 3, "a clean end leaves nothing unsure"


async def test_an_index_that_fails_loses_an_order_only(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.database.connection.execute("DROP TABLE meta")
    await rig.recency.flush()
    assert not rig.health.writable
    await rig.recency.settle()
    assert "index unavailable {'reason': 'no such table: meta'}" in logged(caplog)


async def test_it_runs_until_cancelled(rig: Rig) -> None:
    rig.add("a")
    rig.memory.touch("a")
    task = asyncio.create_task(rig.recency.run(0.0))
    while rig.database.connection.execute("SELECT hits FROM files").fetchone() == (0,):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


def test_a_clock_without_a_past(path: Path) -> None:
    database = Database.open(path)
    database.set("clock", 5)
    assert begin_clock(database).now() > 1e9
    database.close()


# Threads


async def test_to_the_end() -> None:
    gate, done = asyncio.Event(), []

    async def work(*, fail: bool) -> int:
        await gate.wait()
        done.append(1)
        if fail:
            raise ZeroDivisionError
        return 5

    for fail in (False, True):
        gate.clear()
        task = asyncio.create_task(to_the_end(work(fail=fail)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        await asyncio.wait([task])
        assert task.cancelled()
    assert await to_the_end(work(fail=False)) == 5
    with pytest.raises(ZeroDivisionError):
        await to_the_end(work(fail=True))
    assert len(done) == 4
