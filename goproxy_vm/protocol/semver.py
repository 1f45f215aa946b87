"""Go's semantic versions: validity, order, pseudo-versions, agreement with a path.

Sources: go.dev/ref/mod#versions, #pseudo-versions; PROTOCOL §1 "Canonical", "P/V agreement".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from goproxy_vm.protocol.names import split_path_version

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE_PART = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"v({_NUMBER})(?:\.({_NUMBER})(?:\.({_NUMBER})"
    rf"(?:-({_PRE_PART}(?:\.{_PRE_PART})*))?(\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?)?)?",
    re.ASCII,
)
_STAMP = re.compile(r"([0-9]{14})-([A-Za-z0-9]+)", re.ASCII)


def order(version: str) -> str:
    """Text whose plain order is Go's order of versions: invalid ones first, then by precedence, then by the
    text itself; :func:`ordered` takes the version out of it. Not a tuple: very many would stop everything
    for the garbage collector."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return f"0\0{version}"
    numbers = "".join(_number(part or "0") for part in match.group(1, 2, 3))
    pre = "".join(map(_pre_part, match[4].split("."))) if match[4] else "\3"
    return f"1{numbers}{pre}\0{version}"


def ordered(text: str) -> str:
    """The version that :func:`order` has made the text of."""
    return text.rpartition("\0")[2]


def _number(digits: str) -> str:
    return chr(len(digits)) + digits  # numbers have any length: compare by length, then text


def _pre_part(part: str) -> str:
    """Numbers come before words; a NUL ends a word, and the last part: fewer parts come first."""
    return f"\1{_number(part)}" if part.isdigit() else f"\2{part}\0"


def is_valid(version: str) -> bool:
    """Whether it is a semantic version as Go reads it: ``v1`` and ``v1.2`` and build metadata included."""
    return _VERSION.fullmatch(version) is not None


def is_canonical(version: str) -> bool:
    """Whether it is ``vX.Y.Z[-pre][+incompatible]``: the only versions with ``.mod`` and ``.zip``."""
    match = _VERSION.fullmatch(version)
    return match is not None and match[3] is not None and match[5] in (None, "+incompatible")


def is_prerelease(version: str) -> bool:
    """Whether a valid version has a prerelease part."""
    match = _VERSION.fullmatch(version)
    return match is not None and match[4] is not None


@dataclass(frozen=True, slots=True)
class Pseudo:
    """The parts of a pseudo-version: 14 digits of UTC time, and a revision."""

    time: str
    revision: str

    @property
    def timestamp(self) -> str:
        """The time as RFC 3339."""
        t = self.time
        return f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[8:10]}:{t[10:12]}:{t[12:]}Z"


def pseudo(version: str) -> Pseudo | None:
    """The parts of a pseudo-version, None for any other version (PROTOCOL §1 "Pseudo-versions")."""
    match = _VERSION.fullmatch(version)
    if match is None or match[4] is None:
        return None
    *before, last = match[4].split(".")
    stamp = _STAMP.fullmatch(last)
    # Alone the stamp stands in vX.0.0 only; behind any other version a part "0" comes before it.
    in_place = before[-1] == "0" if before else match[2] == match[3] == "0"
    return Pseudo(stamp[1], stamp[2]) if stamp and in_place else None


def latest(versions: Iterable[str]) -> str | None:
    """The one that ``latest`` means: the highest release, else the highest prerelease, else the newest
    pseudo-version (go.dev/ref/mod#version-queries); None of none."""

    return max(versions, key=rank, default=None)


def rank(version: str) -> tuple[int, str, str]:
    """What grows with how much ``latest`` prefers a version."""
    commit = pseudo(version)
    place = order(version)
    return (0, commit.time, place) if commit else (2 - is_prerelease(version), "", place)


def agrees(path: str, version: str) -> bool:
    """Whether a valid version may belong to the module path, by its major (PROTOCOL §1 "P/V agreement")."""
    split = split_path_version(path)
    match = _VERSION.fullmatch(version)
    if split is None or match is None:
        return False
    suffix = split[1].removesuffix("-unstable")
    major, incompatible = match[1], match[5] == "+incompatible"
    if not suffix:
        return major in ("0", "1") or incompatible
    if suffix == ".v1" and version.startswith("v0.0.0-"):
        return True
    return major == suffix[2:]
