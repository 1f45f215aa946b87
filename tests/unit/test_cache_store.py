"""cache/store.py and opening.py: no room, no index, starts that fail."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import background
from goproxy_vm.cache.recency import Recency
from goproxy_vm.cache.store import AT_ONCE, Store
from goproxy_vm.cache.upkeep.janitor import Janitor
from goproxy_vm.cache.upkeep.scrub import Scrubber
from goproxy_vm.cache.upkeep.trial import Trial
from goproxy_vm.errors import StartError, Unavailable
from tests.fakes.lines import logged
from tests.fakes.stores import BLOCK, artifact, open_shop

if TYPE_CHECKING:
    from pathlib import Path


def running(root: Path) -> object:
    with closing(sqlite3.connect(root / "index.db")) as database:
        return database.execute("SELECT value FROM meta WHERE key = 'running'").fetchone()[0]


async def test_without_room_the_client_has_its_answer_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_shop(tmp_path, max_size=2, still=False) as shop:
        data = b"x" * 3 * BLOCK
        stored = await shop.store.put(artifact(shop.path("a", "mod")), data, h1="h1:x")
        assert stored.data == data
        shop.core.usage.sizes["zip"] += 2 * BLOCK  # files that nobody can remove
        stored = await shop.store.put(artifact(shop.path("b")), b"x", h1="h1:x")
        assert stored.data == b"x"
        assert shop.files() == []
        assert (shop.core.admission.reserved, shop.core.admission.admitted) == (0, 0)
        shop.core.usage.sizes["zip"] -= 2 * BLOCK
    assert logged(caplog).count("file not stored") == 2


async def test_what_is_large_is_read_from_its_file(tmp_path: Path) -> None:
    """64 of 15 MiB each that nobody read took 1,150 MiB for as long as that lasted."""
    data = b"x" * (AT_ONCE + 1)
    async with open_shop(tmp_path) as shop:
        path = shop.path("a", "mod")
        stored = await shop.store.put(artifact(path), data, h1="h1:x")
        awaited = await shop.store.get(artifact(path))
        assert awaited is not None
        for each in (stored, awaited):
            assert each.data is None
            assert each.pread(0, len(data) + 1) == data
            each.close()
        small = await shop.store.put(artifact(shop.path("b", "mod")), data[1:], h1="h1:x")
        assert small.data == data[1:]


async def test_what_is_large_is_not_kept_in_memory_for_want_of_room(tmp_path: Path) -> None:
    data = b"x" * (AT_ONCE + 1)
    async with open_shop(tmp_path, max_size=2) as shop:
        with pytest.raises(Unavailable):
            await shop.store.put(artifact(shop.path("a", "mod")), data, h1="h1:x")
        assert shop.files() == []
        assert (shop.core.admission.reserved, shop.core.admission.admitted) == (0, 0)
        assert list(shop.core.layout.temporary().parent.iterdir()) == []


async def test_cancelled_while_it_waits_for_room(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=2) as shop:
        shop.core.usage.sizes["zip"] += 2 * BLOCK
        putting = asyncio.create_task(shop.store.put(artifact(shop.path("b")), b"x", h1="h1:x"))
        while not shop.core.admission.wanted:
            await asyncio.sleep(0)
        putting.cancel()
        await asyncio.wait([putting])
        assert (shop.core.admission.wanted, shop.core.admission.admitted) == (0, 0)
        shop.core.usage.sizes["zip"] -= 2 * BLOCK


async def test_a_stray_that_cannot_be_put_on_record(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        file = shop.file("a")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        await shop.sql("INSERT INTO strays VALUES ('a/@v/v1.0.0.zip', 'zip', 8)")
        assert await shop.store.strays.find(shop.path("a")) == file
        await shop.sql("CREATE TRIGGER full BEFORE INSERT ON files BEGIN SELECT raise(ABORT, 'full'); END")
        with pytest.raises(Unavailable, match="cannot write its index"):
            await shop.store.strays.claim(artifact(shop.path("a")), h1="h1:x")
        assert not shop.store.writable
        await shop.sql("DROP TRIGGER full")
        claimed = await shop.store.strays.claim(artifact(shop.path("a")), h1="h1:x")
        assert claimed is not None
        claimed.close()


async def test_an_index_that_fails_while_a_file_is_looked_at(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        await shop.sql("UPDATE files SET unsure = 1")
        shop.core.memory.forget(shop.path("a"))
        await shop.sql("CREATE TRIGGER full BEFORE UPDATE ON files BEGIN SELECT raise(ABORT, 'full'); END")
        await shop.touch("a")  # it was read, and is sound
        assert not shop.store.writable
        assert shop.store.trouble == "full"
        await shop.sql("DROP TRIGGER full")
        await shop.touch("a")


async def test_a_start_that_fails_keeps_what_the_run_before_left_to_do(
    tmp_path: Path,
) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        await shop.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        killed = (tmp_path / "index.db").read_bytes()
    (tmp_path / "index.db").write_bytes(killed)

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StartError, match=r"index\.db: disk I/O error"):
        await Store.open(tmp_path, lock_wait=0, boot="other", begin=fail)
    assert running(tmp_path) == 1
    async with open_shop(tmp_path, boot="other") as shop:
        assert await shop.sql("SELECT unsure FROM files") == [(1,)]
    assert running(tmp_path) == 0


async def test_snapshots_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "snapshots.db").mkdir()
    with pytest.raises(StartError, match=r"snapshots\.db: unable to open"):
        await Store.open(tmp_path, lock_wait=0)


@pytest.mark.parametrize("work", [Janitor, Scrubber, Recency, Trial])
async def test_a_bug_does_not_end_what_runs_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, work: type
) -> None:
    again = asyncio.Event()
    calls = 0

    async def run(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        again.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(background, "AGAIN", 0.0)
    monkeypatch.setattr(work, "run", run)
    async with open_shop(tmp_path, still=False):
        async with asyncio.timeout(5.0):
            await again.wait()
    assert "background task failed" in logged(caplog)
