"""Clients that keep files open while they are evicted: what has no name any more takes room all the same."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.config.values import Amount
from goproxy_vm.web import connections
from tests.fakes.disk import in_use
from tests.fakes.stores import purge_versions
from tests.fakes.wire import Wire, until
from tests.integration.stores import drained
from tests.integration.test_budget import MIB, V, large_zip

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.upstream import FakeUpstream
    from tests.hostile.conftest import Inside
    from tests.integration.conftest import Host, Serve

SIZE = 8 * MIB
"""Of a zip: more than the kernel takes for a client that does not read."""
BUDGET = 4 * SIZE + 2 * MIB


def path(number: int) -> str:
    return f"/example.com/m{number}/@v/{V}.zip"


class Disk:
    """What the cache directory takes, looked at at every step of the loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.most = 0
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            self.most = max(self.most, in_use(self.root))
            await asyncio.sleep(0.002)

    async def end(self) -> int:
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.most


async def filled(serve: Serve, upstream: FakeUpstream, **settings: object) -> Host:
    """A server with a budget of four zips, of which four are stored, and eight at its upstream."""
    for number in range(8):
        name = f"example.com/m{number}"
        upstream.add_module(name, V, zipped=large_zip(name, SIZE))
    host = await serve(upstream, max_size=Amount(BUDGET, None), min_free=Amount(0, None), **settings)
    for number in range(4):
        assert (await host.get(path(number))).status == 200
    await drained(host.server.store)
    return host


async def test_slow_readers_beside_evictions(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    """Each zip that is stored has a reader who does not go on, one by the short cut, one by a range."""
    host = await filled(serve, upstream)
    store = host.server.store
    disk = Disk(tmp_path / "cache")
    async with AsyncExitStack() as readers:
        slow = []
        for number in range(4):
            for line in ((), ("Range: bytes=1-",)):
                wire = await readers.enter_async_context(Wire(host.server.url, receive_buffer=4096))
                wire.ask(path(number), *line)
                assert (await wire.head()).status in (200, 206)
                slow.append(wire)
        misses = [asyncio.create_task(host.get(path(number))) for number in range(4, 7)]
        await until(lambda: store.admission.wanted > 0)
        assert (await host.get(f"/example.com/m7/@v/{V}.mod")).status == 200, (
            "small ones do not wait for them"
        )
        assert not any(miss.done() for miss in misses)
        # Two of the four leave: there is room for two at a time from here on.
        for wire in slow[:4]:
            wire.writer.transport.abort()
        for miss in misses:
            assert (await miss).status == 200
    await drained(store)
    assert await disk.end() <= BUDGET
    assert store.usage.lingering == 0


async def test_who_sips_at_many_files_does_not_have_the_budget(
    serve: Serve, inside: Inside, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reader takes more than the usual least rate, as long as it likes; then somebody waits for room."""
    monkeypatch.setattr(connections, "SWEEP", 0.05)
    monkeypatch.setattr(connections, "LEAST_RATE", 1)
    host = await filled(serve, upstream, send_timeout=1.0)
    over = asyncio.Event()

    async def sip(wire: Wire) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not over.is_set():
                await wire.reader.readexactly(1024)
                await asyncio.sleep(0.05)

    async with AsyncExitStack() as readers:
        sipping = []
        for number in range(4):
            wire = await readers.enter_async_context(Wire(host.server.url, receive_buffer=4096))
            wire.ask(path(number))
            assert (await wire.head()).status == 200
            sipping.append(asyncio.create_task(sip(wire)))
        windows = [each._window[0] for each in inside.all if each.answering]
        assert len(windows) == 4
        await until(lambda: min(each._window[0] for each in inside.all if each.answering) > max(windows) + 1)
        assert not any(task.done() for task in sipping), "nobody waits: they may"
        assert (await host.get(path(5))).status == 200
        over.set()
        await asyncio.gather(*sipping)


async def test_purged_files_count_until_their_readers_are_done(
    serve: Serve, inside: Inside, upstream: FakeUpstream, tmp_path: Path
) -> None:
    host = await filled(serve, upstream)
    store = host.server.store
    disk = Disk(tmp_path / "cache")
    async with AsyncExitStack() as readers:
        for number in range(4):
            wire = await readers.enter_async_context(Wire(host.server.url, receive_buffer=4096))
            wire.ask(path(number))
            assert (await wire.head()).status == 200
        for number in range(4):
            await purge_versions(store, f"example.com/m{number}", V, forget_hash=False, dry_run=False)
        assert store.usage.sizes["zip"] == 0
        assert store.usage.used >= 4 * SIZE
        miss = asyncio.create_task(host.get(path(5)))
        await until(lambda: store.admission.wanted > 0)
        assert not miss.done()
    assert (await miss).status == 200
    await until(lambda: not store.usage.lingering)
    assert await disk.end() <= BUDGET
