"""Run a command with bounds: ``python -I -S jail.py JOB``. It replaces itself by the command.

JOB is JSON: ``argv``; ``parent``, the process without which it is not to run; ``cwd``; ``read`` and
``write``, the paths that it may read and execute, and write below; ``port``, the only TCP port that it may
connect to; ``limits``, by the names of RLIMIT_…; ``landlock``, whether to confine it at all. Where the kernel
has no Landlock, or one too old for a part, that part is left out. Exit status 125: it was not run.

It is imported for :func:`landlock_abi` alone, and imports nothing of this package: it runs by itself.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

NOT_RUN = 125
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls of Landlock, by the same numbers on every architecture (linux/landlock.h)."""
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
"""What a rule on a plain file may allow."""
_RIGHTS = {1: 13, 2: 14}
"""How many rights on files an ABI knows; later ones have 15 that matter here, ioctl on devices left alone."""
_BIND, _CONNECT = 1 << 0, 1 << 1
_SINCE_NET, _SINCE_SCOPES = 4, 6
_SCOPES = 1 << 0 | 1 << 1
"""No abstract Unix sockets and no signals out of the jail."""
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _PortRule(ctypes.Structure):
    """struct landlock_net_port_attr."""

    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers, 0 for none: from 4 on for TCP, from 6 for signals."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def confine(read: list[str], write: list[str], port: int) -> int:
    """Confine this process and its children for good; the ABI in force, 0 for none. OSError: the kernel has
    Landlock, and refuses."""
    abi = landlock_abi()
    if not abi:
        return 0
    libc = _libc()
    every = (1 << _RIGHTS.get(abi, 15)) - 1
    rules = _Ruleset(
        every,
        _BIND | _CONNECT if abi >= _SINCE_NET else 0,
        _SCOPES if abi >= _SINCE_SCOPES else 0,
    )
    size = 24 if abi >= _SINCE_SCOPES else 16 if abi >= _SINCE_NET else 8
    fd = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if fd < 0:
        raise _refused()
    for paths, access in ((read, _READ), (write, every)):
        for path in paths:
            _allow(libc, fd, path, access & every)
    if rules.net:
        libc.syscall(_ADD_RULE, fd, _NET_PORT, ctypes.byref(_PortRule(_CONNECT, port)), 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(_RESTRICT_SELF, fd, 0):
        raise _refused()
    os.close(fd)
    return abi


def _allow(libc: ctypes.CDLL, fd: int, path: str, access: int) -> None:
    try:
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    if not os.path.isdir(path):  # noqa: PTH112 (without site it starts faster, and so does what imports little)
        access &= _ON_FILES
    libc.syscall(_ADD_RULE, fd, _PATH_BENEATH, ctypes.byref(_PathRule(access, at)), 0)
    os.close(at)


def _refused() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"landlock: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _run(job: dict[str, Any]) -> None:
    for name, value in job["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))
    os.umask(0o077)
    os.nice(5)
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != job["parent"]:
        sys.exit(NOT_RUN)  # it died before we could ask to be told
    os.chdir(job["cwd"])
    if job["landlock"]:
        confine(job["read"], job["write"], job["port"])
    os.execv(job["argv"][0], job["argv"])  # noqa: S606 (what this is for)


if __name__ == "__main__":
    try:
        _run(json.loads(sys.argv[1]))
    except OSError as problem:
        sys.stderr.write(f"jail: {problem.strerror}\n")
    sys.exit(NOT_RUN)
