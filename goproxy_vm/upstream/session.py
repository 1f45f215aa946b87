"""The HTTP client session that all upstreams share: whom it trusts, how long it waits."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from goproxy_vm.errors import StartError
from goproxy_vm.upstream.wire import HEAD_MOST, MOST_FIELDS, Connector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.upstream.http import Timeouts
    from goproxy_vm.upstream.resolver import Resolver


def open_session(
    trust: ssl.SSLContext,
    timeouts: Timeouts,
    resolver: Resolver,
    traces: Sequence[aiohttp.TraceConfig] = (),
) -> aiohttp.ClientSession:
    """A session for upstreams, to be closed; ``traces`` see its requests. Call it inside a running loop."""
    return aiohttp.ClientSession(
        connector=Connector(limit=0, ssl=trust, keepalive_timeout=60, resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect, sock_read=timeouts.stall),
        trust_env=False,  # our own reading of it is that of Go
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=list(traces),
        max_line_size=HEAD_MOST,
        max_field_size=HEAD_MOST,
        max_headers=MOST_FIELDS,
    )


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """The system's certificates and those in ``ca_file`` (blocking). StartError if it cannot be used."""
    trust = ssl.create_default_context()
    if ca_file is not None:
        try:
            trust.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or "no PEM certificates"
            raise StartError(f"upstream_ca_file: {ca_file}: {reason}") from None
    return trust
