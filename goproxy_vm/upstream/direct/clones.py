"""The clones that the go command keeps, so that the next version costs little: healed, measured, bounded.

go keeps each below ``<directory>/<hash>``, with its URL in ``<hash>.info``, and works on it under an flock
on ``<hash>.lock``. Whatever is done to one here is done under that lock, and while go may run the lock's file
stays: whoever waits for it has it open. All of this blocks; one thread at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.config.text import redacted
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

log = get_logger("upstream")

_LOCKS = ("*.lock", "refs/**/*.lock")
"""git's own locks in a clone: whoever has go's finds none of somebody at work."""
_BLOCK = 512
MOST_CLONES = 1000
"""Clones that are kept: all are looked at after each run."""
OLD_SECONDS = 3600.0
"""Age from which on the lock of a clone that is gone may go while go runs. Whoever opens it in that moment
shares the next clone with another; git's own locks stand between the two then."""
_HALF = "objects/*/tmp_*"
"""Packs and objects that were not finished."""
_KIND = "git3:"
"""What stands before the URL in a clone's ``.info``, in all versions of go that have them."""


@dataclass(frozen=True, slots=True)
class Clone:
    """One of them. ``path`` is its directory, which may be missing; ``url`` its repository, or ""."""

    path: Path
    url: str

    @property
    def info(self) -> Path:
        """The file that names the repository; the time of its last change is that of the last use."""
        return self.path.with_name(f"{self.path.name}.info")


class Clones:
    """The clones below some directories, of which all together keep ``most`` bytes; each directory keeps
    ``most_clones``. ``wall``: now, in epoch seconds."""

    def __init__(
        self,
        directories: tuple[Path, ...],
        most: int,
        most_clones: int = MOST_CLONES,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directories = directories
        self._most = most
        self._most_clones = most_clones
        self._wall = wall
        self._measured: dict[Path, tuple[int, int]] = {}
        """Bytes, and when that was the last change."""

    @property
    def size(self) -> int:
        """Bytes on the disk, as far as measured."""
        return sum(size for size, _ in self._measured.values())

    def sweep(self) -> None:
        """Mend what killed processes left: half packs go, and clones that are locked by nobody. What is in
        use is left alone."""
        for clone in self._all():
            with _held(clone) as held:
                if held:
                    _clear(clone, _HALF)
                    if _clear(clone, *_LOCKS):
                        self._remove(clone, "it was left locked")
        self.measure()

    def measure(self) -> None:
        """Measure those that changed, whoever used them, and keep to the bound."""
        measured = {}
        for clone in self._all():
            known, changed = self._measured.get(clone.path), _changed(clone.path)
            if known is None or known[1] != changed:
                known = _size(clone.path), changed
            measured[clone.path] = known
        self._measured = measured
        self._evict()
        self._trim()

    def clear_out(self) -> None:
        """Remove those into which nothing was ever fetched, as of what does not exist, and locks of clones
        that are gone. For when no go runs."""
        for clone in self._all():
            if not _has_refs(clone):
                with _held(clone) as held:
                    if held:
                        self._remove(clone, "nothing was fetched into it")
        for directory in self._directories:
            for lock in directory.glob("*.lock"):
                _unlock(lock)

    def used(self, concerns: Callable[[Clone], bool]) -> None:
        """A run has used the clones that ``concerns`` says, well or not: measure what changed, and keep to
        the bound. What it left there goes: git leaves half packs whenever it fails."""
        for clone in self._all():
            if concerns(clone):
                with _held(clone) as held:
                    if held:  # that it did not matter this time does not say that it never will
                        _clear(clone, _HALF, *_LOCKS)
                with contextlib.suppress(OSError):
                    os.utime(clone.info)
        self.measure()

    def drop(self, concerns: Callable[[Clone], bool], reason: str) -> int:
        """Remove those that ``concerns`` says, unless they are in use; how many."""
        dropped = 0
        for clone in self._all():
            if concerns(clone):
                with _held(clone) as held:
                    if held:
                        self._remove(clone, reason)
                        dropped += 1
        return dropped

    def adopt(self, made: Path, directory: Path) -> bool:
        """Put the clones that are below ``made`` in the place of those of the same repositories, save such as
        are in use. Whether there are any, and all have their place now; one into which nothing was fetched is
        none. OSError."""
        every = [clone for clone in _below(made) if _has_refs(clone)]
        adopted = 0
        for fresh in every:
            clone = Clone(directory / fresh.path.name, fresh.url)
            with _held(clone) as held:
                if held:
                    self._remove(clone, "it is made anew")
                    fresh.path.rename(clone.path)
                    fresh.info.rename(clone.info)
                    adopted += 1
        self.measure()
        return 0 < adopted == len(every)

    def _evict(self) -> None:
        for directory in self._directories:
            surplus = sum(path.parent == directory for path in self._measured) - self._most_clones
            if surplus > 0:
                removing = self._removing(_below(directory), f"more than {self._most_clones} clones")
                for removed, _ in enumerate(removing, 1):
                    if removed >= surplus:
                        break
        if self.size > self._most:
            for _ in self._removing(self._all(), "no room for all (setting direct_max_size)"):
                if self.size <= self._most:
                    break

    def _removing(self, clones: list[Clone], reason: str) -> Iterator[None]:
        """Remove one after the other, save such as are in use: first those into which nothing was fetched,
        then those used longest ago."""
        for clone in sorted(clones, key=lambda clone: (_has_refs(clone), _last_used(clone))):
            with _held(clone) as held:
                if held:
                    self._remove(clone, reason)
                    yield

    def _trim(self) -> None:
        """Remove old locks of clones that are gone, where there are too many: while somebody asks all the
        time for what does not exist, there is no moment in which no go runs."""
        for directory in self._directories:
            locks = list(directory.glob("*.lock"))
            if len(locks) > 2 * self._most_clones:
                for lock in locks:
                    with contextlib.suppress(OSError):
                        if self._wall() - lock.stat().st_mtime >= OLD_SECONDS:
                            _unlock(lock)

    def _remove(self, clone: Clone, reason: str) -> None:
        with contextlib.suppress(OSError):
            clone.info.unlink()
        shutil.rmtree(clone.path, ignore_errors=True)
        self._measured.pop(clone.path, None)
        log.info("clone dropped", url=redacted(clone.url), reason=reason)

    def _all(self) -> list[Clone]:
        return [clone for directory in self._directories for clone in _below(directory)]


def _below(directory: Path) -> list[Clone]:
    """Every clone in a directory, or whatever else has its place."""
    try:
        with os.scandir(directory) as entries:
            paths = [directory / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [Clone(path, _url(path)) for path in sorted(paths)]


def _clear(clone: Clone, *globs: str) -> int:
    """Remove what killed processes left; how many files."""
    left = [path for glob in globs for path in clone.path.glob(glob)]
    for path in left:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(left)


@contextlib.contextmanager
def _held(clone: Clone) -> Iterator[bool]:
    """go's own lock on a clone, as long as the context lasts; False: somebody else has it."""
    lock = clone.path.with_name(f"{clone.path.name}.lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def _unlock(lock: Path) -> None:
    """Remove the lock of a clone that is gone. OSError."""
    clone = Clone(lock.with_suffix(""), "")
    with _held(clone) as held:
        if held and not clone.path.exists():
            lock.unlink()


def _url(path: Path) -> str:
    try:
        return path.with_name(f"{path.name}.info").read_text("utf-8", "replace").strip().removeprefix(_KIND)
    except OSError:
        return ""


def _has_refs(clone: Clone) -> bool:
    """Whether anything was ever fetched: what is fetched has a name."""
    with contextlib.suppress(OSError):
        if (clone.path / "packed-refs").stat().st_size:
            return True
    return any(path.is_file() for path in (clone.path / "refs").rglob("*"))


def _changed(path: Path) -> int:
    """When a clone was fetched into last, in nanoseconds: each fetch writes FETCH_HEAD and adds packs."""
    newest = 0
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime_ns)
    with contextlib.suppress(OSError):
        newest = max(newest, (path / "objects" / "pack").stat().st_mtime_ns)
    return newest


def _last_used(clone: Clone) -> float:
    try:
        return clone.info.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    """Bytes that a directory has on the disk; of files that vanish meanwhile, nothing."""
    total = 0
    waiting = [path]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    return total
