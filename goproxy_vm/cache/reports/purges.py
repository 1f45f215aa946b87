"""Purges: what an operator's selection means, and its removal.

In two steps, for what is in memory above the store has to be forgotten between them, and after the second:
:meth:`Purges.choose` bars what is being fetched, :meth:`Purges.remove` takes away what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.cache.reports.report import removal
from goproxy_vm.cache.threads import paused
from goproxy_vm.protocol.artifact import KINDS
from goproxy_vm.protocol.selector import Selector
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Iterable

    from goproxy_vm.cache.answers import Answers
    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.facts import Removal, Selection
    from goproxy_vm.cache.fences import Matches
    from goproxy_vm.cache.reports.scanner import Scanner
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.recovery import Recoverer


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """What one is to remove: files, the answers of ``modules``, and of ``versions`` the hashes first seen.

    ``since`` is what a fetch remembers that it bars, whatever became of it.
    """

    victims: list[Victim]
    modules: set[str]
    versions: set[tuple[str, str]]
    since: int


class Purges:
    """sqlite3.Error from any method: index.db cannot be read or written."""

    def __init__(
        self, core: Core, reader: Scanner, reading: Threads, answers: Answers, recoverer: Recoverer
    ) -> None:
        """``reading`` are the threads of ``reader``."""
        self._core = core
        self._reader = reader
        self._reading = reading
        self._answers = answers
        self._recoverer = recoverer

    async def selector(self, globs: Iterable[str]) -> Selector:
        """What tells which versions are meant, made beside the loop. ValueError: a malformed glob."""
        return await self._reading.run(lambda: Selector(paused(globs)))

    async def choose(self, selection: Selection, *, forget_hash: bool, dry_run: bool) -> PurgePlan:
        """What a selection means, and the cached answers of its modules; with ``forget_hash`` the hashes
        first seen too. No fetch begun before is stored from now on, unless it is a ``dry_run``. ValueError: a
        malformed glob."""
        since = self._core.fences.now
        await self._core.flush()
        matches: Matches = _every if selection.match is None else await self.selector(selection.match)
        # Conditions on what is stored select nothing that is not.
        stored_only = (selection.idle_for, selection.older_than, selection.larger_than) != (None,) * 3
        if not dry_run:
            self._fence_under_way(selection, matches)
        await self._core.queue.flushed()
        victims = await self._reading.run(self._reader.selected, selection)
        if stored_only and victims and not dry_run:
            victims = await self._fence_selected(selection, victims)
        modules = {victim.module for victim in victims}
        versions = set[tuple[str, str]]()
        if stored_only:
            versions = {(victim.module, victim.version) for victim in victims if forget_hash}
        else:
            victims += await self._strays(matches, selection.kinds)
            modules |= await self._answers.modules(matches)
            if forget_hash and not dry_run:
                versions = set(await self._reading.run(self._reader.known, matches))
        return PurgePlan(victims, modules, versions, since)

    async def choose_versions(
        self, module: str, version: str | None, *, forget_hash: bool, dry_run: bool
    ) -> PurgePlan:
        """As :meth:`choose`, one version, or all of a module, and the module's cached answers."""

        def matches(m: str, v: str) -> bool:
            return m == module and version in (None, v)

        since = self._core.fences.now
        if not dry_run:
            self._core.fences.add(matches)
        await self._core.queue.flushed()
        victims = await self._reading.run(self._reader.of_version, module, version)
        victims += await self._strays(matches, KINDS)
        versions = set[tuple[str, str]]()
        if forget_hash and not dry_run:
            versions = set(await self._reading.run(self._reader.known, matches))
        return PurgePlan(victims, {module}, versions, since)

    async def foretell(self, purge: PurgePlan) -> Removal:
        """What would be removed."""
        return await removal(purge.victims, await self._answers.count(purge.modules), dry_run=True)

    async def remove(self, purge: PurgePlan) -> Removal:
        """Remove it; what is in memory of it is the caller's to forget, before and after."""
        gone = await self._core.remover.remove(purge.victims, "purge")
        if purge.versions:
            await to_the_end(self._forget(purge.versions))
        answers = sum([await self._answers.drop(module) for module in sorted(purge.modules)])
        return await removal(gone, answers, dry_run=False)

    async def _forget(self, versions: set[tuple[str, str]]) -> None:
        """The hashes first seen of versions."""
        await self._core.ask(self._core.index.forget, sorted(versions))
        self._core.memory.forget_known(*versions)

    def _fence_under_way(self, selection: Selection, matches: Matches) -> None:
        """Bar what is being fetched now as far as it would be selected: it was asked for and fetched just
        now, so that it is neither idle nor old, and is as large as it turns out to be."""
        if (selection.idle_for or 0) > 0 or (selection.older_than or 0) > 0:
            return
        least = -1 if selection.larger_than is None else selection.larger_than
        self._core.fences.add(matches, larger_than=least)

    async def _fence_selected(self, selection: Selection, victims: list[Victim]) -> list[Victim]:
        """Bar what is being fetched of versions that were selected for what is stored of them; their files,
        those included that came while they were being selected."""
        versions = frozenset((victim.module, victim.version) for victim in victims)
        self._core.fences.add(lambda module, version: (module, version) in versions)
        await self._core.queue.flushed()
        return await self._reading.run(self._reader.files, sorted(versions), selection.kinds)

    async def _strays(self, matches: Matches, kinds: tuple[str, ...]) -> list[Victim]:
        """Files that wait to be looked at: they would be adopted after the purge too."""
        await self._recoverer.looked.wait()
        return await self._reading.run(self._reader.strays, matches, kinds)


def _every(_module: str, _version: str) -> bool:
    return True
