"""The numbered cases of the protocol, against a whole server."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from tests.fakes.modules import build_zip, raw_zip
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Host, Serve
from tests.malformed import MALFORMED

M = "/example.com/m"
PSEUDO = "v0.0.0-20191109021931-daa7c04131f5"
IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture
async def host(serve: Serve, upstream: FakeUpstream) -> Host:
    return await serve(upstream)


def refused_text(text: str) -> None:
    """Case 80: what ``go`` shows of an error."""
    assert len(text.encode()) <= 648
    assert len(text.splitlines()) <= 8
    assert text.startswith("goproxy-vm: ")
    assert "[request " in text


async def fails(host: Host, path: str, status: int, *words: str) -> None:
    got = await host.get(path)
    assert got.status == status, got
    assert got.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "Cache-Status" in got.headers
    refused_text(got.text)
    for word in words:
        assert word in got.text


async def test_case_1_list(host: Host, upstream: FakeUpstream) -> None:
    upstream.on(f"{M}/@v/list", Reply(f"v1.0.0\nv0.9.0\n{PSEUDO} 2019-11-09T02:19:31Z\n".encode()))
    got = await host.get(f"{M}/@v/list")
    assert (got.status, got.body) == (200, f"{PSEUDO}\nv0.9.0\nv1.0.0\n".encode())
    assert got.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert got.headers["Cache-Control"] == "public, max-age=60"
    assert got.headers["Cache-Status"] == "goproxy-vm; fwd=uri-miss; stored"
    again = await host.get(f"{M}/@v/list")
    assert again.headers["Cache-Status"] == "goproxy-vm; hit"
    assert upstream.count(f"{M}/@v/list") == 1


async def test_case_2_tagless_module(host: Host, upstream: FakeUpstream) -> None:
    upstream.on(f"{M}/@v/list", Reply(b""))
    got = await host.get(f"{M}/@v/list")
    assert (got.status, got.body) == (200, b"")


async def test_case_3_unknown_module(host: Host, upstream: FakeUpstream) -> None:
    await fails(host, "/example.com/none/@v/list", 404, "example.com/none list", upstream.name)
    got = await host.get("/example.com/none/@v/list")
    assert got.headers["Cache-Control"] == "public, max-age=60"
    assert upstream.count("/example.com/none/*") == 1


async def test_case_4_gone(host: Host, upstream: FakeUpstream) -> None:
    upstream.on(f"{M}/@v/list", Reply(b"", 410))
    await fails(host, f"{M}/@v/list", 404)


async def test_case_5_upstream_fails_and_nothing_is_stored(host: Host, upstream: FakeUpstream) -> None:
    upstream.on("*", Reply(b"database on fire\n", 500, {"Content-Type": "text/plain"}))
    await fails(host, f"{M}/@v/list", 502, "database on fire", "500", upstream.name)
    assert upstream.count("*") == 1  # 500 is an answer: not retried


async def test_case_5a_refusal(host: Host, upstream: FakeUpstream) -> None:
    refusal = Reply(b"no lists here\n", 403, {"Content-Type": "text/plain"})
    upstream.on(f"{M}/@v/list", refusal)
    await fails(host, f"{M}/@v/list", 403, "no lists here")
    for extension in ("info", "mod", "zip"):
        assert (await host.get(f"{M}/@v/v1.0.0.{extension}")).status == 200
    assert (await host.get(f"{M}/@v/v0.9.0.info")).status == 200  # not whole: not listed
    got = await host.get(f"{M}/@v/list")
    assert (got.status, got.body) == (200, b"v1.0.0\n")
    assert got.headers["Cache-Status"] == "goproxy-vm; hit; detail=built-from-stored-versions"


async def test_case_6_stale(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, fresh=0.0)
    assert (await host.get(f"{M}/@v/list")).status == 200
    upstream.on("*", Reply(b"", 500))
    got = await host.get(f"{M}/@v/list")
    assert (got.status, got.body) == (200, b"v0.9.0\nv1.0.0\n")
    assert got.headers["Cache-Status"] == "goproxy-vm; hit; detail=stale"
    upstream.forget_rules()
    upstream.add_module("example.com/m", "v1.1.0")
    assert (await host.get(f"{M}/@v/list")).body == b"v0.9.0\nv1.0.0\nv1.1.0\n"


async def test_case_6_too_stale(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, fresh=0.0, stale=0.0)
    assert (await host.get(f"{M}/@v/list")).status == 200
    upstream.on("*", Reply(b"", 500))
    await fails(host, f"{M}/@v/list", 502)


async def test_case_7_wrong_major_is_dropped(host: Host, upstream: FakeUpstream) -> None:
    upstream.on(f"{M}/@v/list", Reply(b"v1.0.0\nv2.0.0\n"))
    assert (await host.get(f"{M}/@v/list")).body == b"v1.0.0\n"


async def test_case_8_latest(host: Host) -> None:
    got = await host.get(f"{M}/@latest")
    assert got.status == 200
    assert json.loads(got.body)["Version"] == "v1.0.0"
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Cache-Control"] == "public, max-age=60"


async def test_case_9_no_latest(host: Host, upstream: FakeUpstream) -> None:
    upstream.on(f"{M}/@latest", Reply(b"", 404))
    await fails(host, f"{M}/@latest", 404)


async def test_case_10_info(host: Host, upstream: FakeUpstream) -> None:
    got = await host.get(f"{M}/@v/v1.0.0.info")
    assert got.body == upstream.files[f"{M}/@v/v1.0.0.info"]
    assert got.headers["Cache-Control"] == "public, max-age=86400"


@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("11", b'{"Version":"v1.0.1"}'),
        ("12", b"<html>"),
        ("12", b"[]"),
        ("12", b""),
        ("12", b'\xef\xbb\xbf{"Version":"v1.0.0"}'),
        ("15", b'{"Version":"v1.0.0","Time":""}'),
    ],
)
async def test_case_11_12_15_info_that_clients_refuse(
    host: Host, upstream: FakeUpstream, case: str, body: bytes
) -> None:
    upstream.on(f"{M}/@v/v1.0.0.info", Reply(body), times=1)
    await fails(host, f"{M}/@v/v1.0.0.info", 502, "example.com/m@v1.0.0 info", upstream.name)
    assert (await host.get(f"{M}/@v/v1.0.0.info")).status == 200  # not stored, fetched anew


@pytest.mark.parametrize(
    "body", [b'{"Version":"v1.0.0"}', b'{"Version":"v1.0.0","Origin":{"VCS":"git"},"X":1}']
)
async def test_case_13_14_info_is_passed_through(host: Host, upstream: FakeUpstream, body: bytes) -> None:
    upstream.on(f"{M}/@v/v1.0.0.info", Reply(body))
    for _ in range(2):
        assert (await host.get(f"{M}/@v/v1.0.0.info")).body == body


async def test_case_16_branch(host: Host, upstream: FakeUpstream) -> None:
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"v1.0.0"}'
    got = await host.get(f"{M}/@v/master.info")
    assert (got.status, got.headers["Cache-Control"]) == (200, "public, max-age=60")


async def test_case_16a_branch_named_as_a_version(host: Host, upstream: FakeUpstream) -> None:
    upstream.files[f"{M}/@v/master.info"] = b'{"Version":"master"}'
    await fails(host, f"{M}/@v/master.info", 502, "canonical")


async def test_case_17_escaped_branch(host: Host, upstream: FakeUpstream) -> None:
    upstream.files[f"{M}/@v/!my!branch.info"] = b'{"Version":"v1.0.0"}'
    assert (await host.get(f"{M}/@v/%21my%21branch.info")).status == 200
    assert (await host.get(f"{M}/@v/!my!branch.info")).headers["Cache-Status"] == "goproxy-vm; hit"
    assert b"%21my%21branch" in upstream.heads[0]


@pytest.mark.parametrize(("case", "query"), [("18", "abcdefa"), ("19", "v1"), ("19", "v1.2")])
async def test_case_18_19_queries(host: Host, upstream: FakeUpstream, case: str, query: str) -> None:
    upstream.files[f"{M}/@v/{query}.info"] = b'{"Version":"v1.0.0"}'
    assert json.loads((await host.get(f"{M}/@v/{query}.info")).body)["Version"] == "v1.0.0"


@pytest.mark.parametrize("body", [b"module example.com/m\r\n", b"module example.com/m\n"])
async def test_case_21_22_mod_is_served_as_it_is(host: Host, upstream: FakeUpstream, body: bytes) -> None:
    upstream.on(f"{M}/@v/v1.0.0.mod", Reply(body))
    got = await host.get(f"{M}/@v/v1.0.0.mod")
    assert (got.body, got.headers["Cache-Control"]) == (body, IMMUTABLE)


async def test_case_24_zip(host: Host, upstream: FakeUpstream) -> None:
    got = await host.get(f"{M}/@v/v1.0.0.zip")
    assert got.body == upstream.files[f"{M}/@v/v1.0.0.zip"]
    assert got.headers["Content-Length"] == str(len(got.body))
    assert got.headers["Content-Type"] == "application/zip"
    assert got.headers["Cache-Control"] == IMMUTABLE
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).headers["Cache-Status"] == "goproxy-vm; hit"
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="hit"}') == 1
    assert await host.metric('goproxy_vm_requests_total{endpoint="zip",result="miss"}') == 1


async def test_case_25_incompatible(host: Host, upstream: FakeUpstream) -> None:
    upstream.add_module("example.com/m", "v2.0.0+incompatible", {"m.go": b"package m\n"})
    got = await host.get(f"{M}/@v/v2.0.0+incompatible.zip")
    assert got.status == 200
    assert (await host.get(f"{M}/@v/v2.0.0%2Bincompatible.zip")).body == got.body
    assert upstream.count("*.zip") == 1


async def test_case_26_disagreeing_version_is_a_query(host: Host, upstream: FakeUpstream) -> None:
    upstream.files[f"{M}/@v/v2.0.0.info"] = b'{"Version":"v2.0.0+incompatible"}'
    assert b"+incompatible" in (await host.get(f"{M}/@v/v2.0.0.info")).body


async def test_case_27_gopkg(host: Host, upstream: FakeUpstream) -> None:
    version = "v0.0.0-20161208181325-20d25e280405"
    upstream.add_module("gopkg.in/check.v1", version)
    assert (await host.get(f"/gopkg.in/check.v1/@v/{version}.mod")).status == 200


@pytest.mark.parametrize(
    ("case", "path"), MALFORMED, ids=[f"case_{case}-{number}" for number, (case, _) in enumerate(MALFORMED)]
)
async def test_malformed_paths_never_reach_an_upstream(
    host: Host, upstream: FakeUpstream, case: str, path: str
) -> None:
    await fails(host, path, 404)
    assert upstream.requests == []
    assert await host.metric("goproxy_vm_requests_total{") == 1
    page = (await host.admin("/metrics")).text
    assert 'result="refused"} 1' in page


async def test_case_45_raw_byte(host: Host) -> None:
    assert await raw(host, b"GET /example.com/\xff/@v/list HTTP/1.1\r\nHost: x\r\n\r\n") in (b"400", b"404")


async def test_case_47_long_request_line(host: Host) -> None:
    assert await raw(host, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n") == b"400"


async def raw(host: Host, request: bytes) -> bytes:
    """The status of the answer to raw bytes."""
    address, _, port = host.server.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    writer.write(request)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line.split()[1]


async def test_case_32_escaped_prerelease(host: Host, upstream: FakeUpstream) -> None:
    upstream.add_module("example.com/m", "v1.0.0-RC1")
    assert (await host.get(f"{M}/@v/v1.0.0-!r!c1.info")).status == 200


async def test_case_49_query_is_ignored(host: Host, upstream: FakeUpstream) -> None:
    assert (await host.get(f"{M}/@v/v1.0.0.mod?x=1")).status == 200
    assert (await host.get(f"{M}/@v/v1.0.0.mod?y=2")).headers["Cache-Status"] == "goproxy-vm; hit"


@pytest.mark.parametrize(
    "path", [f"{M}/@v/v1.0.0.zip", f"{M}/@v/v1.0.0.mod", f"{M}/@v/list", "/", "/healthz"]
)
async def test_case_50_head_is_get_without_body(host: Host, path: str) -> None:
    head = await host.get(path, method="HEAD")  # a miss fetches
    got = await host.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(got.body))
    for name in ("Content-Type", "ETag", "Accept-Ranges", "Content-Length"):
        assert head.headers.get(name) == got.headers.get(name)


async def test_case_50_head_of_the_unknown(host: Host) -> None:
    got = await host.get("/example.com/none/@v/list", method="HEAD")
    assert (got.status, got.body) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_case_51_other_methods(host: Host, upstream: FakeUpstream, method: str) -> None:
    for path in (f"{M}/@v/list", "/", "/nonsense"):
        got = await host.get(path, method=method)
        assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")
    assert upstream.requests == []


async def test_case_52_53_54_ranges(host: Host) -> None:
    whole = (await host.get(f"{M}/@v/v1.0.0.zip")).body
    part = await host.get(f"{M}/@v/v1.0.0.zip", Range="bytes=0-9")
    assert (part.status, part.body) == (206, whole[:10])
    assert part.headers["Content-Range"] == f"bytes 0-9/{len(whole)}"
    past = await host.get(f"{M}/@v/v1.0.0.zip", Range="bytes=999999-")
    assert (past.status, past.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    etag = part.headers["ETag"]
    assert (await host.get(f"{M}/@v/v1.0.0.zip", Range="bytes=0-9", If_Range=etag)).status == 206
    assert (await host.get(f"{M}/@v/v1.0.0.zip", Range="bytes=0-9", If_Range='"old"')).status == 200
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).status == 200
    assert (await host.get(f"{M}/@v/list", Range="bytes=0-1")).status == 200


async def test_case_52_range_of_a_large_file(host: Host, upstream: FakeUpstream) -> None:
    body = bytes(range(256)) * 4096
    upstream.add_module(
        "example.com/big", "v1.0.0", zipped=build_zip("example.com/big", "v1.0.0", {"b": body}, stored=True)
    )
    whole = (await host.get("/example.com/big/@v/v1.0.0.zip")).body
    assert whole == upstream.files["/example.com/big/@v/v1.0.0.zip"]
    part = await host.get("/example.com/big/@v/v1.0.0.zip", Range="bytes=1000-900000")
    assert part.body == whole[1000:900001]
    tail = await host.get("/example.com/big/@v/v1.0.0.zip", Range="bytes=-7")
    assert tail.body == whole[-7:]


async def test_case_55_validators(host: Host) -> None:
    etag = (await host.get(f"{M}/@v/v1.0.0.mod")).headers["ETag"]
    got = await host.get(f"{M}/@v/v1.0.0.mod", If_None_Match=etag)
    assert (got.status, got.body, got.headers["ETag"]) == (304, b"", etag)
    assert (await host.get(f"{M}/@v/v1.0.0.mod", If_None_Match='"other"')).status == 200
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200


async def test_case_56_never_encoded(host: Host) -> None:
    got = await host.get(f"{M}/@v/v1.0.0.zip", Accept_Encoding="gzip")
    assert "Content-Encoding" not in got.headers


async def test_upstream_may_encode(host: Host, upstream: FakeUpstream) -> None:
    plain = upstream.files[f"{M}/@v/v1.0.0.mod"]
    upstream.on("*.mod", Reply(gzip.compress(plain), headers={"Content-Encoding": "gzip"}))
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).body == plain


async def not_stored(host: Host, upstream: FakeUpstream, reply: Reply, status: int, *words: str) -> None:
    """A bad zip is refused, leaves nothing behind, and is fetched anew."""
    path = f"{M}/@v/v1.0.0.zip"
    upstream.on("*.zip", reply, times=3)
    await fails(host, path, status, *words)
    assert (await host.get(path, Disable_Module_Fetch="true")).status == 404
    upstream.forget_rules()
    assert (await host.get(path)).body == upstream.files[path]


async def test_case_63_zip_shorter_than_content_length(host: Host, upstream: FakeUpstream) -> None:
    whole = upstream.files[f"{M}/@v/v1.0.0.zip"]
    await not_stored(host, upstream, Reply(whole, send=len(whole) - 5), 502, "cut off")


@pytest.mark.parametrize("body", [b"", b"<html>"])
async def test_case_64_zip_empty_or_html(host: Host, upstream: FakeUpstream, body: bytes) -> None:
    await not_stored(host, upstream, Reply(body), 502, "not a valid zip")


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("65", ["example.com/m@v1.0.1/a"]),
        ("66", ["example.com/m@v1.0.0/../x"]),
        ("67", ["example.com/m@v1.0.0/a.go", "example.com/m@v1.0.0/A.go"]),
        ("68", ["example.com/m@v1.0.0/sub/go.mod"]),
    ],
)
async def test_case_65_to_68_structure(
    host: Host, upstream: FakeUpstream, case: str, names: list[str]
) -> None:
    await not_stored(host, upstream, Reply(raw_zip(dict.fromkeys(names, b""))), 502, "zip: ")


async def test_case_69_over_the_limit(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, max_zip_size=1000)
    upstream.on("*.zip", Reply(b"x", length=5000, send=1, then="stall"))
    await fails(host, f"{M}/@v/v1.0.0.zip", 502, "limit of 1000 bytes")
    upstream.on("*.zip", Reply(bytes(5000), length=-1, send=5000))
    await fails(host, f"{M}/@v/v1.0.0.zip", 502, "limit of 1000 bytes")


async def test_case_70_bad_crc(host: Host, upstream: FakeUpstream) -> None:
    whole = build_zip("example.com/m", "v1.0.0", {"a": b"content"}, stored=True)
    await not_stored(host, upstream, Reply(whole.replace(b"content", b"CONTENT")), 502, "checksum")


async def test_case_74_one_flight(host: Host, upstream: FakeUpstream) -> None:
    gate = upstream.hold("*.zip")
    path = f"{M}/@v/v1.0.0.zip"
    clients = [asyncio.create_task(host.get(path)) for _ in range(50)]
    await gate.arrived.wait()
    gate.open()
    answers = await asyncio.gather(*clients)
    assert {got.body for got in answers} == {upstream.files[path]}
    assert upstream.count("*.zip") == 1
    assert upstream.count("*.mod") == 1
    statuses = [got.headers["Cache-Status"] for got in answers]
    assert statuses.count("goproxy-vm; fwd=uri-miss; stored") == 1


async def test_case_75_client_leaves_in_the_middle(host: Host, upstream: FakeUpstream) -> None:
    gate = upstream.hold("*.zip")
    path = f"{M}/@v/v1.0.0.zip"
    first = asyncio.create_task(host.get(path))
    await gate.arrived.wait()
    second = asyncio.create_task(host.get(path))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open()
    assert (await second).body == upstream.files[path]
    assert upstream.count("*.zip") == 1


async def test_case_76_disable_module_fetch(host: Host, upstream: FakeUpstream) -> None:
    paths = [
        f"{M}/@v/v1.0.0.info",
        f"{M}/@v/v1.0.0.mod",
        f"{M}/@v/v1.0.0.zip",
        f"{M}/@v/list",
        f"{M}/@latest",
    ]
    for path in paths:
        assert (await host.get(path, Disable_Module_Fetch="true")).status == 404
    assert upstream.requests == []
    for path in paths:
        assert (await host.get(path)).status == 200
    seen = len(upstream.requests)
    for path in paths:
        assert (await host.get(path, Disable_Module_Fetch="true")).status == 200
        assert (await host.get(f"/cached-only{path}")).status == 200  # case 77
    assert len(upstream.requests) == seen


async def test_case_76_list_is_built_from_stored_versions(host: Host) -> None:
    for extension in ("info", "mod", "zip"):
        await host.get(f"{M}/@v/v0.9.0.{extension}")
    got = await host.get(f"/cached-only{M}/@v/list")
    assert (got.status, got.body) == (200, b"v0.9.0\n")


async def test_case_77_cached_only_cold(host: Host, upstream: FakeUpstream) -> None:
    await fails(host, f"/cached-only{M}/@v/v1.0.0.zip", 404, "this request may not fetch it")
    assert upstream.requests == []


async def test_case_79_policy(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, deny="example.com/m,*.evil.example")
    await fails(host, f"{M}/@v/list", 403, "deny")
    await fails(host, f"{M}/sub/@v/v1.0.0.zip", 403)
    assert upstream.requests == []


async def test_case_80_every_error_can_be_shown(host: Host, upstream: FakeUpstream) -> None:
    upstream.on("*", Reply("\n".join(["☠ " * 300] * 20).encode(), 503, {"Content-Type": "text/plain"}))
    for path, status in ((f"{M}/@v/list", 502), ("/nonsense", 404), (f"{M}/@v/v1.0.0.zip", 502)):
        await fails(host, path, status)
    for got in (await host.get("/", method="POST"), await host.get(f"{M}/@v/{'a' * 9000}.info")):
        assert got.headers["Content-Type"] == "text/plain; charset=utf-8"
        refused_text(got.text)


async def test_content_that_changes_is_refused_for_ever(serve: Serve, upstream: FakeUpstream) -> None:
    """A ``.mod`` and a ``.zip`` are held to the h1 seen first, also after the files are gone."""
    host = await serve(upstream)
    for extension in ("mod", "zip"):
        assert (await host.get(f"{M}/@v/v1.0.0.{extension}")).status == 200
    await host.server.stop()
    for file in (host.settings.cache_dir / "modules").rglob("v1.0.0.*"):
        file.unlink()
    host = await serve(upstream)
    good = upstream.files[f"{M}/@v/v1.0.0.zip"]
    upstream.files[f"{M}/@v/v1.0.0.mod"] = b"module example.com/m // changed\n"
    upstream.files[f"{M}/@v/v1.0.0.zip"] = build_zip("example.com/m", "v1.0.0", {"m.go": b"package evil\n"})
    for extension in ("mod", "zip"):
        await fails(host, f"{M}/@v/v1.0.0.{extension}", 502, "h1:", "first seen")
    upstream.files[f"{M}/@v/v1.0.0.zip"] = good
    assert (await host.get(f"{M}/@v/v1.0.0.zip")).body == good
