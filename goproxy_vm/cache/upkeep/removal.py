"""Taking files away: marked in the index, unlinked, struck off the index, in that order."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.health import reason as phrase
from goproxy_vm.cache.threads import paused
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from goproxy_vm.cache.admission import Admission
    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.holders import Holders
    from goproxy_vm.cache.index import Index
    from goproxy_vm.cache.layout import Layout
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.usage import Usage

log = get_logger("cache")

BATCH = 64
"""Files that go in one transaction; commits and hits that must look closer wait for one batch at most."""


class Remover:
    """Removes stored files, whatever the reason. ``hide`` is told of each path before anything happens to
    the file, ``gone`` of each file that went, with the reason."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        usage: Usage,
        holders: Holders,
        admission: Admission,
        clock: LogicalClock,
        database: Threads,
        disk: asyncio.Lock,
        files: Threads,
        hide: Callable[[str], None],
        gone: Callable[[Victim, str], None],
    ) -> None:
        self._layout = layout
        self._index = index
        self._usage = usage
        self._holders = holders
        self._admission = admission
        self._clock = clock
        self._database = database
        self._disk = disk
        self._files = files
        self._hide = hide
        self._gone = gone

    async def remove(self, victims: Sequence[Victim], reason: str) -> list[Victim]:
        """Remove files in batches; those that went. One that cannot be unlinked is tried again at the
        next start, and is not served. sqlite3.Error: the index cannot be written.
        """
        removed = []
        for start in range(0, len(victims), BATCH):
            async with self._disk:
                removed += await self.remove_now(victims[start : start + BATCH], reason)
        return removed

    async def remove_now(self, victims: Sequence[Victim], reason: str) -> list[Victim]:
        """As :meth:`remove`, one batch, by a caller that holds ``disk``. A caller that is cancelled waits for
        its end: what is gone but still counted would be missing from the budget until a restart."""
        return await to_the_end(self._remove(victims, reason))

    async def _remove(self, victims: Sequence[Victim], reason: str) -> list[Victim]:
        try:
            victims = await self._database.run(self._index.dying, victims)
        except sqlite3.OperationalError as error:
            # A full disk has no room for the mark, which is what the unlinking makes: without the mark a
            # kill leaves rows without a file, which the next start strikes off as well.
            log.warning("files removed unmarked", reason=phrase(error))
            victims = await self._database.run(self._index.standing, victims)
        for victim in victims:
            self._hide(victim.path)
        failed = await self._files.run(self._unlink, victims)
        removed = [victim for victim in victims if victim.path not in failed]
        for path, failure in failed.items():
            log.error("file not removed", path=path, reason=phrase(failure))
        await self._database.run(self._index.remove, removed, reason, self._clock.wall())
        for victim in removed:
            self._hide(victim.path)  # what was found in a row without a mark, too
            self._usage.remove(victim)
            self._holders.removed(victim.path, victim.bytes)
            self._gone(victim, reason)
        if removed:
            self._admission.changed()
        return removed

    def _unlink(self, victims: Sequence[Victim]) -> dict[str, OSError]:
        failed: dict[str, OSError] = {}
        directories = set()
        for victim in paused(victims):
            file = self._layout.file(victim.path)
            try:
                tree.remove(file, self._layout.modules)
            except NotADirectoryError:
                continue
            except OSError as error:
                failed[victim.path] = error
                continue
            directories.add(file.parent)
        for directory in directories:
            tree.prune(directory, self._layout.modules)
        return failed
