"""The metrics agree with what clients counted, with what the upstream saw, and with the API."""

from __future__ import annotations

import asyncio
import gzip
import random
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from goproxy_vm.observe.metrics import (
    ENDPOINTS,
    EVICTION_REASONS,
    RESULTS,
    SOURCE,
    SOURCES,
    UPSTREAM_OUTCOMES,
    VERIFICATION_KINDS,
    VERIFICATION_OUTCOMES,
)
from goproxy_vm.web.connection import Connection
from goproxy_vm.web.front import Front
from tests.fakes.modules import build_zip
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import Wire, until
from tests.integration.conftest import Got, Host, Serve
from tests.integration.test_database import World
from tests.malformed import MALFORMED

M = "/example.com/m"
V = f"{M}/@v/v1.0.0"
BIG = "/example.com/big/@v/v1.0.0.zip"
BIG_BYTES = 3_000_000
STORE_KINDS = ("info", "mod", "zip", "answers", "sumdb", "quarantine")

Series = dict[tuple[str, ...], float]


@dataclass
class Page:
    """One scrape: values by the sample's name, then by the labels' values in the labels' order."""

    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = field(default_factory=dict)

    @classmethod
    async def of(cls, host: Host) -> Page:
        page = cls()
        for family in text_string_to_metric_families((await host.admin("/metrics")).text):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                page.samples.setdefault(sample.name, {})[labels] = sample.value
        return page

    def by(self, name: str, *labels: str) -> Series:
        found = self.samples[f"goproxy_vm_{name}"]
        return {tuple(dict(key)[label] for label in labels): value for key, value in found.items()}

    def some(self, name: str, *labels: str) -> Series:
        """Those that are not 0."""
        return {key: value for key, value in self.by(name, *labels).items() if value}

    def one(self, name: str, *values: str) -> float:
        """The sum of the series that have all these label values."""
        found = self.samples[f"goproxy_vm_{name}"]
        return sum(value for key, value in found.items() if set(values) <= set(dict(key).values()))

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (name, labels)
            for name, found in self.samples.items()
            if name.startswith("goproxy_vm")
            for labels in found
        }


@dataclass
class Ledger:
    """A client that keeps its own count of what it asked for and what it got."""

    host: Host
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    received: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def ask(
        self, path: str, endpoint: str, result: str, status: int, *, method: str = "GET", **headers: str
    ) -> Got:
        """``endpoint`` and ``result`` are what the request must be counted under."""
        got = await self.host.get(path, method=method, **headers)
        assert got.status == status, (path, got)
        self.note(endpoint, result, len(got.body))
        return got

    def note(self, endpoint: str, result: str, size: int) -> None:
        self.requests[endpoint, result] += 1
        source = "other" if endpoint == "other" else SOURCE.get(result, "other")
        self.received[endpoint, source] += size

    async def agrees(self) -> Page:
        """Wait for the last request's count: a client may have the last byte before it is counted."""
        async with asyncio.timeout(5):
            while (page := await Page.of(self.host)).one("requests_total") < self.requests.total():
                await asyncio.sleep(0.01)
        both = ("endpoint", "result")
        assert page.some("requests_total", *both) == self.requests
        assert page.some("request_duration_seconds_count", *both) == self.requests
        buckets = page.by("request_duration_seconds_bucket", *both, "le")
        assert {key: buckets[*key, "+Inf"] for key in self.requests} == self.requests
        sent = {key: size for key, size in self.received.items() if size}
        assert page.some("response_bytes_total", "endpoint", "source") == sent
        return page


async def committed(host: Host) -> None:
    await until(lambda: not host.server.store.uncommitted)


async def quiet(host: Host) -> None:
    """Nothing is being fetched any more, what was started for later included."""
    await until(lambda: not host.server.operations.fetches_in_flight)


def agrees_with(upstream: FakeUpstream, page: Page) -> None:
    """As many requests as it saw, as many bytes as it sent, but for the words of a refusal that nobody waited
    for: with a zip that is absent its .mod is given up."""
    assert page.one("upstream_requests_total", upstream.name) == len(upstream.requests)
    assert page.one("upstream_duration_seconds_count", upstream.name) == len(upstream.requests)
    assert upstream.sent - 64 <= page.one("upstream_bytes_total", upstream.name) <= upstream.sent


@pytest.fixture
def upstream(upstream: FakeUpstream) -> FakeUpstream:
    padding = random.Random(1).randbytes(BIG_BYTES)
    files = {"go.mod": b"module example.com/big\n", "padding": padding}
    upstream.add_module("example.com/big", "v1.0.0", zipped=build_zip("example.com/big", "v1.0.0", files))
    upstream.files[f"{M}/@v/main.info"] = b'{"Version":"v1.0.0"}'
    return upstream


# Agreement


@pytest.mark.parametrize("fast_path", [True, False])
async def test_requests_and_bytes_are_those_of_the_client(
    serve: Serve, upstream: FakeUpstream, *, fast_path: bool
) -> None:
    host = await serve(upstream, fast_path=fast_path, prefetch=False, deny="example.com/denied")
    ledger = Ledger(host)
    ask = ledger.ask
    await ask(f"{V}.info", "info", "miss", 200)
    await quiet(host)  # it brings its .mod
    await ask(f"{V}.mod", "mod", "hit", 200)
    await committed(host)
    await ask(f"{V}.zip", "zip", "miss", 200, method="HEAD")
    await ask(BIG, "zip", "miss", 200)
    await quiet(host)
    for _ in range(3):
        for extension in ("info", "mod", "zip"):
            got = await ask(f"{V}.{extension}", extension, "hit", 200)
            await ask(f"{V}.{extension}", extension, "hit", 200, method="HEAD")
            await ask(f"{V}.{extension}", extension, "hit", 304, If_None_Match=got.headers["ETag"])
            part = await ask(f"{V}.{extension}", extension, "hit", 206, Range="bytes=2-8")
            assert len(part.body) == 7
            await ask(f"{V}.{extension}", extension, "refused", 416, Range="bytes=99999999-")
        await ask(BIG, "zip", "hit", 200)
        await ask(BIG, "zip", "hit", 206, Range="bytes=100-1999999")
        await ask(f"/cached-only{V}.zip", "zip", "hit", 200)
    for path, endpoint in (
        (f"{M}/@v/list", "list"),
        (f"{M}/@latest", "latest"),
        (f"{M}/@v/main.info", "info"),
    ):
        await ask(path, endpoint, "miss", 200)
        await ask(path, endpoint, "hit", 200)
        await ask(path, endpoint, "hit", 200, method="HEAD")
    for path, endpoint in (("/example.com/no/@v/list", "list"), ("/example.com/no/@v/v1.0.0.zip", "zip")):
        await ask(path, endpoint, "negative", 404)  # asked
        await ask(path, endpoint, "negative", 404)  # remembered
        await ask(f"/cached-only{path}", endpoint, "negative", 404)
        await ask(path, endpoint, "negative", 404, Disable_Module_Fetch="true", method="HEAD")
    await ask("/example.com/denied/@v/list", "list", "refused", 403)
    await ask(f"{M}/@v/V1.zip", "zip", "refused", 404)
    await ask("/nonsense", "other", "refused", 404)
    await ask(f"{V}.zip", "zip", "refused", 405, method="POST")
    await ask("/sumdb/other.example/supported", "sumdb", "refused", 404)
    upstream.on("/example.com/m/@v/fire.info", Reply(b"fire\n", 500, {"Content-Type": "text/plain"}))
    await ask(f"{M}/@v/fire.info", "info", "error", 502)
    upstream.on("/example.com/m/@v/v0.9.0.zip", Reply(b"no\n", 403, {"Content-Type": "text/plain"}))
    await ask(f"{M}/@v/v0.9.0.zip", "zip", "refused", 403)
    for path in ("/", "/robots.txt", "/healthz", "/readyz"):
        await ask(path, "other", "hit", 200)
    await quiet(host)
    page = await ledger.agrees()
    agrees_with(upstream, page)
    outcomes = page.some("upstream_requests_total", "outcome")
    assert set(outcomes) == {("ok",), ("not_found",), ("refused",), ("unavailable",)}


async def test_one_misses_and_the_others_are_collapsed(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    ledger = Ledger(host)
    for path, endpoint in ((BIG, "zip"), (f"{M}/@v/list", "list")):
        gate = upstream.hold(path)
        asked = [asyncio.create_task(host.get(path)) for _ in range(5)]
        await gate.arrived.wait()
        await until(lambda: waiters(host) == 5)
        assert (await Page.of(host)).one("fetches_in_flight") >= 1
        gate.open()
        for index, got in enumerate(await asyncio.gather(*asked)):
            ledger.note(endpoint, "collapsed" if index else "miss", len(got.body))
    await quiet(host)
    page = await ledger.agrees()
    agrees_with(upstream, page)
    assert page.one("fetches_in_flight") == 0


def waiters(host: Host) -> int:
    """How many requests wait for a flight."""
    proxy = host.server.proxy
    files, documents = proxy._files._flights.values(), proxy._documents._flights._flights.values()
    return sum(flight.waiters for flight in files) + sum(flight.waiters for flight in documents)


async def test_stale_answers(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, fresh=0.0)
    ledger = Ledger(host)
    await ledger.ask(f"{M}/@v/list", "list", "miss", 200)
    await ledger.ask(f"{V}.mod", "mod", "miss", 200)
    await quiet(host)
    upstream.on("*", Reply(b"", 500))
    await ledger.ask(f"{M}/@v/list", "list", "stale", 200)
    await ledger.ask(f"{M}/@v/list", "list", "negative", 404, Disable_Module_Fetch="true")
    await ledger.ask(f"{M}/@latest", "latest", "error", 502)
    await ledger.ask(f"{V}.mod", "mod", "hit", 200)
    agrees_with(upstream, await ledger.agrees())


async def test_offline(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    online = await serve(upstream)
    for extension in ("info", "mod", "zip"):
        await online.get(f"{V}.{extension}")
    await online.get(f"{M}/@v/list")
    await quiet(online)
    await online.server.stop()
    seen = len(upstream.requests)
    ledger = Ledger(await serve(upstream, offline=True, fresh=0.0))
    await ledger.ask(f"{V}.zip", "zip", "hit", 200)
    await ledger.ask(f"{M}/@v/list", "list", "stale", 200)
    await ledger.ask("/example.com/big/@v/list", "list", "negative", 404)
    await ledger.ask(BIG, "zip", "negative", 404)
    await ledger.agrees()
    assert len(upstream.requests) == seen


async def test_the_checksum_database(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    world = World(upstream, tmp_path)
    host = await serve(upstream, sumdb=world.spec)
    ledger = Ledger(host)
    prefix = f"/sumdb/{world.database.name}"
    await ledger.ask(f"{prefix}/supported", "sumdb", "hit", 200)
    await ledger.ask(f"{prefix}/latest", "sumdb", "miss", 200)
    await ledger.ask(f"{prefix}/latest", "sumdb", "hit", 200)
    await ledger.ask(f"{prefix}/lookup/example.com/m@v1.0.0", "sumdb", "miss", 200)
    await ledger.ask(f"{prefix}/lookup/example.com/m@v1.0.0", "sumdb", "hit", 200)
    await ledger.ask(f"{prefix}/lookup/example.com/none@v1.0.0", "sumdb", "error", 502)
    await ledger.ask(f"{prefix}/lookup/nonsense", "sumdb", "refused", 400)
    await ledger.ask(f"/%73umdb/{world.database.name}/supported", "sumdb", "hit", 200)
    await quiet(host)
    agrees_with(upstream, await ledger.agrees())


# Clients that leave, or are not let in


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_client_that_leaves_counts_once(
    serve: Serve, upstream: FakeUpstream, *, fast_path: bool
) -> None:
    host = await serve(upstream, fast_path=fast_path)
    gate = upstream.hold(f"{V}.zip")
    async with Wire(host.server.url) as wire:  # waits for a fetch
        wire.ask(f"{V}.zip")
        await gate.arrived.wait()
    gate.open()
    await quiet(host)
    await host.get(BIG)
    await committed(host)
    async with Wire(host.server.url, receive_buffer=4096) as wire:  # in the middle of a download
        wire.ask(BIG)
        await wire.head()
        await wire.reader.readexactly(1000)
    async with asyncio.timeout(5):
        while (page := await Page.of(host)).one("requests_total") < 3:
            await asyncio.sleep(0.01)
    assert page.some("requests_total", "endpoint", "result") == {("zip", "miss"): 2, ("zip", "hit"): 1}
    sent = page.by("response_bytes_total", "endpoint", "source")
    whole = len(upstream.files[BIG])
    # Who closed its side may still have been answered.
    assert sent["zip", "upstream"] in (whole, whole + len(upstream.files[f"{V}.zip"]))
    assert sent["zip", "cache"] < whole


@pytest.mark.parametrize(("crash", "result"), [(False, "refused"), (True, "error")])
async def test_a_request_that_the_short_cut_drops_counts_once(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, *, crash: bool, result: str
) -> None:
    host = await serve(upstream)
    connections: list[Connection] = []
    take = Front.take

    def taken(front: Front, connection: Connection, data: bytes) -> bool:
        connections.append(connection)
        return take(front, connection, data)

    async def stored(_: object) -> None:
        """Nothing, and meanwhile the client leaves; or a bug."""
        if crash:
            raise RuntimeError("a bug")
        connections[0].transport.abort()

    monkeypatch.setattr(Front, "take", taken)
    monkeypatch.setattr(host.server.proxy, "stored", stored)
    async with Wire(host.server.url) as wire:
        wire.ask(f"{V}.zip")
        assert await wire.rest() == b""
    async with asyncio.timeout(5):
        while not (page := await Page.of(host)).one("requests_total"):
            await asyncio.sleep(0.01)
    assert page.some("requests_total", "endpoint", "result") == {("zip", result): 1}
    assert not upstream.requests


async def test_connections_beyond_the_limit_count_as_errors(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, max_client_connections=1)
    async with Wire(host.server.url) as first:
        first.ask("/healthz")
        assert (await first.answer()).status == 200
        async with Wire(host.server.url) as second:
            heard = await second.answer()
        assert heard.status == 503
        page = await Page.of(host)
    assert page.some("requests_total", "endpoint", "result") == {("other", "hit"): 1, ("other", "error"): 1}
    assert page.one("response_bytes_total", "other") == len(b"ok\n") + len(heard.body)


# Upstreams


async def test_redirects_are_requests_that_the_upstream_saw(serve: Serve, upstream: FakeUpstream) -> None:
    async with FakeUpstream() as elsewhere:
        host = await serve(upstream)
        await host.get(f"{V}.info")  # which every word of the latest version would bring
        await quiet(host)

        def to(where: str) -> Reply:
            return Reply(b"", 302, {"Location": where})

        upstream.on("/hop", to(f"{V}.info"))
        upstream.on(f"{M}/@latest", to("/hop"))
        assert (await host.get(f"{M}/@latest")).status == 200
        assert len(upstream.requests) == 2 + 3
        agrees_with(upstream, await Page.of(host))

        elsewhere.on("*", to(f"{upstream.url}{V}.info"))
        upstream.on(f"{M}/@v/main.info", to(f"{elsewhere.url}/x"))
        assert (await host.get(f"{M}/@v/main.info")).status == 200
        assert len(upstream.requests) == 2 + 5
        agrees_with(upstream, await Page.of(host))

        upstream.on(f"{M}/@v/loop.info", to(f"{M}/@v/loop.info"))
        assert (await host.get(f"{M}/@v/loop.info")).status == 502
        assert upstream.count("*/loop.info") == 10
        page = await Page.of(host)
        agrees_with(upstream, page)
        assert page.one("upstream_requests_total", "unavailable") == 1


async def test_received_bytes_are_those_sent(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    packed = gzip.compress(b"v1.0.0\n" * 1000)
    upstream.on(f"{M}/@v/list", Reply(packed, headers={"Content-Encoding": "gzip"}))
    assert (await host.get(f"{M}/@v/list")).status == 200
    upstream.on(f"{M}/@latest", Reply(b"gone\n", 410, {"Content-Type": "text/plain"}))
    assert (await host.get(f"{M}/@latest")).status == 404
    assert upstream.sent == len(packed) + 5
    agrees_with(upstream, await Page.of(host))


async def test_up_and_the_outcomes_of_failures(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    assert (await Page.of(host)).by("upstream_up", "upstream") == {(upstream.name,): 1}
    upstream.on(f"{M}/@latest", Reply(b"x" * 100, length=1000, send=100))
    assert (await host.get(f"{M}/@latest")).status == 502
    upstream.on(f"{M}/@v/list", Reply(b"", 503, {"Retry-After": "9"}))
    assert (await host.get(f"{M}/@v/list")).status == 502
    page = await Page.of(host)
    assert page.by("upstream_up", "upstream") == {(upstream.name,): 0}
    assert page.some("upstream_requests_total", "outcome") == {("connection",): 3, ("unavailable",): 1}
    agrees_with(upstream, page)
    upstream.forget_rules()
    assert (await host.get(f"{M}/@v/list")).status == 200
    assert (await Page.of(host)).by("upstream_up", "upstream") == {(upstream.name,): 1}


async def test_userinfo_is_in_no_label(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(f"http://user:secret@{upstream.name}")
    await host.get(f"{M}/@v/list")
    page = await host.admin("/metrics")
    assert "secret" not in page.text
    assert "user" not in page.text.replace("process_cpu_seconds_total Total user", "")
    assert f'upstream="{upstream.name}"' in page.text


# The store


async def test_the_store_agrees_with_the_api(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    for path in (f"{V}.info", f"{V}.mod", f"{V}.zip", BIG, f"{M}/@v/list"):
        assert (await host.get(path)).status == 200
    await quiet(host)
    await asyncio.sleep(1.1)  # gauges may be a second old
    cache = (await host.server.operations.status()).cache
    page = await Page.of(host)
    sizes = {**cache.sizes, "answers": cache.answers_bytes, "quarantine": cache.quarantine_bytes}
    entries = {**cache.entries, "answers": cache.answers, "quarantine": cache.quarantine_entries}
    sizes["sumdb"], entries["sumdb"] = cache.sumdb_bytes, cache.sumdb
    assert page.by("cache_size_bytes", "kind") == {(kind,): sizes[kind] for kind in STORE_KINDS}
    assert page.by("cache_entries", "kind") == {(kind,): entries[kind] for kind in STORE_KINDS}
    assert entries["zip"] == 2
    assert page.one("cache_limit_bytes") == cache.limit_bytes
    assert page.one("cache_reserved_bytes") == cache.reserved_bytes == 0
    assert page.one("cache_pinned_bytes") == cache.pinned_bytes
    assert page.one("disk_free_bytes") > 0
    assert page.one("cache_writable") == page.one("pass_target_reached") == 1
    removal = await host.server.operations.purge_module("example.com/big")
    page = await Page.of(host)
    assert page.some("evictions_total", "reason") == {("purge",): removal.files}
    assert page.some("evicted_bytes_total", "reason") == {("purge",): removal.bytes}
    assert page.one("eviction_idle_seconds_count") == 0


# The page itself


async def test_every_series_is_there_at_the_start(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    host = await serve(upstream, sumdb=World(upstream, tmp_path).spec)
    page = await Page.of(host)
    names = {upstream.name, "127.0.0.1:1"}
    for name, labels, expected in (
        ("requests_total", "endpoint result", product(ENDPOINTS, RESULTS)),
        ("request_duration_seconds_count", "endpoint result", product(ENDPOINTS, RESULTS)),
        ("request_duration_seconds_sum", "endpoint result", product(ENDPOINTS, RESULTS)),
        ("response_bytes_total", "endpoint source", product(ENDPOINTS, SOURCES)),
        ("upstream_requests_total", "upstream outcome", product(names, UPSTREAM_OUTCOMES)),
        ("upstream_duration_seconds_count", "upstream", product(names)),
        ("upstream_bytes_total", "upstream", product(names)),
        ("verifications_total", "kind outcome", product(VERIFICATION_KINDS, VERIFICATION_OUTCOMES)),
        ("evictions_total", "reason", product(EVICTION_REASONS)),
        ("evicted_bytes_total", "reason", product(EVICTION_REASONS)),
        ("eviction_idle_seconds_count", "", [()]),
        ("scrubbed_bytes_total", "", [()]),
        ("corrupt_total", "", [()]),
        ("fetches_in_flight", "", [()]),
        ("cache_reserved_bytes", "", [()]),
        ("cache_entries", "kind", product(STORE_KINDS)),
    ):
        assert page.by(name, *labels.split()) == dict.fromkeys(expected, 0), name
    assert set(page.by("cache_size_bytes", "kind")) == set(product(STORE_KINDS))
    assert page.by("upstream_up", "upstream") == {(upstream.name,): 1}, "the database brings no modules"
    for name in ("cache_limit_bytes", "cache_pinned_bytes", "disk_free_bytes", "oldest_idle_seconds"):
        assert set(page.by(name)) == {()}
    assert list(page.by("build_info", "version").values()) == [1]


async def test_no_request_makes_a_series(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    before = (await Page.of(host)).series()
    for _, path in MALFORMED:
        await host.get(path)
    for index in range(50):
        await host.get(f"/example.com/m{index}/@v/list", User_Agent=f"go{index}", Host=f"h{index}")
        await host.get(f"/x{index}", method=f"M{index}")
        await host.get(f"/sumdb/db{index}.example/latest")
    for path in (f"{V}.info", f"{V}.zip", f"{M}/@latest"):
        await host.get(path)
    await quiet(host)
    page = await Page.of(host)
    assert page.one("requests_total") > 150
    assert page.series() == before
    names = {label for _, labels in before for label, _ in labels}
    assert names == {
        "endpoint", "go", "kind", "le", "outcome", "reason", "result", "rule", "source", "upstream", "version"
    }  # fmt: skip


async def test_promtool_finds_nothing_to_say(serve: Serve, upstream: FakeUpstream) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    host = await serve(upstream)
    for path in (f"{V}.info", f"{V}.zip", f"{M}/@v/list", "/nonsense"):
        await host.get(path)
    await host.server.operations.purge_module("example.com/m")
    page = await host.admin("/metrics")
    done = await asyncio.to_thread(
        subprocess.run, [program, "check", "metrics"], input=page.body, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
