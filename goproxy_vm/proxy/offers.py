"""What of a module's lists may be given: the gate's rules, applied to whatever the documents say.

Documents are kept as upstreams said them, and are looked at on their way out: a rule that is given, or taken
back, counts for the next request.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, Barred, GoproxyError
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import check_latest, render_list
from goproxy_vm.protocol.gomod import LOOKED_AT, Retractions, retractions
from goproxy_vm.protocol.policy import Offer, offered
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.traffic.steps import in_turns

if TYPE_CHECKING:
    from goproxy_vm.proxy.agelimit import AgeLimit
    from goproxy_vm.proxy.answer import Answer
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.documents import Documents
    from goproxy_vm.proxy.gate import Gate, Refusal

log = get_logger("proxy")

KEPT = 16
"""Lists of which it is remembered what of them passes: the longest take five megabytes each."""

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
        self._offers: Lru[str, tuple[bytes, int, Offer]] = Lru(KEPT)
        """By module: the list, the gate's generation, and what may be offered by its rules."""

    async def get(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Answer one request. Barred: nothing of what it asks for may pass. Raises as the documents do."""
        try:
            answer = await self._documents.get(resource, asker)
        except Absent:
            if resource.endpoint is Endpoint.LATEST and self._gate.selects(resource.module):
                await self._check_left(resource, asker)
            raise
        if not self._gate.selects(resource.module):  # asked now: it may have waited for long
            return answer
        if resource.endpoint is Endpoint.LIST:
            listed = _read(answer)
            offer = await self._aged(resource.module, await self._offer(resource.module, listed), asker)
            return answer if not offer.refused else replace(answer, body=render_list(offer.passed))
        try:
            version = check_latest(_read(answer), resource.module)
            refusal = await self.refusal(resource.module, version)
            if refusal is None:
                return answer
        except BaseException:
            answer.close()
            raise
        answer.close()
        if resource.endpoint is Endpoint.INFO:
            error = await self.refused(refusal, resource.module)
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
        offer = await self._offer(module, await self._documents.known(module))
        return (await self._settled(module, await self._aged(module, offer, None))).newest

    async def _next_best(
        self, resource: ModuleResource, asker: Asker, named: str, refusal: Refusal, answer: Answer
    ) -> Answer:
        """The newest version that passes, by ``go``'s choice, in place of the one that ``@latest`` named."""
        module = resource.module
        try:
            listed = _read(await self._documents.get(ModuleResource(module, Endpoint.LIST), asker))
        except Absent:
            listed = b""
        offer = await self._aged(module, await self._offer(module, listed), asker)
        offer = await self._settled(module, offer)
        if offer.newest is None:
            unlisted = Counter[str]() if named in listed.decode().split() else Counter([self._group(refusal)])
            raise _nothing_left(offer.refused + unlisted, refusal)
        try:
            info = await self._file(Artifact.of(module, offer.newest, Kind.INFO), asker)
        except Absent:  # 404 would send VMs on to the next proxy, which may give what is refused here
            raise refusal.error() from None
        info.cache_control, info.until = answer.cache_control, answer.until
        if info.until is None:
            info.until = time.monotonic()  # what it stands for may change: it is not to be kept
        return info

    async def _check_left(self, resource: ModuleResource, asker: Asker) -> None:
        """Barred: a module without ``@latest`` has a list, and nothing of it passes."""
        listed = _read(await self._documents.get(ModuleResource(resource.module, Endpoint.LIST), asker))
        offer = await self._aged(resource.module, await self._offer(resource.module, listed), asker)
        offer = await self._settled(resource.module, offer)
        last = next(reversed(listed.decode().split()), None)
        if offer.newest is None and last is not None:
            refusal = await self.refusal(resource.module, last)
            if refusal is not None:
                raise _nothing_left(offer.refused, refusal)

    def _group(self, refusal: Refusal) -> str:
        """What is counted together where nothing is left: each young version has a sentence of its own."""
        return self._limit.younger() if refusal.rule == "age" else refusal.why

    async def _aged(self, module: str, offer: Offer, asker: Asker | None) -> Offer:
        """The same without what is too young, as far as lists are looked at for it. With an ``asker`` also
        without what the newest version retracts where that one is hidden: ``go`` reads it in the newest that
        is listed."""
        hidden = await self._limit.hidden(module, offer.passed) if self._limit.on else frozenset()
        if not hidden:
            return offer
        retracted: Retractions | tuple[()] = ()
        if offer.newest in hidden and asker is not None:
            retracted = await self._retracted(module, offer.newest, asker)

        def why(version: str) -> str | None:
            if version in hidden:
                return self._limit.younger()
            return f"retracted by {offer.newest}" if version in retracted else None

        aged = await in_turns(offered(offer.passed, why))
        return replace(aged, refused=offer.refused + aged.refused)

    async def _settled(self, module: str, offer: Offer) -> Offer:
        """The same, its ``newest`` known to be old enough: what is deeper in a list was not looked at."""
        for _ in range(TRIED):
            newest = offer.newest
            if newest is None:
                return offer
            with contextlib.suppress(GoproxyError):  # of unknown age: it would be refused
                if await self._limit.refusal(module, newest) is None:
                    return offer
            young = partial(_but, newest, self._limit.younger())
            left = await in_turns(offered(offer.passed, young))
            offer = replace(left, refused=offer.refused + left.refused)
        return replace(offer, newest=None)

    async def _retracted(self, module: str, newest: str, asker: Asker) -> Retractions | tuple[()]:
        try:
            mod = await self._file(Artifact.of(module, newest, Kind.MOD), asker)
        except GoproxyError as error:
            log.info("retractions not known", module=module, version=newest, reason=error.sentence)
            return ()
        return await in_turns(retractions(await mod.read(LOOKED_AT)))

    async def _offer(self, module: str, listed: bytes) -> Offer:
        """What of a list may be offered; of one that was given before, remembered."""

        def why(version: str) -> str | None:
            refusal = self._gate.refusal(module, version)
            return None if refusal is None else refusal.why

        while True:
            generation = self._gate.generation
            known = self._offers.get(module)
            if known is not None and known[0] == listed and known[1] == generation:
                return known[2]
            offer = await in_turns(offered(listed.decode().split(), why))
            if generation == self._gate.generation:  # else some were held against other rules than the rest
                self._offers.keep(module, (listed, generation, offer))


def _but(young: str, why: str, version: str) -> str | None:
    return why if version == young else None


def _nothing_left(refused: Counter[str], last: Refusal) -> Barred:
    counts = ", ".join(f"{count} {why}" for why, count in refused.most_common(TOLD))
    return Barred(f"every version is refused here: {counts}{last.then}", last.rule)


def _read(answer: Answer) -> bytes:
    """What a short document says."""
    return answer.body if isinstance(answer.body, bytes) else answer.body.pread(0, answer.body.length)
