"""Answers on disk, each with threads of its own, and a count of the keys that are walked along."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from goproxy_vm.cache import walk
from goproxy_vm.cache.answers import UNBOUNDED, Answers, Desks, module_of
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path
    from typing import Any

    import pytest


@asynccontextmanager
async def open_answers(
    directory: Path,
    health: Health | None = None,
    *,
    tag_of: Callable[[str], str] = module_of,
    most_bytes: int = UNBOUNDED,
    desks: Desks | None = None,
) -> AsyncIterator[Answers]:
    """Answers that are closed at the end, with their ``desks``."""
    desks = desks or Desks(Threads("reader", 1), Threads("writer", 1))
    try:
        answers = await Answers.open(
            directory, desks, health or Health(), tag_of=tag_of, most_bytes=most_bytes
        )
        try:
            yield answers
        finally:
            await answers.close()
    finally:
        desks.reader.close()
        desks.writer.close()


class Walked:
    """How many walks along the keys were begun, and how many keys they passed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.walks = 0
        self.keys = 0
        every = walk.every

        def counted(cache: Any) -> Iterator[str]:
            self.walks += 1
            for key in every(cache):
                self.keys += 1
                yield key

        patch.setattr(walk, "every", counted)
