"""cache/walk.py: what was stored first is found without looking through the rest again and again."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import walk
from goproxy_vm.cache.answers import Answers, Desks
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.records import Records, tag_of
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.walk import SLICE, TURN
from tests.fakes.answers import Walked, open_answers
from tests.fakes.lines import logged
from tests.fakes.stores import FAILS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from goproxy_vm.cache.answers import CachedAnswer

NAME = "sum.example.org"
LARGE = 1 << 40


def tiles(first: int, last: int) -> dict[str, bytes]:
    return {f"{NAME}/tile/8/0/{each:06}": b"t" * 900 for each in range(first, last)}


def lookups(first: int, last: int) -> dict[str, bytes]:
    return {f"{NAME}/lookup/m.x@v{each:06}": b"r" for each in range(first, last)}


async def drop(answers: Answers, tag: str) -> list[str]:
    """Forget all that a tag has, a few at a time."""
    gone: list[str] = []
    while not (found := await answers.oldest(tag)).ended:
        assert len(found.keys) <= SLICE
        assert await answers.delete_all(found.keys) == len(found.keys)
        gone += found.keys
    return gone


async def test_the_oldest_of_a_tag_are_found_in_one_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many others lie before them, and none at all to see that there are none left."""
    walked = Walked(monkeypatch)
    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        old, new = lookups(0, 2 * SLICE + 1), lookups(500, 500 + SLICE + 1)
        await answers.set_all(tiles(0, 3 * SLICE) | old)
        assert (await answers.oldest("record")).keys == [], "its turn is over"
        await answers.set_all(new | tiles(1000, 1001))
        assert await drop(answers, "record") == [*old, *new]
        assert walked.walks == 1
        passed = walked.keys
        for each in range(10):
            assert await drop(answers, "record") == []
            await answers.set_all(lookups(each, each + 1))
            assert await drop(answers, "record") == [*lookups(each, each + 1)]
        assert (walked.walks, walked.keys) == (1, passed)


async def test_what_is_stored_anew_is_the_newest(tmp_path: Path) -> None:
    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        await answers.set_all(lookups(0, 5))
        assert (await answers.oldest("record")).keys == [*lookups(0, 5)]
        await answers.set_all(lookups(1, 2))
        await answers.delete(*lookups(3, 4))
        assert await drop(answers, "record") == [
            *lookups(0, 1),
            *lookups(2, 3),
            *lookups(4, 5),
            *lookups(1, 2),
        ]


async def test_memory_for_what_was_stored_since_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not remember another walk finds."""
    monkeypatch.setattr(walk, "NEWEST", 10)
    walked = Walked(monkeypatch)
    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        await answers.set_all(lookups(0, 1))
        assert await drop(answers, "record") == [*lookups(0, 1)]
        for each in range(25):
            await answers.set_all(lookups(each, each + 1))
            assert len(answers._queues["record"]) <= 10
        assert await drop(answers, "record") == [*lookups(0, 25)]
        assert walked.walks == 2


@pytest.mark.parametrize("failing", ["delete", "walk"])
async def test_what_a_failing_disk_kept_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object) -> Iterator[str]:
        raise sqlite3.OperationalError("disk I/O error")

    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        await answers.set_all(lookups(0, 3))
        found = await answers.oldest("record")
        with monkeypatch.context() as patch, closing(sqlite3.connect(tmp_path / "x" / "cache.db")) as other:
            if failing == "delete":
                other.execute(f"CREATE TRIGGER fails BEFORE DELETE ON Cache {FAILS}")
                assert await answers.delete_all(found.keys) is None
                other.execute("DROP TRIGGER fails")
            else:
                patch.setattr(walk, "every", fail)
                assert await answers.keys("") is None
        assert await drop(answers, "record") == [*lookups(0, 3)]


async def test_a_trim_of_tiles_alone_passes_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then a turn with each slice; at the bound what is kept costs as little."""
    walked = Walked(monkeypatch)
    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        await answers.set_all(tiles(0, 5_000))
        records = Records(answers, LARGE)
        assert not await answers.within(1), "and its log is folded in"
        _, size = await answers.size()
        gone = await records.trim(size * 3 // 4)
        slices = -(-gone // SLICE)
        assert gone > 5 * SLICE
        assert walked.keys <= 5_000 + slices * TURN
        records = Records(answers, (await answers.size())[1])
        before = walked.keys
        for each in range(10):
            some = tiles(10_000 + 50 * each, 10_050 + 50 * each)
            assert await records.keep(some | lookups(each, each + 1))
        assert walked.keys - before <= 10 * 3 * TURN
        assert await records.get(*lookups(0, 1)) is None, "it went before any tile"


async def test_who_keeps_something_waits_for_a_step_of_a_trim(tmp_path: Path) -> None:
    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        await answers.set_all(tiles(0, 5_000))
        records = Records(answers, LARGE)
        gone: list[str] = []
        records.watch(gone.extend)
        trimming = asyncio.create_task(records.trim(1))
        while not gone and not trimming.done():
            await asyncio.sleep(0)
        before = len(gone)
        assert await records.keep(lookups(0, 1))
        assert len(gone) - before <= 2 * SLICE
        assert not trimming.done()
        assert await trimming == 5_001


async def test_what_was_gone_already_ends_no_trim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is found bad while a trim has chosen it."""
    async with open_answers(tmp_path / "x", tag_of=tag_of) as answers:
        await answers.set_all(lookups(0, 1) | tiles(0, 300))
        records = Records(answers, LARGE)
        delete_all = answers.delete_all

        async def later(keys: list[str]) -> int | None:
            monkeypatch.undo()
            await delete_all(keys)
            return await delete_all(keys)

        monkeypatch.setattr(answers, "delete_all", later)
        assert await records.trim(1) == 300


async def test_who_reads_waits_for_no_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no job of the thread for reads, and in the other one it lets everybody in between."""
    jobs: list[str] = []
    passed: list[int] = []
    walked = Walked(monkeypatch)

    class Counted(Threads):
        def __init__(self, name: str) -> None:
            super().__init__(name, 1)
            self.name = name

        async def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
            jobs.append(self.name)
            passed.append(walked.keys)
            return await super().run(function, *args, **kwargs)

    async with open_answers(tmp_path / "x", desks=Desks(Counted("reader"), Counted("writer"))) as answers:
        await answers.set_all({f"absent/m{each}.x/@latest": b"v" for each in range(10 * TURN)})
        jobs.clear()
        passed.clear()
        keys = await answers.keys("absent/")
        assert keys is not None
        assert len(keys) == walked.keys == 10 * TURN
        assert jobs == ["writer"] * 11
        assert passed == [TURN * each for each in range(11)]


def _full(*_: object, **__: object) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


async def test_what_is_stored_is_found_while_a_write_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk: each trial closes the database and opens it anew."""
    async with open_answers(tmp_path / "x") as answers:
        await answers.set("m.x/@v/list", b"v1.0.0\n", keep=None)
    monkeypatch.setattr("goproxy_vm.cache.plain.PlainCache", _full)
    async with open_answers(tmp_path / "x") as answers:

        async def tried() -> None:
            for _ in range(20):
                with pytest.raises(sqlite3.OperationalError, match="disk is full"):
                    await answers.retry()

        found: list[CachedAnswer | None] = []
        trying = asyncio.create_task(tried())
        while not trying.done():
            found.append(await answers.get("m.x/@v/list"))
        await trying
        assert len(found) > 20
        assert all(found)
        assert "cached answers unavailable" not in logged(caplog)


async def test_what_is_to_be_written_behind_a_trial_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the database that it opened, and not to the one that it closed."""
    async with open_answers(tmp_path / "x") as answers:
        await answers.set_all({"m.x/@v/list": b"v", "n.x/@v/list": b"v"})
    monkeypatch.setattr("goproxy_vm.cache.plain.PlainCache", _full)
    health = Health()
    async with open_answers(tmp_path / "x", health) as answers:
        monkeypatch.undo()
        health.succeeded("x")
        await asyncio.gather(answers.retry(), answers.delete("m.x/@v/list"), answers.drop("n.x"))
        assert (await answers.size())[0] == 0
        assert health.writable


async def test_keys_are_found_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_answers(tmp_path / "x") as answers:
        await answers.set_all({f"m{each}.x/@latest": b"v" for each in range(2 * TURN + 1)})
    monkeypatch.setattr("goproxy_vm.cache.plain.PlainCache", _full)
    async with open_answers(tmp_path / "x") as answers:
        assert await answers.keys("") == [f"m{each}.x/@latest" for each in range(2 * TURN + 1)]
