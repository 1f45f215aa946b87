"""Absence that outlives its time: what upstreams said is absent is so until one says otherwise, also while
none of them can be asked.

``go install example.com/m/cmd/tool@v1.0.0`` asks for each prefix of the path as a module; a build that
worked yesterday needs yesterday's 404 for them, not today's 502.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from goproxy_vm.cache.answers import ABSENT
from goproxy_vm.cache.walk import SLICE
from goproxy_vm.errors import Absent
from goproxy_vm.traffic.negative import Negatives

if TYPE_CHECKING:
    from goproxy_vm.cache.answers import Answers
    from goproxy_vm.traffic.backlog import Named

MOST = 20_000
"""Absences kept on disk, the newest: VMs choose what they ask for."""
TURN = 256
"""Absences by which their number may pass that."""


class Absences:
    """Definite absence: believed for ``recent`` seconds, kept for ``keep`` seconds."""

    def __init__(
        self,
        recent: float,
        keep: float,
        answers: Answers,
        monotonic: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.recent = Negatives(recent, monotonic)
        """What is believed without asking again."""
        self._keep = keep
        self._answers = answers
        self._wall = wall
        self._loading = asyncio.Lock()
        self._loaded = False
        self._paths: dict[str, None] = {}
        """Paths whose absence may be kept, and perhaps some more, in the order of their storing."""

    async def add(self, resource: Named, sentence: str) -> None:
        """An upstream's word that a file is absent; it replaces what was kept before."""
        self.recent.add(resource.path, sentence)
        if not self._keep:
            return
        paths = await self._kept()
        paths.pop(resource.path, None)
        paths[resource.path] = None
        key = ABSENT + resource.path
        await self._answers.set(key, sentence.encode(), keep=self._keep)
        if len(paths) > MOST + TURN:
            await self._bound()

    async def remove(self, path: str) -> None:
        """It is there now."""
        paths = await self._kept()
        if path in paths:
            del paths[path]
            await self._answers.delete(ABSENT + path)

    async def unkept(self, matches: Callable[[str], bool]) -> int:
        """How many paths that ``matches`` are believed absent, without that being on disk."""
        kept = await self._kept()
        return sum(path not in kept and matches(path) for path in self.recent.paths())

    async def keeps(self, path: str) -> bool:
        """Whether :meth:`check` may raise."""
        return path in await self._kept()

    async def check(self, path: str) -> None:
        """Raise Absent if that was said of a path when upstreams could be asked last."""
        if path not in await self._kept():
            return
        found = await self._answers.get(ABSENT + path)
        if found is not None and self._wall() - found.stored < self._keep:
            absent = Absent(f"{found.data.decode()} (as of when it could be asked last)")
            absent.remembered = True
            raise absent

    async def _bound(self) -> None:
        """Forget the oldest until there are no more than :data:`MOST`."""
        while beyond := list(islice(self._paths, min(SLICE, max(0, len(self._paths) - MOST)))):
            for path in beyond:
                del self._paths[path]  # first: whoever adds one meanwhile has it here and on disk
            await self._answers.delete_all([ABSENT + path for path in beyond])

    async def _kept(self) -> dict[str, None]:
        # In one walk for all who wait; and one that the disk ended has not seen all.
        async with self._loading:
            if not self._loaded and (keys := await self._answers.keys(ABSENT)) is not None:
                self._paths = dict.fromkeys(key.removeprefix(ABSENT) for key in keys) | self._paths
                self._loaded = True
        return self._paths
