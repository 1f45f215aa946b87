"""cache/reader.py, memory.py: answers that come beside a writer are believed no longer than they hold."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from goproxy_vm.cache import memory as memory_module
from goproxy_vm.cache import recency
from goproxy_vm.cache.clock import LogicalClock
from goproxy_vm.cache.hashes import Hashes
from goproxy_vm.cache.reader import Doubts, Lookups, Reader, connect
from goproxy_vm.cache.rows import Standing
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.upkeep.warming import warm
from goproxy_vm.errors import Unavailable
from tests.fakes.lines import logged
from tests.fakes.stores import Shop, artifact, open_shop, purge_versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from goproxy_vm.cache.rows import Entry


class Held:
    """The answer of the next look-up is ready, and comes when it is let."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked = asyncio.Event()
        self._goes_on = threading.Event()
        loop = asyncio.get_running_loop()
        look = Reader.look
        self.looks = 0

        def slow(reader: Reader, *args: Any) -> Any:
            found = look(reader, *args)
            self.looks += 1
            if self.looks == 1:
                loop.call_soon_threadsafe(self.asked.set)
                assert self._goes_on.wait(30)
            return found

        patch.setattr(Reader, "look", slow)

    def let(self) -> None:
        self._goes_on.set()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as made:
        yield made


async def test_what_is_purged_while_it_is_looked_up_is_not_remembered(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.put("x.org/a")
    shop.core.memory.forget_all()
    held = Held(monkeypatch)
    looking = asyncio.create_task(shop.store.get(artifact(shop.path("x.org/a"))))
    await held.asked.wait()
    await purge_versions(shop.store, "x.org/a", None, forget_hash=True, dry_run=False)
    held.let()
    assert await looking is None
    assert held.looks == 2, "what came too late was asked for again"
    assert shop.core.memory.entry(shop.path("x.org/a")) is None
    assert (await shop.store.known("x.org/a", "v1.0.0")).zip is None


async def test_what_is_replaced_while_it_is_looked_up_has_the_new_entry(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one has the same length: only its hash would be another."""
    await shop.put("x.org/a")
    shop.core.memory.forget_all()
    held = Held(monkeypatch)
    looking = asyncio.create_task(shop.store.get(artifact(shop.path("x.org/a"))))
    await held.asked.wait()
    await shop.put("x.org/a")
    held.let()
    found = await looking
    assert found is not None
    with found:
        entry = shop.core.memory.entry(shop.path("x.org/a"))
        assert entry is not None
        row = await shop.core.ask(shop.core.index.entry, shop.path("x.org/a"))
        assert row is not None
        assert found.sha256 == entry.sha256 == row.sha256


async def test_what_comes_while_it_is_looked_up_is_not_remembered_as_missing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    looking = asyncio.create_task(shop.store.get(artifact(shop.path("x.org/a"))))
    await held.asked.wait()
    await shop.put("x.org/a")
    held.let()
    found = await looking
    assert found is not None
    found.close()
    assert not shop.core.memory.missing(shop.path("x.org/a"))
    assert (await shop.store.known("x.org/a", "v1.0.0")).zip == "h1:x"


async def test_a_stray_that_turns_up_is_not_missing_any_more(shop: Shop) -> None:
    path = shop.path("x.org/a")
    assert await shop.store.get(artifact(path)) is None
    assert shop.core.memory.missing(path)
    file = shop.file("x.org/a")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert await shop.store.strays.find(path) == file, "before the recovery has been here"
    assert not shop.core.memory.missing(path)


async def test_hashes_are_asked_for_again_when_they_change(shop: Shop) -> None:
    assert await shop.store.get(artifact(shop.path("x.org/a"))) is None
    assert (await shop.store.known("x.org/a", "v1.0.0")).zip is None
    hashes = Hashes(shop.core)
    assert await hashes.remember(artifact("x.org/a/@v/v1.0.0.zip"), "h1:first") == "h1:first"
    assert (await shop.store.known("x.org/a", "v1.0.0")).zip == "h1:first"
    assert await hashes.remember(artifact("x.org/a/@v/v1.0.0.zip"), "h1:second") == "h1:first"


@pytest.mark.parametrize("column", ["h1", "database"])
async def test_a_bad_hash_on_record_concerns_those_who_need_it(
    shop: Shop, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    """An .info needs none."""
    await shop.put("x.org/a")
    await shop.sql(f"UPDATE known SET {column} = CAST(x'ff' AS TEXT)")
    assert await shop.store.get(artifact(shop.path("x.org/a", "info"))) is None
    assert "index unavailable" not in logged(caplog)
    assert shop.store.writable
    await shop.put("x.org/a", kind="info")
    await shop.touch("x.org/a", kind="info")
    assert "index damaged" in logged(caplog), "the next start begins anew"
    with pytest.raises(Unavailable):
        await shop.store.put(artifact(shop.path("x.org/a", "mod")), b"module x\n", h1="h1:m")


async def test_readers_write_nothing(shop: Shop) -> None:
    with (
        closing(connect(shop.core.layout.index)) as connection,  # as all of them have
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM files")
    with pytest.raises(Exception, match="readonly"):
        await shop.core.scan(shop.core.scanner.connection.execute, "DELETE FROM files")


async def test_what_was_remembered_after_a_start_is_not_what_changed_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        await shop.put(f"x.org/{name}")
    memory = shop.core.memory
    memory.forget_all()
    gone, replaced = shop.path("x.org/a"), shop.path("x.org/b")
    entries = Reader.entries

    def meanwhile(reader: Reader, paths: Sequence[str]) -> list[Entry]:
        found = entries(reader, paths)
        asyncio.run_coroutine_threadsafe(changed(), loop).result(30)
        return found

    async def changed() -> None:
        await purge_versions(shop.store, "x.org/a", None, forget_hash=True, dry_run=False)
        await shop.put("x.org/b")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Reader, "entries", meanwhile)
    before = await shop.core.lookups.run(entries, [replaced])
    await warm(shop.core)
    assert memory.entry(gone) is None
    entry = memory.entry(replaced)
    assert entry is not None
    assert [entry] != before, "the new one"
    assert memory.entry(shop.path("x.org/c")) is not None


async def test_nothing_is_remembered_of_a_start_that_all_was_forgotten_in(shop: Shop) -> None:
    await shop.put("x.org/a")
    memory = shop.core.memory
    with memory.changes() as changes:
        found = await shop.core.lookups.run(Reader.entries, [shop.path("x.org/a"), "none"])
        memory.forget_all()
    assert len(found) == 1
    memory.warm(found, changes)
    assert memory.entry(shop.path("x.org/a")) is None


async def test_warming_ends_where_the_index_cannot_be_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(type(shop.core.scanner), "newest", broken)
    await warm(shop.core)
    assert "index unavailable" in logged(caplog)


async def test_each_question_has_its_own_answer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of those that are asked together has none, and another is not waited for any more."""
    names = [f"x.org/m{number}" for number in range(70)]
    await shop.put(names[3])
    look = Reader.look

    def failing(reader: Reader, path: str, *rest: str) -> Standing:
        if path == shop.path(names[5]):
            raise sqlite3.OperationalError("this one")
        return look(reader, path, *rest)

    monkeypatch.setattr(Reader, "look", failing)
    asking = [
        asyncio.create_task(shop.core.lookups.look((shop.path(name), name, "v1.0.0"))) for name in names
    ]
    await asyncio.sleep(0)
    asking[7].cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[5], sqlite3.OperationalError)
    assert isinstance(found[7], asyncio.CancelledError)
    stored = [number for number, each in enumerate(found) if isinstance(each, Standing) and each.entry]
    assert stored == [3]
    assert sum(isinstance(each, Standing) for each in found) == 68


async def test_a_job_that_fails_fails_all_its_questions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Reader, "look_all", failing)
    asking = [shop.core.lookups.look((shop.path(name), name, "v1.0.0")) for name in ("a", "b")]
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in found] == [ValueError, ValueError]


def test_hits_are_bounded_where_nothing_writes_them_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "TOUCHES", 3)
    monkeypatch.setattr(memory_module, "MOST_TOUCHES", 5)
    memory = memory_module.Memory(LogicalClock(None))
    for number in range(9):
        memory.touch(f"m{number}")
    assert memory.crowded.is_set()
    memory.touch("m0")
    hits = memory.drain()
    assert {path: touch.hits for path, touch in hits.items()} == {f"m{n}": 1 + (n == 0) for n in range(5)}
    assert not memory.crowded.is_set()


async def test_whoever_asks_for_a_flush_has_the_hits_of_one_under_way_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The janitor chooses by them right after."""
    monkeypatch.setattr(recency, "TOGETHER", 1)
    names = [f"x.org/m{number}" for number in range(3)]
    for name in names:
        await shop.put(name)
    await shop.core.flush()
    for name in names:
        shop.store.touch(shop.path(name))
    first = asyncio.create_task(shop.core.flush())
    await asyncio.sleep(0)
    first.cancel()
    await shop.core.flush()
    hits = await shop.sql("SELECT hits FROM files WHERE kind = 'zip'")
    assert [count for (count,) in hits] == [1, 1, 1]
    assert first.cancelled() or first.cancelling()


async def test_a_row_that_cannot_be_is_not_remembered(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    await shop.put("x.org/a")
    await shop.put("x.org/b")
    bad = "x.org/a/@v/v1.0.0.xyz"
    await shop.sql(f"UPDATE files SET path = '{bad}' WHERE module = 'x.org/a'")
    shop.core.memory.forget_all()
    await warm(shop.core)
    assert shop.core.memory.entry(bad) is None
    assert shop.core.memory.entry(shop.path("x.org/b")) is not None


async def test_a_bug_in_warming_is_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(type(shop.core.scanner), "newest", broken)
    await warm(shop.core)
    assert "background task failed" in logged(caplog)


async def test_what_is_asked_at_the_end_is_answered(shop: Shop) -> None:
    threads = Threads("lookups of its own", 1)
    try:
        lookups = await Lookups.open(threads, shop.core.layout.index, 1, Doubts(), print)
        asking = asyncio.create_task(lookups.look((shop.path("x"), "x", "v1.0.0")))
        await asyncio.sleep(0)
        await lookups.close()
        assert (await asking).entry is None
    finally:
        threads.close()
