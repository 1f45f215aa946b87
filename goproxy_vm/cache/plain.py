"""The database of the cached answers: diskcache's, with nothing in it but plain values in their rows.

Everything blocks. diskcache has a connection of its own for each thread that asks it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import diskcache

from goproxy_vm.cache.database import ALONE, damaged, mappable
from goproxy_vm.cache.health import reason
from goproxy_vm.cache.layout import DIRECTORY
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

log = get_logger("cache")

SETTINGS: dict[str, Any] = {
    # "none" and no statistics: a read is one SELECT and not a transaction.
    "eviction_policy": "none",
    "statistics": 0,
    "cull_limit": 0,
    "tag_index": 1,
    # No value is ever long enough for a file of its own.
    "disk_min_file_size": 1 << 40,
    # An I/O error under a memory map would be a SIGBUS.
    "sqlite_mmap_size": 0,
    # Pages of each connection; the system has the rest in its own cache.
    "sqlite_cache_size": 512,
    # After a large write its log does not stay as long as it was.
    "sqlite_journal_size_limit": 4 << 20,
}
RAW = 1
"""diskcache's mode for a value kept as it is in its row."""
PLAIN = (str, bytes, int, float)
NO_ROWS = "CREATE TABLE Cache (key, raw, store_time, expire_time, tag, size, mode, filename, value)"


STORED = struct.Struct(">d")
"""Each value begins with the time it was stored, epoch seconds."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer's bytes, and when they were stored (epoch seconds); whether that is fresh, others decide."""

    data: bytes
    stored: float


Found = tuple[dict[str, CachedAnswer], list[str]]
"""Answers by their keys, and the keys of rows that must not be looked at."""


class UnsafeRow(Exception):
    """A row that this program cannot have written: its value was not looked at."""


class PlainDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """Keys and values are str, bytes, int or float in the row itself, and nothing else.

    diskcache unpickles rows whose mode says so: a planted row would run code (CVE-2025-69872).
    Nor is any file named by a row ever opened or removed.
    """

    def put(self, key: object) -> tuple[object, bool]:
        """The key as it is stored. TypeError unless plain."""
        if type(key) not in PLAIN:
            raise TypeError(f"a key must be str, bytes, int or float, not {type(key).__name__}")
        stored: tuple[object, bool] = super().put(key)
        return stored

    def get(self, key: object, raw: bool) -> object:
        """The key of a row, None unless plain: among all keys one that is planted must end no walk."""
        return super().get(key, raw) if raw else None

    def store(self, value: object, read: bool, key: object = diskcache.UNKNOWN) -> tuple[object, ...]:
        """The value as it is stored. TypeError unless plain."""
        if read or type(value) not in PLAIN:
            raise TypeError(f"a value must be str, bytes, int or float, not {type(value).__name__}")
        stored: tuple[object, ...] = super().store(value, read, key=key)
        return stored

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> object:
        """The value of a row. UnsafeRow unless plain and in the row."""
        if mode != RAW or filename is not None or read or type(value) not in PLAIN:
            raise UnsafeRow(f"its mode is {mode!r}")
        return value

    def remove(self, file_path: object) -> None:
        """Nothing: no row of this program's has a file."""


class PlainCache(diskcache.Cache):  # type: ignore[misc]  # diskcache ships no types
    """A cache that leaves no connection behind when it cannot be opened."""

    def __init__(self, directory: Path) -> None:
        try:
            super().__init__(str(directory), timeout=1, disk=PlainDisk, **SETTINGS)
        except BaseException:
            with contextlib.suppress(AttributeError):  # it failed before there was a connection
                self.close()
            raise


class ReadOnly:
    """In the place of a cache that cannot be opened for writing: it answers what is there, and keeps nothing.

    diskcache writes its settings before anything can be read from it, so that here alone its table is read
    by SQL of ours (docs/decisions/0011-who-waits-for-a-database.md).
    """

    def __init__(self, rows: sqlite3.Connection, error: Exception) -> None:
        self.error = error
        self._rows = rows
        self._lock = threading.Lock()
        """Two threads read by one connection."""

    def get(self, key: str) -> object:
        """As the cache would. UnsafeRow unless plain."""
        with self._lock:
            row = self._rows.execute(
                "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
                " AND (expire_time IS NULL OR expire_time > ?)",
                (key, time.time()),
            ).fetchone()
        if row is None:
            return None
        mode, filename, value = row
        if mode != RAW or filename is not None or type(value) not in PLAIN:
            raise UnsafeRow(f"its mode is {mode!r}")
        return value

    def __iter__(self) -> Iterator[object]:
        last = 0
        while True:
            with self._lock:
                rows = self._rows.execute(
                    "SELECT rowid, key FROM Cache WHERE raw = 1 AND rowid > ? ORDER BY rowid LIMIT 100",
                    (last,),
                ).fetchall()
            if not rows:
                return
            yield from (key for _, key in rows)
            last, _ = rows[-1]

    def __len__(self) -> int:
        with self._lock:
            return int(self._rows.execute("SELECT count(*) FROM Cache").fetchone()[0])

    def volume(self) -> int:
        """Bytes of the database."""
        with self._lock:
            (pages,) = self._rows.execute("PRAGMA page_count").fetchone()
            (size,) = self._rows.execute("PRAGMA page_size").fetchone()
        return int(pages * size)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        with self._lock:
            self._rows.close()

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def refused(*_: object, **__: object) -> NoReturn:
            raise self.error.with_traceback(None)  # else each time makes its traceback longer

        return refused


def look_up(cache: diskcache.Cache | ReadOnly, keys: Sequence[str]) -> Found:
    """What is stored under those keys, unless it is past its keep."""
    found: dict[str, CachedAnswer] = {}
    refused = []
    for key in keys:
        try:
            value = cache.get(key)
            if value is None:
                continue
            if type(value) is not bytes:
                raise UnsafeRow("its value is not bytes")
            found[key] = CachedAnswer(value[STORED.size :], *STORED.unpack_from(value))
        except (UnsafeRow, struct.error, sqlite3.DatabaseError) as error:
            if (
                isinstance(error, sqlite3.DatabaseError)
                and hasattr(error, "sqlite_errorcode")  # text that is none has no code: the row's fault
                and not damaged(error)
            ):
                raise
            log.warning("cached answer refused and deleted", key=key, reason=reason(error))
            refused.append(key)
    return found, refused


def open_cache(directory: Path, *, precious: bool) -> tuple[diskcache.Cache | ReadOnly, sqlite3.Connection]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(directory, DIRECTORY))  # OSError for a link
        if precious and mappable(directory / diskcache.core.DBNAME):
            with contextlib.suppress(sqlite3.OperationalError):  # no room for shared memory, perhaps
                return _open_both(directory, "?")
        return _open_both(directory, ALONE + "&")
    except (sqlite3.Error, OSError, TypeError, ValueError, AttributeError) as error:
        # diskcache obeys settings found in the database; nothing in it is precious.
        if not _unsound(directory, error):
            return _read_only(directory, error)
        log.warning("cached answers begun anew", directory=directory, reason=reason(error))
    try:
        _put_aside(directory, keep=precious)
        directory.mkdir(mode=0o700)
        return _open_both(directory, ALONE + "&")
    except (sqlite3.Error, OSError) as error:
        return _read_only(directory, error)


def _put_aside(directory: Path, *, keep: bool) -> None:
    """Delete what is there, or, where it is of worth, what was put aside before."""
    if keep:
        broken = directory.with_name(f"{directory.name}.broken")
        shutil.rmtree(broken, ignore_errors=True)
        directory.rename(broken)
    else:
        shutil.rmtree(directory)


def _unsound(directory: Path, error: Exception) -> bool:
    """Whether what is there is the fault, and not the disk it lies on."""
    file = directory / diskcache.core.DBNAME
    if isinstance(error, sqlite3.DatabaseError):
        # SQLITE_ERROR: tables that are not diskcache's.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR)
        return damaged(error) or code == sqlite3.SQLITE_ERROR or file.is_dir()
    return not isinstance(error, OSError)


def _open_both(directory: Path, way: str) -> tuple[diskcache.Cache, sqlite3.Connection]:
    rows = _rows(directory, f"{way}mode=rwc")
    try:
        # As this connection is there first, diskcache's shares memory with it in the same way, where it is
        # ALONE not through a file: on a full disk mapped files are a SIGBUS.
        rows.execute("PRAGMA auto_vacuum = FULL")  # as diskcache would: a trim waits for the file to shrink
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute("SELECT count(*) FROM sqlite_master")
        cache = PlainCache(directory)
        rows.execute("DROP INDEX IF EXISTS Cache_store_time")  # of an earlier version of this program
    except BaseException:
        rows.close()
        raise
    rows.execute("PRAGMA query_only = 1")
    return cache, rows


def _rows(directory: Path, mode: str) -> sqlite3.Connection:
    uri = (directory / diskcache.core.DBNAME).as_uri() + mode
    return sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)


def _read_only(directory: Path, error: Exception) -> tuple[ReadOnly, sqlite3.Connection]:
    rows = None
    try:
        rows = _rows(directory, f"{ALONE}&mode=rw")
        rows.execute("PRAGMA query_only = 1")
        rows.execute("SELECT count(*) FROM Cache")
    except sqlite3.Error:
        if rows is not None:
            rows.close()
        rows = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        rows.execute(NO_ROWS)
    log.warning("cached answers cannot be written", directory=directory, reason=reason(error))
    return ReadOnly(rows, error), rows
