"""Files that are fetched before a VM asks for them, and those that are not."""

from __future__ import annotations

import asyncio

import pytest

from goproxy_vm.admin.operations import Operations
from goproxy_vm.config.values import Amount
from goproxy_vm.protocol.loop import new_name
from goproxy_vm.protocol.request import Endpoint, ModuleResource
from goproxy_vm.proxy.prefetch import Prefetch
from goproxy_vm.traffic import backlog
from tests.fakes.lines import logged
from tests.fakes.modules import build_zip
from tests.fakes.tasks import ended
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Serve

M, V = "example.com/m", "v1.0.0"
INFO, MOD, ZIP = (f"/{M}/@v/{V}.{kind}" for kind in ("info", "mod", "zip"))


@pytest.mark.parametrize("fast_path", [True, False])
async def test_as_go_mod_download_asks(serve: Serve, upstream: FakeUpstream, fast_path: bool) -> None:
    host = await serve(upstream, fast_path=fast_path)
    await host.get(MOD)
    await host.quiet()
    assert (upstream.count(INFO), upstream.count(ZIP)) == (1, 0)
    assert (await host.get(INFO)).headers["Cache-Status"] == "goproxy-vm; hit"
    await host.quiet()
    assert (upstream.count(INFO), upstream.count(ZIP)) == (1, 1)
    got = await host.get(ZIP)
    assert (got.body, got.headers["Cache-Status"]) == (upstream.files[ZIP], "goproxy-vm; hit")
    assert upstream.count(ZIP) == 1


async def test_an_info_that_is_missing_after_all(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    upstream.on(INFO, Reply(b"", 500))
    await host.get(MOD)
    await host.quiet()
    upstream.forget_rules()
    assert (await host.get(INFO)).status == 200
    await host.quiet()
    assert upstream.count(ZIP) == 1


@pytest.mark.parametrize("path", [MOD, INFO, ZIP, f"/{M}/@latest"])
async def test_not_for_another_server_that_does_so_itself(
    serve: Serve, upstream: FakeUpstream, path: str
) -> None:
    host = await serve(upstream)
    assert (await host.get(path, CDN_Loop=new_name())).status == 200
    await host.quiet()
    of_itself = {path, MOD}  # what a client asks for next is begun with it
    assert {each for each in (INFO, MOD, ZIP) if upstream.count(each)} <= of_itself


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("how", ["/cached-only", "Disable-Module-Fetch"])
async def test_not_for_who_forbids_it(
    serve: Serve, upstream: FakeUpstream, fast_path: bool, how: str
) -> None:
    host = await serve(upstream, fast_path=fast_path)
    await host.get(MOD)
    await host.quiet()
    if how == "/cached-only":
        got = await host.get(how + INFO)
    else:
        got = await host.get(INFO, Disable_Module_Fetch="true")
    assert got.status == 200
    await host.quiet()
    assert upstream.count(ZIP) == 0
    await host.get(INFO)
    await host.quiet()
    assert upstream.count(ZIP) == 1


async def test_a_look_for_newer_versions_announces_none(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    for _ in range(2):
        for path in (f"/{M}/@v/list", INFO, MOD):  # the second time all are hits
            await host.get(path)
    await host.quiet()
    assert upstream.count(ZIP) == 0


async def test_switched_off(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, prefetch=False)
    await host.get(MOD)
    await host.get(INFO)
    await host.quiet()
    assert upstream.count(ZIP) == 0


async def test_who_asks_meanwhile_joins(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, stall_timeout=30.0)
    gate = upstream.hold(ZIP)
    await host.get(MOD)
    await host.get(INFO)
    await gate.arrived.wait()
    asking = asyncio.create_task(host.get(ZIP))
    while not (flight := host.server.proxy._files._flights.get(ZIP[1:])) or flight.waiters < 2:
        await asyncio.sleep(0)
    gate.open()
    assert (await asking).body == upstream.files[ZIP]
    assert upstream.count(ZIP) == 1
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="collapsed"}') == 1


async def test_nothing_is_evicted_for_it(serve: Serve, upstream: FakeUpstream) -> None:
    large = build_zip("example.com/large", V, {"go.mod": b"module example.com/large\n", "d": b"x" * 900_000})
    upstream.add_module("example.com/large", V, zipped=large)
    host = await serve(upstream, max_size=Amount(1 << 20, None), low_water=0.1, high_water=99.0)
    await host.get(f"/example.com/large/@v/{V}.zip")
    await host.quiet()
    await host.get(MOD)
    await host.get(INFO)
    await host.quiet()
    assert upstream.count(ZIP) == 0


async def test_its_failure_is_nobodys(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    upstream.on(ZIP, Reply(b"", 500))
    await host.get(MOD)
    assert (await host.get(INFO)).status == 200
    await host.quiet()
    assert upstream.count(ZIP) > 0
    upstream.forget_rules()
    assert (await host.get(ZIP)).status == 200


async def test_what_is_known_to_be_absent_is_not_asked_for(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    upstream.on(ZIP, Reply(b"", 404))
    assert (await host.get(ZIP)).status == 404
    await host.quiet()
    asked = upstream.count(ZIP)
    await host.get(INFO)  # its .mod came with the zip that was asked for
    await host.quiet()
    assert upstream.count(ZIP) == asked


async def test_a_purge_recalls_it(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "AT_ONCE", 1)
    upstream.add_module("example.com/first", V)
    host = await serve(upstream, stall_timeout=30.0)
    gate = upstream.hold(f"/example.com/first/@v/{V}.zip")
    for module in ("example.com/first", M):
        await host.get(f"/{module}/@v/{V}.mod")
        await host.get(f"/{module}/@v/{V}.info")
    await gate.arrived.wait()
    assert list(host.server.proxy._prefetch._zips.announced) == [ZIP[1:]]
    await Operations(host.server.store, host.server.proxy, "0", lambda: 0).purge_module(M)
    gate.open()
    await host.quiet()
    assert upstream.count(ZIP) == 0


async def test_a_purge_forgets_what_was_not_asked_for_yet(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(MOD)
    await host.quiet()
    await Operations(host.server.store, host.server.proxy, "0", lambda: 0).purge_module(M)
    await host.get(INFO)  # starts the .mod, and announces nothing
    await host.quiet()
    assert upstream.count(ZIP) == 0


async def test_what_is_asked_for_late_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST", 2)
    fetched: list[str] = []

    async def fetch(resource: ModuleResource) -> bool:
        fetched.append(resource.path)
        return True

    ahead = Prefetch(fetch, zips=True)
    for number in range(3):
        ahead.complete(M, f"v1.0.{number}")
        await ended("backlog")
    for number in range(3):
        ahead.hit(ModuleResource(M, Endpoint.INFO, f"v1.0.{number}").path)
    await ended("backlog")
    assert fetched[3:] == [f"{M}/@v/v1.0.1.zip", f"{M}/@v/v1.0.2.zip"]


async def test_what_is_announced_twice_is_still_news() -> None:
    """While it is being fetched ahead, or when it was: by a zip behind its .mod, by an @latest."""
    fetched: list[str] = []
    free = asyncio.Event()

    async def fetch(resource: ModuleResource) -> bool:
        if resource.path in fetched:
            return False
        fetched.append(resource.path)
        await free.wait()
        return True

    ahead = Prefetch(fetch, zips=True)
    for version in ("v1.0.0", "v1.0.0", "v1.0.1"):
        ahead.complete(M, version)
        await asyncio.sleep(0)
    free.set()
    await ended("backlog")
    ahead.complete(M, "v1.0.1")
    await ended("backlog")
    for version in ("v1.0.0", "v1.0.1"):
        ahead.hit(ModuleResource(M, Endpoint.INFO, version).path)
    await ended("backlog")
    assert fetched[2:] == [f"{M}/@v/v1.0.0.zip", f"{M}/@v/v1.0.1.zip"]


async def test_so_many_at_once_and_so_many_in_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog, "MOST", 10)
    begun: list[str] = []
    free = asyncio.Event()

    async def fetch(resource: ModuleResource) -> bool:
        begun.append(resource.path)
        await free.wait()
        if len(begun) == 6:
            raise ValueError("a bug")
        return True

    ahead = Prefetch(fetch, zips=True)
    for number in range(20):
        ahead.after_info(M, f"v1.0.{number}")
        await asyncio.sleep(0)
    assert len(begun) == backlog.AT_ONCE
    free.set()
    await ended("backlog")
    assert begun == [f"{M}/@v/v1.0.{number}.zip" for number in range(14)]
    assert "background fetch failed" in logged(caplog)
    free.clear()
    ahead.after_info(M, V)
    await asyncio.sleep(0)
    await ahead.close()
    assert len(begun) == 15
