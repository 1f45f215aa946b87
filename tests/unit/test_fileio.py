"""web/fileio.py: a head and the first bytes of a file, whatever the socket says to them."""

from __future__ import annotations

import errno
import gc
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from goproxy_vm.cache import files, reading
from goproxy_vm.cache.layout import DIRECTORY
from goproxy_vm.cache.reading import Published, open_stored
from goproxy_vm.web import fileio
from goproxy_vm.web.connection import Connection
from tests.fakes.lines import logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from goproxy_vm.web.repacked import Repacked

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
SHA = "ab" * 32


class Client:
    """A transport that keeps what it is given, and a socket that takes as much of a head as it is told."""

    def __init__(self, takes: int | OSError) -> None:
        self.takes = takes
        self.written = b""
        self.sent = b""
        self.transport = SimpleNamespace(
            get_write_buffer_size=lambda: 0, is_closing=lambda: False, write=self._write
        )
        self.sock = SimpleNamespace(send=self._send, fileno=lambda: -1)

    def _write(self, data: bytes) -> None:
        self.written += data

    def _send(self, data: bytes, flags: int) -> int:
        assert flags == socket.MSG_MORE
        if isinstance(self.takes, OSError):
            raise self.takes
        self.sent += data[: self.takes]
        return min(self.takes, len(data))


@pytest.mark.parametrize(
    ("takes", "written"),
    [
        (len(HEAD), b""),
        (5, HEAD[5:]),
        (BlockingIOError(), HEAD),
        (ConnectionResetError(), HEAD),
    ],
)
@pytest.mark.parametrize("then", [BlockingIOError(), BrokenPipeError(), OSError(errno.EIO, ""), 10])
def test_a_head_is_sent_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    takes: int | OSError,
    written: bytes,
    then: int | OSError,
) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")

    def sendfile(*_: object) -> int:
        if isinstance(then, OSError):
            raise then
        return then

    monkeypatch.setattr(os, "sendfile", sendfile)
    client = Client(takes)
    with open_stored(tmp_path / "f", tmp_path, 10, SHA) as file:
        sent = fileio.begin(cast("Connection", client), HEAD, file)
    whole = takes == len(HEAD)
    assert client.written == written
    assert client.sent + client.written == HEAD
    assert sent == (then if whole and isinstance(then, int) else 0)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    """A directory with a file in it, open."""
    (tmp_path / "f").write_bytes(b"0123456789")
    fd = os.open(tmp_path, DIRECTORY)
    yield fd
    os.close(fd)


def cannot(number: int) -> Callable[..., int]:
    def read(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return read


def test_a_file_system_that_cannot_say_is_left_to_threads(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As overlayfs: what it reads may come from a disk."""
    there = Published(top, "ext4")
    monkeypatch.setattr(reading, "read_cached", cannot(errno.EOPNOTSUPP))
    assert there.read("f", 10) is None
    monkeypatch.undo()
    assert there.read("f", 10) is None
    assert there.open("f", 10, SHA) is None


def test_a_large_file_finds_out_whether_it_can_say(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Published(top, "ext4")
    monkeypatch.setattr(reading, "read_cached", cannot(errno.EOPNOTSUPP))
    first = there.open("f", 10, SHA)
    assert first is not None
    first.close()
    assert there.open("f", 10, SHA) is None


def test_what_is_cold_is_left_to_threads_this_time(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Published(top, "ext4")
    monkeypatch.setattr(reading, "read_cached", cannot(errno.EAGAIN))
    assert there.read("f", 10) is None
    opened = there.open("f", 10, SHA)
    assert opened is not None
    with opened:
        monkeypatch.setattr(files, "read_cached", cannot(errno.EAGAIN))
        assert opened.read_cached() is None
        assert not opened.cached(0, 10)
        monkeypatch.setattr(files, "read_cached", cannot(errno.EOPNOTSUPP))
        assert opened.read_cached() is None
        assert opened.cached(0, 10), "sent as before there was such a question"
        monkeypatch.setattr(files, "read_cached", cannot(errno.EIO))
        assert opened.cached(0, 10), "it was not asked again"


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_only_what_is_as_long_as_on_record(top: int, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    there = Published(top, kind)
    if kind == "ext4":  # whatever this test runs on
        monkeypatch.setattr(reading, "read_cached", os.preadv)
    assert there.read("f", 10) == b"0123456789"
    assert there.read("f", 9) is None
    assert there.read("f", 11) is None
    assert there.read("none", 10) is None
    assert there.open("f", 9, SHA) is None
    assert there.open("none", 9, SHA) is None


def test_a_system_without_such_a_call(monkeypatch: pytest.MonkeyPatch, top: int) -> None:
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert Published(top, "ext4").read("f", 10) is None


def test_a_connection_that_is_never_told_of_its_end_closes_nobodys_descriptor() -> None:
    class Others:
        front = None
        unread = None

        def now(self) -> float:
            return 0.0

        def add(self, _: Connection) -> str:
            return ""

    mine, other = socket.socketpair()
    with mine, other:
        transport: Any = SimpleNamespace(
            get_extra_info=lambda name: mine if name == "socket" else None,
            set_write_buffer_limits=lambda _: None,
        )
        connection = Connection(cast("Any", Others()))
        connection.connection_made(transport)
        del connection, transport
        gc.collect()
        os.fstat(mine.fileno())


class Source:
    """What is sent of it ends somewhere, or fails there."""

    def __init__(self, end: int, error: OSError | None = None) -> None:
        self.asked: list[int] = []
        self._end, self._error = end, error

    def pread(self, offset: int, n: int) -> bytes:
        self.asked.append(offset)
        data = bytes(max(0, min(n, self._end - offset)))
        if not data and self._error is not None:
            raise self._error
        return data


@pytest.mark.parametrize(
    ("source", "leaves", "came", "said"),
    [
        (Source(1 << 20), 99, 1 << 20, ""),
        (Source(200_000), 99, 200_000, "the file is shorter than on record"),
        (Source(200_000, OSError(errno.EIO, "I/O error")), 99, 200_000, "I/O error"),
        (Source(1 << 20), 2, 2 * fileio.PIECE, "client left"),
    ],
)
async def test_copy(
    source: Source, leaves: int, came: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A piece is read when the one before was taken, and no more: so much is in memory of each client."""
    caplog.set_level("DEBUG")
    got = bytearray()

    class Reading:
        client = "192.0.2.1"
        transport = SimpleNamespace(write=got.extend)

        async def taken(self) -> None:
            nonlocal leaves
            assert len(source.asked) * fileio.PIECE - len(got) < fileio.PIECE
            if not leaves:
                raise ConnectionResetError
            leaves -= 1

    with ThreadPoolExecutor(1) as reader:
        at = await fileio.copy(
            cast("Connection", Reading()), cast("Repacked", source), 0, 1 << 20, reader, "/path"
        )
    assert at == len(got) == came
    assert said in logged(caplog)
    assert ("answer cut off" in logged(caplog)) == (said not in ("", "client left"))
