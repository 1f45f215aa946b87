"""The store: published files with their index, downloads on their way there, and cached answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, TypeVar

from goproxy_vm.cache.admission import Admission
from goproxy_vm.cache.answers import Answers
from goproxy_vm.cache.commit import CommitQueue
from goproxy_vm.cache.download import Download
from goproxy_vm.cache.files import Entry, Kind, Mismatch, StoredFile, open_stored
from goproxy_vm.cache.heads import Heads
from goproxy_vm.cache.health import Health, reason
from goproxy_vm.cache.index import Index, Known, Statistics, Touch
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.lock import DirectoryLock
from goproxy_vm.cache.publish import Item
from goproxy_vm.cache.threads import Threads
from goproxy_vm.errors import ContentError, NoRoom, StartError
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from goproxy_vm.cache.admission import Reservation
    from goproxy_vm.cache.publish import Checkpoint

log = get_logger("cache")

T = TypeVar("T")

ENTRIES = 20_000
"""Entries kept in memory, the most recently used."""
FLUSH_INTERVAL = 60.0
"""Seconds between two flushes of hits to the index: a hit itself writes nothing."""
STATISTICS_AGE = 1.0
"""Seconds for which the totals are not counted again."""


class Store:
    """Everything below one cache directory. One event loop, one owner; see :meth:`open`."""

    heads: Heads
    """The signed tree heads of checksum databases."""
    answers: Answers
    """Lists, ``@latest``, queries, checksum-database records: answers with a time to live."""

    def __init__(self, layout: Layout) -> None:
        self.admission = Admission()
        """Room in the budget."""
        self._layout = layout
        self._health = Health()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._touches: dict[str, Touch] = {}
        self._counted: tuple[float, Statistics] | None = None
        self._exits = contextlib.AsyncExitStack()
        self._index: Index
        self._queue: CommitQueue
        self._database: Threads
        self._hits: Threads
        self._downloads: Threads

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        lock_wait: float = 5.0,
        checkpoint: Checkpoint | None = None,
        flush_interval: float = FLUSH_INTERVAL,
    ) -> Store:
        """Take possession of a cache directory, made if need be.

        ``lock_wait``: seconds to wait for another server to leave it. ``checkpoint``: called before each
        step of the write protocol, for tests. StartError: it cannot be used, in one line that says why.
        """
        layout = Layout.at(root)
        store = cls(layout)
        async with contextlib.AsyncExitStack() as stack:
            layout.prepare()
            stack.callback((await DirectoryLock.acquire(layout, lock_wait)).release)
            await store._open(stack, checkpoint, flush_interval)
            store._exits = stack.pop_all()
        return store

    async def _open(
        self, stack: contextlib.AsyncExitStack, checkpoint: Checkpoint | None, flush_interval: float
    ) -> None:
        # What is entered first is left last.
        self._database = self._threads(stack, "database", 1)
        self._hits = self._threads(stack, "hits", 4)
        self._downloads = self._threads(stack, "downloads", 4)
        self.heads = Heads(self._layout, self._downloads)
        self._index = await self._database.run(Index.open, self._layout.index)
        stack.push_async_callback(self._database.run, self._index.close)
        try:
            self.answers = await Answers.open(self._layout.answers, self._database, self._health)
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"{self._layout.answers}: {reason(error)}") from error
        stack.push_async_callback(self.answers.close)
        removed = await self._downloads.run(self._layout.sweep)
        if removed:
            log.info("temporary files of an earlier run deleted", count=removed)
        stack.push_async_callback(self._flush_touches)
        self._queue = CommitQueue(self._index, self._database, self._health, self._stored, checkpoint)
        stack.push_async_callback(self._queue.close)
        flusher = asyncio.create_task(self._flush_regularly(flush_interval), name="recency")
        stack.push_async_callback(_cancel, flusher)

    @staticmethod
    def _threads(stack: contextlib.AsyncExitStack, name: str, count: int) -> Threads:
        threads = Threads(name, count)
        stack.callback(threads.close)
        return threads

    async def close(self) -> None:
        """Store what is queued and leave the directory; a second call does nothing.

        Nothing else may use the store meanwhile; files handed out stay readable.
        """
        await self._exits.aclose()

    @property
    def writable(self) -> bool:
        """False while the last write failed because the disk is full, failing or read-only."""
        return self._health.writable

    async def get(self, path: str) -> StoredFile | None:
        """The stored file with that escaped path, to be closed by the caller; None where there is none.

        A proven file that awaits its commit is there already. A file that is not on record is not
        served, one whose size differs from the record is dropped. NoRoom: the host cannot open it now.
        """
        try:
            try:
                stored = await self._get(path)
            except Mismatch:
                stored = await self._get_or_drop(path)
        except OSError as error:
            log.warning("stored file not opened", path=path, reason=reason(error))
            raise NoRoom(f"this host cannot open the stored file: {reason(error)}") from error
        if stored is not None:
            self._touch(path)
        return stored

    def download(self) -> Download:
        """A sink for one file from an upstream; its user discards it in a ``finally``."""
        return Download(self._layout.temporary(), self.admission, self._downloads, self._health)

    async def put(self, path: str, data: bytes, *, h1: str | None, module: str, version: str) -> StoredFile:
        """Store small proven bytes: visible when this returns, durable soon after; the same file.

        The h1, if any, is remembered as the one seen first. ContentError: another one is on record.
        NoRoom: the index cannot be read.
        """
        kind = await self._hold_to_first_seen(path, h1, module, version)
        await self._queue.room()
        reservation = await self.admission.reserve(len(data))
        content = StoredFile(data, len(data), hashlib.sha256(data).hexdigest())
        self._enqueue(path, module, version, kind, h1, content, self._layout.temporary(), reservation)
        return content.share()

    async def adopt(self, path: str, download: Download, *, h1: str, module: str, version: str) -> StoredFile:
        """Store a proven download: visible when this returns, durable soon after; the same file, open.

        ContentError: another h1 is on record. NoRoom: the disk or the index failed. In both cases the
        download is still the caller's.
        """
        kind = await self._hold_to_first_seen(path, h1, module, version)
        await self._queue.room()
        await download.finish()
        file = (download.path, download.length, download.sha256)
        try:
            with contextlib.ExitStack() as opened:
                content = opened.enter_context(await self._hits.open(open_stored, *file))
                answer = opened.enter_context(content.share())
                reservation = await download.hand_over()
                opened.pop_all()
        except (OSError, Mismatch) as error:
            raise NoRoom(f"this host cannot read what it just wrote: {reason(error)}") from error
        self._enqueue(path, module, version, kind, h1, content, download.path, reservation)
        return answer

    async def known(self, module: str, version: str) -> Known:
        """The h1 hashes that version had when first seen; they outlive its files.

        NoRoom: the index cannot be read, and without it nothing can be held to what was seen first.
        """
        recorded = await self._ask(None, self._index.known, module, version)
        if recorded is None:
            raise NoRoom("this host cannot read its index")
        return recorded

    async def remember(self, module: str, version: str, kind: Literal["mod", "zip"], h1: str) -> str:
        """Keep the h1 of a version first seen now; the one on record, which is never overwritten.

        NoRoom as :meth:`known`; an index that can be read but not written only forgets.
        """
        recorded = await self.known(module, version)
        if (h1_on_record := recorded.mod if kind == "mod" else recorded.zip) is not None:
            return h1_on_record
        return await self._ask(h1, self._index.remember, module, version, kind, h1, time.time())

    async def prove(self, module: str, version: str, hashes: dict[str, str], database: str) -> None:
        """Keep the h1 hashes, by kind (mod, zip), that a checksum database has proven for a version."""
        await self._ask(None, self._index.prove, module, version, hashes, database, time.time())

    async def complete_versions(self, module: str) -> list[str]:
        """The versions of a module whose ``.info``, ``.mod`` and ``.zip`` are all stored, by name."""
        stored = {
            (item.version, item.kind.value) for item in self._queue.pending.values() if item.module == module
        }
        stored.update(await self._ask([], self._index.kinds, module))
        versions = {version for version, _ in stored}
        return sorted(v for v in versions if all((v, kind.value) in stored for kind in Kind))

    async def statistics(self) -> Statistics:
        """Totals over all files on record, at most a second old."""
        now = time.monotonic()
        if self._counted is None or now - self._counted[0] >= STATISTICS_AGE:
            nothing = Statistics(0, 0, 0)
            self._counted = (now, await self._ask(nothing, self._index.statistics))
        return self._counted[1]

    async def _get(self, path: str) -> StoredFile | None:
        pending = self._queue.pending.get(path)
        if pending is not None:
            return pending.content.share()
        entry = self._entries.get(path) or await self._ask(None, self._index.entry, path)
        if entry is None:
            return None
        self._keep(entry)
        file, _ = self._layout.file(path)
        return await self._hits.open(open_stored, file, entry.length, entry.sha256)

    async def _hold_to_first_seen(self, path: str, h1: str | None, module: str, version: str) -> Kind:
        _, kind = self._layout.file(path)
        if h1 is not None and kind is not Kind.INFO:
            recorded = await self.remember(module, version, "mod" if kind is Kind.MOD else "zip", h1)
            if recorded != h1:
                log.error(
                    "content changed", module=module, version=version, kind=kind.value, known=recorded, got=h1
                )
                raise ContentError(f"its {kind} has {h1} but was {recorded} when first seen; refused")
        return kind

    def _enqueue(
        self,
        path: str,
        module: str,
        version: str,
        kind: Kind,
        h1: str | None,
        content: StoredFile,
        temporary: Path,
        reservation: Reservation,
    ) -> None:
        target, _ = self._layout.file(path)
        self._queue.add(Item(path, target, module, version, kind, h1, content, temporary, reservation))

    def _stored(self, item: Item) -> None:
        self._keep(Entry(item.path, item.content.length, item.content.sha256, item.h1))

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.path] = entry
        self._entries.move_to_end(entry.path)
        if len(self._entries) > ENTRIES:
            self._entries.popitem(last=False)

    def _touch(self, path: str) -> None:
        before = self._touches.get(path)
        self._touches[path] = Touch(time.time(), 1 if before is None else before.hits + 1)

    async def _get_or_drop(self, path: str) -> StoredFile | None:
        """Look again, undisturbed by commits; a file that is not the one on record goes, with the record."""
        async with self._queue.disk:
            self._entries.pop(path, None)
            try:
                return await self._get(path)
            except Mismatch as error:
                log.warning("stored file dropped", path=path, reason=reason(error))
                self._entries.pop(path, None)
                await self._ask(None, self._index.remove, path)
                await self._queue.threads.run(_unlink, self._layout.file(path)[0])
                return None

    async def _flush_regularly(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self._flush_touches()

    async def _flush_touches(self) -> None:
        touches, self._touches = self._touches, {}
        if touches:
            await self._ask(None, self._index.touch, touches)

    async def _ask(self, otherwise: T, function: Callable[..., T], *args: object) -> T:
        """What the index says, or ``otherwise`` where it cannot be read or written."""
        try:
            return await self._database.run(function, *args)
        except sqlite3.Error as error:
            log.warning("index unavailable", reason=reason(error))
            self._health.failed(error)
            return otherwise


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
