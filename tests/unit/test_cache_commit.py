"""cache/publish.py and cache/commit.py: order of the steps, and what one failure does to the others."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import commit
from goproxy_vm.cache.admission import Admission, Limits
from goproxy_vm.cache.clock import LogicalClock
from goproxy_vm.cache.commit import CommitQueue
from goproxy_vm.cache.database import Database
from goproxy_vm.cache.files import StoredFile
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.holders import Holders
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.publish import Item, publish
from goproxy_vm.cache.reading import open_stored
from goproxy_vm.cache.rows import Sum
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.upkeep.leftovers import Leftovers
from goproxy_vm.cache.usage import Usage
from goproxy_vm.protocol.artifact import Kind
from tests.fakes.lines import logged
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from goproxy_vm.cache.rows import Victim

SHA = "ab" * 32


class Rig:
    """A commit queue with an index, in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout.at(root)
        self.layout.prepare()
        self.usage = Usage()
        self.admission = Admission(Limits(1 << 30, 512, 1 << 30, 1 << 30), self.usage, lambda: None)
        self.health = Health()
        self.left = Leftovers(self.admission, self.health)
        self.steps: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], None] = lambda step, path: None
        self.stored: list[str] = []
        self.replaced: list[Victim] = []

    def checkpoint(self, step: str, path: str) -> None:
        self.steps.append((step, path))
        self.fault(step, path)

    async def item(self, module: str, data: bytes = b"data", *, file: bool = False) -> Item:
        path = f"{module}/@v/v1.0.0.zip"
        target = self.layout.file(path)
        temporary = self.layout.temporary()
        content = StoredFile(data, len(data), SHA)
        if file:
            temporary.write_bytes(data)
            content = open_stored(temporary, temporary.parent, len(data), SHA)
        reservation = await self.admission.reserve(len(data))
        await reservation.hold(len(data))
        return Item(artifact(path), target, "h1:x", content, temporary, reservation)

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[CommitQueue]:
        self.database = Threads("database", 1)
        index_db = await self.database.run(Database.open, self.layout.index)
        self.index = Index(index_db)
        queue = CommitQueue(
            self.index,
            self.database,
            self.health,
            lambda item: self.stored.append(item.path),
            self.replaced.append,
            Holders(Usage(), lambda: None, lambda: False),
            self.left,
            LogicalClock(None),
            self.checkpoint,
        )
        try:
            yield queue
        finally:
            await queue.close()
            self.sums = await self.database.run(self.index.sums)
            await self.database.run(index_db.close)
            self.database.close()

    def files(self) -> list[str]:
        return sorted(p.relative_to(self.layout.modules).parts[0] for p in self.layout.modules.rglob("*.zip"))

    def leftovers(self) -> list[Path]:
        return list(self.layout.tmp.iterdir())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "cache")


def fail_at(step: str, module: str, code: int = errno.ENOSPC) -> Callable[[str, str], None]:
    def fault(reached: str, path: str) -> None:
        if reached == step and f"{module}/@v" in path:
            raise OSError(code, os.strerror(code))

    return fault


@pytest.mark.parametrize("file", [False, True])
async def test_steps_in_order(rig: Rig, *, file: bool) -> None:
    async with rig.queue() as queue:
        item = await rig.item("a.b", file=file)
        queue.add(item)
        assert queue.pending == {item.path: item}
    directories = [path for step, path in rig.steps if step == "sync-directory"]
    assert set(directories) == {
        str(rig.layout.modules),
        str(rig.layout.modules / "a.b"),
        str(item.target.parent),
    }
    order = [step for step, _ in rig.steps if step != "sync-directory"]
    assert order == [*(() if file else ("write",)), "sync", "rename", "index", "done"]
    steps = [step for step, _ in rig.steps]
    assert steps.index("rename") < steps.index("sync-directory")
    assert steps.index("index") > max(i for i, step in enumerate(steps) if step == "sync-directory")
    assert item.target.read_bytes() == b"data"
    assert rig.sums == [Sum(Kind.ZIP, pinned=False, entries=1, bytes=item.target.stat().st_blocks * 512)]
    assert rig.stored == [item.path]
    assert rig.leftovers() == []
    assert rig.admission.reserved == 0
    assert queue.pending == {}


async def test_files_are_grouped(rig: Rig) -> None:
    async with rig.queue() as queue:
        for i in range(commit.BATCH + 10):
            queue.add(await rig.item(f"a.b/m{i}"))
    assert [step for step, _ in rig.steps].count("index") <= 3
    assert sum(each.entries for each in rig.sums) == commit.BATCH + 10


async def test_the_newest_of_two_wins(rig: Rig) -> None:
    async with rig.queue() as queue:
        first, second = await rig.item("a.b", b"first"), await rig.item("a.b", b"second")
        queue.add(first)
        queue.add(second)
        assert queue.pending == {second.path: second}
    assert second.target.read_bytes() == b"second"
    assert sum(each.entries for each in rig.sums) == 1
    assert rig.admission.reserved == 0


@pytest.mark.parametrize("step", ["write", "sync", "rename", "sync-directory"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_one_failure_leaves_the_rest(
    rig: Rig, step: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    rig.fault = fail_at(step, "bad.x", code)
    async with rig.queue() as queue:
        for module in ("a.b", "bad.x", "c.d"):
            item = await rig.item(module)
            queue.add(item)
    assert rig.files() == ["a.b", "c.d"]
    assert rig.leftovers() == []
    assert rig.admission.reserved == 0
    assert rig.stored == ["a.b/@v/v1.0.0.zip", "c.d/@v/v1.0.0.zip"]
    assert not rig.health.writable
    assert f"not stored {{'path': 'bad.x/@v/v1.0.0.zip', 'reason': '{os.strerror(code)}'}}" in logged(caplog)


def fail_index(step: str, path: str) -> None:
    if step == "index":
        raise sqlite3.OperationalError("database or disk is full")


def bug(step: str, path: str) -> None:
    if step == "sync":
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("fault", "message"), [(fail_index, "database or disk is full"), (bug, "ZeroDivisionError")]
)
async def test_a_lost_batch_does_not_stop_the_queue(
    rig: Rig, fault: Callable[[str, str], None], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig.fault = fault
    async with rig.queue() as queue:
        queue.add(await rig.item("a.b"))
        while queue.pending:
            await asyncio.sleep(0)
        assert rig.files() == []
        assert rig.leftovers() == []
        rig.fault = lambda step, path: None
        queue.add(await rig.item("c.d"))
    assert message in logged(caplog)
    assert rig.files() == ["c.d"]
    assert sum(each.entries for each in rig.sums) == 1
    assert rig.health.writable
    assert rig.admission.reserved == 0


async def test_misses_wait_where_too_much_is_queued(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "PENDING_FILES", 2)
    async with rig.queue() as queue:
        await queue.room()
        queue.add(await rig.item("a.b"))
        queue.add(await rig.item("c.d"))
        assert len(queue.pending) == 2
        await queue.room()
        assert len(queue.pending) == 0


async def test_a_name_too_long_is_no_fault_of_the_disk(rig: Rig) -> None:
    async with rig.queue() as queue:
        queue.add(await rig.item("a.b/" + "x" * 300))
    assert rig.health.writable
    assert sum(each.entries for each in rig.sums) == 0


async def test_what_cannot_be_removed_is_left(rig: Rig) -> None:
    item = await rig.item("a.b")
    item.temporary.mkdir()
    assert list(publish([item], rig.checkpoint)) == [item]
