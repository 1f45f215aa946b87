"""Opening what is stored, as it is on record or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.files import StoredFile
from goproxy_vm.hostos import open_beneath, read_cached

if TYPE_CHECKING:
    from pathlib import Path


class Mismatch(Exception):
    """The file on disk is not the one on record: gone, no regular file, or of another length."""


def open_stored(file: Path, top: Path, length: int, sha256: str) -> StoredFile:
    """Open a file below ``top`` that must be regular and of exactly that length (blocking).

    Mismatch where it is not; OSError where the host cannot open it now.
    """
    try:
        fd = tree.opened(file, top)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise Mismatch("the file is gone") from error
        raise
    return _checked(fd, length, sha256)


IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems that cannot say what is cached, because all is."""


class Published:
    """The open directory of published files, as far as they can be had without waiting for a disk: None where
    that cannot be, or something is wrong; :func:`open_stored` finds the same then, and says it.

    A file system that cannot say what is cached, as overlayfs and FUSE, is waited for by threads.
    """

    def __init__(self, top: int, kind: str) -> None:
        """``top``: a descriptor of the directory, which stays the caller's; ``kind``: its file system."""
        self._top = top
        self._in_memory = kind in IN_MEMORY
        self._says: bool | None = True if self._in_memory else None
        """Whether it can say so; None as long as it was not asked."""

    def read(self, path: str, length: int) -> bytes | None:
        """The content of a small file."""
        content = bytearray(length + 1)
        fd = self._open(path)
        if fd is None:
            return None
        try:
            count = self._read(fd, content)
        except OSError:
            return None
        finally:
            os.close(fd)
        return bytes(memoryview(content)[:length]) if count == length else None

    def open(self, path: str, length: int, sha256: str) -> StoredFile | None:
        """A file, open."""
        fd = self._open(path)
        if fd is None:
            return None
        if self._says is None:
            with contextlib.suppress(OSError):  # it says something, or that it cannot
                self._read(fd, bytearray(1))
        try:
            return _checked(fd, length, sha256)
        except Mismatch:
            return None

    def _open(self, path: str) -> int | None:
        if self._says is False:
            return None
        try:
            return open_beneath(self._top, path.encode(), tree.READ, cached=True)
        except OSError:
            return None

    def _read(self, fd: int, content: bytearray) -> int:
        if self._in_memory:
            return os.preadv(fd, [content], 0)
        try:
            count = read_cached(fd, [content], 0)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._says = False
            raise
        self._says = True
        return count


def _checked(fd: int, length: int, sha256: str) -> StoredFile:
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != length:
        os.close(fd)
        raise Mismatch(f"the file is {facts.st_size} bytes long and not {length}")
    return StoredFile(io.FileIO(fd, "rb"), length, sha256)
