"""How often a request asks the databases: each job is a way to a thread and back, behind whoever is there."""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.fakes.stores import artifact
from tests.integration.test_database import M, World

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    import pytest

    from goproxy_vm.cache.store import Store
    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Host, Serve

DATABASES = frozenset({"database", "lookups", "scans", "answers", "answer-lookups"})
"""The threads that ask index.db or diskcache's databases."""
MOST = 8
"""Jobs of the first ``.mod`` that is ever asked for: its commit is one, and the first for its ``.info``."""


class Jobs:
    """What is asked of those threads from here on, each by its thread and its function."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        submit = ThreadPoolExecutor.submit

        def counted(executor: ThreadPoolExecutor, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            def noting() -> Any:
                thread = threading.current_thread().name.removeprefix("goproxy-vm ").rpartition("_")[0]
                if thread in DATABASES:
                    self.asked.append(f"{thread}: {_named(function)}")
                return function(*args, **kwargs)

            return submit(executor, noting)

        patch.setattr(ThreadPoolExecutor, "submit", counted)


def _named(function: Any) -> str:
    """The innermost function that a wrapper calls."""
    while inspect.isfunction(function) and "function" in (
        inner := inspect.getclosurevars(function).nonlocals
    ):
        function = inner["function"]
    return str(getattr(function, "__qualname__", function))


async def started(serve: Serve, world: World) -> Host:
    """A server that does nothing by itself any more."""
    host = await serve(world.upstream, sumdb=world.spec, scrub_interval=0.0)
    while not host.server.store.recovery.done:
        await asyncio.sleep(0.01)
    return host


async def settled(store: Store) -> None:
    await store.core.queue.flushed()


async def test_the_first_miss_of_a_mod(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await started(serve, World(upstream, tmp_path))
    gate = upstream.hold("*.info")  # it is fetched behind the answer, and is a miss of its own
    jobs = Jobs(monkeypatch)
    assert (await host.get(f"{M}/@v/v1.0.0.mod")).status == 200
    await settled(host.server.store)
    print(*jobs.asked, sep="\n")
    await gate.arrived.wait()
    gate.open()
    assert len(jobs.asked) <= MOST, "\n".join(jobs.asked)


async def test_a_hit_waits_for_neither_a_write_nor_a_scan(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    paths = [f"{M}/@v/{version}.mod" for version in ("v0.9.0", "v1.0.0")]
    for path in paths:
        assert (await host.get(path)).status == 200
    core = host.store.core
    await settled(host.server.store)
    core.memory.forget_all()
    goes_on = threading.Event()
    held = [asyncio.ensure_future(threads.run(goes_on.wait, 60)) for threads in (core.database, core.scans)]
    try:
        async with asyncio.timeout(30):
            assert [(await host.get(path)).status for path in paths] == [200, 200]
    finally:
        goes_on.set()
        assert await asyncio.gather(*held) == [True, True]


async def test_a_miss_that_was_looked_for_is_seen_when_it_is_there(
    serve: Serve, upstream: FakeUpstream
) -> None:
    """What is remembered as missing is asked for once, by whoever asks, until something is stored."""
    host = await serve(upstream)
    store = host.server.store
    path = "example.com/m/@v/v1.0.0.mod"
    assert await store.get(artifact(path)) is None
    assert store.core.memory.missing(path)
    (await store.put(artifact(path), b"module x\n", h1="h1:x")).close()
    pending = await store.get(artifact(path))
    await settled(store)
    committed = await store.get(artifact(path))
    assert pending is not None
    assert committed is not None
    pending.close()
    committed.close()
    assert (await store.known("example.com/m", "v1.0.0")).mod == "h1:x"
