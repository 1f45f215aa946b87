"""The store: published files with their index, downloads on their way there, and cached answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from typing import TYPE_CHECKING, Self, TypeVar

from goproxy_vm.cache import tree
from goproxy_vm.cache.background import cancel
from goproxy_vm.cache.download import Download
from goproxy_vm.cache.files import StoredFile
from goproxy_vm.cache.finder import Finder
from goproxy_vm.cache.hashes import Hashes
from goproxy_vm.cache.health import reason
from goproxy_vm.cache.layout import free_bytes
from goproxy_vm.cache.opening import Parts, begin_work, open_parts
from goproxy_vm.cache.publish import Item
from goproxy_vm.cache.reader import Reader
from goproxy_vm.cache.reading import Mismatch, open_stored
from goproxy_vm.cache.recency import begin_clock
from goproxy_vm.cache.reports.figures import Figures
from goproxy_vm.cache.rows import Known, Proven, Sight
from goproxy_vm.cache.upkeep.strays import Strays
from goproxy_vm.config import Settings
from goproxy_vm.errors import NoRoom, Unavailable
from goproxy_vm.hostos import boot_id
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from goproxy_vm.cache.admission import Reservation
    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.database import Database
    from goproxy_vm.cache.facts import Pass, Recovery
    from goproxy_vm.cache.opening import Observer
    from goproxy_vm.cache.publish import Checkpoint
    from goproxy_vm.cache.upkeep.recovery import Prove
    from goproxy_vm.protocol.artifact import Artifact, Kind

AT_ONCE = 64 << 10
"""Bytes that wait in memory for their commit, and for whoever reads them; a ``.mod`` may have 16 MiB."""

log = get_logger("cache")

T = TypeVar("T")


class _Silent:
    """Tells nobody."""

    def eviction(self, reason: str, size: int, idle_seconds: float | None) -> None:
        """Nothing."""

    def scrubbed(self, size: int) -> None:
        """Nothing."""

    def corrupt(self) -> None:
        """Nothing."""


class Store:
    """Everything below one cache directory. One event loop, one owner; see :meth:`open`."""

    def __init__(self, parts: Parts, settings: Settings, exits: contextlib.AsyncExitStack) -> None:
        self.heads = parts.heads
        """The signed tree heads of checksum databases."""
        self.answers = parts.answers
        """Lists, ``@latest``, queries: answers with a time to live."""
        self.records = parts.records
        """Proven records and tiles of checksum databases."""
        self.admission = parts.core.admission
        """Room in the budget."""
        self.usage = parts.core.usage
        """How much is stored."""
        self.control = parts.control
        """What an operator may ask."""
        self.vms = parts.vms
        """What VMs have told of themselves."""
        self.purges = parts.purges
        """What an operator may have removed."""
        self.fences = parts.core.fences
        """What purges have put an end to."""
        self._parts = parts
        self._core = parts.core
        self._memory = parts.core.memory
        self._queue = parts.core.queue
        self._exits = exits
        self._hashes = Hashes(parts.core, parts.wall)
        self._finder = Finder(parts.core, parts.scrub, parts.hits, parts.published)
        self.strays = Strays(
            parts.core,
            parts.control,
            parts.recoverer,
            parts.downloads,
            self._hashes.hold,
            self._finder.open,
        )
        """Files without a record."""
        self.figures = Figures(parts, settings)
        """What there is, in figures."""

    @classmethod
    async def open(
        cls,
        root: Path,
        settings: Settings | None = None,
        *,
        lock_wait: float = 5.0,
        checkpoint: Checkpoint | None = None,
        observer: Observer | None = None,
        boot: str | None = None,
        begin: Callable[[Database], LogicalClock] = begin_clock,
        free: Callable[[Path], int] = free_bytes,
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Take possession of a cache directory, made if need be.

        ``lock_wait``: seconds to wait for another server to leave it. ``checkpoint``: called before each
        step of the write protocol, for tests. ``observer`` is told what goes and what was checked.
        ``boot`` names this boot of the host, as the system does if None. ``begin``, ``free`` and ``wall``:
        see :func:`open_parts`. StartError: it cannot be used, in one line that says why.
        """
        settings = settings or Settings(cache_dir=root)
        async with contextlib.AsyncExitStack() as stack:
            parts = await open_parts(
                stack,
                root,
                settings,
                lock_wait=lock_wait,
                checkpoint=checkpoint,
                observer=observer or _Silent(),
                boot=boot_id() if boot is None else boot,
                begin=begin,
                free=free,
                wall=wall,
            )
            begin_work(stack, parts, settings)
            return cls(parts, settings, stack.pop_all())

    async def close(self) -> None:
        """Store what is queued and leave the directory; a second call does nothing.

        Nothing else may use the store meanwhile; files handed out stay readable.
        """
        await self._exits.aclose()

    def recover(self, prove: Prove) -> None:
        """Put right in the background what an earlier run left; once. ``prove``: see Recoverer.

        With an index begun anew nothing is stored before this has looked at the disk.
        """
        task = asyncio.create_task(self._parts.recoverer.run(prove), name="recovery")
        self._exits.push_async_callback(cancel, task)

    @property
    def recovery(self) -> Recovery:
        """How far the recovery has come."""
        return self._parts.recoverer.facts

    @property
    def last_pass(self) -> Pass | None:
        """The janitor's newest pass of this run."""
        return self._parts.janitor.last

    @property
    def target_reached(self) -> bool:
        """Whether the janitor's last pass for room made it."""
        return self._parts.janitor.reached

    @property
    def writable(self) -> bool:
        """False while the last write to any part of the cache directory failed."""
        return self._core.health.writable

    @property
    def trouble(self) -> str:
        """Why, as a phrase."""
        return self._core.health.trouble

    @property
    def waits_for_readers(self) -> bool:
        """Whether downloads wait for room while files are being read, which cannot go for them."""
        return self.admission.wanted > 0 and self._core.holders.busy > 0

    @property
    def roomy(self) -> bool:
        """Whether more can be stored and nothing need go for it."""
        return self.usage.used + self.admission.reserved < self.admission.limits.low

    def has_room(self) -> bool:
        """Whether the disk has more than ``min_free`` left (blocking)."""
        return self._core.free() > self._parts.min_free

    @property
    def uncommitted(self) -> int:
        """Proven files whose room is still reserved."""
        return len(self._queue.pending)

    def remembers(self, path: str) -> bool:
        """As :meth:`Finder.remembers`."""
        return self._finder.remembers(path)

    def get_at_once(self, path: str, most: int) -> StoredFile | None:
        """As :meth:`get` unasked, by the escaped path, where that takes no waiting; a file of up to ``most``
        bytes is in memory then. None says nothing."""
        return self._finder.at_once(path, most)

    async def get(self, artifact: Artifact, *, asked: bool = True) -> StoredFile | None:
        """The stored file, to be closed by the caller; None where there is none.

        A proven file that awaits its commit is there already. A file that is not on record is not
        served, one that is not what it was goes. ``asked``: whether that counts as a use of it.
        Unavailable: the host cannot open it now.
        """
        try:
            stored = await self._finder.find(artifact)
        except (OSError, sqlite3.Error) as error:
            log.warning("stored file not opened", path=artifact.path, reason=reason(error))
            raise Unavailable(f"this host cannot open the stored file: {reason(error)}") from error
        if stored is not None and asked:
            self._memory.touch(artifact.path)
        return stored

    def touch(self, path: str) -> None:
        """A hit that was answered without :meth:`get`."""
        self._memory.touch(path)

    def watch(self, gone: Callable[[str | None], None]) -> None:
        """Have ``gone`` told of each path whose file goes, or is replaced, at once; None stands for all."""
        self._memory.watch(gone)

    def download(self) -> Download:
        """A sink for one file from an upstream; its user discards it in a ``finally``."""
        parts = self._parts
        return Download(
            self._core.layout.temporary(),
            self.admission,
            parts.downloads,
            self._core.health,
            parts.janitor,
            self._core.leftovers,
        )

    async def put(
        self,
        artifact: Artifact,
        data: bytes,
        *,
        h1: str | None,
        since: int | None = None,
        proven: Proven | None = None,
    ) -> StoredFile:
        """Store proven bytes: visible when this returns, durable soon after; the same file.

        The h1, if any, is remembered as the one seen first, and what a checksum database has ``proven`` of
        the version. ``since``: when the fetch began, by ``fences.now``; after a purge it is not stored, nor
        up to ``AT_ONCE`` bytes where there is no room. ContentError: another h1 is on record. Unavailable:
        the index cannot be read; there is no room for more bytes.
        """
        if len(data) > AT_ONCE:  # in memory it would be there for as long as anybody takes to read it
            return await self._put_large(artifact, data, h1, since, proven)
        await self._hashes.hold(artifact, h1, proven)
        await self._queue.room()
        content = StoredFile(data, len(data), hashlib.sha256(data).hexdigest())
        try:
            reservation = self.admission.at_once(len(data))
        except NoRoom as error:
            log.warning("file not stored", path=artifact.path, reason=error.sentence)
            return content
        try:
            await reservation.hold(len(data))
            if not self._core.fences.keep_out(since, artifact, len(data)):
                temporary = self._core.layout.temporary()
                self._enqueue(artifact, h1, content, temporary, reservation)
                return content.share()
        except NoRoom as error:
            log.warning("file not stored", path=artifact.path, reason=error.sentence)
        except BaseException:
            reservation.release()
            raise
        reservation.release()
        return content

    async def adopt(
        self,
        artifact: Artifact,
        download: Download,
        *,
        h1: str | None,
        since: int | None = None,
        proven: Proven | None = None,
    ) -> StoredFile:
        """Store a proven download: visible when this returns, durable soon after; the same file, open.

        ``since`` and ``proven`` as for :meth:`put`. ContentError: another h1 is on record. Unavailable: the
        disk or the index failed. In both cases the download is still the caller's.
        """
        await self._hashes.hold(artifact, h1, proven)
        await self._queue.room()
        await download.finish()
        file = (download.path, download.path.parent, download.length, download.sha256)
        try:
            with contextlib.ExitStack() as opened:
                content = opened.enter_context(await self._parts.hits.open(open_stored, *file))
                content.held(self._core.holders.unpublished(artifact.path))
                answer = opened.enter_context(content.share())
                reservation = await download.hand_over()
                opened.pop_all()
        except (OSError, Mismatch) as error:
            raise Unavailable(f"this host cannot read what it just wrote: {reason(error)}") from error
        # From here to the queue nothing waits: a purge finds the file there, or is seen here.
        if not self._core.fences.keep_out(since, artifact, content.length):
            self._enqueue(artifact, h1, content, download.path, reservation)
            return answer
        content.close()
        try:
            await self._parts.downloads.run(tree.remove, download.path, download.path.parent)
        except OSError as error:
            self._core.leftovers.keep(download.path, download.path.parent, reservation.size, error)
        finally:
            if answer.hold is not None:
                self._core.holders.unlinked(answer.hold, reservation.size)
            reservation.release()
        return answer

    async def _put_large(
        self, artifact: Artifact, data: bytes, h1: str | None, since: int | None, proven: Proven | None
    ) -> StoredFile:
        download = self.download()
        try:
            await download.begin(len(data))
            await download.write(data)
            return await self.adopt(artifact, download, h1=h1, since=since, proven=proven)
        finally:
            await download.discard()

    async def known(self, module: str, version: str) -> Known:
        """As :meth:`Hashes.known`."""
        return await self._hashes.known(module, version)

    async def prove(self, module: str, version: str, proven: Proven) -> None:
        """As :meth:`Hashes.prove`."""
        await self._hashes.prove(module, version, proven)

    async def first_sight(self, module: str, version: str, now: float) -> Sight:
        """As :meth:`Hashes.first_sight`."""
        return await self._hashes.first_sight(module, version, now)

    async def versions_with(self, module: str, *kinds: Kind) -> list[str]:
        """The versions of a module of which files of all these kinds are stored."""
        stored = {
            (item.artifact.version, item.artifact.kind.value)
            for item in self._queue.pending.values()
            if item.artifact.module == module
        }
        stored.update(await self._core.attempt_look([], Reader.kinds, module))
        versions = {version for version, _ in stored}
        return sorted(v for v in versions if all((v, kind.value) in stored for kind in kinds))

    def _enqueue(
        self,
        artifact: Artifact,
        h1: str | None,
        content: StoredFile,
        temporary: Path,
        reservation: Reservation,
    ) -> None:
        target = self._core.layout.file(artifact.path)
        pinned = self.control.pinned(artifact.module, artifact.version)
        self._queue.add(Item(artifact, target, h1, content, temporary, reservation, pinned))
