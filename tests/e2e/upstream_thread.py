"""A FakeUpstream for tests that block: it runs in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from tests.fakes.scripted import Gate
from tests.fakes.upstream import FakeUpstream

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds after which waiting for the upstream fails the test."""


class UpstreamThread:
    """``with UpstreamThread() as upstream``: serves ``upstream.fake`` at ``upstream.url`` for the block.

    Modules and rules may be added from the test's own thread at any time: each is one assignment.
    """

    def __init__(self) -> None:
        self.fake = FakeUpstream()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream")
        self._serving = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.fake.__aenter__())
        self._serving = True
        self.url = self.fake.url
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def stop(self) -> None:
        """Be dead from now on: connections are cut, new ones refused."""
        if self._serving:
            self._serving = False
            self._run(self._stop())

    def wait(self, gate: Gate) -> None:
        """Wait until a request stands before the gate."""
        self._run(gate.arrived.wait())

    def open(self, gate: Gate) -> None:
        """Let what stands before the gate, and all that comes, go on."""
        self._loop.call_soon_threadsafe(gate.open)

    async def _stop(self) -> None:
        await self.fake.__aexit__()
        await asyncio.sleep(0)  # closed transports let go of their sockets in the next round

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)
