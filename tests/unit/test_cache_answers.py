"""cache/answers.py: what goes in comes out, and nothing planted is ever run."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from goproxy_vm.cache.answers import Desks, module_of
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.plain import PlainCache, PlainDisk
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.walk import SLICE, SLICE_BYTES
from tests.fakes.answers import open_answers as opened
from tests.fakes.lines import logged


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "answers").mkdir()
    return tmp_path / "answers"


def execute(directory: Path, sql: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / "cache.db")) as database, database:
        return database.execute(sql, values).fetchall()


async def test_round_trip(directory: Path) -> None:
    before = time.time()
    async with opened(directory) as answers:
        assert await answers.get("k") is None
        await answers.set("k", b"v1.0.0\n", keep=60)
        answer = await answers.get("k")
        assert answer is not None
        assert answer.data == b"v1.0.0\n"
        assert before <= answer.stored <= time.time()
        await answers.set("k", b"", keep=None)
        answer = await answers.get("k")
        assert answer is not None
        assert answer.data == b""
    async with opened(directory) as answers:
        assert await answers.get("k") is not None
        await answers.delete("k")
        await answers.delete("k")
        assert await answers.get("k") is None


async def test_several_at_once(directory: Path) -> None:
    async with opened(directory) as answers:
        await answers.set("a.b/@v/list", b"old", keep=60)
        assert await answers.set_all({"a.b/@v/list": b"1", "absent/a.b/@latest": b"2"})
        found = await answers.get_all(["absent/a.b/@latest", "a.b/@v/list", "a.b/@v/master.info"])
        assert {key: answer.data for key, answer in found.items()} == {
            "a.b/@v/list": b"1",
            "absent/a.b/@latest": b"2",
        }
        assert await answers.count(["a.b", "c.d"]) == 2
    assert execute(directory, "SELECT expire_time FROM Cache") == [(None,), (None,)]


async def test_a_large_answer_stays_in_its_row(directory: Path) -> None:
    data = b"v1.0.0\n" * 100_000
    async with opened(directory) as answers:
        await answers.set("k", data, keep=60)
        answer = await answers.get("k")
        assert answer is not None
        assert answer.data == data
    assert all(path.name.startswith("cache.db") for path in directory.rglob("*"))


async def test_an_answer_past_its_keep_is_missing(directory: Path) -> None:
    async with opened(directory) as answers:
        await answers.set("k", b"x", keep=60)
        execute(directory, "UPDATE Cache SET expire_time = ?", time.time() - 1)
        assert await answers.get("k") is None


async def test_drop_by_tag(directory: Path) -> None:
    async with opened(directory) as answers:
        for key in ("m.x/!a/@v/list", "absent/m.x/!a/@latest", "m.x/a/@v/list", "sumdb/m.x"):
            await answers.set(key, b"x", keep=60)
        assert await answers.modules(lambda module, _: module.startswith("m.x")) == {"m.x/A", "m.x/a"}
        assert await answers.drop("m.x/A") == 2
        assert await answers.drop("m.x/A") == 0
        assert await answers.get("m.x/!a/@v/list") is None
        assert await answers.get("m.x/a/@v/list") is not None


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("a.b/!c/@v/list", "a.b/C"),
        ("a.b/@latest", "a.b"),
        ("absent/a.b/@v/v1.0.0.mod", "a.b"),
        ("sumdb/a.b/lookup/x@v1", ""),
        ("a.b/!!/@v/list", ""),
    ],
)
def test_what_an_answer_is_about_follows_from_its_key(key: str, module: str) -> None:
    assert module_of(key) == module


async def test_settings_of_an_older_cache_are_replaced(directory: Path) -> None:
    with closing(diskcache.Cache(str(directory), statistics=1)) as cache:
        assert cache.eviction_policy != "none"
    async with opened(directory):
        settings = {str(row[0]): row[1] for row in execute(directory, "SELECT key, value FROM Settings")}
    assert settings["eviction_policy"] == "none"
    assert settings["statistics"] == 0
    assert settings["cull_limit"] == 0


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("where", ["row", "file"])
async def test_a_planted_pickle_is_not_run(
    directory: Path, tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    proof = tmp_path / "proof"
    payload = pickle.dumps(Payload(proof))
    pickle.loads(payload)
    assert proof.exists(), "the payload works where it is let"
    proof.unlink()
    async with opened(directory) as answers:
        await answers.set("k", b"x", keep=None)
        if where == "row":
            execute(directory, "UPDATE Cache SET mode = 4, value = ?", payload)
        else:
            (directory / "planted.val").write_bytes(payload)
            execute(directory, "UPDATE Cache SET mode = 4, value = NULL, filename = 'planted.val'")
        assert await answers.get("k") is None
        assert execute(directory, "SELECT count(*) FROM Cache") == [(0,)]
    assert not proof.exists()
    assert "cached answer refused and deleted {'key': 'k'" in logged(caplog)


@pytest.mark.parametrize(
    "change",
    [
        "mode = 2, value = NULL, filename = '../secret'",
        "mode = 3, value = NULL, filename = '../secret'",
        "filename = '../secret'",
        "value = 'text'",
        "value = 7",
        "value = x'00'",
        "value = NULL",
        "mode = 'x'",
        "value = CAST(x'ff' AS TEXT)",
    ],
)
async def test_planted_rows_are_deleted_and_open_no_file(directory: Path, change: str) -> None:
    secret = directory.parent / "secret"
    secret.write_bytes(b"12345678 not for clients")
    async with opened(directory) as answers:
        await answers.set("k", b"x", keep=None)
        execute(directory, f"UPDATE Cache SET {change}")
        assert await answers.get("k") is None
        assert execute(directory, "SELECT count(*) FROM Cache") == [(0,)]
    assert secret.exists()


async def test_overwriting_a_planted_row_removes_no_file(directory: Path) -> None:
    (directory.parent / "secret").touch()
    async with opened(directory) as answers:
        await answers.set("k", b"x", keep=None)
        execute(directory, "UPDATE Cache SET filename = '../secret'")
        await answers.set("k", b"y", keep=None)
        assert await answers.get("k") is not None
    assert (directory.parent / "secret").exists()


@pytest.mark.parametrize("value", [None, [], {}, object(), True, bytearray(b"x")])
def test_only_plain_values_are_stored(directory: Path, value: object) -> None:
    disk = PlainDisk(str(directory), min_file_size=100)
    with pytest.raises(TypeError):
        disk.store(value, read=False)
    with pytest.raises(TypeError):
        disk.put(value)


def test_no_file_objects(directory: Path) -> None:
    with pytest.raises(TypeError):
        PlainDisk(str(directory)).store(b"x", read=True)


def test_a_planted_key_is_not_unpickled(directory: Path) -> None:
    disk = PlainDisk(str(directory))
    assert disk.get("key", raw=True) == "key"
    assert disk.get(pickle.dumps("key"), raw=False) is None


async def test_a_planted_key_ends_no_walk(directory: Path) -> None:
    async with opened(directory, most_bytes=MOST) as answers:
        await answers.set("a.b/@v/list", b"x", keep=None)
        execute(directory, "INSERT INTO Cache (key, raw, value) VALUES (?, 0, '')", pickle.dumps("key"))
        execute(directory, "INSERT INTO Cache (key, raw, value) VALUES (?, 1, '')", b"bytes")
        await answers.set("a.b/@latest", b"x", keep=None)
        assert await answers.keys("a.b") == ["a.b/@v/list", "a.b/@latest"]
        assert (await answers.oldest()).keys == ["a.b/@v/list", "a.b/@latest"]
        assert (await answers.oldest("a.b")).keys == ["a.b/@v/list", "a.b/@latest"]
        assert await answers.count(["a.b"]) == 2


@pytest.mark.parametrize("content", [b"no database\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_broken_database_is_begun_anew(
    directory: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "cache.db").write_bytes(content)
    async with opened(directory) as answers:
        await answers.set("k", b"x", keep=None)
        assert await answers.get("k") is not None
    assert "begun anew" in logged(caplog)


@pytest.mark.parametrize(("key", "value"), [("disk_evil", 1), ("sqlite_cache_size", "x")])
async def test_planted_settings_do_not_stop_the_server(directory: Path, key: str, value: object) -> None:
    async with opened(directory):
        pass
    execute(directory, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    async with opened(directory) as answers:
        await answers.set("k", b"x", keep=None)
        assert await answers.get("k") is not None


async def test_a_directory_in_place_of_the_database(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "cache.db").mkdir()
    async with opened(directory) as answers:
        assert await answers.get("k") is None
    assert "begun anew" in logged(caplog)


async def test_a_locked_or_broken_database_keeps_nothing(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health()
    async with opened(directory, health) as answers:
        await answers.set("k", b"x", keep=None)
        with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await answers.set("k", b"y", keep=None)
            other.execute("ROLLBACK")
        assert "the database is locked" in logged(caplog)
        answer = await answers.get("k")
        assert answer is not None
        assert answer.data == b"x"
        assert health.writable
        execute(directory, "DROP TABLE Cache")
        assert await answers.get("k") is None
        assert await answers.drop("t") == 0
        assert not health.writable


MOST = 4 << 20


def on_disk(directory: Path) -> int:
    """Bytes of the database and its log."""
    return sum(path.stat().st_size for path in directory.glob("cache.db*") if not path.name.endswith("-shm"))


@pytest.mark.parametrize("size", [2_000, 20_000, 500_000])
async def test_the_bound_holds_at_each_write(directory: Path, size: int) -> None:
    """Not only between two trims; the oldest go."""
    async with opened(directory, most_bytes=MOST) as answers:
        number = 3 * MOST // 2 // size + 5
        for each in range(number):
            await answers.set(f"k{each}", b"v" * size, keep=None)
            assert on_disk(directory) <= MOST
        assert await answers.get(f"k{number - 1}") is not None
        assert await answers.get("k0") is None


async def test_many_writers_share_the_bound(directory: Path) -> None:
    async with opened(directory, most_bytes=MOST) as answers:
        most = 0

        async def write(each: int) -> None:
            nonlocal most
            await answers.set(f"k{each}", b"v" * 500_000, keep=None)
            most = max(most, on_disk(directory))

        await asyncio.gather(*map(write, range(20)))
        assert 1_000_000 < most <= MOST


async def test_what_is_larger_than_the_bound_pushes_nothing_out(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(directory, most_bytes=MOST) as answers:
        await answers.set("small", b"v", keep=None)
        await answers.set("large", b"v" * MOST, keep=None)
        assert await answers.get("small") is not None
        assert await answers.get("large") is None
    assert "answer not kept {'key': 'large'" in logged(caplog)


async def test_a_trim_lets_others_write_in_between(directory: Path) -> None:
    """Whoever writes waits for one slice at most, and what went leaves the disk."""
    async with opened(directory) as answers:
        await answers.set_all({f"old{each}": b"v" for each in range(1_000)}, keep=60)
        await answers.set_all({f"new{each}": b"v" * 1_000 for each in range(1_000)})
        await answers.set_all({f"large{each}": b"v" * SLICE_BYTES for each in range(3)})
        execute(directory, "UPDATE Cache SET expire_time = 1 WHERE key LIKE 'old%'")
        left = [1_003]

        async def count() -> None:
            while left[-1]:
                left.append((await answers.size())[0])

        trimming = asyncio.create_task(answers.trim(0))
        counting = asyncio.create_task(count())
        assert await trimming == 2_003
        await counting
        steps = [before - after for before, after in itertools.pairwise(left) if before != after]
        assert max(steps) <= SLICE
        assert steps[-3:] == [1, 1, 1], "a slice each"
        assert on_disk(directory) < 200_000


async def test_who_reads_waits_for_no_write(directory: Path) -> None:
    desks = Desks(Threads("reader", 1), Threads("writer", 1))
    async with opened(directory, desks=desks) as answers:
        await answers.set("a.b/@latest", b"x", keep=None)
        began, goes_on = threading.Event(), threading.Event()

        def busy() -> None:
            with closing(PlainCache(directory)) as cache, cache.transact():
                cache.set("a.b/@latest", b"12345678y")
                began.set()
                goes_on.wait(30)

        writing = asyncio.ensure_future(desks.writer.run(busy))
        await asyncio.to_thread(began.wait, 30)
        before = await answers.get("a.b/@latest")
        goes_on.set()
        await writing
        after = await answers.get("a.b/@latest")
        assert [each and each.data for each in (before, after)] == [b"x", b"y"]


async def test_the_oldest_are_those_stored_first(directory: Path) -> None:
    """Not those that were there first: a list that is asked for each day is stored anew each time."""
    async with opened(directory) as answers:
        for key in ("a", "b", "c", "a"):
            await answers.set(key, b"v", keep=None)
        assert (await answers.oldest()).keys == ["b", "c", "a"]


async def test_what_is_past_its_keep_goes_with_the_oldest(directory: Path) -> None:
    async with opened(directory) as answers:
        await answers.set_all({f"k{each}": b"v" for each in range(SLICE)}, keep=60)
        await answers.set("new", b"v", keep=None)
        execute(directory, "UPDATE Cache SET expire_time = 1 WHERE key LIKE 'k%'")
        assert await answers.delete_all((await answers.oldest()).keys) == SLICE
        assert await answers.keys("") == ["new"]
