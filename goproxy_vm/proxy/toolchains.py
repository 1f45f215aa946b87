"""``/vm/toolchain/``: Go for VMs that have none, out of the zips by which ``go`` fetches toolchains."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import Unavailable
from goproxy_vm.lru import Lru
from goproxy_vm.protocol.names import TOOLCHAIN
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.proxy.answer import CONTENT_TYPES, Answer
from goproxy_vm.traffic.flight import Flights

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.cache.store import Store
    from goproxy_vm.protocol.tarball import Tarball
    from goproxy_vm.prover import Repacker, TurnClaim
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.proxy import Proxy

KEPT = 4
"""Plans that are remembered, of two megabytes each."""
RETRY = 300.0
"""Seconds after which a plan that failed is tried again."""
FAILED_MOST = 100
"""How many of those are remembered."""

_PATH = re.compile(
    r"/vm/toolchain/go(1(?:\.[0-9]{1,4}){1,2}(?:(?:rc|beta)[0-9]{1,3})?\.[a-z0-9]{1,16}-[a-z0-9]{1,16})\.(tar\.gz|h1)"
)


def zip_of(path: str) -> ModuleResource | None:
    """The zip that is needed for a raw path; None where it is none of ours."""
    match = _PATH.fullmatch(path)
    return ModuleResource(TOOLCHAIN, Endpoint.ZIP, f"v0.0.1-go{match[1]}") if match else None


class Toolchains:
    """Gives a proven zip as a tarball, and its h1. Nothing but the zip is stored."""

    def __init__(
        self,
        proxy: Proxy,
        store: Store,
        repacker: Repacker,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proxy = proxy
        self._store = store
        self._repacker = repacker
        self._plans: Lru[str, Tarball] = Lru(KEPT)
        """By the zip's SHA-256."""
        self._failed: Lru[str, tuple[float, str]] = Lru(FAILED_MOST)
        """Until when plans are not tried again, and why."""
        self._now = monotonic
        self._planning: Flights[Tarball] = Flights(lambda plan: plan, lambda _: None)

    async def close(self) -> None:
        """End what is being planned."""
        await self._planning.close()

    async def get(self, path: str, resource: ModuleResource, asker: Asker) -> Answer:
        """Answer one request for a path that needs the zip ``resource``; raises as the request for that does,
        and Unavailable where it cannot be repacked."""
        answer = await self._proxy.get(resource, asker)
        try:
            made = await (self._h1 if path.endswith(".h1") else self._tarball)(resource, asker, answer)
            await self._proxy.admit(resource, asker)  # asked again: it may have waited for its plan for long
        except BaseException:
            answer.close()
            raise
        return made

    async def _tarball(self, resource: ModuleResource, asker: Asker, answer: Answer) -> Answer:
        zipped = answer.body
        if not isinstance(zipped, StoredFile):
            raise TypeError("a zip that is no stored file")
        plan = self._plans.get(zipped.sha256)
        if plan is None:
            self._check(zipped.sha256)
            # Its own handle, for a flight goes on when whoever began it leaves.
            source = zipped if zipped.sha256 in self._planning else zipped.share()
            claim = self._repacker.claim(asker.client)
            making = partial(self._plan, source, resource, claim)
            plan, _ = await self._planning.join(zipped.sha256, making, claim, asker.patience)
        etag = f'"{zipped.sha256[:32]}-{plan.mark}"'
        return replace(answer, content_type="application/gzip", etag=etag, tarball=plan)

    async def _h1(self, resource: ModuleResource, _: Asker, answer: Answer) -> Answer:
        """The hash that the zip was held to when it was stored."""
        h1 = (await self._store.known(resource.module, resource.version)).zip
        if h1 is None:
            raise Unavailable("its hash is not on record now; ask again")
        answer.close()
        return replace(answer, body=f"{h1}\n".encode(), content_type=CONTENT_TYPES[Endpoint.LIST], etag=None)

    def _check(self, sha256: str) -> None:
        """Unavailable, with the sentence that was said then: its plan failed a short while ago."""
        until, sentence = self._failed.get(sha256, (0.0, ""))
        if self._now() < until:
            raise Unavailable(sentence)

    async def _plan(self, zipped: StoredFile, resource: ModuleResource, claim: TurnClaim) -> Tarball:
        """A flight, which closes ``zipped``."""
        with zipped:
            given = zipped.raw.fileno() if zipped.data is None else zipped.data
            try:
                plan = await self._repacker.plan(given, resource.module, resource.version, claim)
            except Unavailable as error:
                self._failed.keep(zipped.sha256, (self._now() + RETRY, error.sentence))
                raise
        self._plans.keep(zipped.sha256, plan)
        return plan
