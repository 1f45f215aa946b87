"""What is stored is enough: upstreams fail in every way, and what a build needs is answered all the same."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm import server as server_module
from goproxy_vm.cache.facts import Selection
from goproxy_vm.proxy import fetching
from goproxy_vm.proxy.proxy import Proxy
from goproxy_vm.traffic import absence
from goproxy_vm.upstream.backoff import LONGEST, MOST_RETRY_AFTER
from goproxy_vm.upstream.upstream import Pace
from tests.fakes.ports import closed_port
from tests.fakes.stores import Time
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Got, Serve

M, OTHER = "/example.com/m", "/example.com/other"
INFO, MOD, ZIP = (f"{M}/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip"))
LIST, LATEST = f"{M}/@v/list", f"{M}/@latest"
ABSENT = f"{M}/cmd/tool/@v/v1.0.0.info"
FROM_MOD = "goproxy-vm; hit; detail=built-from-stored-mod"
FROM_VERSIONS = "goproxy-vm; hit; detail=built-from-stored-versions"
STALE = "goproxy-vm; hit; detail=stale"
DEATHS = [
    pytest.param(Reply(b"", 500), id="500"),
    pytest.param(Reply(b"", 503, {"Retry-After": "600"}), id="503"),
    pytest.param(Reply(b"not for you\n", 403, {"Content-Type": "text/plain"}), id="403"),
    pytest.param(Reply(b"x", length=5, send=0, then="reset"), id="reset"),
    pytest.param(Reply(b"x", length=5, send=0, then="stall"), id="silent"),
]


@pytest.fixture
def later() -> Time:
    """The clock by which upstreams are backed off from."""
    return Time()


@pytest.fixture
def serve(serve: Serve, later: Time) -> Serve:
    """Servers that hold on to nothing, and retry at once."""
    pace = Pace(now=later, jitter=lambda: -0.5)
    return functools.partial(serve, pace=pace, fresh=0.0, negative=0.0, stall_timeout=0.2)


class Clock:
    """Wall time, which tests may move."""

    offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(server_module, "Proxy", functools.partial(Proxy, wall=made))
    return made


def status(got: Got) -> str:
    return got.headers["Cache-Status"]


# What is fetched of a version brings its .info, and where there is none its .mod will do.


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("asked", [(ZIP, MOD), (MOD,), (ZIP,)])
async def test_whatever_is_fetched_brings_the_info(
    serve: Serve, upstream: FakeUpstream, asked: tuple[str, ...], prefetch: bool
) -> None:
    host = await serve(upstream, prefetch=prefetch)
    for path in asked:
        assert (await host.get(path)).status == 200
    await host.quiet()
    upstream.on("*", Reply(b"", 500))
    got = await host.get(INFO)
    assert (got.body, status(got)) == (upstream.files[INFO], "goproxy-vm; hit")
    assert upstream.count(INFO) == 1


@pytest.mark.parametrize("path", [LATEST, f"{M}/@v/master.info"])
async def test_a_version_that_is_named_brings_its_info(
    serve: Serve, upstream: FakeUpstream, path: str
) -> None:
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"v1.0.0"}'
    host = await serve(upstream)
    await host.get(path)
    await host.quiet()
    assert (upstream.count(INFO), upstream.count("*.zip")) == (1, 0)


async def test_a_pseudo_version_tells_its_time(serve: Serve, upstream: FakeUpstream) -> None:
    version = "v1.0.1-0.20240319094008-0393e58bdf10"
    upstream.add_module("example.com/m", version)
    upstream.on("*.info", Reply(b"", 500))
    host = await serve(upstream)
    await host.get(f"{M}/@v/{version}.mod")
    got = await host.get(f"{M}/@v/{version}.info")
    assert json.loads(got.body) == {"Version": version, "Time": "2024-03-19T09:40:08Z"}


async def test_a_full_cache_is_no_reason_not_to(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, low_water=1.0, high_water=99.0)
    for _ in range(2):
        host.server.store.admission.limits = type(host.server.store.admission.limits)(1 << 30, low=0, high=1)
    assert not host.server.store.roomy
    await host.get(ZIP)
    await host.quiet()
    assert upstream.count(INFO) == 1


@pytest.mark.parametrize("reply", [*DEATHS, pytest.param(Reply(b"", 404), id="404")])
async def test_an_info_without_upstream_follows_from_the_mod(
    serve: Serve, upstream: FakeUpstream, reply: Reply, later: Time
) -> None:
    upstream.on("*.info", reply)
    host = await serve(upstream)
    await host.get(MOD)
    await host.quiet()
    for _ in range(2):
        got = await host.get(INFO)
        assert (got.status, json.loads(got.body), status(got)) == (200, {"Version": "v1.0.0"}, FROM_MOD)
        assert got.headers["Cache-Control"] == "public, max-age=0"
    upstream.forget_rules()
    later.offset += MOST_RETRY_AFTER  # the back-off is over
    got = await host.get(INFO)  # it was never stored as the upstream's
    assert (got.body, status(got)) == (upstream.files[INFO], "goproxy-vm; fwd=uri-miss; stored")


async def test_an_info_offline_follows_from_the_mod(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.on("*.info", Reply(b"", 500))
    online = await serve(upstream)
    await online.get(MOD)
    await online.quiet()
    await online.server.stop()
    host = await serve(upstream, offline=True)
    got = await host.get(INFO)
    assert (got.status, json.loads(got.body), status(got)) == (200, {"Version": "v1.0.0"}, FROM_MOD)
    assert (await host.get(f"{M}/@v/v0.9.0.info")).status == 404


async def test_a_purged_version_has_no_info(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(ZIP)
    await host.quiet()
    await host.server.operations.purge_version("example.com/m", "v1.0.0")
    upstream.on("*", Reply(b"", 404))
    assert (await host.get(INFO)).status == 404


# Absence outlives its time where upstreams cannot be asked.


@pytest.mark.parametrize("reply", DEATHS)
@pytest.mark.parametrize("path", [ABSENT, f"{M}/cmd/@v/list", f"{M}/cmd/@latest", f"{M}/@v/v1.9.0.zip"])
async def test_absence_is_kept(serve: Serve, upstream: FakeUpstream, reply: Reply, path: str) -> None:
    host = await serve(upstream)
    before = await host.get(path)
    assert before.status == 404
    upstream.on("*", reply)
    got = await host.get(path)
    assert got.status == 404
    assert "no such module" in got.text
    assert (await host.get("/example.com/never/@v/list")).status in (403, 502, 503, 504)
    upstream.forget_rules()
    await host.server.stop()
    again = await serve("http://127.0.0.1:1")
    assert (await again.get(path)).status == 404


async def test_absence_is_asked_for_again_where_it_can_be(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    for _ in range(2):
        assert (await host.get(ABSENT)).status == 404
    assert upstream.count(ABSENT) == 2


async def test_absence_is_not_kept_for_ever(serve: Serve, upstream: FakeUpstream, clock: Clock) -> None:
    host = await serve(upstream, stale=3600.0)
    assert (await host.get(ABSENT)).status == 404
    upstream.on("*", Reply(b"", 500))
    clock.offset = 3599
    assert (await host.get(ABSENT)).status == 404
    clock.offset = 3600
    assert (await host.get(ABSENT)).status == 502


@pytest.mark.parametrize("operation", ["refresh", "purge_module"])
async def test_operators_can_have_it_forgotten(serve: Serve, upstream: FakeUpstream, operation: str) -> None:
    host = await serve(upstream)
    for path in (f"{M}/cmd/@v/list", LIST):
        await host.get(path)
    done: Any = await getattr(host.server.operations, operation)("example.com/m/cmd")
    assert (done if operation == "refresh" else done.answers) == 1
    upstream.on("*", Reply(b"", 500))
    assert (await host.get(f"{M}/cmd/@v/list")).status == 502
    assert (await host.get(LIST)).status == 200


async def test_absences_that_are_in_memory_alone_are_counted(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, stale=0.0, negative=60.0)
    for path in (f"{M}/cmd/@v/list", f"{M}/cmd/@latest", f"{M}/other/@v/list"):
        assert (await host.get(path)).status == 404
    assert await host.server.operations.refresh("example.com/m/cmd") == 2
    assert await host.server.operations.refresh("example.com/m/cmd") == 0


async def test_absence_found_by_a_fetch_of_before_is_not_kept(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, stall_timeout=30.0, negative=60.0)
    gate = upstream.hold(f"{M}/cmd/@v/list")
    asking = asyncio.create_task(host.get(f"{M}/cmd/@v/list"))
    await gate.arrived.wait()
    await host.server.operations.refresh("example.com/m/cmd")
    gate.open()
    assert (await asking).status == 404
    assert (await host.get(f"{M}/cmd/@v/list")).status == 404
    assert upstream.count(f"{M}/cmd/@v/list") == 2


async def test_absence_kept_is_bounded(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "MOST", 10)
    monkeypatch.setattr(absence, "TURN", 4)
    host = await serve(upstream)
    await host.get(LIST)
    for n in range(40):
        await host.get(f"{M}/sub{n}/@v/list")
    answers, _ = await host.server.store.answers.size()
    assert answers <= 1 + 10 + 4
    upstream.on("*", Reply(b"", 500))
    assert (await host.get(f"{M}/sub39/@v/list")).status == 404
    assert (await host.get(f"{M}/sub0/@v/list")).status == 502
    assert (await host.get(LIST)).status == 200


# A copy goes out at once where upstreams are silent.


async def test_nobody_waits_for_an_upstream_that_failed(serve: Serve, upstream: FakeUpstream) -> None:
    paths = [LIST, LATEST, f"{M}/@v/v1.0.0.info", ABSENT]
    host = await serve(upstream, stall_timeout=30.0)
    for path in paths:
        await host.get(path)
    await host.quiet()
    upstream.on("*", Reply(b"", 503, {"Retry-After": "600"}))
    assert status(await host.get(LIST)) == STALE
    seen = len(upstream.requests)
    for path in paths:
        assert (await host.get(path)).status in (200, 404)
    assert len(upstream.requests) == seen  # backed off from


async def test_one_looks_whether_it_is_back(serve: Serve, upstream: FakeUpstream, later: Time) -> None:
    host = await serve(upstream, stall_timeout=30.0)
    for path in (LIST, LATEST):
        await host.get(path)
    await host.quiet()
    upstream.on("*", Reply(b"", 503))
    await host.get(LIST)
    upstream.add_module("example.com/m", "v1.1.0")
    gate = upstream.hold("*")
    later.offset += LONGEST  # the back-off is over
    seen = len(upstream.requests)
    finding_out = asyncio.create_task(host.get(LIST))
    await gate.arrived.wait()
    for _ in range(5):
        assert status(await host.get(LIST)) == STALE
        assert status(await host.get(LATEST)) == STALE
    assert status(await finding_out) == STALE, "it has patience, but not for long"
    assert len(upstream.requests) == seen + 1
    upstream.forget_rules()
    gate.open()
    await host.quiet()
    assert b"v1.1.0" in (await host.get(LIST)).body


async def test_what_has_changed_since_is_seen_once_the_back_off_is_over(
    serve: Serve, upstream: FakeUpstream, later: Time
) -> None:
    """One failure leaves no copy and no absence in force beyond it: whoever asks after that finds out."""
    host = await serve(upstream, fresh=0.0, negative=0.0)
    new = "/example.com/m/@v/v1.9.0.info"
    assert (await host.get(LIST)).status == 200
    assert (await host.get(new)).status == 404
    upstream.on("*", Reply(b"", 503))
    assert (await host.get("/example.com/other/@v/list")).status == 502
    upstream.forget_rules()
    upstream.add_module("example.com/m", "v1.9.0")
    later.offset += LONGEST  # the back-off is over
    assert (await host.get(new)).status == 200
    upstream.on("*", Reply(b"", 503))
    assert (await host.get("/example.com/other/@v/list")).status == 502
    upstream.forget_rules()
    later.offset += LONGEST
    assert b"v1.9.0" in (await host.get(LIST)).body


@pytest.mark.parametrize("separator", [",", "|"])
async def test_an_upstream_that_is_up_is_asked_whatever_became_of_a_later_one(
    serve: Serve, upstream: FakeUpstream, separator: str
) -> None:
    host = await serve(
        f"{upstream.url}{separator}http://127.0.0.1:{closed_port()}",
        fresh=0.0,
        negative=0.0,
        stall_timeout=0.5,
    )
    new = "/example.com/m/@v/v1.9.0.info"
    assert (await host.get(LIST)).status == 200
    assert (await host.get(new)).status == 404
    upstream.add_module("example.com/m", "v1.9.0")
    assert (await host.get(new)).status == 200
    assert b"v1.9.0" in (await host.get(LIST)).body


@pytest.mark.parametrize("separator", [",", "|"])
async def test_a_404_of_the_first_hides_nothing_that_the_second_had(
    serve: Serve, upstream: FakeUpstream, separator: str
) -> None:
    """The second is dead: what it said last is served, time after time; nothing is absent for good."""
    async with FakeUpstream() as second:
        second.add_module("example.com/private", "v1.0.0")
        host = await serve(
            f"{upstream.url}{separator}{second.url}", fresh=0.0, negative=0.0, stall_timeout=0.5
        )
        paths = ("/example.com/private/@v/list", "/example.com/private/@latest")
        for path in paths:
            assert (await host.get(path)).status == 200
    for _ in range(3):
        for path in paths:
            got = await host.get(path)
            assert (got.status, b"v1.0.0" in got.body) == (200, True)
    unknown = await host.get("/example.com/private/@v/v1.0.0.zip")
    assert unknown.status == 404
    kept = await host.server.store.answers.keys("absent/")
    assert "absent/example.com/private/@v/v1.0.0.zip" not in (kept or [])


async def test_patience_with_a_silent_upstream(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.05)
    host = await serve(upstream, stall_timeout=60.0, shutdown_timeout=0.0)
    for path in (LIST, LATEST, ZIP):
        await host.get(path)
    await host.quiet()
    gate = upstream.hold("*")
    assert status(await host.get(LIST)) == STALE
    assert status(await host.get(LATEST)) == STALE
    built = asyncio.create_task(host.get(f"{M}/@v/v0.9.0.info"))  # never asked for: there is nothing else
    await host.get(LIST)
    gate.open()
    assert status(await built) == "goproxy-vm; fwd=uri-miss; stored"
    await host.quiet()
    upstream.add_module("example.com/m", "v1.1.0")
    got = await host.get(LIST)
    assert (b"v1.1.0" in got.body, status(got)) == (True, "goproxy-vm; fwd=uri-miss; stored")


async def test_slow_is_no_reason_to_make_up_a_list(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.01)
    host = await serve(upstream, stall_timeout=60.0)
    await host.get(ZIP)
    await host.quiet()
    gate = upstream.hold(LIST)
    asking = asyncio.create_task(host.get(LIST))
    await gate.arrived.wait()
    assert (await host.get("/healthz")).status == 200
    gate.open()
    assert (await asking).body == upstream.files[LIST]


async def test_slow_is_no_reason_to_believe_an_old_absence(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.01)
    host = await serve(upstream, stall_timeout=60.0)
    new = f"{M}/@v/v1.1.0.mod"
    assert (await host.get(new)).status == 404
    await host.get(LIST)
    upstream.add_module("example.com/m", "v1.1.0")
    gates = [upstream.hold(path) for path in (LIST, new)]
    assert status(await host.get(LIST)) == STALE  # and patience has run out
    asking = asyncio.create_task(host.get(new))
    await gates[1].arrived.wait()
    for gate in gates:
        gate.open()
    assert (await asking).status == 200


async def test_what_was_there_since_is_not_absent(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    new = f"{M}/@v/v1.1.0.zip"
    assert (await host.get(new)).status == 404
    upstream.add_module("example.com/m", "v1.1.0")
    assert (await host.get(new)).status == 200
    await host.quiet()
    await host.server.operations.evict(0, dry_run=False)
    upstream.on("*", Reply(b"", 500))
    assert (await host.get(new)).status == 502


async def test_without_any_upstream_nothing_is_there(serve: Serve) -> None:
    host = await serve("off")
    for path in (LIST, LATEST, ZIP):
        got = await host.get(path)
        assert (got.status, "no upstream is configured" in got.text) == (404, True)


async def test_an_edge_does_not_keep_what_its_central_server_made_up(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    central = await serve(upstream)
    await central.get(MOD)
    await central.get(ABSENT)
    await central.quiet()
    await central.server.operations.purge(
        Selection(match=("example.com/m@v1.0.0",), kinds=("info",)), forget_hash=False, dry_run=False
    )
    edge = await serve(central.server.url, cache_dir=tmp_path / "edge")
    upstream.on("*", Reply(b"", 500))
    got = await edge.get(INFO)
    assert json.loads(got.body) == {"Version": "v1.0.0"}
    assert (await edge.get(ABSENT)).status == 404
    await edge.quiet()
    upstream.forget_rules()
    assert (await edge.get(INFO)).body == upstream.files[INFO]
    upstream.on("*", Reply(b"", 500))
    await central.server.operations.refresh("example.com/m/cmd/tool")
    assert (await edge.get(ABSENT)).status == 502


@pytest.mark.parametrize("path", [LIST, LATEST])
async def test_a_copy_just_expired_goes_out_at_once(
    serve: Serve, upstream: FakeUpstream, clock: Clock, path: str
) -> None:
    host = await serve(
        upstream, fresh=60.0, stale_while_revalidate=300.0, fast_path=False, stall_timeout=30.0
    )
    old = await host.get(path)
    upstream.add_module("example.com/m", "v1.1.0")
    gate = upstream.hold(path)
    clock.offset = 359
    for _ in range(20):
        got = await host.get(path)
        assert (got.body, status(got)) == (old.body, STALE)
    await gate.arrived.wait()
    assert upstream.count(path) == 2
    gate.open()
    await host.quiet()
    got = await host.get(path)
    assert b"v1.1.0" in got.body
    await host.quiet()
    clock.offset = 359 + 360
    assert status(await host.get(path)) == "goproxy-vm; fwd=uri-miss; stored"


async def test_a_query_is_always_asked_for(serve: Serve, upstream: FakeUpstream, clock: Clock) -> None:
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"v1.0.0"}'
    host = await serve(upstream, fresh=60.0, stale_while_revalidate=300.0, fast_path=False)
    await host.get(f"{M}/@v/master.info")
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"v1.0.1"}'
    clock.offset = 61
    assert b"v1.0.1" in (await host.get(f"{M}/@v/master.info")).body


# Lists and @latest of what is stored.


@pytest.mark.parametrize("reply", DEATHS)
async def test_lists_are_built_whatever_the_failure(
    serve: Serve, upstream: FakeUpstream, reply: Reply
) -> None:
    host = await serve(upstream)
    await host.get(ZIP)
    await host.quiet()
    upstream.on("*", reply)
    for _ in range(2):
        got = await host.get(LIST)
        assert (got.status, got.body, status(got)) == (200, b"v1.0.0\n", FROM_VERSIONS)
        got = await host.get(LATEST)
        assert (got.body, status(got)) == (upstream.files[INFO], FROM_VERSIONS)
    assert (await host.get(f"{OTHER}/@v/list")).status in (403, 502, 503, 504)
    assert (await host.get(f"{M}/@v/master.info")).status in (403, 502, 503, 504)


async def test_offline_offers_what_is_stored_whole(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.add_module("example.com/m", "v1.1.0")
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"v1.1.0"}'
    online = await serve(upstream, fresh=3600.0, prefetch=False)
    for path in (LIST, LATEST, f"{M}/@v/master.info", ZIP, f"{M}/@v/v1.1.0.mod"):
        assert (await online.get(path)).status == 200
    await online.quiet()
    await online.server.stop()
    host = await serve(upstream, offline=True, fresh=3600.0)
    got = await host.get(LIST)
    assert (got.body, status(got)) == (b"v1.0.0\n", FROM_VERSIONS)
    got = await host.get(LATEST)
    assert (json.loads(got.body)["Version"], status(got)) == ("v1.0.0", FROM_VERSIONS)
    assert (await host.get(f"{M}/@v/master.info")).status == 404
    assert (await host.get(f"{M}/@v/v1.1.0.mod")).status == 200


async def test_offline_a_module_without_latest_has_none(serve: Serve, upstream: FakeUpstream) -> None:
    del upstream.files[LATEST]
    online = await serve(upstream)
    for path in (LATEST, ZIP):
        await online.get(path)
    await online.quiet()
    await online.server.stop()
    host = await serve(upstream, offline=True)
    assert (await host.get(LATEST)).status == 404
    assert (await host.get(LIST)).body == b"v1.0.0\n"


async def test_latest_by_the_rule_of_go(serve: Serve, upstream: FakeUpstream) -> None:
    versions = ["v0.0.0-20240319094008-0393e58bdf10", "v0.0.0-20250101000000-aaaaaaaaaaaa"]
    order = [*versions, "v0.5.0-rc.1", "v0.4.0"]
    host = await serve(upstream)
    expected = []
    for version in order:
        upstream.add_module("example.com/other", version)
        await host.get(f"{OTHER}/@v/{version}.zip")
        await host.quiet()
        got = await host.get(f"{OTHER}/@latest", Disable_Module_Fetch="true")
        expected.append(json.loads(got.body)["Version"])
    assert expected == order


async def test_pseudo_versions_are_listed_beside_tags(serve: Serve, upstream: FakeUpstream) -> None:
    pseudo = "v1.0.1-0.20240319094008-0393e58bdf10"
    upstream.files[LIST] += f"{pseudo}\n".encode()
    host = await serve(upstream)
    assert pseudo.encode() in (await host.get(LIST)).body
