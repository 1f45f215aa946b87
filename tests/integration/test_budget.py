"""The budget: what is used and what is held never pass it, however many ask, whatever upstreams declare."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.store import Store
from goproxy_vm.config.values import Amount
from goproxy_vm.errors import NoRoom
from tests.fakes.disk import allocated, under
from tests.fakes.modules import build_zip
from tests.fakes.stores import artifact
from tests.fakes.upstream import Reply
from tests.integration.stores import adopt, content, drained, opened

if TYPE_CHECKING:
    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Host, Serve

MIB = 1 << 20
V = "v1.0.0"


def large_zip(module: str, size: int, seed: int = 0) -> bytes:
    """A zip that does not compress."""
    data = random.Random(f"{module}{seed}").randbytes(size)
    return build_zip(module, V, {"go.mod": f"module {module}\n".encode(), "data": data}, stored=True)


@dataclass
class Watch:
    """Looks at a store at every step of the loop: ``async with watching(store)``."""

    store: Store
    root: Path
    held: int = 0
    disk: int = 0
    steps: int = 0
    wrong: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Watch:
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._look)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        self.steps += 1
        held = self.store.usage.used + self.store.admission.reserved
        self.held = max(self.held, held)
        if held > self.store.admission.limits.total:
            self.wrong.append(f"{held} bytes used and held")
        if self.steps % 4 == 0:
            # The loop stands still meanwhile: nothing is given back, threads write into what is held.
            disk = under(self.root)
            self.disk = max(self.disk, disk)
            if disk > held:
                self.wrong.append(f"{disk} bytes on disk, {held} used and held")
        self._handle = self._loop.call_soon(self._look)


def store_of(host: Host) -> Store:
    return host.server.store


async def idle(host: Host) -> None:
    """Until nothing is under way."""
    store = store_of(host)
    while store.admission.reserved or store.uncommitted:
        await asyncio.sleep(0)


@pytest.mark.parametrize("policy", ["slru", pytest.param("lru", marks=pytest.mark.soak)])
async def test_64_downloads_of_more_than_the_budget(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, policy: str, record_property: pytest.RecordProperty
) -> None:
    limit = 6 * MIB
    modules = [f"example.com/big{i}" for i in range(64)]
    for i, module in enumerate(modules):
        upstream.add_module(module, V, zipped=large_zip(module, (100 + 7 * i) << 10))
        if i % 4 == 3:  # without a declared length
            path = f"/{module}/@v/{V}.zip"
            upstream.on(path, Reply(upstream.files[path], length=-1))
    host = await serve(upstream, max_size=Amount(limit, None), policy=policy, min_free=Amount(0, None))
    store = store_of(host)
    async with Watch(store, tmp_path / "cache") as watch:
        answers = await asyncio.gather(
            *(host.get(f"/{module}/@v/{V}.{kind}") for module in modules for kind in ("info", "zip"))
        )
        await idle(host)
    assert {got.status for got in answers} == {200}, {got.text[:300] for got in answers if got.status != 200}
    for module, got in zip(modules, answers[1::2], strict=True):
        assert got.body == upstream.files[f"/{module}/@v/{V}.zip"]
    assert not watch.wrong, watch.wrong[:5]
    assert watch.held > limit // 2
    assert watch.disk > limit // 4
    assert store.usage.used == allocated(tmp_path / "cache" / "modules")
    assert not list((tmp_path / "cache" / "tmp").iterdir())
    record_property("highest used and held", f"{watch.held} of {limit}")
    record_property("highest du", f"{watch.disk} of {limit}")
    print(f"highest used and held {watch.held}, du {watch.disk}, of {limit}; {watch.steps} steps")


async def test_what_can_never_fit(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    module = "example.com/huge"
    upstream.add_module(module, V, zipped=large_zip(module, 3 * MIB))
    host = await serve(upstream, max_size=Amount(2 * MIB, None))
    assert (await host.get(f"/{module}/@v/{V}.mod")).status == 200
    got = await host.get(f"/{module}/@v/{V}.zip")
    assert got.status == 503
    assert f"of a budget of {2 * MIB} bytes" in got.text
    assert ": needs 3" in got.text
    assert got.text.count("\n") == 1
    assert int(got.headers["Retry-After"]) > 0
    # Without a declared length it is found out on the way.
    path = f"/{module}/@v/{V}.zip"
    upstream.on(path, Reply(upstream.files[path], length=-1))
    got = await host.get(path)
    assert got.status == 503
    assert f"a budget of {2 * MIB} bytes" in got.text
    assert "Retry-After" in got.headers
    await idle(host)
    assert (await host.admin("/readyz")).text == "ready\n", "the disk is well"
    assert not list((tmp_path / "cache" / "tmp").iterdir())
    assert (await host.get(f"/example.com/m/@v/{V}.zip")).status == 200


async def test_a_length_that_was_declared_too_long_costs_no_eviction(
    serve: Serve, upstream: FakeUpstream
) -> None:
    host = await serve(upstream, max_size=Amount(4 * MIB, None))
    stored = f"/example.com/m/@v/{V}.zip"
    assert (await host.get(stored)).status == 200
    await idle(host)
    module = "example.com/liar"
    upstream.add_module(module, V)
    path = f"/{module}/@v/{V}.zip"
    upstream.on(path, Reply(upstream.files[path], length=3 * MIB + MIB // 2))
    assert (await host.get(path)).status == 502
    await idle(host)
    assert store_of(host).admission.reserved == 0
    asked = upstream.count(stored)
    assert (await host.get(stored)).status == 200
    assert upstream.count(stored) == asked, "still stored"


async def test_a_length_that_was_declared_too_short_grows_or_fails(tmp_path: Path) -> None:
    async with opened(tmp_path / "cache", max_size=Amount(4 * MIB, None)) as store:
        download = store.download()
        try:
            await download.begin(10)
            await download.write(b"x" * (2 * MIB))
            assert store.admission.reserved >= 2 * MIB
            with pytest.raises(NoRoom, match="a budget of"):
                await download.write(b"x" * (3 * MIB))
        finally:
            await download.discard()
        assert store.admission.reserved == 0
        (await adopt(store, 1, b"y" * 3 * MIB)).close()
        await drained(store)


async def test_admission_is_first_come_first_served(tmp_path: Path) -> None:
    """A small download does not overtake a large one that waits; who waits holds nothing."""
    async with opened(tmp_path / "cache", max_size=Amount(4 * MIB, None)) as store:
        admission, granted = store.admission, []
        first = await admission.reserve(3 * MIB)

        async def ask(size: int) -> None:
            reservation = await admission.reserve(size)
            granted.append(size)
            await leave.wait()
            reservation.release()

        leave = asyncio.Event()
        sizes = (3 * MIB, 2 * MIB, 1024)
        waiting = []
        for size in sizes:
            waiting.append(asyncio.create_task(ask(size)))
            while admission.waiting < len(waiting):
                await asyncio.sleep(0)
        assert granted == []
        assert admission.reserved == 0
        first.release()
        while not granted:
            await asyncio.sleep(0)
        assert granted == [3 * MIB]
        assert admission.waiting == 2, "the last one would fit"
        leave.set()
        await asyncio.gather(*waiting)
        assert granted == list(sizes)
        assert admission.reserved == admission.admitted == 0


async def test_who_waits_sees_the_room_shrink(tmp_path: Path) -> None:
    """Metadata that comes meanwhile is not evicted for a download: who waited for all there was takes what
    is left, who cannot fit any more is told so, and neither blocks those behind."""
    async with opened(tmp_path / "cache", max_size=Amount(4 * MIB, None)) as store:
        admission = store.admission
        first = await admission.reserve(3 * MIB)
        waiting = [
            asyncio.create_task(admission.reserve(length))
            for length in (None, admission.capacity - 4096, 4096, None)
        ]
        while admission.waiting < len(waiting):
            await asyncio.sleep(0)
        store.usage.sizes["mod"] += 8192
        first.release()
        assert (await waiting[0]).admitted == admission.capacity
        (await waiting[0]).release()
        with pytest.raises(NoRoom, match=f"of a budget of {4 * MIB} bytes"):
            await waiting[1]
        for turn in waiting[2:]:
            (await turn).release()
        assert admission.admitted == 0
        store.usage.sizes["mod"] -= 8192


async def test_waiting_ends_at_the_deadline(serve: Serve, upstream: FakeUpstream) -> None:
    for name in ("slow", "late"):
        upstream.add_module(f"example.com/{name}", V, zipped=large_zip(f"example.com/{name}", 3 * MIB))
    host = await serve(upstream, max_size=Amount(4 * MIB, None))
    store = store_of(host)
    limits = store.admission.limits
    store.admission.limits = replace(limits, patience=0.1)
    holder = store.download()
    try:
        await holder.begin(3 * MIB)
        got = await host.get(f"/example.com/late/@v/{V}.zip")
        assert got.status == 503
        assert "no room came free within" in got.text
        assert "Retry-After" in got.headers
    finally:
        await holder.discard()
    store.admission.limits = limits
    assert store.admission.admitted == 0
    assert not store.admission.waiting
    assert (await host.get(f"/example.com/late/@v/{V}.zip")).status == 200


async def test_a_cancelled_eviction_is_counted_all_the_same(tmp_path: Path) -> None:
    """A flight's deadline may pass while it evicts for itself."""
    async with opened(tmp_path / "cache", max_size=Amount(4 * MIB, None)) as store:
        for i in range(3):
            (await adopt(store, i, bytes([i]) * MIB)).close()
        await drained(store)
        evicting = asyncio.create_task(store.parts.janitor.full(1))
        # The lock of published files is held from the mark to the end of the bookkeeping.
        while not store.core.queue.disk.locked():
            await asyncio.sleep(0)
        evicting.cancel()
        await asyncio.wait([evicting])
        assert store.usage.used == allocated(tmp_path / "cache" / "modules")
        assert [await content(store, i) for i in range(3)].count(None) > 0


@pytest.mark.parametrize(("budget", "zips", "small"), [(64 * MIB, 1, 10), (200 * MIB, 64, 64)])
async def test_downloads_leave_room_for_small_files(
    tmp_path: Path, budget: int, zips: int, small: int
) -> None:
    """A zip of unknown length may come to the whole budget. An .info that is not stored meanwhile is asked
    for again, and is missing when the upstream fails."""
    root = tmp_path / "cache"
    async with opened(root, max_size=Amount(budget, None)) as store, Watch(store, root) as watch:
        capacity = store.admission.capacity
        downloads = [store.download() for _ in range(zips)]
        beginning = [asyncio.create_task(each.begin(None)) for each in downloads]
        await beginning[0]
        for i in range(small):
            for kind in ("info", "mod"):
                name, h1 = f"example.com/s{i}", None if kind == "info" else "h1:m"
                await store.put(artifact(f"{name}/@v/{V}.{kind}"), b"x" * 100, h1=h1)
        await store.core.queue.flushed()
        assert store.usage.entries == {"info": small, "mod": small, "zip": 0}
        for begun, download in zip(beginning, downloads, strict=True):
            await begun
            await download.write(bytes(MIB))
            await download.discard()
        assert store.admission.admitted == 0
        assert store.admission.capacity == capacity - store.usage.metadata
    assert not watch.wrong
