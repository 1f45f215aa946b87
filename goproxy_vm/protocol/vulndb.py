"""A Go vulnerability database as it is served (go.dev/doc/security/vuln/database): names, packing, indexes.

No names but these, for a mirror asks its upstream for nothing else.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.lines import Steps

PREFIX = "/vulndb/"
"""What the paths of the mirror begin with: no module path does, for want of a dot."""
DATABASE, MODULES, VULNS = "index/db", "index/modules", "index/vulns"
LONGEST_INDEX = 16 << 20
"""Bytes of ``modules`` or ``vulns``, packed and unpacked. Real ones have less than one million."""
LONGEST_DATABASE = 4 << 10
"""Bytes of ``db``, which has one time in it."""
LONGEST_ENTRY = 1 << 20
"""Bytes of an advisory. Real ones have some thousand."""
STEP = 50
"""Elements of an index that are read in one step."""

ID = re.compile(r"GO-[0-9]{4}-[0-9]{4,8}")
_PATH = re.compile(rf"{PREFIX}(index/(?:db|modules|vulns)|ID/{ID.pattern})\.json(\.gz)?")
_GZIP = b"\x1f\x8b"
_GAP = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """One file of a database: ``name`` is without ``.json``; ``zipped`` where its path ends with ``.gz``."""

    name: str
    zipped: bool


def parse_path(path: str) -> DatabaseFile | None:
    """The file that a raw path names; None where it is none of a database."""
    match = _PATH.fullmatch(path)
    return DatabaseFile(match[1], match[2] is not None) if match else None


def longest(name: str) -> int:
    """Bytes that a file may have, packed or not."""
    if name == DATABASE:
        return LONGEST_DATABASE
    return LONGEST_INDEX if name in (MODULES, VULNS) else LONGEST_ENTRY


def unpack(data: bytes, most: int) -> bytes:
    """The JSON of a file that came packed, or is it already: some servers unpack it on the way.

    ContentError: no gzip of one member, and nothing else, of at most ``most`` bytes.
    """
    if not data.startswith(_GZIP):
        return data
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = inflate.decompress(data, most + 1)
    except zlib.error:
        raise ContentError("no valid gzip") from None
    if len(plain) > most:
        raise ContentError(f"it unpacks to more than {most} bytes")
    if not inflate.eof:
        raise ContentError("its gzip is cut off")
    if inflate.unused_data:
        raise ContentError("something follows its gzip")
    return plain


def pack(plain: bytes) -> bytes:
    """The same bytes as one gzip, whenever and wherever it is made."""
    return gzip.compress(plain, 6, mtime=0)


def moment(value: object, what: str) -> datetime:
    """An RFC 3339 time. ContentError."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        raise ContentError(f"the {what} has no valid time of modification")
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def parse_database(data: bytes) -> str:
    """The ``modified`` of ``index/db.json``. ContentError."""
    found = parse_object(data, "index")
    moment(found.get("modified"), "index")
    return str(found["modified"])


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. ContentError where it is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ContentError(f"the {what} is no JSON") from None
    if not isinstance(found, dict):
        raise ContentError(f"the {what} is no JSON object")
    return found


@dataclass(frozen=True, slots=True)
class Listed:
    """What ``modules`` says of an advisory: ``fixed`` is the version, without its v, from which on nothing of
    the module is affected, empty where there is none."""

    id: str
    fixed: str


@dataclass(frozen=True, slots=True)
class ModuleIndex:
    """``index/modules.json``: advisories by module, and when each was modified last, by its id."""

    modules: Mapping[str, tuple[Listed, ...]]
    modified: Mapping[str, datetime]


def parse_modules(data: bytes) -> Steps[ModuleIndex]:
    """The index of modules. ContentError: it is none."""
    modules: dict[str, tuple[Listed, ...]] = {}
    modified: dict[str, datetime] = {}
    for number, each in enumerate(_elements(data), 1):
        path, listed = each.get("path"), each.get("vulns")
        if not isinstance(path, str) or not isinstance(listed, list):
            raise ContentError("the index of modules has an element without path and vulns")
        found = []
        for one in listed:
            id_ = _id(one)
            fixed = one.get("fixed", "")
            if not isinstance(fixed, str):
                raise ContentError(f"the index of modules says of {id_} that a number fixed it")
            found.append(Listed(id_, fixed))
            modified[id_] = max(moment(one.get("modified"), "index of modules"), modified.get(id_, _EVER))
        modules[path] = (*modules.get(path, ()), *found)
        if number % STEP == 0:
            yield
    yield
    return ModuleIndex(modules, modified)


def parse_vulns(data: bytes) -> Steps[Mapping[str, datetime]]:
    """``index/vulns.json``: when each advisory was modified last, by its id. ContentError: it is none."""
    modified: dict[str, datetime] = {}
    for number, each in enumerate(_elements(data), 1):
        modified[_id(each)] = moment(each.get("modified"), "index of advisories")
        if number % STEP == 0:
            yield
    yield
    return modified


_EVER = datetime.min.replace(tzinfo=UTC)


def _id(element: object) -> str:
    id_ = element.get("id") if isinstance(element, dict) else None
    if not isinstance(id_, str) or not ID.fullmatch(id_):
        raise ContentError("the index names something that is no id of an advisory")
    return id_


def _elements(data: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one after the other: a long one read at once would hold up everybody."""
    try:
        text = data.decode()
        at = _after(text, 0, "[")
        if text[at : at + 1] != "]":
            while True:
                element, at = _DECODER.raw_decode(text, at)
                if not isinstance(element, dict):
                    raise ContentError("the index has an element that is no object")
                yield element
                at = _GAP.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing as well
                if text[at : at + 1] == "]":
                    break
                at = _after(text, at, ",")
        if text[at + 1 :].strip():
            raise ContentError("something follows the index")
    except (ValueError, RecursionError):
        raise ContentError("the index is no JSON list") from None


def _after(text: str, at: int, mark: str) -> int:
    """Where what follows a mark begins. ValueError where the mark is not next."""
    at = _GAP.match(text, at).end()  # type: ignore[union-attr]  # as above
    if text[at : at + 1] != mark:
        raise ValueError
    return _GAP.match(text, at + 1).end()  # type: ignore[union-attr]  # as above
