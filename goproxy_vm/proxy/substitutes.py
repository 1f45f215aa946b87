"""What is answered from the files that are stored, where no upstream may or will tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.lru import Lru
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import minimal_info, parse_list, render_list
from goproxy_vm.protocol.gomod import LOOKED_AT, Retractions, not_retracted, retractions
from goproxy_vm.protocol.request import Endpoint
from goproxy_vm.proxy.answer import CONTENT_TYPES, Answer, Result, file_answer, max_age
from goproxy_vm.traffic.steps import SHORT, Reading, in_turns

if TYPE_CHECKING:
    from goproxy_vm.cache.store import Store

BUILT_FROM_MOD = "hit; detail=built-from-stored-mod"
BUILT_FROM_VERSIONS = "hit; detail=built-from-stored-versions"

KEPT = 8
"""Long go.mods of which it is kept in memory what they retract."""


class Substitutes:
    """Answers made of what is stored whole: never stored themselves as an upstream's, and marked in
    Cache-Status."""

    def __init__(self, store: Store, blocked: Callable[[str, str], bool]) -> None:
        """``blocked``: whether a version is refused for what it is; nothing that it retracts counts then."""
        self._store = store
        self._blocked = blocked
        self._retracted: Lru[str, Retractions] = Lru(KEPT)
        """By the SHA-256 of a go.mod."""
        self._reading = Reading()

    async def info(self, module: str, version: str) -> Answer | None:
        """The ``.info`` of a version whose ``.mod`` is stored, without what is optional (PROTOCOL §3); None
        where it is not."""
        mod = await self._store.get(Artifact.of(module, version, Kind.MOD))
        if mod is None:
            return None
        mod.close()
        return _built(Endpoint.INFO, minimal_info(version), BUILT_FROM_MOD)

    async def version_list(self, module: str, client: str) -> Answer | None:
        """A list of the versions stored whole (case 5a); None where there are none."""
        versions = await self._offered(module, client)
        return _built(Endpoint.LIST, render_list(versions), BUILT_FROM_VERSIONS) if versions else None

    async def latest(self, module: str, client: str) -> Answer | None:
        """The ``.info`` of the newest version stored whole, by ``go``'s choice; None where there is none."""
        newest = semver.latest(await self._offered(module, client))
        if newest is None:
            return None
        artifact = Artifact.of(module, newest, Kind.INFO)
        stored = await self._store.get(artifact)
        if stored is None:
            answer = await self.info(module, newest)
        else:
            answer = file_answer(artifact.kind, stored, Result.STALE)
        if answer is not None:
            answer.cache_control, answer.cache_status = max_age(0), BUILT_FROM_VERSIONS
        return answer

    async def versions(self, module: str) -> list[str]:
        """The versions whose ``.mod`` and zip are stored, in their order."""
        return await self._with(module, Kind.MOD, Kind.ZIP)

    async def _offered(self, module: str, client: str) -> list[str]:
        """Those of them that ``go`` would choose.

        It reads by itself what the newest version that is listed retracts. One that is not whole is not
        listed, though its ``.mod`` is stored: what that retracts is left out, as it would be by ``go``.
        """
        versions = await self.versions(module)
        newest = semver.latest(
            version for version in await self._with(module, Kind.MOD) if not self._blocked(module, version)
        )
        if newest is None or newest in versions:
            return versions
        mod = await self._store.get(Artifact.of(module, newest, Kind.MOD), asked=False)
        if mod is None:
            return versions
        with mod:
            retracted = await self._retractions(mod, client)
        return await in_turns(not_retracted(versions, retracted))

    async def _retractions(self, mod: StoredFile, client: str) -> Retractions:
        """What a go.mod retracts; long ones are read once for all who ask for the same."""
        if mod.length <= SHORT:
            return await in_turns(retractions(mod.pread(0, mod.length)))
        async with self._reading.turn(mod.length, client):
            retracted = self._retracted.get(mod.sha256)
            if retracted is None:
                data = await asyncio.to_thread(mod.pread, 0, min(mod.length, LOOKED_AT))
                retracted = await in_turns(retractions(data))
                self._retracted.keep(mod.sha256, retracted)
            return retracted

    async def _with(self, module: str, *kinds: Kind) -> list[str]:
        stored = "\n".join(await self._store.versions_with(module, *kinds)).encode()
        return await in_turns(parse_list(stored, module))


def _built(endpoint: Endpoint, data: bytes, status: str) -> Answer:
    return Answer(data, CONTENT_TYPES[endpoint], max_age(0), status, Result.STALE)
