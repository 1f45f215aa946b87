"""cache/layout.py and cache/lock.py: the directory, and the one server that owns it."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from pathlib import Path

import pytest

from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.lock import DirectoryLock
from goproxy_vm.errors import MalformedPath, StartError
from goproxy_vm.protocol.artifact import Kind, kind_of


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.at(tmp_path / "cache")
    made.prepare()
    return made


def one_line(caught: pytest.ExceptionInfo[StartError]) -> str:
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


def test_directories_are_private(layout: Layout) -> None:
    for directory in (layout.root, layout.modules, layout.tmp, layout.answers):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_open_to_others_is_closed(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir(mode=0o755)
    (root / "lost+found").mkdir()
    Layout.at(root).prepare()
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Layout.at(Path("c")).root == tmp_path / "c"


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StartError) as caught:
        Layout.at(tmp_path).prepare()
    assert str(tmp_path) in one_line(caught)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_cache_directory(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    with pytest.raises(StartError) as caught:
        Layout.at(tmp_path / "c").prepare()
    assert one_line(caught).endswith("is not a directory")


def test_an_impossible_directory_is_refused() -> None:
    with pytest.raises(StartError) as caught:
        Layout.at(Path("/proc/self/cache")).prepare()
    assert "/proc/self/cache: No such file or directory" in one_line(caught)


def test_an_unwritable_directory_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != layout.tmp)
    with pytest.raises(StartError) as caught:
        layout.prepare()
    assert one_line(caught) == f"cache directory {layout.root}: {layout.tmp} is not writable"


def test_another_users_directory_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: layout.root.stat().st_uid + 1)
    with pytest.raises(StartError) as caught:
        layout.prepare()
    assert "belongs to user" in one_line(caught)


def test_one_file_system(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    status = Path.stat

    def mounted(path: Path, **given: bool) -> os.stat_result:
        facts = status(path, **given)
        return (
            os.stat_result([*facts[:2], facts.st_dev + 1, *facts[3:10]]) if path.name == "modules" else facts
        )

    monkeypatch.setattr(Path, "stat", mounted)
    with pytest.raises(StartError) as caught:
        layout.prepare()
    assert "is on another file system" in one_line(caught)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("github.com/!azure/x/@v/v1.0.0.zip", Kind.ZIP),
        ("a.b/@v/v1.0.0+incompatible.mod", Kind.MOD),
        ("a.b/@v/v1.0.0.info", Kind.INFO),
    ],
)
def test_file(layout: Layout, path: str, kind: Kind) -> None:
    assert layout.file(path) == layout.modules / path
    assert kind_of(path) is kind


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a.b/@v/list",
        "a.b/@latest",
        "a.b/@v/.zip",
        "a.b/@v/v1.0.0.ziphash",
        "@v/v1.0.0.zip",
        "/@v/v1.0.0.zip",
        "../@v/v1.0.0.zip",
        "a.b/../../@v/v1.0.0.zip",
        "a.b/./@v/v1.0.0.zip",
        "a.b//@v/v1.0.0.zip",
        "/etc/@v/v1.0.0.zip",
        "a.b/\0/@v/v1.0.0.zip",
    ],
)
def test_nothing_leads_outside(layout: Layout, path: str) -> None:
    with pytest.raises(MalformedPath):
        layout.file(path)


async def test_second_lock_is_refused_by_name(layout: Layout) -> None:
    lock = await DirectoryLock.acquire(layout, 0)
    with pytest.raises(StartError) as caught:
        await DirectoryLock.acquire(layout, 0.01)
    assert one_line(caught) == f"cache directory {layout.root}: in use by process {os.getpid()}"
    layout.lock.write_bytes(b"")
    with pytest.raises(StartError, match="in use by another process"):
        await DirectoryLock.acquire(layout, 0)
    lock.release()
    (await DirectoryLock.acquire(layout, 0)).release()
    assert layout.lock.read_text() == f"{os.getpid()}\n"


async def test_lock_waits_for_the_server_before(layout: Layout) -> None:
    lock = await DirectoryLock.acquire(layout, 0)
    waiting = asyncio.create_task(DirectoryLock.acquire(layout, 30))
    await asyncio.sleep(0)
    assert not waiting.done()
    lock.release()
    (await waiting).release()


async def test_lock_cancelled_while_waiting_leaves_nothing(layout: Layout) -> None:
    lock = await DirectoryLock.acquire(layout, 0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    waiting = asyncio.create_task(DirectoryLock.acquire(layout, 30))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    lock.release()


async def test_lock_that_cannot_be_opened(layout: Layout) -> None:
    layout.lock.mkdir()
    with pytest.raises(StartError, match=re.escape(f"{layout.lock}: Is a directory")):
        await DirectoryLock.acquire(layout, 0)


async def test_lock_that_cannot_be_written(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StartError, match="No space left on device"):
        await DirectoryLock.acquire(layout, 0)
