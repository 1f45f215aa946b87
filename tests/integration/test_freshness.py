"""How long answers are good for, how many fetches they cost, and what bounds those."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import time
from typing import Any

import pytest

from goproxy_vm import server as server_module
from goproxy_vm.proxy.proxy import Proxy
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import until
from tests.integration.conftest import Got, Host, Serve

M = "/example.com/m"
DOCUMENTS = [f"{M}/@v/list", f"{M}/@latest", f"{M}/@v/master.info"]
HIT = "goproxy-vm; hit"
MISS = "goproxy-vm; fwd=uri-miss; stored"
STALE = "goproxy-vm; hit; detail=stale"
BUILT = "goproxy-vm; hit; detail=built-from-stored-versions"
OFFLINE = "not stored here, and this server asks no upstream (setting offline)"


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """Servers without the short cut, which goes by a clock that no test moves."""
    return functools.partial(serve, fast_path=False)


class Clock:
    """Both clocks, which tests may move."""

    def __init__(self) -> None:
        self.wall_offset = 0.0
        self.monotonic_offset = 0.0

    def wall(self) -> float:
        return time.time() + self.wall_offset

    def monotonic(self) -> float:
        return time.monotonic() + self.monotonic_offset

    def advance(self, seconds: float) -> None:
        """Let time pass, for both."""
        self.wall_offset += seconds
        self.monotonic_offset += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    timed = functools.partial(Proxy, wall=made.wall, monotonic=made.monotonic)
    monkeypatch.setattr(server_module, "Proxy", timed)
    return made


@pytest.fixture
def upstream(upstream: FakeUpstream) -> FakeUpstream:
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"v1.0.0"}'
    return upstream


def status(got: Got) -> str:
    return got.headers["Cache-Status"]


def age(got: Got) -> int:
    return int(got.headers["Cache-Control"].removeprefix("public, max-age="))


# Fresh, then revalidated, then stale


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_fresh_for_a_minute(serve: Serve, upstream: FakeUpstream, clock: Clock, path: str) -> None:
    host = await serve(upstream)
    first = await host.get(path)
    assert (status(first), age(first)) == (MISS, 60)
    clock.advance(30)
    again = await host.get(path)
    assert (status(again), again.body) == (HIT, first.body)
    assert age(again) in (29, 30)
    clock.advance(31)
    assert status(await host.get(path)) == MISS
    assert upstream.count(path) == 2


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_revalidated_once_however_many_ask(
    serve: Serve, upstream: FakeUpstream, clock: Clock, path: str
) -> None:
    host = await serve(upstream, stall_timeout=10.0)
    await host.get(path)
    clock.advance(61)
    gate = upstream.hold(path)
    asking = [asyncio.create_task(host.get(path)) for _ in range(20)]
    await gate.arrived.wait()
    await host.get("/healthz")  # all are under way
    gate.open()
    answers = await asyncio.gather(*asking)
    assert {got.status for got in answers} == {200}
    assert upstream.count(path) == 2
    assert [status(got) for got in answers].count(MISS) == 1
    assert {status(got) for got in answers} <= {MISS, HIT, "goproxy-vm; fwd=uri-miss; collapsed"}


async def test_a_new_version_shows_after_a_minute(serve: Serve, upstream: FakeUpstream, clock: Clock) -> None:
    host = await serve(upstream)
    old = (await host.get(f"{M}/@v/list")).body
    upstream.add_module("example.com/m", "v1.1.0")
    assert (await host.get(f"{M}/@v/list")).body == old
    clock.advance(61)
    assert (await host.get(f"{M}/@v/list")).body == old + b"v1.1.0\n"


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        *itertools.product(DOCUMENTS, [Reply(b"", 500), Reply(b"", 403), Reply(b"", length=5, send=0)]),
        *itertools.product(DOCUMENTS[1:], [Reply(b"<html>"), Reply(b'{"Version":"master"}')]),
    ],
)
async def test_stale_when_the_upstream_fails(
    serve: Serve, upstream: FakeUpstream, clock: Clock, path: str, reply: Reply
) -> None:
    host = await serve(upstream)
    first = await host.get(path)
    upstream.on("*", reply)
    clock.advance(3600)
    got = await host.get(path)
    assert (status(got), got.body, age(got)) == (STALE, first.body, 0)
    assert await host.metric('goproxy_vm_requests_total{endpoint="') >= 2
    assert 'result="stale"} 1' in (await host.admin("/metrics")).text
    clock.advance(7 * 86400)
    failed = await host.get(path)
    assert failed.status == (403 if reply.status == 403 else 502)
    assert failed.headers["Cache-Control"] == "no-store"
    upstream.forget_rules()
    clock.advance(3600)
    assert status(await host.get(path)) == MISS


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_absence_outdates_what_is_stored(
    serve: Serve, upstream: FakeUpstream, clock: Clock, path: str
) -> None:
    host = await serve(upstream)
    await host.get(path)
    clock.advance(61)
    upstream.on(path, Reply(b"", 410))
    assert (await host.get(path)).status == 404
    upstream.on(path, Reply(b"", 500))
    clock.advance(61)
    # Nothing stale is left, but the upstream's last word.
    assert (await host.get(path)).status == 404


@pytest.mark.parametrize("seconds", [-86400.0, 86400.0])
async def test_a_wall_clock_that_jumps(
    serve: Serve, upstream: FakeUpstream, clock: Clock, seconds: float
) -> None:
    host = await serve(upstream)
    path = f"{M}/@v/list"
    await host.get(path)
    clock.wall_offset += seconds
    assert status(await host.get(path)) == MISS  # of unknown age: asked again
    upstream.on("*", Reply(b"", 500))
    assert status(await host.get(path)) == STALE
    assert (await host.get(f"{M}/@v/none.info")).status == 502


async def test_files_are_fresh_for_ever(serve: Serve, upstream: FakeUpstream, clock: Clock) -> None:
    host = await serve(upstream)
    for extension in ("info", "mod", "zip"):
        await host.get(f"{M}/@v/v1.0.0.{extension}")
    clock.advance(400 * 86400)
    upstream.on("*", Reply(b"", 500))
    for extension in ("info", "mod", "zip"):
        assert status(await host.get(f"{M}/@v/v1.0.0.{extension}")) == HIT


# Absence


@pytest.mark.parametrize("code", [404, 410])
@pytest.mark.parametrize("path", [*DOCUMENTS, f"{M}/@v/v1.0.0.zip", f"{M}/@v/v1.0.0.mod"])
async def test_absence_is_remembered_for_a_minute(
    serve: Serve, upstream: FakeUpstream, clock: Clock, path: str, code: int
) -> None:
    host = await serve(upstream)
    upstream.on(path, Reply(b"no such thing\n", code, {"Content-Type": "text/plain"}))
    first = await host.get(path)
    assert (first.status, age(first)) == (404, 60)
    clock.advance(30)
    clock.wall_offset -= 86400  # the wall clock has no say
    again = await host.get(path)
    assert again.status == 404
    assert "no such thing" in again.text
    assert upstream.count(path) == 1
    upstream.forget_rules()
    clock.advance(31)
    assert (await host.get(path)).status == 200


async def test_failure_is_not_remembered(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    for path in (*DOCUMENTS, f"{M}/@v/v1.0.0.mod", f"{M}/@v/v1.0.0.zip"):
        for reply in (Reply(b"", 403), Reply(b"", 500)):
            upstream.on(path, reply, times=1)
            assert (await host.get(path)).status in (403, 502)
        assert (await host.get(path)).status == 200


# Without upstreams


async def test_offline(serve: Serve, upstream: FakeUpstream, clock: Clock) -> None:
    online = await serve(upstream)
    for path in (*DOCUMENTS, *(f"{M}/@v/v1.0.0.{each}" for each in ("info", "mod", "zip"))):
        assert (await online.get(path)).status == 200
    for extension in ("info", "mod", "zip"):
        await online.get(f"{M}/@v/v0.9.0.{extension}")
    upstream.add_module("example.com/other", "v1.0.0")
    for extension in ("info", "mod", "zip"):
        await online.get(f"/example.com/other/@v/v1.0.0.{extension}")
    await online.server.stop()
    seen = len(upstream.requests)
    host = await serve(upstream, offline=True)
    for days in (0, 6):
        clock.advance(days * 86400)
        for path in DOCUMENTS[1:]:
            got = await host.get(path)
            assert (got.status, status(got), age(got)) == (200, STALE, 0)
        for module, versions in ((M, b"v0.9.0\nv1.0.0\n"), ("/example.com/other", b"v1.0.0\n")):
            got = await host.get(f"{module}/@v/list")
            assert (got.body, age(got), status(got)) == (versions, 0, BUILT)
    got = await host.get("/example.com/other/@latest")
    assert (json.loads(got.body)["Version"], age(got), status(got)) == ("v1.0.0", 0, BUILT)
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).body == upstream.files[f"{M}/@v/v1.0.0.zip"]
    for path in (
        "/example.com/none/@v/list",
        "/example.com/none/@latest",
        f"{M}/@v/branch.info",
        f"{M}/@v/v3.0.0+incompatible.zip",
    ):
        got = await host.get(path)
        assert (got.status, OFFLINE in got.text) == (404, True)
        # Whether the request may fetch does not matter then.
        assert OFFLINE in (await host.get(f"/cached-only{path}")).text
    assert len(upstream.requests) == seen


# Misses


async def test_a_miss_starts_the_mod_but_no_zip(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(f"{M}/@v/v1.0.0.info")
    await until(lambda: upstream.count("*.mod") == 1)
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    assert sorted(upstream.requests) == [f"{M}/@v/v1.0.0.info", f"{M}/@v/v1.0.0.mod"]
    await host.get(f"{M}/@v/v0.9.0.zip")
    await until(lambda: upstream.count("*.mod") == 2)
    for path in DOCUMENTS:
        await host.get(path)
    assert upstream.count("*.mod") == 2
    assert upstream.count("*.zip") == 1


async def test_a_mod_known_to_be_absent_is_not_started(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    upstream.on("*.mod", Reply(b"", 404))
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 404
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).status == 200
    assert upstream.count("*.mod") == 1


async def hold_all(host: Host, upstream: FakeUpstream, count: int) -> list[asyncio.Task[Got]]:
    """Ask for ``count`` queries that the upstream holds; returns when no more fetches begin."""
    upstream.hold("*/branch*")
    asking = [asyncio.create_task(host.get(f"{M}/@v/branch{n}.info")) for n in range(count)]
    await until(lambda: upstream.count("*/branch*") >= 2)
    await host.get("/healthz")
    return asking


async def cancel(tasks: list[asyncio.Task[Got]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_misses_are_bounded_and_hits_go_on(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, max_misses=8, stall_timeout=30.0, shutdown_timeout=0.0)  # two for us
    await host.get(f"{M}/@v/v1.0.0.mod")
    await host.get(f"{M}/@v/list")
    asking = await hold_all(host, upstream, 10)
    async with asyncio.timeout(5):
        for _ in range(20):
            assert status(await host.get(f"{M}/@v/v1.0.0.mod")) == HIT
            assert status(await host.get(f"{M}/@v/list")) == HIT
            assert (await host.get(f"/cached-only{M}/@v/v1.0.0.zip")).status == 404
            assert (await host.get("/readyz")).status == 200
    assert upstream.count("*/branch*") == 2
    assert not any(task.done() for task in asking)
    await cancel(asking)


async def test_waiting_misses_have_their_turn(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, max_misses=2, stall_timeout=30.0)
    for n in range(10):
        upstream.files[f"{M}/@v/branch{n}.info"] = json.dumps({"Version": "v1.0.0", "N": n}).encode()
    gate = upstream.hold("*/branch*")
    asking = [asyncio.create_task(host.get(f"{M}/@v/branch{n}.info")) for n in range(10)]
    await gate.arrived.wait()
    gate.open()
    answers = await asyncio.gather(*asking)
    assert [json.loads(got.body)["N"] for got in answers] == list(range(10))


async def test_no_slot_in_time(serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Proxy] = []

    def keep(*args: Any) -> Proxy:
        made.append(Proxy(*args))
        return made[-1]

    monkeypatch.setattr(server_module, "Proxy", keep)
    host = await serve(upstream, max_misses=1, total_timeout=0.3)
    async with made[0].routing.of("example.com/m").slots.claim("another client").hold(60):
        for path in (f"{M}/@v/list", f"{M}/@v/v1.0.0.zip"):
            got = await host.get(path)
            assert (got.status, got.headers["Retry-After"]) == (503, "5")
            assert "no slot for a fetch came free within 0.3 s" in got.text
        assert upstream.requests == []
    assert (await host.get(f"{M}/@v/list")).status == 200


async def test_an_older_answer_rather_than_no_slot(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Proxy] = []

    def keep(*args: Any) -> Proxy:
        made.append(Proxy(*args))
        return made[-1]

    monkeypatch.setattr(server_module, "Proxy", keep)
    host = await serve(upstream, max_misses=1, total_timeout=0.3, fresh=0.0)
    first = await host.get(f"{M}/@v/list")
    async with made[0].routing.of("example.com/m").slots.claim("another client").hold(60):
        got = await host.get(f"{M}/@v/list")
        assert (got.status, got.body, status(got)) == (200, first.body, STALE)


@pytest.mark.parametrize("path", [f"{M}/@v/list", f"{M}/@v/v1.0.0.zip", f"{M}/@v/master.info"])
async def test_total_timeout(serve: Serve, upstream: FakeUpstream, path: str) -> None:
    host = await serve(upstream, total_timeout=0.3, stall_timeout=30.0)
    upstream.hold(path)
    got = await host.get(path)
    assert got.status == 504
    assert "not fetched within 0.3 s (setting total_timeout)" in got.text
    assert "Retry-After" not in got.headers
    upstream.forget_rules()
    assert (await host.get(path)).status == 200
