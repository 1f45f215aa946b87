"""cache/hashes.py: what the log has disproved is not served any more, whoever has stopped waiting for it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from goproxy_vm.cache.index import Index
from goproxy_vm.cache.rows import Proven
from tests.fakes.stores import Shop, artifact, open_shop, purge_versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

PROVEN = Proven({"mod": "h1:m", "zip": "h1:right"}, "db")


class Slow:
    """A job of the index that is done, and whose result comes when it is let."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        self.done = asyncio.Event()
        self._goes_on = threading.Event()
        loop = asyncio.get_running_loop()
        job = getattr(Index, name)

        def slow(index: Index, *args: Any, **kwargs: Any) -> Any:
            result = job(index, *args, **kwargs)
            loop.call_soon_threadsafe(self.done.set)
            assert self._goes_on.wait(30)
            return result

        patch.setattr(Index, name, slow)

    async def given_up(self, work: Coroutine[Any, Any, object]) -> None:
        """``work`` is cancelled while the job is under way, and has ended when this returns."""
        task = asyncio.ensure_future(work)
        await self.done.wait()
        task.cancel()
        await asyncio.sleep(0)
        self._goes_on.set()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as made:
        await made.put("x.org/a", h1="h1:wrong")
        await made.touch("x.org/a")
        assert await made.store.get(artifact(made.path("x.org/a", "mod"))) is None
        known = made.core.memory.known("x.org/a", "v1.0.0")
        assert known is not None
        assert known.zip == "h1:wrong"
        yield made


async def disproved(shop: Shop) -> None:
    """Nothing is served of it, and what is on disk is still counted."""
    assert await shop.store.get(artifact(shop.path("x.org/a"))) is None
    known = await shop.store.known("x.org/a", "v1.0.0")
    assert (known.zip, known.zip_database) == ("h1:right", "db")
    await asyncio.to_thread(shop.consistent)


async def test_what_is_proven_for_nobody_any_more_counts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download that the proof was for failed meanwhile."""
    slow = Slow(monkeypatch, "prove")
    await slow.given_up(shop.store.prove("x.org/a", "v1.0.0", PROVEN))
    await disproved(shop)


async def test_what_is_proven_with_a_file_that_is_not_stored_counts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, "hold")
    mod = artifact(shop.path("x.org/a", "mod"))
    await slow.given_up(shop.store.put(mod, b"module x\n", h1="h1:m", proven=PROVEN))
    await disproved(shop)
    assert (await shop.store.known("x.org/a", "v1.0.0")).mod == "h1:m"


async def test_hashes_that_a_purge_forgets_for_nobody_any_more_are_forgotten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, "forget")
    await slow.given_up(purge_versions(shop.store, "x.org/a", None, forget_hash=True, dry_run=False))
    assert (await shop.store.known("x.org/a", "v1.0.0")).zip is None
