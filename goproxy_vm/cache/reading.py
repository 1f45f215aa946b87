"""Opening what is stored, as it is on record or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.files import StoredFile
from goproxy_vm.hostos import open_beneath

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


class Published:
    """The open directory of published files, as far as they can be had without waiting for a disk: None where
    that cannot be, or something is wrong; :func:`open_stored` finds the same then, and says it."""

    def __init__(self, top: int) -> None:
        """``top``: a descriptor of the directory, which stays the caller's."""
        self._top = top
        self._flags = os.RWF_NOWAIT

    def read(self, path: str, length: int) -> bytes | None:
        """The content of a small file."""
        content = bytearray(length + 1)
        try:
            fd = open_beneath(self._top, path.encode(), tree.READ, cached=True)
            if fd is None:
                return None
            try:
                count = self._read(fd, content)
            finally:
                os.close(fd)
        except OSError:
            return None
        return bytes(memoryview(content)[:length]) if count == length else None

    def open(self, path: str, length: int, sha256: str) -> StoredFile | None:
        """A file, open."""
        try:
            fd = open_beneath(self._top, path.encode(), tree.READ, cached=True)
            return None if fd is None else _checked(fd, length, sha256)
        except (OSError, Mismatch):
            return None

    def _read(self, fd: int, content: bytearray) -> int:
        try:
            return os.preadv(fd, [content], 0, self._flags)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        self._flags = 0  # a file system that cannot say is in memory, as tmpfs
        return os.preadv(fd, [content], 0)


def _checked(fd: int, length: int, sha256: str) -> StoredFile:
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != length:
        os.close(fd)
        raise Mismatch(f"the file is {facts.st_size} bytes long and not {length}")
    return StoredFile(io.FileIO(fd, "rb"), length, sha256)
