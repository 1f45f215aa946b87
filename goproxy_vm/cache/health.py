"""Whether the cache directory takes what is written to it."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from typing import Protocol

from goproxy_vm.observe.logs import get_logger

log = get_logger("cache")

OF_THE_NAME = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ELOOP,
        errno.EINVAL,
        errno.EILSEQ,
    }
)
"""Errors of publishing that speak of the name a module has, or of what stands in its place."""
FULL = "the disk is full; make room on it, nothing need be restarted"
SHMSIZE = 4874
"""SQLITE_IOERR_SHMSIZE, which sqlite3 has no name for: no room for the memory that connections share."""


class NameRefused(OSError):
    """A file cannot be published under its own name: others can be."""


class Health:
    """What of the cache directory could not be written when that was tried last, for ``/readyz``.

    Kept by place: ``files`` (tmp/ and modules/), ``index``, the directories of answers, ``heads``. Only a
    success of the same place ends a failure: a list that was stored says nothing of tmp/.
    """

    def __init__(self) -> None:
        self.degraded = asyncio.Event()
        """Set while anything cannot be written."""
        self._troubles: dict[str, str] = {}

    @property
    def writable(self) -> bool:
        """Whether the last write to each place succeeded."""
        return not self._troubles

    @property
    def trouble(self) -> str:
        """Why something cannot be written, as a phrase; empty where all can."""
        return "; ".join(dict.fromkeys(self._troubles.values()))

    def failing(self, place: str) -> bool:
        """Whether the last write to a place failed."""
        return place in self._troubles

    def failed(self, error: Exception, place: str = "") -> None:
        """Note a failed write, of the index or of files unless a place is given; what concerns one file
        only changes nothing."""
        if isinstance(error, NameRefused):
            return
        place = place or ("index" if isinstance(error, sqlite3.Error) else "files")
        why = FULL if is_full(error) else reason(error)
        if place not in self._troubles:
            log.error("cache not writable", place=place, reason=why)
        self._troubles[place] = why
        self.degraded.set()

    def succeeded(self, *places: str) -> None:
        """Note a write that succeeded."""
        for place in places:
            if self._troubles.pop(place, None) is not None:
                log.info("cache writable again", place=place)
        if not self._troubles:
            self.degraded.clear()


class Written(Protocol):
    """What is written to, as far as it tells whether that succeeds: :class:`Health`, and the store."""

    @property
    def writable(self) -> bool:
        """Whether the last write to each place succeeded."""
        ...

    @property
    def trouble(self) -> str:
        """Why not, as a phrase."""
        ...


def readiness(store: Written) -> str:
    """``ready``, or ``degraded`` with the reason; both mean that hits are served."""
    if store.writable:
        return "ready"
    return f"degraded: the store cannot be written ({store.trouble}); stored files are served"


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk, or this user's share of it, has no room."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_FULL, SHMSIZE)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def reason(error: Exception) -> str:
    """The error as a short phrase for people, without paths of this host."""
    phrase = error.strerror if isinstance(error, OSError) else str(error)
    return phrase or type(error).__name__
