"""The answers that the short cut has prepared: in memory, or as open files; those used last stay."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from goproxy_vm.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Iterable

    from goproxy_vm.web.ready import Ready

MOST_BYTES = 64 << 20
"""Bytes of answers in memory: their bodies, and about EACH for each."""
EACH = 600
"""Bytes of memory that an answer takes beside its body."""
MOST_SPELLINGS = 5_000
"""Targets remembered that are not their path as it stands (``%21`` for ``!``)."""


class Prepared:
    """Prepared answers by their path below the proxy's root, and by other targets that lead to it.

    ``most_files``: how many of them may be open files.
    """

    def __init__(self, most_files: int) -> None:
        self._most_files = most_files
        self._whole: OrderedDict[str, Ready] = OrderedDict()
        """In memory; the one used longest ago first."""
        self._files: OrderedDict[str, Ready] = OrderedDict()
        """Likewise, open files."""
        self._spelled: Lru[str, str] = Lru(MOST_SPELLINGS)
        self._bytes = 0

    def find(self, target: str) -> Ready | None:
        """The answer for a target, without its first slash; it is used now."""
        ready = self._whole.get(target)
        if ready is not None:
            self._whole.move_to_end(target)
            return ready
        ready = self._files.get(target)
        if ready is not None:
            self._files.move_to_end(target)
            return ready
        path = self._spelled.get(target)
        return None if path is None else self.find(path)

    def spell(self, target: str, path: str) -> None:
        """A target leads to a path: from now on without being parsed."""
        if target != path:
            self._spelled.keep(target, path)

    def keep(self, ready: Ready) -> None:
        """Keep an answer, in place of another of its path. Those used longest ago go."""
        self.forget(ready.path)
        if isinstance(ready.body, bytes):
            self._bytes += len(ready.body) + EACH
            self._whole[ready.path] = ready
        else:
            ready.body.rest()  # it is closed as soon as the file is to go
            self._files[ready.path] = ready
        while self._bytes > MOST_BYTES:
            self.forget(next(iter(self._whole)))
        while len(self._files) > self._most_files:
            self.forget(next(iter(self._files)))

    def forget(self, path: str) -> None:
        """Drop the answer with that path, if there is one."""
        ready = self._whole.pop(path, None)
        if ready is not None:
            self._bytes -= ready.length + EACH
        ready = self._files.pop(path, None)
        if ready is not None:
            ready.close()

    def take_all(self) -> list[Ready]:
        """Drop all answers; those that are files are the caller's to close."""
        files, self._files = list(self._files.values()), OrderedDict()
        self._whole, self._bytes = OrderedDict(), 0
        return files

    def forget_documents(self) -> None:
        """Drop what is fresh for a while only."""
        self._drop([path for path, ready in self._whole.items() if ready.until is not None])

    def forget_below(self, start: str) -> None:
        """Drop answers whose path begins so, of those in memory."""
        self._drop([path for path in self._whole if path.startswith(start)])

    def _drop(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.forget(path)
