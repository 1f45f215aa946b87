"""Answers with a time to live: lists, ``@latest``, queries.

diskcache holds them; blobs never go in (it neither renames nor syncs its value files). Every value
stays in its database row, so that an answer is there whole or not at all.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import diskcache

from goproxy_vm.cache.plain import STORED, CachedAnswer, Found, ReadOnly, look_up, open_cache
from goproxy_vm.cache.threads import slices
from goproxy_vm.cache.walk import SLICE, Queue, Step, Walk, fitting
from goproxy_vm.errors import MalformedPath
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import unescape_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.threads import Threads

log = get_logger("cache")

T = TypeVar("T")

NORMAL, FULL = 1, 2
"""SQLite's ``synchronous``: whether a commit is on disk when it is done only matters in a move."""
SPARE_SHARE = 4
"""A quarter of the bound is left to the log of what goes: until it is
folded in, the database keeps its size."""
MOST_SPARE = 64 << 20
"""Bytes left so at most."""
ABSENT = "absent/"
"""What the keys of absences begin with; no module path does, for want of a dot."""
VULNDB = "vulndb"
"""What the keys of files of the vulnerability database begin with, before a slash; and their tag."""
UNBOUNDED = sys.maxsize
OVERHEAD = 64 << 10
"""Bytes that a write may take beside its values: pages of indexes, and what the file has to begin with."""


@dataclass(frozen=True, slots=True)
class Desks:
    """The threads of diskcache's databases, one each: who reads waits for no write."""

    reader: Threads
    writer: Threads


def module_of(key: str) -> str:
    """The module that an answer is about, by its key, which is the path that was asked for, after ``absent/``
    perhaps; ``vulndb`` where it is a file of the vulnerability database, empty where it is about none."""
    if key.startswith(f"{VULNDB}/"):
        return VULNDB
    escaped, at, _ = key.removeprefix(ABSENT).partition("/@")
    try:
        return unescape_path(escaped) if at else ""
    except MalformedPath:
        return ""


class Answers:
    """The answers on disk. No method raises for the disk's sake: what cannot be read is missing,
    what cannot be written is not kept; both are logged.

    diskcache is asked by its public methods alone. It keeps rows in the order in which they were inserted, so
    that what is stored again is inserted anew; and what tag a row has follows from its key.
    """

    def __init__(
        self,
        directory: Path,
        cache: diskcache.Cache | ReadOnly,
        anchor: sqlite3.Connection,
        desks: Desks,
        health: Health,
        *,
        tag_of: Callable[[str], str],
        precious: bool,
        most_bytes: int,
    ) -> None:
        self._directory = directory
        self._tag_of = tag_of
        self._precious = precious
        self._most_bytes = most_bytes - min(most_bytes // SPARE_SHARE, MOST_SPARE)
        self._writing = asyncio.Lock()
        """Held from making room to the write that takes it."""
        self._cache = cache
        self._anchor = anchor
        """The connection by which all others of this process share memory; and it folds the log in."""
        self._exchanging = threading.Lock()
        """Held by who reads, and while the database is closed and opened anew: what is stored is found then
        too, and SQLite dies of a connection that is closed under a statement of another thread."""
        self._queues: dict[str, Queue] = {}
        """Of the tags that go before others; for the thread that writes."""
        self._desks = desks
        self._health = health

    @classmethod
    async def open(
        cls,
        directory: Path,
        desks: Desks,
        health: Health,
        *,
        tag_of: Callable[[str], str] = module_of,
        precious: bool = False,
        most_bytes: int = UNBOUNDED,
    ) -> Answers:
        """Open the answers; what is there is deleted if it is damaged. Where they can be read only, or not at
        all, that is what they do until :meth:`retry` succeeds.

        ``tag_of`` a key is what :meth:`drop` takes. ``precious``: other processes, such as a backup, may read
        them, if that cannot kill this one on a full disk; and what is damaged is put aside, beside the
        directory, and not deleted.
        """
        cache, anchor = await desks.writer.run(open_cache, directory, precious=precious)
        if isinstance(cache, ReadOnly):
            health.failed(cache.error, directory.name)
        return cls(
            directory,
            cache,
            anchor,
            desks,
            health,
            tag_of=tag_of,
            precious=precious,
            most_bytes=most_bytes,
        )

    async def retry(self) -> None:
        """Try to write. sqlite3.Error, OSError: it fails."""
        before = self._cache
        try:
            await self._desks.writer.run(self._retry)
        finally:
            if self._cache is not before:
                await self._desks.reader.run(before.close)  # diskcache has a connection for each thread

    def _retry(self) -> None:
        there = (self._directory / diskcache.core.DBNAME).exists()
        if there and not isinstance(self._cache, ReadOnly):
            self._cache.reset("cull_limit", 0)  # which it is
            return
        with self._exchanging:
            self._close()
            self._cache, self._anchor = open_cache(self._directory, precious=self._precious)
        self._queues = {}
        if isinstance(self._cache, ReadOnly):
            raise self._cache.error.with_traceback(None)

    async def close(self) -> None:
        """Close the database, in the threads that have opened it."""
        await self._desks.reader.run(self._cache.close)
        await self._desks.writer.run(self._close)

    def _close(self) -> None:
        self._anchor.close()
        self._cache.close()

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer stored under that key, however old, unless it was past its ``keep``."""
        return (await self.get_all([key])).get(key)

    async def get_all(self, keys: Sequence[str]) -> dict[str, CachedAnswer]:
        """The answers that are stored under those keys, as :meth:`get`."""
        nothing: Found = {}, []
        found, refused = await self._attempt(nothing, self._look, keys, of=self._desks.reader)
        await self.delete_all(refused)
        return found

    async def set(self, key: str, data: bytes, *, keep: float | None) -> None:
        """Store an answer for ``keep`` seconds (None: for ever); not one for which the bound has no room."""
        need = needed([data])
        if need > self._most_bytes:
            log.warning("answer not kept", key=key, bytes=len(data), most=self._most_bytes)
            return
        most = self._most_bytes - need
        async with self._writing:
            while await self.set_all({key: data}, most_bytes=most, keep=keep) is False:
                if not await self._attempt(0, self._drop_oldest):
                    return

    async def set_all(
        self, answers: Mapping[str, bytes], *, most_bytes: int = UNBOUNDED, keep: float | None = None
    ) -> bool | None:
        """Store answers, for ``keep`` seconds or for ever, all or none of them; whether their database takes
        no more than ``most_bytes`` before that. None: the disk failed."""
        stored = await self._attempt(None, self._set_all, answers, most_bytes, keep)
        if stored:
            self._health.succeeded(self._directory.name)
        return stored

    def _set_all(self, answers: Mapping[str, bytes], most_bytes: int, keep: float | None) -> bool:
        if not self._within(most_bytes):
            return False
        with self._cache.transact():
            for key, data in answers.items():
                self._put(key, STORED.pack(time.time()) + data, keep)
        return True

    def _put(self, key: str, value: bytes, keep: float | None) -> None:
        self._cache.delete(key)  # a row that is updated keeps its place in the order
        self._cache.set(key, value, expire=keep, tag=self._tag_of(key))
        for queue in self._queues.values():
            queue.stored(key)

    async def delete(self, key: str) -> None:
        """Forget one answer."""
        await self.delete_all([key])

    async def drop(self, tag: str) -> int:
        """Forget all answers with that tag; their number."""
        return await self._attempt(0, lambda: self._cache.evict(tag))

    async def count(self, tags: Iterable[str]) -> int:
        """How many answers :meth:`drop` would forget for those tags."""
        wanted = frozenset(tags)
        return sum([tag in wanted async for tag in self._tags()])

    async def modules(self, matches: Callable[[str, str], bool]) -> frozenset[str]:
        """The tags that a selection of versions means: modules of which any version may be selected."""
        # Without a dot it is no module: records that an earlier version kept here.
        tags = {tag async for tag in self._tags() if "." in tag}
        return frozenset({tag async for some in slices(list(tags)) for tag in some if matches(tag, "")})

    async def _tags(self) -> AsyncIterator[str]:
        """The tag of each answer."""
        async for tags in self._walk(self._tag_of):
            for tag in tags or ():
                yield tag

    async def _walk(self, of: Callable[[str], str]) -> AsyncIterator[list[str] | None]:
        """What ``of`` says of each key, in the order of their storing, a few at a time for who else writes;
        None at the end where the disk failed."""
        walk = Walk(self._cache)
        while (some := await self._attempt(None, lambda: list(map(of, walk.next())))) != []:
            yield some
            if some is None:
                return

    async def trim(self, most_bytes: int | None = None) -> int:
        """Forget what is too old to be of use, then the oldest until the rest fits into ``most_bytes`` (None:
        into the bound); how many. A slice at a time, for who else writes."""
        most = self._most_bytes if most_bytes is None else most_bytes
        removed = await self._attempt(0, self._expire)
        while not await self.within(most) and (done := await self._attempt(0, self._drop_oldest)):
            removed += done
        return removed

    async def within(self, most_bytes: int) -> bool:
        """Whether their database takes no more than that; True where nobody can say."""
        return await self._attempt(True, self._within, most_bytes)

    async def oldest(self, tag: str | None = None) -> Step:
        """Keys of some answers that were stored first, of all or of those with a tag; of these a walk may
        take a while to find the next ones."""
        return await self._attempt(Step(ended=True), self._oldest, tag)

    def _oldest(self, tag: str | None = None) -> Step:
        if tag is None:
            going = fitting(self._cache, Walk(self._cache).next())
            return Step(going, ended=not going)
        if tag not in self._queues:
            self._queues[tag] = Queue(self._cache, self._tag_of, tag)
        return self._queues[tag].next()

    def _drop_oldest(self) -> int:
        return self._delete_all(self._oldest().keys)

    async def delete_all(self, keys: Sequence[str]) -> int | None:
        """Forget answers, all or none of them; how many went. None: the disk failed."""
        return await self._attempt(None, self._delete_all, keys) if keys else 0

    async def move(self, prefix: str, other: Answers, place: Callable[[str], str]) -> int:
        """Move the answers whose keys begin with ``prefix`` to another store of the same threads; how many.
        ``place`` says under which key.

        A few at a time, each on disk there before it goes here: whenever it ends, nothing is lost.
        """
        keys = await self.keys(prefix) or []
        moved = 0
        for start in range(0, len(keys), SLICE):
            done = await self._attempt(None, self._move, keys[start : start + SLICE], other, place)
            if done is None:
                break
            moved += done
        return moved

    async def keys(self, prefix: str) -> list[str] | None:
        """The keys that begin with ``prefix``, in the order of their storing; None: the disk failed."""
        found: list[str] = []
        async for keys in self._walk(str):
            if keys is None:
                return None
            found += [key for key in keys if key.startswith(prefix)]
        return found

    async def size(self) -> tuple[int, int]:
        """Answers stored, and bytes of their database with its log."""
        return await self._attempt((0, 0), lambda: (len(self._cache), self._volume()))

    def _volume(self) -> int:
        # Of the database; what diskcache adds are files of values, of which there are none.
        return int(self._cache.volume()) + self._log_size()

    def _log_size(self) -> int:
        try:
            return (self._directory / f"{diskcache.core.DBNAME}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _within(self, most_bytes: int) -> bool:
        if most_bytes >= UNBOUNDED or self._volume() <= most_bytes:
            return True
        if isinstance(self._cache, ReadOnly) or not self._log_size():
            return False
        # What was deleted, or written, a moment ago is in the log, and may be in the database as well.
        self._anchor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._volume() <= most_bytes

    def _delete_all(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        with self._cache.transact():
            gone = sum(map(bool, map(self._cache.delete, keys)))
        if gone < len(keys):  # diskcache deletes nothing that is past its keep
            gone += self._expire()
        for queue in self._queues.values():
            queue.gone(keys)
        return gone

    def _expire(self) -> int:
        return int(self._cache.expire())

    def _move(self, keys: Sequence[str], other: Answers, place: Callable[[str], str]) -> int:
        other._cache.reset("sqlite_synchronous", FULL, update=False)
        try:
            with other._cache.transact():
                found, _ = look_up(self._cache, keys)
                for key, answer in found.items():
                    other._take(answer, place(key))
        finally:
            other._cache.reset("sqlite_synchronous", NORMAL, update=False)
        self._delete_all(keys)
        return len(found)

    def _take(self, found: CachedAnswer, key: str) -> None:
        """Store what another store had, unless there is more of it here."""
        here = look_up(self._cache, [key])[0].get(key)
        if here is None or len(here.data) < len(found.data):
            self._put(key, STORED.pack(found.stored) + found.data, None)

    def _look(self, keys: Sequence[str]) -> Found:
        with self._exchanging:
            return look_up(self._cache, keys)

    async def _attempt(
        self, otherwise: T, function: Callable[..., T], *args: object, of: Threads | None = None
    ) -> T:
        """What a function says, in the thread that writes unless another is named."""
        try:
            return await (of or self._desks.writer).run(function, *args)
        except (sqlite3.Error, OSError, diskcache.Timeout) as error:
            locked = isinstance(error, diskcache.Timeout)
            log.warning(
                "cached answers unavailable", reason="the database is locked" if locked else str(error)
            )
            if not locked:
                self._health.failed(error, self._directory.name)
            self._queues = {}  # what they have passed may still be there
            return otherwise


def needed(values: Iterable[bytes]) -> int:
    """Bytes that storing values may take on the disk: in the log, and then in the database."""
    return 2 * sum(map(len, values)) + OVERHEAD
