"""The upstream list at work: Go's separators, retries, back-off, and which error outranks which."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
from yarl import URL

from goproxy_vm.errors import Absent, ContentError, GoproxyError, Refused, UpstreamError, UpstreamTimeout
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.upstream.environment import Environment
from goproxy_vm.upstream.failure import Failure, Outcome
from goproxy_vm.upstream.file import FileUpstream
from goproxy_vm.upstream.health import Condition, Health
from goproxy_vm.upstream.http import HttpUpstream, Limits, Way
from goproxy_vm.upstream.probe import Trial
from goproxy_vm.upstream.probe import probe as probe_upstream
from goproxy_vm.upstream.resolver import Resolver
from goproxy_vm.upstream.session import open_session, trusted
from goproxy_vm.upstream.sink import Nowhere, Sink, TooSlow
from goproxy_vm.upstream.spec import UpstreamList, UpstreamSpec

__all__ = ["Limits", "Upstreams"]

TRIES = 3
"""Requests for one file to one upstream at most: retried twice."""
LONGEST_RETRY = 5.0
"""Seconds a retry waits at most; an upstream that asks for more is backed off from at once."""

T = TypeVar("T")
log = get_logger("upstream")


class Counts(Protocol):
    """What is told about requests to upstreams (``goproxy_vm_upstream_requests_total``)."""

    def add_upstream(self, name: str, watch: Callable[[], tuple[int, bool | None]]) -> None:
        """An upstream that will be asked; ``watch`` tells bytes received, and whether it is up or None."""
        ...

    def upstream(self, name: str, outcome: Outcome, seconds: float) -> None:
        """One request that the upstream saw, and how long it took."""
        ...


@dataclass(frozen=True, slots=True)
class _Upstream:
    spec: UpstreamSpec
    source: HttpUpstream | FileUpstream
    health: Health

    def watch(self) -> tuple[int, bool]:
        """Bytes received so far, and whether it is up."""
        return self.source.received, not self.health.failing


class Upstreams:
    """Fetches files from the first upstream that has them, by the rules of PROTOCOL §2.

    Where it was not started, as in offline mode, nothing can be asked: each fetch is an UpstreamError that
    says so. ``name`` is this server's in CDN-Loop. ``database`` is set where they are the checksum database
    itself and bring no modules. ``now``, ``sleep`` and ``jitter`` are for tests.
    """

    def __init__(
        self,
        upstreams: UpstreamList,
        limits: Limits,
        metrics: Counts,
        name: str,
        *,
        ca_file: Path | None = None,
        database: bool = False,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._list = upstreams
        self._limits = limits
        self._metrics = metrics
        self._name = name
        self._ca_file = ca_file
        self._database = database
        self._now = now
        self._sleep = sleep
        self._jitter = jitter
        self._upstreams: list[_Upstream] = []
        # The same ones as carriers of the checksum database: one that lacks it still has every module.
        self._carriers: list[_Upstream] = []
        self._session: aiohttp.ClientSession | None = None
        self._probes: list[asyncio.Task[Trial]] = []
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """The upstreams in their order, without userinfo."""
        return [spec.name for spec in self._list.entries]

    async def trials(self) -> list[Trial]:
        """What came of the first try of each upstream that was tried, within ``connect_timeout``."""
        return list(await asyncio.gather(*self._probes))

    def conditions(self) -> list[tuple[str, Condition]]:
        """How each does, by its name; nothing where none is asked.

        Of one that was not asked yet the first try tells.
        """
        tried = {each.result().name: each.result() for each in self._probes if _ended(each)}
        found = []
        for upstream in self._upstreams:
            name, condition = upstream.spec.name, upstream.health.condition
            trial = tried.get(name)
            if condition.state == "untried" and trial is not None:
                condition = Condition("failing", reason=trial.trouble) if trial.trouble else Condition("ok")
            found.append((name, condition))
        return found

    @property
    def resting(self) -> bool:
        """Whether the upstream that a fetch would ask first failed the last time it was asked."""
        return self._first(lambda health: health.failing)

    @property
    def backed_off(self) -> bool:
        """Whether that one is not to be asked yet: it has failed a moment ago, or somebody is trying it."""
        return self._first(lambda health: health.backed_off)

    def _first(self, troubled: Callable[[Health], bool]) -> bool:
        """Whether whoever is asked first is in trouble; before ``|``, who is gets passed over at once."""
        for each in self._upstreams:
            if not troubled(each.health):
                return False
            if not each.spec.falls_through:
                return True
        return bool(self._upstreams)

    @property
    def down(self) -> bool:
        """Whether a fetch is bound to fail, unless an upstream has come back."""
        for each in self._upstreams:
            if not each.health.failing:
                return False
            if not each.spec.falls_through:
                break
        return bool(self._upstreams)

    @property
    def signs(self) -> int:
        """Grows with everything that comes from any of them: while it does not, they are silent."""
        return sum(each.source.received + each.source.answered for each in self._upstreams)

    def due(self) -> bool:
        """Whether a fetch is worth its while now: one upstream is up, or may be asked again after its
        back-off, by the one who is told so."""
        for each in self._upstreams:
            if not each.health.failing:
                return True
            if not each.spec.falls_through:
                return each.health.admit()
            if not each.health.backed_off:  # the fetch is admitted as the probe, or passes it over
                return True
        return False

    async def start(self, *, probe: bool = True) -> None:
        """Open the session; ``probe``: try in the background whether each upstream takes a connection.

        StartError: ``ca_file``, or what the environment says of proxies, cannot be used.
        """
        trust = trusted(self._ca_file)
        environment = Environment()
        way = Way(self._name, environment)
        hosts = [host for spec in self._list.entries if (host := URL(spec.url).raw_host)]
        resolver = Resolver([*hosts, *environment.proxy_hosts], self._limits.connect)
        self._session = open_session(trust, self._limits, resolver)
        for spec in self._list.entries:
            source: HttpUpstream | FileUpstream
            if spec.kind == "file":
                source = FileUpstream(spec)
            else:
                source = HttpUpstream(
                    spec, self._session, self._limits, way, self._metrics.upstream, now=self._now
                )
                if probe and environment.proxy(URL(spec.url)) is None:
                    trial = probe_upstream(spec, trust, resolver, self._limits.connect)
                    self._probes.append(asyncio.create_task(trial, name="probe"))
            upstream = _Upstream(spec, source, Health(self._now, self._limits.stall))
            self._upstreams.append(upstream)
            self._carriers.append(replace(upstream, health=Health(self._now, self._limits.stall)))
            self._metrics.add_upstream(
                spec.label, self._received(source) if self._database else upstream.watch
            )

    async def close(self) -> None:
        """Close the session."""
        tasks = [*self._probes, *self._looks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def fetch(self, path: str, sink: Sink, *, limit: int, check: Callable[[], Awaitable[T]]) -> T:
        """Bring the file at ``path`` (escaped, no leading slash) into ``sink``; returns ``check``'s verdict.

        ``check`` runs when all bytes have arrived; a ContentError from it is a failure of that upstream.
        Raises Absent where every upstream that may answer says 404 or 410, Refused for 401, 403, 451, else
        UpstreamError, UpstreamTimeout or ContentError. A failure outranks a refusal, and that
        outranks absence, save that a later upstream that cannot be reached does not outrank an earlier 404:
        that is a doubtful absence.
        """
        if self._session is None:
            raise _not_asked()
        verdicts = _Verdicts()
        passed_over: list[tuple[_Upstream, bool]] = []
        for upstream in self._upstreams:
            hurry = upstream.spec.falls_through
            if hurry and not upstream.health.admit():
                passed_over.append((upstream, verdicts.absent))
                continue
            try:
                return await self._try(upstream, path, sink, limit, check, hurry=hurry)
            except Failure as failure:
                if failure.untried:
                    passed_over.append((upstream, verdicts.absent))
                    continue
                verdicts.add(failure, after_absence=verdicts.absent)
                if not (hurry or failure.outcome == "not_found"):
                    break
        for upstream, after_absence in passed_over:  # nothing else could answer
            try:
                return await self._try(upstream, path, sink, limit, check)
            except Failure as failure:
                verdicts.add(failure, after_absence=after_absence)
        raise verdicts.worst()

    def condition(self, index: int) -> Condition:
        """How the upstream at ``index`` does in :meth:`fetch_from`."""
        return Condition("untried") if self._session is None else self._carriers[index].health.condition

    def failing(self, index: int) -> bool:
        """Whether the upstream at ``index`` failed last in :meth:`fetch_from`, in a way that counts."""
        return self._session is None or self._carriers[index].health.failing

    async def fetch_from(
        self, index: int, path: str, sink: Sink, *, limit: int, check: Callable[[], Awaitable[T]]
    ) -> T:
        """As :meth:`fetch`, from the upstream at ``index`` alone: for what may come from any carrier.

        Failures here do not count against the upstream in :meth:`fetch`, nor those there against it here.
        """
        if self._session is None:
            raise _not_asked()
        try:
            return await self._try(self._carriers[index], path, sink, limit, check)
        except Failure as failure:
            raise failure.error from None

    def look_again(self, index: int, path: str, *, limit: int) -> None:
        """Ask a carrier that failed for ``path``, unless it is backed off from; nobody waits for that."""
        carrier = self._carriers[index]
        if carrier.health.failing and carrier.health.admit():
            self._begin(self._look(carrier, path, limit))

    async def _try(
        self,
        upstream: _Upstream,
        path: str,
        sink: Sink,
        limit: int,
        check: Callable[[], Awaitable[T]],
        *,
        hurry: bool = False,
    ) -> T:
        """One upstream, retried where that may help. Raises Failure; with ``hurry`` also where a host that it
        redirects to is backed off from."""
        tries = 1 if upstream.health.failing else TRIES
        for attempt in range(1, tries + 1):
            try:
                value = await self._once(upstream, path, sink, limit, check, hurry=hurry, again=attempt > 1)
            except Failure as failure:
                wait = max(failure.retry_after or 0.0, 0.2 * 2**attempt * (0.5 + self._jitter()))
                if not failure.passing or attempt == tries or wait > LONGEST_RETRY:
                    if failure.counts:
                        upstream.health.failed(failure.retry_after, str(failure))
                    else:
                        upstream.health.succeeded()
                    raise
                log.info("retrying", upstream=upstream.spec.name, path=path, reason=str(failure))
                await self._sleep(wait)
            else:
                upstream.health.succeeded()
                return value
        raise AssertionError("unreachable: the last attempt raises")

    async def _once(
        self,
        upstream: _Upstream,
        path: str,
        sink: Sink,
        limit: int,
        check: Callable[[], Awaitable[T]],
        *,
        hurry: bool,
        again: bool,
    ) -> T:
        name = upstream.spec.name
        started = self._now()
        outcome: Outcome = "ok"
        seconds: float | None = None
        remark = ""
        # Of what stops us alone, such as a full disk, the upstream is innocent.
        try:
            remark = await upstream.source.fetch(path, sink, limit, hurry=hurry, again=again)
            seconds = self._now() - started
            return await check()
        except Failure as failure:
            outcome = failure.outcome
            raise
        except TooSlow as slow:
            outcome = "timeout"
            raise Failure(UpstreamTimeout(f"{name}: {slow}"), outcome) from slow
        except ContentError as error:
            outcome = "content"
            error.sentence = f"{name}: {remark}{error.sentence}"
            raise Failure(error, "content") from error
        except asyncio.CancelledError:
            outcome = "timeout"
            raise
        finally:
            self._metrics.upstream(
                upstream.spec.label, outcome, self._now() - started if seconds is None else seconds
            )

    async def _look(self, carrier: _Upstream, path: str, limit: int) -> None:
        started = self._now()
        outcome: Outcome = "ok"
        try:
            async with asyncio.timeout(self._limits.total):
                await carrier.source.fetch(path, Nowhere(), limit)
        except TimeoutError:
            outcome = "probe"
            carrier.health.failed(None, f"{carrier.spec.name}: no answer within {self._limits.total:g} s")
        except Failure as failure:
            if failure.counts:
                outcome = "probe"
                carrier.health.failed(failure.retry_after, str(failure))
            else:
                outcome = failure.outcome
                carrier.health.succeeded()
        else:
            carrier.health.succeeded()
        self._metrics.upstream(carrier.spec.label, outcome, self._now() - started)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="second look")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    @staticmethod
    def _received(source: HttpUpstream | FileUpstream) -> Callable[[], tuple[int, None]]:
        return lambda: (source.received, None)


def _ended(probe: asyncio.Task[Trial]) -> bool:
    return probe.done() and not probe.cancelled() and probe.exception() is None


def _not_asked() -> UpstreamError:
    return UpstreamError("no upstream is asked (setting offline)")


class _Verdicts:
    """What the upstreams said so far, and what the client gets if none has the file."""

    def __init__(self) -> None:
        self._absent: Absent | None = None
        self._refused: Refused | None = None
        self._failed: GoproxyError | None = None
        self._masked = False

    @property
    def absent(self) -> bool:
        """Whether an upstream said so."""
        return self._absent is not None

    def add(self, failure: Failure, *, after_absence: bool) -> None:
        """``after_absence``: an upstream earlier in the list has said 404 or 410."""
        error = failure.error
        if isinstance(error, Absent):
            self._absent = self._absent or error
        elif isinstance(error, Refused):
            self._refused = self._refused or error
        elif (failure.counts or failure.outcome == "redirect") and after_absence:
            self._masked = True
        else:
            self._failed = error

    def worst(self) -> GoproxyError:
        if failed := self._failed or self._refused:
            return failed
        absent = self._absent or Absent("no upstream is configured to ask")
        absent.doubtful = self._masked
        return absent
