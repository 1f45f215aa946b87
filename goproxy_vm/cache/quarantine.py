"""Files that failed a check, kept for the operator: the last few, within a bound. Everything blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import PRIVATE_DIRECTORY

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
        kept = f"{time.time_ns()}-{path.replace('/', '+')[-LONGEST_NAME:]}"
        try:
            facts = file.lstat()
            if facts.st_blocks * 512 > self._most_bytes or not stat.S_ISREG(facts.st_mode):
                _remove(file)
                return True
            self._directory.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
            file.replace(self._directory / kept)
        except (FileNotFoundError, NotADirectoryError):
            return False
        files = self._files()
        while files and (len(files) > MOST or sum(size for _, size in files) > self._most_bytes):
            _remove(files.pop(0)[0])
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
