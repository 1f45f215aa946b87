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


def open_cached(top: int, path: str, length: int, sha256: str) -> StoredFile | None:
    """As :func:`open_stored`, of a file at ``path`` below the open directory ``top``, without waiting for a
    disk; None where that cannot be."""
    fd = open_beneath(top, path, tree.READ, cached=True)
    return None if fd is None else _checked(fd, length, sha256)


def _checked(fd: int, length: int, sha256: str) -> StoredFile:
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != length:
        os.close(fd)
        raise Mismatch(f"the file is {facts.st_size} bytes long and not {length}")
    return StoredFile(io.FileIO(fd, "rb"), length, sha256)
