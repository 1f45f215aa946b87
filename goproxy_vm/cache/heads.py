"""The newest signed tree head of each checksum database, how its log has grown, and evidence of forks
(PROTOCOL §4 "Persist")."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.layout import Layout
    from goproxy_vm.cache.threads import Threads

MOST_FORKS = 10
"""Pieces of evidence kept for each database; the first ones stay, they are the ones that matter."""


class Heads:
    """Small files below ``sumdb/``. OSError from any method: the disk fails."""

    def __init__(self, layout: Layout, threads: Threads, health: Health) -> None:
        self._layout = layout
        self._threads = threads
        self._health = health
        self._unwritten: dict[Path, bytes] = {}

    def file(self, name: str) -> Path:
        """Where the head of the database ``name`` lies; a name may contain slashes."""
        return _directory(self._layout, name) / "latest"

    async def read(self, name: str) -> bytes | None:
        """The signed head kept last, None on first use."""
        try:
            return await self._threads.run(tree.read, self.file(name), self._layout.sumdb)
        except FileNotFoundError:
            return None

    async def write(self, name: str, note: bytes) -> None:
        """Replace the head: by rename, after it is on disk."""
        await self._write(self.file(name), note)

    async def read_growth(self, name: str) -> bytes | None:
        """The lines of the heads that were noted, None where none was."""
        try:
            return await self._threads.run(tree.read, self._growth(name), self._layout.sumdb)
        except FileNotFoundError:
            return None

    async def write_growth(self, name: str, lines: bytes) -> None:
        """Replace them."""
        await self._write(self._growth(name), lines)

    async def append_growth(self, name: str, line: bytes) -> None:
        """Add one; after an error there may be a part of it."""
        await self._threads.run(tree.append, line, self._growth(name), self._layout.sumdb)

    def _growth(self, name: str) -> Path:
        return growth_file(self._layout, name)

    async def _write(self, file: Path, data: bytes) -> None:
        try:
            await self._threads.run(self._publish, file, data)
        except OSError as error:
            self._unwritten[file] = data
            self._health.failed(error, "heads")
            raise
        self._unwritten.pop(file, None)
        if not self._unwritten:
            self._health.succeeded("heads")

    async def retry(self) -> None:
        """Write what could not be written. OSError: it still cannot."""
        for file, data in list(self._unwritten.items()):
            await self._write(file, data)

    async def keep_fork(self, name: str, report: str, older: bytes, newer: bytes) -> Path | None:
        """Keep both notes and the report of a fork, None if enough are kept already."""
        return await self._threads.run(self._keep_fork, name, report, older, newer)

    def _keep_fork(self, name: str, report: str, older: bytes, newer: bytes) -> Path | None:
        forks = self.file(name).parent / "forks"
        if forks.is_dir() and len(list(forks.iterdir())) >= MOST_FORKS:
            return None
        kept = forks / f"{time.time_ns()}.txt"
        self._publish(kept, b"\n".join([report.encode(), b"older:", older, b"newer:", newer]))
        return kept

    def _publish(self, target: Path, data: bytes) -> None:
        tree.write(data, target, self._layout.sumdb, self._layout.tmp)


def growth_file(layout: Layout, name: str) -> Path:
    """Where the heads lie that were noted of the database ``name``."""
    return _directory(layout, name) / "heads"


def _directory(layout: Layout, name: str) -> Path:
    return layout.sumdb.joinpath(*name.split("/"))
