"""One download under way: a sink that writes to ``tmp/``."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
from typing import TYPE_CHECKING, Protocol

from goproxy_vm.cache import tree
from goproxy_vm.cache.health import is_full, reason
from goproxy_vm.cache.layout import private_opener
from goproxy_vm.errors import NoRoom, Unavailable
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.admission import Admission, Reservation
    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.cache.upkeep.leftovers import Leftovers

log = get_logger("cache")

BATCH = 1 << 20
"""Bytes collected before they are written: one thread hop each."""


class Room(Protocol):
    """Who makes room on the disk, by evicting what is stored."""

    async def make_room(self, more: int) -> bool:
        """Leave room for ``more`` bytes beside what has to stay free; whether that was possible."""

    async def full(self, more: int) -> bool:
        """The disk was full when ``more`` bytes were written; whether anything was freed."""


class Download:
    """Bytes of unknown worth, on their way from an upstream into a temporary file.

    ``begin`` for each attempt, ``write``, then :meth:`finish`; after the proof the store adopts it.
    :meth:`discard` in a ``finally``: it does nothing to a download that was adopted.
    """

    def __init__(
        self,
        path: Path,
        admission: Admission,
        threads: Threads,
        health: Health,
        room: Room,
        leftovers: Leftovers,
    ) -> None:
        self.path = path
        """The temporary file; complete after :meth:`finish`."""
        self.length = 0
        """Bytes received in this attempt."""
        self._admission = admission
        self._threads = threads
        self._health = health
        self._room = room
        self._leftovers = leftovers
        self._reservation: Reservation | None = None
        self._opening: asyncio.Future[io.FileIO] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._batch: list[bytes] = []
        self._batched = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the bytes written, in hex; of the whole content after :meth:`finish`."""
        return self._hash.hexdigest()

    async def begin(self, length: int | None) -> None:
        """Forget what an earlier attempt wrote, and reserve room for ``length`` bytes (None: not declared).

        NoRoom: neither the budget nor the disk has it.
        """
        self._batch.clear()
        self._batched = self.length = 0
        self._hash = hashlib.sha256()
        try:
            if self._opening is not None:
                await self._threads.run((await self._file()).truncate, 0)
            # Whoever waits for room holds none.
            self._release()
            await self._leave_free(length or 0)
            self._reservation = await self._admission.reserve(length)
            await self._file()
        except OSError as error:
            raise self._unwritten(error) from error

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; may wait for an eviction. NoRoom: the disk is full, or the budget for an
        undeclared length."""
        if self._reservation is None:
            raise RuntimeError("write before begin")
        self.length += len(chunk)
        self._batch.append(chunk)
        self._batched += len(chunk)
        if self._batched >= BATCH:
            await self._flush()

    def stand_in(self) -> None:
        """Nothing: a zip is proven, wherever it comes from."""

    async def finish(self) -> None:
        """Write what is still held back: now a reader of :attr:`path` sees every byte. NoRoom as write."""
        await self._flush()

    async def hand_over(self) -> Reservation:
        """Finish, close the file and give away both it and its room; the download is spent."""
        await self.finish()
        await self._threads.run((await self._file()).close)
        reservation = self._reservation
        if reservation is None:
            raise RuntimeError("hand-over before begin")
        self._opening = self._reservation = None
        return reservation

    async def discard(self) -> None:
        """Remove the temporary file and give its room back; a second call does nothing."""
        opening, self._opening = self._opening, None
        try:
            if opening is not None:
                file = await opening
                try:
                    await self._threads.run(tree.remove, self.path, self.path.parent)
                except OSError as error:
                    self._left(error)
                if self._writing is not None:
                    # A cancelled caller left it in its thread: it must not meet the number of this
                    # descriptor when that is another file's.
                    await asyncio.gather(self._writing, return_exceptions=True)
                await self._threads.run(file.close)
        except OSError as error:
            log.warning("temporary file not closed", path=self.path, reason=reason(error))
        finally:
            self._release()

    def _left(self, error: OSError) -> None:
        log.warning("temporary file not removed", path=self.path, reason=reason(error))
        size = 0 if self._reservation is None else self._reservation.size
        self._leftovers.keep(self.path, self.path.parent, size, error)

    async def _file(self) -> io.FileIO:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._threads.run(self._open))
        # Shielded: a caller cancelled meanwhile would leave a file that nobody closes.
        return await asyncio.shield(self._opening)

    def _open(self) -> io.FileIO:
        # Without a buffer, and never where it is: each batch has its place.
        return open(self.path, "xb", buffering=0, opener=private_opener)

    async def _flush(self) -> None:
        batch = b"".join(self._batch)
        self._batch.clear()
        self._batched = 0
        if not batch:
            return
        if self._reservation is None:
            raise RuntimeError("flush before begin")
        await self._reservation.hold(self.length)
        with self._admission.write(len(batch)):
            try:
                await self._leave_free(0)
                await self._write(batch)
                await self._threads.run(self._hash.update, batch)
            except OSError as error:
                raise self._unwritten(error) from error
        self._health.succeeded("files")

    async def _leave_free(self, more: int) -> None:
        if not await self._room.make_room(more):
            self._health.failed(OSError(errno.ENOSPC, "less than min_free would be left"))
            raise NoRoom("this host's disk would have less than min_free left")

    async def _write(self, batch: bytes) -> None:
        file = await self._file()
        at = self.length - len(batch)
        try:
            await self._write_at(file.fileno(), batch, at)
        except OSError as error:
            # A full disk below the budget: as if the budget were full, once.
            if not is_full(error) or not await self._room.full(len(batch)):
                raise
            await self._write_at(file.fileno(), batch, at)

    async def _write_at(self, fd: int, batch: bytes, at: int) -> None:
        self._writing = asyncio.ensure_future(self._threads.run(_write_at, fd, batch, at))
        await asyncio.shield(self._writing)

    def _release(self) -> None:
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    def _unwritten(self, error: OSError) -> Unavailable:
        self._health.failed(error)
        log.warning("temporary file not written", path=self.path, reason=reason(error))
        kind = NoRoom if is_full(error) else Unavailable
        return kind(f"this host cannot store the file: {reason(error)}")


def _write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of it, where it belongs: after a full disk the same bytes are written once more."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
