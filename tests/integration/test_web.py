"""Pages, probes, errors and HTTP itself, on both listeners."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.cache.store import Store
from goproxy_vm.config.values import NETWORKS
from goproxy_vm.proxy.proxy import Proxy
from goproxy_vm.web import fileio
from goproxy_vm.web.handler import Handler
from tests.fakes.lines import logged
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import Wire, until
from tests.integration.conftest import Host, Serve

M = "/example.com/m"
BIG = "/example.com/big/@v/v1.0.0.zip"


@pytest.fixture
async def host(serve: Serve, upstream: FakeUpstream) -> Host:
    return await serve(upstream)


def fields(caplog: pytest.LogCaptureFixture, event: str) -> dict[str, Any]:
    """The fields of the one line with that event."""
    (found,) = [record for record in caplog.records if record.getMessage() == event]
    return dict(found.goproxy_vm_fields)  # type: ignore[attr-defined]  # set by observe.logs


def request_id(text: str) -> str:
    found = re.search(r"\[request ([0-9a-f]{12})\]\n$", text)
    assert found is not None, text
    return found[1]


# Pages


async def test_landing_page(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, nosumdb="example.com/private,*.corp.example")
    for extension in ("info", "mod", "zip"):
        await host.get(f"{M}/@v/v1.0.0.{extension}")
    got = await host.get("/", Host="proxy.internal:8080")
    assert (got.status, got.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert got.headers["Cache-Control"] == "no-store"
    assert got.headers["Cache-Status"] == "goproxy-vm; detail=page"
    lines = got.text.splitlines()
    assert "<pre>go env -w GOPROXY=http://proxy.internal:8080" in lines
    assert got.text.index("<pre>") < got.text.index("A Go module proxy")
    assert '<a href="http://proxy.internal:8080/vm/setup.sh">' in got.text
    assert host.server.admin_url not in got.text
    assert "go env -w GONOSUMDB=example.com/private,*.corp.example</pre>" in lines
    assert upstream.name in got.text
    assert "<td>ready</td>" in got.text
    assert re.search(r"<td>off</td>", got.text)


async def test_landing_page_counts(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, prefetch=False)
    text = (await host.get("/")).text
    assert "stored</td><td>0 in 0 files, 0 B</td>" in text
    assert "here</td><td>nothing yet</td>" in text
    for version in ("v0.9.0", "v1.0.0"):
        await host.get(f"{M}/@v/{version}.mod")
    for _ in range(300):  # commits are batched, and totals at most a second old
        text = (await host.get("/")).text
        if "stored</td><td>2 in 4 files, " in text:  # each with its .info
            break
        await asyncio.sleep(0.01)
    assert re.search(r"stored</td><td>2 in 4 files, [1-9][0-9.]* KiB</td>", text)
    assert "here</td><td>0 of 2 requests (0.0%), 0 B</td>" in text
    got = await host.get(f"{M}/@v/v1.0.0.mod")
    assert f"here</td><td>1 of 3 requests (33.3%), {len(got.body)} B</td>" in (await host.get("/")).text


async def test_landing_page_offline(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, offline=True)
    assert "none (offline)" in (await host.get("/")).text


@pytest.mark.parametrize(
    "sent", ["<script>alert(1)</script>", "a b", "x/y", "$(reboot)", "a;b", "[::1", "é", "", "a" * 300]
)
async def test_landing_page_ignores_a_hostile_host(host: Host, sent: str) -> None:
    async with Wire(host.server.url) as wire:
        wire.writer.write(f"GET / HTTP/1.1\r\nHost: {sent}\r\nConnection: close\r\n\r\n".encode())
        heard = await wire.answer()
    own = host.server.url.removeprefix("http://")
    assert heard.status == 200
    assert f"<pre>go env -w GOPROXY=http://{own}</pre>" in heard.body.decode()
    assert sent == "" or f"://{sent}" not in heard.body.decode()


async def test_landing_page_without_a_host(host: Host) -> None:
    async with Wire(host.server.url) as wire:
        wire.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        heard = await wire.answer()
        assert f"GOPROXY={host.server.url}</pre>" in heard.body.decode()
        assert await wire.rest() == b""


async def test_landing_page_of_a_local_socket(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    from goproxy_vm.config.address import Address

    host = await serve(upstream, listen=(Address("", 0, str(tmp_path / "socket")),))
    async with Wire(host.server.url) as wire:
        wire.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert "GOPROXY=http://localhost</pre>" in (await wire.answer()).body.decode()


async def test_robots(host: Host) -> None:
    got = await host.get("/robots.txt")
    assert (got.status, got.body) == (200, b"User-agent: *\nDisallow: /\n")


async def test_probes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (host.get, host.admin):
        got = await ask("/healthz")
        assert (got.status, got.body) == (200, b"ok\n")
        got = await ask("/readyz")
        assert (got.status, got.body) == (200, b"ready\n")
    monkeypatch.setattr(Store, "writable", False)
    for ask in (host.get, host.admin):
        got = await ask("/readyz")
        assert got.status == 200
        assert got.text.startswith("degraded: the store cannot be written")
        assert (await ask("/healthz")).body == b"ok\n"
    assert "<td>degraded: the store cannot" in (await host.get("/")).text


async def test_metrics_are_on_the_admin_listener_only(host: Host, upstream: FakeUpstream) -> None:
    await host.get(f"{M}/@v/list")
    got = await host.admin("/metrics")
    assert got.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'goproxy_vm_requests_total{endpoint="list",result="miss"} 1' in got.text
    assert f'goproxy_vm_upstream_requests_total{{outcome="ok",upstream="{upstream.name}"}} 1' in got.text
    assert "process_open_fds" in got.text
    assert (await host.get("/metrics")).status == 404
    assert (await host.admin(f"{M}/@v/list")).status == 404


async def test_allow_clients(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, allow_clients=NETWORKS.parse("192.0.2.0/24,2001:db8::/32"))
    for path in (f"{M}/@v/v1.0.0.zip", f"{M}/@v/list", "/nonsense", "/sumdb/x/latest"):
        got = await host.get(path)
        assert got.status == 403
        assert "127.0.0.1" in got.text
        assert "allow_clients" in got.text
        assert (await host.get(path, method="POST")).status == 403
    assert upstream.requests == []
    for path in ("/", "/robots.txt", "/healthz", "/readyz"):
        assert (await host.get(path)).status == 200
    allowed = await serve(
        upstream, allow_clients=NETWORKS.parse("192.0.2.0/24,127.0.0.0/8"), cache_dir=Path(f"{_root(host)}2")
    )
    assert (await allowed.get(f"{M}/@v/list")).status == 200


def _root(host: Host) -> Path:
    return host.settings.cache_dir


async def test_who_has_left_causes_no_fetch(host: Host, upstream: FakeUpstream) -> None:
    """A client that is not allowed could otherwise have its way by leaving at once."""

    class Left:
        transport = None
        raw_path = f"{M}/@v/v1.0.0.zip"

    handler = Handler(
        host.settings,
        *[None] * 3,
        host.server.metrics,
        upstreams=[],
        name="here",
        reader=None,  # type: ignore[arg-type]  # none is used
        access=None,  # type: ignore[arg-type]
        notes=None,  # type: ignore[arg-type]
        forwarded=None,  # type: ignore[arg-type]
        toolchains=None,  # type: ignore[arg-type]
    )
    answer = await handler(Left())  # type: ignore[arg-type]  # stands for a request whose client is gone
    assert answer.status == 503
    assert upstream.requests == []
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="refused"}') == 1


# HTTP


async def test_requests_one_after_the_other_and_all_at_once(host: Host, upstream: FakeUpstream) -> None:
    paths = [f"{M}/@v/v1.0.0.mod", "/healthz", f"{M}/@v/v1.0.0.info", "/nonsense", f"{M}/@v/v1.0.0.zip"]
    async with Wire(host.server.url) as wire:
        for path in paths:
            wire.ask(path)
            assert (await wire.answer()).status == (404 if path == "/nonsense" else 200)
        for path in paths:
            wire.ask(path)
        for path in paths:
            heard = await wire.answer()
            if path in upstream.files:
                assert heard.body == upstream.files[path]
        wire.ask("/healthz", "Connection: close")
        assert (await wire.answer()).body == b"ok\n"
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"http://proxy.example{M}/@v/v1.0.0.mod", 200),
        (f"HTTP://proxy.example:80{M}/@v/v1.0.0.mod?x#y", 200),
        ("http://proxy.example", 200),
        ("http://proxy.example/healthz", 200),
        ("ftp://proxy.example/healthz", 404),
        ("*", 400),
    ],
)
async def test_targets(host: Host, target: str, status: int) -> None:
    async with Wire(host.server.url) as wire:
        wire.ask(target)
        assert (await wire.answer()).status == status


async def test_body_of_a_request_is_ignored(host: Host) -> None:
    async with Wire(host.server.url) as wire:
        wire.ask("/healthz", "Content-Length: 5")
        wire.writer.write(b"hello")
        heard = await wire.answer()
        assert (heard.body, heard.headers["Connection"]) == (b"ok\n", "close")
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"<script>alert(1)</script> / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\nAccept: text/html\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 4,
    ],
)
async def test_what_is_no_http(host: Host, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    caplog.set_level(logging.DEBUG, "goproxy_vm")
    async with Wire(host.server.url) as wire:
        wire.writer.write(sent)
        heard = await wire.answer()
        assert await wire.rest() == b""
    assert heard.status == 400
    assert heard.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert heard.headers["Cache-Status"] == "goproxy-vm; detail=refused"
    assert heard.body.startswith(b"goproxy-vm: not a valid HTTP/1.1 request")
    assert b"<" not in heard.body
    line = fields(caplog, "request failed")
    assert (line["request_id"], line["client"]) == (request_id(heard.body.decode()), "127.0.0.1")
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert await host.metric('goproxy_vm_requests_total{endpoint="other",result="refused"}') == 1


async def test_no_http_after_good_requests(host: Host) -> None:
    async with Wire(host.server.url) as wire:
        wire.ask("/healthz")
        assert (await wire.answer()).body == b"ok\n"
        wire.writer.write(b"nonsense\r\n\r\n")
        assert (await wire.answer()).status == 400


# Errors


@pytest.mark.parametrize(("path", "status"), [("/nonsense", 404), (f"{M}/@v/v1.0.0.mod", 502)])
async def test_request_id_leads_to_the_log(
    host: Host, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG, "goproxy_vm")
    upstream.on("*", Reply(b"", 500))
    got = await host.get(f"{path}?x=%41")
    line = fields(caplog, "request failed")
    assert got.status == line["status"] == status
    assert line["request_id"] == request_id(got.text)
    assert (line["path"], line["client"]) == (f"{path}?x=%41", "127.0.0.1")
    assert line["reason"] in got.text


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_a_failed_request_is_one_warning(
    host: Host, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.INFO, "goproxy_vm")
    upstream.on("*", Reply(b"", status))
    for extension in ("mod", "zip"):
        assert (await host.get(f"{M}/@v/v1.0.0.{extension}")).status >= 400
    loud = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud == ["request failed", "request failed"]
    assert "fetch failed" in logged(caplog)


async def test_a_probe_of_what_does_not_exist_is_no_warning(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (
        "/favicon.ico",
        "/example.com/nothing/@v/list",
        "/example.com/nothing/@latest",
        "/x/@v/v1.info",
    ):
        assert (await host.get(path)).status == 404
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_sumdb_that_is_off(host: Host) -> None:
    got = await host.get("/sumdb/sum.golang.org/latest")
    assert got.status == 404
    assert await host.metric('goproxy_vm_requests_total{endpoint="sumdb",result="refused"}') == 1


async def test_a_bug_of_ours(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("secret cause")

    monkeypatch.setattr(Proxy, "get", crash)
    got = await host.get(f"{M}/@v/v1.0.0.mod")
    assert (got.status, got.headers["Cache-Control"]) == (500, "no-store")
    assert "m@v1.0.0 mod: internal error; the server's log has the cause [request " in got.text
    assert fields(caplog, "request crashed")["request_id"] == request_id(got.text)
    assert "secret cause" in logged(caplog)
    assert await host.metric('goproxy_vm_requests_total{endpoint="mod",result="error"}') == 1


async def test_a_bug_in_the_handling_of_bugs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("secret cause")

    monkeypatch.setattr(Handler, "_handle", crash)
    got = await host.get("/healthz", Accept="text/plain")
    assert got.status == 500
    assert "secret" not in got.text


# Stored files that are not what they were


async def committed(host: Host, path: str) -> Path:
    """The file that answers ``path``, once it is on disk and on record."""
    await until(lambda: not host.server.store.uncommitted)
    return _root(host) / "modules" / path[1:]


@pytest.fixture
async def stored(serve: Serve, upstream: FakeUpstream) -> Host:
    """A server without the short cut, which has tests of its own."""
    return await serve(upstream, fast_path=False)


@pytest.mark.parametrize("extension", ["mod", "zip"])
async def test_a_file_shorter_than_on_record_is_fetched_again(
    stored: Host, upstream: FakeUpstream, extension: str
) -> None:
    path = f"{M}/@v/v1.0.0.{extension}"
    await stored.get(path)
    file = await committed(stored, path)
    os.truncate(file, 10)
    assert (await stored.get(path)).body == upstream.files[path]
    assert upstream.count(path) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "shorter than on record"), (OSError(errno.EIO, "Input/output error"), "Input/output error")],
)
async def test_a_small_file_that_cannot_be_read(
    stored: Host,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError | None,
    reason: str,
) -> None:
    path = f"{M}/@v/v1.0.0.mod"
    await stored.get(path)
    await committed(stored, path)

    def pread(self: StoredFile, offset: int, n: int) -> bytes:
        if error is not None:
            raise error
        return b"m"

    monkeypatch.setattr(StoredFile, "pread", pread)
    got = await stored.get(path)
    assert (got.status, got.headers["Retry-After"]) == (503, "30")
    assert reason in got.text
    assert fields(caplog, "request failed")["request_id"] == request_id(got.text)
    assert await stored.metric('goproxy_vm_requests_total{endpoint="mod",result="error"}') == 1
    assert await stored.metric('goproxy_vm_requests_total{endpoint="mod",result="hit"}') == 0


async def big(host: Host, upstream: FakeUpstream) -> bytes:
    """A stored file of several chunks; the bytes."""
    data = b"module example.com/big\n//" + random.Random(2).randbytes(2 << 20).hex().encode()
    upstream.add_module("example.com/big", "v1.0.0", gomod=data)
    path = BIG.replace(".zip", ".mod")
    await host.get(path)
    await committed(host, path)
    return data


@pytest.mark.parametrize("kind", ["OSError", "RuntimeError"])
async def test_a_large_file_that_fails_in_the_middle_never_looks_whole(
    stored: Host,
    upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    data = await big(stored, upstream)
    really = StoredFile.pread

    def pread(self: StoredFile, offset: int, n: int) -> bytes:
        if offset >= 1 << 20:
            if kind == "OSError":
                raise OSError(errno.EIO, "Input/output error")
            raise RuntimeError("a bug")
        return really(self, offset, n)

    monkeypatch.setattr(StoredFile, "pread", pread)
    monkeypatch.setattr(StoredFile, "cached", lambda *_: False)
    monkeypatch.setattr(fileio, "CHUNK", 256 << 10)
    async with Wire(stored.server.url) as wire:
        wire.ask(BIG.replace(".zip", ".mod"))
        heard = await wire.head()
        assert int(heard.headers["Content-Length"]) == len(data)
        got = await wire.rest()
    assert len(got) <= 1 << 20
    assert data.startswith(got)
    event = "request crashed" if kind == "RuntimeError" else "answer cut off"
    assert event in logged(caplog)


async def test_a_large_file_truncated_on_disk_while_it_is_sent(
    stored: Host, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fileio, "CHUNK", 64 << 10)
    data = await big(stored, upstream)
    path = BIG.replace(".zip", ".mod")
    file = await committed(stored, path)
    async with Wire(stored.server.url, receive_buffer=4096) as wire:
        wire.ask(path)
        await wire.head()
        os.truncate(file, 4 << 20)  # less than it should be, more than any buffer holds
        got = await wire.rest()
    assert len(got) < len(data)
    assert "answer cut off" in logged(caplog)
    assert (await stored.get(path)).body == data  # fetched again


async def test_the_first_chunk_can_still_be_told(
    stored: Host, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await big(stored, upstream)
    monkeypatch.setattr(StoredFile, "pread", lambda *_: b"")
    got = await stored.get(BIG.replace(".zip", ".mod"))
    assert got.status == 503
    head = await stored.get(BIG.replace(".zip", ".mod"), method="HEAD")
    assert head.status == 200  # nothing is read for it
