"""The mirror of the checksum database under ``/sumdb/NAME/``: what it serves has been proven here.

A VM without internet can so verify for itself, and nobody needs GOSUMDB=off.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, Overloaded, UpstreamError
from goproxy_vm.protocol.names import unescape_path, unescape_version
from goproxy_vm.proxy.answer import CACHE_STATUS, IMMUTABLE, Answer, Result, max_age
from goproxy_vm.traffic.flight import Flights

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.protocol.request import SumdbResource
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.gate import Gate
    from goproxy_vm.sumdb.client import ChecksumDatabase
    from goproxy_vm.sumdb.proof import Proofs
    from goproxy_vm.traffic.slots import FairSlots

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


class SumdbMirror:
    """Answers requests for the configured database. ``latest`` is fresh for the setting ``fresh``."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        database: ChecksumDatabase,
        proofs: Proofs,
        slots: FairSlots,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._database = database
        self._proofs = proofs
        self._now = monotonic
        self._latest_until = 0.0
        self._slots = slots
        self._flights: Flights[bytes] = Flights(lambda data: data, lambda _: None)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()

    @property
    def fetches_in_flight(self) -> int:
        """How many fetches are under way."""
        return len(self._flights)

    async def get(self, resource: SumdbResource, asker: Asker) -> Answer:
        """Answer one request; raises Absent, and UpstreamError and its kin where nothing can be proven."""
        if resource.kind == "supported":
            return Answer(b"", TEXT, max_age(self._settings.fresh), "hit", Result.HIT)
        if resource.kind == "latest":
            return await self._latest(asker)
        path = f"{resource.kind}/{resource.rest}"
        if resource.kind == "lookup":
            module, _, version = resource.rest.rpartition("@")
            return await self._lookup(path, unescape_path(module), unescape_version(version), asker)
        return await self._tile(path, asker)

    async def _latest(self, asker: Asker) -> Answer:
        head = self._database.head
        left = self._latest_until - self._now()
        if head is not None and left > 0:
            hit = CACHE_STATUS[Result.HIT]
            return Answer(head, TEXT, max_age(left), hit, Result.HIT, until=self._latest_until)
        if not self._gate.may_fetch(asker):
            if head is None:
                raise self._gate.not_here()
            return _stale(head)
        try:
            data, collapsed = await self._fetch("latest", asker, self._database.latest)
        except (UpstreamError, Overloaded):
            if head is None:
                raise
            return _stale(head)
        self._latest_until = self._now() + self._settings.fresh
        result = Result.COLLAPSED if collapsed else Result.MISS
        return Answer(data, TEXT, max_age(self._settings.fresh), CACHE_STATUS[result], result)

    async def _lookup(self, path: str, module: str, version: str, asker: Asker) -> Answer:
        if self._proofs.exempt(module):
            setting = "private" if self._gate.private(module) else "nosumdb"
            raise Absent(
                f"{module} is not looked up in a checksum database here (setting {setting}); on the VM run: "
                f"go env -w GONOSUMDB={self._settings.exempt}"
            )
        stored = await self._database.stored(path)
        if stored is not None:
            return _immutable(stored, Result.HIT, TEXT)
        if not self._gate.may_fetch(asker):
            raise self._gate.not_here()

        async def lookup() -> tuple[bytes, bool]:
            found, joined = await self._database.lookup(module, version)
            return found.data, joined

        data, collapsed = await self._fetch(path, asker, lookup)
        return _immutable(data, Result.COLLAPSED if collapsed else Result.MISS, TEXT)

    async def _tile(self, path: str, asker: Asker) -> Answer:
        kind = TEXT if path.split("/")[2] == "data" else BINARY
        stored = await self._database.stored(path)
        if stored is not None:
            return _immutable(stored, Result.HIT, kind)
        if not self._gate.may_fetch(asker):
            raise self._gate.not_here()
        data, collapsed = await self._fetch(path, asker, lambda: self._database.tile(path))
        return _immutable(data, Result.COLLAPSED if collapsed else Result.MISS, kind)

    async def _fetch(
        self, key: str, asker: Asker, fetch: Callable[[], Awaitable[tuple[bytes, bool]]]
    ) -> tuple[bytes, bool]:
        """What ``fetch`` brings for all who ask meanwhile, and whether that was another's doing.

        The flight holds the slot, not those who wait for it: however many want one record that is slow to
        come, the next one finds a slot.
        """
        claim, joined = self._slots.claim(asker.client), False

        async def fly() -> bytes:
            nonlocal joined
            async with claim.hold(self._settings.total_timeout):
                data, joined = await fetch()
            return data

        data, collapsed = await self._flights.join(key, fly, claim, asker.patience)
        return data, collapsed or joined


def _immutable(data: bytes, result: Result, content_type: str) -> Answer:
    return Answer(data, content_type, IMMUTABLE, CACHE_STATUS[result], result)


def _stale(head: bytes) -> Answer:
    return Answer(head, TEXT, max_age(0), CACHE_STATUS[Result.STALE], Result.STALE)
