"""Module zips: Go's structure rules, Go's reading rules, and h1, in one pass (PROTOCOL §3 "Zip", "h1").

The standard library reads the central directory. It does not read the entries: it decodes unflagged names
as cp437, cuts names at NUL and believes false sizes, where Go compares raw bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from goproxy_vm.errors import ContentError, MalformedPath
from goproxy_vm.protocol.dirhash import h1_lines
from goproxy_vm.protocol.names import check_file_path
from goproxy_vm.protocol.semver import agrees, is_canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ZIP = 524_288_000
"""Bytes: Go's bound for an archive, and for the sum of its entries' sizes."""
MAX_SPECIAL = 16 << 20
"""Bytes: Go's bound for the root ``go.mod`` and ``LICENSE``."""

_CHUNK = 1 << 20
_LOCAL = struct.Struct("<4s22xHH")
_DESCRIPTOR_FLAG = 0x8
_UTF8_FLAG = 0x800


@dataclass(frozen=True, slots=True)
class ZipReport:
    """What a good zip turned out to be: its ``h1:``, its entries, and their summed size in bytes."""

    h1: str
    files: int
    uncompressed: int


def check_zip(file: BinaryIO, module: str, version: str, *, max_bytes: int = MAX_ZIP) -> ZipReport:
    """Check that ``file`` is a zip of ``module`` at ``version`` that every ``go`` accepts, and hash it.

    Raises ContentError naming the entry and the rule. Memory grows with the number of entries, not with
    their sizes.
    """
    if not is_canonical(version) or not agrees(module, version):
        raise ContentError(f"zip: {version!r} is no canonical version of {module}")
    size = file.seek(0, 2)
    if size > max_bytes:
        raise ContentError(f"zip: {size} bytes are over the limit of {max_bytes}")
    entries = _directory(file)
    names = [_raw_name(entry) for entry in entries]
    total = _check_structure(entries, names, f"{module}@{version}/")
    lines: list[tuple[bytes, bytes]] = []
    for entry, name in sorted(zip(entries, names, strict=True), key=lambda pair: pair[0].header_offset):
        try:
            lines.append((name, _digest(file, entry, name)))
        except (_BadEntry, zlib.error) as error:
            raise ContentError(f"zip: {name.decode('utf-8', 'replace')!r}: {error}") from None
    return ZipReport(h1_lines(lines), len(entries), total)


class _BadEntry(Exception):
    """An entry that cannot be read as its directory record says."""


def _directory(file: BinaryIO) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError) as error:
        raise ContentError(f"zip: not a valid zip file: {error}") from None


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_FLAG else "cp437")


def _check_structure(entries: list[zipfile.ZipInfo], names: list[bytes], prefix: str) -> int:
    """Go's CheckZip for names and declared sizes; the sum of those sizes."""
    seen = _Names()
    total = 0
    for entry, raw in zip(entries, names, strict=True):
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise ContentError(f"zip: {raw!r}: the name is no valid UTF-8") from None
        if not name.startswith(prefix):
            raise ContentError(f"zip: {name!r}: the name does not have the prefix {prefix!r}")
        path = name[len(prefix) :]
        if not path:
            continue
        is_directory = path.endswith("/")
        path = path.removesuffix("/")
        try:
            check_file_path(path)
        except MalformedPath as error:
            raise ContentError(f"zip: {error.sentence}") from None
        seen.add(path, is_directory=is_directory)
        if is_directory:
            continue
        total += _check_file(path, entry.file_size, total)
    return total


def _check_file(path: str, size: int, before: int) -> int:
    base = path.rpartition("/")[2]
    if _fold(base) == "go.mod":
        if base != path:
            raise ContentError(f"zip: {path!r}: a go.mod file outside the module's root")
        if path != "go.mod":
            raise ContentError(f"zip: {path!r}: go.mod must be in lower case")
    if before + size > MAX_ZIP:
        raise ContentError(f"zip: {path!r}: the files add up to more than {MAX_ZIP} bytes")
    if path in ("go.mod", "LICENSE") and size > MAX_SPECIAL:
        raise ContentError(f"zip: {path!r}: {size} bytes are over the limit of {MAX_SPECIAL}")
    return size


class _Names:
    """Paths and their parent directories, no two of which a case-insensitive file system may confuse."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}

    def add(self, path: str, *, is_directory: bool) -> None:
        """Add a path, and each of its parents as a directory."""
        while path:
            folded = _fold(path)
            before = self._seen.get(folded)
            if before is None:
                self._seen[folded] = (path, is_directory)
            elif before[0] != path:
                raise ContentError(f"zip: {before[0]!r} and {path!r} collide where case does not count")
            elif before[1] != is_directory:
                raise ContentError(f"zip: {path!r} is both a file and a directory")
            elif not is_directory:
                raise ContentError(f"zip: {path!r} is there twice")
            else:
                return  # a known directory: its parents are known too
            path = path.rpartition("/")[0]
            is_directory = True


def _fold(text: str) -> str:
    """Unicode simple folding, character by character (PROTOCOL §3)."""
    if text.isascii():
        return text.lower()
    return "".join(_fold_char(char) for char in text)


def _fold_char(char: str) -> str:
    for folded in (char.casefold(), char.lower()):
        if len(folded) == 1:
            return folded
    return char


def _digest(file: BinaryIO, entry: zipfile.ZipInfo, name: bytes) -> bytes:
    """SHA-256 of an entry's content, read and checked as Go's archive/zip does."""
    start = _body_offset(file, entry)
    digest = hashlib.sha256()
    if name.endswith(b"/"):
        if entry.file_size:
            raise _BadEntry("a directory with content")
        return digest.digest()
    crc = length = 0
    for chunk in _content(file, entry, start):
        length += len(chunk)
        if length > entry.file_size:
            raise _BadEntry(f"more than the declared {entry.file_size} bytes")
        crc = zlib.crc32(chunk, crc)
        digest.update(chunk)
    if length != entry.file_size:
        raise _BadEntry(f"{length} bytes instead of the declared {entry.file_size}")
    if entry.flag_bits & _DESCRIPTOR_FLAG:
        if crc != entry.CRC or _descriptor_crc(file, start + entry.compress_size) != entry.CRC:
            raise _BadEntry("checksum error")
    elif entry.CRC and crc != entry.CRC:
        raise _BadEntry("checksum error")
    return digest.digest()


def _body_offset(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    if entry.header_offset < 0:
        raise _BadEntry("its offset lies outside the archive")
    file.seek(entry.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) != _LOCAL.size:
        raise _BadEntry("its header is cut off")
    signature, name_length, extra_length = _LOCAL.unpack(header)
    if signature != b"PK\x03\x04":
        raise _BadEntry("no header where the directory says")
    return entry.header_offset + _LOCAL.size + int(name_length) + int(extra_length)


def _content(file: BinaryIO, entry: zipfile.ZipInfo, start: int) -> Iterator[bytes]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _BadEntry(f"unsupported compression method {entry.compress_type}")
    file.seek(start)
    left = entry.compress_size
    inflate = zlib.decompressobj(-15) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise _BadEntry("its content is cut off")
        left -= len(chunk)
        if inflate is None:
            yield chunk
            continue
        while chunk and not inflate.eof:
            yield inflate.decompress(chunk, _CHUNK)
            chunk = inflate.unconsumed_tail
        if inflate.eof:
            return
    if inflate is not None:
        # What the last input still holds back: the output bound may have stopped it.
        while rest := inflate.decompress(b"", _CHUNK):
            yield rest
        if not inflate.eof:
            raise _BadEntry("its compressed content ends too early")


def _descriptor_crc(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    data = file.read(16)
    if data[:4] == b"PK\x07\x08":
        data = data[4:]
    if len(data) < 12:
        raise _BadEntry("its data descriptor is cut off")
    return int.from_bytes(data[:4], "little")
