"""Answers with a time to live: lists, ``@latest``, queries.

diskcache holds them; blobs never go in (it neither renames nor syncs its value files). Every value
stays in its database row, so that an answer is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import diskcache

from goproxy_vm.cache.database import ALONE, damaged, mappable
from goproxy_vm.cache.health import reason
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.threads import Threads

log = get_logger("cache")

T = TypeVar("T")

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
}
NORMAL, FULL = 1, 2
"""SQLite's ``synchronous``: whether a commit is on disk when it is done only matters in a move."""
RAW = 1
"""diskcache's mode for a value kept as it is in its row."""
PLAIN = (str, bytes, int, float)
SLICE = 100
"""Rows that go or move at once: who else asks the database thread waits for that many."""
NO_ROWS = "CREATE TABLE Cache (key, raw, store_time, expire_time, tag, size, mode, filename, value)"
STORED = struct.Struct(">d")
"""Each value begins with the time it was stored, epoch seconds."""


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
        """The key of a row. UnsafeRow unless plain."""
        if not raw:
            raise UnsafeRow("its key is not plain")
        return super().get(key, raw)

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

    diskcache writes its settings before anything can be read from it.
    """

    def __init__(self, rows: sqlite3.Connection, error: Exception) -> None:
        self.error = error
        self._rows = rows

    def get(self, key: str) -> object:
        """As the cache would. UnsafeRow unless plain."""
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

    def volume(self) -> int:
        """Bytes of the database."""
        (pages,) = self._rows.execute("PRAGMA page_count").fetchone()
        (size,) = self._rows.execute("PRAGMA page_size").fetchone()
        return int(pages * size)

    def __len__(self) -> int:
        return int(self._rows.execute("SELECT count(*) FROM Cache").fetchone()[0])

    def close(self) -> None:
        """Nothing: the connection is another's."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def refused(*_: object, **__: object) -> NoReturn:
            raise self.error.with_traceback(None)  # else each time makes its traceback longer

        return refused


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer's bytes, and when they were stored (epoch seconds); whether that is fresh, others decide."""

    data: bytes
    stored: float


class Answers:
    """The answers on disk. No method raises for the disk's sake: what cannot be read is missing,
    what cannot be written is not kept; both are logged."""

    def __init__(
        self,
        directory: Path,
        cache: diskcache.Cache | ReadOnly,
        rows: sqlite3.Connection,
        thread: Threads,
        health: Health,
        *,
        precious: bool,
    ) -> None:
        self._directory = directory
        self._precious = precious
        self._cache = cache
        self._rows = rows
        """For what diskcache has no question: how many have a tag, which are the oldest."""
        self._thread = thread
        self._health = health

    @classmethod
    async def open(
        cls, directory: Path, thread: Threads, health: Health, *, precious: bool = False
    ) -> Answers:
        """Open the answers with the database thread; what is there is deleted if it is damaged. Where they
        can be read only, or not at all, that is what they do until :meth:`retry` succeeds.

        ``precious``: other processes, such as a backup, may read them, if that cannot kill this one on a full
        disk; and what is damaged is put aside, beside the directory, and not deleted.
        """
        cache, rows = await thread.run(_open_cache, directory, precious=precious)
        if isinstance(cache, ReadOnly):
            health.failed(cache.error, directory.name)
        return cls(directory, cache, rows, thread, health, precious=precious)

    async def retry(self) -> None:
        """Try to write. sqlite3.Error, OSError: it fails."""
        await self._thread.run(self._retry)

    def _retry(self) -> None:
        there = (self._directory / diskcache.core.DBNAME).exists()
        if there and not isinstance(self._cache, ReadOnly):
            self._cache.reset("cull_limit", 0)  # which it is
            return
        self._close()
        self._cache, self._rows = _open_cache(self._directory, precious=self._precious)
        if isinstance(self._cache, ReadOnly):
            raise self._cache.error.with_traceback(None)

    async def close(self) -> None:
        """Close the database, in the thread that opened it."""
        await self._thread.run(self._close)

    def _close(self) -> None:
        self._rows.close()
        self._cache.close()

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer stored under that key, however old, unless it was past its ``keep``."""
        return await self._attempt(None, self._get, key)

    async def set(self, key: str, data: bytes, *, tag: str, keep: float | None) -> None:
        """Store an answer for ``keep`` seconds (None: for ever), with ``tag`` for :meth:`drop`."""
        value = STORED.pack(time.time()) + data
        if await self._attempt(False, functools.partial(self._cache.set, key, value, expire=keep, tag=tag)):
            self._health.succeeded(self._directory.name)

    async def set_all(self, answers: Mapping[str, bytes], *, tag: str) -> bool:
        """Store answers for ever, all or none of them; whether they are."""
        stored = await self._attempt(False, self._set_all, answers, tag)
        if stored:
            self._health.succeeded(self._directory.name)
        return stored

    def _set_all(self, answers: Mapping[str, bytes], tag: str) -> bool:
        with self._cache.transact():
            for key, data in answers.items():
                self._cache.set(key, STORED.pack(time.time()) + data, tag=tag)
        return True

    async def delete(self, key: str) -> None:
        """Forget one answer."""
        await self._attempt(False, self._cache.delete, key)

    async def drop(self, tag: str) -> int:
        """Forget all answers stored with that tag; their number."""
        return await self._attempt(0, self._cache.evict, tag)

    async def count(self, tags: Iterable[str]) -> int:
        """How many answers :meth:`drop` would forget for those tags."""
        return await self._attempt(0, self._count, sorted(tags))

    async def modules(self, matches: Callable[[str, str], bool]) -> frozenset[str]:
        """The tags that a selection of versions means: modules of which any version may be selected."""
        return await self._attempt(frozenset[str](), self._modules, matches)

    async def trim(self, most_bytes: int) -> int:
        """Forget what is too old to be of use, then the oldest until the rest fits; how many."""
        removed = await self._attempt(0, self._cache.expire)
        while await self.volume() > most_bytes and (done := await self.delete_all(await self.oldest())):
            removed += done
        return int(removed)

    async def volume(self) -> int:
        """Bytes of their database."""
        return await self._attempt(0, self._volume)

    async def oldest(self, tag: str | None = None) -> list[str]:
        """Keys of some answers that were stored first, of all or of those with a tag."""
        return await self._attempt([], self._oldest, tag)

    async def delete_all(self, keys: Sequence[str]) -> int:
        """Forget answers, all or none of them; how many."""
        return await self._attempt(0, self._delete_all, keys)

    async def move(self, tag: str, other: Answers, place: Callable[[str], tuple[str, str]]) -> int:
        """Move the answers with that tag to another store of the same thread; how many. ``place`` says under
        which key and tag.

        A few at a time, each on disk there before it goes here: whenever it ends, nothing is lost.
        """
        moved = 0
        while done := await self._attempt(0, self._move, tag, other, place):
            moved += done
        return moved

    async def keys(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``."""
        return await self._attempt([], self._keys, prefix)

    async def bound(self, prefix: str, most: int) -> int:
        """Forget the oldest answers whose keys begin with ``prefix`` until ``most`` are left; how many."""
        return await self._attempt(0, self._bound, prefix, most)

    async def size(self) -> tuple[int, int]:
        """Answers stored, and bytes of their database."""
        return await self._attempt((0, 0), lambda: (len(self._cache), self._volume()))

    def _volume(self) -> int:
        return int(self._cache.volume())

    def _count(self, tags: Iterable[str]) -> int:
        query = "SELECT count(*) FROM Cache WHERE tag = ?"
        return sum(self._rows.execute(query, (tag,)).fetchone()[0] for tag in tags)

    def _modules(self, matches: Callable[[str, str], bool]) -> frozenset[str]:
        tags = self._rows.execute("SELECT DISTINCT tag FROM Cache").fetchall()
        # Without a dot it is no module: records that an earlier version kept here.
        return frozenset(tag for (tag,) in tags if type(tag) is str and "." in tag and matches(tag, ""))

    def _oldest(self, tag: str | None) -> list[str]:
        # An index has the order of the first storing within a tag.
        query, values = (
            ("SELECT key FROM Cache ORDER BY store_time LIMIT ?", (SLICE,))
            if tag is None
            else ("SELECT key FROM Cache WHERE tag = ? ORDER BY rowid LIMIT ?", (tag, SLICE))
        )
        return [key for (key,) in self._rows.execute(query, values)]

    def _delete_all(self, keys: Sequence[str]) -> int:
        with self._cache.transact():
            return sum(map(self._cache.delete, keys))

    def _move(self, tag: str, other: Answers, place: Callable[[str], tuple[str, str]]) -> int:
        keys = self._oldest(tag)
        other._cache.reset("sqlite_synchronous", FULL, update=False)
        try:
            with other._cache.transact():
                for key in keys:
                    found = self._get(key)
                    if found is not None:
                        other._take(found, *place(key))
        finally:
            other._cache.reset("sqlite_synchronous", NORMAL, update=False)
        return self._delete_all(keys)

    def _take(self, found: CachedAnswer, key: str, tag: str) -> None:
        """Store what another store had, unless there is more of it here."""
        here = self._get(key)
        if here is None or len(here.data) < len(found.data):
            self._cache.set(key, STORED.pack(found.stored) + found.data, tag=tag)

    def _keys(self, prefix: str) -> list[str]:
        rows = self._rows.execute(
            "SELECT key FROM Cache WHERE key >= ? AND key < ?", (prefix, prefix + "\U0010ffff")
        )
        return [key for (key,) in rows]

    def _bound(self, prefix: str, most: int) -> int:
        rows = self._rows.execute(
            "SELECT key FROM Cache WHERE key >= ? AND key < ? ORDER BY store_time DESC LIMIT -1 OFFSET ?",
            (prefix, prefix + "\U0010ffff", most),
        ).fetchall()
        return self._delete_all([key for (key,) in rows])

    def _get(self, key: str) -> CachedAnswer | None:
        try:
            value = self._cache.get(key)
            if value is None:
                return None
            if type(value) is not bytes:
                raise UnsafeRow("its value is not bytes")
            return CachedAnswer(value[STORED.size :], *STORED.unpack_from(value))
        except (UnsafeRow, struct.error, sqlite3.DatabaseError) as error:
            if (
                isinstance(error, sqlite3.DatabaseError)
                and hasattr(
                    error, "sqlite_errorcode"
                )  # text that is none has no code, and is the row's fault
                and not damaged(error)
            ):
                raise
            log.warning("cached answer refused and deleted", key=key, reason=reason(error))
            self._cache.delete(key)
            return None

    async def _attempt(self, otherwise: T, function: Callable[..., T], *args: object) -> T:
        try:
            return await self._thread.run(function, *args)
        except (sqlite3.Error, OSError, diskcache.Timeout) as error:
            # diskcache's Timeout says nothing.
            log.warning("cached answers unavailable", reason=str(error) or "the database is locked")
            if not isinstance(error, diskcache.Timeout):
                self._health.failed(error, self._directory.name)
            return otherwise


def _open_cache(directory: Path, *, precious: bool) -> tuple[diskcache.Cache | ReadOnly, sqlite3.Connection]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    except BaseException:
        rows.close()
        raise
    rows.execute("PRAGMA query_only = 1")
    return cache, rows


def _rows(directory: Path, mode: str) -> sqlite3.Connection:
    uri = (directory / diskcache.core.DBNAME).as_uri() + mode
    return sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None)


def _read_only(directory: Path, error: Exception) -> tuple[ReadOnly, sqlite3.Connection]:
    try:
        rows = _rows(directory, f"{ALONE}&mode=rw")
        rows.execute("PRAGMA query_only = 1")
        rows.execute("SELECT count(*) FROM Cache")
    except sqlite3.Error:
        rows = sqlite3.connect(":memory:", isolation_level=None)
        rows.execute(NO_ROWS)
    log.warning("cached answers cannot be written", directory=directory, reason=reason(error))
    return ReadOnly(rows, error), rows
