"""The newest signed tree head of each checksum database, and evidence of forks (PROTOCOL §4 "Persist")."""

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
        self._unwritten: dict[str, bytes] = {}

    def file(self, name: str) -> Path:
        """Where the head of the database ``name`` lies; a name may contain slashes."""
        return self._layout.sumdb.joinpath(*name.split("/"), "latest")

    async def read(self, name: str) -> bytes | None:
        """The signed head kept last, None on first use."""
        try:
            return await self._threads.run(tree.read, self.file(name), self._layout.sumdb)
        except FileNotFoundError:
            return None

    async def write(self, name: str, note: bytes) -> None:
        """Replace the head: by rename, after it is on disk."""
        try:
            await self._threads.run(self._publish, self.file(name), note)
        except OSError as error:
            self._unwritten[name] = note
            self._health.failed(error, "heads")
            raise
        self._unwritten.pop(name, None)
        if not self._unwritten:
            self._health.succeeded("heads")

    async def retry(self) -> None:
        """Write what could not be written. OSError: it still cannot."""
        for name, note in list(self._unwritten.items()):
            await self.write(name, note)

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
