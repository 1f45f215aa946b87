"""cache/download.py, admission, health, files, threads."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.admission import STEP, UNKNOWN_LENGTH, Admission, Limits
from goproxy_vm.cache.download import BATCH, Download
from goproxy_vm.cache.files import StoredFile
from goproxy_vm.cache.health import FULL, Health, NameRefused, reason
from goproxy_vm.cache.reading import Mismatch, open_stored
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.upkeep.leftovers import Leftovers
from goproxy_vm.cache.usage import Usage
from goproxy_vm.errors import NoRoom, Unavailable
from tests.fakes.lines import logged

if TYPE_CHECKING:
    from collections.abc import Iterator


class Room:
    """A disk with room."""

    asked: int = 0
    freed: bool = False

    async def make_room(self, more: int) -> bool:
        return True

    async def full(self, more: int) -> bool:
        self.asked += more
        return self.freed


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads("test", 2)
    yield made
    made.close()


@pytest.fixture
def admission() -> Admission:
    return Admission(Limits(1 << 40, 512, 1 << 40, 1 << 40), Usage(), lambda: None)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def download(tmp_path: Path, admission: Admission, threads: Threads, health: Health) -> Download:
    return Download(tmp_path / "d", admission, threads, health, Room(), Leftovers(admission, health))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_bytes_reach_the_file(download: Download, admission: Admission) -> None:
    chunks = [os.urandom(100_000) for _ in range(25)]
    data = b"".join(chunks)
    await download.begin(len(data))
    assert admission.reserved == 0, "nothing is held for bytes that have not come"
    for chunk in chunks:
        await download.write(chunk)
    assert admission.reserved == -(-len(data) // 512) * 512
    assert download.length == len(data)
    assert download.path.stat().st_size <= len(data)
    await download.finish()
    await download.finish()
    assert download.path.read_bytes() == data
    assert download.path.stat().st_mode & 0o777 == 0o600
    assert download.sha256 == hashlib.sha256(data).hexdigest()
    await download.discard()
    await download.discard()
    assert not download.path.exists()
    assert admission.reserved == 0


async def test_writes_are_batched(download: Download) -> None:
    await download.begin(None)
    await download.write(b"x" * (BATCH - 1))
    assert download.path.stat().st_size == 0
    await download.write(b"xy")
    await download.finish()
    assert download.path.stat().st_size == BATCH + 1
    await download.discard()


async def test_an_empty_file(download: Download) -> None:
    await download.begin(0)
    await download.finish()
    assert download.path.read_bytes() == b""
    assert download.sha256 == hashlib.sha256(b"").hexdigest()
    await download.discard()


@pytest.mark.parametrize("finished", [False, True])
async def test_a_new_attempt_starts_over(download: Download, admission: Admission, *, finished: bool) -> None:
    await download.begin(3 * BATCH)
    await download.write(b"a" * 2 * BATCH)
    await download.write(b"a")
    if finished:
        await download.finish()
    await download.begin(4)
    assert download.length == 0
    assert admission.reserved == 0
    await download.write(b"good")
    await download.finish()
    assert admission.reserved == 512
    assert download.path.read_bytes() == b"good"
    assert download.sha256 == hashlib.sha256(b"good").hexdigest()
    assert download.length == 4
    await download.discard()


async def test_room_grows_with_what_arrives(download: Download, admission: Admission) -> None:
    await download.begin(None)
    assert admission.admitted == UNKNOWN_LENGTH
    await download.begin(2)
    assert admission.admitted == 512
    await download.write(b"more than two" * 100)
    await download.finish()
    assert admission.admitted == 512 + UNKNOWN_LENGTH
    assert admission.reserved == 3 * 512 + STEP
    await download.discard()
    assert admission.admitted == 0
    assert admission.reserved == 0


async def test_order_of_calls_is_held_to(download: Download) -> None:
    await download.discard()
    with pytest.raises(RuntimeError):
        await download.write(b"x")
    with pytest.raises(RuntimeError):
        await download.hand_over()
    await download.discard()


async def test_hand_over(download: Download, admission: Admission) -> None:
    await download.begin(4)
    await download.write(b"good")
    reservation = await download.hand_over()
    await download.discard()
    assert download.path.read_bytes() == b"good"
    assert admission.reserved == 512
    reservation.release()
    reservation.release()
    assert admission.reserved == 0


async def test_no_file_can_be_made(
    tmp_path: Path, admission: Admission, threads: Threads, health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    tmp = tmp_path / "tmp"
    tmp.touch()
    download = Download(tmp / "d", admission, threads, health, Room(), Leftovers(admission, health))
    with pytest.raises(Unavailable):
        await download.begin(1)
    await download.discard()
    assert "Not a directory" in logged(caplog)
    assert admission.reserved == 0
    assert not health.writable, "whatever is wrong with tmp/, nothing can be stored"


async def test_a_directory_that_was_removed_is_made_again(
    tmp_path: Path, admission: Admission, threads: Threads, health: Health
) -> None:
    download = Download(
        tmp_path / "tmp" / "d", admission, threads, health, Room(), Leftovers(admission, health)
    )
    await download.begin(1)
    await download.write(b"x")
    await download.finish()
    assert download.path.read_bytes() == b"x"
    assert download.path.parent.stat().st_mode & 0o777 == 0o700
    await download.discard()


@pytest.mark.parametrize("step", ["write", "finish"])
async def test_a_full_disk(
    admission: Admission, threads: Threads, health: Health, tmp_path: Path, step: str
) -> None:
    class Full(Download):
        """Writes to a device that is always full."""

        def _open(self) -> io.FileIO:
            return Path("/dev/full").open("wb", buffering=0)

    full = Full(tmp_path / "d", admission, threads, health, Room(), Leftovers(admission, health))
    await full.begin(None)
    if step != "write":
        await full.write(b"x")
    steps = {"write": lambda: full.write(b"x" * BATCH), "finish": full.finish}
    with pytest.raises(NoRoom) as caught:
        await steps[step]()
    assert "No space left on device" in caught.value.sentence
    assert not health.writable
    await full.discard()
    assert admission.reserved == 0


async def test_cancelled_while_opening_leaves_nothing(
    download: Download, threads: Threads, admission: Admission
) -> None:
    gate = threading.Event()
    busy = [threads.executor.submit(gate.wait) for _ in range(2)]
    before = descriptors()
    task = asyncio.create_task(download.begin(1))
    while download._opening is None:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    gate.set()
    await download.discard()
    assert all(future.result() for future in busy)
    assert not download.path.exists()
    assert descriptors() == before
    assert admission.reserved == 0


async def test_cancelled_while_writing(download: Download, threads: Threads) -> None:
    await download.begin(None)
    gate = threading.Event()
    for _ in range(2):
        threads.executor.submit(gate.wait)
    task = asyncio.create_task(download.write(b"x" * BATCH))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    gate.set()
    await download.discard()
    assert not download.path.exists()


# Health


def test_health() -> None:
    health = Health()
    health.failed(NameRefused(errno.ENAMETOOLONG, "File name too long"))
    assert health.writable
    for error, place in (
        (OSError(errno.ENOSPC, ""), "files"),
        (OSError(errno.EACCES, ""), "files"),
        (RuntimeError("a bug"), "files"),
        (sqlite3.OperationalError("disk I/O error"), "index"),
    ):
        health.failed(error)
        assert not health.writable
        assert health.degraded.is_set()
        health.succeeded("answers")
        assert health.failing(place), "a success elsewhere says nothing of it"
        health.succeeded(place)
        assert health.writable
        assert not health.degraded.is_set()
    health.failed(OSError(errno.EDQUOT, ""))
    health.failed(OSError(errno.ENOSPC, ""), "heads")
    assert health.trouble == FULL, "once"


def test_reason() -> None:
    assert reason(OSError(errno.ENOSPC, "No space left on device", "/secret")) == "No space left on device"
    assert reason(OSError()) == "OSError"
    assert reason(sqlite3.OperationalError("locked")) == "locked"
    assert reason(ValueError()) == "ValueError"


# StoredFile


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    before = descriptors()
    with open_stored(path, tmp_path, 10, "ab" * 32) as stored:
        assert stored.data is None
        assert stored.fd is not None
        assert stored.etag == '"' + "ab" * 16 + '"'
        shared = stored.share()
        path.unlink()
    with pytest.raises(ValueError, match="closed"):
        stored.pread(0, 1)
    assert shared.pread(2, 3) == b"234"
    assert shared.pread(8, 100) == b"89"
    assert shared.pread(10, 1) == b""
    shared.close()
    shared.close()
    assert descriptors() == before


def test_bytes_in_memory() -> None:
    with StoredFile(b"0123456789", 10, "cd" * 32) as stored:
        assert stored.fd is None
        assert stored.data == b"0123456789"
        assert stored.pread(2, 3) == b"234"
        shared = stored.share()
    assert shared.pread(8, 100) == b"89"
    assert shared.etag == stored.etag


def test_a_short_read_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    read = os.pread
    with open_stored(path, tmp_path, 10, "ab" * 32) as stored:
        monkeypatch.setattr(os, "pread", lambda fd, n, offset: read(fd, min(n, 3), offset))
        assert stored.pread(0, 10) == b"0123456789"


@pytest.mark.parametrize("what", ["absent", "longer", "directory", "pipe", "symlink", "below a file"])
def test_mismatch(tmp_path: Path, what: str) -> None:
    path = tmp_path / "f"
    if what == "longer":
        path.write_bytes(b"0123")
    elif what == "directory":
        path.mkdir()
    elif what == "symlink":
        path.symlink_to("elsewhere")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "below a file":
        path.touch()
        path = path / "g"
    before = descriptors()
    with pytest.raises(Mismatch):
        open_stored(path, tmp_path, 3, "ab" * 32)
    assert descriptors() == before


# Threads


async def test_run(threads: Threads) -> None:
    assert await threads.run(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_open_is_closed(threads: Threads, tmp_path: Path, *, fails: bool) -> None:
    gate, opened = threading.Event(), []

    def slow() -> io.FileIO:
        gate.wait()
        opened.append(io.FileIO(tmp_path / ("missing/f" if fails else "f"), "w"))
        return opened[0]

    task = asyncio.create_task(threads.open(slow))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    gate.set()
    await threads.run(lambda: None)
    threads.close()
    assert [file.closed for file in opened] == [] if fails else [True]


async def test_an_open_cancelled_before_it_begins(threads: Threads) -> None:
    gate = threading.Event()
    for _ in range(2):
        threads.executor.submit(gate.wait)
    task = asyncio.create_task(threads.open(lambda: pytest.fail("it never begins")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    gate.set()
