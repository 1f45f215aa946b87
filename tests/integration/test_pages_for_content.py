"""A page that comes with status 200 is never taken for content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Serve
from tests.integration.test_database import LOOKUP, NAME, World

M = "/example.com/m"


@pytest.fixture(autouse=True)
def query(upstream: FakeUpstream) -> None:
    upstream.files[f"{M}/@v/main.info"] = upstream.files[f"{M}/@v/v1.0.0.info"]


FILES = ["@v/list", "@latest", "@v/v1.0.0.info", "@v/main.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip"]
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGES = [b"<html><body>sign in</body></html>\n", b"", b'{"error":"no"}', b"\x00\x01\x02"]


@pytest.mark.parametrize("page", [*PAGES, b"module unavailable\n", b"module example.com/m.\n"])
async def test_a_page_is_not_the_mod_seen_first(serve: Serve, upstream: FakeUpstream, page: bytes) -> None:
    host = await serve(upstream)
    upstream.on(f"{M}/@v/v1.0.0.mod", Reply(page))
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 502
    upstream.forget_rules()
    got = await host.get(f"{M}/@v/v1.0.0.mod")
    assert (got.status, got.body) == (200, upstream.files[f"{M}/@v/v1.0.0.mod"])


@pytest.mark.parametrize("page", [page for page in PAGES if page])
async def test_a_page_does_not_replace_the_list(serve: Serve, upstream: FakeUpstream, page: bytes) -> None:
    host = await serve(upstream, fresh=0.0)
    good = (await host.get(f"{M}/@v/list")).body
    upstream.on(f"{M}/@v/list", Reply(page))
    got = await host.get(f"{M}/@v/list")
    assert (got.status, got.body) == (200, good)
    assert got.headers["Cache-Status"] == "goproxy-vm; hit; detail=stale"
    assert (await host.get("/example.com/none/@v/list")).status == 404


@pytest.mark.parametrize("file", FILES)
async def test_the_next_upstream_is_tried(serve: Serve, upstream: FakeUpstream, file: str) -> None:
    async with FakeUpstream() as portal:
        portal.on("*", Reply(PAGES[0]))
        host = await serve(f"{portal.url}|{upstream.url}")
        got = await host.get(f"{M}/{file}")
        assert (got.status, got.body) == (200, upstream.files[f"{M}/{file}"])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("redirected", [False, True])
async def test_a_login_page_is_said_to_be_one(
    serve: Serve, upstream: FakeUpstream, file: str, *, redirected: bool
) -> None:
    async with FakeUpstream() as login:
        login.on("*", Reply(PAGES[0], headers=HTML))
        if redirected:
            upstream.on("*", Reply(b"", 302, {"Location": f"{login.url}/login?back=x"}))
            host = await serve(f"{upstream.url},http://127.0.0.1:1", negative=60.0)
        else:
            host = await serve(f"{login.url},{upstream.url}", negative=60.0)
        for _ in range(2):
            got = await host.get(f"{M}/{file}")
            assert got.status == 502
            said = f"{upstream.name}: redirected to {login.name}: " if redirected else f"{login.name}: "
            assert f"{said}an HTML page, for a login perhaps: " in got.text
            assert got.headers["Cache-Control"] == "no-store"
        upstream.forget_rules()
        login.forget_rules()
        login.files |= upstream.files
        got = await host.get(f"{M}/{file}")
        assert (got.status, got.body) == (200, upstream.files[f"{M}/{file}"])


@pytest.mark.parametrize("kind", [LOOKUP, "latest", "tile/8/0/000", "tile/8/data/000"])
@pytest.mark.parametrize("itself", [False, True])
async def test_a_page_is_no_answer_of_the_database(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, kind: str, *, itself: bool
) -> None:
    """Of a carrier, and of the database's own URL."""
    world = World(upstream, tmp_path)
    spec = world.spec
    async with FakeUpstream() as portal:
        portal.on("*", Reply(PAGES[0], headers=HTML))
        if itself:
            spec = replace(spec, url=portal.url)
            host = await serve(upstream, sumdb=spec)
        else:
            host = await serve(f"{portal.url},http://127.0.0.1:1", sumdb=spec)
        got = await host.get(f"/sumdb/{NAME}/{kind}")
        assert got.status == 502
        assert f"{portal.name}: an HTML page, for a login perhaps: " in got.text
        portal.forget_rules()
        world.carry(portal, prefix="/" if itself else None)
        got = await host.get(f"/sumdb/{NAME}/{kind}")
        assert got.status == 200


@pytest.mark.parametrize("kind", [LOOKUP, "latest", "tile/8/0/000"])
async def test_another_carrier_is_asked(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, kind: str
) -> None:
    world = World(upstream, tmp_path)
    async with FakeUpstream() as portal:
        portal.on("*", Reply(PAGES[0], headers=HTML))
        host = await serve(f"{portal.url},{upstream.url}", sumdb=world.spec)
        assert (await host.get(f"/sumdb/{NAME}/{kind}")).status == 200
