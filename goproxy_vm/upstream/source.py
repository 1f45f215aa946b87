"""Where files come from: what every source has in common, and how one is opened."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Protocol

from yarl import URL

from goproxy_vm.upstream.environment import Environment
from goproxy_vm.upstream.file import FileUpstream
from goproxy_vm.upstream.http import HttpUpstream, Timeouts, Way
from goproxy_vm.upstream.probe import ProbeResult, probe
from goproxy_vm.upstream.resolver import Resolver
from goproxy_vm.upstream.session import open_session, trusted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import aiohttp

    from goproxy_vm.upstream.failure import Outcome
    from goproxy_vm.upstream.sink import Sink
    from goproxy_vm.upstream.spec import UpstreamSpec


class Source(Protocol):
    """One place that brings files."""

    @property
    def received(self) -> int:
        """Bytes of bodies that came from it, as they were sent."""
        ...

    @property
    def answered(self) -> int:
        """Heads of answers that came from it."""
        ...

    async def fetch(
        self, path: str, sink: Sink, limit: int, *, hurry: bool = False, again: bool = False
    ) -> str:
        """Copy the file at ``path`` (escaped, no leading slash) into ``sink``, at most ``limit`` bytes.

        ``hurry``: another source may have it, so that what is known to be slow need not be waited for;
        ``again``: this is not the first try. Returns what may explain why the file is not the one expected,
        as the beginning of a sentence, or nothing. Raises Failure; what the sink raises passes through.
        """
        ...


class Network:
    """What all sources share: whom they trust, how names are looked up, and how requests leave this host.
    :meth:`open` it; one event loop."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        trust: ssl.SSLContext,
        resolver: Resolver,
        timeouts: Timeouts,
        way: Way,
    ) -> None:
        self._session = session
        self._trust = trust
        self._resolver = resolver
        self._timeouts = timeouts
        self._way = way

    @classmethod
    async def open(
        cls,
        timeouts: Timeouts,
        name: str,
        specs: Iterable[UpstreamSpec] = (),
        *,
        ca_file: Path | None,
        environ: Mapping[str, str] = os.environ,
        traces: Sequence[aiohttp.TraceConfig] = (),
    ) -> Network:
        """``name`` is this server's in CDN-Loop; the names of ``specs`` are looked up by themselves, whatever
        others are slow; ``environ`` names the proxies; ``traces`` see each request.

        StartError: ``ca_file``, or what the environment says of proxies, cannot be used.
        """
        trust = await asyncio.to_thread(trusted, ca_file)
        environment = await asyncio.to_thread(Environment, environ)
        hosts = [host for spec in specs if (host := URL(spec.url).raw_host)]
        resolver = Resolver([*hosts, *environment.proxy_hosts], timeouts.connect)
        session = open_session(trust, timeouts, resolver, traces)
        return cls(session, trust, resolver, timeouts, Way(name, environment))

    def source(
        self,
        spec: UpstreamSpec,
        redirected: Callable[[str, Outcome, float], None] = lambda *_: None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> Source:
        """The source that an entry of the upstream list means, if that is a proxy. ``redirected``: see
        HttpUpstream."""
        if spec.kind == "file":
            return FileUpstream(spec)
        return HttpUpstream(spec, self._session, self._timeouts, self._way, redirected, now=now)

    async def probe(self, spec: UpstreamSpec) -> ProbeResult | None:
        """Whether it takes a connection; None where none is to be made: for what is no server, or one
        behind a proxy."""
        if spec.kind != "http" or self._way.environment.proxy(URL(spec.url)) is not None:
            return None
        return await probe(spec, self._trust, self._resolver, self._timeouts.connect)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
