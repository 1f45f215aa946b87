"""``/vm/seen`` over HTTP: what VMs tell of themselves, and what operators see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from yarl import URL

from goproxy_vm.cache.vms import MOST, NAMED
from goproxy_vm.config.token import TOKEN_NAME
from goproxy_vm.config.values import NETWORKS
from goproxy_vm.protocol.report import parse_report
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Wire
from tests.integration.conftest import Host, Serve

REPORT = "script=setup&go=go1.26.8&bootstrap=go1.24.11&os=linux&arch=amd64&modcache_mib=409&gocache_mib=920"
PATH = f"/vm/seen?{REPORT}"
LOOPBACK = NETWORKS.parse("127.0.0.1")
ZIP = "/example.com/m/@v/v1.0.0.zip"


async def vms(host: Host, query: str = "") -> Any:
    """What the API tells."""
    directory = host.server.store._parts.core.layout.root
    headers = {"Authorization": f"Bearer {(directory / TOKEN_NAME).read_text().strip()}"}
    async with host.session.get(f"{host.server.admin_url}/api/v1/vms{query}", headers=headers) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_a_report(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, vm_go="1.26.8")
    got = await host.get(PATH)
    assert (got.status, got.body, got.headers["Cache-Control"]) == (200, b"", "no-store")
    assert (await host.get(PATH, method="HEAD")).status == 200
    answer = await vms(host)
    assert (answer["vm_go"], answer["total"]) == ("1.26.8", 1)
    (one,) = answer["items"]
    assert (one["address"], one["go"], one["differs"]) == ("127.0.0.1", "go1.26.8", False)
    assert (one["modcache_bytes"], one["gocache_bytes"]) == (409 << 20, 920 << 20)
    assert upstream.requests == []
    assert await host.metric('goproxy_vm_vms{go="1.26.8"}') == 1
    assert await host.metric('goproxy_vm_requests_total{endpoint="other",result="hit"}') == 2


async def test_to_look_is_not_to_report(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    assert (await host.get(PATH, method="HEAD")).status == 200
    assert (await vms(host))["total"] == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods(serve: Serve, upstream: FakeUpstream, method: str) -> None:
    host = await serve(upstream)
    got = await host.get(PATH, method=method)
    assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")
    assert (await vms(host))["total"] == 0


async def test_hostile_queries(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    hostile = [
        *("", "?", "?&", f"?{REPORT}&", f"?{REPORT}&host=vm7", f"?{REPORT}&go=go1.26.8", f"?{REPORT}#x"),
        f"?{REPORT.replace('&os=linux', '')}",
        *(
            f"?{REPORT.replace('linux', bad)}"
            for bad in ("", "a" * 33, "a%00", "%6c", "a/b", '"', "<x>", "A")
        ),
        *(f"?{REPORT.replace('linux', bad)}" for bad in ("a\\b", "a'b", "{", "$(x)", "\x7f", "\xe9", "a?b")),
        *(f"?{REPORT.replace('409', bad)}" for bad in ("", "-1", "1" * 10, "1" * 5000, "1.5", "%31")),
        *(f"?{REPORT.replace('409', bad)}" for bad in ("+1", "1e3", "0x1", "1_0", "\xd9\xa3", "\xb2", "nan")),
        *(
            f"?{REPORT.replace('go1.26.8', bad)}"
            for bad in ("../..", "go1.26.8%0a", "go1.26.8;os=x", "~", "*")
        ),
        *(f"?{REPORT}{bad}" for bad in ("&&", "&__proto__=x", "&g%6f=x", "&go[]=x", ";x=y", "&=", "&script")),
        f"?{'go=a&' * 5000}",
    ]
    for query in hostile:
        async with Wire(host.server.url) as wire:
            wire.writer.write(f"GET /vm/seen{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
            heard = await wire.answer()
        assert heard.status == 400, query
        assert heard.body.startswith(b"goproxy-vm: "), query
        assert heard.body.count(b"\n") == 1, query
        assert len(heard.body) < 300, query
    assert (await vms(host))["total"] == 0
    assert await host.metric("goproxy_vm_vms{") == 0
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/vm/seen/", "/VM/seen", "/vm/see%6e", "//vm/seen", "/cached-only/vm/seen"])
async def test_there_is_one_path(serve: Serve, upstream: FakeUpstream, path: str) -> None:
    host = await serve(upstream)
    assert (await host.get(f"{path}?{REPORT}")).status == 404
    assert (await vms(host))["total"] == 0


async def test_who_may_not_ask_may_not_tell(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, allow_clients=NETWORKS.parse("10.0.0.0/8"))
    assert (await host.get(PATH)).status == 403
    assert (await vms(host))["total"] == 0


async def test_two_vms(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, vm_go="1.26.8+auto")
    for address, go in (("127.0.0.7", "go1.24.11"), ("127.0.0.8", "go1.26.8"), ("127.0.0.7", "go1.25.0")):
        url = URL(host.server.url + PATH.replace("go1.26.8", go), encoded=True)
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
            assert answer.status == 200
    items = (await vms(host))["items"]
    assert [(each["address"], each["go"], each["differs"]) for each in items] == [
        ("127.0.0.7", "go1.25.0", True),
        ("127.0.0.8", "go1.26.8", False),
    ]
    page = (await host.admin("/metrics")).text
    assert [line for line in page.splitlines() if line.startswith("goproxy_vm_vms{")] == [
        'goproxy_vm_vms{go="1.25.0"} 1.0',
        'goproxy_vm_vms{go="1.26.8"} 1.0',
        'goproxy_vm_vms{go="other"} 0.0',
    ]


async def test_a_restart_knows_them(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(PATH)
    before = await vms(host)
    await host.server.stop()
    after = await vms(await serve(upstream))
    for answer in (before, after):
        answer["items"][0].pop("idle_seconds")
    assert after == before
    assert after["total"] == 1


def address_of(n: int) -> str:
    return f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"


def report_of(n: int) -> str:
    """One of 2,100 releases."""
    return REPORT.replace("go1.26.8", f"go1.{n % 300}.{n % 7}")


async def told(url: str, clients: range) -> None:
    """Report for as many VMs, over one connection of a proxy."""
    async with Wire(url) as wire:
        for start in range(clients.start, clients.stop, 50):
            some = clients[start - clients.start :][:50]
            for n in some:
                wire.ask(f"/vm/seen?{report_of(n)}", f"X-Forwarded-For: {address_of(n)}")
            for _ in some:
                assert (await wire.answer()).status == 200


async def test_more_vms_than_are_known_and_another_one_is_served(
    serve: Serve, upstream: FakeUpstream
) -> None:
    host = await serve(upstream, trusted_proxies=LOOPBACK)
    expected = (await host.get(ZIP)).body
    known = host.server.store.vms
    for n in range(MOST - 400):  # each would take its time over HTTP; tests/hostile has that
        known.seen(address_of(n), parse_report(report_of(n)))
    some = [range(n, n + 150) for n in range(MOST - 400, MOST + 200, 150)]
    reports = asyncio.gather(*(told(host.server.url, each) for each in some))
    served = 0
    while not reports.done():
        got = await host.get(ZIP)
        assert (got.status, got.body) == (200, expected)
        served += 1
    await reports
    assert served > 3
    items, cursor, total = [], "", 0
    while cursor is not None:
        page = await vms(host, f"?limit=1000{cursor and f'&cursor={cursor}'}")
        items += page["items"]
        cursor, total = page["next_cursor"], page["total"]
    assert len(items) == total == MOST
    assert len({each["address"] for each in items}) == MOST
    series = [
        line
        for line in (await host.admin("/metrics")).text.splitlines()
        if line.startswith("goproxy_vm_vms{")
    ]
    assert len(series) == NAMED + 1
    assert sum(float(line.split()[-1]) for line in series) == MOST


async def test_a_report_has_nothing_to_do_with_hits(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(ZIP)
    await host.get(ZIP)
    front = host.server._front
    assert front is not None
    before = front.generation
    await host.get(PATH)
    await host.get(f"/vm/seen?{REPORT}&x")
    assert front.generation == before
    hits = await host.metric('goproxy_vm_requests_total{endpoint="zip",result="hit"}')
    await host.get(ZIP)
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="hit"}') == hits + 1
