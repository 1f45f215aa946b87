"""Upstreams that lead back to who asks them: itself, a ring; and rows of servers that do not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.address import Address
from goproxy_vm.doctor.asking import Inquiry
from goproxy_vm.doctor.network import check_upstreams
from goproxy_vm.protocol.loop import MOST, names, new_name, value
from goproxy_vm.upstream.trail import Trail
from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Host, Serve
from tests.integration.test_chain import closed_port
from tests.integration.test_database import LOOKUP, NAME, M, World

STALL = 6.0
"""Seconds without a byte before an upstream is given up; nothing here waits that long."""
PATHS = [f"{M}/@v/list", f"{M}/@latest", f"{M}/@v/v1.0.0.info", f"{M}/@v/v1.0.0.mod", f"{M}/@v/v1.0.0.zip"]


async def ring(serve: Serve, tmp_path: Path, behind: str = "", **settings: object) -> tuple[Host, Host]:
    """Two servers, each the upstream of the other; ``behind`` follows that in their lists."""
    ports = [closed_port(), closed_port()]
    servers = []
    for here, there in (ports, reversed(ports)):
        servers.append(
            await serve(
                f"http://127.0.0.1:{there}{behind}",
                listen=(Address("127.0.0.1", here),),
                cache_dir=tmp_path / str(here),
                **({"stall_timeout": STALL} | settings),
            )
        )
    return servers[0], servers[1]


async def looped(host: Host, path: str) -> None:
    async with asyncio.timeout(STALL - 1):
        got = await host.get(path)
    assert got.status == 508, got.text
    assert "leads back here" in got.text
    assert got.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
async def test_its_own_upstream(serve: Serve, tmp_path: Path, path: str) -> None:
    port = closed_port()
    host = await serve(f"http://127.0.0.1:{port}", listen=(Address("127.0.0.1", port),), stall_timeout=STALL)
    await looped(host, path)


@pytest.mark.parametrize("path", PATHS)
async def test_a_ring_of_two(serve: Serve, tmp_path: Path, path: str) -> None:
    here, there = await ring(serve, tmp_path)
    await looped(here, path)
    await looped(there, path.replace("m/@", "other/@"))


async def test_two_that_ask_each_other_at_the_same_time(serve: Serve, tmp_path: Path) -> None:
    """Each joins what the other waits for; a third of the stall time later they ask again, and are told."""
    here, there = await ring(serve, tmp_path, stall_timeout=1.5, total_timeout=60.0)
    for path in PATHS:
        async with asyncio.timeout(10):
            answers = await asyncio.gather(here.get(path), there.get(path))
        assert {got.status for got in answers} == {508}


async def test_siblings_go_on_to_the_next(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    here, there = await ring(serve, tmp_path, f"|{upstream.url}")
    for path in PATHS:
        async with asyncio.timeout(STALL - 1):
            assert (await here.get(path)).status == 200
            assert (await there.get(path)).status == 200
    assert upstream.count("*.zip") == 1


async def test_a_ring_with_the_checksum_database(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    world = World(upstream, tmp_path)
    here, _ = await ring(serve, tmp_path, sumdb=world.spec)
    async with asyncio.timeout(STALL - 1):
        got = await here.get(f"/sumdb/{NAME}/{LOOKUP}")
    assert got.status == 502
    assert "508 Loop Detected" in got.text


async def test_names_of_clients_are_no_loop(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    many = ", ".join(new_name() for _ in range(200))
    got = await host.get(PATHS[0], CDN_Loop=f"foo; x=y, {many}, {'x' * 1000}")
    assert got.status == 200
    (head,) = [each for each in upstream.heads if b"@v/list" in each]
    (line,) = [each for each in head.split(b"\r\n") if each.startswith(b"CDN-Loop: ")]
    assert line.count(b"goproxy-vm-") == line.count(b",") + 1 == MOST + 1
    await host.get(PATHS[1])
    (head,) = [each for each in upstream.heads if b"@latest" in each]
    (line,) = [each for each in head.split(b"\r\n") if each.startswith(b"CDN-Loop: ")]
    assert line.count(b"goproxy-vm-") == 1, "of another request"


def test_field() -> None:
    one, two = new_name(), new_name()
    assert names([f"{one}, cdn.example;x, ,{two} ; y=z", one]) == (one, two)
    assert value([two, one], one) == f"{two}, {one}"
    assert value([], one) == one
    many = [new_name() for _ in range(100)]
    assert names([", ".join(many[:50]), ", ".join(many[50:])]) == tuple(many[-MOST - 1 :])


def test_trails_may_wait_for_each_other() -> None:
    one, two, three = (Trail([name], shared=True) for name in "123")
    one.join(two)
    two.join(one)
    two.join(three)
    one.join(one)
    assert set(one) == set(two) == {"1", "2", "3"}
    assert list(three) == ["3"]
    late = Trail(["4"])
    three.join(late)
    assert "4" in set(one)
    two.leave(three)
    three.join(Trail(["5"]))
    assert set(one) == {"1", "2", "3", "4"}


@pytest.mark.parametrize(
    ("listen", "upstream", "public_url", "itself"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080", "", True),
        ("0.0.0.0", "http://localhost:8080/", "", True),
        ("127.0.0.1", "http://127.0.0.1:8081", "", False),
        ("127.0.0.1", "http://127.0.0.2:8080", "", False),
        ("0.0.0.0", "http://192.0.2.1:8080", "", False),
        ("0.0.0.0", "http://name.invalid:8080", "", False),
        ("127.0.0.1", "https://go.example", "https://go.example/x", True),
        ("127.0.0.1", "http://go.example", "https://go.example", False),
        ("127.0.0.1", "file:///x", "", False),
    ],
)
async def test_doctor(tmp_path: Path, listen: str, upstream: str, public_url: str, itself: bool) -> None:
    settings = Settings(
        cache_dir=tmp_path, listen=(Address(listen, 8080),), upstream=upstream, public_url=public_url
    )
    async with Inquiry(settings, seconds=0.5) as inquiry:
        found = await check_upstreams(settings, inquiry)
    assert (found.found.endswith("is this server itself")) is itself
    if itself:
        assert found.status == "failed"


async def test_doctor_sees_a_ring(serve: Serve, tmp_path: Path) -> None:
    here, there = await ring(serve, tmp_path)
    settings = Settings(cache_dir=tmp_path, listen=(Address("127.0.0.1", 1),), upstream=there.server.url)
    async with Inquiry(settings) as inquiry:
        found = await check_upstreams(settings, inquiry)
    assert found.status == "failed"
    assert "508 Loop Detected" in found.found
    assert found.remedy.startswith("it leads back")
    assert here.server.url != there.server.url
