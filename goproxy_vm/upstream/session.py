"""The HTTP client session that all upstreams share: whom it trusts, how long it waits."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import getproxies

import aiohttp

from goproxy_vm.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.upstream.http import Limits


def open_session(
    trust: ssl.SSLContext, limits: Limits, traces: Sequence[aiohttp.TraceConfig] = ()
) -> aiohttp.ClientSession:
    """A session for upstreams, to be closed; ``traces`` see its requests. Call it inside a running loop."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=trust, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect, sock_read=limits.stall),
        trust_env=_environment_speaks(),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=list(traces),
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


def _environment_speaks() -> bool:
    """Whether the environment names proxies or credentials: aiohttp looks them up anew for each request."""
    with contextlib.suppress(OSError, RuntimeError):  # nobody's home, or closed to us
        if Path(os.environ.get("NETRC") or "~/.netrc").expanduser().exists():
            return True
    return not getproxies().keys().isdisjoint(("http", "https"))
