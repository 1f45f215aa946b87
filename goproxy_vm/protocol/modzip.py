"""Module zips: Go's rules for their structure, and h1, in one pass (PROTOCOL §3 "Zip", "h1")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from goproxy_vm.errors import ContentError, MalformedPath
from goproxy_vm.protocol.archive import Archive, Expensive, Fault, bodies, digest_of, directory, shown
from goproxy_vm.protocol.dirhash import h1_lines
from goproxy_vm.protocol.names import check_file_path
from goproxy_vm.protocol.semver import agrees, is_canonical

if TYPE_CHECKING:
    from goproxy_vm.protocol.archive import Member

MAX_ZIP = 524_288_000
"""Bytes: Go's bound for an archive, and for the sum of its entries' sizes."""
MAX_SPECIAL = 16 << 20
"""Bytes: Go's bound for the root ``go.mod`` and ``LICENSE``."""

_LONGEST_SENTENCE = 400
"""Characters. A name may have 65,535 bytes, each of which may take four to show."""


@dataclass(frozen=True, slots=True)
class ZipReport:
    """What a good zip turned out to be: its ``h1:``, its entries, and their summed size in bytes."""

    h1: str
    files: int
    uncompressed: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a check may cost: bytes of the directory, and bytes that its entries declare to hold."""

    directory: int
    content: int


def check_zip(
    file: BinaryIO, module: str, version: str, *, max_bytes: int = MAX_ZIP, most: Work | None = None
) -> ZipReport:
    """Check that ``file`` is a zip of ``module`` at ``version`` that every ``go`` accepts, and hash it.

    ``max_bytes`` bounds the archive itself. Raises ContentError naming the entry and the rule, in a sentence
    of bounded length; Expensive, before any content is looked at, if it is over ``most``. Memory grows with
    the directory, not with the contents. No byte of content is read twice: entries that overlap are refused,
    though Go reads them, for no tool that packs modules makes them.
    """
    try:
        if not is_canonical(version) or not agrees(module, version):
            raise Fault(f"{version!r} is no canonical version of {module}")
        archive = Archive(file)
        if archive.size > max_bytes:
            raise Fault(f"{archive.size} bytes are over the limit of {max_bytes}")
        entries = directory(archive, None if most is None else most.directory)
        total = _check_structure(entries, f"{module}@{version}/")
        if most is not None and total > most.content:
            raise Expensive
        # Of several directory entries of one name Go reads the last (no file may be there twice).
        last = {entry.name: entry for entry in entries}
        digests = {entry.name: digest_of(archive, entry, start) for entry, start in bodies(archive, last)}
    except Fault as fault:
        raise ContentError(f"zip: {_shortened(str(fault))}") from None
    return ZipReport(h1_lines((entry.name, digests[entry.name]) for entry in entries), len(entries), total)


def _shortened(sentence: str) -> str:
    """The sentence, without the middle if it is long: the entry is at its start, the reason at its end."""
    if len(sentence) <= _LONGEST_SENTENCE:
        return sentence
    half = _LONGEST_SENTENCE // 2
    return f"{sentence[:half]} … {sentence[-half:]}"


def _check_structure(entries: list[Member], prefix: str) -> int:
    """Go's CheckZip for names and declared sizes; the sum of those sizes."""
    raw_prefix = prefix.encode()
    paths: list[tuple[str, bool]] = []
    total = 0
    for entry in entries:
        if not entry.name.startswith(raw_prefix):
            raise Fault(f"{shown(entry.name)}: the name does not have the prefix {prefix!r}")
        try:
            path = entry.name[len(raw_prefix) :].decode()
        except UnicodeDecodeError:
            raise Fault(f"{entry.name!r}: the name is no valid UTF-8") from None
        if not path:
            continue
        is_directory = path.endswith("/")
        path = path.removesuffix("/")
        try:
            check_file_path(path)
        except MalformedPath as error:
            raise Fault(error.sentence) from None
        paths.append((path, is_directory))
        if not is_directory:
            _check_file(path, entry.size, MAX_ZIP - total)
            total += entry.size
    _check_collisions(paths)
    return total


def _check_file(path: str, size: int, room: int) -> None:
    base = path.rpartition("/")[2]
    if _fold(base) == "go.mod":
        if base != path:
            raise Fault(f"{path!r}: a go.mod file outside the module's root")
        if path != "go.mod":
            raise Fault(f"{path!r}: go.mod must be in lower case")
    if not 0 <= size <= room:
        raise Fault(f"{path!r}: the files add up to more than {MAX_ZIP} bytes")
    if path in ("go.mod", "LICENSE") and size > MAX_SPECIAL:
        raise Fault(f"{path!r}: {size} bytes are over the limit of {MAX_SPECIAL}")


def _check_collisions(paths: list[tuple[str, bool]]) -> None:
    """No two paths, parent directories included, that a case-insensitive file system may confuse.

    Sorted by folded elements, all that lies under one folded directory is together, and the directory itself
    comes first: comparing neighbours is enough. A table of all parents would take a gigabyte for one name of
    65,535 bytes.
    """
    before, before_elements, before_is_directory = "", [""], True
    folded = sorted((_fold(path).replace("/", "\0"), path, is_directory) for path, is_directory in paths)
    for key, path, is_directory in folded:
        elements = key.split("\0")
        length = -1  # of what both share: folding keeps the number of characters
        for ours, theirs in zip(elements, before_elements, strict=False):
            if ours != theirs:
                break
            length += 1 + len(ours)
        if length > 0:
            if path[:length] != before[:length]:
                raise Fault(f"{before[:length]!r} and {path[:length]!r} collide where case does not count")
            if length == len(before) and not (before_is_directory and (is_directory or path != before)):
                both = path != before or is_directory != before_is_directory
                raise Fault(f"{before!r} is " + ("both a file and a directory" if both else "there twice"))
        before, before_elements, before_is_directory = path, elements, is_directory


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
