"""The decision: hit, miss, stale, negative or refused; one flight per key."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import Absent, GoproxyError
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.content import LONGEST_INFO
from goproxy_vm.protocol.request import ModuleResource, parse
from goproxy_vm.proxy.agelimit import AgeLimit
from goproxy_vm.proxy.answer import RESERVED, Answer, Result, file_answer
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.documents import Documents
from goproxy_vm.proxy.fetching import Fallback, Fetching
from goproxy_vm.proxy.intake import Intake
from goproxy_vm.proxy.needs import Need, Needs
from goproxy_vm.proxy.offers import Offers
from goproxy_vm.proxy.prefetch import Prefetch
from goproxy_vm.proxy.routing import Routing
from goproxy_vm.proxy.substitutes import Substitutes
from goproxy_vm.traffic.absence import Absences
from goproxy_vm.traffic.flight import Flights
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.sink import MemoryBudget

if TYPE_CHECKING:
    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.prover import ZipProver
    from goproxy_vm.proxy.ages import Age
    from goproxy_vm.proxy.gate import Gate, Refusal
    from goproxy_vm.sumdb.proof import Proofs
    from goproxy_vm.traffic.slots import Claim
    from goproxy_vm.upstream.chain import Upstreams


class Proxy:
    """Answers module requests from the store, or through at most one upstream fetch each."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        store: Store,
        upstreams: Upstreams,
        prover: ZipProver,
        proofs: Proofs,
        slots: FairSlots,
        private: Upstreams | None = None,
        limit: AgeLimit | None = None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``private``: where modules of the setting of that name come from, in place of ``upstreams``;
        ``limit`` says what is too young."""
        self._gate = gate
        self._store = store
        self._watchers: list[Callable[[], None]] = []
        self._files: Flights[StoredFile] = Flights(StoredFile.share, StoredFile.close)
        self._absences = Absences(settings.negative, settings.stale, store.answers, monotonic, wall)
        memory = MemoryBudget()
        self.intake = Intake(store, prover, proofs, memory, settings.max_zip_size)
        """How files come into the store."""

        def fetching(these: Upstreams, slots: FairSlots) -> Fetching:
            return Fetching(settings, gate, slots, these, self._absences, store.fences, memory)

        self.routing = Routing(
            gate,
            fetching(upstreams, slots),
            # Apart: what waits there for a process, or for a slow server, keeps nothing else waiting.
            fetching(private, FairSlots(max(2, settings.max_misses))) if private else None,
        )
        """Which upstreams a module comes from, by which slots and with which memory."""
        self._substitutes = Substitutes(store, gate.blocked)
        self._prefetch = Prefetch(self._fetch_ahead, zips=settings.prefetch)
        self._documents = Documents(
            settings,
            gate,
            store,
            self.routing,
            self._substitutes,
            wall,
            # For clients it is the version's .info, which they ask for no more, and others will.
            named=self._prefetch.complete,
        )
        self._limit = limit or AgeLimit(gate)
        self._offers = Offers(gate, self._limit, self._documents, self._file)

    async def close(self) -> None:
        """Cancel the flights under way."""
        await self._prefetch.close()
        await self._files.close()
        await self._documents.close()

    @property
    def fetches_in_flight(self) -> int:
        """How many fetches are under way."""
        return len(self._files) + len(self._documents)

    async def get(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Answer one request; raises RequestError, UpstreamError, Unavailable, Overloaded and UnderWay."""
        await self.admit(resource, asker)
        artifact = resource.artifact
        reserved = self._gate.reserved(resource.module)
        try:
            if artifact is not None:
                answer = await self._file(artifact, asker)
            else:
                answer = await self._offers.get(resource, asker)
        except Absent as error:
            error.reserved = reserved
            raise
        try:
            await self.admit(resource, asker)  # asked again: it may have waited for long
        except BaseException:  # the client may be gone as well
            answer.close()
            raise
        if reserved:
            answer.cache_control, answer.until = RESERVED, None
        return answer

    async def admit(self, resource: ModuleResource, asker: Asker) -> None:
        """Denied: it may not be given, or not any more, or not to that one. Raises as
        :meth:`AgeLimit.refusal`."""
        self._gate.admit(resource.module, asker)
        if resource.artifact is not None:
            await self._check(resource.artifact)

    async def _check(self, artifact: Artifact) -> None:
        """Barred: nobody may have a file. Raises as :meth:`AgeLimit.refusal`."""
        refusal = self._gate.refusal_of(artifact)
        if refusal is None and artifact.kind is Kind.ZIP:
            refusal = await self._limit.refusal(artifact.module, artifact.version)
        if refusal is not None:
            raise await self._offers.refused(refusal, artifact.module)

    # Files: canonical .info, .mod and .zip, kept until they are evicted or purged.

    def passes(self, artifact: Artifact) -> bool:
        """Whether a file is known to be for everyone who may ask."""
        return self._gate.passes(artifact)

    async def stored(self, artifact: Artifact) -> Answer | None:
        """The answer to a request for a file of a version if it is a hit, else None; the request may have
        others fetched. Unavailable as the store."""
        if not self._gate.passes(artifact):
            return None
        stored = await self._store.get(artifact)
        if stored is None:
            return None
        if not self._gate.passes(artifact):  # any more
            stored.close()
            return None
        self._prefetch.hit(artifact.path)
        return file_answer(artifact.kind, stored, Result.HIT)

    def stored_at_once(self, path: str, most: int) -> Answer | None:
        """As :meth:`stored`, by a path, where that takes no waiting; a file of up to ``most`` bytes is in
        memory then. None says nothing."""
        if not self._gate.open and (
            not self._store.remembers(path) or not self._gate.passes(Artifact.stored(path))
        ):
            return None
        stored = self._store.get_at_once(path, most)
        if stored is None:
            return None
        self._prefetch.hit(path)
        return file_answer(Kind(path.rpartition(".")[2]), stored, Result.HIT)

    async def _file(self, artifact: Artifact, asker: Asker) -> Answer:
        stored = await self._store.get(artifact)
        if stored is not None:
            if self._gate.may_fetch(asker):
                self._prefetch.hit(artifact.path)
            return file_answer(artifact.kind, stored, Result.HIT)
        # Of what was stored before: a .mod that this very miss brings does not hide what became of the .info.
        built = await self._built(artifact)
        try:
            return await self._fetched(artifact, asker, built)
        except Absent:
            # A version whose .mod is proven does exist, whatever became of its .info.
            if built is None:
                raise
            return built

    async def _fetched(self, artifact: Artifact, asker: Asker, built: Answer | None) -> Answer:
        if not self._gate.may_fetch(asker):
            return await self._without_record(artifact, asker)
        self._absences.recent.check(artifact.path)
        if artifact.kind is not Kind.MOD and not self._upstreams(artifact).resting:
            self._start_mod(artifact, asker)
        try:
            return await self._brought(artifact, asker, built)
        except asyncio.CancelledError:
            # The client is gone: its .mod need not wait for a slot either.
            self._files.abandon(artifact.sibling(Kind.MOD).path)
            raise

    async def _brought(self, artifact: Artifact, asker: Asker, built: Answer | None) -> Answer:
        brought = await self.routing.of(artifact.module).bring(
            self._files,
            artifact.path,
            asker,
            partial(self._bring, artifact),
            Fallback(
                copy=None,
                absent=partial(self._absences.check, artifact.path),
                built=partial(_ready, built),
                behind=partial(self._complete, artifact),
            ),
        )
        if isinstance(brought, Answer):
            return brought
        stored, collapsed = brought
        if not collapsed:
            self._complete(artifact)
        return file_answer(artifact.kind, stored, Result.COLLAPSED if collapsed else Result.MISS)

    async def _built(self, artifact: Artifact) -> Answer | None:
        """An ``.info`` that follows from the ``.mod``; other files follow from nothing."""
        if artifact.kind is Kind.INFO:
            return await self._substitutes.info(artifact.module, artifact.version)
        return None

    def _complete(self, artifact: Artifact) -> None:
        """What was asked for of a version brings its ``.info``."""
        self._prefetch.complete(artifact.module, artifact.version)

    async def _without_record(self, artifact: Artifact, asker: Asker) -> Answer:
        """Offline, the file that recovery has not come to yet, or had to leave; else Absent."""
        if self._gate.offline and await self._store.strays.find(artifact.path) is not None:

            async def bring() -> StoredFile:
                stored = await self.intake.reclaim(artifact, asker.client)
                if stored is None:
                    raise self._gate.not_here()
                return stored

            stored, _ = await self._files.join(artifact.path, bring)
            return file_answer(artifact.kind, stored, Result.HIT)
        raise self._gate.not_here()

    def _start_mod(self, artifact: Artifact, asker: Asker) -> None:
        """A miss of one file of a version starts its ``.mod``: the next thing any client asks for."""
        mod = artifact.sibling(Kind.MOD)
        claim = self.routing.of(mod.module).slots.claim(asker.client)

        async def bring() -> StoredFile:
            stored = await self._store.get(mod)
            if stored is None:
                return await self._take_in(mod, claim)
            if artifact.kind is Kind.INFO:
                self._prefetch.after_info(mod.module, mod.version)
            return stored

        if not self._absences.recent.has(mod.path):
            self._files.start(mod.path, bring, claim)

    async def _fetch_ahead(self, artifact: Artifact) -> bool:
        """Fetch an announced file, unless it is there or others would have to go for it; whether it was."""
        if artifact.path in self._files or self._absences.recent.has(artifact.path):
            return False
        if artifact.kind is Kind.ZIP:
            if not self._store.roomy or self._upstreams(artifact).resting:
                return False
            try:
                await self._check(artifact)
            except GoproxyError:  # who asks for it is told
                return False
        claim, fetched = self.routing.of(artifact.module).slots.claim("prefetch"), False

        async def bring() -> StoredFile:
            nonlocal fetched
            stored = await self._store.get(artifact, asked=False)
            if stored is None:
                stored = await self._take_in(artifact, claim)
                fetched = True
            return stored

        with contextlib.suppress(GoproxyError):  # logged where it happened
            stored, _ = await self._files.join(artifact.path, bring, claim)
            stored.close()
        return fetched

    async def _bring(self, artifact: Artifact, claim: Claim) -> StoredFile:
        """A flight; it looks in the store again: an earlier one may have landed since the first look."""
        stored = await self._store.get(artifact)
        return stored if stored is not None else await self._take_in(artifact, claim)

    async def _take_in(self, artifact: Artifact, claim: Claim) -> StoredFile:
        fetching = self.routing.of(artifact.module)
        return await fetching.hold(
            artifact, claim, lambda: self.intake.bring(artifact, fetching.upstreams, claim)
        )

    def _upstreams(self, artifact: Artifact) -> Upstreams:
        return self.routing.of(artifact.module).upstreams

    # What operators ask of the proxy itself.

    def watch(self, forget: Callable[[], None]) -> None:
        """Have ``forget`` called when lists and queries may be older than what is known."""
        self._watchers.append(forget)

    async def info(self, module: str, version: str) -> bytes:
        """The ``.info`` of a version, for our own use. Raises as :meth:`get`."""
        answer = await self._file(Artifact.of(module, version, Kind.INFO), Asker("ages"))
        return await answer.read(LONGEST_INFO)

    async def check(self, module: str, version: str) -> tuple[Refusal | None, Age | None]:
        """Why a version's code may not be given, if so, and its age, where that counts. Raises as
        :meth:`AgeLimit.refusal`."""
        refusal = self._gate.refusal(module, version)
        if refusal is not None or not version:
            return refusal, None
        return await self._limit.refusal(module, version), await self._limit.age(module, version)

    async def needs(self, module: str, version: str) -> tuple[list[Need], bool]:
        """What a version requires that is too young, and whether there may be more; raises as :meth:`get`."""
        return await Needs(self._offers.refusal, self._file).of(module, version)

    async def newest_allowed(self, module: str) -> str | None:
        """The newest version of a module that passes the gate, of those that are known here."""
        return await self._offers.newest(module)

    async def absences(self, module: str) -> int:
        """Absences of a module that are remembered in memory alone."""
        return await self._absences.unkept(_concerned(lambda m, _: m == module))

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Requests from now on ask anew: they join no flight for a version that ``matches``, nor one for a
        list or a query, and no absence is remembered. Costs some requests too many, not one too few."""
        self._absences.recent.clear()
        self._documents.forget(matches)
        for forget in self._watchers:
            forget()
        self._files.detach(_concerned(matches))
        self._prefetch.forget(matches)


def _concerned(matches: Callable[[str, str], bool]) -> Callable[[str], bool]:
    """Whether an escaped path is of a module and a version that match."""

    def concerned(path: str) -> bool:
        resource = parse(f"/{path}", None).resource
        return isinstance(resource, ModuleResource) and matches(resource.module, resource.version)

    return concerned


async def _ready(answer: Answer | None) -> Answer | None:
    """An answer that is there already."""
    return answer
