"""Files to be fetched in the background: bounded in number, a few at a time, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, Protocol, TypeVar

from goproxy_vm.observe.logs import get_logger

MOST = 2000
"""Files announced and not yet begun; later ones are forgotten."""
AT_ONCE = 4
"""Files fetched side by side."""

log = get_logger("proxy")


class Named(Protocol):
    """What can be asked for, of a module; ``version`` is empty where it is of no version."""

    @property
    def module(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def path(self) -> str: ...


N = TypeVar("N", bound=Named)


class Backlog(Generic[N]):
    """Files announced, and the tasks that fetch them in the order of their announcement."""

    def __init__(self, fetch: Callable[[N], Awaitable[object]]) -> None:
        """``fetch`` raises nothing that is to be expected."""
        self._fetch = fetch
        self.announced: dict[str, N] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def announce(self, resource: N) -> None:
        """Fetch a file as soon as its turn comes."""
        if len(self.announced) < MOST:
            self.announced[resource.path] = resource
        if len(self.tasks) < AT_ONCE:
            # Not about the request that happens to announce it: it works for others, too.
            task = asyncio.create_task(self._work(), name="backlog", context=Context())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Begin none of the versions that match."""
        self.announced = {
            path: each for path, each in self.announced.items() if not matches(each.module, each.version)
        }

    async def close(self) -> None:
        """Begin no more, and cancel what is under way."""
        self.announced.clear()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while self.announced:
            resource = self.announced.pop(next(iter(self.announced)))
            try:
                await self._fetch(resource)
            except Exception:
                log.exception("background fetch failed", path=resource.path)
