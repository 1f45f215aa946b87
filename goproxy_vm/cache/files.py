"""What the store hands out: a stored file, open for reading."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING

from goproxy_vm.hostos import read_cached

if TYPE_CHECKING:
    from types import TracebackType

    from goproxy_vm.cache.holders import Hold


READ_AHEAD = 128 << 10
"""Bytes that the kernel reads ahead at once."""


class _Shared:
    """An open file, and how many handles there are of it: the last one closes it."""

    __slots__ = ("file", "handles", "silent")

    def __init__(self, file: io.FileIO) -> None:
        self.file = file
        self.handles = 1
        self.silent = False
        """Whether its file system cannot say what is cached."""


class StoredFile:
    """Proven bytes, open for reading: a descriptor, or the bytes themselves while they await their commit.

    Whoever holds it closes it. Unlinking or renaming the file meanwhile changes nothing. All handles of one
    opening share a descriptor: none has a position.
    """

    __slots__ = ("_resting", "_shared", "data", "hold", "length", "sha256")

    def __init__(self, source: io.FileIO | _Shared | bytes, length: int, sha256: str) -> None:
        self._shared = _Shared(source) if isinstance(source, io.FileIO) else None
        if isinstance(source, _Shared):
            source.handles += 1
            self._shared = source
        self.data = source if isinstance(source, bytes) else None
        """The whole content where it is in memory, else None."""
        self.length = length
        """Bytes."""
        self.sha256 = sha256
        """Of the content, in hex."""
        self.hold: Hold | None = None
        """Counts this handle and others of the same file; released with it."""
        self._resting = False

    def held(self, hold: Hold) -> StoredFile:
        """This file, which is a handle counted by ``hold`` from here on."""
        self.hold = hold
        return self

    def rest(self) -> None:
        """Keep the file open for later copies (:meth:`share`) only: whoever holds it closes it as soon as the
        file is to go."""
        if self.hold is not None and not self._resting:
            self._resting = True
            self.hold.rest()

    @property
    def fd(self) -> int | None:
        """The open descriptor, or None where the content is in :attr:`data`. ValueError once closed."""
        return None if self.data is not None else self.raw.fileno()

    @property
    def raw(self) -> io.FileIO:
        """The open file, for whoever takes no descriptor. ValueError where the content is in :attr:`data`."""
        if self._shared is None:
            raise ValueError("in memory" if self.data is not None else "closed")
        return self._shared.file

    @property
    def etag(self) -> str:
        """A strong entity tag, quoted: zips of one h1 differ in bytes between upstreams (PROTOCOL §2)."""
        return f'"{self.sha256[:32]}"'

    def pread(self, offset: int, n: int) -> bytes:
        """Up to ``n`` bytes from ``offset``, fewer only at the end. Blocking. OSError: the disk failed."""
        if self.data is not None:
            return self.data[offset : offset + n]
        pieces = []
        while n > 0 and (piece := os.pread(self.raw.fileno(), n, offset)):
            pieces.append(piece)
            offset += len(piece)
            n -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def cached(self, offset: int, count: int) -> bool:
        """Whether the page cache seems to hold a part: looked at once in what is read ahead at once."""
        shared, byte = self._shared, [bytearray(1)]
        if shared is None or shared.silent:
            return True
        try:
            for at in range(offset, offset + count, READ_AHEAD):
                read_cached(shared.file.fileno(), byte, at)
        except OSError as error:
            # What cannot say is taken for memory, as tmpfs; what else is wrong, whoever reads it is told.
            shared.silent = error.errno == errno.EOPNOTSUPP
            return not isinstance(error, BlockingIOError)
        return True

    def read_cached(self) -> bytes | None:
        """The whole content of a small file that the page cache certainly holds, else None."""
        if self.data is not None:
            return self.data
        content = bytearray(self.length)
        try:
            count = read_cached(self.raw.fileno(), [content], 0)
        except OSError:
            return None
        return bytes(content) if count == self.length else None

    def share(self) -> StoredFile:
        """Another handle on the same content, to be closed on its own."""
        source = self.data if self._shared is None else self._shared
        if source is None:
            raise ValueError("closed")
        copy = StoredFile(source, self.length, self.sha256)
        return copy if self.hold is None else copy.held(self.hold.take())

    def close(self) -> None:
        """Release the descriptor; a second call does nothing."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.handles -= 1
            if not shared.handles:
                shared.file.close()
        hold, self.hold = self.hold, None
        if hold is not None:
            hold.release(resting=self._resting)

    def __enter__(self) -> StoredFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
