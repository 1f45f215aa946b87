"""Asks upstreams as the server does, and keeps the date of each answer."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import aiohttp

from goproxy_vm.protocol.loop import new_name
from goproxy_vm.upstream.dates import clock_offset
from goproxy_vm.upstream.failure import Failure, Outcome
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.sink import Buffer
from goproxy_vm.upstream.source import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from goproxy_vm.config import Settings
    from goproxy_vm.upstream.spec import UpstreamSpec

LIMIT_SECONDS = 10.0
LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request: the outcome, a sentence that names the upstream, the bytes if it is ok."""

    outcome: Outcome
    sentence: str
    data: bytes = b""


class Inquiry:
    """``async with Inquiry(settings) as inquiry``: one request at a time to each upstream, none retried.

    ``offsets`` are the seconds by which each dated answer's clock is ahead of this host's, by who answered.
    StartError on entering if ``upstream_ca_file``, or a proxy that the environment names, cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] = os.environ,
        *,
        seconds: float = LIMIT_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``environ`` names the proxies; ``seconds`` bounds each request; ``now`` is this host's clock."""
        self.offsets: dict[str, float] = {}
        self._ca_file = settings.upstream_ca_file
        self._environ = environ
        self._seconds = seconds
        self._timeouts = Timeouts(
            min(settings.connect_timeout, seconds), min(settings.stall_timeout, seconds), seconds
        )
        self._now = now
        self._network: Network

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._note_date)
        self._network = await Network.open(
            self._timeouts, new_name(), ca_file=self._ca_file, environ=self._environ, traces=[trace]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._network.close()

    async def ask(self, spec: UpstreamSpec, path: str) -> Reply:
        """GET the file at ``path`` (escaped, no leading slash); never raises for what an upstream does."""
        source = self._network.source(spec)
        sink, started = Buffer(), time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                await source.fetch(path, sink, LIMIT_BYTES)
        except TimeoutError:
            return Reply("timeout", f"{spec.name}: no whole answer within {self._seconds:g} s")
        except Failure as failure:
            return Reply(failure.outcome, failure.error.sentence)
        took = (time.monotonic() - started) * 1000
        answer = "200" if spec.kind == "http" else "read"
        return Reply("ok", f"{spec.name}: {answer} in {took:.0f} ms", sink.data)

    async def _note_date(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        offset = clock_offset(params.response.headers, self._now())
        host = params.url.host
        if offset is not None and host is not None:
            self.offsets[host] = offset
