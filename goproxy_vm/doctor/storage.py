"""The cache directory and the disk that it lies on."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.cache.health import is_full
from goproxy_vm.cache.layout import Layout
from goproxy_vm.config.text import size
from goproxy_vm.doctor.check import Finding
from goproxy_vm.errors import StartError
from goproxy_vm.hostos import file_system
from goproxy_vm.ledger.ledger import NAME as LEDGER

if TYPE_CHECKING:
    from goproxy_vm.config import Settings

SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "vboxsf", "ceph", "glusterfs", "afs"})
"""File systems that other machines share; everything in user space, ``fuse.…``, counts as one too."""
FEW_INODES = 10_000
NEW_ELSEWHERE = "set cache_dir to a directory that the server's user may write to"


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system in bytes and inodes; ``inodes`` is None where it has no fixed number of them."""

    total: int
    free: int
    inodes: int | None

    @classmethod
    def of(cls, path: Path) -> Disk:
        """The one that ``path`` lies on (blocking); OSError."""
        facts = os.statvfs(path)
        inodes = facts.f_favail if facts.f_files else None
        return cls(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize, inodes)


def existing(path: Path) -> Path:
    """``path``, or the closest directory above it that exists."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def check_directory(settings: Settings, holder: int | None) -> Finding:
    """Whether the cache directory can be used or made, by writing to it (blocking).

    ``holder`` is the process that holds it, as in :class:`Running`. What is written is a file without a
    name where the system has such files, and else one that is removed at once.
    """
    root = Layout.at(settings.cache_dir).root
    there = existing(root)
    try:
        if not there.is_dir():
            return Finding("failed", f"{there} is not a directory", NEW_ELSEWHERE)
        if there == root:
            Layout.at(root).refuse_foreign_content()
        _write(there)
    except StartError as error:
        return Finding("failed", error.sentence, "set cache_dir to an empty or a new directory")
    except OSError as error:
        remedy = "make room on the disk: nothing new can be stored" if is_full(error) else NEW_ELSEWHERE
        return Finding("failed", f"{there} cannot be written to: {error.strerror}", remedy)
    kind = file_system(there)
    on = f" on {kind}" if kind else ""
    if kind in SHARED or kind.startswith("fuse."):
        return Finding(
            "warning",
            f"{root} is{on}, a network or shared file system; the index is SQLite and wants a local one",
            "set cache_dir to a directory on a local disk",
        )
    if there != root:
        return Finding("ok", f"{root} does not exist yet and can be made in {there}{on}")
    found = _owned(root, on, holder)
    if found.status == "ok" and settings.ledger != "off":
        return _ledger(root) or found
    return found


def check_disk(settings: Settings) -> Finding:
    """Whether there is room (blocking)."""
    root = existing(Layout.at(settings.cache_dir).root)
    try:
        return judge_disk(settings, Disk.of(root))
    except OSError as error:
        return Finding("failed", f"{root}: {error.strerror}", NEW_ELSEWHERE)


def judge_disk(settings: Settings, disk: Disk) -> Finding:
    """Whether a disk has room for what the settings want of it."""
    keep, most = settings.min_free.of(disk.total), settings.max_size.of(disk.total)
    found = (
        f"{size(disk.free)} of {size(disk.total)} are free; min_free is {size(keep)}, max_size {size(most)}"
    )
    if disk.inodes is not None:
        found += f"; {disk.inodes:,} inodes are free"
    if keep >= disk.total:
        return Finding("failed", found, "lower min_free: the disk is not that large, so nothing is stored")
    if disk.free <= keep:
        return Finding(
            "failed", found, "make room on the disk or lower min_free: nothing new can be stored until then"
        )
    if disk.inodes == 0:
        return Finding("failed", found, "remove files: without inodes nothing new can be stored")
    if disk.inodes is not None and disk.inodes < FEW_INODES:
        return Finding("warning", found, "remove small files, or set cache_dir to a disk with more inodes")
    if most > disk.total - keep:
        return Finding("warning", found, "lower max_size: min_free is reached before it")
    return Finding("ok", found)


def _write(directory: Path) -> None:
    """OSError where a file cannot be written down to the disk."""
    # Every start empties tmp/, should this process be killed here.
    inside = directory / "tmp"
    with tempfile.TemporaryFile(dir=inside if inside.is_dir() else directory) as file:
        file.write(b"goproxy-vm doctor\n")
        file.flush()
        os.fsync(file.fileno())


def _ledger(root: Path) -> Finding | None:
    """What is wrong with the ledger's file, if there is one."""
    ledger, owner = root / LEDGER, root.stat().st_uid
    if not os.path.lexists(ledger):
        return None
    if ledger.is_file() and ledger.stat().st_uid == owner and os.access(ledger, os.W_OK):
        return None
    return Finding(
        "warning",
        f"{ledger} is no file that user {owner} may write to: it is not known who gets what",
        "remove it while the server is stopped, or give it to the server's user",
    )


def _owned(root: Path, on: str, holder: int | None) -> Finding:
    owner, me = root.stat().st_uid, os.geteuid()
    found = f"{root}{on} takes what is written to it; it belongs to user {owner}"
    if owner == me:
        return Finding("ok", found)
    if me == 0 and holder:
        return Finding("ok", f"{found}, and process {holder} uses it")
    remedy = f"run the server as user {owner}, or: chown -R {me} {root}"
    if me == 0:
        return Finding("warning", f"{found}, and this is user 0: as such no server starts", remedy)
    return Finding("failed", f"{found}, not to this user {me}", remedy)
