"""What a cache directory holds, by asking the disk itself."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from goproxy_vm.config.token import SOCKET_NAME

if TYPE_CHECKING:
    from pathlib import Path


def allocated(*directories: Path) -> int:
    """Bytes that the files below directories use, as ``du`` counts them; a file that is renamed from an
    earlier directory to a later one meanwhile counts once."""
    sizes: dict[int, int] = {}
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for name in names:
                try:
                    facts = os.lstat(os.path.join(parent, name))  # noqa: PTH118 (called for every file)
                except FileNotFoundError:
                    continue
                sizes[facts.st_ino] = max(sizes.get(facts.st_ino, 0), facts.st_blocks * 512)
    return sum(sizes.values())


def under(root: Path) -> int:
    """What a cache directory's budget counts: ``tmp/`` and ``modules/``."""
    return allocated(root / "tmp", root / "modules")


def in_use(root: Path) -> int:
    """As :func:`under`, with the directory's files that this process has open though they have no name."""
    sizes = {}
    for link in os.scandir("/proc/self/fd"):
        try:
            if os.readlink(link.path).startswith(f"{root}/"):  # noqa: PTH115 (called for every descriptor)
                facts = os.stat(link.path)  # noqa: PTH116 (likewise)
                if facts.st_nlink == 0:
                    sizes[facts.st_ino] = facts.st_blocks * 512
        except FileNotFoundError:
            continue
    return under(root) + sum(sizes.values())


def copy_of(cache: Path, where: Path) -> None:
    """Copy a cache directory whose server runs: but for its socket, which is no file."""
    shutil.copytree(cache, where, ignore=shutil.ignore_patterns(SOCKET_NAME))
