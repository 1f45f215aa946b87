"""Zips that cost much to check, and a checker that hangs: the zips of others do not wait for them."""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
from pathlib import Path

import pytest

from goproxy_vm.protocol.request import ModuleResource, parse
from goproxy_vm.prover import pool
from goproxy_vm.proxy.asker import Asker
from tests.fakes.modules import build_zip
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import until
from tests.integration.conftest import Host, Serve

ZIP = "/example.com/m/@v/v1.0.0.zip"
EMPTY_BLOCK, LAST_BLOCK = b"\x00\x00\x00\xff\xff", b"\x01\x00\x00\xff\xff"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what another process does")


def overlapping(module: str, count: int, length: int) -> bytes:
    """``count`` entries that share a body of ``length`` bytes which hold nothing."""
    compressed = EMPTY_BLOCK * (length // len(EMPTY_BLOCK)) + LAST_BLOCK
    body = struct.pack("<4s26x", b"PK\x03\x04") + compressed
    names = [f"{module}@v1.0.0/{i}".encode() for i in range(count)]
    records = b"".join(
        struct.pack("<4s6xH8xLLH16x", b"PK\x01\x02", 8, len(compressed), 0, len(name)) + name
        for name in names
    )
    return body + records + struct.pack("<4s4xHHLLH", b"PK\x05\x06", count, count, len(records), len(body), 0)


def ask(host: Host, path: str, client: str) -> asyncio.Task[None]:
    """Ask as a client with that address."""

    async def get() -> None:
        resource = parse(path, None).resource
        assert isinstance(resource, ModuleResource)
        (await host.server.proxy.get(resource, Asker(client))).close()

    return asyncio.create_task(get())


def busy(host: Host) -> bool:
    """Whether the worker has a zip."""
    return any(host.server.proxy.intake._prover._jobs.values())


async def test_entries_that_overlap(serve: Serve, upstream: FakeUpstream) -> None:
    """0.94 MB that cost 22 s, in the one thread where all small zips wait."""
    upstream.add_module("example.com/b", "v1.0.0", zipped=overlapping("example.com/b", 540, 900_000))
    host = await serve(upstream)
    got = await host.get("/example.com/b/@v/v1.0.0.zip")
    assert (got.status, "overlaps" in got.text) == (502, True)
    assert (await host.get(ZIP)).status == 200


async def test_one_client_with_many_costly_zips(serve: Serve, upstream: FakeUpstream) -> None:
    """Another's wait for one of them, or two: not for all."""
    content = {"go.mod": b"module m\n", "zeros": bytes(16 << 20)}
    bombs = [f"example.com/b{n}" for n in range(10)]
    for module in [*bombs, "example.com/large"]:
        upstream.add_module(module, "v1.0.0", content)
    host = await serve(upstream, prefetch=False, max_misses=64)
    asking = [ask(host, f"/{module}/@v/v1.0.0.zip", "greedy") for module in bombs]
    await until(lambda: len(host.server.proxy.intake._prover._jobs) == len(bombs))
    assert (await host.get(ZIP)).status == 200  # a small one waits for none
    assert sum(task.done() for task in asking) <= 2
    before = sum(task.done() for task in asking)
    assert (await host.get("/example.com/large/@v/v1.0.0.zip")).status == 200
    assert sum(task.done() for task in asking) <= before + 4
    await asyncio.gather(*asking)


@linux
async def test_a_checker_that_hangs(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SILENCE", 3.0)
    for module in ("example.com/a", "example.com/b"):
        zipped = build_zip(module, "v1.0.0", {"x": bytes(2 << 20)}, stored=True)
        upstream.add_module(module, "v1.0.0", zipped=zipped)
    host = await serve(upstream)
    worker = host.server.proxy.intake._prover._worker
    assert worker is not None
    worker.send_signal(signal.SIGSTOP)
    got = await asyncio.gather(*(host.get(f"/example.com/{m}/@v/v1.0.0.zip") for m in "ab"))
    assert [each.status for each in got] == [200, 200]
    assert worker.returncode == -signal.SIGKILL
    assert (await host.get(ZIP)).status == 200


@linux
async def test_a_stop_waits_for_no_check(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    """150 MB to inflate, in 150 kB."""
    upstream.add_module("example.com/b", "v1.0.0", {"zeros": bytes(150 << 20)})
    host = await serve(upstream, shutdown_timeout=0.0)
    asking = ask(host, "/example.com/b/@v/v1.0.0.zip", "greedy")
    await until(lambda: busy(host))
    worker = host.server.proxy.intake._prover._worker
    assert worker is not None
    await host.server.stop()
    assert worker.returncode == -signal.SIGKILL
    assert (await asyncio.gather(asking, return_exceptions=True)) != [None]
