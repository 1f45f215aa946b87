"""The real ``go`` on a server that is purged and evicted from meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from goproxy_vm.admin.operations import Operations
from goproxy_vm.cache.facts import Selection
from goproxy_vm.config import Settings
from goproxy_vm.config.address import Address
from goproxy_vm.server import Server
from tests.e2e.gocommand import Vm
from tests.fakes.disk import allocated
from tests.fakes.upstream import FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

M, V = "example.com/m", "v1.0.0"
INFO = f"/{M}/@v/{V}.info"
LOOPBACK = Address("127.0.0.1", 0)


async def test_go_sees_nothing_old_after_a_purge(tmp_path: Path, gocache: Path) -> None:
    cache = tmp_path / "cache"
    async with FakeUpstream() as upstream:
        upstream.add_module(M, V)
        server = Server(
            Settings(
                listen=(LOOPBACK,), admin_listen=LOOPBACK, cache_dir=cache, upstream=upstream.url, sumdb=None
            )
        )
        await server.start()
        try:
            store = server.store
            operations = Operations(store, server.proxy, "0", lambda: 0)
            ended = asyncio.Event()

            async def download(name: str) -> str:
                """The time that a new VM is told for the version, once it has all files."""
                vm = Vm(tmp_path / name, server.url, gocache)
                done = await asyncio.to_thread(vm.go, "mod", "download", "-json", f"{M}@{V}")
                info = await asyncio.to_thread(Path(json.loads(done.stdout)["Info"]).read_text)
                return str(json.loads(info)["Time"])

            async def evict() -> None:
                while not ended.is_set():
                    await operations.evict(0, dry_run=False)
                    await asyncio.sleep(0.01)

            evicting = asyncio.create_task(evict())
            for round_ in range(6):
                time = f"2024-01-0{round_ + 1}T00:00:00Z"
                before = asyncio.create_task(download(f"before{round_}"))
                upstream.files[INFO] = json.dumps({"Version": V, "Time": time}).encode()
                if round_ % 2:
                    await operations.purge_version(M, V)
                else:
                    await operations.purge(
                        Selection(match=("example.com/*",)), forget_hash=False, dry_run=False
                    )
                assert await download(f"after{round_}") == time
                await before
            ended.set()
            await evicting
            while store.uncommitted or store.admission.reserved or server.proxy.fetches_in_flight:
                await asyncio.sleep(0)
            assert store.usage.used == allocated(cache / "modules")
        finally:
            await server.stop()
