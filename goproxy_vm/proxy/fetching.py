"""What every fetch for a client has in common: a slot, a deadline, a memory for absence; and whether its
client has to wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from goproxy_vm.errors import Absent, ContentError, Overloaded, Refused, UnderWay, UpstreamError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.proxy.answer import Answer

if TYPE_CHECKING:
    from goproxy_vm.cache.fences import Fences
    from goproxy_vm.config import Settings
    from goproxy_vm.protocol.artifact import Artifact
    from goproxy_vm.protocol.request import ModuleResource
    from goproxy_vm.proxy.asker import Asker
    from goproxy_vm.proxy.gate import Gate
    from goproxy_vm.traffic.absence import Absences
    from goproxy_vm.traffic.flight import Flights
    from goproxy_vm.traffic.slots import Claim, FairSlots
    from goproxy_vm.upstream.chain import Upstreams
    from goproxy_vm.upstream.sink import MemoryBudget

PATIENCE = 2.0
"""Seconds for which a client waits for an upstream where there is something to answer without it."""

SILENCE = 5.0
"""Seconds after which upstreams of which nobody has heard anything count as silent: then absence that is kept
is their last word. Longer, for what was absent may have been published since."""

log = get_logger("proxy")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fallback:
    """What there is to answer without upstreams.

    ``copy``: what they said last, as it was given to others: it may stand in for one that is slow. Where they
    fail, ``absent`` raises Absent if that was what they said last, and ``built`` makes an answer of the files
    that are stored, if they tell. ``behind`` has the same fetched without anybody waiting.
    """

    copy: Answer | None
    absent: Callable[[], Awaitable[None]]
    built: Callable[[], Awaitable[Answer | None]]
    behind: Callable[[], None]


class Fetching:
    """Fetches from upstreams on behalf of clients.

    A client with something to fall back on waits for no upstream that is known to be silent: one that
    failed the last time, or that somebody's patience has run out with.
    """

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        slots: FairSlots,
        upstreams: Upstreams,
        absences: Absences,
        fences: Fences,
        memory: MemoryBudget,
    ) -> None:
        self.slots = slots
        self.memory = memory
        self.absences = absences
        self._gate = gate
        self._limit = settings.total_timeout
        self.upstreams = upstreams
        self._fences = fences
        self._unanswered = False
        self._silent_at: int | None = None
        """The signs of life of the upstreams when they were found silent."""

    async def hold(
        self, resource: ModuleResource | Artifact, claim: Claim, fetch: Callable[[], Awaitable[_T]]
    ) -> _T:
        """The body of a flight: ``fetch`` within a slot and the deadline of one file.

        Absence is remembered, unless a purge came between; what is not to be expected is logged.
        Barred: it may not be given, or not any more.
        """
        since = self._fences.now
        try:
            async with claim.hold(self._limit):
                self._gate.check(resource)  # asked again: it may have waited for long
                value = await fetch()
            await self.absences.remove(resource.path)
        except Absent as error:
            if since == self._fences.now and not (error.remembered or error.doubtful):
                await self.absences.add(resource, error.sentence)
            raise
        except (UpstreamError, Refused) as error:
            event = "content refused" if isinstance(error, ContentError) else "fetch failed"
            # No warning: each client that is told has one of its own.
            log.info(event, path=resource.path, client=claim.client, reason=error.sentence)
            raise
        except Overloaded as error:
            log.info("fetch not begun", path=resource.path, client=claim.client, reason=error.sentence)
            raise
        finally:
            self._unanswered = False  # one that failed for its silence counts as failing from here on
        return value

    async def bring(
        self,
        flights: Flights[_T],
        path: str,
        asker: Asker,
        flight: Callable[[Claim], Coroutine[Any, Any, _T]],
        fallback: Fallback,
    ) -> tuple[_T, bool] | Answer:
        """What the flight brings, by a slot of ``asker``, and whether it was another's; or an answer in its
        place.

        Where upstreams are slow, that is a copy; where they fail, also what else they said last, and what
        follows from what is stored. Raises as the flight does, and Absent where that is what they said last.
        """
        since = self._fences.now
        waiting = self.upstreams.backed_off
        if fallback.copy is not None and (waiting or self._unanswered):
            self.look(fallback.behind)
            return fallback.copy
        signs = self.upstreams.signs
        if waiting or signs == self._silent_at:
            try:
                await fallback.absent()
                answer = await fallback.built() if self.upstreams.down else None
            except Absent:
                self.look(fallback.behind)
                raise
            if answer is not None:
                self.look(fallback.behind)
                return answer
        if not waiting and self.upstreams.resting:
            self.upstreams.due()  # this request finds out; meanwhile others answer with what they have
        patience = asker.patience
        if fallback.copy is not None:
            patience = min(PATIENCE, asker.patience or PATIENCE)
        elif await self.absences.keeps(path):
            patience = min(SILENCE, asker.patience or SILENCE)
        joined = path in flights  # nothing waits from here to the join
        try:
            try:
                value = await self._join(flights, path, asker, flight, patience)
            except UnderWay:
                if fallback.copy is not None:
                    self._unanswered = True
                    return fallback.copy
                if patience == asker.patience:
                    raise
                if signs == self.upstreams.signs:
                    self._silent_at = signs
                    await fallback.absent()
                value = await self._join(flights, path, asker, flight, asker.patience)
        except (UpstreamError, Refused, Overloaded, Absent) as error:
            if isinstance(error, Absent) and not error.doubtful:
                raise
            answer = fallback.copy
            if answer is None and not isinstance(error, Overloaded):  # we are slow, and not they
                await fallback.absent()
                if not isinstance(error, ContentError):  # a lie is told, and not made up for
                    answer = await fallback.built()
            if answer is None:
                if isinstance(error, Absent) and since == self._fences.now:
                    self.absences.recent.add(path, error.sentence)  # no longer: it may be there after all
                raise
            if fallback.copy is not None:
                log.warning("serving stale", path=path, reason=error.sentence)
            else:
                log.info("answered from stored files", path=path, reason=error.sentence)
            return answer
        return value, joined

    async def _join(
        self,
        flights: Flights[_T],
        path: str,
        asker: Asker,
        flight: Callable[[Claim], Coroutine[Any, Any, _T]],
        patience: float | None,
    ) -> _T:
        claim = self.slots.claim(asker.client)
        value, _ = await flights.join(path, partial(flight, claim), claim, patience)
        return value

    def look(self, behind: Callable[[], None]) -> None:
        """Have something fetched behind an answer, if there is hope."""
        if self.upstreams.due():
            behind()
