"""The tree heads on disk, and the evidence of forks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from goproxy_vm.cache import heads as heads_module
from goproxy_vm.cache.heads import MOST_FORKS, Heads
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.threads import Threads

NAME = "sumdb.example.com/log"
OLD, NEW = b"go.sum database tree\n1\n", b"go.sum database tree\n2\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.at(tmp_path / "cache")
    made.prepare()
    return made


@pytest.fixture
def heads(layout: Layout) -> Iterator[Heads]:
    threads = Threads("test", 4)
    yield Heads(layout, threads, Health())
    threads.close()


def forks(heads: Heads) -> list[Path]:
    return sorted((heads.file(NAME).parent / "forks").glob("*"))


@pytest.mark.parametrize("name", ["sum.golang.org", NAME])
async def test_head_lies_under_its_name(heads: Heads, layout: Layout, name: str) -> None:
    assert await heads.read(name) is None
    await heads.write(name, OLD)
    assert layout.root.joinpath("sumdb", *name.split("/"), "latest").read_bytes() == OLD
    assert await heads.read(name) == OLD


async def test_databases_are_apart(heads: Heads) -> None:
    await heads.write("sum.golang.org", OLD)
    await heads.write(NAME, NEW)
    assert (await heads.read("sum.golang.org"), await heads.read(NAME)) == (OLD, NEW)


async def test_head_outlives_the_process(heads: Heads, layout: Layout) -> None:
    await heads.write(NAME, OLD)
    threads = Threads("later", 1)
    try:
        assert await Heads(Layout.at(layout.root), threads, Health()).read(NAME) == OLD
    finally:
        threads.close()


async def test_head_is_replaced_whole(heads: Heads, layout: Layout) -> None:
    """Whoever has the old file open goes on to read the old head: it is never written over."""
    await heads.write(NAME, OLD)
    with heads.file(NAME).open("rb") as before:
        await heads.write(NAME, NEW)
        assert before.read() == OLD
    assert await heads.read(NAME) == NEW
    assert list(layout.tmp.iterdir()) == []


async def test_head_is_synced_before_and_after_its_rename(
    heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.rename

    def fsync(fd: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        sync(fd)

    def rename(source: str, target: str, **given: int) -> None:
        steps.append("rename")
        replace(source, target, **given)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    await heads.write(NAME, OLD)
    assert steps == ["file", "rename", "directory", "directory", "directory"], "with those that are new"


@pytest.mark.parametrize("step", ["fsync", "rename"])
async def test_disk_that_fails_leaves_the_old_head(
    heads: Heads, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await heads.write(NAME, OLD)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(OSError, match="No space left"):
        await heads.write(NAME, NEW)
    with pytest.raises(OSError, match="No space left"):
        await heads.keep_fork(NAME, "report\n", OLD, NEW)
    assert await heads.read(NAME) == OLD
    assert forks(heads) == []


async def test_directory_that_cannot_be_synced_is_an_error_and_no_leak(
    heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync
    opened: list[int] = []

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            opened.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        await heads.write(NAME, OLD)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    assert await heads.read(NAME) == OLD


async def test_files_are_private(heads: Heads, layout: Layout) -> None:
    await heads.write(NAME, OLD)
    kept = await heads.keep_fork(NAME, "report\n", OLD, NEW)
    assert kept is not None
    for file in (heads.file(NAME), kept):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for directory in (kept.parent, heads.file(NAME).parent):
        assert stat.S_IMODE(directory.stat().st_mode) & 0o077 == 0


async def test_fork_keeps_both_notes_and_the_report(heads: Heads) -> None:
    await heads.write(NAME, OLD)
    kept = await heads.keep_fork(NAME, "two logs\n", OLD, NEW)
    assert kept is not None
    assert kept.read_bytes() == b"two logs\n\nolder:\n" + OLD + b"\nnewer:\n" + NEW
    assert await heads.read(NAME) == OLD


async def test_forks_are_bounded_and_the_first_ones_stay(heads: Heads) -> None:
    kept = [await heads.keep_fork(NAME, f"{number}\n", OLD, NEW) for number in range(MOST_FORKS + 3)]
    first = kept[:MOST_FORKS]
    assert kept[MOST_FORKS:] == [None] * 3
    assert len(set(first)) == MOST_FORKS
    assert forks(heads) == sorted(file for file in first if file is not None)
    assert [file.read_bytes().split(b"\n")[0] for file in first if file is not None] == [
        str(number).encode() for number in range(MOST_FORKS)
    ]
    assert await heads.keep_fork("other.example.com", "its own\n", OLD, NEW) is not None


async def test_foreign_files_among_the_forks_count_and_stay(heads: Heads) -> None:
    directory = heads.file(NAME).parent / "forks"
    directory.mkdir(parents=True)
    for number in range(MOST_FORKS - 1):
        (directory / f"note {number}").write_bytes(b"whose?")
    assert await heads.keep_fork(NAME, "the last\n", OLD, NEW) is not None
    assert await heads.keep_fork(NAME, "too many\n", OLD, NEW) is None
    assert len(forks(heads)) == MOST_FORKS


async def test_file_in_the_place_of_the_forks_is_an_error(heads: Heads) -> None:
    await heads.write(NAME, OLD)
    (heads.file(NAME).parent / "forks").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        await heads.keep_fork(NAME, "report\n", OLD, NEW)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"<html>", bytes(range(256))])
async def test_damaged_head_is_handed_over_as_it_is(heads: Heads, data: bytes) -> None:
    """Whether it is a head is for the verifier to say; here no byte of it is believed or changed."""
    await heads.write(NAME, OLD)
    heads.file(NAME).write_bytes(data)
    assert await heads.read(NAME) == data
    await heads.write(NAME, NEW)
    assert await heads.read(NAME) == NEW


async def test_directory_in_the_place_of_the_head_is_an_error(heads: Heads, layout: Layout) -> None:
    heads.file(NAME).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        await heads.read(NAME)
    with pytest.raises(IsADirectoryError):
        await heads.write(NAME, OLD)


async def test_file_in_the_place_of_a_name_is_no_first_use(heads: Heads, layout: Layout) -> None:
    layout.sumdb.mkdir(exist_ok=True)
    (layout.sumdb / "sumdb.example.com").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        await heads.read(NAME)


def test_most_forks_is_a_small_number() -> None:
    assert heads_module.MOST_FORKS == 10  # docs/operating.md names it
