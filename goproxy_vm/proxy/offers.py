"""What of a module's lists may be given: the gate's rules, applied to whatever the documents say.

Documents are kept as upstreams said them, and are looked at on their way out: a rule that is given, or taken
back, counts for the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, Barred, GoproxyError
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import check_latest, render_list
from goproxy_vm.protocol.gomod import LOOKED_AT, not_retracted, retractions
from goproxy_vm.protocol.policy import offered
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.traffic.steps import in_turns

if TYPE_CHECKING:
    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.proxy.agelimit import AgeLimit
    from goproxy_vm.proxy.answer import Answer
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.documents import Documents
    from goproxy_vm.proxy.gate import Gate, Refusal

log = get_logger("proxy")

KEPT = 64
"""Lists of which it is remembered what of them passes."""

TRIED = 16
"""Versions that are looked at until one is old enough to take another's place."""
TOLD = 3
"""Reasons that are told where a module has nothing left."""


class Offers:
    """Lists, ``@latest`` and queries, without what may not pass."""

    def __init__(
        self,
        gate: Gate,
        limit: AgeLimit,
        documents: Documents,
        file: Callable[[Artifact, Asker], Awaitable[Answer]],
    ) -> None:
        """``file`` answers the request for a file of a version."""
        self._gate = gate
        self._limit = limit
        self._documents = documents
        self._file = file
        self._passed: Lru[str, tuple[bytes, int, list[str]]] = Lru(KEPT)
        """By module: the list, the gate's generation, and what passed its rules."""

    async def get(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Answer one request. Barred: nothing of what it asks for may pass. Raises as the documents do."""
        answer = await self._documents.get(resource, asker)
        module = resource.module
        if not self._gate.selects(module) or not isinstance(answer.body, bytes):
            return answer
        if resource.endpoint is Endpoint.LIST:
            versions = answer.body.decode().split()
            passed = await self._pass(module, versions, asker, answer.body)
            return answer if len(passed) == len(versions) else replace(answer, body=render_list(passed))
        version = check_latest(answer.body, module)
        refusal = await self.refusal(module, version)
        if refusal is None:
            return answer
        if resource.endpoint is Endpoint.INFO:
            error = await self.refused(refusal, module)
            raise Barred(f"{resource.version} is {version} now, which is {error.sentence}", error.rule)
        return await self._next_best(resource, asker, version, refusal, answer)

    async def refusal(self, module: str, version: str) -> Refusal | None:
        """Why a version's code may not be given, if so. Raises as :meth:`AgeLimit.refusal`."""
        return self._gate.refusal(module, version) or await self._limit.refusal(module, version)

    async def refused(self, refusal: Refusal, module: str) -> Barred:
        """What a client is told, with the version that it might take: of those that are known here."""
        return refusal.error(None if refusal.whole else await self.newest(module))

    async def newest(self, module: str) -> str | None:
        """The newest version that passes, of those that are known here."""
        return await self._newest(module, await self._pass(module, await self._documents.known(module)))

    async def _newest(self, module: str, passed: list[str]) -> str | None:
        """Of those that may be offered; not all of them were looked at for their age."""
        left = list(passed)
        for _ in range(TRIED):
            newest = semver.latest(left)
            if newest is None:
                return None
            with contextlib.suppress(GoproxyError):  # of unknown age: it would be refused
                if await self._limit.refusal(module, newest) is None:
                    return newest
            left.remove(newest)
        return None

    async def _next_best(
        self, resource: ModuleResource, asker: Asker, named: str, refusal: Refusal, answer: Answer
    ) -> Answer:
        """The newest version that passes, by ``go``'s choice, in place of the one that ``@latest`` named."""
        module = resource.module
        try:
            listed = await self._documents.get(ModuleResource(module, Endpoint.LIST), asker)
        except Absent:
            versions: list[str] = []
        else:
            versions = listed.body.decode().split() if isinstance(listed.body, bytes) else []
        newest = await self._newest(module, await self._pass(module, versions, asker))
        if newest is None:
            raise self._nothing_left(module, {*versions, named}, refusal)
        info = await self._file(Artifact.of(module, newest, Kind.INFO), asker)
        info.cache_control, info.until = answer.cache_control, answer.until
        if info.until is None:
            info.until = time.monotonic()  # what it stands for may change: it is not to be kept
        return info

    def _nothing_left(self, module: str, versions: set[str], last: Refusal) -> Barred:
        by_rule = [self._gate.refusal(module, version) for version in versions]
        reasons = Counter(refusal.why for refusal in by_rule if refusal is not None)
        young = by_rule.count(None)
        counts = [f"{count} {why}" for why, count in reasons.most_common(TOLD)]
        if young:
            counts.append(f"{young} {self._limit.younger()}")
        return Barred(f"every version is refused here: {', '.join(counts)}{last.then}", last.rule)

    async def _pass(
        self, module: str, versions: list[str], asker: Asker | None = None, listed: bytes | None = None
    ) -> list[str]:
        """Those that may be offered, by the rules and by their age; what the rules say of a list that is
        given out is remembered. With an ``asker`` also without what a version that is too young retracts."""
        passed = await self._by_rules(module, versions, listed)
        if not self._limit.on:
            return passed
        hidden = await self._limit.hidden(module, passed)
        if not hidden:
            return passed
        newest = semver.latest(passed)
        left = [version for version in passed if version not in hidden]
        if newest in hidden and asker is not None:
            left = await self._not_retracted(module, newest, left, asker)
        return left

    async def _not_retracted(self, module: str, newest: str, left: list[str], asker: Asker) -> list[str]:
        """go reads what is retracted in the newest version that is listed, and this one is not."""
        try:
            mod = await self._file(Artifact.of(module, newest, Kind.MOD), asker)
        except GoproxyError as error:
            log.info("retractions not known", module=module, version=newest, reason=error.sentence)
            return left
        try:
            data = mod.body if isinstance(mod.body, bytes) else await asyncio.to_thread(_first, mod.body)
        finally:
            mod.close()
        return await in_turns(not_retracted(left, await in_turns(retractions(data))))

    async def _by_rules(self, module: str, versions: list[str], listed: bytes | None) -> list[str]:
        generation = self._gate.generation
        if listed is not None:
            known = self._passed.get(module)
            if known is not None and known[0] == listed and known[1] == generation:
                return known[2]
        passed = await in_turns(
            offered(versions, lambda version: self._gate.refusal(module, version) is None)
        )
        if listed is not None:
            self._passed.keep(module, (listed, generation, passed))
        return passed


def _first(mod: StoredFile) -> bytes:
    return mod.pread(0, min(mod.length, LOOKED_AT))
