"""Absence that outlives its time: what upstreams said is absent is so until one says otherwise, also while
none of them can be asked.

``go install example.com/m/cmd/tool@v1.0.0`` asks for each prefix of the path as a module; a build that
worked yesterday needs yesterday's 404 for them, not today's 502.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from goproxy_vm.cache.answers import ABSENT
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
        self._loaded = False
        self._paths: set[str] = set()
        """Paths whose absence may be kept, and perhaps some more."""

    async def add(self, resource: Named, sentence: str) -> None:
        """An upstream's word that a file is absent; it replaces what was kept before."""
        self.recent.add(resource.path, sentence)
        if not self._keep:
            return
        paths = await self._kept()
        paths.add(resource.path)
        key = ABSENT + resource.path
        await self._answers.set(key, sentence.encode(), keep=self._keep)
        if len(paths) > MOST + TURN:
            await self._answers.bound(ABSENT, MOST)
            self._loaded, self._paths = False, set()

    async def remove(self, path: str) -> None:
        """It is there now."""
        paths = await self._kept()
        if path in paths:
            paths.discard(path)
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

    async def _kept(self) -> set[str]:
        if not self._loaded:
            self._paths.update(key.removeprefix(ABSENT) for key in await self._answers.keys(ABSENT))
            self._loaded = True
        return self._paths
