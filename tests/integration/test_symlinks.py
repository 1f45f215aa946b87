"""Symbolic links in the cache directory: nothing is read, written, emptied or removed where they lead to; and
trees that are deeper than any path can be."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import tree
from goproxy_vm.cache.upkeep.scrub import Hasher
from goproxy_vm.errors import StartError, Unavailable
from tests.fakes.disk import allocated
from tests.fakes.lines import logged
from tests.fakes.stores import artifact
from tests.integration.stores import V, adopt, content, module, opened, path

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.store import Store

DEEP = 30
"""Directories of 200 characters: more than a path may have."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory of somebody else's."""
    directory = tmp_path / "elsewhere"
    (directory / "dir").mkdir(parents=True)
    (directory / "precious").write_bytes(b"precious")
    (directory / "dir" / "precious").write_bytes(b"precious")
    return directory


def untouched(elsewhere: Path) -> bool:
    return sorted(str(each.relative_to(elsewhere)) for each in elsewhere.rglob("*")) == [
        "dir",
        "dir/precious",
        "precious",
    ]


async def recovered(store: Store) -> None:
    async def cannot_tell(_: str) -> None:
        return None

    store.recover(cannot_tell)
    while not store.recovery.done:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("name", ["tmp", "modules", "answers", "quarantine", "sumdb", "sumdb/_records"])
async def test_a_directory_that_is_a_link_ends_the_start(root: Path, elsewhere: Path, name: str) -> None:
    (root / "modules").mkdir(parents=True)
    (root / "sumdb").mkdir()
    if (root / name).exists():
        (root / name).rmdir()
    (root / name).symlink_to(elsewhere)
    with pytest.raises(StartError, match=f"{root / name} is a symbolic link"):
        async with opened(root) as store:
            await recovered(store)
    assert untouched(elsewhere)


async def test_the_cache_directory_itself_may_be_one(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    root.symlink_to(tmp_path / "there")
    async with opened(root) as store:
        (root / "modules").rmdir()  # made again
        (await adopt(store, 1, b"x")).close()
        await store.core.queue.flushed()
        assert await content(store, 1) == b"x"
        assert store.writable


@pytest.mark.parametrize("level", ["example.com", f"{module(1)}", f"{module(1)}/@v"])
async def test_nothing_is_published_through_a_link(root: Path, elsewhere: Path, level: str) -> None:
    async with opened(root) as store:
        link = root / "modules" / level
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(elsewhere)
        (await adopt(store, 1, b"x")).close()
        (await store.put(artifact(path(1, "mod")), b"x", h1="h1:x")).close()
        await store.core.queue.flushed()
        assert store.usage.entries["zip"] == store.usage.entries["mod"] == 0
        assert store.admission.reserved == 0
        assert store.writable, "it is that module's alone"
        assert list((root / "tmp").iterdir()) == []
    assert untouched(elsewhere)


async def test_nothing_is_removed_or_taken_through_a_link(root: Path, elsewhere: Path) -> None:
    async with opened(root) as store:
        for number in (1, 2):
            (await adopt(store, number, b"x")).close()
        await store.core.queue.flushed()
        for number in (1, 2):
            (root / "modules" / path(number)).rename(elsewhere / f"{V}.zip")
            (root / "modules" / path(number)).parent.rmdir()
            (root / "modules" / module(number) / "@v").symlink_to(elsewhere)
        await store.control.evict(0, dry_run=False)
        (victim,) = await store.core.ask(store.core.index.of_path, path(2)) or [None]
        assert victim is None
        assert (elsewhere / f"{V}.zip").read_bytes() == b"x"


async def test_nothing_corrupt_is_moved_through_a_link(root: Path, elsewhere: Path) -> None:
    async with opened(root) as store:
        (await adopt(store, 1, b"x")).close()
        await store.core.queue.flushed()
        directory = (root / "modules" / path(1)).parent
        (directory / f"{V}.zip").unlink()
        directory.rmdir()
        directory.symlink_to(elsewhere)
        (elsewhere / f"{V}.zip").write_bytes(b"longer")
        assert await content(store, 1) is None
        assert store.usage.entries["zip"] == 0
        assert (elsewhere / f"{V}.zip").exists()
        assert list((root / "quarantine").iterdir()) == []


@pytest.mark.parametrize("level", ["example.com", f"{module(1)}", f"{module(1)}/@v"])
@pytest.mark.parametrize("at_once", [True, False], ids=["openat2", "step by step"])
async def test_nothing_is_read_through_a_link(
    root: Path,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    *,
    at_once: bool,
) -> None:
    """Not even what is right: neither by hits, nor by scrubs, nor as a file without a record."""
    if not at_once:
        monkeypatch.setattr(tree, "open_beneath", lambda *_: None)
    async with opened(root) as store:
        (await adopt(store, 1, b"x")).close()
        (await adopt(store, 2, b"x")).close()
        await store.core.queue.flushed()
        assert await content(store, 1) == b"x"
        link, there = root / "modules" / level, elsewhere / "there"
        link.rename(there)
        link.symlink_to(there)
        file = root / "modules" / path(1)
        assert file.read_bytes() == b"x"
        with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
            await store.strays.read(file, 10)
        with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
            Hasher(file, root / "modules")
        assert await content(store, 1) is None
        assert store.usage.entries["zip"] == 1
        assert await content(store, 2) == (None if level == "example.com" else b"x")
    assert next(there.rglob(f"{V}.zip")).read_bytes() == b"x"


async def test_tmp_becomes_a_link_while_the_server_runs(root: Path, elsewhere: Path) -> None:
    async with opened(root) as store:
        (root / "tmp").rmdir()
        (root / "tmp").symlink_to(elsewhere)
        with pytest.raises(Unavailable):
            await adopt(store, 1, b"x")
        (await store.put(artifact(path(1, "mod")), b"x", h1="h1:x")).close()
        await store.core.queue.flushed()
        with pytest.raises(OSError, match="Not a directory"):
            await store.heads.write("sum.example.org", b"head")
        await store.parts.trial.once()
        assert not store.writable
        (root / "tmp").unlink()
        await store.parts.trial.once()
        assert store.writable
        assert await store.heads.read("sum.example.org") == b"head"
    assert untouched(elsewhere)


async def test_no_tree_head_is_read_or_written_through_a_link(root: Path, elsewhere: Path) -> None:
    async with opened(root) as store:
        await store.heads.write("sum.example.org/a", b"head")
        (root / "sumdb" / "sum.example.org").rename(elsewhere.with_name("head"))
        (root / "sumdb" / "sum.example.org").symlink_to(elsewhere.with_name("head"))
        with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
            await store.heads.read("sum.example.org/a")
        assert await store.heads.read("sum.example.net") is None
        (root / "sumdb" / "sum.example.org").unlink()
        (root / "sumdb" / "sum.example.org").symlink_to(elsewhere)
        with pytest.raises(OSError, match="Not a directory"):
            await store.heads.write("sum.example.org", b"head")
    assert untouched(elsewhere)


def deepen(top: Path, name: str, depth: int) -> None:
    """Make directories in directories, with a file in the last one."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        pytest.param("d" * 200, DEEP, id="too long"),
        pytest.param("d", 1_100, id="many", marks=pytest.mark.soak),
    ],
)
async def test_deep_trees_end_neither_start_nor_recovery(
    root: Path, name: str, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(root) as store:
        for number in range(3):
            (await adopt(store, number, b"x" * 5_000)).close()
        await store.core.queue.flushed()
    with closing(sqlite3.connect(root / "index.db")) as database, database:
        database.execute("DELETE FROM files")
    deepen(root / "tmp", name, depth)
    deepen(root / "modules", name, depth)
    async with opened(root) as store:
        await recovered(store)
        assert store.recovery.withheld == 3, "the files of modules are found all the same"
        assert list((root / "tmp").iterdir()) == []
        assert store.admission.reserved == 0
        assert store.usage.used == allocated(root / "modules" / "example.com")
    assert ("directory not looked at" in logged(caplog)) == (name != "d")
    tree.remove_all(name, root / "modules")
    assert not (root / "modules" / name).exists()
