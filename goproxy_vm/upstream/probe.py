"""A first try of each upstream at the start: a wrong name or a closed port is known from then on."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yarl import URL

from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    import ssl

    from goproxy_vm.upstream.resolver import Resolver
    from goproxy_vm.upstream.spec import UpstreamSpec

log = get_logger("upstream")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of it: the upstream's name, and the ``seconds`` to a connection, or else the ``trouble``."""

    name: str
    seconds: float
    trouble: str = ""


async def probe(spec: UpstreamSpec, trust: ssl.SSLContext, resolver: Resolver, limit: float) -> ProbeResult:
    """Connect and hang up, within ``limit`` seconds; trouble is in the log."""
    url = URL(spec.url)
    host, port = url.raw_host or "", url.port or 0
    secure, name = (trust, host) if url.scheme == "https" else (None, None)
    started = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            addresses = await resolver.resolve(host, port, socket.AF_UNSPEC)
            for index, found in enumerate(addresses, 1):
                try:
                    _, writer = await asyncio.open_connection(
                        found["host"], port, ssl=secure, server_hostname=name
                    )
                except OSError:
                    if index == len(addresses):
                        raise
                    continue
                seconds = time.monotonic() - started
                writer.close()
                await writer.wait_closed()
                return ProbeResult(spec.name, seconds)
        return ProbeResult(spec.name, time.monotonic() - started, "it has no address")
    except (OSError, TimeoutError) as error:
        unknown = isinstance(error, socket.gaierror)
        reason = "its name cannot be resolved" if unknown else str(error) or "timed out"
        log.warning("upstream cannot be reached", upstream=spec.name, reason=reason)
        return ProbeResult(spec.name, time.monotonic() - started, reason)
