"""Finding a stored file: in the queue, in memory or in the index, which is read beside its writer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.cache.health import reason
from goproxy_vm.cache.reader import Reader
from goproxy_vm.cache.reading import Mismatch, open_stored
from goproxy_vm.cache.rows import Entry
from goproxy_vm.errors import MalformedPath
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import unescape_path, unescape_version

if TYPE_CHECKING:
    from goproxy_vm.cache.memory import Look
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.stock import Stock
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.scrub import Scrub

log = get_logger("cache")

NOTHING: list[Victim] = []


class Finder:
    """Opens what is stored, in ``threads``. OSError, sqlite3.Error: the host cannot open it now."""

    def __init__(self, stock: Stock, scrub: Scrub, threads: Threads) -> None:
        self._stock = stock
        self._scrub = scrub
        self._threads = threads

    async def find(self, path: str) -> StoredFile | None:
        """The stored file with that escaped path; None where there is none. A file that is not the one on
        record goes."""
        try:
            return await self._get(path)
        except Mismatch:
            return await self._get_or_drop(path)

    async def _get(self, path: str) -> StoredFile | None:
        entry = None
        while path not in self._stock.queue.pending:
            entry = self._stock.memory.entry(path)
            if entry is None:
                if self._stock.memory.missing(path):
                    await asyncio.sleep(0)  # whoever waits for a file by asking lets it come
                    if self._stock.memory.missing(path) and path not in self._stock.queue.pending:
                        return None
                    continue
                with self._stock.memory.look(path, _version(path)) as look:
                    entry = await self._looked(look)
                    if entry is not None and entry.unsure and not await self._sound(entry):
                        entry = None
                if look.stale:
                    continue  # what was found may be gone, and something else there
                if entry is None and path not in self._stock.queue.pending:
                    return None
            if entry is not None:
                self._stock.memory.keep(Entry(path, entry.length, entry.sha256, entry.h1))
                return await self.open(path, entry.length, entry.sha256)
        return self._stock.queue.pending[path].content.share()

    async def _looked(self, look: Look) -> Entry | None:
        """What is on record under a path."""
        standing = await self._stock.attempt_look(None, Reader.look, look.path, *look.version)
        if standing is None:
            return None
        self._stock.memory.learn(look, standing)
        return standing.entry

    async def open(self, path: str, length: int, sha256: str) -> StoredFile:
        """A stored file, counted as open from before it is: it may be removed meanwhile."""
        file, top = self._stock.layout.file(path), self._stock.layout.modules
        hold = self._stock.holders.of(path)
        try:
            return (await self._threads.open(open_stored, file, top, length, sha256)).held(hold)
        except BaseException:
            hold.release(resting=False)
            raise

    async def _sound(self, entry: Entry) -> bool:
        """Whether a file that a power loss may have damaged is whole; else it is gone now."""
        victims = await self._stock.attempt_look(NOTHING, Reader.of_path, entry.path)
        return bool(victims) and await self._scrub.check(victims[0], entry.sha256)

    async def _get_or_drop(self, path: str) -> StoredFile | None:
        """Look again, undisturbed by a commit; a file that is not the one on record goes, with the record."""
        async with self._stock.queue.disk:
            self._stock.memory.forget(path)
            victims = await self._stock.attempt_look(NOTHING, Reader.of_path, path)
        try:
            return await self._get(path)
        except Mismatch as error:
            log.warning("stored file dropped", path=path, reason=reason(error))
            self._stock.memory.forget(path)
            for victim in victims:
                await self._scrub.condemn(victim)
            return None


def _version(path: str) -> tuple[str, str]:
    """Module and version of a stored file's escaped path; of another nothing is known."""
    module, _, name = path.rpartition("/@v/")
    version = name.rpartition(".")[0]
    try:
        # Most have nothing to unescape, and a hit does not need it.
        return (unescape_path(module), unescape_version(version)) if "!" in path else (module, version)
    except MalformedPath:
        return "", ""
