"""``/vm/setup.sh`` over HTTP."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from goproxy_vm.config.address import Address
from goproxy_vm.config.values import NETWORKS
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Heard, Wire
from tests.integration.conftest import Host, Serve

PATH = "/vm/setup.sh"


@pytest.fixture
async def host(serve: Serve, upstream: FakeUpstream) -> Host:
    return await serve(upstream)


async def ask(host: Host, *lines: str, version: str = "1.1") -> Heard:
    """Ask with these header lines, and no other."""
    async with Wire(host.server.url) as wire:
        wire.writer.write("\r\n".join([f"GET {PATH} HTTP/{version}", *lines, "", ""]).encode())
        return await wire.answer()


async def test_script(host: Host, upstream: FakeUpstream) -> None:
    got = await host.get(PATH, Host="proxy.internal:8080")
    assert (got.status, got.headers["Content-Type"]) == (200, "text/x-shellscript; charset=utf-8")
    assert got.headers["Cache-Control"] == "no-store"
    assert got.headers["Cache-Status"] == "goproxy-vm; detail=page"
    assert got.text.startswith("#!/bin/sh\n")
    assert "\nproxy=http://proxy.internal:8080\n" in got.text
    head = await host.get(PATH, method="HEAD", Host="proxy.internal:8080")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    assert (await host.get(f"{PATH}?x=y")).status == 200
    assert upstream.requests == []
    assert await host.metric('goproxy_vm_requests_total{endpoint="other",result="hit"}') == 3


async def test_not_for_posting(host: Host) -> None:
    got = await host.get(PATH, method="POST")
    assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "other", ["/vm/setup.sh/", "/vm/", "/VM/setup.sh", "/vm/setup%2esh", "//vm/setup.sh"]
)
async def test_there_is_one_script(host: Host, other: str) -> None:
    assert (await host.get(other)).status == 404


@pytest.mark.parametrize(
    "sent",
    [
        *("$(reboot)", "`reboot`", "a;reboot", "a'reboot'", 'a"b', "a b", "a/b", "a@b", "a#b", "<script>"),
        *("[::1", "::1", "[::1%25$(reboot)]:80", "[fe80::1%eth0]", "a:", "a:0", "a:99999", "a:80x"),
        *("é", "", "a" * 300),
    ],
)  # fmt: skip
async def test_a_hostile_host_is_refused(host: Host, sent: str) -> None:
    heard = await ask(host, f"Host: {sent}")
    assert heard.status == 400
    assert heard.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert heard.body.startswith(b"goproxy-vm: ")
    assert b"reboot" not in heard.body
    assert b"proxy=" not in heard.body


@pytest.mark.parametrize("lines", [[], ["Host: a", "Host: b"], ["Host: a", "Host: a"], ["Host: a,b"]])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_no_host_or_several(host: Host, lines: list[str], version: str) -> None:
    assert (await ask(host, *lines, version=version)).status == 400


async def test_a_name_that_may_be_anybodys(host: Host) -> None:
    """As a page in a browser on a VM has it that is made to lead here (DNS rebinding)."""
    heard = await ask(host, "Host: rebound.example.com:8080")
    assert heard.status == 421
    assert b"set public_url to http://rebound.example.com:8080" in heard.body
    assert b"proxy=" not in heard.body
    page = await host.get("/", Host="rebound.example.com:8080")
    assert (page.status, "rebound" in page.text) == (200, False)
    assert f"go env -w GOPROXY={host.server.url}<" in page.text
    for name in (socket.gethostname(), "goproxy.lan:8080"):
        assert (await ask(host, f"Host: {name}")).status == 200
    got = await host.get("/example.com/m/@v/v1.0.0.mod", Host="rebound.example.com:8080")
    assert got.status == 200, "modules are served by any name"


async def test_forwarded_fields_count_for_nothing(host: Host) -> None:
    lines = [
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: https",
        "Forwarded: host=evil",
        "X-Forwarded-Port: 1",
    ]
    heard = await ask(host, "Host: [fd00::1]:8080", *lines)
    assert heard.status == 200
    assert b"\nproxy='http://[fd00::1]:8080'\n" in heard.body
    assert b"evil" not in heard.body


async def test_public_url(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, public_url="https://proxy.example/go")
    assert "\nproxy=https://proxy.example/go\n" in (await host.get(PATH)).text
    page = (await host.get("/", Host="elsewhere")).text
    assert "go env -w GOPROXY=https://proxy.example/go</pre>" in page
    assert "<code>curl -fsS https://proxy.example/go/vm/setup.sh | sh</code>" in page
    assert "elsewhere" not in page


async def test_local_socket(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    host = await serve(upstream, listen=(Address("", 0, str(tmp_path / "socket")),))
    assert (await ask(host, version="1.0")).status == 400
    assert b"\nproxy=http://proxy\n" in (await ask(host, "Host: proxy")).body


async def test_for_allowed_clients_only(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, allow_clients=NETWORKS.parse("192.0.2.0/24"), nosumdb="secret.example")
    got = await host.get(PATH)
    assert got.status == 403
    assert "allow_clients" in got.text
