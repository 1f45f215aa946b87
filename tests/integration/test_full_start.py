"""Starts on a disk that is full, or nearly: small file systems in a mount namespace of their own (root)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.values import Amount
from goproxy_vm.protocol.artifact import Kind
from goproxy_vm.server import Server
from tests.fakes.disk import copy_of
from tests.fakes.stores import OpenStore
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import LOOPBACK, Host
from tests.integration.stores import drained, opened

KIB = 1 << 10
SIZE = 24 << 20
LEFT = (0, 1, 4, 16, 32, 64, 96, 128)
"""KiB that are free at a start."""
MOUNT = {
    "tmpfs": 'mount -t tmpfs -o size="$1" none "$2"',
    "ext4-1024": 'truncate -s "$1" "$3" && mkfs.ext4 -q -F -m 0 -b 1024 "$3" && mount -o loop "$3" "$2"',
    "ext4-4096": 'truncate -s "$1" "$3" && mkfs.ext4 -q -F -m 0 -b 4096 "$3" && mount -o loop "$3" "$2"',
}
M, V, NEW = "example.com/m", "v1.0.0", "v1.1.0"
ASKED = (f"/{M}/@v/list", f"/{M}/@latest", *(f"/{M}/@v/{V}.{kind}" for kind in ("info", "mod", "zip")))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
    )


SLOW = "ext4-1024"
"""Its small blocks make the same of it as large ones, and a start takes longest."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.soak if kind == SLOW else ()) for kind in MOUNT]
)
@pytest.mark.parametrize("end", [pytest.param("stopped", marks=pytest.mark.soak), "killed"])
def test_starts_and_serves(kind: str, end: str, tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    arguments = (str(SIZE), str(mount), str(tmp_path / "image"))
    try:
        refused = run(MOUNT[kind], *arguments)
    except OSError as error:
        pytest.skip(f"no namespace can be made here: {error}")
    if refused.returncode:
        pytest.skip(f"no {kind} can be mounted here: {refused.stderr.strip()}")
    script = MOUNT[kind] + ' && cd "$4" && shift 4 && exec "$@"'
    here = Path(__file__).parents[2]
    python = (sys.executable, "-W", "error", "-m", __name__, "scenario", str(mount), end)
    done = run(script, *arguments, str(here), *python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all were served" in done.stdout


def fill(disk: Path, left: int) -> None:
    """Leave that many bytes of a file system."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        facts = os.statvfs(disk)
        keep = left // facts.f_frsize
        for size in (1 << 20, facts.f_frsize):
            while (os.statvfs(disk).f_bavail - keep) * facts.f_frsize >= size:
                try:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
                except OSError:
                    break


def settings_of(disk: Path, upstream: str) -> Settings:
    return Settings(
        listen=(LOOPBACK,),
        admin_listen=LOOPBACK,
        cache_dir=disk / "cache",
        upstream=upstream,
        sumdb=None,
        fresh=0.0,
        min_free=Amount(0, None),
    )


async def fetch(disk: Path, end: str, upstream: str) -> None:
    """Store everything, in a process of its own that ends this way or that."""
    server = Server(settings_of(disk, upstream), open_store=OpenStore.open)
    await server.start()
    async with aiohttp.ClientSession() as session:
        for path in ASKED:
            assert (await Host(server, session).get(path)).status == 200
    await drained(server.store)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    await server.stop()


async def scenario(disk: Path, end: str) -> None:
    """Copies of one cache directory, each on a disk with so much left."""
    cache, kept = disk / "cache", disk.parent / "kept"
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        upstream.add_module(M, V)
        before = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __spec__.name, "fetch", str(disk), end, upstream.url
        )
        assert await before.wait() == (-signal.SIGKILL if end == "killed" else 0)
        expected = {path: upstream.files[path] for path in ASKED}
        copy_of(cache, kept)
        settings = settings_of(disk, upstream.url)
        for left in LEFT:
            upstream.files = dict(expected)
            upstream.on("*", Reply(status=500))
            shutil.rmtree(cache)
            shutil.copytree(kept, cache)
            fill(disk, left * KIB)
            server = Server(settings, open_store=OpenStore.open)
            await server.start()
            host = Host(server, session)
            store = host.store
            try:
                for path, body in expected.items():
                    got = await host.get(path)
                    assert (got.status, got.body) == (200, body), (left, path, got.text)
                ready = (await host.admin("/readyz")).text
                assert ready.startswith("degraded: the store cannot be written (the disk is full; make"), left
                assert (await host.get(f"/{M}/@v/{NEW}.info")).status == 502
                (disk / "ballast").unlink()
                upstream.forget_rules()
                upstream.add_module(M, NEW)
                await store.parts.trial.once()
                assert (await host.admin("/readyz")).text == "ready\n", left
                for kind in ("info", "mod", "zip"):
                    assert (await host.get(f"/{M}/@v/{NEW}.{kind}")).status == 200, left
                await store.answers.set("k", b"x", keep=None)
                assert await store.answers.get("k") is not None, left
                await store.core.queue.flushed()
                assert await store.control.snapshot("s") is not None, left
            finally:
                await server.stop()
            async with opened(cache, sumdb=None) as again:
                assert await again.versions_with(M, Kind.MOD, Kind.ZIP) == [V, NEW], left
                assert await again.answers.get("k") is not None, left
        print("all were served")


if __name__ == "__main__":
    WORK = {"fetch": fetch, "scenario": scenario}[sys.argv[1]]
    asyncio.run(WORK(Path(sys.argv[2]), *sys.argv[3:]))
