"""The upstream list at work: Go's separators, and which error outranks which."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from goproxy_vm.errors import Absent, GoproxyError, Refused, UpstreamError
from goproxy_vm.upstream.backoff import Backoff, Condition
from goproxy_vm.upstream.dates import DatedClock
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.probe import ProbeResult
from goproxy_vm.upstream.sink import Sink
from goproxy_vm.upstream.source import Network, Source
from goproxy_vm.upstream.spec import DIRECT, UpstreamList, UpstreamSpec
from goproxy_vm.upstream.upstream import NOT_ASKED, Counts, Pace, Upstream

MOST_SAID = 3
"""Upstreams whose failures an error tells."""

T = TypeVar("T")


class Upstreams:
    """Fetches files from the first upstream that has them, by the rules of PROTOCOL §2.

    Where it was not started, as in offline mode, nothing can be asked: each fetch is an UpstreamError that
    says so. ``name`` is this server's in CDN-Loop. ``database`` is set where they are a database
    and bring no modules. ``direct`` is what an entry of that name means. ``clock`` hears the date of
    each answer.
    """

    def __init__(
        self,
        upstreams: UpstreamList,
        timeouts: Timeouts,
        counts: Counts,
        name: str,
        *,
        ca_file: Path | None = None,
        database: bool = False,
        pace: Pace | None = None,
        direct: Source | None = None,
        clock: DatedClock | None = None,
    ) -> None:
        self._clock = clock
        self._list = upstreams
        self._timeouts = timeouts
        self._counts = counts
        self._name = name
        self._ca_file = ca_file
        self._database = database
        self._pace = pace or Pace()
        self._direct = direct
        self._upstreams = [self._upstream(spec) for spec in upstreams.entries]
        self.carriers = [self._upstream(spec) for spec in upstreams.entries if spec.kind != DIRECT]
        """The proxies among them as carriers of the checksum database: failures there do not count here, for
        one that lacks it still has every module; nor do those here count there."""
        self._network: Network | None = None
        self._probes: list[asyncio.Task[ProbeResult | None]] = []

    def _upstream(self, spec: UpstreamSpec) -> Upstream:
        return Upstream(spec, self._timeouts, self._counts, self._pace)

    @property
    def names(self) -> list[str]:
        """The upstreams in their order, without userinfo."""
        return [spec.name for spec in self._list.entries]

    async def trials(self) -> list[ProbeResult]:
        """What came of the first try of each upstream that was tried, within ``connect_timeout``."""
        return [trial for trial in await asyncio.gather(*self._probes) if trial is not None]

    def conditions(self) -> list[tuple[str, Condition]]:
        """How each does, by its name; nothing where none is asked.

        Of one that was not asked yet the first try tells.
        """
        if self._network is None:
            return []
        ended = [trial for probe in self._probes if (trial := _result(probe)) is not None]
        tried = {trial.name: trial for trial in ended}
        found = []
        for upstream in self._upstreams:
            name, condition = upstream.spec.name, upstream.backoff.condition
            trial = tried.get(name)
            if condition.state == "untried" and trial is not None:
                condition = Condition("failing", reason=trial.trouble) if trial.trouble else Condition("ok")
            found.append((name, condition))
        return found

    @property
    def resting(self) -> bool:
        """Whether the upstream that a fetch would ask first failed the last time it was asked."""
        return self._first(lambda backoff: backoff.failing)

    @property
    def backed_off(self) -> bool:
        """Whether that one is not to be asked yet: it has failed a moment ago, or somebody is trying it."""
        return self._first(lambda backoff: backoff.backed_off)

    def _first(self, troubled: Callable[[Backoff], bool]) -> bool:
        """Whether whoever is asked first is in trouble; before ``|``, who is gets passed over at once."""
        for each in self._upstreams:
            if not troubled(each.backoff):
                return False
            if not each.spec.falls_through:
                return True
        return bool(self._upstreams)

    @property
    def down(self) -> bool:
        """Whether a fetch is bound to fail, unless an upstream has come back."""
        for each in self._upstreams:
            if not each.backoff.failing:
                return False
            if not each.spec.falls_through:
                break
        return bool(self._upstreams)

    @property
    def signs(self) -> int:
        """Grows with everything that comes from any of them: while it does not, they are silent."""
        return sum(each.signs for each in self._upstreams)

    def due(self) -> bool:
        """Whether a fetch is worth its while now: one upstream is up, or may be asked again after its
        back-off, by the one who is told so."""
        if self._network is None:
            return False
        for each in self._upstreams:
            if not each.backoff.failing:
                return True
            if not each.spec.falls_through:
                return each.backoff.admit()
            if not each.backoff.backed_off:  # the fetch is admitted as the probe, or passes it over
                return True
        return False

    async def start(self, *, probe: bool = True) -> None:
        """Open the session; ``probe``: try in the background whether each upstream takes a connection.

        StartError: ``ca_file``, or what the environment says of proxies, cannot be used.
        """
        specs = self._list.entries
        traces = [] if self._clock is None else [self._clock.trace()]
        network = await Network.open(self._timeouts, self._name, specs, ca_file=self._ca_file, traces=traces)
        for upstream in self._upstreams:
            upstream.source = self._source(network, upstream.spec)
            for carrier in self.carriers:
                if carrier.spec is upstream.spec:
                    carrier.source = upstream.source
            self._counts.add_upstream(upstream.spec.label, self._watch(upstream))
            if probe:
                self._probes.append(asyncio.create_task(network.probe(upstream.spec), name="probe"))
        self._network = network

    def _source(self, network: Network, spec: UpstreamSpec) -> Source:
        if spec.kind != DIRECT:
            return network.source(spec, self._counts.upstream, now=self._pace.now)
        if self._direct is None:
            raise ValueError("direct, and nothing that means it")
        return self._direct

    def _watch(self, upstream: Upstream) -> Callable[[], tuple[int, bool | None]]:
        return lambda: (upstream.received, None if self._database else not upstream.backoff.failing)

    async def close(self) -> None:
        """Close all connections."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for carrier in self.carriers:
            await carrier.close()
        if self._network is not None:
            await self._network.close()

    async def fetch(self, path: str, sink: Sink, *, limit: int, check: Callable[[], Awaitable[T]]) -> T:
        """Bring the file at ``path`` (escaped, no leading slash) into ``sink``; returns ``check``'s verdict.

        ``check`` runs when all bytes have arrived; a ContentError from it is a failure of that upstream.
        Raises Absent where every upstream that may answer says 404 or 410, Refused for 401, 403, 451, else
        UpstreamError, UpstreamTimeout or ContentError. A failure outranks a refusal, and that
        outranks absence, save that a later upstream that cannot be reached does not outrank an earlier 404:
        that is a doubtful absence.
        """
        if self._network is None:
            raise UpstreamError(NOT_ASKED)
        verdicts = _Verdicts()
        passed_over: list[tuple[Upstream, bool]] = []
        for upstream in self._upstreams:
            hurry = upstream.spec.falls_through
            if hurry and not upstream.backoff.admit():
                passed_over.append((upstream, verdicts.absent))
                continue
            try:
                return await upstream.fetch(path, sink, limit, check, hurry=hurry)
            except Failure as failure:
                if failure.untried:
                    passed_over.append((upstream, verdicts.absent))
                    continue
                verdicts.add(failure, after_absence=verdicts.absent)
                if not (hurry or failure.outcome == "not_found"):
                    break
        for upstream, after_absence in passed_over:  # nothing else could answer
            try:
                return await upstream.fetch(path, sink, limit, check)
            except Failure as failure:
                verdicts.add(failure, after_absence=after_absence)
        raise verdicts.worst()


def _result(probe: asyncio.Task[ProbeResult | None]) -> ProbeResult | None:
    """What came of it, if it has ended well."""
    ended = probe.done() and not probe.cancelled() and probe.exception() is None
    return probe.result() if ended else None


class _Verdicts:
    """What the upstreams said so far, and what the client gets if none has the file."""

    def __init__(self) -> None:
        self._absent: Absent | None = None
        self._refused: Refused | None = None
        self._failed: GoproxyError | None = None
        self._masked = False
        self._said: list[str] = []
        """What failures and refusals say, in the order of the list."""

    @property
    def absent(self) -> bool:
        """Whether an upstream said so."""
        return self._absent is not None

    def add(self, failure: Failure, *, after_absence: bool) -> None:
        """``after_absence``: an upstream earlier in the list has said 404 or 410."""
        error = failure.error
        if not isinstance(error, Absent) and error.sentence not in self._said:
            self._said.append(error.sentence)
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
            # By Go's rule one of them decides; which of them can be mended, who reads it knows.
            failed.sentence = "; ".join(self._said[:MOST_SAID])
            return failed
        absent = self._absent or Absent("no upstream is configured to ask")
        absent.doubtful = self._masked
        return absent
