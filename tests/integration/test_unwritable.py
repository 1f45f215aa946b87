"""A cache directory that takes nothing for a while: stored files are served, and it shows until it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from goproxy_vm.cache import tree
from goproxy_vm.cache.health import FULL
from goproxy_vm.cache.rows import Entry, Proven
from goproxy_vm.cache.upkeep import beginning
from goproxy_vm.config.sumdb import parse_sumdb
from goproxy_vm.errors import Unavailable
from tests.fakes.disk import under
from tests.fakes.stores import artifact
from tests.integration.stores import V, adopt, content, module, opened, path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def test_answers_that_cannot_be_written_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk's trouble is no reason to begin them anew."""
    async with opened(root) as s:
        await s.answers.set("k", b"kept", keep=None)
        await s.answers.set("old", b"x", keep=-1.0)

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("goproxy_vm.cache.plain.PlainCache", fail)
        async with opened(root) as s:
            assert s.trouble == "disk I/O error"
            answer = await s.answers.get("k")
            assert answer is not None
            assert answer.data == b"kept"
            assert await s.answers.get("old") is None
            assert await s.answers.get("none") is None
            assert (await s.answers.size())[0] == 2
            await s.answers.set("k", b"new", keep=None)
            assert await s.answers.drop("t") == 0
            await s.parts.trial.once()
            assert not s.writable
            patch.undo()
            await s.parts.trial.once()
            assert s.writable
            await s.answers.set("k", b"new", keep=None)
            answer = await s.answers.get("k")
            assert answer is not None
            assert answer.data == b"new"


async def test_no_answers_and_no_room_for_new_ones(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(root):
        pass
    shutil.rmtree(root / "answers")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("goproxy_vm.cache.plain.PlainCache", fail)
        async with opened(root) as s:
            assert s.trouble == FULL
            assert await s.answers.get("k") is None
            await s.answers.set("k", b"x", keep=None)
            assert (await s.answers.size())[0] == 0
            patch.undo()
            await s.parts.trial.once()
            await s.answers.set("k", b"x", keep=None)
            assert (await s.answers.size())[0] == 1


async def test_an_index_that_cannot_be_written_at_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a start has to write down holds all the same: after a power loss files are hashed first, and what
    another setting wants proven is not served."""
    async with opened(root, sumdb=None) as s:
        for i in (1, 2):
            (await s.put(artifact(path(i, "mod")), b"x", h1="h1:x")).close()
            await s.core.queue.flushed()
        await s.core.ask(s.core.index.prove, module(1), V, Proven({"mod": "h1:x"}, "db"), 1.0)
    with closing(sqlite3.connect(root / "index.db")) as database:
        database.execute("UPDATE meta SET value = 1 WHERE key = 'running'")
        database.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
        database.execute("INSERT INTO pins VALUES ('old.example/*@*', 'config')")
        database.commit()
    (root / "modules" / path(1, "mod")).write_bytes(b"y")
    settle = beginning.settle

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    key = parse_sumdb("sum.golang.org")
    assert key is not None
    key = replace(key, name="db")
    monkeypatch.setattr(beginning, "settle", full)
    async with opened(root, boot="after", sumdb=key, pins=("a.example/*",)) as s:
        assert s.trouble == FULL
        assert await s.get(artifact(path(1, "mod"))) is None, "it was hashed"
        assert await s.get(artifact(path(2, "mod"))) is None, "it is not proven"
        assert s.control.pinned("a.example/m", V)
        assert s.control.pinned("old.example/m", V)
        forgotten: list[str | None] = []
        s.watch(forgotten.append)
        s.core.memory.keep(Entry(path(2, "mod"), 1, "ab" * 32, "h1:x"))
        await s.parts.trial.once()
        assert not s.writable
        monkeypatch.setattr(beginning, "settle", settle)
        await s.parts.trial.once()
        assert s.writable
        assert s.core.memory.entry(path(2, "mod")) is None, "believed before"
        assert forgotten == [None], "nor is what was prepared of it"
        assert s.control.pinned("a.example/m", V)
        assert not s.control.pinned("old.example/m", V)
        assert await s.strays.find(path(2, "mod")) is not None
        assert s.usage.entries["mod"] == 1
        assert s.core.index.doubts.withheld == frozenset()


@pytest.mark.parametrize("name", ["tmp", "modules", "quarantine", "answers"])
async def test_a_directory_that_was_removed_is_made_again(root: Path, name: str) -> None:
    async with opened(root) as s:
        (await adopt(s, 1, b"x")).close()
        await s.core.queue.flushed()
        shutil.rmtree(root / name)
        (await adopt(s, 2, b"y" * 10)).close()
        await s.put(artifact(path(3, "info")), b"{}", h1=None)
        await s.core.queue.flushed()
        assert await content(s, 2) == b"y" * 10
        assert await content(s, 3, "info") == b"{}"
        (root / "modules" / path(2)).write_bytes(b"z")
        assert await content(s, 2) is None
        assert len(list((root / "quarantine").iterdir())) >= 1
        await s.answers.set("k", b"x", keep=None)
        assert s.writable
        await s.parts.trial.once()
        await s.answers.set("k", b"x", keep=None)
    async with opened(root) as s:
        assert await s.answers.get("k") is not None


async def test_an_unwritable_tmp_shows_though_nobody_asks(root: Path) -> None:
    async with opened(root, janitor_interval=0.001) as s:
        (root / "tmp").rmdir()
        (root / "tmp").touch()
        await asyncio.wait_for(s.core.health.degraded.wait(), 30)
        assert "Not a directory" in s.trouble
        with pytest.raises(Unavailable):
            await adopt(s, 1, b"x")
        await s.answers.set("k", b"x", keep=None)
        assert not s.writable, "an answer that was stored says nothing of tmp/"
        (root / "tmp").unlink()
        await s.parts.trial.once()
        assert s.writable


async def test_what_concerns_one_file_alone_is_no_trouble(root: Path) -> None:
    async with opened(root) as s:
        name = "m" * 300
        (await s.put(artifact(f"{name}/@v/{V}.info"), b"{}", h1=None)).close()
        await s.core.queue.flushed()
        assert s.writable
        (root / "modules" / "example.com").touch()
        await s.put(artifact(path(1, "info")), b"{}", h1=None)
        await s.core.queue.flushed()
        assert s.writable


async def test_what_cannot_be_removed_counts_until_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I/O errors that pass: downloads given up, and files that fail on their way into modules/."""
    faults: list[str] = []

    def checkpoint(step: str, name: str) -> None:
        if faults and step == "sync-directory":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with opened(root, checkpoint=checkpoint) as s:
        with monkeypatch.context() as patch:
            patch.setattr(tree, "remove", failing)
            faults.append("on")
            for i in range(5):
                download = s.download()
                await download.begin(100_000)
                await download.write(b"x" * 100_000)
                await download.finish()
                await download.discard()
                (await adopt(s, i, b"y" * 50_000)).close()
                (await s.put(artifact(path(i, "mod")), b"z", h1="h1:z")).close()
                await s.core.queue.flushed()
            faults.clear()
            (await adopt(s, 4, b"new")).close()
            await s.core.queue.flushed()
        assert under(root) > 600_000
        assert s.usage.used + s.admission.reserved >= under(root), "nothing of it is free"
        await s.parts.trial.once()
        assert s.admission.reserved == 0
        assert list((root / "tmp").iterdir()) == []
        assert s.usage.used == under(root)
        assert await content(s, 4) == b"new", "what came to lie in the place of another"
        assert s.writable
