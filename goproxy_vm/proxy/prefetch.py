"""Zips that VMs are about to ask for, fetched before they do.

``go mod download`` reads the ``.mod`` files of the graph, then asks for the ``.info`` of each version that
it chose, and at last for their zips, a few at a time. So an ``.info`` that is missing where the ``.mod`` is
stored announces a zip. Looking for newer versions (``go list -m -u``) begins with the ``.info`` and
announces none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.request import Endpoint, ModuleResource

MOST = 2000
"""Zips announced and not yet begun; later ones are forgotten."""
AT_ONCE = 4
"""Zips fetched side by side."""

log = get_logger("proxy")


class Prefetch:
    """Fetches announced zips in the order of their announcement, in the background."""

    def __init__(self, fetch: Callable[[ModuleResource], Awaitable[None]]) -> None:
        """``fetch`` brings a zip if there is reason to, and raises nothing that is to be expected."""
        self._fetch = fetch
        self._announced: dict[str, ModuleResource] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, module: str, version: str) -> None:
        """A VM will ask for this zip soon."""
        resource = ModuleResource(module, Endpoint.ZIP, version)
        if len(self._announced) < MOST:
            self._announced[resource.path] = resource
        if len(self._tasks) < AT_ONCE:
            task = asyncio.create_task(self._work(), name="prefetch")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Begin none of these: they were purged."""
        self._announced = {
            path: each for path, each in self._announced.items() if not matches(each.module, each.version)
        }

    async def close(self) -> None:
        """Begin no more, and cancel what is under way."""
        self._announced.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while self._announced:
            resource = self._announced.pop(next(iter(self._announced)))
            try:
                await self._fetch(resource)
            except Exception:
                log.exception("prefetch failed", path=resource.path)
