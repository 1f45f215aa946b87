"""Recovery: puts right what an earlier run left, in the background, while everything is served.

Temporary files go, marked files too, rows without a file are struck off. Files without a row are looked at
in place by whoever knows what proves them (``prove``); no module file is removed because nobody can.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.facts import Recovery
from goproxy_vm.cache.health import reason as phrase
from goproxy_vm.cache.reader import Reader
from goproxy_vm.errors import MalformedPath
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from goproxy_vm.cache.core import Core
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.upkeep.scrub import Scrubber

log = get_logger("cache")

BATCH = 256
"""Files looked at in one go."""
Prove = Callable[[str], Awaitable[bool | None]]
"""Says of a file without a row, by its path, whether it was adopted; False for one that fails its check;
None where it stays, unserved, until it is asked for."""


class Recoverer:
    """One pass over the whole directory after a start."""

    def __init__(self, core: Core, scrub: Scrubber, temporary: list[Path], rebuilt: bool) -> None:
        self.facts = Recovery(index_rebuilt=rebuilt)
        self.looked = asyncio.Event()
        """Cleared while files may lie there that were not looked at yet."""
        self.looked.set()
        self._core = core
        self._scrub = scrub
        self._temporary = temporary
        admission = core.admission
        # What an earlier run left in tmp/ takes room until it is gone.
        self._leftover = sum(map(tree.allocated, temporary))
        admission.set_aside(self._leftover)
        if rebuilt:
            # Nothing is on record, and the disk may be full of files.
            admission.count(known=False)

    async def run(self, prove: Prove) -> None:
        """Put everything right, as far as the disk lets it."""
        self.looked.clear()
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self._clear_temporary,
            self._finish_dying,
            self._look_at_rows,
            self._look_at_files,
            self._counted,
            lambda: self._prove_strays(prove),
        )
        for step in steps:
            try:
                await step()
            except (OSError, sqlite3.Error) as error:
                log.error("recovery incomplete", reason=phrase(error))
                self._core.health.failed(error)
            except Exception:
                # A bug; the other steps are of use all the same.
                log.exception("recovery incomplete")
        self.facts.done = True
        facts = self.facts
        log.info(
            "recovered",
            temporary=facts.temporary,
            dying=facts.dying,
            ghosts=facts.ghosts,
            adopted=facts.adopted,
            first_seen=facts.first_seen,
            refused=facts.refused,
            withheld=facts.withheld,
            discarded=facts.discarded,
        )

    async def _clear_temporary(self) -> None:
        left = await self._core.disk.run(self._delete_temporary)
        for entry, (size, error) in left.items():
            self._core.leftovers.keep(entry, entry.parent, size, error)
        self._core.admission.clear(self._leftover)

    async def _counted(self) -> None:
        self.looked.set()
        self._core.admission.count(known=True)

    def _delete_temporary(self) -> dict[Path, tuple[int, OSError]]:
        """Those that are still there, with their size."""
        left = {}
        for entry in self._temporary:
            try:
                tree.remove_all(entry.name, entry.parent)
            except OSError as error:
                log.warning("temporary file not removed", path=entry, reason=phrase(error))
                left[entry] = tree.allocated(entry), error
            else:
                self.facts.temporary += 1
        return left

    async def _finish_dying(self) -> None:
        dying = await self._core.scan(self._core.scanner.dying)
        self.facts.dying = len(await self._core.remover.remove(dying, "size"))

    async def _look_at_rows(self) -> None:
        last = 0
        while rows := await self._core.scan(self._core.scanner.after, last, BATCH):
            last = rows[-1].id or 0
            for victim, missing in await self._core.disk.run(self._wrong, rows):
                if missing:
                    self.facts.ghosts += len(await self._core.remover.remove([victim], "ghost"))
                else:
                    await self._scrub.condemn(victim)

    def _wrong(self, rows: list[Victim]) -> list[tuple[Victim, bool]]:
        wrong = []
        for victim in rows:
            file = self._core.layout.file(victim.path)
            try:
                facts = os.lstat(file)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                    wrong.append((victim, True))
                continue
            if not stat.S_ISREG(facts.st_mode) or facts.st_size != victim.length:
                wrong.append((victim, False))
        return wrong

    async def _look_at_files(self) -> None:
        walk = self._walk()
        while files := await self._core.disk.run(lambda: list(islice(walk, BATCH))):
            unknown = await self._core.ask(self._unknown, files)
            if not unknown:
                continue
            # What is being published right now is on record before the disk is free again.
            async with self._core.queue.disk:
                unknown = await self._core.ask(self._unknown, unknown)
                strays = await self._core.queue.threads.run(self._sort, unknown)
                await to_the_end(self._count(strays))

    async def _count(self, strays: list[tuple[str, Kind, int]]) -> None:
        for stray in await self._core.ask(self._core.index.add_strays, strays):
            self._core.memory.forget(stray.path)
            self._core.usage.add(stray)

    def _missing(self, strays: list[Victim]) -> list[Victim]:
        """Those that an earlier run unlinked and was killed before it could say so."""
        return [each for each in strays if not os.path.lexists(self._core.layout.file(each.path))]

    def _walk(self) -> Iterator[str]:
        """Every file below modules/, as a path below it."""

        def failed(directory: Path, error: OSError) -> None:
            # Nothing of ours is as deep as that, and the rest is looked at all the same.
            log.warning("directory not looked at", path=str(directory)[-200:], reason=phrase(error))

        return tree.files(self._core.layout.modules, failed)

    def _unknown(self, paths: list[str]) -> list[str]:
        # Names outside ASCII are never of ours, and some are no text at all.
        return [path for path in paths if not path.isascii() or not self._core.index.of_path(path)]

    def _sort(self, paths: list[str]) -> list[tuple[str, Kind, int]]:
        """The files of modules; others go: nobody would ever ask for them."""
        strays: list[tuple[str, Kind, int]] = []
        for path in paths:
            file = self._core.layout.modules / path
            kind: Kind | None
            try:
                kind = Artifact.at(path).kind
            except MalformedPath:
                kind = None
            try:
                facts = tree.status(file, self._core.layout.modules)
                if kind is not None and stat.S_ISREG(facts.st_mode):
                    strays.append((path, kind, facts.st_blocks))
                else:
                    tree.remove(file, self._core.layout.modules)
                    self.facts.discarded += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("stray file not removed", path=str(file), reason=phrase(error))
        return strays

    async def _prove_strays(self, prove: Prove) -> None:
        last = ""
        while strays := await self._core.ask(
            self._core.index.strays, "WHERE path > ? ORDER BY path LIMIT 16", last
        ):
            last = strays[-1].path
            ghosts = await self._core.disk.run(self._missing, strays)
            self.facts.ghosts += len(await self._core.remover.remove(ghosts, "ghost"))
            strays = [stray for stray in strays if stray not in ghosts]
            await asyncio.gather(*(self._prove(prove, stray.path) for stray in strays))

    async def _prove(self, prove: Prove, path: str) -> None:
        """Have one of them looked at; whatever goes wrong concerns that one alone."""
        try:
            verdict = await prove(path)
            if verdict is False:
                await self.refuse(path)
            elif verdict is None and await self.stray(path) is not None:
                self.facts.withheld += 1
        except (OSError, sqlite3.Error) as error:
            log.error("file without a record not looked at", path=path, reason=phrase(error))
            self._core.health.failed(error)
        except Exception:
            # A bug; the file stays where it is.
            log.exception("file without a record not looked at", path=path)

    async def stray(self, path: str) -> Victim | None:
        """The file of that path that is there without a row, also where this has not come to it yet."""
        missing = self._core.memory.missing(path)
        found = [] if missing else await self._core.lookups.run(Reader.of_path, path)
        if not found and not self.facts.done and await self._core.disk.run(self._lies_there, path):
            # What is being published right now is on record before the disk is free again.
            async with self._core.queue.disk:
                strays = await self._core.queue.threads.run(self._sort, [path])
                await to_the_end(self._count(strays))
            found = await self._core.lookups.run(Reader.of_path, path)
        return found[0] if found and found[0].id is None else None

    def _lies_there(self, path: str) -> bool:
        file = self._core.layout.file(path)
        # As the walk, this goes by no link.
        return file.exists() and file.resolve() == self._core.layout.modules.resolve() / path

    async def refuse(self, path: str) -> None:
        """A file without a row failed its check: its bytes are kept in quarantine."""
        victim = await self.stray(path)
        if victim is not None:
            artifact = Artifact.at(path)
            named = replace(victim, module=artifact.module, version=artifact.version)
            if await self._scrub.condemn(named):
                self.facts.refused += 1
