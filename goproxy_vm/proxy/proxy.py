"""The decision: hit, miss, stale, negative or refused; one flight per key."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import (
    Absent,
    ContentError,
    Denied,
    GoproxyError,
    Unproven,
)
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.content import LONGEST_INFO, check_info
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.gomod import check_mod
from goproxy_vm.protocol.modzip import MAX_SPECIAL
from goproxy_vm.protocol.names import match_prefix_patterns
from goproxy_vm.protocol.request import Endpoint, ModuleResource, parse
from goproxy_vm.proxy.absence import Absences
from goproxy_vm.proxy.answer import Answer, Result, file_answer
from goproxy_vm.proxy.asker import not_here
from goproxy_vm.proxy.documents import Documents
from goproxy_vm.proxy.fetching import Fallback, Fetching
from goproxy_vm.proxy.flight import Flights
from goproxy_vm.proxy.prefetch import Prefetch
from goproxy_vm.proxy.steps import in_turns
from goproxy_vm.proxy.substitutes import Substitutes
from goproxy_vm.upstream.sink import Memory, MemoryBudget

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.prover import ZipProver
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.proof import Proof, Proofs
    from goproxy_vm.proxy.slots import Claim, FairSlots
    from goproxy_vm.upstream.chain import Upstreams

log = get_logger("proxy")

AT_ONCE = 64 << 10
"""Bytes of a ``.mod`` that is hashed where it is."""
RECOVERY = "recovery"
"""On whose behalf files without a record are looked at after a start."""


class Proxy:
    """Answers module requests from the store, or through at most one upstream fetch each."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        upstreams: Upstreams,
        prover: ZipProver,
        proofs: Proofs,
        slots: FairSlots,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self.deny = settings.deny
        """Patterns of modules that are refused."""
        self._store = store
        self._upstreams = upstreams
        self._prover = prover
        self._proofs = proofs
        self._watchers: list[Callable[[], None]] = []
        self._files: Flights[StoredFile] = Flights(StoredFile.share, StoredFile.close)
        self._absences = Absences(settings.negative, settings.stale, store.answers, monotonic, wall)
        self._fetching = Fetching(
            settings, slots, upstreams, self._absences, store.keeper.fences, MemoryBudget()
        )
        self._substitutes = Substitutes(store)
        self._prefetch = Prefetch(self._fetch_ahead, zips=settings.prefetch)
        self._documents = Documents(
            settings,
            store,
            upstreams,
            self._fetching,
            self._substitutes,
            wall,
            # For clients it is the version's .info, which they ask for no more, and others will.
            named=self._prefetch.complete,
        )

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
        """Answer one request; raises RequestError, UpstreamError, NoRoom, Overloaded and UnderWay."""
        if match_prefix_patterns(self.deny, resource.module):
            raise Denied(f"module {resource.module} is denied by this server's policy (setting deny)")
        if resource.immutable:
            return await self._file(resource, asker)
        return await self._documents.get(resource, asker, fetch=self._may_fetch(asker))

    def _may_fetch(self, asker: Asker) -> bool:
        return asker.fetch and not self._settings.offline

    # Files: canonical .info, .mod and .zip, kept until they are evicted or purged.

    async def stored(self, resource: ModuleResource) -> Answer | None:
        """The answer to a request for a file of a version if it is a hit, else None; the request may have
        others fetched. NoRoom as the store."""
        if match_prefix_patterns(self.deny, resource.module):
            return None
        stored = await self._store.get(resource.path)
        if stored is None:
            return None
        self._prefetch.hit(resource)
        return file_answer(resource, stored, Result.HIT)

    async def _file(self, resource: ModuleResource, asker: Asker) -> Answer:
        stored = await self._store.get(resource.path)
        if stored is not None:
            if self._may_fetch(asker):
                self._prefetch.hit(resource)
            return file_answer(resource, stored, Result.HIT)
        # Of what was stored before: a .mod that this very miss brings does not hide what became of the .info.
        built = await self._built(resource)
        try:
            return await self._fetched(resource, asker, built)
        except Absent:
            # A version whose .mod is proven does exist, whatever became of its .info.
            if built is None:
                raise
            return built

    async def _fetched(self, resource: ModuleResource, asker: Asker, built: Answer | None) -> Answer:
        if not self._may_fetch(asker):
            return await self._without_record(resource, asker)
        self._absences.recent.check(resource.path)
        if resource.endpoint is not Endpoint.MOD and not self._upstreams.resting:
            self._start_mod(resource, asker)
        try:
            return await self._brought(resource, asker, built)
        except asyncio.CancelledError:
            # The client is gone: its .mod need not wait for a slot either.
            self._files.abandon(ModuleResource(resource.module, Endpoint.MOD, resource.version).path)
            raise

    async def _brought(self, resource: ModuleResource, asker: Asker, built: Answer | None) -> Answer:
        brought = await self._fetching.bring(
            self._files,
            resource.path,
            asker,
            partial(self._bring_file, resource),
            Fallback(
                copy=None,
                absent=partial(self._absences.check, resource.path),
                built=partial(_ready, built),
                behind=partial(self._complete, resource),
            ),
        )
        if isinstance(brought, Answer):
            return brought
        stored, collapsed = brought
        if not collapsed:
            self._complete(resource)
        return file_answer(resource, stored, Result.COLLAPSED if collapsed else Result.MISS)

    async def _built(self, resource: ModuleResource) -> Answer | None:
        """An ``.info`` that follows from the ``.mod``; other files follow from nothing."""
        if resource.endpoint is Endpoint.INFO:
            return await self._substitutes.info(resource.module, resource.version)
        return None

    def _complete(self, resource: ModuleResource) -> None:
        """What was asked for of a version brings its ``.info``."""
        self._prefetch.complete(resource.module, resource.version)

    async def _without_record(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Offline, the file that recovery has not come to yet, or had to leave; else Absent."""
        if self._settings.offline and await self._store.strays.find(resource.path) is not None:

            async def bring() -> StoredFile:
                stored = await self._reclaim(resource, asker.client)
                if stored is None:
                    raise not_here(offline=self._settings.offline)
                return stored

            stored, _ = await self._files.join(resource.path, bring)
            return file_answer(resource, stored, Result.HIT)
        raise not_here(offline=self._settings.offline)

    def _start_mod(self, resource: ModuleResource, asker: Asker) -> None:
        """A miss of one file of a version starts its ``.mod``: the next thing any client asks for."""
        mod = ModuleResource(resource.module, Endpoint.MOD, resource.version)

        claim = self._fetching.slots.claim(asker.client)

        async def bring() -> StoredFile:
            stored = await self._store.get(mod.path)
            if stored is None:
                return await self._fetch_file(mod, claim)
            if resource.endpoint is Endpoint.INFO:
                self._prefetch.after_info(mod.module, mod.version)
            return stored

        if not self._absences.recent.has(mod.path):
            self._files.start(mod.path, bring, claim)

    async def _fetch_ahead(self, resource: ModuleResource) -> bool:
        """Fetch an announced file, unless it is there or others would have to go for it; whether it was."""
        if resource.path in self._files or self._absences.recent.has(resource.path):
            return False
        if resource.endpoint is Endpoint.ZIP and (not self._store.roomy or self._upstreams.resting):
            return False
        claim, fetched = self._fetching.slots.claim("prefetch"), False

        async def bring() -> StoredFile:
            nonlocal fetched
            stored = await self._store.get(resource.path, asked=False)
            if stored is None:
                stored = await self._fetch_file(resource, claim)
                fetched = True
            return stored

        with contextlib.suppress(GoproxyError):  # logged where it happened
            stored, _ = await self._files.join(resource.path, bring, claim)
            stored.close()
        return fetched

    async def _bring_file(self, resource: ModuleResource, claim: Claim) -> StoredFile:
        """A flight; it looks in the store again: an earlier one may have landed since the first look."""
        stored = await self._store.get(resource.path)
        return stored if stored is not None else await self._fetch_file(resource, claim)

    async def _fetch_file(self, resource: ModuleResource, claim: Claim) -> StoredFile:
        fetch = {
            Endpoint.INFO: self._fetch_info,
            Endpoint.MOD: self._fetch_mod,
            Endpoint.ZIP: self._fetch_zip,
        }[resource.endpoint]
        return await self._fetching.hold(resource, claim, lambda: fetch(resource, claim))

    async def _fetch_info(self, resource: ModuleResource, claim: Claim) -> StoredFile:
        since = self._store.keeper.fences.now
        if (reclaimed := await self._reclaim(resource, claim.client)) is not None:
            return reclaimed
        module, version = resource.module, resource.version
        with Memory(self._fetching.memory, claim) as sink:

            async def check() -> None:
                check_info(sink.data, module, version)

            await self._upstreams.fetch(resource.path, sink, limit=LONGEST_INFO, check=check)
            if sink.substitute:
                return StoredFile(sink.data, len(sink.data), sha256(sink.data).hexdigest())
            return await self._store.put(
                resource.path, sink.data, h1=None, module=module, version=version, since=since
            )

    async def _fetch_mod(self, resource: ModuleResource, claim: Claim) -> StoredFile:
        since = self._store.keeper.fences.now
        if (reclaimed := await self._reclaim(resource, claim.client)) is not None:
            return reclaimed
        module, version = resource.module, resource.version
        proof = self._proofs.begin(module, version)
        with Memory(self._fetching.memory, claim) as sink:

            async def check() -> str:
                if not self._proofs.recorded(module):
                    # Else a login page would be the file first seen.
                    await in_turns(check_mod(sink.data, module))
                h1 = await _h1_mod(sink.data)
                await proof.verdict("mod", h1)
                return h1

            with _cancelling(proof):
                h1 = await self._upstreams.fetch(resource.path, sink, limit=MAX_SPECIAL, check=check)
            return await self._store.put(
                resource.path, sink.data, h1=h1, module=module, version=version, since=since
            )

    async def _fetch_zip(self, resource: ModuleResource, claim: Claim) -> StoredFile:
        since = self._store.keeper.fences.now
        if (reclaimed := await self._reclaim(resource, claim.client)) is not None:
            return reclaimed
        download = self._store.download()
        proof = self._proofs.begin(resource.module, resource.version)

        async def check() -> str:
            await download.finish()
            report = await self._prover.prove(download.path, resource.module, resource.version, claim.client)
            await proof.verdict("zip", report.h1)
            return report.h1

        try:
            with _cancelling(proof):
                h1 = await self._upstreams.fetch(
                    resource.path, download, limit=self._settings.max_zip_size, check=check
                )
            return await self._store.adopt(
                resource.path,
                download,
                h1=h1,
                module=resource.module,
                version=resource.version,
                since=since,
            )
        finally:
            await download.discard()

    async def _reclaim(self, resource: ModuleResource, client: str) -> StoredFile | None:
        """A file that is there without a record, unless it is known to be wrong; it is not fetched then.

        What the checksum database has a record of is held to it. Where nobody can be asked, the file counts
        as first seen here (docs/decisions/0008-what-is-stored-is-enough.md). NoRecord: it stays unserved.
        """
        since = self._store.keeper.fences.now
        file = await self._store.strays.find(resource.path)
        if file is None:
            return None
        module, version = resource.module, resource.version
        try:
            h1, first_seen = await self._examine(resource, file, client)
            claimed = await self._store.strays.claim(
                resource.path, h1=h1, module=module, version=version, first_seen=first_seen, since=since
            )
            # None: somebody else was first.
            return claimed if claimed is not None else await self._store.get(resource.path)
        except ContentError as error:
            log.warning("file without a record refused", path=resource.path, reason=error.sentence)
            await self._store.strays.refuse(resource.path)
        except OSError as error:
            log.warning("file without a record not read", path=resource.path, reason=str(error))
        return None

    async def _examine(self, resource: ModuleResource, file: Path, client: str) -> tuple[str | None, bool]:
        """The h1 of a file that may be right, and whether nobody could say that it is. ContentError."""
        kind = resource.endpoint
        if kind is Endpoint.INFO:
            info = await self._store.strays.read(file, LONGEST_INFO)
            check_info(info, resource.module, resource.version)
            return None, False
        known = await self._store.known(resource.module, resource.version)
        proof = self._proofs.begin(resource.module, resource.version)
        with _cancelling(proof):
            if kind is Endpoint.MOD:
                data = await self._store.strays.read(file, MAX_SPECIAL)
                if b"\0" in data:
                    raise ContentError("it is no text")
                h1 = await _h1_mod(data)
            else:
                h1 = (await self._prover.prove(file, resource.module, resource.version, client)).h1
            try:
                await proof.verdict("mod" if kind is Endpoint.MOD else "zip", h1)
            except Unproven:
                return h1, True
        held = known.mod if kind is Endpoint.MOD else known.zip
        return h1, held is None and not self._proofs.recorded(resource.module)

    async def prove_stray(self, path: str) -> bool | None:
        """Look at a stored file without a record, and adopt it if it may be served; None where it stays."""
        resource = parse(f"/{path}", None).resource
        if not isinstance(resource, ModuleResource):
            return False
        try:
            stored = await self._reclaim(resource, RECOVERY)
        except GoproxyError as error:
            log.warning("file without a record withheld", path=path, reason=error.sentence)
            return None
        if stored is None:
            return None
        stored.close()
        return True

    # What operators ask of the proxy itself.

    def watch(self, forget: Callable[[], None]) -> None:
        """Have ``forget`` called when lists and queries may be older than what is known."""
        self._watchers.append(forget)

    async def absences(self, module: str) -> int:
        """Absences of a module that are remembered in memory alone."""

        def concerned(path: str) -> bool:
            resource = parse(f"/{path}", None).resource
            return isinstance(resource, ModuleResource) and resource.module == module

        return await self._absences.unkept(concerned)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Requests from now on ask anew: they join no flight for a version that ``matches``, nor one for a
        list or a query, and no absence is remembered. Costs some requests too many, not one too few."""
        self._absences.recent.clear()
        self._documents.forget(matches)
        for forget in self._watchers:
            forget()

        def concerned(path: str) -> bool:
            resource = parse(f"/{path}", None).resource
            return isinstance(resource, ModuleResource) and matches(resource.module, resource.version)

        self._files.detach(concerned)
        self._prefetch.forget(matches)


async def _h1_mod(data: bytes) -> str:
    """The h1 of a ``.mod``; of a large one in a thread, which does not keep the interpreter for it."""
    return h1_mod(data) if len(data) <= AT_ONCE else await asyncio.to_thread(h1_mod, data)


async def _ready(answer: Answer | None) -> Answer | None:
    """An answer that is there already."""
    return answer


@contextlib.contextmanager
def _cancelling(proof: Proof) -> Iterator[None]:
    """Give up the proof when the download beside it fails."""
    try:
        yield
    except BaseException:
        proof.cancel()
        raise
