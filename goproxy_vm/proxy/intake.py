"""The one way in: a file of a version is fetched from some origin, checked, proven, stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol, TypeVar

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import ContentError, GoproxyError, MalformedPath, Unproven
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import LONGEST_INFO, check_info
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.gomod import check_mod
from goproxy_vm.protocol.modzip import MAX_SPECIAL
from goproxy_vm.traffic.steps import in_turns
from goproxy_vm.upstream.sink import Buffer

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.rows import Proven
    from goproxy_vm.cache.store import Store
    from goproxy_vm.prover import ZipProver
    from goproxy_vm.sumdb.proof import Proof, Proofs
    from goproxy_vm.traffic.slots import Claim
    from goproxy_vm.upstream.sink import MemoryBudget, Sink

AT_ONCE = 64 << 10
"""Bytes of a ``.mod`` that is hashed where it is."""
RECOVERY = "recovery"
"""On whose behalf files without a record are looked at after a start."""

T = TypeVar("T")
log = get_logger("proxy")


class Origin(Protocol):
    """Where a file may come from: the upstream list, or anything else that brings files by their path."""

    async def fetch(self, path: str, sink: Sink, *, limit: int, check: Callable[[], Awaitable[T]]) -> T:
        """Bring the file at ``path`` into ``sink``, at most ``limit`` bytes; returns ``check``'s verdict on
        it, whose ContentError is that origin's fault. GoproxyError: it did not come."""
        ...


class Intake:
    """Brings files into the store. Each is held to what proves it, wherever it comes from; what a purge has
    barred meanwhile is handed out and not stored."""

    def __init__(
        self, store: Store, prover: ZipProver, proofs: Proofs, memory: MemoryBudget, max_zip_size: int
    ) -> None:
        """``max_zip_size``: bytes of a zip at most."""
        self._store = store
        self._prover = prover
        self._proofs = proofs
        self._memory = memory
        self._max_zip_size = max_zip_size

    async def bring(self, artifact: Artifact, origin: Origin, claim: Claim) -> StoredFile:
        """The file, stored, to be closed by the caller: from the disk where it lies there without a record,
        else from ``origin``. GoproxyError: it could not be had, or is not what it should be."""
        since = self._store.fences.now
        reclaimed = await self.reclaim(artifact, claim.client)
        if reclaimed is not None:
            return reclaimed
        if artifact.kind is Kind.INFO:
            return await self._info(artifact, origin, claim, since)
        if artifact.kind is Kind.MOD:
            return await self._mod(artifact, origin, claim, since)
        return await self._zip(artifact, origin, claim, since)

    async def _info(self, artifact: Artifact, origin: Origin, claim: Claim, since: int) -> StoredFile:
        with Buffer(self._memory, claim) as sink:

            async def check() -> None:
                check_info(sink.data, artifact.module, artifact.version)

            await origin.fetch(artifact.path, sink, limit=LONGEST_INFO, check=check)
            if sink.substitute:
                return StoredFile(sink.data, len(sink.data), sha256(sink.data).hexdigest())
            return await self._store.put(artifact, sink.data, h1=None, since=since)

    async def _mod(self, artifact: Artifact, origin: Origin, claim: Claim, since: int) -> StoredFile:
        proof = self._proofs.begin(artifact)
        with Buffer(self._memory, claim) as sink:

            async def check() -> tuple[str, Proven | None]:
                if not self._proofs.recorded(artifact.module):
                    # Else a login page would be the file first seen.
                    await in_turns(check_mod(sink.data, artifact.module))
                h1 = await _h1_mod(sink.data)
                return h1, await proof.verdict(h1)

            with _cancelling(proof):
                h1, proven = await origin.fetch(artifact.path, sink, limit=MAX_SPECIAL, check=check)
            return await self._store.put(artifact, sink.data, h1=h1, since=since, proven=proven)

    async def _zip(self, artifact: Artifact, origin: Origin, claim: Claim, since: int) -> StoredFile:
        download = self._store.download()
        proof = self._proofs.begin(artifact)

        async def check() -> tuple[str, Proven | None]:
            await download.finish()
            h1 = await self._h1_zip(artifact, download.path, claim.client)
            return h1, await proof.verdict(h1)

        try:
            with _cancelling(proof):
                h1, proven = await origin.fetch(
                    artifact.path, download, limit=self._max_zip_size, check=check
                )
            return await self._store.adopt(artifact, download, h1=h1, since=since, proven=proven)
        finally:
            await download.discard()

    async def reclaim(self, artifact: Artifact, client: str) -> StoredFile | None:
        """A file that is there without a record, unless it is known to be wrong; it is not fetched then.

        What the checksum database has a record of is held to it. Where nobody can be asked, the file counts
        as first seen here (docs/decisions/0008-what-is-stored-is-enough.md). NoRecord: it stays unserved.
        """
        since = self._store.fences.now
        strays = self._store.strays
        file = await strays.find(artifact.path)
        if file is None:
            return None
        try:
            h1, proven, first_seen = await self._examine(artifact, file, client)
            claimed = await strays.claim(artifact, h1=h1, first_seen=first_seen, since=since, proven=proven)
            # None: somebody else was first.
            return claimed if claimed is not None else await self._store.get(artifact)
        except ContentError as error:
            log.warning("file without a record refused", path=artifact.path, reason=error.sentence)
            await strays.refuse(artifact.path)
        except OSError as error:
            log.warning("file without a record not read", path=artifact.path, reason=str(error))
        return None

    async def _examine(
        self, artifact: Artifact, file: Path, client: str
    ) -> tuple[str | None, Proven | None, bool]:
        """The h1 of a file that may be right, what was proven of its version, and whether nobody could say
        that it is. ContentError."""
        if artifact.kind is Kind.INFO:
            info = await self._store.strays.read(file, LONGEST_INFO)
            check_info(info, artifact.module, artifact.version)
            return None, None, False
        known = await self._store.known(artifact.module, artifact.version)
        proof = self._proofs.begin(artifact)
        with _cancelling(proof):
            if artifact.kind is Kind.MOD:
                data = await self._store.strays.read(file, MAX_SPECIAL)
                if b"\0" in data:
                    raise ContentError("it is no text")
                h1 = await _h1_mod(data)
            else:
                h1 = await self._h1_zip(artifact, file, client)
            try:
                proven = await proof.verdict(h1)
            except Unproven:
                return h1, None, True
        return h1, proven, known.h1(artifact.kind) is None and not self._proofs.recorded(artifact.module)

    async def prove_stray(self, path: str) -> bool | None:
        """Look at a stored file without a record, and adopt it if it may be served; None where it stays."""
        try:
            stored = await self.reclaim(Artifact.at(path), RECOVERY)
        except MalformedPath:
            return False
        except GoproxyError as error:
            log.warning("file without a record withheld", path=path, reason=error.sentence)
            return None
        if stored is None:
            return None
        stored.close()
        return True

    async def _h1_zip(self, artifact: Artifact, file: Path, client: str) -> str:
        return (await self._prover.prove(file, artifact.module, artifact.version, client)).h1


async def _h1_mod(data: bytes) -> str:
    """The h1 of a ``.mod``; of a large one in a thread, which does not keep the interpreter for it."""
    return h1_mod(data) if len(data) <= AT_ONCE else await asyncio.to_thread(h1_mod, data)


@contextlib.contextmanager
def _cancelling(proof: Proof) -> Iterator[None]:
    """Give up the proof when the download beside it fails."""
    try:
        yield
    except BaseException:
        proof.cancel()
        raise
