"""Finding a stored file: in the queue, in memory or in the index, which is read beside its writer."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.cache.health import reason
from goproxy_vm.cache.reader import Reader
from goproxy_vm.cache.reading import Mismatch, Published, open_stored
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.memory import Look
    from goproxy_vm.cache.rows import Entry
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.scrub import Scrubber
    from goproxy_vm.protocol.artifact import Artifact

log = get_logger("cache")


class Finder:
    """Opens what is stored, in ``threads``. OSError, sqlite3.Error: the host cannot open it now."""

    def __init__(self, core: Core, scrub: Scrubber, threads: Threads, published: Published) -> None:
        self._core = core
        self._published = published
        self._scrub = scrub
        self._threads = threads

    def remembers(self, path: str) -> bool:
        """Whether there is a stored file of that path, as far as that is known without asking the index."""
        return path in self._core.queue.pending or self._core.memory.entry(path) is not None

    def at_once(self, path: str, most: int) -> StoredFile | None:
        """The stored file with that escaped path where it takes no waiting: it awaits its commit, or what is
        on record of it is in memory, and what the kernel must look at too. Up to ``most`` bytes are read.
        None: :meth:`find` it."""
        item = self._core.queue.pending.get(path)
        if item is not None:
            return item.content.share()
        entry = self._core.memory.entry(path)
        if entry is None:
            return None
        if entry.length > most:
            return self._open_at_once(path, entry.length, entry.sha256)
        data = self._published.read(path, entry.length)
        return None if data is None else StoredFile(data, entry.length, entry.sha256)

    async def find(self, artifact: Artifact) -> StoredFile | None:
        """The stored file; None where there is none. One that is not as it is on record goes."""
        try:
            return await self._get(artifact)
        except Mismatch:
            return await self._get_or_drop(artifact)

    async def _get(self, artifact: Artifact) -> StoredFile | None:
        path = artifact.path
        while path not in self._core.queue.pending:
            entry = self._core.memory.entry(path)
            if entry is None:
                if self._core.memory.missing(path):
                    await asyncio.sleep(0)  # whoever waits for a file by asking lets it come
                    if self._core.memory.missing(path) and path not in self._core.queue.pending:
                        return None
                    continue
                with self._core.memory.look(path, (artifact.module, artifact.version)) as look:
                    entry = await self._looked(look)
                    if entry is not None and entry.unsure and not await self._sound(entry):
                        entry = None
                if look.stale:
                    continue  # what was found may be gone, and something else there
                if entry is None:
                    if path not in self._core.queue.pending:
                        return None
                    continue
                self._core.memory.keep(replace(entry, unsure=False))
            return await self.open(path, entry.length, entry.sha256)
        return self._core.queue.pending[path].content.share()

    async def _looked(self, look: Look) -> Entry | None:
        """What is on record under a path."""
        try:
            standing = await self._core.lookups.look((look.path, *look.version))
        except sqlite3.Error as error:
            self._core.unavailable(error)
            return None
        self._core.memory.learn(look, standing)
        return standing.entry

    async def open(self, path: str, length: int, sha256: str) -> StoredFile:
        """A stored file, counted as open from before it is: it may be removed meanwhile."""
        stored = self._open_at_once(path, length, sha256)
        if stored is not None:
            return stored
        file, top = self._core.layout.file(path), self._core.layout.modules
        hold = self._core.holders.of(path)
        try:
            return (await self._threads.open(open_stored, file, top, length, sha256)).held(hold)
        except BaseException:
            hold.release(resting=False)
            raise

    def _open_at_once(self, path: str, length: int, sha256: str) -> StoredFile | None:
        hold = self._core.holders.of(path)
        stored = self._published.open(path, length, sha256)
        if stored is None:
            hold.release(resting=False)
            return None
        return stored.held(hold)

    async def _sound(self, entry: Entry) -> bool:
        """Whether a file that a power loss may have damaged is whole; else it is gone now."""
        victims = await self._core.attempt_look([], Reader.of_path, entry.path)
        return bool(victims) and await self._scrub.check(victims[0], entry.sha256)

    async def _get_or_drop(self, artifact: Artifact) -> StoredFile | None:
        """Look again, undisturbed by a commit; a file that is not the one on record goes, with the record."""
        path = artifact.path
        async with self._core.queue.disk:
            self._core.memory.forget(path)
            victims = await self._core.attempt_look([], Reader.of_path, path)
        try:
            return await self._get(artifact)
        except Mismatch as error:
            log.warning("stored file dropped", path=path, reason=reason(error))
            self._core.memory.forget(path)
            for victim in victims:
                await self._scrub.condemn(victim)
            return None
