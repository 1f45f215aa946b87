"""The decision: hit, miss, stale, negative or refused; one flight per key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import (
    Absent,
    ContentError,
    Denied,
    GoproxyError,
    Overloaded,
    Refused,
    Unproven,
    UpstreamError,
)
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.content import check_info, check_latest, parse_list, render_list
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.names import match_prefix_patterns
from goproxy_vm.protocol.request import Endpoint, ModuleResource, parse
from goproxy_vm.proxy.answer import (
    CACHE_STATUS,
    CONTENT_TYPES,
    IMMUTABLE,
    STABLE,
    Answer,
    Result,
    max_age,
)
from goproxy_vm.proxy.flight import Flights
from goproxy_vm.proxy.negative import Negatives
from goproxy_vm.proxy.prefetch import Prefetch
from goproxy_vm.proxy.slots import FairSlots
from goproxy_vm.upstream.sink import Memory

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.answers import CachedAnswer
    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.prover import ZipProver
    from goproxy_vm.proxy.proof import Proof, Proofs
    from goproxy_vm.upstream.chain import Upstreams

SMALL_LIMIT = 16 << 20
"""Bytes allowed for a ``.mod`` (Go's own bound), and for an ``.info`` or a list."""

log = get_logger("proxy")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as far as the decision needs to know.

    ``client`` is its address, by which miss slots are shared; ``fetch`` is False where the request
    forbids upstream traffic (``Disable-Module-Fetch: true``, ``/cached-only``).
    """

    client: str
    fetch: bool = True


class Proxy:
    """Answers module requests from the store, or through at most one upstream fetch each."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        upstreams: Upstreams,
        prover: ZipProver,
        proofs: Proofs,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._upstreams = upstreams
        self._prover = prover
        self._proofs = proofs
        self._wall = wall
        self._negatives = Negatives(settings.negative, monotonic)
        self._slots = FairSlots(settings.max_misses)
        self._watchers: list[Callable[[], None]] = []
        self._files: Flights[StoredFile] = Flights(StoredFile.share, StoredFile.close)
        self._documents: Flights[bytes] = Flights(lambda data: data, lambda _: None)
        self._prefetch = Prefetch(self._fetch_ahead)

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
        """Answer one request; raises the error tree's RequestError, UpstreamError, NoRoom, Overloaded."""
        if match_prefix_patterns(self._settings.deny, resource.module):
            raise Denied(f"module {resource.module} is denied by this server's policy (setting deny)")
        if resource.immutable:
            return await self._file(resource, asker)
        return await self._document(resource, asker)

    def _may_fetch(self, asker: Asker) -> bool:
        return asker.fetch and not self._settings.offline

    # Files: canonical .info, .mod and .zip, kept until they are evicted or purged.

    async def stored(self, resource: ModuleResource) -> Answer | None:
        """The answer to a request for a file of a version if it is a hit, else None; the request may have
        others fetched. NoRoom as the store."""
        if match_prefix_patterns(self._settings.deny, resource.module):
            return None
        stored = await self._store.get(resource.path)
        if stored is None:
            return None
        self._prefetch.hit(resource)
        return _file_answer(resource, stored, Result.HIT)

    async def _file(self, resource: ModuleResource, asker: Asker) -> Answer:
        stored = await self._store.get(resource.path)
        if stored is not None:
            if self._may_fetch(asker):
                self._prefetch.hit(resource)
            return _file_answer(resource, stored, Result.HIT)
        if not self._may_fetch(asker):
            return await self._without_record(resource)
        self._negatives.check(resource.path)
        if resource.endpoint is not Endpoint.MOD:
            self._start_mod(resource, asker)
        stored, collapsed = await self._files.join(resource.path, lambda: self._bring_file(resource, asker))
        if self._settings.prefetch and resource.endpoint is Endpoint.MOD and not collapsed:
            self._prefetch.after_mod(resource.module, resource.version)
        return _file_answer(resource, stored, Result.COLLAPSED if collapsed else Result.MISS)

    async def _without_record(self, resource: ModuleResource) -> Answer:
        """Offline, the file that recovery has not come to yet, or had to leave; else Absent."""
        if self._settings.offline and await self._store.stray(resource.path) is not None:

            async def bring() -> StoredFile:
                stored = await self._reclaim(resource)
                if stored is None:
                    raise _not_stored()
                return stored

            stored, _ = await self._files.join(resource.path, bring)
            return _file_answer(resource, stored, Result.HIT)
        raise _not_stored()

    def _start_mod(self, resource: ModuleResource, asker: Asker) -> None:
        """A miss of one file of a version starts its ``.mod``: the next thing any client asks for."""
        mod = ModuleResource(resource.module, Endpoint.MOD, resource.version)

        async def bring() -> StoredFile:
            stored = await self._store.get(mod.path)
            if stored is None:
                return await self._fetch_file(mod, asker)
            if self._settings.prefetch and resource.endpoint is Endpoint.INFO:
                self._prefetch.after_info(mod.module, mod.version)
            return stored

        if not self._negatives.has(mod.path):
            self._files.start(mod.path, bring)

    async def _fetch_ahead(self, resource: ModuleResource) -> bool:
        """Fetch an announced file, unless it is there or others would have to go for it; whether it was."""
        if resource.path in self._files or self._negatives.has(resource.path) or not self._store.roomy:
            return False
        fetched = False

        async def bring() -> StoredFile:
            nonlocal fetched
            stored = await self._store.get(resource.path)
            if stored is None:
                stored = await self._fetch_file(resource, Asker("prefetch"))
                fetched = True
            return stored

        with contextlib.suppress(GoproxyError):  # logged where it happened
            stored, _ = await self._files.join(resource.path, bring)
            stored.close()
        return fetched

    async def _bring_file(self, resource: ModuleResource, asker: Asker) -> StoredFile:
        """A flight; it looks in the store again: an earlier one may have landed since the first look."""
        stored = await self._store.get(resource.path)
        return stored if stored is not None else await self._fetch_file(resource, asker)

    async def _fetch_file(self, resource: ModuleResource, asker: Asker) -> StoredFile:
        fetch = {
            Endpoint.INFO: self._fetch_info,
            Endpoint.MOD: self._fetch_mod,
            Endpoint.ZIP: self._fetch_zip,
        }[resource.endpoint]
        return await self._guarded(resource, asker, lambda: fetch(resource))

    async def _fetch_info(self, resource: ModuleResource) -> StoredFile:
        sink = Memory()
        since = self._store.keeper.fences.now
        if (reclaimed := await self._reclaim(resource)) is not None:
            return reclaimed

        async def check() -> None:
            check_info(sink.data, resource.module, resource.version)

        await self._upstreams.fetch(resource.path, sink, limit=SMALL_LIMIT, check=check)
        return await self._store.put(
            resource.path, sink.data, h1=None, module=resource.module, version=resource.version, since=since
        )

    async def _fetch_mod(self, resource: ModuleResource) -> StoredFile:
        sink = Memory()
        since = self._store.keeper.fences.now
        if (reclaimed := await self._reclaim(resource)) is not None:
            return reclaimed
        proof = self._proofs.begin(resource.module, resource.version)

        async def check() -> str:
            h1 = h1_mod(sink.data)
            await proof.verdict("mod", h1)
            return h1

        with _cancelling(proof):
            h1 = await self._upstreams.fetch(resource.path, sink, limit=SMALL_LIMIT, check=check)
        return await self._store.put(
            resource.path, sink.data, h1=h1, module=resource.module, version=resource.version, since=since
        )

    async def _fetch_zip(self, resource: ModuleResource) -> StoredFile:
        since = self._store.keeper.fences.now
        if (reclaimed := await self._reclaim(resource)) is not None:
            return reclaimed
        download = self._store.download()
        proof = self._proofs.begin(resource.module, resource.version)

        async def check() -> str:
            await download.finish()
            report = await self._prover.prove(download.path, resource.module, resource.version)
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

    async def _reclaim(self, resource: ModuleResource) -> StoredFile | None:
        """A file that is there without a record, unless it is known to be wrong; it is not fetched then.

        What the checksum database has a record of is held to it. Where nobody can be asked, the file counts
        as first seen here (docs/decisions/0008-what-is-stored-is-enough.md). NoRecord: it stays unserved.
        """
        since = self._store.keeper.fences.now
        file = await self._store.stray(resource.path)
        if file is None:
            return None
        module, version = resource.module, resource.version
        try:
            h1, first_seen = await self._examine(resource, file)
            claimed = await self._store.claim(
                resource.path, h1=h1, module=module, version=version, first_seen=first_seen, since=since
            )
            # None: somebody else was first.
            return claimed if claimed is not None else await self._store.get(resource.path)
        except ContentError as error:
            log.warning("file without a record refused", path=resource.path, reason=error.sentence)
            await self._store.refuse(resource.path)
        except OSError as error:
            log.warning("file without a record not read", path=resource.path, reason=str(error))
        return None

    async def _examine(self, resource: ModuleResource, file: Path) -> tuple[str | None, bool]:
        """The h1 of a file that may be right, and whether nobody could say that it is. ContentError."""
        kind = resource.endpoint
        if kind is Endpoint.INFO:
            info = await self._store.read_stray(file, SMALL_LIMIT)
            check_info(info, resource.module, resource.version)
            return None, False
        known = await self._store.known(resource.module, resource.version)
        proof = self._proofs.begin(resource.module, resource.version)
        with _cancelling(proof):
            if kind is Endpoint.MOD:
                data = await self._store.read_stray(file, SMALL_LIMIT)
                if b"\0" in data:
                    raise ContentError("it is no text")
                h1 = h1_mod(data)
            else:
                h1 = (await self._prover.prove(file, resource.module, resource.version)).h1
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
            stored = await self._reclaim(resource)
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

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Requests from now on ask anew: they join no flight for a version that ``matches``, nor one for a
        list or a query, and no absence is remembered. Costs some requests too many, not one too few."""
        self._negatives.clear()
        self._documents.detach(lambda _: True)
        for forget in self._watchers:
            forget()

        def concerned(path: str) -> bool:
            resource = parse(f"/{path}", None).resource
            return isinstance(resource, ModuleResource) and matches(resource.module, resource.version)

        self._files.detach(concerned)
        self._prefetch.forget(matches)

    # Documents: list, @latest and query .info, fresh for a while and then revalidated.

    async def _document(self, resource: ModuleResource, asker: Asker) -> Answer:
        since = self._store.keeper.fences.now
        answer = await self._document_now(resource, asker)
        if self._store.keeper.fences.now != since:
            answer.until = None  # a purge came between: nobody after it may be given this
        return answer

    async def _document_now(self, resource: ModuleResource, asker: Asker) -> Answer:
        cached = await self._store.answers.get(resource.path)
        if cached is not None and (left := self._fresh_for(cached)) > 0:
            return _document_answer(resource, cached.data, Result.HIT, left)
        if not self._may_fetch(asker):
            return await self._stored_document(resource, cached.data if cached else None)
        self._negatives.check(resource.path)
        try:
            data, collapsed = await self._documents.join(
                resource.path, lambda: self._bring_document(resource, asker)
            )
        except (UpstreamError, Refused, Overloaded) as error:
            if cached is not None and self._wall() - cached.stored < self._settings.stale:
                log.warning("serving stale", path=resource.path, reason=error.sentence)
                return _document_answer(resource, cached.data, Result.STALE, 0)
            if isinstance(error, Refused) and resource.endpoint is Endpoint.LIST:
                return await self._built_list(resource, error)
            raise
        result = Result.COLLAPSED if collapsed else Result.MISS
        return _document_answer(resource, data, result, self._settings.fresh)

    async def _stored_document(self, resource: ModuleResource, cached: bytes | None) -> Answer:
        if cached is not None:
            return _document_answer(resource, cached, Result.STALE, 0)
        absent = _not_stored()
        if resource.endpoint is Endpoint.LIST:
            return await self._built_list(resource, absent)
        raise absent

    async def _built_list(self, resource: ModuleResource, otherwise: GoproxyError) -> Answer:
        """A list of the versions stored whole, for when no upstream may or will tell (case 5a)."""
        versions = await self._store.complete_versions(resource.module)
        if not versions:
            raise otherwise
        data = render_list(parse_list("\n".join(versions).encode(), resource.module))
        answer = _document_answer(resource, data, Result.STALE, 0)
        answer.cache_status = "hit; detail=built-from-stored-versions"
        return answer

    def _fresh_for(self, cached: CachedAnswer) -> float:
        """Seconds for which a stored document is fresh; one from the future is not."""
        age = self._wall() - cached.stored
        return self._settings.fresh - age if age >= 0 else 0.0

    async def _bring_document(self, resource: ModuleResource, asker: Asker) -> bytes:
        """As :meth:`_bring_file`."""
        cached = await self._store.answers.get(resource.path)
        if cached is not None and self._fresh_for(cached) > 0:
            return cached.data
        return await self._guarded(resource, asker, lambda: self._fetch_document_now(resource))

    async def _fetch_document_now(self, resource: ModuleResource) -> bytes:
        sink = Memory()
        since = self._store.keeper.fences.now

        async def check() -> bytes:
            if resource.endpoint is Endpoint.LIST:
                return render_list(parse_list(sink.data, resource.module))
            if resource.endpoint is Endpoint.LATEST:
                check_latest(sink.data, resource.module)
            else:
                check_info(sink.data, resource.module, resource.version)
            return sink.data

        try:
            data = await self._upstreams.fetch(resource.path, sink, limit=SMALL_LIMIT, check=check)
        except Absent:
            await self._store.answers.delete(resource.path)
            raise
        if self._store.keeper.fences.now == since:
            keep = max(self._settings.stale, self._settings.fresh)
            await self._store.answers.set(resource.path, data, tag=resource.module, keep=keep)
        else:
            log.info("answer kept out by a purge", path=resource.path)
        return data

    # What every fetch has in common: a slot, a deadline, a memory for absence.

    async def _guarded(
        self, resource: ModuleResource, asker: Asker, fetch: Callable[[], Awaitable[_T]]
    ) -> _T:
        try:
            async with self._slots.hold(asker.client, self._settings.total_timeout):
                return await fetch()
        except Absent as error:
            self._negatives.add(resource.path, error.sentence)
            raise
        except (UpstreamError, Refused) as error:
            event = "content refused" if isinstance(error, ContentError) else "fetch failed"
            log.warning(event, path=resource.path, client=asker.client, reason=error.sentence)
            raise


def _not_stored() -> Absent:
    return Absent("not stored here, and this request may not fetch it")


@contextlib.contextmanager
def _cancelling(proof: Proof) -> Iterator[None]:
    """Give up the proof when the download beside it fails."""
    try:
        yield
    except BaseException:
        proof.cancel()
        raise


def _file_answer(resource: ModuleResource, stored: StoredFile, result: Result) -> Answer:
    return Answer(
        stored,
        CONTENT_TYPES[resource.endpoint],
        STABLE if resource.endpoint is Endpoint.INFO else IMMUTABLE,
        CACHE_STATUS[result],
        result,
        stored.etag,
    )


def _document_answer(resource: ModuleResource, data: bytes, result: Result, fresh_for: float) -> Answer:
    answer = Answer(data, CONTENT_TYPES[resource.endpoint], max_age(fresh_for), CACHE_STATUS[result], result)
    answer.until = time.monotonic() + fresh_for
    return answer
