"""Behind a reverse proxy that is trusted: every VM is a client of its own (setting trusted_proxies)."""

from __future__ import annotations

import asyncio
import ipaddress

from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import until
from tests.integration.conftest import Serve

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
M = "/example.com/m"


async def test_each_vm_is_a_client(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(
        upstream,
        trusted_proxies=LOOPBACK,
        allow_clients=(ipaddress.ip_network("192.0.2.0/24"),),
        max_client_connections=1,
    )
    path = f"{M}/@v/v1.0.0.mod"
    for address, status in (
        ("192.0.2.7", 200),
        ("192.0.2.8", 200),
        ("198.51.100.1", 403),
        ("192.0.2.7", 200),
    ):
        got = await host.get(path, X_Forwarded_For=address)
        assert got.status == status, "a hit of one is no hit of who may not ask"
    refused = await host.get(path)
    assert (refused.status, "127.0.0.1 are not allowed" in refused.text) == (403, True)
    page = await host.get("/", X_Forwarded_Proto="https", X_Forwarded_Host="go.example")
    assert "go env -w GOPROXY=https://go.example<" in page.text


async def test_shares_are_by_vm(serve: Serve, upstream: FakeUpstream) -> None:
    """A greedy VM behind the proxy leaves the others their slots."""
    host = await serve(
        upstream, trusted_proxies=LOOPBACK, max_misses=8, stall_timeout=60.0, shutdown_timeout=0.0
    )
    upstream.hold("*")
    asking = [
        asyncio.create_task(host.get(f"/example.com/m{n}/@v/list", X_Forwarded_For="192.0.2.7"))
        for n in range(20)
    ]
    await until(lambda: upstream.count("*") == 2)
    asking.append(asyncio.create_task(host.get("/example.com/other/@v/list", X_Forwarded_For="192.0.2.8")))
    await until(lambda: upstream.count("/example.com/other/*") == 1)
    assert upstream.count("*") == 3
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_who_is_not_trusted_is_not_believed(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, allow_clients=(ipaddress.ip_network("192.0.2.0/24"),))
    got = await host.get(f"{M}/@v/list", X_Forwarded_For="192.0.2.7")
    assert (got.status, "clients at 127.0.0.1 are not allowed" in got.text) == (403, True)
