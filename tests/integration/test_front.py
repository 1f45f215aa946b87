"""The short cut for hits: the same answers as aiohttp's way, and nothing held back, mixed up or outdated."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
from pathlib import Path

import pytest

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.web import front as front_module
from goproxy_vm.web import prepared
from goproxy_vm.web.front import Front
from goproxy_vm.web.ready import Ready
from tests.fakes.modules import build_zip
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Heard, Wire, until
from tests.integration.conftest import Got, Host, Serve
from tests.integration.test_budget import large_zip

M = "/example.com/m"
MOD = f"{M}/@v/v1.0.0.mod"
SIZES = {"v2.0.1+incompatible": 1_000, "v2.0.2+incompatible": 200_000, "v2.0.3+incompatible": 3_000_000}
ZIPS = [f"{M}/@v/{version}.zip" for version in SIZES]
BIG = ZIPS[2]
FILES = [f"{M}/@v/v1.0.0.info", MOD, *ZIPS]
DOCUMENTS = [f"{M}/@v/list", f"{M}/@latest"]


@pytest.fixture
def upstream(upstream: FakeUpstream) -> FakeUpstream:
    """With zips that are answered from memory, by a copy, and by sendfile."""
    for version, size in SIZES.items():
        padding = random.Random(size).randbytes(size)
        zipped = build_zip(
            "example.com/m", version, {"go.mod": b"module example.com/m\n", "padding": padding}
        )
        upstream.add_module("example.com/m", version, zipped=zipped)
    return upstream


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The requests that the short cut answers, or at least tries to."""
    seen: list[bytes] = []
    really = Front.take

    def take(front: Front, connection: object, data: bytes) -> bool:
        took = really(front, connection, data)  # type: ignore[arg-type]  # passed on as it is
        if took:
            seen.append(data.split(b" ", 2)[1])
        return took

    monkeypatch.setattr(Front, "take", take)
    return seen


async def committed(host: Host) -> None:
    await until(lambda: not host.server.store.uncommitted)


def same(one: Got | Heard, other: Got | Heard) -> None:
    assert one.status == other.status
    assert one.body == other.body
    for field in {"max-age", *one.headers, *other.headers} - {"max-age", "Date", "Cache-Control"}:
        assert one.headers[field] == other.headers[field], field
    ages = [each.headers["Cache-Control"] for each in (one, other)]
    assert [age.rstrip("0123456789") for age in ages[:1]] == [age.rstrip("0123456789") for age in ages[1:]]
    assert "Date" in one.headers
    assert "Date" in other.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_both_ways_answer_alike(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, taken: list[bytes], method: str
) -> None:
    fast = await serve(upstream)
    slow = await serve(upstream, fast_path=False, cache_dir=tmp_path / "slow")
    for path in FILES + DOCUMENTS:
        for host in (fast, slow):
            assert (await host.get(path)).status == 200
        await committed(fast)
        await committed(slow)
        for _ in range(3):  # opened, prepared, prepared
            count = len(taken)
            one, other = await fast.get(path, method=method), await slow.get(path, method=method)
            assert len(taken) == count + 1
            same(one, other)
            assert one.body == (b"" if method == "HEAD" else upstream.files[path])
    for path in (
        f"{M}/@v/v9.9.9.info",
        f"{M}/@v/V1.zip",
        "/",
        "/robots.txt",
        f"{MOD}?x",
        "/nonsense/@v/list",
    ):
        one, other = await fast.get(path, method=method), await slow.get(path, method=method)
        assert one.status == other.status
        assert one.headers.keys() - {"Content-Length"} == other.headers.keys() - {"Content-Length"}


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ({"Range": "bytes=0-3"}, 206),
        ({"If-None-Match": "*"}, 304),
        ({"Connection": "close"}, 200),
        ({"Content-Length": "0"}, 200),
        ({"Expect": "100-continue"}, 200),
        ({"Disable_Module_Fetch": "true"}, 200),
    ],
)
async def test_requests_that_are_not_plain(
    serve: Serve, upstream: FakeUpstream, taken: list[bytes], field: dict[str, str], status: int
) -> None:
    host = await serve(upstream)
    await host.get(MOD)
    await committed(host)
    taken.clear()
    got = await host.get(MOD, **field)
    assert got.status == status
    assert not taken


async def test_who_forbids_fetches(serve: Serve, upstream: FakeUpstream, taken: list[bytes]) -> None:
    """A prepared answer is the same for them; looking for a stored one may have others fetched."""
    host = await serve(upstream)
    await host.get(MOD)
    await committed(host)
    taken.clear()
    for before in (False, True):
        assert (await host.get(MOD, Disable_Module_Fetch="true")).status == 200
        assert bool(taken) == before
        await host.get(MOD)
        taken.clear()


async def test_a_connection_comes_back_after_aiohttp(
    serve: Serve, upstream: FakeUpstream, taken: list[bytes]
) -> None:
    host = await serve(upstream)
    async with Wire(host.server.url) as wire:
        for path in (MOD, "/healthz", MOD, BIG, MOD, BIG, f"{M}/@v/v9.9.9.info", MOD):
            wire.ask(path)
            got = await wire.answer()
            if got.status == 200 and path in upstream.files:
                assert got.body == upstream.files[path]
            await committed(host)
        assert taken.count(MOD.encode()) == 3 + 1  # the first was looked for, and handed over
        assert taken.count(BIG.encode()) == 2


@pytest.mark.parametrize("first", [MOD, BIG, f"{M}/@v/v0.9.0.zip"])
async def test_pipelined_requests_are_answered_in_order(
    serve: Serve, upstream: FakeUpstream, first: str
) -> None:
    host = await serve(upstream)
    for path in FILES:
        await host.get(path)
    await committed(host)
    for at_once in (True, False):
        async with Wire(host.server.url) as wire:
            for path in (first, MOD, ZIPS[1], first, MOD):
                wire.ask(path)
                if not at_once:
                    await wire.writer.drain()
                    await asyncio.sleep(0.001)
            for path in (first, MOD, ZIPS[1], first, MOD):
                assert (await wire.answer()).body == upstream.files[path]


async def test_a_head_in_pieces(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(MOD)
    await committed(host)
    async with Wire(host.server.url) as wire:
        for piece in (f"GET {MOD} HT", "TP/1.1\r\nHo", "st: x\r\n", "\r\n"):
            wire.writer.write(piece.encode())
            await wire.writer.drain()
            await asyncio.sleep(0.01)
        assert (await wire.answer()).body == upstream.files[MOD]


@pytest.mark.parametrize(
    "head",
    [
        "GET {} HTTP/1.1\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET {} HTTP/1.0\r\nHost: a\r\n\r\n",
        "POST {} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET  {} HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_unusual_heads_are_left_to_aiohttp(
    serve: Serve, upstream: FakeUpstream, taken: list[bytes], head: str
) -> None:
    host = await serve(upstream)
    await host.get(MOD)
    await committed(host)
    await host.get(MOD)
    taken.clear()
    async with Wire(host.server.url) as wire:
        wire.writer.write(head.format(MOD).encode())
        assert (await wire.head()).status in {200, 400, 405}
    assert not taken


async def test_hits_count_alike(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    body = 0
    for path in FILES:
        body += len((await host.get(path)).body)
    await committed(host)
    for _ in range(3):
        for path in FILES:
            await host.get(path)
            await host.get(path, method="HEAD")
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="hit"}') == 18
    assert await host.metric('goproxy_vm_requests_total{endpoint="info",result="hit"}') == 6
    assert await host.metric('goproxy_vm_requests_total{endpoint="info",result="miss"}') == 1
    sent = 'goproxy_vm_response_bytes_total{endpoint="%s",source="%s"}'
    cache = sum([await host.metric(sent % (kind, "cache")) for kind in ("info", "mod", "zip")])
    fetched = sum([await host.metric(sent % (kind, "upstream")) for kind in ("info", "mod", "zip")])
    assert cache + fetched == 4 * body  # a .mod is fetched before it is asked for: perhaps a hit at once
    assert fetched > 0.9 * body
    facts = await host.server.operations.version("example.com/m", "v1.0.0")
    assert facts is not None
    assert facts.files["info"].hits == 6


async def test_purge_and_refresh_take_effect_at_once(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    for path in FILES + DOCUMENTS:
        await host.get(path)
    await committed(host)
    for path in FILES + DOCUMENTS:
        await host.get(path)
    upstream.requests.clear()
    await host.server.operations.purge_module("example.com/m")
    for path in FILES + DOCUMENTS:
        assert (await host.get(path)).status == 200
        assert upstream.count(path) == 1
    await host.get(DOCUMENTS[0])
    await host.server.operations.refresh("example.com/m")
    await host.get(DOCUMENTS[0])
    assert upstream.count(DOCUMENTS[0]) == 2
    await host.server.operations.evict(0, dry_run=False)
    assert (await host.get(BIG)).status == 200
    assert upstream.count(BIG) == 2


async def test_documents_are_fresh_for_a_while(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, fresh=0.3)
    await host.get(DOCUMENTS[0])
    again = await host.get(DOCUMENTS[0])
    assert again.headers["Cache-Control"] == "public, max-age=0"
    assert again.headers["Cache-Status"] == "goproxy-vm; hit"
    assert upstream.count(DOCUMENTS[0]) == 1
    await asyncio.sleep(0.35)
    await host.get(DOCUMENTS[0])
    assert upstream.count(DOCUMENTS[0]) == 2


async def test_who_may_not_ask(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    host = await serve(upstream)
    await host.get(MOD)
    await host.server.stop()
    closed = await serve(upstream, allow_clients=(ipaddress.ip_network("10.0.0.0/8"),))
    assert (await closed.get(MOD)).status == 403
    await closed.server.stop()
    denied = await serve(upstream, deny="example.com/m")
    assert (await denied.get(MOD)).status == 403


async def test_prepared_answers_are_bounded(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MOST_BYTES", 2_000)
    monkeypatch.setattr(prepared, "MOST_SPELLINGS", 1)
    monkeypatch.setattr("goproxy_vm.server.most_kept", lambda _: 1)
    monkeypatch.setattr(front_module, "MOST_TAILS", 1)
    host = await serve(upstream)
    counts = []
    for number in range(4):
        for path in FILES:
            assert (await host.get(path, X=str(number))).body == upstream.files[path]
            await committed(host)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert max(counts[1:]) <= counts[0] + 1


async def test_the_descriptor_used_longest_ago_goes_first(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goproxy_vm.server.most_kept", lambda _: 2)
    for number in range(3):
        zipped = large_zip(f"example.com/m{number}", 1 << 20)
        upstream.add_module(f"example.com/m{number}", "v1.0.0", zipped=zipped)
    names = [f"/example.com/m{number}/@v/v1.0.0.zip" for number in range(3)]
    host = await serve(upstream)
    for name in names:
        assert (await host.get(name)).status == 200
    await committed(host)
    for name in (names[0], names[1], names[0], names[2]):
        assert (await host.get(name)).status == 200
    links = [os.readlink(link.path) for link in os.scandir("/proc/self/fd") if link.is_symlink()]  # noqa: PTH115
    assert [any(link.endswith(name) for link in links) for name in names] == [True, False, True]


async def test_a_large_file_that_waits_for_its_name(serve: Serve, upstream: FakeUpstream) -> None:
    """It is in memory as long as it is being stored: whoever asks right after the first has it whole, too."""
    host = await serve(upstream, prefetch=False)
    for number in range(8):
        path = f"/example.com/large{number}/@v/v1.0.0.mod"
        mod = b"module example.com/large\n" + b"// a comment\n" * 30_000
        upstream.files[path] = mod
        async with Wire(host.server.url) as first, Wire(host.server.url) as second:
            first.ask(path)
            assert (await first.answer()).body == mod
            second.ask(path)
            assert (await second.answer()).body == mod


@pytest.mark.parametrize("resident", [True, False])
async def test_a_disk_that_is_cold_is_read_beside_the_loop(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, *, resident: bool
) -> None:
    monkeypatch.setattr(StoredFile, "cached", lambda *_: resident)
    host = await serve(upstream)
    for path in (ZIPS[1], BIG):
        await host.get(path)
        await committed(host)
        for _ in range(2):
            assert (await host.get(path)).body == upstream.files[path]


@pytest.mark.parametrize("path", ZIPS[1:])
async def test_a_file_cut_on_disk_never_looks_whole(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    host = await serve(upstream)
    await host.get(path)
    await committed(host)
    await host.get(path)
    file = next(host.settings.cache_dir.glob(f"modules{path}"))
    os.truncate(file, 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(Ready, "sound", lambda *_: True)  # it happens after the look
        async with Wire(host.server.url) as wire:
            wire.ask(path)
            assert len(await wire.rest()) < len(upstream.files[path])
    assert (await host.get(path)).body == upstream.files[path]  # fetched anew
    assert upstream.count(path) == 2


async def test_a_slow_reader_is_not_cut_by_a_stop(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(BIG)
    await committed(host)
    async with Wire(host.server.url, receive_buffer=4096) as slow, Wire(host.server.url) as idle:
        idle.ask(MOD)
        await idle.answer()
        slow.ask(BIG)
        head = await slow.head()
        stopping = asyncio.create_task(host.server.stop())
        assert await idle.rest() == b""
        body = await slow.rest()
        assert len(body) == int(head.headers["Content-Length"])
        assert body == upstream.files[BIG]
        await stopping


async def test_a_reader_that_leaves(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    await host.get(BIG)
    await committed(host)
    for _ in range(3):
        async with Wire(host.server.url, receive_buffer=4096) as wire:
            wire.ask(BIG)
            await wire.head()
    assert (await host.get(BIG)).body == upstream.files[BIG]


@pytest.mark.parametrize(("which", "expected"), [("off", 0), ("misses", 2), ("all", 6)])
@pytest.mark.parametrize("fast", [True, False])
async def test_access_log(
    serve: Serve,
    upstream: FakeUpstream,
    caplog: pytest.LogCaptureFixture,
    which: str,
    expected: int,
    *,
    fast: bool,
) -> None:
    caplog.set_level("INFO", "goproxy_vm")
    host = await serve(upstream, access_log=which, fast_path=fast)
    await host.get(ZIPS[0])
    await committed(host)
    for path in (ZIPS[0], ZIPS[0], BIG):
        await host.get(path)
    await committed(host)
    await host.get(BIG)
    await host.get(BIG, method="HEAD")
    await host.server.stop()
    lines = [record.goproxy_vm_fields for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]  # set by observe.logs
    assert len(lines) == expected
    for line in lines:
        assert line["module"] == "example.com/m"
        assert line["version"] in SIZES
        assert line["status"] == 200
        assert line["bytes"] == (0 if line["method"] == "HEAD" else len(upstream.files[line["path"]]))
        assert len(line["request_id"]) == 12


async def test_a_reload_closes_many_files_in_turns(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "A_TURN", 1)
    for number in range(5):
        upstream.add_module(
            f"example.com/m{number}", "v1.0.0", zipped=large_zip(f"example.com/m{number}", 1 << 20)
        )
    names = [f"/example.com/m{number}/@v/v1.0.0.zip" for number in range(5)]
    host = await serve(upstream)
    for name in [*names, *names]:
        assert (await host.get(name)).status == 200
        await committed(host)

    def open_files() -> int:
        links = [os.readlink(link.path) for link in os.scandir("/proc/self/fd") if link.is_symlink()]  # noqa: PTH115
        return sum(link.endswith("zip") for link in links)

    assert open_files() == 5
    await host.server.reload(host.settings)
    assert open_files() == 4, "the others have their turn"
    assert (await host.get(names[0])).body == upstream.files[names[0]]
    await until(lambda: open_files() == 1)
    for name in names:
        assert (await host.get(name)).status == 200
    await host.server.reload(host.settings)
    await host.server.stop()
    assert open_files() == 0
