"""Files that failed a check, kept for the operator: the last few, within a bound. Everything blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree

if TYPE_CHECKING:
    from pathlib import Path

MOST = 10
"""Files kept."""
LONGEST_NAME = 150
"""Characters of the file's own path that its name in quarantine ends with."""


class Quarantine:
    """The directory ``quarantine/``, of at most ``most_bytes`` allocated bytes."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self._directory = directory
        self._most_bytes = most_bytes

    def take(self, file: Path, path: str) -> bool:
        """Move a file here, or remove it where it is too large or no file; the oldest ones make room.

        False where there was nothing. OSError: neither was possible.
        """
        top = file.parents[path.count("/")]
        kept = f"{time.time_ns()}-{path.replace('/', '+')[-LONGEST_NAME:]}"
        try:
            facts = tree.status(file, top)
            if facts.st_blocks * 512 > self._most_bytes or not stat.S_ISREG(facts.st_mode):
                _remove(file, top)
                return True
            tree.move(file, top, self._directory / kept, self._directory)
        except (FileNotFoundError, NotADirectoryError):
            return False
        files = self._files()
        while files and (len(files) > MOST or sum(size for _, size in files) > self._most_bytes):
            _remove(files.pop(0)[0], self._directory)
        return True

    def totals(self) -> tuple[int, int]:
        """Files and bytes held."""
        with contextlib.suppress(OSError):
            files = self._files()
            return len(files), sum(size for _, size in files)
        return 0, 0

    def _files(self) -> list[tuple[Path, int]]:
        with os.scandir(self._directory) as entries:
            found = [(self._directory / each.name, each.stat(follow_symlinks=False)) for each in entries]
        return [(path, facts.st_blocks * 512) for path, facts in sorted(found, key=lambda each: each[0])]


def _remove(path: Path, top: Path) -> None:
    with contextlib.suppress(FileNotFoundError), tree.directory(path.parent, top) as fd:
        if stat.S_ISDIR(os.stat(path.name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(path.name, dir_fd=fd)
        else:
            os.unlink(path.name, dir_fd=fd)
