"""Trying again what could not be written: readiness ends by itself, and an unwritable directory shows, though
no VM asks for anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import tempfile
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import DIRECTORY, PRIVATE_DIRECTORY
from goproxy_vm.cache.upkeep.leftovers import remove
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from goproxy_vm.cache.core import Core

RETRY = 5.0
"""Seconds between two attempts while something cannot be written."""
ROOM = 256 << 10
"""Bytes that a disk must take: with less, a file or a few pages of a database fill it."""

log = get_logger("cache")


class Trial:
    """Writes to every place each ``interval`` seconds, while any has failed each RETRY.

    ``attempts``: by place of :class:`Health`, how a write there is tried. OSError, sqlite3.Error: it fails.
    """

    def __init__(
        self,
        core: Core,
        min_free: int,
        interval: float,
        attempts: Mapping[str, Callable[[], Awaitable[object]]],
    ) -> None:
        self._core = core
        self._min_free = min_free
        self._interval = interval
        self._attempts = {"files": self._files, **attempts}

    async def run(self) -> None:
        """Work until cancelled."""
        health = self._core.health
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await health.degraded.wait()
            if health.degraded.is_set():
                await asyncio.sleep(RETRY)
            await self.once()

    async def once(self) -> None:
        """Try every place."""
        health = self._core.health
        for place, attempt in self._attempts.items():
            try:
                await attempt()
            except (OSError, sqlite3.Error) as error:
                health.failed(error, place)
            except Exception:
                log.exception("trial failed", place=place)  # a bug; the other places are tried all the same
            else:
                health.succeeded(place)

    async def _files(self) -> None:
        core = self._core
        if core.health.failing("files") and await core.disk.run(core.free) < self._min_free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for directory in (core.layout.tmp, core.layout.modules):
            await core.disk.run(_write, directory)
        for file, top in core.leftovers.files():
            async with core.queue.disk:  # nothing comes to lie in its place meanwhile
                await core.disk.run(remove, file, top)
                core.leftovers.replaced(file)


def _write(directory: Path) -> None:
    """A file without a name, so that it counts for nobody."""
    if not directory.exists():
        directory.mkdir(mode=PRIVATE_DIRECTORY)
    os.close(os.open(directory, DIRECTORY))  # OSError for a link
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        done = 0
        while done < ROOM:
            done += os.pwrite(file.fileno(), bytes(ROOM - done), done)
        os.fsync(file.fileno())
