"""Whether the bytes of a version are the right ones: h1 in, verdict out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from goproxy_vm.errors import (
    Absent,
    ChecksumMismatch,
    ContentError,
    Denied,
    GoproxyError,
    NoRecord,
    Unproven,
)
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import TOOLCHAIN, escape_path, escape_version, exempt
from goproxy_vm.protocol.record import parse_record

if TYPE_CHECKING:
    from goproxy_vm.cache.rows import Known, Proven
    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.protocol.artifact import Artifact
    from goproxy_vm.protocol.verifier import LookupVerdict
    from goproxy_vm.sumdb.client import ChecksumDatabase

log = get_logger("proof")


class Proofs:
    """Holds each ``.mod`` and ``.zip`` to the checksum database, and for ever to the h1 it had first.

    A module that ``nosumdb`` exempts, or every one where ``database`` is None, is held to the h1 that this
    server saw first alone: bytes that change later are refused and logged, never overwritten.
    """

    def __init__(
        self, settings: Settings, store: Store, database: ChecksumDatabase | None, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._store = store
        self._database = database
        self._metrics = metrics

    def exempt(self, module: str) -> bool:
        """Whether the settings ``nosumdb`` and ``private`` exempt a module; toolchains never are."""
        return exempt(self._settings.exempt, module)

    def recorded(self, module: str) -> bool:
        """Whether the checksum database is asked about a module."""
        return self._database is not None and not self.exempt(module)

    async def number(self, module: str, version: str) -> int:
        """The number of a version's record in the log, looked up if need be; its module must be ``recorded``.
        NoRecord, Unproven as of :meth:`Proof.verdict`."""
        at_hand = await self.number_at_hand(module, version)
        if at_hand is not None:
            return at_hand
        if self._database is None:
            raise Unproven("there is no checksum database to look it up in (setting sumdb)")
        return (await _look_up(self._database, module, version, hold=True)).number

    async def number_at_hand(self, module: str, version: str) -> int | None:
        """As :meth:`number`, of what is on record here; None where nothing is."""
        database = self._database
        if database is None:
            return None
        known = await self._store.known(module, version)
        if database.name in known.numbers:
            return known.numbers[database.name]
        # Of before numbers were kept: it was proven before it was stored.
        kept = await database.stored(f"lookup/{escape_path(module)}@{escape_version(version)}")
        return None if kept is None else parse_record(kept)[0].number

    def begin(self, artifact: Artifact) -> Proof:
        """Start to gather the evidence about a file; what must be fetched runs beside the download.

        Denied: a toolchain, which nothing could prove here.
        """
        if self._database is None and artifact.module == TOOLCHAIN:
            raise Denied("toolchains need a checksum database that proves them (setting sumdb)")
        database = None if self.exempt(artifact.module) else self._database
        return Proof(artifact, self._store, database, self._metrics)


class Proof:
    """The evidence about one file, a ``.mod`` or a zip, gathered while it is downloaded."""

    def __init__(
        self, artifact: Artifact, store: Store, database: ChecksumDatabase | None, metrics: Metrics
    ) -> None:
        self._artifact = artifact
        self._store = store
        self._database = database
        self._metrics = metrics
        self._evidence = asyncio.create_task(self._gather())

    async def verdict(self, h1: str) -> Proven | None:
        """Return if ``h1`` is right for this file: what the checksum database's log holds of the version, to
        be kept with the file; None where it was not asked.

        ChecksumMismatch: it is another one than recorded, or than first seen. NoRecord: every source says
        that the database has none. Unproven: that could not be found out.
        """
        artifact, kind = self._artifact, self._artifact.kind
        try:
            known, record = await asyncio.shield(self._evidence)
        except NoRecord:
            self._metrics.verification(kind, "absent")
            raise
        except GoproxyError:
            self._metrics.verification(kind, "unavailable")
            raise
        held = known.h1(kind)
        try:
            if record is not None:
                # A hash that was only seen gives way to one that is in the signed log.
                record.check(kind, h1)
            elif held is not None and held != h1:
                raise ChecksumMismatch(
                    f"its {kind} has {h1}, but had {held} when first seen; refused", recorded=held, got=h1
                )
        except ContentError as error:
            self._metrics.verification(kind, "mismatch")
            log.error(
                "checksum mismatch",
                module=artifact.module,
                version=artifact.version,
                kind=kind.value,
                reason=error.sentence,
            )
            raise
        self._metrics.verification(kind, "known" if record is None else "verified")
        return None if record is None or self._database is None else self._database.proven(record)

    def cancel(self) -> None:
        """Give up gathering: the download failed."""
        self._evidence.cancel()
        self._evidence.add_done_callback(_seen)

    async def _gather(self) -> tuple[Known, LookupVerdict | None]:
        artifact = self._artifact
        known = await self._store.known(artifact.module, artifact.version)
        database = self._database
        if database is None or known.mod_database == known.zip_database == database.name:
            return known, None
        # Where nothing of it is on record, the file that is fetched now will be held to it by itself.
        return known, await _look_up(database, artifact.module, artifact.version, hold=known.on_record)


async def _look_up(database: ChecksumDatabase, module: str, version: str, *, hold: bool) -> LookupVerdict:
    try:
        found, _ = await database.lookup(module, version, hold=hold)
    except Absent:
        raise NoRecord(
            f"{database.name} has no record of {module}@{version}; "
            "if it is private, name it on the server (setting private or nosumdb)"
        ) from None
    except GoproxyError as error:
        raise Unproven(
            f"not proven by checksum database {database.name}: {error.sentence}; "
            "a private module can be exempted (setting private or nosumdb)"
        ) from error
    return found.verdict


def _seen(task: asyncio.Task[tuple[Known, LookupVerdict | None]]) -> None:
    """Read a task's exception, so that it counts as seen."""
    if not task.cancelled():
        task.exception()
