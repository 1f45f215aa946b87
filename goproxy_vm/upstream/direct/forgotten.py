"""Modules whose clones are not to be believed, for as long as the clones that were there are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from goproxy_vm.observe.logs import get_logger
from goproxy_vm.waiting import to_the_end

log = get_logger("upstream")


class Forgotten:
    """Modules that were purged since a clone was last made for them; on the disk, as clones are. As many as
    operators purge: none is ever passed over. :meth:`load` it; one event loop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._modules: set[str] = set()
        self._writing = asyncio.Lock()

    def load(self) -> None:
        """Know what an earlier server was told (blocking). OSError."""
        if self._file.exists():
            self._modules = set(self._file.read_text("utf-8", "replace").splitlines())

    def __contains__(self, module: str) -> bool:
        return module in self._modules

    async def add(self, modules: Collection[str]) -> None:
        """These are not to be believed, from now on."""
        if modules:
            self._modules.update(modules)
            await to_the_end(self._write())

    async def remove(self, module: str) -> None:
        """Its clone is a new one."""
        if module in self._modules:
            self._modules.remove(module)
            await to_the_end(self._write())

    async def _write(self) -> None:
        async with self._writing:
            try:
                await asyncio.to_thread(_replace, self._file, sorted(self._modules))
            except OSError as error:
                log.warning("purges not noted", file=str(self._file), reason=error.strerror)


def _replace(file: Path, lines: list[str]) -> None:
    made = file.with_name(f"{file.name}.new")
    made.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    made.replace(file)
