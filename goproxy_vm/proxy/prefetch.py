"""What VMs are about to ask for, fetched before they do.

``go mod download`` reads the ``.mod`` files of the graph, then asks for the ``.info`` of each version that
it chose, and at last for their zips, a few at a time. So a ``.mod`` that was missing announces the ``.info``
beside it, and the first request for an ``.info`` whose ``.mod`` was there before it announces the zip.
Looking for newer versions (``go list -m -u``) begins with the ``.info`` and announces nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.request import Endpoint, ModuleResource

MOST = 2000
"""Files of one kind announced and not yet begun, later ones are forgotten; ``.info`` files fetched and not
yet asked for, the oldest are forgotten."""
AT_ONCE = 4
"""Files of one kind fetched side by side."""

log = get_logger("proxy")


class Prefetch:
    """Fetches announced files in the background, those of each kind in the order of their announcement."""

    def __init__(self, fetch: Callable[[ModuleResource], Awaitable[bool]]) -> None:
        """``fetch`` brings a file if there is reason to; whether it did. It raises nothing that is to be
        expected."""
        self._infos = _Queue(self._bring_info)
        self._zips = _Queue(fetch)
        self._fetch = fetch
        self._unasked: dict[str, ModuleResource] = {}

    def after_mod(self, module: str, version: str) -> None:
        """A VM asked for a ``.mod`` that was missing."""
        self._infos.announce(ModuleResource(module, Endpoint.INFO, version))

    def after_info(self, module: str, version: str) -> None:
        """A VM asked for an ``.info`` that was missing where the ``.mod`` is stored."""
        self._zips.announce(ModuleResource(module, Endpoint.ZIP, version))

    def hit(self, resource: ModuleResource) -> None:
        """A VM asked for a stored file, and may have others fetched: it is news if this was fetched ahead."""
        if self._unasked.pop(resource.path, None) is not None:
            self.after_info(resource.module, resource.version)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Begin none of these: they were purged."""
        self._infos.forget(matches)
        self._zips.forget(matches)
        self._unasked = _without(self._unasked, matches)

    async def close(self) -> None:
        """Begin no more, and cancel what is under way."""
        await self._infos.close()
        await self._zips.close()

    async def _bring_info(self, resource: ModuleResource) -> None:
        if await self._fetch(resource):
            self._unasked[resource.path] = resource
            if len(self._unasked) > MOST:
                del self._unasked[next(iter(self._unasked))]


class _Queue:
    """Files announced, and the tasks that fetch them."""

    def __init__(self, fetch: Callable[[ModuleResource], Awaitable[object]]) -> None:
        self._fetch = fetch
        self.announced: dict[str, ModuleResource] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def announce(self, resource: ModuleResource) -> None:
        if len(self.announced) < MOST:
            self.announced[resource.path] = resource
        if len(self.tasks) < AT_ONCE:
            task = asyncio.create_task(self._work(), name="prefetch")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        self.announced = _without(self.announced, matches)

    async def close(self) -> None:
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
                log.exception("prefetch failed", path=resource.path)


def _without(
    resources: dict[str, ModuleResource], matches: Callable[[str, str], bool]
) -> dict[str, ModuleResource]:
    return {path: each for path, each in resources.items() if not matches(each.module, each.version)}
