"""Who has stored files open. A file that is removed while it is being sent stays on the disk until the last
reader is done: so long its bytes count as used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.cache.usage import Usage


class Hold:
    """One file, for as long as anybody has it open; made by :class:`Holders`."""

    __slots__ = ("_holders", "handles", "lingering", "path", "readers")

    def __init__(self, holders: Holders, path: str) -> None:
        self._holders = holders
        self.path = path
        self.handles = 0
        """Open handles, those at rest among them."""
        self.readers = 0
        """Handles that somebody reads from, or may."""
        self.lingering = 0
        """Bytes on the disk that nothing else counts any more."""

    def take(self) -> Hold:
        """One more handle, which reads."""
        self.handles += 1
        self.readers += 1
        if self.readers == 1:
            self._holders.busy += 1
        return self

    def rest(self) -> None:
        """A handle is kept open by somebody who closes it as soon as the file is to go."""
        self.readers -= 1
        if self.readers == 0:
            self._holders.idle(self)

    def release(self, *, resting: bool) -> None:
        """A handle was closed."""
        self.handles -= 1
        if not resting:
            self.rest()
        if self.handles == 0:
            self._holders.closed(self)


class Holders:
    """All holds of a store. ``freed`` is called when bytes left the disk, or a file can go that could not, if
    somebody waits for that."""

    def __init__(self, usage: Usage, freed: Callable[[], None], waited_for: Callable[[], bool]) -> None:
        self.busy = 0
        """Files that are being read, or may be."""
        self._usage = usage
        self._freed = freed
        self._waited_for = waited_for
        self._published: dict[str, Hold] = {}

    def of(self, path: str) -> Hold:
        """The hold of the file published under a path, with one more handle: before it is opened."""
        hold = self._published.get(path)
        if hold is None:
            hold = self._published[path] = Hold(self, path)
        return hold.take()

    def unpublished(self, path: str) -> Hold:
        """A hold, with one handle, of a file that is to be published under a path."""
        return Hold(self, path).take()

    def published(self, hold: Hold) -> None:
        """Its file lies under its path now."""
        self._published[hold.path] = hold

    def removed(self, path: str, size: int) -> None:
        """What lay under a path is gone, or replaced; it had so many bytes."""
        hold = self._published.pop(path, None)
        if hold is not None:
            self.unlinked(hold, size)

    def unlinked(self, hold: Hold, size: int) -> None:
        """A file of ``size`` bytes has no name any more, and nobody else counts them."""
        if hold.readers:
            hold.lingering += size
            self._usage.lingering += size

    @property
    def paths(self) -> frozenset[str]:
        """Of the files whose removal would free nothing now."""
        return frozenset(path for path, hold in self._published.items() if hold.readers)

    def idle(self, hold: Hold) -> None:
        """Nobody reads it any more."""
        self.busy -= 1
        self._usage.lingering -= hold.lingering
        if hold.lingering or self._waited_for():
            hold.lingering = 0
            self._freed()

    def closed(self, hold: Hold) -> None:
        """Nobody has it open any more."""
        if self._published.get(hold.path) is hold:
            del self._published[hold.path]
