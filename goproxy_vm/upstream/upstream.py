"""One upstream at work: tried again where that may help, backed off from where it fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from goproxy_vm.errors import ContentError, UpstreamError, UpstreamTimeout
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.upstream.backoff import Backoff
from goproxy_vm.upstream.failure import Failure, Outcome
from goproxy_vm.upstream.sink import Nowhere, Sink, TooSlow

if TYPE_CHECKING:
    from goproxy_vm.upstream.backoff import Condition
    from goproxy_vm.upstream.http import Timeouts
    from goproxy_vm.upstream.source import Source
    from goproxy_vm.upstream.spec import UpstreamSpec

TRIES = 3
"""Requests for one file to one upstream at most: retried twice."""
LONGEST_RETRY = 5.0
"""Seconds a retry waits at most; an upstream that asks for more is backed off from at once."""
NOT_ASKED = "no upstream is asked (setting offline)"

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
class Pace:
    """The clock by which it is tried again; ``jitter`` is between 0 and 1."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


class Upstream:
    """An entry of the upstream list, of which :meth:`fetch` brings files once :attr:`source` is there."""

    def __init__(self, spec: UpstreamSpec, timeouts: Timeouts, counts: Counts, pace: Pace) -> None:
        self.spec = spec
        self.source: Source | None = None
        self.backoff = Backoff(pace.now, timeouts.stall)
        self._total = timeouts.total
        self._counts = counts
        self._pace = pace
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def failing(self) -> bool:
        """Whether it failed last, in a way that counts, or is not asked at all."""
        return self.source is None or self.backoff.failing

    @property
    def condition(self) -> Condition:
        """How it does."""
        return self.backoff.condition

    @property
    def received(self) -> int:
        """Bytes that came from it."""
        return 0 if self.source is None else self.source.received

    @property
    def signs(self) -> int:
        """Grows with everything that comes from it."""
        return 0 if self.source is None else self.source.received + self.source.answered

    async def looked(self) -> None:
        """Wait for what is under way behind requests."""
        await asyncio.gather(*self._looks, return_exceptions=True)

    async def close(self) -> None:
        """End what is under way behind requests."""
        for task in self._looks:
            task.cancel()
        await self.looked()

    async def fetch(
        self, path: str, sink: Sink, limit: int, check: Callable[[], Awaitable[T]], *, hurry: bool = False
    ) -> T:
        """As :meth:`Upstreams.fetch`, from this one, tried again where that may help.

        Raises Failure; with ``hurry`` also where a host that it redirects to is backed off from.
        """
        source = self.source
        if source is None:
            raise Failure(UpstreamError(NOT_ASKED), "unavailable")
        tries = 1 if self.backoff.failing else TRIES
        for attempt in range(1, tries + 1):
            try:
                value = await self._once(source, path, sink, limit, check, hurry=hurry, again=attempt > 1)
            except Failure as failure:
                wait = max(failure.retry_after or 0.0, 0.2 * 2**attempt * (0.5 + self._pace.jitter()))
                if not failure.passing or attempt == tries or wait > LONGEST_RETRY:
                    self._note(failure)
                    raise
                log.info("retrying", upstream=self.spec.name, path=path, reason=str(failure))
                await self._pace.sleep(wait)
            else:
                self.backoff.succeeded()
                return value
        raise AssertionError("unreachable: the last attempt raises")

    async def fetch_alone(self, path: str, sink: Sink, limit: int, check: Callable[[], Awaitable[T]]) -> T:
        """As :meth:`fetch`, where no other is asked: raises the error that the failure means."""
        try:
            return await self.fetch(path, sink, limit, check)
        except Failure as failure:
            raise failure.error from None

    def look_again(self, path: str, limit: int) -> None:
        """Ask it for ``path`` if it failed, unless it is backed off from; nobody waits for that."""
        if self.source is not None and self.backoff.failing and self.backoff.admit():
            task = asyncio.create_task(self._look(self.source, path, limit), name="second look")
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    def _note(self, failure: Failure) -> None:
        if failure.counts:
            self.backoff.failed(failure.retry_after, str(failure))
        else:
            self.backoff.succeeded()

    async def _once(
        self,
        source: Source,
        path: str,
        sink: Sink,
        limit: int,
        check: Callable[[], Awaitable[T]],
        *,
        hurry: bool,
        again: bool,
    ) -> T:
        name = self.spec.name
        started = self._pace.now()
        outcome: Outcome = "ok"
        seconds: float | None = None
        remark = ""
        # Of what stops us alone, such as a full disk, the upstream is innocent.
        try:
            remark = await source.fetch(path, sink, limit, hurry=hurry, again=again)
            seconds = self._pace.now() - started
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
            took = self._pace.now() - started if seconds is None else seconds
            self._counts.upstream(self.spec.label, outcome, took)

    async def _look(self, source: Source, path: str, limit: int) -> None:
        started = self._pace.now()
        outcome: Outcome = "ok"
        try:
            async with asyncio.timeout(self._total):
                await source.fetch(path, Nowhere(), limit)
        except TimeoutError:
            outcome = "probe"
            self.backoff.failed(None, f"{self.spec.name}: no answer within {self._total:g} s")
        except Failure as failure:
            outcome = "probe" if failure.counts else failure.outcome
            self._note(failure)
        else:
            self.backoff.succeeded()
        self._counts.upstream(self.spec.label, outcome, self._pace.now() - started)
