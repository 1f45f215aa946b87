"""Files without a record, for whoever knows what proves them: found, read, claimed or refused."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.rows import Proven, Row
from goproxy_vm.cache.upkeep.scrub import Hasher
from goproxy_vm.errors import ContentError, Unavailable
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.cache.reports.control import Control
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.recovery import Recoverer
    from goproxy_vm.protocol.artifact import Artifact


class Strays:
    """The strays of an open store. ``hold`` holds a file to the hash first seen of it;
    ``open_file`` opens what is on record, by path, length and SHA-256."""

    def __init__(
        self,
        core: Core,
        control: Control,
        recoverer: Recoverer,
        threads: Threads,
        hold: Callable[[Artifact, str | None, Proven | None], Awaitable[None]],
        open_file: Callable[[str, int, str], Awaitable[StoredFile]],
    ) -> None:
        self._core = core
        self._control = control
        self._recoverer = recoverer
        self._threads = threads
        self._hold = hold
        self._open = open_file

    async def find(self, path: str) -> Path | None:
        """The file of that path that is there without a record, to be looked at before :meth:`claim`."""
        try:
            victim = await self._recoverer.stray(path)
        except sqlite3.Error as error:
            self._core.unavailable(error)
            return None
        return None if victim is None else self._core.layout.file(path)

    async def read(self, file: Path, most: int) -> bytes:
        """The bytes of a small one. ContentError: it has more than ``most``. OSError: it cannot be read."""
        data = await self._threads.run(tree.read, file, self._core.layout.modules, most + 1)
        if len(data) > most:
            raise ContentError(f"it has more than {most} bytes")
        return data

    async def claim(
        self,
        artifact: Artifact,
        *,
        h1: str | None,
        first_seen: bool = False,
        since: int | None = None,
        proven: Proven | None = None,
    ) -> StoredFile | None:
        """Put a stray on record that was found to have that h1; None where it is gone meanwhile.

        ``first_seen``: nobody could say whether that is the right one; a start that can ask the checksum
        database has it proven. ``since`` and ``proven`` as for Store.put. ContentError: another h1 is on
        record. OSError: it cannot be read. Unavailable: the index failed.
        """
        await self._hold(artifact, h1, proven)
        path = artifact.path
        file = self._core.layout.file(path)
        length, blocks, sha256 = await self._threads.run(_facts, file, self._core.layout.modules)
        async with self._core.queue.disk:
            # Whatever is published meanwhile is on record, and this is no stray any more.
            standing = await self._core.attempt([], self._core.index.of_path, path)
            if [each.id for each in standing] != [None]:
                return None
            if self._core.fences.keep_out(since, artifact, length):
                return None
            pinned = self._control.pinned(artifact.module, artifact.version)
            row = Row(artifact, length, blocks, sha256, h1, pinned)
            await to_the_end(self._record(row, first_seen=first_seen))
            return await self._open(path, length, sha256)

    async def refuse(self, path: str) -> None:
        """A stray is not what it should be: it goes, its bytes to quarantine. Unavailable: the index is."""
        try:
            await self._recoverer.refuse(path)
        except sqlite3.Error as error:
            self._core.unavailable(error)
            raise Unavailable("this host cannot write its index") from error

    async def _record(self, row: Row, *, first_seen: bool) -> None:
        clock, index = self._core.clock, self._core.index
        try:
            if first_seen:
                await self._core.ask(index.note_first_seen)
            replaced = await self._core.ask(index.add, [row], clock.wall(), clock.now())
        except sqlite3.Error as error:
            self._core.unavailable(error)
            raise Unavailable("this host cannot write its index") from error
        self._core.memory.forget(row.artifact.path)
        self._core.memory.forget_known((row.artifact.module, row.artifact.version))
        for victim in replaced:
            self._core.usage.remove(victim)
        self._core.usage.add(row)
        if first_seen:
            self._recoverer.facts.first_seen += 1
        else:
            self._recoverer.facts.adopted += 1


def _facts(file: Path, top: Path) -> tuple[int, int, str]:
    """Length, blocks and SHA-256 of a file, which is on disk when this returns."""
    hasher = Hasher(file, top)
    try:
        while hasher.step(1 << 30):
            pass
        os.fsync(hasher.fd)
        facts = os.fstat(hasher.fd)
        return facts.st_size, facts.st_blocks, hasher.hexdigest()
    finally:
        hasher.close()
