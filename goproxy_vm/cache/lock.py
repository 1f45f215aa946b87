"""One server per cache directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import PRIVATE_FILE
from goproxy_vm.errors import StartError

if TYPE_CHECKING:
    from goproxy_vm.cache.layout import Layout

POLL = 0.05
"""Seconds between two attempts: flock with a timeout does not exist."""


class DirectoryLock:
    """An exclusive flock on ``lock``, which names the process that holds it.

    The kernel releases it with the process, however that ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    async def acquire(cls, layout: Layout, wait: float) -> DirectoryLock:
        """Take the lock, waiting up to ``wait`` seconds for another server to leave the directory.

        The wait lets a restarted server overlap with the one it replaces. StartError names the
        directory and the process that holds it.
        """
        try:
            fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
        except OSError as error:
            raise StartError(f"cache directory {layout.root}: {layout.lock}: {error.strerror}") from error
        try:
            await cls._wait_for(fd, layout, wait)
            # In place: a full disk may not give back the block that an emptied file had.
            os.ftruncate(fd, os.pwrite(fd, b"%d\n" % os.getpid(), 0))
        except OSError as error:
            os.close(fd)
            raise StartError(f"cache directory {layout.root}: {layout.lock}: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @staticmethod
    async def _wait_for(fd: int, layout: Layout, wait: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left = deadline - loop.time()
                if left <= 0:
                    holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                    who = f"process {holder}" if holder else "another process"
                    raise StartError(f"cache directory {layout.root}: in use by {who}") from None
                await asyncio.sleep(min(POLL, left))
            else:
                return

    def release(self) -> None:
        """Let the next server in."""
        os.close(self._fd)
