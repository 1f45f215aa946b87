"""The upstream list at work: separators, ranks, retries, back-off, redirects, and every way to fail."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import gzip
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from goproxy_vm.errors import (
    Absent,
    ContentError,
    GoproxyError,
    NoRoom,
    Refused,
    StartError,
    UpstreamError,
    UpstreamTimeout,
)
from goproxy_vm.upstream.chain import Upstreams
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.sink import Buffer
from goproxy_vm.upstream.spec import parse_upstreams
from goproxy_vm.upstream.upstream import Pace
from tests.fakes.ports import closed_port
from tests.fakes.upstream import FakeUpstream, Reply

PATH = "example.com/m/@v/list"
NAME = "goproxy-vm-0123456789abcdef"
TEXT = {"Content-Type": "text/plain; charset=utf-8"}


class Counts:
    """Metrics that a test can read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.watches: list[Callable[[], tuple[int, bool | None]]] = []
        self.outcomes: list[tuple[str, str]] = []

    def add_upstream(self, name: str, watch: Callable[[], tuple[int, bool | None]]) -> None:
        self.names.append(name)
        self.watches.append(watch)

    def upstream(self, name: str, outcome: str, seconds: float) -> None:
        assert name in self.names
        self.outcomes.append((name, outcome))


class World:
    """Upstreams with a clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.counts = Counts()
        self.stack = AsyncExitStack()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def make(self, text: str, *, ca_file: Path | None = None, **limits: float) -> Upstreams:
        upstreams = Upstreams(
            parse_upstreams(text),
            Timeouts(**({"connect": 2.0, "stall": 0.3, "total": 60.0} | limits)),
            self.counts,
            NAME,
            ca_file=ca_file,
            pace=Pace(now=lambda: self.now, sleep=self.sleep, jitter=lambda: 0.5),
        )
        await upstreams.start()
        self.stack.push_async_callback(upstreams.close)
        return upstreams


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    async with made.stack:
        yield made


@pytest.fixture
async def first() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def second() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        fake.on("*", Reply(b"from second"))
        yield fake


async def fetch(
    upstreams: Upstreams,
    *,
    limit: int = 1000,
    check: Callable[[bytes], None] | None = None,
    path: str = PATH,
) -> bytes:
    sink = Buffer()

    async def verdict() -> bytes:
        if check is not None:
            check(sink.data)
        return sink.data

    return await upstreams.fetch(path, sink, limit=limit, check=verdict)


async def failure(upstreams: Upstreams, family: type[GoproxyError], **options: object) -> str:
    with pytest.raises(family) as caught:
        await fetch(upstreams, **options)  # type: ignore[arg-type]
    assert type(caught.value) is family
    return caught.value.sentence


@pytest.mark.parametrize(
    ("status", "comma", "pipe"),
    [
        (404, None, None),
        (410, None, None),
        (403, Refused, None),
        (401, Refused, None),
        (451, Refused, None),
        (500, UpstreamError, None),
        (502, UpstreamError, None),
        (204, UpstreamError, None),
        (206, UpstreamError, None),
        (304, UpstreamError, None),
    ],
)
async def test_separators(
    world: World,
    first: FakeUpstream,
    second: FakeUpstream,
    status: int,
    comma: type[GoproxyError] | None,
    pipe: type[GoproxyError] | None,
) -> None:
    first.on("*", Reply(b"", status))
    for separator, family in ((",", comma), ("|", pipe)):
        upstreams = await world.make(f"{first.url}{separator}{second.url}")
        if family is None:
            assert await fetch(upstreams) == b"from second"
        else:
            assert str(status) in await failure(upstreams, family)


@pytest.mark.parametrize(
    ("statuses", "family"),
    [
        ((500, 404), UpstreamError),
        ((404, 500), UpstreamError),
        ((404, 404), Absent),
        ((404, 403), Refused),
        ((403, 404), Refused),
        ((403, 500), UpstreamError),
        ((404, 503), Absent),  # a later one that cannot be reached does not outrank an earlier 404
        ((503, 404), UpstreamError),
    ],
)
async def test_ranks(
    world: World,
    first: FakeUpstream,
    second: FakeUpstream,
    statuses: tuple[int, int],
    family: type[GoproxyError],
) -> None:
    first.on("*", Reply(b"", statuses[0]))
    second.on("*", Reply(b"", statuses[1]))
    await failure(await world.make(f"{first.url}|{second.url}"), family)


async def test_off_ends_the_list(world: World, first: FakeUpstream) -> None:
    await failure(await world.make(f"{first.url},off"), Absent)
    assert "no upstream" in await failure(await world.make("off"), Absent)


async def test_sentence_of_a_refusal(world: World, first: FakeUpstream) -> None:
    first.on("*", Reply(b"go \x07away\nplease", 403, TEXT))
    assert await failure(await world.make(first.url), Refused) == f"{first.name}: 403 Whatever: go  away"
    first.on("*", Reply(b"x" * 5000, 403, TEXT))
    assert len(await failure(await world.make(first.url), Refused)) < 300
    first.on("*", Reply(b"<html>", 403, {"Content-Type": "text/html"}))
    assert await failure(await world.make(first.url), Refused) == f"{first.name}: 403 Whatever"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_trouble_is_retried_twice(world: World, first: FakeUpstream, status: int) -> None:
    upstreams = await world.make(first.url)
    first.on("*", Reply(b"", status), times=2)
    first.files[f"/{PATH}"] = b"at last"
    assert await fetch(upstreams) == b"at last"
    assert world.slept == [0.4, 0.8]
    assert [outcome for _, outcome in world.counts.outcomes] == ["unavailable", "unavailable", "ok"]


async def test_other_statuses_are_answers(world: World, first: FakeUpstream) -> None:
    first.on("*", Reply(b"", 500))
    await failure(await world.make(first.url), UpstreamError)
    assert len(first.requests) == 1


async def test_retry_after(world: World, first: FakeUpstream, second: FakeUpstream) -> None:
    upstreams = await world.make(f"{first.url}|{second.url}")
    first.on("*", Reply(b"", 429, {"Retry-After": "3"}), times=1)
    first.files[f"/{PATH}"] = b"first"
    assert await fetch(upstreams) == b"first"
    assert world.slept == [3.0]
    first.on("*", Reply(b"", 429, {"Retry-After": "100"}), times=1)
    assert await fetch(upstreams) == b"from second"  # too long to wait for
    world.now += 99
    assert await fetch(upstreams) == b"from second"
    world.now += 2
    assert await fetch(upstreams) == b"first"
    first.on("*", Reply(b"", 429, {"Retry-After": "tomorrow"}), times=1)
    assert await fetch(upstreams) == b"first"
    late = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100))
    first.on("*", Reply(b"", 503, {"Retry-After": late}), times=1)
    assert await fetch(upstreams) == b"from second"
    world.now += 90
    assert await fetch(upstreams) == b"from second"
    world.now += 12
    assert await fetch(upstreams) == b"first"


async def test_failures_at_once_are_one(world: World, first: FakeUpstream, second: FakeUpstream) -> None:
    upstreams = await world.make(f"{first.url}|{second.url}")
    first.on("*", Reply(b"", 503))
    gate = first.hold("*")
    fetches = [asyncio.create_task(fetch(upstreams)) for _ in range(20)]
    await gate.arrived.wait()
    await asyncio.sleep(0.05)
    gate.open()
    assert set(await asyncio.gather(*fetches)) == {b"from second"}
    first.forget_rules()
    first.files[f"/{PATH}"] = b"first"
    world.now += 1.1  # the first step, not the twentieth
    assert await fetch(upstreams) == b"first"


async def test_back_off_grows_and_one_probe_goes_first(
    world: World, first: FakeUpstream, second: FakeUpstream
) -> None:
    upstreams = await world.make(f"{first.url}|{second.url}")
    first.on("*", Reply(b"", 503))
    await fetch(upstreams)
    assert len(first.requests) == 3
    await fetch(upstreams)  # passed over
    assert len(first.requests) == 3
    for wait, seen in ((1.1, 4), (1.0, 4), (1.1, 5), (3.0, 5), (1.1, 6)):
        world.now += wait
        await fetch(upstreams)
        assert len(first.requests) == seen, wait
    first.forget_rules()
    first.files[f"/{PATH}"] = b"first"
    world.now += 100
    gate = first.hold("*")
    probe = asyncio.create_task(fetch(upstreams))
    await gate.arrived.wait()
    assert await fetch(upstreams) == b"from second"  # while the probe is out
    gate.open()
    assert await probe == b"first"
    assert await fetch(upstreams) == b"first"


async def test_never_passed_over_before_a_comma(
    world: World, first: FakeUpstream, second: FakeUpstream
) -> None:
    upstreams = await world.make(f"{first.url},{second.url}")
    first.on("*", Reply(b"", 503))
    for _ in range(2):
        await failure(upstreams, UpstreamError)
    assert len(first.requests) == 4  # three, then one while it is backed off from
    assert second.requests == []


async def test_tried_anyway_when_nothing_else_can_answer(
    world: World, first: FakeUpstream, second: FakeUpstream
) -> None:
    upstreams = await world.make(f"{first.url}|{second.url}")
    first.on("*", Reply(b"", 503), times=3)
    await fetch(upstreams)
    second.on("*", Reply(b"", 404))
    first.files[f"/{PATH}"] = b"first"
    assert await fetch(upstreams) == b"first"
    first.on("*", Reply(b"", 503))
    world.now += 100
    await fetch_ignoring(upstreams)
    assert "503" in await failure(upstreams, UpstreamError)


async def fetch_ignoring(upstreams: Upstreams) -> None:
    with pytest.raises(GoproxyError):
        await fetch(upstreams)


@pytest.mark.parametrize(
    ("reply", "family", "words", "requests"),
    [
        (Reply(b"short", length=100, send=5), UpstreamError, "cut off", 3),
        (Reply(b"short", length=100, send=5, then="reset"), UpstreamError, "", 3),
        (Reply(b"short", length=100, send=5, then="stall"), UpstreamTimeout, "no byte for 0.3 s", 3),
        (Reply(b"", length=5000, send=0, then="stall"), ContentError, "limit of 1000", 1),
        (Reply(bytes(5000), length=-1, send=5000), ContentError, "limit of 1000", 1),
        (Reply(gzip.compress(bytes(5000)), headers={"Content-Encoding": "gzip"}), ContentError, "limit", 1),
        (Reply(gzip.compress(b"x" * 99)[:-9], headers={"Content-Encoding": "gzip"}), UpstreamError, "cut", 3),
        (Reply(b"no gzip", headers={"Content-Encoding": "gzip"}), UpstreamError, "is no valid gzip", 3),
        (Reply(b"", 302), UpstreamError, "without a Location", 1),
        (Reply(b"", 302, {"Location": "ftp://x/y"}), UpstreamError, "no valid URL", 1),
        (Reply(b"", 302, {"Location": "http://[x"}), UpstreamError, "no valid URL", 1),
        (Reply(b"", 302, {"Location": "http://a:99999/"}), UpstreamError, "no valid URL", 1),
        (Reply(b"", 302, {"Location": f"http://{'x' * 64}.example/"}), UpstreamError, "", 1),
        (Reply(b"", 302, {"Location": "http://a..b/"}), UpstreamError, "", 1),
        (Reply(b"no", 500, reason="x" * 300), UpstreamError, f"500 {'x' * 40}", 1),
        (Reply(b"", 302, {"Location": "/again"}), UpstreamError, "too many redirects", 10),
    ],
)
async def test_bodies_and_redirects_that_fail(
    world: World, first: FakeUpstream, reply: Reply, family: type[GoproxyError], words: str, requests: int
) -> None:
    first.on("*", reply)
    sentence = await failure(await world.make(first.url), family)
    assert words in sentence
    assert sentence.startswith(first.name)
    assert len(first.requests) == requests


GZIP = {"Content-Encoding": "gzip"}
CHUNKED = {"Transfer-Encoding": "chunked"}
CUTS = {
    "length": Reply(b"short", length=100, send=5),
    "reset": Reply(b"short", length=100, send=5, then="reset"),
    "chunked": Reply(b"5\r\nshort\r\n", headers=CHUNKED, length=-1, send=10),
    "in a chunk": Reply(b"50\r\nshort", headers=CHUNKED, length=-1, send=9),
    "gzip": Reply(gzip.compress(b"x" * 99)[:-9], headers=GZIP),
    "no gzip": Reply(b"x" * 99, headers=GZIP),
}


@pytest.mark.parametrize("cut", CUTS)
async def test_a_cut_is_retried_as_a_stall_is(world: World, first: FakeUpstream, cut: str) -> None:
    upstreams = await world.make(first.url)
    first.on("*", CUTS[cut], times=2)
    first.files[f"/{PATH}"] = b"at last"
    assert await fetch(upstreams) == b"at last"
    assert world.slept == [0.4, 0.8]
    assert [outcome for _, outcome in world.counts.outcomes] == ["connection", "connection", "ok"]


async def test_a_file_that_is_always_cut_is_no_reason_to_back_off(
    world: World, first: FakeUpstream, second: FakeUpstream
) -> None:
    upstreams = await world.make(f"{first.url}|{second.url}")
    first.on(f"/{PATH}", CUTS["length"])
    first.files["/other"] = b"first"
    assert await fetch(upstreams) == b"from second"
    assert len(first.requests) == 3
    assert await fetch(upstreams, path="other") == b"first"


async def test_garbage_instead_of_http(world: World, first: FakeUpstream) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(b"SMTP ready\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert "no valid HTTP" in await failure(await world.make(url), UpstreamError)
    assert asked == 3
    server.close()


async def test_gzip_is_decoded(world: World, first: FakeUpstream) -> None:
    first.on("*", Reply(gzip.compress(b"plain" * 100), headers={"Content-Encoding": "gzip"}))
    assert await fetch(await world.make(first.url)) == b"plain" * 100
    members = gzip.compress(b"first, ") + gzip.compress(b"") + gzip.compress(b"second")
    first.on("*", Reply(members, headers={"Content-Encoding": "gzip"}))
    assert await fetch(await world.make(first.url)) == b"first, second"
    first.on("*", Reply(members[:-4], headers={"Content-Encoding": "gzip"}))
    assert "cut off" in await failure(await world.make(first.url), UpstreamError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(
    world: World, first: FakeUpstream, second: FakeUpstream, status: int
) -> None:
    first.on(f"/{PATH}", Reply(b"", status, {"Location": "../elsewhere"}))
    first.on("/example.com/m/elsewhere", Reply(b"", status, {"Location": f"{second.url}/x"}))
    url = first.url.replace("//", "//user:secret@")
    assert await fetch(await world.make(url)) == b"from second"
    assert all(b"Authorization: Basic" in head for head in first.heads)
    assert b"Authorization" not in second.heads[0]
    assert world.counts.outcomes == [(first.name, "ok")] * len(first.heads)


async def test_userinfo_is_shown_nowhere(world: World, first: FakeUpstream) -> None:
    upstreams = await world.make(first.url.replace("//", "//us%40er:secret@"))
    assert upstreams.names == [first.name]
    assert "secret" not in await failure(upstreams, Absent)


async def test_only_a_get_without_client_headers(world: World, first: FakeUpstream) -> None:
    await fetch_ignoring(await world.make(first.url + "/base/"))
    head = first.heads[0].decode()
    assert head.startswith(f"GET /base/{PATH} HTTP/1.1\r\n")
    names = {line.split(":")[0] for line in head.split("\r\n")[1:] if line}
    assert names == {"Host", "Accept", "Accept-Encoding", "User-Agent", "Prefer", "CDN-Loop"}


async def test_bang_is_escaped_but_not_in_lookups(world: World, first: FakeUpstream) -> None:
    upstreams = await world.make(first.url)
    for path in ("example.com/!m/@v/list", "sumdb/x/lookup/!m@v1"):
        with pytest.raises(Absent):
            await fetch(upstreams, path=path)
    assert b"/%21m/" in first.heads[0]
    assert b"/!m@v1" in first.heads[1]


@pytest.mark.parametrize("version", ["a#b", "a b", "%2e%2e%2fx", "a+b", "a,b=c"])
async def test_path_means_the_same_to_the_upstream(world: World, first: FakeUpstream, version: str) -> None:
    upstreams = await world.make(first.url)
    with pytest.raises(Absent):
        await fetch(upstreams, path=f"example.com/m/@v/{version}.info")
    assert first.requests == [f"/example.com/m/@v/{version}.info"]


async def test_check_that_fails(world: World, first: FakeUpstream, second: FakeUpstream) -> None:
    first.on("*", Reply(b"bad"))

    def check(data: bytes) -> None:
        if data == b"bad":
            raise ContentError("it is bad")

    assert await fetch(await world.make(f"{first.url}|{second.url}"), check=check) == b"from second"
    comma = await world.make(f"{first.url},{second.url}")
    assert await failure(comma, ContentError, check=check) == f"{first.name}: it is bad"
    assert (first.name, "content") in world.counts.outcomes


async def test_no_room_passes_through(world: World, first: FakeUpstream, second: FakeUpstream) -> None:
    class Full(Buffer):
        async def write(self, chunk: bytes) -> None:
            raise NoRoom("full")

    first.on("*", Reply(b"data"))
    upstreams = await world.make(f"{first.url}|{second.url}")

    async def check() -> None:
        raise AssertionError("nothing was written")

    with pytest.raises(NoRoom):
        await upstreams.fetch(PATH, Full(), limit=10, check=check)
    assert second.requests == []


async def test_one_upstream_alone(world: World, first: FakeUpstream, second: FakeUpstream) -> None:
    upstreams = await world.make(f"{first.url},{second.url}")
    sink = Buffer()

    async def check() -> bytes:
        return sink.data

    assert await upstreams.carriers[1].fetch_alone(PATH, sink, 99, check) == b"from second"
    with pytest.raises(Absent):
        await upstreams.carriers[0].fetch_alone(PATH, sink, 99, check)
    first.on("*", Reply(b"", 503))
    with pytest.raises(UpstreamError):
        await upstreams.carriers[0].fetch_alone(PATH, sink, 99, check)
    assert upstreams.carriers[0].failing
    assert not upstreams.carriers[1].failing


async def test_an_error_tells_what_each_upstream_said(world: World, first: FakeUpstream) -> None:
    """One of them decides the status; which of them can be mended is for who reads it."""
    first.on("*", Reply(b"not available", 403, {"Content-Type": "text/plain"}))
    port = closed_port()
    said = await failure(await world.make(f"http://127.0.0.1:{port}|{first.url}"), UpstreamError)
    assert (
        said
        == f"127.0.0.1:{port}: cannot connect: Connection refused; {first.name}: 403 Whatever: not available"
    )


AT_WORK = Reply(b"later\n", 202, {"Preference-Applied": "respond-async"})


async def test_an_upstream_that_says_it_is_at_work_is_asked_again(world: World, first: FakeUpstream) -> None:
    upstreams = await world.make(first.url)
    first.on("*", AT_WORK, times=5)
    first.files[f"/{PATH}"] = b"at last"
    assert await fetch(upstreams) == b"at last"
    assert all(b"Prefer: respond-async, wait=0.1\r\n" in head for head in first.heads)
    assert world.counts.outcomes == [(first.name, "ok")] * 6
    assert world.slept == [], "nothing failed"


async def test_one_that_falls_silent_after_it_said_so_is_given_up(world: World, first: FakeUpstream) -> None:
    upstreams = await world.make(first.url)
    first.on("*", Reply(b"", length=9, send=0, then="stall"))
    first.on("*", AT_WORK, times=2)
    assert "no byte for 0.3 s" in await failure(upstreams, UpstreamTimeout)
    assert len(first.requests) == 2 + 3


async def test_one_that_says_so_for_ever_is_given_up(world: World, first: FakeUpstream) -> None:
    upstreams = await world.make(first.url, total=0.5)
    first.on("*", AT_WORK)
    assert "still at work after 0.5 s" in await failure(upstreams, UpstreamTimeout)
    assert len(first.requests) <= 6, "no sooner than after the time that was asked for"


async def test_a_202_that_nobody_asked_for_is_no_answer(world: World, first: FakeUpstream) -> None:
    first.on("*", Reply(b"", 202))
    assert "202" in await failure(await world.make(first.url), UpstreamError)
    assert len(first.requests) == 1


async def test_connection_refused(world: World) -> None:
    upstreams = await world.make(f"http://127.0.0.1:{closed_port()}")
    assert "cannot connect" in await failure(upstreams, UpstreamError)
    assert [outcome for _, outcome in world.counts.outcomes] == ["connection"] * 3


async def test_name_that_does_not_resolve(world: World) -> None:
    upstreams = await world.make("http://upstream.invalid")
    assert "upstream.invalid: " in await failure(upstreams, UpstreamError)


async def test_connect_timeout(world: World) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
            upstreams = await world.make(f"http://127.0.0.1:{sock.getsockname()[1]}", connect=0.2)
            assert "no connection within 0.2 s" in await failure(upstreams, UpstreamTimeout)
        finally:
            for filler in fillers:
                filler.close()


async def test_environment_proxy(
    world: World, first: FakeUpstream, second: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", second.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert await fetch(await world.make("http://upstream.invalid")) == b"from second"
    assert second.heads[0].startswith(f"GET http://upstream.invalid/{PATH} ".encode())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    first.on("*", Reply(b"direct"))
    assert await fetch(await world.make(first.url)) == b"direct"


async def test_netrc(
    world: World, first: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    await fetch_ignoring(await world.make(first.url))
    assert b"Authorization: Basic bWU6c2VjcmV0" in first.heads[0]
    await fetch_ignoring(await world.make(first.url.replace("//", "//other:word@")))
    assert b"Authorization: Basic b3RoZXI6d29yZA==" in first.heads[1]
    assert first.heads[1].count(b"Authorization") == 1


async def test_proxy_on_the_way_that_refuses(
    world: World, first: FakeUpstream, second: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", second.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    second.on("*", Reply(b"", 407))
    sentence = await failure(await world.make("https://upstream.invalid"), UpstreamError)
    assert sentence == "upstream.invalid: the proxy on the way to it answered 407"
    assert {outcome for _, outcome in world.counts.outcomes} == {"connection"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("upstream.invalid")]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "cert.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


Tls = Callable[[bytes], Awaitable[str]]


@pytest.fixture
async def tls(certificate: Path) -> AsyncIterator[Tls]:
    """Start a TLS server that gives one answer to all; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    servers: list[asyncio.Server] = []

    async def start(answer: bytes) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


async def test_certificates(world: World, tls: Tls, certificate: Path) -> None:
    url = await tls(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert "not trusted" in await failure(await world.make(url), UpstreamError)
    assert await fetch(await world.make(url, ca_file=certificate)) == b"ok"


async def test_no_redirect_from_https_to_http(
    world: World, tls: Tls, certificate: Path, second: FakeUpstream
) -> None:
    url = await tls(f"HTTP/1.1 302 Found\r\nLocation: {second.url}\r\nContent-Length: 0\r\n\r\n".encode())
    upstreams = await world.make(url, ca_file=certificate)
    assert "from https to http" in await failure(upstreams, UpstreamError)
    assert second.requests == []


async def test_tls_to_a_plain_port(world: World, first: FakeUpstream) -> None:
    upstreams = await world.make(first.url.replace("http:", "https:"))
    with pytest.raises(UpstreamError, match=first.name):
        await fetch(upstreams)


async def test_bad_ca_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("no PEM")
    for name in ("absent", "empty"):
        with pytest.raises(StartError, match="upstream_ca_file"):
            await world.make("http://127.0.0.1", ca_file=tmp_path / name)


async def test_file_upstream(world: World, tmp_path: Path) -> None:
    upstreams = await world.make(f"file://{tmp_path}")
    await failure(upstreams, Absent)
    file = tmp_path / PATH
    file.parent.mkdir(parents=True)
    file.write_bytes(b"v1.0.0\n")
    assert await fetch(upstreams) == b"v1.0.0\n"
    assert "limit of 3" in await failure(upstreams, ContentError, limit=3)
    with pytest.raises(Absent):
        await fetch(upstreams, path="example.com/m/@v")
    with pytest.raises(Absent):
        await fetch(upstreams, path=f"{PATH}/below")
    with pytest.raises(Refused):
        await fetch(upstreams, path="a" * 5000)
    assert {outcome for _, outcome in world.counts.outcomes} == {"ok", "not_found", "refused", "content"}


async def test_where_nothing_was_started_nothing_can_be_asked() -> None:
    """As in offline mode: it is no absence, and no bug."""
    both = parse_upstreams("http://127.0.0.1:1|http://127.0.0.1:2")
    upstreams = Upstreams(both, Timeouts(1, 1, 1), Counts(), NAME)

    async def check() -> None:
        raise AssertionError("nothing has come")

    with pytest.raises(UpstreamError, match="no upstream is asked"):
        await upstreams.fetch(PATH, Buffer(), limit=1, check=check)
    for carrier in upstreams.carriers:
        assert carrier.failing
        with pytest.raises(UpstreamError, match="no upstream is asked"):
            await carrier.fetch_alone(PATH, Buffer(), 1, check)
    await upstreams.close()


async def test_what_is_told_of_each(world: World, second: FakeUpstream) -> None:
    port = closed_port()
    upstreams = await world.make(f"http://u:secret@127.0.0.1:{port}|{second.url},file:///nowhere")
    await upstreams.trials()
    assert [name for name, _ in upstreams.conditions()] == [f"127.0.0.1:{port}", second.name, "/nowhere"]
    closed, answering, directory = [each for _, each in upstreams.conditions()]
    assert (closed.state, answering.state, directory.state) == ("failing", "ok", "untried")
    assert "Connect call failed" in closed.reason
    assert closed.failing_seconds is None
    await fetch(upstreams)
    world.now += 0.4
    closed = upstreams.conditions()[0][1]
    assert (closed.state, closed.failing_seconds) == ("backed_off", pytest.approx(0.4))
    assert closed.retry_seconds == pytest.approx(0.6)
    assert closed.reason == f"127.0.0.1:{port}: cannot connect: Connection refused"
    world.now += 0.6
    closed = upstreams.conditions()[0][1]
    assert (closed.state, closed.retry_seconds) == ("failing", None)
    assert upstreams.carriers[0].condition.state == "untried"  # as a carrier of the checksum database
