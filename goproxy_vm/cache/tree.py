"""Files below a directory of ours, reached from descriptor to descriptor: no link on the way is followed, so
that nothing is read, made, renamed or removed outside. Blocking; OSError, for a link too."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import DIRECTORY, PRIVATE_DIRECTORY, private_opener
from goproxy_vm.cache.threads import paused
from goproxy_vm.hostos import open_beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Flags to read a file of ours with; whoever has put a pipe there holds nobody up."""
LONGEST = 4095
"""Bytes of a path that can be opened by its name, as readers do (PATH_MAX less its NUL)."""


@contextlib.contextmanager
def directory(path: Path, top: Path, *, made: set[Path] | None = None) -> Iterator[int]:
    """A descriptor of the directory ``path``, which is ``top`` or below it. With ``made``, what is missing is
    made, and the directories whose entries have changed by that are added to it."""
    if made is not None and not top.is_dir():
        top.mkdir(mode=PRIVATE_DIRECTORY)
        made.add(top.parent)
    fd = os.open(top, DIRECTORY)
    try:
        at = top
        for name in path.relative_to(top).parts:
            inner = _enter(fd, name, at, made)
            os.close(fd)
            fd, at = inner, at / name
        yield fd
    finally:
        os.close(fd)


def _enter(fd: int, name: str, at: Path, made: set[Path] | None) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=fd)
    except FileNotFoundError:
        if made is None:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, PRIVATE_DIRECTORY, dir_fd=fd)
    made.add(at)
    return os.open(name, DIRECTORY, dir_fd=fd)


def opened(file: Path, top: Path) -> int:
    """A descriptor to read a file with, which is below ``top``."""
    at = os.open(top, DIRECTORY)
    try:
        fd = open_beneath(at, os.fsencode(str(file).removeprefix(f"{top}/")), READ)
    finally:
        os.close(at)
    if fd is None:
        with directory(file.parent, top) as parent:
            return os.open(file.name, READ, dir_fd=parent)
    return fd


def read(file: Path, top: Path, most: int = -1) -> bytes:
    """The bytes of a file, or the first so many."""
    with os.fdopen(opened(file, top), "rb") as source:
        return source.read(most)


def move(source: Path, from_top: Path, target: Path, to_top: Path) -> set[Path]:
    """Rename a file, the directories of the target being made; those that are to be synced."""
    if len(os.fsencode(target)) > LONGEST:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    changed = {target.parent}
    with directory(target.parent, to_top, made=changed) as to, directory(source.parent, from_top) as from_:
        os.rename(source.name, target.name, src_dir_fd=from_, dst_dir_fd=to)
    return changed


def write(data: bytes, target: Path, top: Path, tmp: Path) -> None:
    """Put a small file in place of what ``target`` was, in or below ``top``: on disk before it has the name,
    which never stands for half of it. ``tmp`` is on the same disk, and emptied by every start."""
    temporary = tmp / secrets.token_hex(12)
    try:
        with open(temporary, "xb", opener=private_opener) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        moved = move(temporary, tmp, target, top)
    except OSError:
        # It is tried again and again, and a full disk must not fill up with what was tried.
        with contextlib.suppress(OSError):
            remove(temporary, tmp)
        raise
    for changed in moved:
        sync(changed, top)


def append(data: bytes, file: Path, top: Path) -> None:
    """Add to a file that is there, in or below ``top``; it is on disk then. After an error a part may be."""
    with directory(file.parent, top) as parent:
        fd = os.open(file.name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    with os.fdopen(fd, "ab") as opened_file:
        opened_file.write(data)
        opened_file.flush()
        os.fsync(fd)


def sync(path: Path, top: Path) -> None:
    """Have the entries of a directory on disk."""
    if not path.is_relative_to(top):  # the cache directory itself, which may well be a link
        fd = os.open(path, DIRECTORY & ~os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return
    with directory(path, top) as fd:
        os.fsync(fd)


def status(file: Path, top: Path) -> os.stat_result:
    """The facts about a file, or a link itself."""
    with directory(file.parent, top) as fd:
        return os.stat(file.name, dir_fd=fd, follow_symlinks=False)


def remove(file: Path, top: Path) -> None:
    """Remove a file, or a link; nothing where it is gone."""
    with contextlib.suppress(FileNotFoundError), directory(file.parent, top) as fd:
        os.unlink(file.name, dir_fd=fd)


def prune(path: Path, top: Path) -> None:
    """Remove directories that have become empty, as far up as ``top``."""
    with contextlib.suppress(OSError):
        while path != top:
            with directory(path.parent, top) as fd:
                os.rmdir(path.name, dir_fd=fd)
            path = path.parent


def remove_all(name: str, top: Path) -> None:
    """Remove a file, or a directory with all that is in it, from ``top``; nothing where it is gone.

    However deep it is: what is below comes up first.
    """
    with directory(top, top) as at:
        names = [name]
        while names:
            each = names[-1]
            try:
                inner = os.open(each, DIRECTORY, dir_fd=at)
            except FileNotFoundError:
                names.pop()
                continue
            except OSError as error:
                if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                    raise
                os.unlink(each, dir_fd=at)
                names.pop()
                continue
            try:
                below = _bring_up(inner, at)
            finally:
                os.close(inner)
            os.rmdir(each, dir_fd=at)
            names[-1:] = below


def _bring_up(fd: int, at: int) -> list[str]:
    """Empty a directory: its files go, its directories move to ``at``; their names there."""
    brought = []
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in paused(found):
        if is_directory:
            brought.append(secrets.token_hex(12))
            os.rename(name, brought[-1], src_dir_fd=fd, dst_dir_fd=at)
        else:
            os.unlink(name, dir_fd=fd)
    return brought


def allocated(path: Path) -> int:
    """Bytes allocated for a file, or for all files below a directory; what is gone, or too deep, has none."""
    size, left = 0, [path]
    while left:
        each = left.pop()
        with contextlib.suppress(OSError):
            facts = each.lstat()
            if each.is_dir() and not each.is_symlink():
                left += each.iterdir()
            else:
                size += facts.st_blocks * 512
    return size


def files(top: Path, failed: Callable[[Path, OSError], None]) -> Iterator[str]:
    """Everything below ``top`` that is no directory, links too, as paths from there. ``failed`` is told of
    directories that cannot be read, or are too deep to be named, which are passed over."""
    left: list[Path] = [top]
    while left:
        path = left.pop()
        names: list[str] = []
        try:
            if len(os.fsencode(path)) > LONGEST:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            with directory(path, top) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(path / entry.name)
                    else:
                        names.append(entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed(path, error)
        for name in names:
            yield (path / name).relative_to(top).as_posix()
