"""Lists, ``@latest`` and queries: fresh for a while, then asked for again, by whoever can wait for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, GoproxyError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.content import (
    LONGEST_INFO,
    LONGEST_LIST,
    check_info,
    check_latest,
    parse_list,
    render_list,
)
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.proxy.answer import CACHE_STATUS, CONTENT_TYPES, Answer, Result, max_age
from goproxy_vm.proxy.fetching import Fallback
from goproxy_vm.traffic.backlog import Backlog
from goproxy_vm.traffic.flight import Flights
from goproxy_vm.traffic.steps import Reading, in_turns
from goproxy_vm.upstream.sink import Buffer

if TYPE_CHECKING:
    from goproxy_vm.cache.plain import CachedAnswer
    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.gate import Gate
    from goproxy_vm.proxy.routing import Routing
    from goproxy_vm.proxy.substitutes import Substitutes
    from goproxy_vm.traffic.slots import Claim

log = get_logger("proxy")


class Documents:
    """Answers for what changes. ``wall`` in epoch seconds."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        store: Store,
        routing: Routing,
        substitutes: Substitutes,
        wall: Callable[[], float],
        named: Callable[[str, str], None],
    ) -> None:
        """``named`` is told of each module and version that an upstream's ``@latest`` or query named."""
        self._settings = settings
        self._gate = gate
        self._store = store
        self._routing = routing
        self._substitutes = substitutes
        self._wall = wall
        self._named = named
        self._flights: Flights[bytes] = Flights(lambda data: data, lambda _: None)
        self._behind = Backlog(self._refresh)
        self._reading = Reading()

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._behind.close()
        await self._flights.close()

    def __len__(self) -> int:
        return len(self._flights)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Requests from now on join no flight of before: a purge of the versions that match."""
        self._flights.detach(lambda _: True)
        self._behind.forget(matches)

    async def get(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Answer one request, for something of a module that may be given."""
        get = self._get if self._gate.may_fetch(asker) else self._stored
        return await get(resource, asker)

    async def known(self, module: str) -> bytes:
        """A list of the versions that are known here without asking anybody."""
        cached = await self._store.answers.get(ModuleResource(module, Endpoint.LIST).path)
        if cached is not None and cached.data:
            return cached.data
        return render_list(await self._substitutes.versions(module))

    async def _get(self, resource: ModuleResource, asker: Asker) -> Answer:
        fetching = self._routing.of(resource.module)
        cached = await self._store.answers.get(resource.path)
        age = None if cached is None else self._wall() - cached.stored
        if cached is not None and age is not None and age >= 0:  # one from the future is of unknown age
            if age < self._settings.fresh:
                return _answer(resource, cached.data, Result.HIT, self._settings.fresh - age)
            behind = resource.endpoint is not Endpoint.INFO
            if behind and age < self._settings.fresh + self._settings.stale_while_revalidate:
                fetching.look(partial(self._behind.announce, resource))
                return _answer(resource, cached.data, Result.STALE, 0)
        fetching.absences.recent.check(resource.path)

        brought = await fetching.bring(
            self._flights,
            resource.path,
            asker,
            partial(self._bring, resource),
            Fallback(
                copy=self._copy(resource, cached),
                absent=partial(fetching.absences.check, resource.path),
                built=partial(self._built, resource, asker),
                behind=partial(self._behind.announce, resource),
            ),
        )
        if isinstance(brought, Answer):
            return brought
        data, collapsed = brought
        result = Result.COLLAPSED if collapsed else Result.MISS
        return _answer(resource, data, result, self._settings.fresh)

    def _copy(self, resource: ModuleResource, cached: CachedAnswer | None) -> Answer | None:
        """What an upstream said last, if it is not too old."""
        if cached is None or self._wall() - cached.stored >= self._settings.stale:
            return None
        return _answer(resource, cached.data, Result.STALE, 0)

    async def _built(self, resource: ModuleResource, asker: Asker) -> Answer | None:
        """What follows from the versions that are stored."""
        if resource.endpoint is Endpoint.LIST:
            return await self._substitutes.version_list(resource.module, asker.client)
        if resource.endpoint is Endpoint.LATEST:
            return await self._substitutes.latest(resource.module, asker.client)
        return None

    async def _stored(self, resource: ModuleResource, asker: Asker) -> Answer:
        """Nothing is offered that could not be given: of versions, those that are stored whole."""
        if resource.endpoint is not Endpoint.LIST:
            cached = await self._store.answers.get(resource.path)
            if cached is not None:
                named = check_latest(cached.data, resource.module)
                if named in await self._substitutes.versions(resource.module):
                    return _answer(resource, cached.data, Result.STALE, 0)
            else:
                # Where it was absent go finds the newest in the list, as it did before.
                await self._routing.of(resource.module).absences.check(resource.path)
        built = await self._built(resource, asker)
        if built is None:
            raise self._gate.not_here()
        return built

    async def _bring(self, resource: ModuleResource, claim: Claim) -> bytes:
        """A flight; it looks in the store again: an earlier one may have landed since the first look."""
        cached = await self._store.answers.get(resource.path)
        if cached is not None and 0 <= self._wall() - cached.stored < self._settings.fresh:
            return cached.data
        fetching = self._routing.of(resource.module)
        return await fetching.hold(resource, claim, lambda: self._fetch(resource, claim))

    async def _refresh(self, resource: ModuleResource) -> None:
        """Fetch what was answered from an older copy."""
        claim = self._routing.of(resource.module).slots.claim("refresh")
        with contextlib.suppress(GoproxyError):  # logged where it happened
            await self._flights.join(resource.path, lambda: self._bring(resource, claim), claim)

    async def _fetch(self, resource: ModuleResource, claim: Claim) -> bytes:
        with Buffer(self._routing.of(resource.module).memory, claim) as sink:
            return await self._fetch_into(sink, resource, claim.client)

    async def _fetch_into(self, sink: Buffer, resource: ModuleResource, client: str) -> bytes:
        since = self._store.fences.now
        is_list = resource.endpoint is Endpoint.LIST

        async def check() -> bytes:
            if is_list:
                return await self._list(sink.data, resource.module, client)
            if resource.endpoint is Endpoint.LATEST:
                version = check_latest(sink.data, resource.module)
            else:
                version = check_info(sink.data, resource.module, resource.version)
            self._named(resource.module, version)
            return sink.data

        try:
            data = await self._routing.of(resource.module).upstreams.fetch(
                resource.path, sink, limit=LONGEST_LIST if is_list else LONGEST_INFO, check=check
            )
        except Absent as error:
            if not error.doubtful:
                await self._store.answers.delete(resource.path)
            raise
        if sink.substitute:
            return data
        if self._store.fences.now == since:
            fresh, behind = self._settings.fresh, self._settings.stale_while_revalidate
            keep = max(self._settings.stale, fresh + behind)
            await self._store.answers.set(resource.path, data, keep=keep)
        else:
            log.info("answer kept out by a purge", path=resource.path)
        return data

    async def _list(self, data: bytes, module: str, client: str) -> bytes:
        """The list to serve."""
        async with self._reading.turn(len(data), client):
            return render_list(await in_turns(parse_list(data, module)))


def _answer(resource: ModuleResource, data: bytes, result: Result, fresh_for: float) -> Answer:
    answer = Answer(data, CONTENT_TYPES[resource.endpoint], max_age(fresh_for), CACHE_STATUS[result], result)
    answer.until = time.monotonic() + fresh_for
    return answer
