"""The ledger of a whole server: what counts as fetched, whichever way it is answered, and what does not."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from goproxy_vm.config.clients import parse_client_names
from goproxy_vm.config.token import TOKEN_NAME
from goproxy_vm.config.values import NETWORKS, RULES
from goproxy_vm.ledger import notes
from goproxy_vm.ledger.ledger import NAME
from tests.fakes.modules import build_zip
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import Wire, until
from tests.integration.conftest import Host, Serve

M = "example.com/m"
INFO, MOD, ZIP = (f"/{M}/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip"))
BIG = "/example.com/big/@v/v1.0.0.zip"
LOOPBACK = NETWORKS.parse("127.0.0.1")


@pytest.fixture
def upstream(upstream: FakeUpstream) -> FakeUpstream:
    padding = random.Random(1).randbytes(3_000_000)
    files = {"go.mod": b"module example.com/big\n", "padding": padding}
    upstream.add_module("example.com/big", "v1.0.0", zipped=build_zip("example.com/big", "v1.0.0", files))
    return upstream


async def fetches(host: Host, query: str) -> Any:
    """What the API tells."""
    assert host.settings is not None
    token = (host.settings.cache_dir / TOKEN_NAME).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    url = URL(f"{host.server.admin_url}/api/v1/fetches?{query}", encoded=True)
    async with host.session.get(url, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def counts(host: Host, module: str = M) -> dict[tuple[str, str], tuple[int, int]]:
    """By client and version: how often it was sent, how often refused."""
    items = (await fetches(host, f"module={module}&limit=1000"))["items"]
    return {(each["client"], each["version"]): (each["count"], each["refused"]) for each in items}


async def committed(host: Host) -> None:
    await until(lambda: not host.server.store.uncommitted)


async def get_from(address: str, host: Host, path: str) -> int:
    """The status of an answer to another client."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(URL(host.server.url + path, encoded=True)) as got,
    ):
        await got.read()
        return got.status


@pytest.mark.parametrize("fast_path", [True, False])
async def test_what_counts(serve: Serve, upstream: FakeUpstream, *, fast_path: bool) -> None:
    """A miss, then hits of a small zip and of a large one, each sent whole."""
    host = await serve(upstream, fast_path=fast_path)
    for path in (INFO, MOD, f"/{M}/@v/list", f"/{M}/@latest"):
        assert (await host.get(path)).status == 200
    await host.quiet()
    assert await counts(host) == {}, "what is fetched ahead has nobody asked for"
    for _ in range(4):
        assert (await host.get(ZIP)).status == 200
        assert (await host.get(BIG)).status == 200
        await committed(host)
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (4, 0)}
    assert await counts(host, "example.com/big") == {("127.0.0.1", "v1.0.0"): (4, 0)}
    for path in (ZIP, BIG):
        assert (await host.get(path, method="HEAD")).status == 200
        assert (await host.get(path, Range="bytes=0-5")).status == 206
        assert (await host.get(path, Range="bytes=0-")).status == 206
        assert (await host.get(path, If_None_Match="*")).status == 304
        assert (await host.get(path, Range="bytes=999999999-")).status == 416
        assert (await host.get(path, method="POST")).status == 405
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (4, 0)}
    assert (await host.get(ZIP, Range="bytes=0-1,4-5")).status == 200, "which is sent whole"
    assert (await host.get(f"/cached-only{ZIP}")).status == 200
    assert (await host.get(ZIP.replace("m/@v", "%6D/@v"))).status == 200
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (7, 0)}
    assert await host.metric("goproxy_vm_ledger_rows") == 2
    assert await host.metric("goproxy_vm_ledger_dropped_total") == 0


async def test_those_who_wait_for_one_fetch(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, prefetch=False)
    gate = upstream.hold(ZIP)
    asked = [asyncio.create_task(get_from(f"127.0.0.{n}", host, ZIP)) for n in (1, 2, 3)]
    await gate.arrived.wait()
    gate.open()
    assert await asyncio.gather(*asked) == [200, 200, 200]
    assert await counts(host) == {(f"127.0.0.{n}", "v1.0.0"): (1, 0) for n in (1, 2, 3)}


async def test_two_clients(serve: Serve, upstream: FakeUpstream) -> None:
    names = parse_client_names(["127.0.0.2=two", "127.0.0.0/24=host"])
    host = await serve(upstream, client_names=names)
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.2"):
        assert await get_from(address, host, ZIP) == 200
        await committed(host)
    assert await get_from("127.0.0.2", host, BIG) == 200
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (1, 0), ("127.0.0.2", "v1.0.0"): (2, 0)}
    page = await fetches(host, f"module={M}&version=v1.0.0&limit=1")
    assert (page["total"], len(page["items"]), page["ledger"]) == (2, 1, "on")
    rest = await fetches(host, f"module={M}&version=v1.0.0&limit=1&cursor={page['next_cursor']}")
    assert {each["name"] for each in page["items"] + rest["items"]} == {"two", "host"}
    assert rest["next_cursor"] is None
    for client in ("127.0.0.2", "two"):
        items = (await fetches(host, f"client={client}"))["items"]
        assert {each["module"] for each in items} == {M, "example.com/big"}
    assert [each["client"] for each in (await fetches(host, "client=host"))["items"]] == ["127.0.0.1"]
    assert (await fetches(host, f"module={M}&version=v0.9.0"))["items"] == []


async def test_a_trusted_proxy_names_the_client(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, trusted_proxies=LOOPBACK)
    for client in ("10.0.0.1", "10.0.0.2"):
        assert (await host.get(ZIP, X_Forwarded_For=client)).status == 200
    assert set(await counts(host)) == {("10.0.0.1", "v1.0.0"), ("10.0.0.2", "v1.0.0")}
    assert (await fetches(host, f"module={M}"))["trusted_proxies"] is True


async def test_who_is_refused(serve: Serve, upstream: FakeUpstream) -> None:
    """By this server, by an upstream; what is absent, malformed or no zip is nobody's business."""
    upstream.on("/example.com/m/@v/v0.9.0.zip", Reply(b"no\n", 403, {"Content-Type": "text/plain"}))
    host = await serve(upstream, deny="example.com/denied", prefetch=False)
    denied = "/example.com/denied/@v/v1.0.0"
    for _ in range(3):
        assert (await host.get(f"{denied}.zip")).status == 403
    assert (await host.get(f"{denied}.zip", method="HEAD")).status == 403
    assert (await host.get(f"{denied}.mod")).status == 403
    assert (await host.get("/example.com/denied/@v/master.zip")).status in (403, 404)
    assert (await host.get(f"/{M}/@v/v0.9.0.zip")).status == 403
    assert (await host.get(f"/{M}/@v/v9.9.9.zip")).status == 404
    assert await counts(host, "example.com/denied") == {("127.0.0.1", "v1.0.0"): (0, 3)}
    assert await counts(host) == {("127.0.0.1", "v0.9.0"): (0, 1)}
    assert (await host.get(ZIP)).status == 200
    await committed(host)
    assert host.settings is not None
    await host.server.reload(replace(host.settings, deny=RULES.parse(M)))
    assert (await host.get(ZIP)).status == 403
    assert (await counts(host))["127.0.0.1", "v1.0.0"] == (1, 1)


async def test_offline(serve: Serve, upstream: FakeUpstream) -> None:
    """What is stored counts as ever; what is not was sent to nobody."""
    first = await serve(upstream)
    assert (await first.get(ZIP)).status == 200
    await first.quiet()
    await first.server.stop()
    host = await serve(upstream, offline=True)
    assert await get_from("127.0.0.2", host, ZIP) == 200
    assert (await host.get(f"/{M}/@v/v0.9.0.zip")).status == 404
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (1, 0), ("127.0.0.2", "v1.0.0"): (1, 0)}


@pytest.mark.parametrize("fast_path", [True, False])
async def test_who_leaves_in_the_middle(serve: Serve, upstream: FakeUpstream, *, fast_path: bool) -> None:
    host = await serve(upstream, fast_path=fast_path)
    assert await get_from("127.0.0.2", host, BIG) == 200
    await committed(host)
    for fields in ((), ("Range: bytes=0-1,4-5",)):
        async with Wire(host.server.url, receive_buffer=4096) as wire:
            wire.ask(BIG, *fields)
            assert (await wire.head()).status == 200
            await wire.reader.readexactly(1000)
        await until(lambda: not len(host.server._connections))
    await until(lambda: not len(host.server._connections))
    assert await counts(host, "example.com/big") == {("127.0.0.2", "v1.0.0"): (1, 0)}


async def test_hashed(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    host = await serve(upstream, ledger="hashed")
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.2"):
        assert await get_from(address, host, ZIP) == 200
    page = await fetches(host, f"module={M}")
    assert (page["total"], page["ledger"]) == (2, "hashed")
    assert {each["client"][0] for each in page["items"]} == {"~"}
    assert (await fetches(host, "client=127.0.0.1"))["total"] == 0
    await host.server.stop()
    assert b"127.0.0." not in (tmp_path / "cache" / NAME).read_bytes()


async def test_off_writes_nothing(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    host = await serve(upstream, ledger="off")
    for _ in range(3):
        assert (await host.get(ZIP)).status == 200
        await committed(host)
    page = await fetches(host, f"module={M}")
    assert (page["items"], page["total"], page["ledger"]) == ([], 0, "off")
    await host.server.stop()
    assert list((tmp_path / "cache").glob(f"{NAME}*")) == []


async def test_a_reload_changes_it(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    assert (await host.get(ZIP)).status == 200
    await committed(host)
    settings = host.settings
    assert settings is not None
    reloaded = await host.server.reload(replace(settings, ledger="off"))
    assert (reloaded.applied, reloaded.restart) == (["ledger"], [])
    assert (await host.get(ZIP)).status == 200
    assert (await fetches(host, f"module={M}"))["ledger"] == "off"
    named = parse_client_names(["127.0.0.1=here"])
    reloaded = await host.server.reload(replace(settings, client_names=named, ledger_keep=60.0))
    assert reloaded.applied == ["ledger", "ledger_keep", "client_names"]
    assert (await host.get(ZIP)).status == 200
    (one,) = (await fetches(host, "client=here"))["items"]
    assert (one["client"], one["name"], one["count"]) == ("127.0.0.1", "here", 2)


async def test_a_restart_keeps_it_and_time_forgets_it(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    host = await serve(upstream)
    assert (await host.get(ZIP)).status == 200
    await host.server.stop()
    host = await serve(upstream)
    assert await host.metric("goproxy_vm_ledger_rows") == 1
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (1, 0)}
    await host.server.stop()
    with closing(sqlite3.connect(tmp_path / "cache" / NAME)) as database:
        database.execute("UPDATE fetches SET first = first - 91 * 86400, last = last - 91 * 86400")
        database.commit()
    host = await serve(upstream)
    assert await counts(host) == {}
    assert (await fetches(host, "client=127.0.0.1"))["total"] == 0


async def test_more_notes_than_there_may_be_and_another_client_is_served(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client pushes all there is room for; another one gets its zip, and is noted. What there really is
    room for takes its time: test_ledger_notes.py fills it."""
    monkeypatch.setattr(notes, "FULL", 1000)
    monkeypatch.setattr(notes, "MOST", 2000)
    host = await serve(upstream, ledger_rows=1000)
    assert await get_from("127.0.0.2", host, ZIP) == 200
    await committed(host)
    ledger = host.server._ledger
    await ledger.flush()
    served = 0
    for n in range(notes.MOST + 100):  # each would take its time over HTTP
        ledger.notes.refused("127.0.0.1", f"example.com/made-up/@v/v1.{n}.0.zip", time.monotonic())
    assert len(ledger.notes) == notes.MOST
    flushing = asyncio.create_task(ledger.flush())
    while not flushing.done():
        assert await get_from("127.0.0.2", host, ZIP) == 200
        served += 1
    await flushing
    assert served > 1
    assert await host.metric("goproxy_vm_ledger_dropped_total") == 100
    assert await host.metric("goproxy_vm_ledger_rows") == 101, "a tenth of what there may be, and who got it"
    assert (await counts(host))["127.0.0.2", "v1.0.0"] == (1 + served, 0)


async def test_a_file_that_cannot_be_written(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No request fails by it, and the server starts."""
    (tmp_path / "cache" / "modules").mkdir(parents=True)
    (tmp_path / "cache" / NAME).mkdir()
    host = await serve(upstream)
    for _ in range(3):
        assert (await host.get(ZIP)).status == 200
        await committed(host)
        await host.server._ledger.flush()
    assert await host.metric("goproxy_vm_ledger_dropped_total") == 3
    assert sum(record.getMessage() == "ledger not written" for record in caplog.records) == 1
    assert (await host.admin("/readyz")).text == "ready\n"
    (tmp_path / "cache" / NAME).rmdir()
    assert (await host.get(ZIP)).status == 200
    assert await counts(host) == {("127.0.0.1", "v1.0.0"): (1, 0)}
