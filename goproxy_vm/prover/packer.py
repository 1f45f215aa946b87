"""The process that plans one tarball: the zip is its standard input, the plan its standard output.

As the worker it is niced, and its memory and its time of the processor are limited. A line comes before the
plan: empty where the zip is good, else a sentence about it.
"""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import BinaryIO

from goproxy_vm.errors import ContentError
from goproxy_vm.hostos import limit_memory, lower_priority
from goproxy_vm.protocol.tarball import Tarball


class _Steady(io.RawIOBase):
    """A file by its descriptor, with a position of its own: the descriptor's moves whenever the server sends
    the same file to somebody."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As files do."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size()}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As files do."""
        count = os.preadv(self._fd, [buffer], self._at)
        self._at += count
        return count

    def _size(self) -> int:
        return os.fstat(self._fd).st_size


class _OutOfTime(Exception):
    """The plan has used up its time."""


def _stop(_: int, __: FrameType | None) -> None:
    raise _OutOfTime


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """_OutOfTime once the body has had so many seconds of the processor."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(memory_limit: int, cpu_limit: float, module: str, version: str) -> None:
    """Plan it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    lower_priority()
    limit_memory(memory_limit)
    fd, out = sys.stdin.fileno(), sys.stdout.buffer
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            source: BinaryIO = io.BufferedReader(_Steady(fd))
        else:
            source = io.BytesIO(sys.stdin.buffer.read())
        with _bounded(cpu_limit):
            plan = Tarball.plan(source, module, version)
    except _OutOfTime:
        out.write(f"it takes more than {cpu_limit:g} s of the processor's time\n".encode())
    except (ContentError, OSError, MemoryError) as error:
        sentence = " ".join(str(error).split()) or type(error).__name__
        out.write(f"{sentence}\n".encode("utf-8", "replace"))
    else:
        out.write(b"\n" + plan.to_bytes())
    out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4])
