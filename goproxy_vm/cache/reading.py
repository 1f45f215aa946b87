"""Opening what is stored, as it is on record or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.files import StoredFile

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
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != length:
        os.close(fd)
        raise Mismatch(f"the file is {facts.st_size} bytes long and not {length}")
    return StoredFile(io.FileIO(fd, "rb"), length, sha256)
