"""What only Linux can do, and the fall-backs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from goproxy_vm import hostos

FIRST = 700
"""Descriptors from here on stand for those that systemd hands over from 3 on."""


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two listening sockets, handed over."""
    monkeypatch.setattr(hostos, "FIRST_HANDED_FD", FIRST)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.delenv("LISTEN_FDNAMES", raising=False)
    for fd in (FIRST, FIRST + 1):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            assert fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, fd) == fd
            os.set_inheritable(fd, True)
    yield
    for fd in (FIRST, FIRST + 1):
        try:
            os.close(fd)
        except OSError:
            continue


def names(sockets: list[tuple[str, socket.socket]]) -> list[str]:
    for _, sock in sockets:
        sock.close()
    return [name for name, _ in sockets]


def test_sockets_are_taken_over(handed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "main:admin")
    sockets = hostos.listen_fds()
    assert [sock.fileno() for _, sock in sockets] == [FIRST, FIRST + 1]
    for _, sock in sockets:
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()
        assert sock.getsockname()[0] == "127.0.0.1"
    assert names(sockets) == ["main", "admin"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, ["", ""]), ("main", ["main", ""]), ("a:b:c", ["a", "b"]), (":b", ["", "b"])],
)
def test_names_need_not_be_complete(
    handed: None, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: list[str]
) -> None:
    if given is not None:
        monkeypatch.setenv("LISTEN_FDNAMES", given)
    assert names(hostos.listen_fds()) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LISTEN_PID", "1"),
        ("LISTEN_PID", ""),
        ("LISTEN_PID", None),
        ("LISTEN_FDS", "two"),
        ("LISTEN_FDS", "0"),
        ("LISTEN_FDS", "-1"),
        ("LISTEN_FDS", None),
    ],
)
def test_nothing_is_meant_for_us(
    handed: None, monkeypatch: pytest.MonkeyPatch, key: str, value: str | None
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "main")
    if value is None:
        monkeypatch.delenv(key)
    else:
        monkeypatch.setenv(key, value)
    assert hostos.listen_fds() == []


def test_a_descriptor_that_is_not_open(handed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "3")
    with pytest.raises(OSError, match=f"descriptor {FIRST + 2} is no socket"):
        hostos.listen_fds()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(FIRST)  # what had been taken over is closed again


def test_a_descriptor_that_is_no_socket(handed: None, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), FIRST + 1)
    with pytest.raises(OSError, match=f"descriptor {FIRST + 1} is no socket"):
        hostos.listen_fds()


def test_a_socket_of_another_kind(handed: None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        os.dup2(sock.fileno(), FIRST)
    with pytest.raises(OSError, match=f"descriptor {FIRST} is no stream socket"):
        hostos.listen_fds()


def test_unsent_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sender:
        sender.connect(server.getsockname())
        assert hostos.unsent_bytes(sender) == 0
        receiver, _ = server.accept()
        with receiver:
            sender.setblocking(False)
            sent = sender.send(bytes(16 << 20))  # as much as both buffers take
            assert 0 < hostos.unsent_bytes(sender) <= sent < 16 << 20
            receiver.recv(sent, socket.MSG_WAITALL)
            while hostos.unsent_bytes(sender):  # pytest-timeout bounds it
                pass
    assert hostos.unsent_bytes(sender) == 0  # closed


def test_acknowledged_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        receiver, _ = listening.accept()
    with receiver, sender:
        before = hostos.acknowledged_bytes(sender)
        assert before in (0, 1)  # the SYN may count
        sender.sendall(b"x" * 1000)
        while hostos.unsent_bytes(sender):  # pytest-timeout bounds it
            pass
        assert hostos.acknowledged_bytes(sender) == before + 1000
    assert hostos.acknowledged_bytes(sender) is None  # closed
    one, other = socket.socketpair()
    with one, other:
        assert hostos.acknowledged_bytes(one) is None


def test_acknowledged_bytes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket() as sock:
        assert hostos.acknowledged_bytes(sock) is None


def test_unsent_bytes_of_what_is_no_socket(tmp_path: Path) -> None:
    class Fake:
        def __init__(self, fd: int) -> None:
            self.fileno = lambda: fd

    with (tmp_path / "file").open("w") as file:
        assert hostos.unsent_bytes(Fake(file.fileno())) == 0  # type: ignore[arg-type]  # only fileno is used


def test_unsent_bytes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket() as sock:
        assert hostos.unsent_bytes(sock) == 0


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("allowed", [True, False])
def test_lower_priority(monkeypatch: pytest.MonkeyPatch, platform: str, allowed: bool) -> None:
    done: list[object] = []

    def ask(*what: object) -> None:
        done.append(what[:2])
        if not allowed:
            raise PermissionError

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "nice", ask)
    monkeypatch.setattr(os, "sched_setscheduler", ask)
    hostos.lower_priority()
    assert done == ([(19,), (0, os.SCHED_IDLE)] if platform == "linux" else [(19,)])


@pytest.mark.parametrize("error", [None, OSError, ValueError])
def test_limit_memory(monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None) -> None:
    limits: list[object] = []

    def setrlimit(*what: object) -> None:
        limits.append(what)
        if error is not None:
            raise error

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    hostos.limit_memory(1 << 30)
    assert limits == [(resource.RLIMIT_AS, (1 << 30, 1 << 30))]


def test_peer_user() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with theirs:
        assert hostos.peer_user(ours) == os.getuid()
        ours.close()
        assert hostos.peer_user(ours) is None


def test_peer_user_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert hostos.peer_user(ours) is None


@pytest.mark.parametrize("abstract", [False, True])
def test_states_reach_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool) -> None:
    name = f"@goproxy-vm-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(f"\0{name[1:]}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        hostos.notify("READY=1")
        assert theirs.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


@pytest.mark.parametrize("path", [None, "", "vsock:2:1234", "relative", "/nowhere/at/all", "/" + 200 * "x"])
def test_states_that_nobody_takes(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if path is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    hostos.notify("READY=1")


def test_a_full_socket_does_not_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for _ in range(10_000):
            hostos.notify("WATCHDOG=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", None, 60.0),
        ("500000", "this", 0.5),
        ("60000000", "1", None),
        ("0", None, None),
        ("-1", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, seconds: float | None
) -> None:
    for key, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(key, raising=False)
        if value is not None:
            monkeypatch.setenv(key, str(os.getpid()) if value == "this" else value)
    assert hostos.watchdog_seconds() == seconds


def test_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        facts = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
        assert hostos.leads_to_journal(file.fileno())
        assert not hostos.leads_to_journal(0)
    assert not hostos.leads_to_journal(-1)


def test_lock_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert hostos.lock_holder(path) == 0
    with path.open("w") as file:
        file.write(str(os.getpid()))
        file.flush()
        assert hostos.lock_holder(path) == 0
        fcntl.flock(file, fcntl.LOCK_EX)
        assert hostos.lock_holder(path) == os.getpid()
    assert hostos.lock_holder(path) == 0
    assert hostos.lock_holder(path / "below") == 0


def test_lock_holder_where_the_device_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.write_text("1234\n")
    lines = f"1: FLOCK ADVISORY WRITE 1234 ff:fe:{path.stat().st_ino} 0 EOF\n"
    real = Path.read_text

    def read(self: Path, *args: str) -> str:
        return lines if self == Path("/proc/locks") else real(self, *args)

    monkeypatch.setattr(Path, "read_text", read)
    assert hostos.lock_holder(path) == 1234
    path.write_text("99\n")
    assert hostos.lock_holder(path) == 0


def test_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = r"""22 1 0:21 / / rw - ext4 /dev/a rw
23 22 0:22 / /srv/a\040b rw,relatime shared:1 - nfs4 host:/x rw
24 23 0:23 / /srv/a\040b/c rw - xfs /dev/b rw
25 22 0:24 / /tmp2 rw - tmpfs t rw
26 22 0:25 / /tmp2 rw - fuse.x t rw
"""
    monkeypatch.setattr(Path, "read_text", lambda *_: lines)
    found = [hostos.file_system(Path(each)) for each in ("/srv", "/srv/a b/x", "/srv/a b/c", "/tmp2/y")]
    assert found == ["ext4", "nfs4", "xfs", "fuse.x"]


def test_where_proc_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    assert hostos.lock_holder(tmp_path) is None
    assert hostos.file_system(tmp_path) == ""
    assert hostos.open_files_limit(1) is None


def test_open_files_limit() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hostos.open_files_limit(0) == hostos.open_files_limit(os.getpid()) == soft
    assert hostos.open_files_limit(os.getppid()) is not None
    assert hostos.open_files_limit(2**22 + 1) is None


@pytest.mark.parametrize(
    ("family", "listening", "asked"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.3"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
def test_who_has_accepted_a_connection(family: int, listening: str, asked: str) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind((listening, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        sock.listen()
        client = stack.enter_context(socket.create_connection((asked, sock.getsockname()[1])))
        assert hostos.peer_users(client) == frozenset()  # in the backlog: nobody's yet, and not root's
        stack.enter_context(sock.accept()[0])
        assert hostos.peer_users(client) == {os.geteuid()}


def test_who_listens_on_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        client.connect(str(tmp_path / "s"))
        assert hostos.peer_users(client) == {os.geteuid()}


def test_who_is_elsewhere_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row of this network namespace, or no such table."""
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        socket.create_connection(sock.getsockname()) as client,
    ):
        for rows in ("  sl  local_address\n", None):

            def read_text(*_: object, rows: str | None = rows) -> str:
                if rows is None:
                    raise FileNotFoundError
                return rows

            monkeypatch.setattr(Path, "read_text", read_text)
            assert hostos.peer_users(client) is None


def test_what_this_host_calls_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "build1")
    hosts = tmp_path / "hosts"
    assert hostos.own_names(hosts) == {"build1"}
    hosts.write_text(
        "127.0.0.1 localhost # build1\n\n127.0.0.1 ads.example.net\n"
        "127.0.1.1\tbuild1.example.com  build1\n192.0.2.1 build1 go.example.com # x\n"
    )
    assert hostos.own_names(hosts) == {"build1", "build1.example.com", "go.example.com"}


def test_a_file_is_opened_by_a_path_without_links(tmp_path: Path) -> None:
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "top" / "a" / "\u00e9").write_bytes(b"x")
    (tmp_path / "top" / "link").symlink_to("a")
    (tmp_path / "top" / "a" / "link").symlink_to("\u00e9")
    (tmp_path / "beside").write_bytes(b"x")
    top = os.open(tmp_path / "top", os.O_RDONLY)
    try:
        fd = hostos.open_beneath(top, "a/\u00e9".encode(), os.O_RDONLY | os.O_CLOEXEC)
        if fd is None:
            pytest.skip("no openat2 here")
        assert (os.read(fd, 10), os.get_inheritable(fd)) == (b"x", False)
        os.close(fd)
        for path, number in {
            "link/\u00e9": errno.ELOOP,
            "a/link": errno.ELOOP,
            "a/none": errno.ENOENT,
            "beside": errno.ENOENT,
            "../beside": errno.EXDEV,
            str(tmp_path / "beside"): errno.EXDEV,
            "a/\u00e9/b": errno.ENOTDIR,
            "d" * 5_000: errno.ENAMETOOLONG,
        }.items():
            with pytest.raises(OSError, match=r"\[Errno") as error:
                hostos.open_beneath(top, path.encode(), os.O_RDONLY)
            assert error.value.errno == number
    finally:
        os.close(top)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EAGAIN])
def test_a_system_that_cannot_open_so(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def call(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(hostos, "_openat2", lambda *_: call)
    assert hostos.open_beneath(0, b"a", os.O_RDONLY) is None
    monkeypatch.setattr(hostos, "_openat2", lambda *_: None)
    assert hostos.open_beneath(0, b"a", os.O_RDONLY) is None
