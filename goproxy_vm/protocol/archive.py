"""Zip archives, read as Go's archive/zip reads them: the directory, and what the entries hold.

The standard library's zipfile is not used: it decodes unflagged names as cp437, cuts names at NUL, believes
false sizes, takes other bytes for the directory than Go where an archive is damaged, and does each of these a
little differently from release to release. A zip that only Python can read would be stored for good.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20

# APPNOTE 4.3: little endian; what Go does not look at is skipped.
_LOCAL = struct.Struct("<4s22xHH")  # lengths of name and extra
_RECORD = struct.Struct("<4s4xHH4xLLLHHH8xL")  # flags, method, crc, sizes, three lengths, offset
_END = struct.Struct("<4s6xHLLH")  # records, size and offset of the directory, length of the comment
_LOCATOR64 = struct.Struct("<4sLqL")  # disk, offset of the 64-bit end, disks
_END64 = struct.Struct("<4s28xQqq")  # records, size and offset of the directory
_END_TAILS = (1024, 65 * 1024)  # how far from the file's end Go looks for the directory's end
_DESCRIPTOR_FLAG = 0x8
STORED, _DEFLATED = 0, 8
_WIDE = 0xFFFF_FFFF  # the value stands in the 64-bit extra field


class Fault(Exception):
    """A rule that the archive breaks."""


class Expensive(Exception):
    """The check would cost more than it may; whether the zip is good is not known."""


def shown(name: bytes) -> str:
    """A name for people."""
    return repr(name.decode("utf-8", "replace"))


class Archive:
    """The file, of which nothing outside is ever asked for: a lying offset is no error of this host's."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer at the end, none outside."""
        if not 0 <= offset < self.size:
            return b""
        self.file.seek(offset)
        return self.file.read(length)

    def chunks(self, offset: int, length: int) -> Iterator[bytes]:
        """Up to ``length`` bytes from ``offset`` in chunks."""
        while length and (chunk := self.read_at(offset, min(length, _CHUNK))):
            yield chunk
            offset += len(chunk)
            length -= len(chunk)


class Member(NamedTuple):
    """A record of the central directory. Sizes and offset may be negative where the record lies."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    offset: int


def directory(archive: Archive, most: int | None) -> list[Member]:
    """Every record up to the first that is none: Go trusts the count alone, modulo 65536.

    Fault; Expensive where they have more than ``most`` bytes.
    """
    records, start, base = _directory_end(archive)
    archive.file.seek(start)
    entries: list[Member] = []
    while entry := _record(archive.file):
        if most is not None and archive.file.tell() - start > most:
            raise Expensive
        entries.append(entry._replace(offset=entry.offset + base) if base else entry)
    if (len(entries) - records) % 65536:
        raise Fault(f"not a valid zip file: {len(entries)} entries instead of {records}")
    return entries


def _directory_end(archive: Archive) -> tuple[int, int, int]:
    """Number of records, where the first one is, and what to add to the offsets in them."""
    end, comment = _find_end(archive)
    _, records, size, offset, _ = _END.unpack_from(comment)
    if records == 0xFFFF or size == 0xFFFF or offset == _WIDE:  # 0xFFFF for the size is Go's own choice
        locator = archive.read_at(end - _LOCATOR64.size, _LOCATOR64.size)
        if len(locator) == _LOCATOR64.size:
            signature, disk, where, disks = _LOCATOR64.unpack(locator)
            if signature == b"PK\x06\x07" and disk == 0 and disks == 1 and where >= 0:
                end = where
                wide = archive.read_at(end, _END64.size)
                if len(wide) != _END64.size or not wide.startswith(b"PK\x06\x06"):
                    raise Fault("not a valid zip file: no 64-bit end where the locator says")
                _, records, size, offset = _END64.unpack(wide)
    start = end - size
    if size < 0 or offset < 0 or not 0 <= start < archive.size:
        raise Fault("not a valid zip file: its directory lies outside")
    base = start - offset
    if base > 0 and _is_record(archive, offset):
        return records, offset, 0  # bytes that were put between directory and end, not before the archive
    return records, start, base


def _find_end(archive: Archive) -> tuple[int, bytes]:
    """Where the end record is, and the bytes from there on. A cut comment before it hides it, as in Go."""
    for most in _END_TAILS:
        length = min(most, archive.size)
        tail = archive.read_at(archive.size - length, length)
        at = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
        if at >= 0 and at + _END.size + int(_END.unpack_from(tail, at)[-1]) <= len(tail):
            return archive.size - length + at, tail[at:]
    raise Fault("not a valid zip file: no end of a directory")


def _is_record(archive: Archive, offset: int) -> bool:
    archive.file.seek(offset)
    try:
        return _record(archive.file) is not None
    except Fault:
        return False


def _record(file: BinaryIO) -> Member | None:
    """The record at the file's position; None if there is none, or a cut one."""
    header = _read(file, _RECORD.size)
    if len(header) != _RECORD.size:
        return None
    signature, flags, method, crc, compressed, size, name_length, extra_length, comment_length, offset = (
        _RECORD.unpack(header)
    )
    if signature != b"PK\x01\x02":
        return None
    length = name_length + extra_length + comment_length
    variable = _read(file, length)
    if len(variable) != length:
        return None
    name = variable[:name_length]
    if _WIDE in (size, compressed, offset):
        wide = _widened(variable[name_length : name_length + extra_length], [size, compressed, offset])
        if wide is None:
            return None
        size, compressed, offset = wide
    return Member(name, flags, method, crc, compressed, size, offset)


def _read(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if length and not data:
        # Go tells "ends exactly here" from "cut", and forgives only the latter.
        raise Fault("not a valid zip file: it ends in the directory")
    return data


def _widened(extra: bytes, values: list[int]) -> list[int] | None:
    """Size, compressed size and offset with what the 64-bit extra field says; None if it says too little."""
    wanted = [i for i, value in enumerate(values) if value == _WIDE]
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if at + length > len(extra):
            break
        if tag == 1:
            if length < 8 * len(wanted):
                return None
            for i, value in zip(wanted, struct.unpack_from(f"<{len(wanted)}q", extra, at), strict=True):
                values[i] = value
            return values
        at += length
    return values if wanted == [0] else None  # a size of 2³²−1 is taken for plain, an offset is not


def bodies(archive: Archive, entries: dict[bytes, Member]) -> list[tuple[Member, int]]:
    """Each entry and where its content begins, in that order; none overlaps another. Fault.

    Empty deflate blocks give any amount of work without giving a byte, and one body may have any number of
    entries: so what is read is bounded by the archive's own size before anything of it is.
    """
    found = sorted(((entry, _body_offset(archive, entry)) for entry in entries.values()), key=lambda e: e[1])
    before, end = b"", 0
    for entry, start in found:
        length = _stored_length(archive, entry)
        if entry.name.endswith(b"/") or not length:
            continue
        if start < end:
            raise Fault(f"{shown(entry.name)}: its content overlaps that of {shown(before)}")
        before, end = entry.name, min(start + length, archive.size)
    return found


def _stored_length(archive: Archive, entry: Member) -> int:
    # A size over 2⁶³ is negative to Go too, which then reads as far as there are bytes.
    return entry.compressed if entry.compressed >= 0 else archive.size


def digest_of(archive: Archive, entry: Member, start: int) -> bytes:
    """SHA-256 of an entry's content, read and checked as Go's archive/zip does. Fault."""
    digest = hashlib.sha256()
    crc = length = 0
    try:
        if entry.name.endswith(b"/"):
            if entry.size:
                raise Fault("a directory with content")
            return digest.digest()
        for chunk in _content(archive, entry, start):
            length += len(chunk)
            if length > entry.size:
                raise Fault(f"more than the declared {entry.size} bytes")
            crc = zlib.crc32(chunk, crc)
            digest.update(chunk)
        if length != entry.size:
            raise Fault(f"{length} bytes instead of the declared {entry.size}")
        if entry.flags & _DESCRIPTOR_FLAG:
            if crc != entry.crc or _descriptor_crc(archive, start + entry.compressed) != crc:
                raise Fault("checksum error")
        elif entry.crc and crc != entry.crc:
            raise Fault("checksum error")
    except (Fault, zlib.error) as error:
        raise Fault(f"{shown(entry.name)}: {error}") from None
    return digest.digest()


def stream_of(archive: Archive, entry: Member, start: int) -> tuple[int, int]:
    """How many bytes of the archive an entry's content really takes, and its CRC. Fault.

    Bytes may follow a deflate stream that belong to it by the directory alone. Go skips them, so no hash
    knows of them: whoever takes the stream elsewhere must leave them behind.
    """
    length = crc = 0
    inflated = _Inflated(archive.chunks(start, _stored_length(archive, entry)))
    content = archive.chunks(start, entry.size) if entry.method == STORED else inflated
    try:
        for chunk in content:
            length += len(chunk)
            crc = zlib.crc32(chunk, crc)
        if length != entry.size:
            raise Fault(f"{length} bytes instead of the declared {entry.size}")
    except (Fault, zlib.error) as error:
        raise Fault(f"{shown(entry.name)}: {error}") from None
    return length if entry.method == STORED else inflated.taken, crc


def _body_offset(archive: Archive, entry: Member) -> int:
    header = archive.read_at(entry.offset, _LOCAL.size)
    if len(header) != _LOCAL.size:
        raise Fault(f"{shown(entry.name)}: its header is cut off")
    signature, name_length, extra_length = _LOCAL.unpack(header)
    if signature != b"PK\x03\x04":
        raise Fault(f"{shown(entry.name)}: no header where the directory says")
    return entry.offset + _LOCAL.size + int(name_length) + int(extra_length)


def _content(archive: Archive, entry: Member, start: int) -> Iterator[bytes]:
    """The content in chunks of bounded size. Nothing is known yet about its length."""
    body = archive.chunks(start, _stored_length(archive, entry))
    if entry.method == STORED:
        yield from body
        return
    if entry.method != _DEFLATED:
        raise Fault(f"unsupported compression method {entry.method}")
    yield from _Inflated(body)


class _Inflated:
    """What a deflate stream holds, in chunks of bounded size."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body
        self.taken = 0
        """Bytes of ``body`` that belong to the stream, once it was read to its end."""

    def __iter__(self) -> Iterator[bytes]:
        inflate = zlib.decompressobj(-15)
        for chunk in self._body:
            self.taken += len(chunk)
            data = chunk
            while data and not inflate.eof:
                yield inflate.decompress(data, _CHUNK)
                data = inflate.unconsumed_tail
            if inflate.eof:
                self.taken -= len(inflate.unused_data)
                return
        # What the last input still holds back: the output bound may have stopped it.
        while rest := inflate.decompress(b"", _CHUNK):
            yield rest
        if not inflate.eof:
            raise Fault("its compressed content ends too early")


def _descriptor_crc(archive: Archive, offset: int) -> int:
    data = archive.read_at(offset, 16).removeprefix(b"PK\x07\x08")
    if len(data) < 12:
        raise Fault("its data descriptor is cut off")
    return int.from_bytes(data[:4], "little")
