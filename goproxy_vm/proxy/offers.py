"""What of a module's lists may be given: the gate's rules, applied to whatever the documents say.

Documents are kept as upstreams said them, and are looked at on their way out: a rule that is given, or taken
back, counts for the next request.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, Barred
from goproxy_vm.lru import Lru
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import check_latest, render_list
from goproxy_vm.protocol.policy import offered
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.traffic.steps import in_turns

if TYPE_CHECKING:
    from goproxy_vm.proxy.answer import Answer
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.documents import Documents
    from goproxy_vm.proxy.gate import Gate, Refusal

KEPT = 64
"""Lists of which it is remembered what of them passes."""

TOLD = 3
"""Reasons that are told where a module has nothing left."""


class Offers:
    """Lists, ``@latest`` and queries, without what may not pass."""

    def __init__(
        self,
        gate: Gate,
        documents: Documents,
        file: Callable[[Artifact, Asker], Awaitable[Answer]],
    ) -> None:
        """``file`` answers the request for a file of a version."""
        self._gate = gate
        self._documents = documents
        self._file = file
        self._passed: Lru[str, tuple[bytes, int, list[str]]] = Lru(KEPT)
        """By module: the list, the gate's generation, and what passed."""

    async def get(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Answer one request. Barred: nothing of what it asks for may pass. Raises as the documents do."""
        answer = await self._documents.get(resource, asker)
        if not self._gate.selects(resource.module) or not isinstance(answer.body, bytes):
            return answer
        if resource.endpoint is Endpoint.LIST:
            versions = answer.body.decode().split()
            passed = await self._pass(resource.module, answer.body, versions)
            return answer if len(passed) == len(versions) else replace(answer, body=render_list(passed))
        version = check_latest(answer.body, resource.module)
        refusal = self._gate.refusal(resource.module, version)
        if refusal is None:
            return answer
        if resource.endpoint is Endpoint.INFO:
            error = await self.refused(refusal, resource.module)
            raise Barred(f"{resource.version} is {version} now, which is {error.sentence}", error.rule)
        return await self._next_best(resource, asker, version, refusal, answer)

    async def refused(self, refusal: Refusal, module: str) -> Barred:
        """What a client is told, with the version that it might take: of those that are known here."""
        return refusal.error(None if refusal.whole else await self.newest(module))

    async def newest(self, module: str) -> str | None:
        """The newest version that passes, of those that are known here."""
        return semver.latest(await self._pass(module, None, await self._documents.known(module)))

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
        passed = await self._pass(module, None, versions)
        newest = semver.latest(passed)
        if newest is None:
            raise self._nothing_left(module, {*versions, named}, refusal)
        info = await self._file(Artifact.of(module, newest, Kind.INFO), asker)
        info.cache_control, info.until = answer.cache_control, answer.until
        if info.until is None:
            info.until = time.monotonic()  # what it stands for may change: it is not to be kept
        return info

    def _nothing_left(self, module: str, versions: set[str], last: Refusal) -> Barred:
        refusals = Counter(
            refusal.why
            for version in versions
            if (refusal := self._gate.refusal(module, version)) is not None
        )
        counts = ", ".join(f"{count} {why}" for why, count in refusals.most_common(TOLD))
        return Barred(f"every version is refused here: {counts}{last.then}", last.rule)

    async def _pass(self, module: str, data: bytes | None, versions: list[str]) -> list[str]:
        """Those versions that may be offered; of a list that was given before, remembered."""
        generation = self._gate.generation
        if data is not None:
            known = self._passed.get(module)
            if known is not None and known[0] == data and known[1] == generation:
                return known[2]
        passed = await in_turns(
            offered(versions, lambda version: self._gate.refusal(module, version) is None)
        )
        if data is not None:
            self._passed.keep(module, (data, generation, passed))
        return passed
