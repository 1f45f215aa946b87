"""The h1 hashes of versions: those seen first, and those that a checksum database has proven."""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.cache.reader import Reader
from goproxy_vm.cache.rows import BLOCK, Known, Proven, Sight, Victim, stray
from goproxy_vm.errors import ContentError, Unavailable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.artifact import HASHED
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from goproxy_vm.cache.core import Core
    from goproxy_vm.protocol.artifact import Artifact

log = get_logger("cache")


class Hashes:
    """What is on record of versions whose files are to be stored, or are."""

    def __init__(self, core: Core, wall: Callable[[], float] = time.time) -> None:
        """``wall`` tells when a hash is seen first, in epoch seconds."""
        self._core = core
        self._wall = wall

    async def hold(self, artifact: Artifact, h1: str | None, proven: Proven | None = None) -> None:
        """Hold a file that is to be stored to the hash first seen of it, or ``proven``.

        ContentError: it has another. Unavailable: the index cannot be read.
        """
        self._core.layout.file(artifact.path)
        if h1 is None or artifact.kind not in HASHED:
            return
        recorded = await self.remember(artifact, h1, proven)
        if recorded != h1:
            log.error(
                "content changed",
                module=artifact.module,
                version=artifact.version,
                kind=artifact.kind.value,
                known=recorded,
                got=h1,
            )
            raise ContentError(f"its {artifact.kind} has {h1} but was {recorded} when first seen; refused")

    async def known(self, module: str, version: str) -> Known:
        """The h1 hashes that version had when first seen; they outlive its files.

        Unavailable: the index cannot be read, and without it nothing can be held to what was seen first.
        """
        known = self._core.memory.known(module, version)
        if known is None:
            known = await self._core.attempt_look(None, Reader.known, module, version)
        if known is None:
            raise Unavailable("this host cannot read its index")
        return known

    async def remember(self, artifact: Artifact, h1: str, proven: Proven | None = None) -> str:
        """Keep the h1 of a version first seen now, unless another was ``proven``; the one on record, which is
        never overwritten.

        Unavailable as :meth:`known`; an index that can be read but not written only forgets.
        """
        return await to_the_end(self._remember(artifact, h1, proven))

    async def _remember(self, artifact: Artifact, h1: str, proven: Proven | None) -> str:
        hold = self._core.index.hold
        try:
            held = await self._core.ask(hold, artifact, h1, proven, self._wall())
        except sqlite3.Error as error:
            self._core.unavailable(error)
            raise Unavailable("this host cannot read its index") from error
        finally:
            self._core.memory.forget_known((artifact.module, artifact.version))
        if held.failure is not None:
            self._core.unavailable(held.failure)
        if proven is not None:
            self._doubt(held.doubted, proven)
        return held.h1

    async def prove(self, module: str, version: str, proven: Proven) -> None:
        """Keep what a checksum database has proven of a version, if anything of it is on record. Stored files
        that have other hashes are not served any more before they were looked at.

        A caller that is cancelled waits for its end, as of :meth:`remember`: what is on record no more would
        be served from memory.
        """
        await to_the_end(self._prove(module, version, proven))

    async def _prove(self, module: str, version: str, proven: Proven) -> None:
        prove = partial(self._core.index.prove, fetched=False)
        doubted = await self._core.attempt([], prove, module, version, proven, self._wall())
        self._core.memory.forget_known((module, version))
        self._doubt(doubted, proven)

    async def first_sight(self, module: str, version: str, now: float) -> Sight:
        """When a version was first asked about by this. Unavailable: the index cannot be read or written."""
        try:
            return await self._core.ask(self._core.index.first_sight, module, version, now)
        except sqlite3.Error as error:
            self._core.unavailable(error)
            raise Unavailable("this host cannot use its index") from error

    def _doubt(self, doubted: Sequence[Victim], proven: Proven) -> None:
        for victim in doubted:
            log.error("stored file doubted", path=victim.path, database=proven.database)
            self._core.memory.forget(victim.path)
            self._core.usage.remove(victim)
            self._core.usage.add(stray(victim.path, victim.kind, victim.bytes // BLOCK))
