"""Turning proven bytes into published files: sync, rename, sync the directories. Blocking."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from goproxy_vm.cache import tree
from goproxy_vm.cache.health import OF_THE_NAME, NameRefused
from goproxy_vm.cache.layout import private_opener
from goproxy_vm.cache.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from goproxy_vm.cache.admission import Reservation
    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.protocol.artifact import Artifact


LARGE = 64 << 20
"""Bytes of a file from which on it leaves the page cache once it is on disk: it would push out much else."""


class Checkpoint(Protocol):
    """Called before each step of the write protocol with its name and, for one file, its path.

    An OSError from it fails the step as the disk would. Steps: ``write``, ``sync``, ``rename``,
    ``sync-directory``, ``index``, ``done``.
    """

    def __call__(self, step: str, path: str) -> None:
        """Reach a step."""


@dataclass(eq=False, slots=True)
class Item:
    """A proven file on its way to its place. ``content`` holds its bytes, or its temporary file open."""

    artifact: Artifact
    target: Path
    h1: str | None
    content: StoredFile
    temporary: Path
    reservation: Reservation
    pinned: bool = False
    renamed: bool = False
    blocks: int = 0
    directories: set[Path] = field(default_factory=set)
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        """The artifact's."""
        return self.artifact.path

    @property
    def top(self) -> Path:
        """The directory that :attr:`path` counts from."""
        return self.target.parents[self.path.count("/")]

    @property
    def lies(self) -> tuple[Path, Path]:
        """Where its file is, and the directory of ours that this is in."""
        return (self.target, self.top) if self.renamed else (self.temporary, self.temporary.parent)

    def row(self) -> Row:
        """The item as the index keeps it."""
        content = self.content
        return Row(
            artifact=self.artifact,
            length=content.length,
            blocks=self.blocks,
            sha256=content.sha256,
            h1=self.h1,
            pinned=self.pinned,
        )


def publish(items: Sequence[Item], checkpoint: Checkpoint) -> dict[Item, OSError]:
    """Bring files to where readers look for them, in such an order that no name ever leads to less than
    the whole file, not after a power loss either. The items that failed, for :func:`withdraw`."""
    failed: dict[Item, OSError] = {}
    for step in (_sync, _rename):
        for item in items:
            if item not in failed:
                try:
                    step(item, checkpoint)
                except OSError as error:
                    failed[item] = error
    directories = {
        directory: item.top for item in items if item not in failed for directory in item.directories
    }
    for directory, top in directories.items():
        try:
            checkpoint("sync-directory", str(directory))
            tree.sync(directory, top)
        except OSError as error:
            failed.update((item, error) for item in items if directory in item.directories)
    return failed


def withdraw(items: Iterable[Item]) -> dict[Item, OSError]:
    """Remove the files of items that are not to be stored, temporary or published; those still there."""
    left: dict[Item, OSError] = {}
    for item in items:
        try:
            tree.remove(*item.lies)
        except OSError as error:
            # Without a row it is never served.
            left[item] = error
    return left


def _sync(item: Item, checkpoint: Checkpoint) -> None:
    fd = item.content.fd
    if fd is None:
        checkpoint("write", item.path)
        with open(item.temporary, "xb", opener=private_opener) as file:
            file.write(item.content.data or b"")
            file.flush()
            item.blocks = _sync_file(file.fileno(), item, checkpoint)
    else:
        item.blocks = _sync_file(fd, item, checkpoint)


def _sync_file(fd: int, item: Item, checkpoint: Checkpoint) -> int:
    checkpoint("sync", item.path)
    os.fsync(fd)
    if item.content.length > LARGE:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    # Only now: before the sync, ext4 has not allocated the blocks yet.
    return os.fstat(fd).st_blocks


def _rename(item: Item, checkpoint: Checkpoint) -> None:
    checkpoint("rename", item.path)
    try:
        item.directories = tree.move(item.temporary, item.temporary.parent, item.target, item.top)
    except OSError as error:
        # A name below tmp/ is ours, this one is the module's: only here may an error be of one file alone.
        if error.errno in OF_THE_NAME:
            raise NameRefused(error.errno, error.strerror) from error
        raise
    item.renamed = True
