"""Answers with a time to live: lists, ``@latest``, queries.

diskcache holds them; blobs never go in (it neither renames nor syncs its value files). Every value
stays in its database row, so that an answer is there whole or not at all.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import diskcache

from goproxy_vm.cache.database import damaged
from goproxy_vm.cache.health import reason
from goproxy_vm.cache.plain import ReadOnly, UnsafeRow, open_cache
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.threads import Threads

log = get_logger("cache")

T = TypeVar("T")

NORMAL, FULL = 1, 2
"""SQLite's ``synchronous``: whether a commit is on disk when it is done only matters in a move."""
SLICE = 100
"""Rows that go or move at once: who else asks the database thread waits for that many."""
SLICE_BYTES = 256 << 10
"""Bytes of the rows that go at once, a single one excepted."""
SPARE_SHARE = 4
"""A quarter of the bound is left to the log of what goes: until it is
folded in, the database keeps its size."""
MOST_SPARE = 64 << 20
"""Bytes left so at most."""
STORED = struct.Struct(">d")
"""Each value begins with the time it was stored, epoch seconds."""
UNBOUNDED = sys.maxsize
OVERHEAD = 64 << 10
"""Bytes that a write may take beside its values: pages of indexes, and what the file has to begin with."""


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
        most_bytes: int,
    ) -> None:
        self._directory = directory
        self._precious = precious
        self._most_bytes = most_bytes - min(most_bytes // SPARE_SHARE, MOST_SPARE)
        self._writing = asyncio.Lock()
        """Held from making room to the write that takes it."""
        self._cache = cache
        self._rows = rows
        """For what diskcache has no question: how many have a tag, which are the oldest."""
        self._thread = thread
        self._health = health

    @classmethod
    async def open(
        cls,
        directory: Path,
        thread: Threads,
        health: Health,
        *,
        precious: bool = False,
        most_bytes: int = UNBOUNDED,
    ) -> Answers:
        """Open the answers with the database thread; what is there is deleted if it is damaged. Where they
        can be read only, or not at all, that is what they do until :meth:`retry` succeeds.

        ``precious``: other processes, such as a backup, may read them, if that cannot kill this one on a full
        disk; and what is damaged is put aside, beside the directory, and not deleted.
        """
        cache, rows = await thread.run(open_cache, directory, precious=precious)
        if isinstance(cache, ReadOnly):
            health.failed(cache.error, directory.name)
        return cls(directory, cache, rows, thread, health, precious=precious, most_bytes=most_bytes)

    async def retry(self) -> None:
        """Try to write. sqlite3.Error, OSError: it fails."""
        await self._thread.run(self._retry)

    def _retry(self) -> None:
        there = (self._directory / diskcache.core.DBNAME).exists()
        if there and not isinstance(self._cache, ReadOnly):
            self._cache.reset("cull_limit", 0)  # which it is
            return
        self._close()
        self._cache, self._rows = open_cache(self._directory, precious=self._precious)
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
        """Store an answer for ``keep`` seconds (None: for ever), with ``tag`` for :meth:`drop`; not one for
        which the bound has no room."""
        value = STORED.pack(time.time()) + data
        need = needed([data])
        if need > self._most_bytes:
            log.warning("answer not kept", key=key, bytes=len(data), most=self._most_bytes)
            return
        async with self._writing:
            while not (stored := await self._attempt(None, self._set, key, value, need, tag, keep)):
                # None: the disk failed.
                if stored is None or not await self.delete_all(await self.oldest()):
                    return
        self._health.succeeded(self._directory.name)

    def _set(self, key: str, value: bytes, need: int, tag: str, keep: float | None) -> bool:
        """Whether there was room for it."""
        fits = self._within(self._most_bytes - need)
        if fits:
            self._cache.set(key, value, expire=keep, tag=tag)
        return fits

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
        """Forget all answers stored with that tag, a slice at a time; their number."""
        dropped = 0
        while done := await self.delete_all(await self.oldest(tag)):
            dropped += done
        return dropped

    async def count(self, tags: Iterable[str]) -> int:
        """How many answers :meth:`drop` would forget for those tags."""
        return await self._attempt(0, self._count, sorted(tags))

    async def modules(self, matches: Callable[[str, str], bool]) -> frozenset[str]:
        """The tags that a selection of versions means: modules of which any version may be selected."""
        return await self._attempt(frozenset[str](), self._modules, matches)

    async def trim(self, most_bytes: int | None = None) -> int:
        """Forget what is too old to be of use, then the oldest until the rest fits into ``most_bytes`` (None:
        into the bound); how many. A slice at a time, for who else asks the database thread."""
        most = self._most_bytes if most_bytes is None else most_bytes
        removed = 0
        while done := await self.delete_all(await self._attempt([], self._expired)):
            removed += done
        while not await self.within(most) and (done := await self.delete_all(await self.oldest())):
            removed += done
        return removed

    async def within(self, most_bytes: int) -> bool:
        """Whether their database takes no more than that; True where nobody can say."""
        return await self._attempt(True, self._within, most_bytes)

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
        removed = 0
        while done := await self.delete_all(await self._attempt([], self._beyond, prefix, most)):
            removed += done
        return removed

    async def size(self) -> tuple[int, int]:
        """Answers stored, and bytes of their database with its log."""
        return await self._attempt((0, 0), lambda: (len(self._cache), self._volume()))

    def _volume(self) -> int:
        (pages,) = self._rows.execute("PRAGMA page_count").fetchone()
        (size,) = self._rows.execute("PRAGMA page_size").fetchone()
        return int(pages * size) + self._log_size()

    def _log_size(self) -> int:
        try:
            return (self._directory / f"{diskcache.core.DBNAME}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _within(self, most_bytes: int) -> bool:
        if self._volume() <= most_bytes:
            return True
        if not self._log_size():
            return False
        # What was deleted, or written, a moment ago is in the log, and may be in the database as well.
        self._rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._volume() <= most_bytes

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
            ("SELECT key, length(value) FROM Cache ORDER BY store_time LIMIT ?", (SLICE,))
            if tag is None
            else ("SELECT key, length(value) FROM Cache WHERE tag = ? ORDER BY rowid LIMIT ?", (tag, SLICE))
        )
        return _slice(self._rows.execute(query, values))

    def _expired(self) -> list[str]:
        return _slice(
            self._rows.execute(
                "SELECT key, length(value) FROM Cache WHERE expire_time < ? ORDER BY expire_time LIMIT ?",
                (time.time(), SLICE),
            )
        )

    def _beyond(self, prefix: str, most: int) -> list[str]:
        return _slice(
            self._rows.execute(
                "SELECT key, length(value) FROM Cache WHERE key >= ? AND key < ?"
                " ORDER BY store_time DESC LIMIT ? OFFSET ?",
                (prefix, prefix + "\U0010ffff", SLICE, most),
            )
        )

    def _delete_all(self, keys: Sequence[str]) -> int:
        return int(self._cache.delete_rows(keys)) if keys else 0

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


def needed(values: Iterable[bytes]) -> int:
    """Bytes that storing values may take on the disk: in the log, and then in the database."""
    return 2 * sum(map(len, values)) + OVERHEAD


def _slice(rows: Iterable[tuple[str, int | None]]) -> list[str]:
    """Keys of the first rows, of which each has a length, that may go at once."""
    keys: list[str] = []
    size = 0
    for key, length in rows:
        size += length or 0
        if keys and size > SLICE_BYTES:
            break
        keys.append(key)
    return keys
