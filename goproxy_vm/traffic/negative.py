"""Definite absence, remembered for a short while in memory.

Prefix probes make 404s normal traffic (PROTOCOL §1 "latest"): so the memory is bounded, and a failure
of an upstream never enters it. What is kept longer, for when none can be asked, is in ``absence``.
"""

from __future__ import annotations

from collections.abc import Callable

from goproxy_vm.errors import Absent
from goproxy_vm.lru import Lru

MOST = 10_000
"""How many absent paths are remembered; the one asked for longest ago goes first."""


class Negatives:
    """Remembers absent paths for ``seconds`` by the clock ``monotonic``."""

    def __init__(self, seconds: float, monotonic: Callable[[], float]) -> None:
        self._seconds = seconds
        self._now = monotonic
        self._known: Lru[str, tuple[float, str, int]] = Lru(MOST)

    def add(self, path: str, sentence: str, status: int = Absent.status) -> None:
        """Remember that ``path`` is absent, the sentence that said so, and the status to answer with."""
        self._known.keep(path, (self._now() + self._seconds, sentence, status))

    def has(self, path: str) -> bool:
        """Whether ``path`` is remembered as absent now."""
        known = self._known.get(path)
        if known is None:
            return False
        if known[0] <= self._now():
            self._known.forget(path)
            return False
        return True

    def paths(self) -> list[str]:
        """What is remembered as absent now."""
        return [path for path in list(self._known) if self.has(path)]

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    def check(self, path: str) -> None:
        """Raise Absent with the remembered sentence if ``path`` is remembered as absent now."""
        if self.has(path):
            _, sentence, status = self._known[path]
            absent = Absent(sentence)
            absent.status = status
            raise absent
