"""A toolchain's zip as ``.tar.gz``, without compressing its files anew: for VMs that have tar and no unzip.

gzip takes members one after another, and a zip has raw deflate streams with their CRCs. So each file's stream
is a member as it is, and what tar has between files, its headers and paddings, is in members of its own.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tarfile
import zlib
from array import array
from bisect import bisect_right
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, BinaryIO

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.archive import STORED, Archive, Fault, bodies, directory, shown, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.protocol.archive import Member

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_EXECUTABLE = re.compile(r"(?:bin|pkg/tool)/.+|lib/(?:.+/)?go_[^/]+_[^/]+_exec")
"""What go makes executable of a toolchain: modes in a zip are not proven (cmd/go/internal/toolchain)."""
_TRAILER = struct.Struct("<LL")  # crc, size (RFC 1952)
_PLAN = struct.Struct("=8sQ")  # mark, numbers in pieces
_MEMBER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no system
_LONGEST_STORED = 0xFFFF  # bytes of a stored block (RFC 1951)


class Tarball:
    """What the bytes of a ``.tar.gz`` are: in turn some of our own, and some of the zip."""

    def __init__(self, own: bytes, pieces: array[int], mark: str) -> None:
        """``pieces``: for each how many bytes of ``own``, and then of the zip from where how many."""
        self._own = own
        self._pieces = pieces
        of_own, of_zip = pieces[0::3], pieces[2::3]
        self._own_starts = array("Q", accumulate(of_own, initial=0))
        self._starts = array("Q", accumulate(map(add, of_own, of_zip), initial=0))
        self.length: int = self._starts.pop()
        """Bytes."""
        self.mark = mark
        """Tells it apart from others of the same zip: another zlib compresses otherwise what is our own."""

    @classmethod
    def plan(cls, file: BinaryIO, module: str, version: str) -> Tarball:
        """The one of a good zip of ``module`` at ``version``: its files below ``go/``, in the zip's order.

        Everything is inflated once, for the zip's directory alone is not to be believed. ContentError: what
        is no good zip.
        """
        try:
            archive = Archive(file)
            last = {entry.name: entry for entry in directory(archive, None)}
            packing = _Packing()
            for entry, start in bodies(archive, last):
                if not entry.name.endswith(b"/"):
                    packing.add(archive, entry, start, _named(entry.name, f"{module}@{version}/"))
        except (Fault, ValueError, tarfile.TarError) as error:
            raise ContentError(f"zip: {error}") from None
        return packing.whole()

    def read(self, pread: Callable[[int, int], bytes], at: int, count: int) -> bytes:
        """``count`` bytes from ``at``; fewer at the end, and where ``pread``, which takes an offset and a
        count, has no more of the zip."""
        found = []
        i = bisect_right(self._starts, at) - 1
        while count and i < len(self._starts):
            own, zip_at, zip_count = self._pieces[3 * i : 3 * i + 3]
            skip = at - self._starts[i]
            if skip >= own + zip_count:
                i += 1
                continue
            if skip < own:
                begin = self._own_starts[i] + skip
                part = self._own[begin : begin + min(own - skip, count)]
            else:
                part = pread(zip_at + skip - own, min(own + zip_count - skip, count))
                if not part:
                    break
            found.append(part)
            at += len(part)
            count -= len(part)
        return b"".join(found)

    def to_bytes(self) -> bytes:
        """For :meth:`from_bytes`, on the same machine."""
        return _PLAN.pack(self.mark.encode(), len(self._pieces)) + self._pieces.tobytes() + self._own

    @classmethod
    def from_bytes(cls, data: bytes) -> Tarball:
        """The one that ``data`` was made of."""
        mark, count = _PLAN.unpack_from(data)
        pieces = array("Q")
        end = _PLAN.size + count * pieces.itemsize
        pieces.frombytes(data[_PLAN.size : end])
        return cls(data[end:], pieces, mark.decode())


class _Packing:
    """A tarball in the making."""

    def __init__(self) -> None:
        self._own = bytearray()
        self._pieces: array[int] = array("Q")
        self._taken = 0
        self._open = b""
        """What tar has before the next header: the padding of the file before."""

    def add(self, archive: Archive, entry: Member, start: int, name: str) -> None:
        """One file more."""
        self._own += _member(self._open + _header(name, entry.size))
        self._open = bytes(-entry.size % _BLOCK)
        if not entry.size:
            return
        taken, crc = stream_of(archive, entry, start)
        self._own += _MEMBER
        if entry.method == STORED:
            self._store(start, entry.size)
        else:
            self._piece(start, taken)
        self._own += _TRAILER.pack(crc, entry.size)

    def whole(self) -> Tarball:
        """All of it."""
        self._own += _member(self._open + _END)
        self._piece(0, 0)
        mark = hashlib.sha256(self._own + self._pieces.tobytes()).hexdigest()[:8]
        return Tarball(bytes(self._own), self._pieces, mark)

    def _store(self, start: int, size: int) -> None:
        """A stored entry as blocks of a deflate stream that are stored as well."""
        for at in range(0, size, _LONGEST_STORED):
            count = min(_LONGEST_STORED, size - at)
            self._own += struct.pack("<BHH", at + count == size, count, count ^ 0xFFFF)
            self._piece(start + at, count)

    def _piece(self, start: int, count: int) -> None:
        self._pieces.extend((len(self._own) - self._taken, start, count))
        self._taken = len(self._own)


def _named(name: bytes, prefix: str) -> str:
    plain = name.decode()
    if not plain.startswith(prefix):
        raise Fault(f"{shown(name)}: the name does not have the prefix {prefix!r}")
    return plain.removeprefix(prefix)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(f"go/{name}")  # of 1970, of root
    info.size = size
    info.mode = 0o755 if _EXECUTABLE.fullmatch(name) else 0o644
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError:  # a name that cannot be cut in two where it has a slash
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _member(data: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    return _MEMBER + body + _TRAILER.pack(zlib.crc32(data), len(data))
