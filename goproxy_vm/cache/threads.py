"""The store's own threads: nothing here uses the default executor, which aiohttp's name look-ups share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar


class Closeable(Protocol):
    """Something that holds a resource until it is closed."""

    def close(self) -> None:
        """Release the resource."""


SLICE = 20
"""Items between two turns."""
STRETCH = 0.0001
"""Seconds of the processor's time that a thread works between two pauses."""
PAUSE = 0.001
"""Seconds of such a pause."""

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Closeable)


class Threads:
    """A named pool of ``count`` threads for one sort of blocking work."""

    def __init__(self, name: str, count: int) -> None:
        self.executor = ThreadPoolExecutor(count, thread_name_prefix=f"goproxy-vm {name}")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, computed in one of the threads.

        A function that has begun runs to its end, even where the caller is cancelled.
        """
        return await asyncio.wrap_future(self.executor.submit(function, *args, **kwargs))

    async def open(self, function: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        """As :meth:`run`, for a result that must be closed: a cancelled caller leaves nothing open."""
        future = self.executor.submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_result)
            raise

    def close(self) -> None:
        """Wait for work under way and end the threads."""
        self.executor.shutdown()


async def slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The items a few at a time, with a turn for everybody else in between: ten thousand at a time would hold
    up all hits for a tenth of a second, in a thread hardly less."""
    for start in range(0, len(items), SLICE):
        yield items[start : start + SLICE]
        await asyncio.sleep(0)


def paused(items: Iterable[T], stretch: float = STRETCH) -> Iterator[T]:
    """The items, in a worker thread, with a pause after each stretch of work: where the loop shares its core,
    a thread that goes on keeps it waiting for milliseconds, whoever holds the interpreter's lock."""
    since = time.thread_time()
    for item in items:
        yield item
        if time.thread_time() - since > stretch:
            time.sleep(PAUSE)
            since = time.thread_time()


def _close_result(future: Future[C]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
