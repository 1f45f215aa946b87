"""cache/upkeep/scrub.py: what is not what it was goes to quarantine, and the page cache stays as it was."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.reports import scanner
from goproxy_vm.cache.reports.control import MOST_ORDERED
from goproxy_vm.cache.upkeep import scrub
from goproxy_vm.cache.upkeep.scrub import CHUNK, Hasher
from goproxy_vm.errors import Unavailable
from tests.fakes.lines import logged
from tests.fakes.stores import BLOCK, FAILS, Shop, Told, artifact, held_up, open_shop
from tests.fakes.tasks import under_way

if TYPE_CHECKING:
    from collections.abc import Callable


def spoil(file: Path) -> bytes:
    """Change a byte; the length stays."""
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    return bytes(data)


async def ended(shop: Shop, number: int) -> None:
    while (await shop.control.passes(1))[0].finished is None or under_way("scrub"):
        await asyncio.sleep(0)
    assert (await shop.control.passes(1))[0].id == number


# One file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2 * CHUNK + 100))
    return path


def digest(file: Path, most: int = 1 << 30) -> str:
    hasher = Hasher(file, file.parent)
    try:
        while hasher.step(most):
            pass
        return hasher.hexdigest()
    finally:
        hasher.close()


@pytest.mark.parametrize("most", [1, CHUNK, 1 << 30])
def test_the_hash(file: Path, most: int) -> None:
    assert digest(file, most) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("resident", "dropped"),
    [
        ((CHUNK, CHUNK, 100), []),
        ((CHUNK, CHUNK - 4096, 100), [CHUNK]),
        ((CHUNK, CHUNK, 0), [2 * CHUNK]),
        ((errno.EAGAIN, CHUNK, errno.EAGAIN), [0, 2 * CHUNK]),
        ((errno.EOPNOTSUPP,) * 3, [0, CHUNK, 2 * CHUNK]),
    ],
)
def test_only_what_was_not_in_memory_leaves_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, resident: tuple[int, ...], dropped: list[int]
) -> None:
    advised = []

    def preadv(_fd: int, _buffers: list[bytearray], offset: int, _flags: int) -> int:
        found = (*resident, 0)[-(-offset // CHUNK)]
        if found in {errno.EAGAIN, errno.EOPNOTSUPP}:
            raise OSError(found, os.strerror(found))
        return found

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, offset, _n, _advice: advised.append(offset))
    assert digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert advised == dropped


def test_a_small_file_that_is_hot_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[int] = []
    small = tmp_path / "small"
    small.write_bytes(b"x" * 100)
    small.read_bytes()
    monkeypatch.setattr(os, "preadv", lambda _fd, _buffers, offset, _flags: max(0, 100 - offset))
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, offset, _n, _advice: advised.append(offset))
    digest(small)
    assert advised == []


def test_without_the_system_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_unreadable_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output"):
        digest(file)


def test_no_link_is_followed(file: Path, tmp_path: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(OSError, match="symbolic links"):
        Hasher(link, tmp_path)


# A store


async def test_what_is_corrupt_is_quarantined_and_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b", "c")
        await shop.put("b", kind="mod")
        bad = spoil(shop.file("b"))
        await shop.touch("b")
        number = await shop.control.scrub(None, None)
        await ended(shop, number)
        (record,) = await shop.control.passes(9)
        assert (record.reason, record.reached) == ("scrub", None)
        assert record.scrubbed == (4, 4 * (BLOCK - 1), 1)
        assert shop.zips() == "ac"
        assert await shop.store.get(artifact(shop.path("b"))) is None
        assert [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()] == [bad]
        assert shop.told.corrupted == 1
        assert shop.told.read == 4 * (BLOCK - 1)
        assert ("corrupt", BLOCK, None) in shop.told.evictions
        status = await shop.store.figures.status()
        assert (status.quarantine_entries, status.quarantine_bytes) == (1, BLOCK)
        shop.consistent()
        await shop.put("b")
    assert "corrupt file {'path': 'b/@v/v1.0.0.zip', 'module': 'b', 'version': 'v1.0.0'}" in logged(caplog)


async def test_some_versions_only(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "a@v1.1.0", "b")
        for name in ("a", "a@v1.1.0", "b"):
            spoil(shop.file(name))
        await ended(shop, await shop.control.scrub(("a@v1.1.*",), 1 << 20))
        assert shop.files() == ["a@v1.0.0.zip", "b@v1.0.0.zip"]
        with pytest.raises(ValueError, match="not closed"):
            await shop.control.scrub(("[",), None)


async def test_what_is_due(tmp_path: Path) -> None:
    async with open_shop(tmp_path, scrub_interval=100.0) as shop:
        await shop.put("a")
        await shop.scrub.once()
        assert await shop.control.passes(9) == [], "nothing is due"
        shop.later(60)
        await shop.put("b")
        shop.later(60)
        await shop.scrub.once()
        assert (await shop.control.passes(9))[0].scrubbed == (1, BLOCK - 1, 0)
        await shop.scrub.once()
        assert len(await shop.control.passes(9)) == 1


async def test_it_runs_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
    async with open_shop(tmp_path, scrub_interval=0.001, still=False) as shop:
        shop.later(1)
        while not shop.told.read:
            await asyncio.sleep(0)
        await shop.sql("ALTER TABLE files RENAME TO lost")
        while "scrub failed" not in logged(caplog):
            await asyncio.sleep(0)
        await shop.sql("ALTER TABLE lost RENAME TO files")


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [(256, [1.0, (256 * BLOCK - 1) / (2 * CHUNK)]), (1, [0.5])],
    ids=["large", "small, which counts for a chunk"],
)
async def test_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, expected: list[float]
) -> None:
    slept = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async with open_shop(tmp_path) as shop:
        await shop.put("a", blocks=blocks)
        shop.time.stop()
        monkeypatch.setattr(asyncio, "sleep", note)
        data = shop.file("a").read_bytes()
        assert await shop.scrub.check(shop.victim("a"), hashlib.sha256(data).hexdigest(), 2 * CHUNK)
        monkeypatch.undo()
    assert slept == expected


async def test_one_that_has_grown(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        with shop.file("a").open("ab") as file:
            file.write(b"x")
        await ended(shop, await shop.control.scrub(None, None))
        assert shop.files() == []
        assert shop.told.corrupted == 1


async def test_how_far_it_has_come_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "SAVE_EVERY", -1.0)
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b")
        await shop.sql("CREATE TABLE saved (scrubbed)")
        log = "INSERT INTO saved VALUES (json_extract(NEW.record, '$.scrubbed[0]'))"
        await shop.sql(f"CREATE TRIGGER saves AFTER UPDATE ON passes BEGIN {log}; END")
        await ended(shop, await shop.control.scrub(None, None))
        assert await shop.sql("SELECT scrubbed FROM saved") == [(0,), (0,), (1,), (2,), (2,)]


@pytest.mark.parametrize("damage", ["gone", "gone directory", "link", "directory", "fifo", "cut"])
async def test_what_is_no_file_any_more(tmp_path: Path, damage: str) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        file = shop.file("a")
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        file.unlink()
        if damage == "gone directory":
            file.parent.rmdir()
            file.parent.touch()
        makers: dict[str, Callable[[], object]] = {
            "link": lambda: file.symlink_to(tmp_path / "index.db"),
            "directory": file.mkdir,
            "fifo": lambda: os.mkfifo(file),
            "cut": lambda: file.write_bytes(b"x"),
        }
        makers.get(damage, lambda: None)()
        assert not await shop.scrub.check(shop.victim("a"), sha256)
        gone = damage.startswith("gone")
        assert (await shop.sql("SELECT count(*) FROM files")) == [(int(gone),)]
        assert shop.told.corrupted == (not gone)
        assert (tmp_path / "index.db").is_file()
        assert len(list((tmp_path / "quarantine").iterdir())) == (damage == "cut")
        assert await shop.store.get(artifact(shop.path("a"))) is None
        assert shop.told.corrupted == (not gone), "what is missing is not corrupt"
        assert shop.core.usage.used == 0


async def test_a_host_that_cannot_look_condemns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        with monkeypatch.context() as patch:
            patch.setattr(scrub, "Hasher", exhausted)
            await ended(shop, await shop.control.scrub(None, None))
            assert (await shop.control.passes(1))[0].scrubbed == (0, 0, 0)
            await shop.sql("UPDATE files SET unsure = 1")
            shop.core.memory.forget(shop.path("a"))
            with pytest.raises(Unavailable):
                await shop.store.get(artifact(shop.path("a")))
        await shop.touch("a")
    assert "stored file not checked" in logged(caplog)


async def test_an_unreadable_file_is_condemned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail)
            assert not await shop.scrub.check(shop.victim("a"), "")
        assert shop.files() == []
        assert not shop.store.writable
    assert "stored file unreadable" in logged(caplog)


async def test_a_quarantine_that_takes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        spoil(shop.file("a"))
        shop.core.layout.quarantine.rmdir()
        shop.core.layout.quarantine.touch()
        await ended(shop, await shop.control.scrub(None, None))
        assert shop.files() == []
        assert shop.told.corrupted == 1
    assert "corrupt file not kept" in logged(caplog)


async def test_what_has_come_in_its_place_is_spared(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        before = shop.victim("a")
        await shop.put("a")
        await shop.scrub.condemn(before)
        assert shop.zips() == "a"
        assert shop.told.corrupted == 0


async def test_evicted_while_it_waits(tmp_path: Path) -> None:
    reading, go_on = asyncio.Event(), threading.Event()

    class Stops(Told):
        def scrubbed(self, size: int) -> None:
            super().scrubbed(size)
            shop.core.disk.executor.submit(go_on.wait, 30)  # so that the next file is not read yet
            reading.set()

    async with open_shop(tmp_path, told=Stops()) as shop:
        await shop.put("a", "b")
        number = await shop.control.scrub(None, None)
        await reading.wait()
        await shop.core.remover.remove([shop.victim("b")], "size")
        go_on.set()
        await ended(shop, number)
        assert (await shop.control.passes(1))[0].scrubbed == (1, BLOCK - 1, 0)


async def test_closing_ends_it(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", blocks=20)
        number = await shop.control.scrub(None, 1)
    async with open_shop(tmp_path) as shop:
        (record,) = await shop.control.passes(9)
        assert record.id == number
        assert record.finished is not None
        assert (record.reached, record.state) == (None, "cancelled")


async def states(shop: Shop, *expected: str) -> None:
    """The states of all passes, oldest first, once they are these."""
    while [each.state for each in reversed(await shop.control.passes(99))] != list(expected):
        await asyncio.sleep(0)


async def test_one_checks_the_others_wait_and_any_is_cancelled(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b")
        with held_up(shop.core.disk) as go_on:
            first, second, third = [await shop.control.scrub(None, None) for _ in range(3)]
            assert first is not None
            assert second is not None
            assert third is not None
            await states(shop, "running", "waiting", "waiting")
            assert await shop.control.cancel_scrub(second)
            await states(shop, "running", "cancelled", "waiting")
            assert not await shop.control.cancel_scrub(second)
            assert await shop.control.cancel_scrub(first)
            await states(shop, "cancelled", "cancelled", "running")
            go_on.set()
            await states(shop, "cancelled", "cancelled", "done")
            assert not await shop.control.cancel_scrub(third)
            assert not await shop.control.cancel_scrub(99)
            found = await shop.control.one_pass(third)
            assert found is not None
            assert found.scrubbed == (2, 2 * (BLOCK - 1), 0)


async def test_a_scrub_is_cancelled_before_it_begins(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        record, task = await shop.scrub.order(None, None)
        assert await shop.scrub.cancel(record, task)
        await states(shop, "cancelled")


async def test_no_more_wait_than_may(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        with held_up(shop.core.disk) as go_on:
            ordered = await asyncio.gather(*(shop.control.scrub(None, None) for _ in range(MOST_ORDERED + 3)))
            assert [each is None for each in ordered] == [False] * MOST_ORDERED + [True] * 3
            go_on.set()
            await states(shop, *["done"] * MOST_ORDERED)
            assert await shop.control.scrub(None, None) is not None


async def test_what_is_under_way_at_the_end_has_ended_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At one byte a second they do not end by themselves."""
    async with open_shop(tmp_path, scrub_rate=1) as shop:
        await shop.put("a")
        for _ in range(3):
            await shop.control.scrub(None, None)
        await states(shop, "running", "waiting", "waiting")
    async with open_shop(tmp_path, scrub_interval=1000.0, scrub_rate=1) as shop:
        await states(shop, *["cancelled"] * 3)
        shop.later(2000.0)
        regular = asyncio.create_task(shop.scrub.once())
        await states(shop, *["cancelled"] * 3, "running")
        regular.cancel()
        await states(shop, *["cancelled"] * 4)
        await shop.sql("UPDATE passes SET finished = NULL, record = json_set(record, '$.finished', NULL)")
        await shop.sql("UPDATE passes SET record = json_set(record, '$.cancelled', json('false'))")
    async with open_shop(tmp_path, still=False) as shop:
        await states(shop, *["cancelled"] * 4)
    assert "evicted" not in logged(caplog)


async def test_a_bug_ends_the_pass_and_not_the_scrub(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Told):
        def scrubbed(self, size: int) -> None:
            if not self.read:
                self.read = 1
                raise ZeroDivisionError

    async with open_shop(tmp_path, told=Fails()) as shop:
        await shop.put("a")
        await shop.control.scrub(None, None)
        await states(shop, "failed")
        await shop.control.scrub(None, None)
        await states(shop, "failed", "done")
    assert "scrub failed" in logged(caplog)


async def test_a_pass_that_cannot_be_written_down_does_not_begin(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.sql(f"CREATE TRIGGER fails BEFORE INSERT ON passes {FAILS}")
        with pytest.raises(Unavailable):
            await shop.control.scrub(None, None)


# After a power loss


async def test_unsure_files_are_hashed_before_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop(tmp_path, boot="one") as shop:
        await shop.put("a")
        await shop.sql(f"INSERT OR REPLACE INTO meta VALUES ('clean', {shop.victim('a').id})")
        await shop.put("b", "c")
        await shop.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        killed = (tmp_path / "index.db").read_bytes()
    (tmp_path / "index.db").write_bytes(killed)
    async with open_shop(tmp_path, boot="two") as shop:
        assert await shop.sql("SELECT module FROM files WHERE unsure") == [("b",), ("c",)]
        for name in "abc":
            spoil(shop.file(name))
        await shop.touch("a")
        assert await shop.store.get(artifact(shop.path("b"))) is None
        assert shop.zips() == "ac"
    assert "power loss" in logged(caplog)


async def test_an_ordered_scrub_that_meets_an_error_of_the_database_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unretrieved: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))

    def failing(*_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        monkeypatch.setattr(scanner.Scanner, "to_check", failing)
        number = await shop.control.scrub(None, None)
        while (await shop.control.passes(1))[0].finished is None:
            await asyncio.sleep(0)
        (record,) = await shop.control.passes(1)
        assert (record.id, record.reached) == (number, False)
    gc.collect()
    assert unretrieved == []
    assert "scrub failed" in logged(caplog)
