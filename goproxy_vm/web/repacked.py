"""A stored zip as the tarball that is sent of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.protocol.tarball import Tarball


class Repacked:
    """Reads the tarball of a zip, which is somebody else's to close."""

    def __init__(self, zipped: StoredFile, tarball: Tarball) -> None:
        self._zipped = zipped
        self._tarball = tarball

    def pread(self, offset: int, n: int) -> bytes:
        """Up to ``n`` bytes from ``offset``, fewer at the end or where the zip was cut. Blocking.
        OSError: the disk failed."""
        return self._tarball.read(self._zipped.pread, offset, n)
