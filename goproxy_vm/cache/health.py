"""Whether the cache directory takes what is written to it."""

from __future__ import annotations

import errno
import sqlite3

DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors that say the disk is full, failing or read-only; others concern one file only."""


class Health:
    """The outcome of the last write to the cache directory, for ``/readyz``."""

    def __init__(self) -> None:
        self.writable = True
        """False from a write that failed for the disk's sake until the next one that succeeds."""

    def failed(self, error: Exception) -> None:
        """Note a failed write; an error that is not the disk's (a name too long) changes nothing."""
        if isinstance(error, sqlite3.Error) or (isinstance(error, OSError) and error.errno in DISK_TROUBLE):
            self.writable = False

    def succeeded(self) -> None:
        """Note a write that succeeded."""
        self.writable = True


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk, or this user's share of it, has no room."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def reason(error: Exception) -> str:
    """The error as a short phrase for people, without paths of this host."""
    phrase = error.strerror if isinstance(error, OSError) else str(error)
    return phrase or type(error).__name__
