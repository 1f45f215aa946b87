"""Private modules: who may have what is stored, and who hears of them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import NAME, World

M = "/example.com/m"
FILES = [f"{M}/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip")]
PATHS = [*FILES, f"{M}/@v/list", f"{M}/@latest"]
ABSENT = ["/example.com/none/@v/list", "/example.com/none/@v/v1.0.0.mod", "/example.com/none/@latest"]
TOKEN = "a-token-of-sixteen"
BASIC = "Basic " + base64.b64encode(f"vm:{TOKEN}".encode()).decode()
ELSEWHERE = (ip_network("192.0.2.0/24"),)
HERE = (ip_network("127.0.0.0/8"),)


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
async def stored(
    serve: Serve, upstream: FakeUpstream, request: pytest.FixtureRequest
) -> AsyncIterator[dict[str, object]]:
    """Settings of a server that has the module stored, as private, and asks nobody."""
    host = await serve(upstream)
    for path in PATHS:
        assert (await host.get(path)).status == 200
    while host.server.store.uncommitted:
        await asyncio.sleep(0)
    await host.server.stop()
    yield {"private": "example.com", "offline": True, "fast_path": request.param, "fresh": 3600.0}
    assert upstream.count("*") == len(PATHS) or upstream.count("*none*") == 0


async def statuses(host: Host, prefix: str = "", **headers: str) -> set[int]:
    """Of all, asked for twice: what was answered once may be prepared."""
    return {(await host.get(prefix + path, **headers)).status for path in PATHS * 2}


async def test_for_everyone_who_may_ask(
    serve: Serve, upstream: FakeUpstream, stored: dict[str, object]
) -> None:
    host = await serve(upstream, **stored)
    assert await statuses(host) == {200}
    assert (await host.get(FILES[2])).headers["Cache-Control"].startswith("public")


async def test_by_network(serve: Serve, upstream: FakeUpstream, stored: dict[str, object]) -> None:
    stranger = await serve(upstream, **stored, private_clients=ELSEWHERE)
    for prefix in ("", "/cached-only"):
        assert await statuses(stranger, prefix) == {403}
    texts = set()
    for path in (*PATHS, *ABSENT):
        got = await stranger.get(path)
        assert got.status == 403
        assert got.headers["Cache-Control"] == "no-store"
        sentence = got.text.partition(" [request")[0].partition(": module ")[2]
        texts.add(sentence.replace("example.com/none", "example.com/m"))
    assert len(texts) == 1, "whether there is such a module does not show"
    assert "is not for clients at 127.0.0.1 (setting private_clients)" in texts.pop()
    assert (await stranger.get("/other.example/m/@v/list")).status == 404
    await stranger.server.stop()

    friend = await serve(upstream, **stored, private_clients=HERE)
    for prefix in ("", "/cached-only"):
        assert await statuses(friend, prefix) == {200}
    for path in PATHS * 2:
        assert (await friend.get(path)).headers["Cache-Control"] == "private, no-cache"


async def test_by_token(
    serve: Serve, upstream: FakeUpstream, stored: dict[str, object], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    host = await serve(upstream, **stored, private_tokens_file=tokens)
    for authorization in (BASIC, f"Bearer {TOKEN}"):
        assert await statuses(host, Authorization=authorization) == {200}
    assert await statuses(host) == {403}, "whatever others were given a moment ago"
    assert await statuses(host, Authorization=f"Bearer {TOKEN}x") == {403}
    assert "private_tokens_file" in (await host.get(FILES[1])).text
    assert (await host.get("/other.example/m/@v/list")).status == 404


async def test_what_a_reload_changes(
    serve: Serve, upstream: FakeUpstream, stored: dict[str, object], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    given = dict(stored, private_tokens_file=tokens)
    host = await serve(upstream, **given)
    before = host.settings
    assert await statuses(host, Authorization=BASIC) == {200}
    tokens.write_text("another-of-sixteen\n")
    await host.server.reload(before)
    assert await statuses(host, Authorization=BASIC) == {403}, "a token that is taken back is none"

    def changed(**settings: object) -> Settings:
        names = (each for each in Settings.__dataclass_fields__)
        return Settings(**({name: getattr(before, name) for name in names} | settings))

    done = await host.server.reload(changed(private_clients=HERE, private_tokens_file=None))
    assert sorted(done.applied) == ["private_clients", "private_tokens_file"]
    assert await statuses(host) == {200}
    await host.server.reload(changed(private_clients=(), private_tokens_file=None))
    assert await statuses(host) == {200}
    await host.server.reload(changed(private_clients=ELSEWHERE, private_tokens_file=None))
    assert await statuses(host) == {403}, "what was prepared for everyone is forgotten"


async def test_the_database_does_not_hear_of_them(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    world = World(upstream, tmp_path)
    host = await serve(upstream, sumdb=world.spec, private="example.com", offline=True)
    asked = len(upstream.heads)
    got = await host.get(f"/sumdb/{NAME}/lookup/example.com/m@v1.0.0")
    assert got.status == 404
    assert "GONOSUMDB=example.com" in got.text
    assert len(upstream.heads) == asked
    script = await host.get("/vm/setup.sh")
    assert "nosumdb=example.com" in script.text
