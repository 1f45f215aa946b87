"""What only Linux can do, in one place, with a fall-back that lets the rest run elsewhere."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import functools
import ipaddress
import os
import re
import resource
import socket
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path

FIRST_HANDED_FD = 3
"""The first descriptor that systemd hands over (sd_listen_fds(3))."""
_BYTES_ACKED = 120
"""Where tcpi_bytes_acked, 64 bits of it, begins in Linux's struct tcp_info (linux/tcp.h; since 4.1)."""
_OPENAT2 = 437
"""The number of openat2(2) on the architectures that CPython supports (PEP 11); on MIPS it is no call's.
Since Linux 5.6."""
_NO_SYMLINKS, _BENEATH, _CACHED = 0x04, 0x08, 0x20
"""RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH and, since Linux 5.12, RESOLVE_CACHED (linux/openat2.h)."""
_HOW = struct.Struct("=QQQ")
"""Linux's struct open_how: flags, mode, resolve."""
_CANNOT = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG, errno.EAGAIN})
"""What openat2 says where there is none, a sandbox forbids it, somebody moves directories meanwhile, or where
it would have to wait for a disk."""


def unsent_bytes(sock: socket.socket) -> int:
    """Bytes that the kernel holds for ``sock`` and the peer has not acknowledged; 0 where it cannot say."""
    if sys.platform != "linux":
        return 0
    left = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, left)
    except (OSError, ValueError):
        return 0
    return left[0]


def acknowledged_bytes(sock: socket.socket) -> int | None:
    """Bytes that the peer of a TCP connection has acknowledged so far; None where nobody can say."""
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return None
    try:
        facts = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        return int(struct.unpack_from("=Q", facts, _BYTES_ACKED)[0])
    except (OSError, struct.error):
        return None


@functools.cache
def _openat2(flags: int, resolve: int) -> Callable[[int, bytes], int] | None:
    """openat2(2) for a directory and a path from there; None on systems whose calls have other numbers."""
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    how = ctypes.create_string_buffer(_HOW.pack(flags, 0, resolve), _HOW.size)
    return lambda directory, name: int(call(_OPENAT2, directory, name, how, _HOW.size))


def open_beneath(directory: int, path: bytes, flags: int, *, cached: bool = False) -> int | None:
    """Open a file that is there, by a relative path that leads from ``directory`` by no link, nor above it;
    the descriptor. None where the system cannot do that in one step, or, if only what is ``cached`` may be
    looked at, not without waiting for a disk. OSError, ELOOP for a link."""
    call = _openat2(flags, _NO_SYMLINKS | _BENEATH | (_CACHED if cached else 0))
    if call is None:
        return None
    fd = call(directory, path)
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number in _CANNOT:
        return None
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def read_cached(fd: int, into: list[bytearray], offset: int) -> int:
    """Read what the page cache holds; how many bytes. BlockingIOError where a disk would have to be waited
    for. OSError EOPNOTSUPP where the system or the file system cannot say: tmpfs, overlayfs, FUSE."""
    flag = getattr(os, "RWF_NOWAIT", 0)  # preadv2(2), since Linux 4.14
    if not flag:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return os.preadv(fd, into, offset, flag)


def outward_address() -> str:
    """The IPv4 address by which others reach this host, as far as its routes tell: that of the way out; "" if
    there is none. Nothing is sent.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # TEST-NET-1: nobody's (RFC 5737)
        return str(sock.getsockname()[0])
    return ""


def own_names(hosts: Path = Path("/etc/hosts")) -> frozenset[str]:
    """What this host calls itself: its name, and what the file ``hosts`` has beside that (blocking)."""
    name = socket.gethostname()
    names = {name}
    with contextlib.suppress(OSError):
        for line in hosts.read_text("utf-8", "replace").splitlines():
            _, *found = line.partition("#")[0].split() or [""]
            if name in found:
                names.update(found)
    return frozenset(names)


def peer_user(sock: socket.socket) -> int | None:
    """The user id of whoever connected to a Unix socket; None where the system cannot say."""
    if sys.platform != "linux":
        return None
    try:
        pid_uid_gid = array.array("i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except (OSError, ValueError):
        return None
    return pid_uid_gid[1]


def peer_users(sock: socket.socket) -> frozenset[int] | None:
    """The users who hold the other end of a connected socket, as far as it is on this host (blocking).

    Of a Unix socket who listens there, of TCP who has accepted the connection: none as long as nobody has.
    None for another host or network namespace, and where the system cannot say.
    """
    if sock.family == socket.AF_UNIX:
        user = peer_user(sock)
        return None if user is None else frozenset({user})
    ours, theirs = _endpoint(sock.getsockname()), _endpoint(sock.getpeername())
    found = None
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            # sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
            words = line.split()
            if _hex_endpoint(words[1]) == theirs and _hex_endpoint(words[2]) == ours:
                # Without an inode it waits to be accepted, and seems to be root's.
                found = frozenset() if words[9] == "0" else frozenset({int(words[7])})
    return found


_Endpoint = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> _Endpoint:
    return getattr(address, "ipv4_mapped", None) or address, port


def _endpoint(name: tuple[str, int]) -> _Endpoint:
    return _plain(ipaddress.ip_address(name[0].partition("%")[0]), name[1])


def _hex_endpoint(text: str) -> _Endpoint:
    """An address as /proc/net/tcp writes it: words of 32 bits in this machine's order, and the port."""
    host, _, port = text.partition(":")
    words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
    return _plain(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)), int(port, 16))


def lower_priority() -> None:
    """Let everything else go first: nice 19, and Linux's SCHED_IDLE, which a waking task preempts at once."""
    with contextlib.suppress(OSError):
        os.nice(19)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def limit_memory(limit: int) -> None:
    """Bound this process's address space to ``limit`` bytes, where the system can; more is a MemoryError."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def boot_id() -> str:
    """Names this boot of the host; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def notify(state: str) -> None:
    """Tell systemd, as in ``READY=1``, where it listens (sd_notify(3), Type=notify); else do nothing.

    Never waits: a state that systemd has no room for is lost, and none is worth a hanging loop.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    # A leading @ stands for the NUL of Linux's abstract sockets.
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), address)


def leads_to_journal(fd: int) -> bool:
    """Whether what is written to ``fd`` goes straight to systemd's journal.

    ``JOURNAL_STREAM`` alone does not say so: its owner may have sent stderr elsewhere (systemd.exec(5)).
    """
    try:
        facts = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def watchdog_seconds() -> float | None:
    """How long systemd waits for ``WATCHDOG=1`` before it kills us; None where it does not wait."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None


def listen_fds() -> list[tuple[str, socket.socket]]:
    """Sockets handed over by systemd, each with its name (sd_listen_fds(3)); none where there are none.

    They are ours from here on, non-blocking, and closed in child processes. The environment stays as it is:
    its LISTEN_PID keeps children from taking it for theirs. OSError, its ``strerror`` a sentence, if a
    descriptor is no stream socket; those already taken are closed then.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = max(0, int(os.environ.get("LISTEN_FDS", "0")))
    except ValueError:
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")[:count]
    names += [""] * (count - len(names))
    handed: list[tuple[str, socket.socket]] = []
    with contextlib.ExitStack() as opened:
        for fd, name in enumerate(names, FIRST_HANDED_FD):
            try:
                sock = socket.socket(fileno=fd)
            except OSError as error:
                raise OSError(error.errno, f"descriptor {fd} is no socket") from error
            opened.enter_context(sock)
            if sock.type != socket.SOCK_STREAM:
                raise OSError(errno.EPROTOTYPE, f"descriptor {fd} is no stream socket")
            sock.set_inheritable(False)
            sock.setblocking(False)
            handed.append((name, sock))
        opened.pop_all()
    return handed


def lock_holder(path: Path) -> int | None:
    """The process that holds an flock on ``path``, without touching it: 0 for nobody, None where unknown.

    A process of another PID namespace is not seen.
    """
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return None
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF; a waiting one has "->" in the second column
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or not words[4].isdecimal():
            continue
        major, minor, inode = words[5].split(":")
        same_device = (int(major, 16), int(minor, 16)) == (os.major(facts.st_dev), os.minor(facts.st_dev))
        if inode == str(facts.st_ino) and (same_device or words[4] == _written_in(path)):
            return int(words[4])
    return 0


def _written_in(path: Path) -> str:
    """What a small file says; some file systems, as btrfs, do not have the device that they show."""
    try:
        return path.read_text("ascii", "replace")[:32].strip()
    except OSError:
        return ""


def file_system(path: Path) -> str:
    """The type of the file system that ``path`` lies on, as in ``ext4``; empty where unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    found, longest = "", -1
    where = Path(os.path.realpath(path))
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = Path(_unescaped(left.split(" ")[4]))
        # The last mount on one place hides those before it.
        if (where == mount or mount in where.parents) and len(mount.parts) >= longest:
            found, longest = right.split(" ")[0], len(mount.parts)
    return found


def _unescaped(text: str) -> str:
    """A path as mountinfo writes it, which has octal for space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def raise_open_files_limit() -> None:
    """Let this process open as many files as its hard limit allows: the usual soft one is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files_hard_limit() -> int:
    """How many descriptors this process may open once it has raised its soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def open_files_limit(process: int) -> int | None:
    """How many descriptors a process may open; 0 stands for this one. None where the system cannot say."""
    if process in (0, os.getpid()):
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft
    try:
        text = Path(f"/proc/{process}/limits").read_text()
    except OSError:
        return None
    match = re.search(r"^Max open files +(\d+|unlimited) ", text, re.MULTILINE)
    if match is None:
        return None
    return sys.maxsize if match[1] == "unlimited" else int(match[1])
