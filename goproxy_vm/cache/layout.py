"""Where things lie below the cache directory. One directory, mode 0700, one file system."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from goproxy_vm.cache.health import is_full
from goproxy_vm.errors import StartError
from goproxy_vm.protocol.artifact import kind_of

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory of ours with; a link in its place is none."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``root``, which is absolute."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Layout:
        """The layout of the cache directory ``root``; a relative one counts from the working directory."""
        return cls(root.absolute())

    @property
    def modules(self) -> Path:
        """The published files, under the names Go uses in GOMODCACHE/cache/download: a file:// proxy."""
        return self.root / "modules"

    @property
    def tmp(self) -> Path:
        """Files that are being written; nothing in it is ever served."""
        return self.root / "tmp"

    @property
    def quarantine(self) -> Path:
        """Bytes that failed a check, for the operator to look at; never served, bounded."""
        return self.root / "quarantine"

    @property
    def snapshots(self) -> Path:
        """The SQLite database of snapshots: what was stored when, for comparison."""
        return self.root / "snapshots.db"

    @property
    def answers(self) -> Path:
        """Answers with a time to live; may be deleted whole while no server runs."""
        return self.root / "answers"

    @property
    def index(self) -> Path:
        """The SQLite database of the files and of the hashes seen first."""
        return self.root / "index.db"

    @property
    def sumdb(self) -> Path:
        """Signed tree heads, by the name of their checksum database; worth a backup."""
        return self.root / "sumdb"

    @property
    def records(self) -> Path:
        """Proven records and tiles of checksum databases. No database has a name with an underscore first."""
        return self.sumdb / "_records"

    @property
    def vms(self) -> Path:
        """What is known of the VMs; may be deleted whole while no server runs."""
        return self.root / "vms"

    @property
    def seen(self) -> Path:
        """The list of what each of them has told last."""
        return self.vms / "seen"

    @property
    def lock(self) -> Path:
        """Held by the one server that owns the directory."""
        return self.root / "lock"

    def prepare(self) -> None:
        """Make the directories, private to this user. StartError where that cannot be."""
        try:
            self.root.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self.refuse_foreign_content()
            for directory in (
                *(self.root, self.modules, self.tmp, self.answers, self.quarantine),
                *(self.sumdb, self.records),
            ):
                try:
                    directory.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
                except FileNotFoundError:
                    continue  # that below which it lies could not be made
                except OSError as error:
                    # What is stored is served from a full disk; who needs the directory makes it.
                    if not is_full(error) or directory in (self.root, self.modules):
                        raise
                else:
                    self._own(directory)
        except FileExistsError as error:
            raise StartError(f"cache directory {self.root}: {error.filename} is not a directory") from error
        except OSError as error:
            raise StartError(f"cache directory {self.root}: {error.filename}: {error.strerror}") from error

    def refuse_foreign_content(self) -> None:
        """StartError if ``root``, which exists, holds files but no cache; OSError if it cannot be listed."""
        # A mistyped --cache-dir must not turn somebody's home into a cache.
        names = {entry.name for entry in self.root.iterdir()} - {"lost+found"}
        if names and not names & {self.lock.name, self.index.name, self.modules.name}:
            raise StartError(
                f"cache directory {self.root}: holds other files and no cache; name an empty or a new one"
            )

    def _own(self, directory: Path) -> None:
        if directory != self.root and directory.is_symlink():
            # What is emptied, written or removed there would be somebody else's.
            raise StartError(
                f"cache directory {self.root}: {directory} is a symbolic link; put the whole cache directory"
                " where it leads to, or remove it"
            )
        facts = directory.stat()
        # Whoever owns the directory can plant files in it.
        if facts.st_uid != os.geteuid():
            raise StartError(
                f"cache directory {self.root}: {directory} belongs to user {facts.st_uid},"
                f" not to this server's user {os.geteuid()}"
            )
        if facts.st_dev != self.root.stat().st_dev:
            raise StartError(
                f"cache directory {self.root}: {directory} is on another file system,"
                " so that nothing could be renamed into place"
            )
        if facts.st_mode & 0o077:
            directory.chmod(PRIVATE_DIRECTORY)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise StartError(f"cache directory {self.root}: {directory} is not writable")

    def file(self, path: str) -> Path:
        """Where the file with that escaped path is published. MalformedPath unless it is the path of one, and
        stays inside ``modules/``: the request parser has seen to it already, this is the second look."""
        kind_of(path)
        return self.modules.joinpath(*path.split("/"))

    def temporary(self) -> Path:
        """A name in ``tmp/`` that no other file has."""
        return self.tmp / secrets.token_hex(12)


def free_bytes(directory: Path) -> int:
    """Bytes that the file system of a directory has left for this user."""
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize


def private_opener(path: str, flags: int) -> int:
    """For ``open(..., opener=…)``: a new file that only this user may read. A directory of ours that somebody
    has removed meanwhile is made again; not the cache directory, whose lock would be gone with it."""
    parent, name = os.path.split(path)
    try:
        directory = os.open(parent, DIRECTORY)
    except FileNotFoundError:
        Path(parent).mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        directory = os.open(parent, DIRECTORY)
    try:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE, dir_fd=directory)
    finally:
        os.close(directory)
