"""A page that comes with status 200 is never taken for content."""

from __future__ import annotations

import pytest

from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Serve

M = "/example.com/m"
PAGES = [b"<html><body>sign in</body></html>\n", b"", b'{"error":"no"}', b"\x00\x01\x02"]


@pytest.mark.parametrize("page", PAGES)
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


@pytest.mark.parametrize("file", ["list", "v1.0.0.mod"])
async def test_the_next_upstream_is_tried(serve: Serve, upstream: FakeUpstream, file: str) -> None:
    async with FakeUpstream() as portal:
        portal.on("*", Reply(PAGES[0]))
        host = await serve(f"{portal.url}|{upstream.url}")
        got = await host.get(f"{M}/@v/{file}")
        assert (got.status, got.body) == (200, upstream.files[f"{M}/@v/{file}"])
