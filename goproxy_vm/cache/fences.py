"""What a purge has put an end to: a fetch that began before it is not stored after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from goproxy_vm.protocol.artifact import Artifact

log = get_logger("cache")

Matches = Callable[[str, str], bool]
"""Says of a module and a version whether they are meant."""
MOST_FENCES = 1000
"""Purges remembered one by one; a fetch older than those is not stored at all."""


class Fences:
    """Which fetches must not be stored because a purge came after they had begun."""

    def __init__(self) -> None:
        self._serial = 0
        self._purges: deque[tuple[int, Matches, int]] = deque(maxlen=MOST_FENCES)

    @property
    def now(self) -> int:
        """What a fetch that begins now remembers, as ``since``: a purge that comes later bars it."""
        return self._serial

    def add(self, matches: Matches, *, larger_than: int = -1) -> None:
        """A purge of versions for which ``matches`` is true, of what has more than ``larger_than`` bytes."""
        self._serial += 1
        self._purges.append((self._serial, matches, larger_than))

    def bars(self, since: int, module: str, version: str, size: int | None = None) -> bool:
        """Whether a purge after ``since`` concerns that version, or a file of it of ``size`` bytes."""
        if self._purges and since < self._purges[0][0] - 1:
            return True
        return any(
            serial > since and (size is None or size > larger_than) and matches(module, version)
            for serial, matches, larger_than in self._purges
        )

    def keep_out(self, since: int | None, artifact: Artifact, size: int) -> bool:
        """Whether a purge since a fetch began (None: whenever) keeps its file out, which is logged."""
        barred = since is not None and self.bars(since, artifact.module, artifact.version, size)
        if barred:
            log.info("file kept out by a purge", path=artifact.path)
        return barred
