"""One file of a version: the key by which it is fetched, proven, stored, counted and removed."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol.names import escape_path, escape_version, unescape_path, unescape_version
from goproxy_vm.protocol.semver import agrees, is_canonical


class Kind(enum.StrEnum):
    """The three files of a version (go.dev/ref/mod#goproxy-protocol)."""

    INFO = "info"
    MOD = "mod"
    ZIP = "zip"


KINDS = tuple(kind.value for kind in Kind)
HASHED = (Kind.MOD, Kind.ZIP)
"""Kinds that have an h1 hash, which a checksum database records (PROTOCOL §4)."""

LONGEST = 200
"""Bytes of one escaped element of a module path (case 46)."""
LONGEST_VERSION = 250
"""Bytes of an escaped version: with its extension still a name that file systems take (case 46)."""

_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a canonical version: ``path`` is its escaped path below a proxy's root, without a leading
    slash, and below ``modules/``; :meth:`of` or :meth:`at` makes one."""

    module: str
    version: str
    kind: Kind
    path: str

    @classmethod
    def of(cls, module: str, version: str, kind: Kind) -> Artifact:
        """The one of that name, which has been checked."""
        return cls(module, version, kind, f"{escape_path(module)}/@v/{escape_version(version)}.{kind.value}")

    @classmethod
    def at(cls, path: str) -> Artifact:
        """The one with that escaped path. MalformedPath where that is the path of none."""
        kind = kind_of(path)
        if not path.isascii() or not path.isprintable():
            raise MalformedPath("a control or non-ASCII character in the path")
        escaped, _, name = path.partition("/@v/")
        name = name.removesuffix(f".{kind.value}")
        check_lengths(escaped, name)
        module, version = unescape_path(escaped), unescape_version(name)
        if not (is_canonical(version) and agrees(module, version)):
            raise MalformedPath(f"{version!r} is no canonical version of {module}")
        return cls(module, version, kind, path)

    @classmethod
    def stored(cls, path: str) -> Artifact:
        """The one of a stored file, as :meth:`at`, but that its path need not be checked again."""
        module, _, name = path.partition("/@v/")
        version, _, kind = name.rpartition(".")
        if "!" in path:
            module, version = unescape_path(module), unescape_version(version)
        return cls(module, version, _KINDS[kind], path)

    def sibling(self, kind: Kind) -> Artifact:
        """Another file of the same version."""
        return Artifact(self.module, self.version, kind, self.path.removesuffix(self.kind.value) + kind.value)


def check_lengths(module: str, version: str = "") -> None:
    """Raise MalformedPath where an escaped module path or version is too long to be stored."""
    if max(map(len, module.split("/"))) > LONGEST or len(module) > 4 * LONGEST:
        raise MalformedPath("a module path that is too long to be stored")
    if len(version) > LONGEST_VERSION:
        raise MalformedPath("a version that is too long to be stored")


def kind_of(path: str) -> Kind:
    """Which kind of file has that escaped path. MalformedPath unless it is ``<module>/@v/<version>.<kind>``
    and leads to nowhere else than below where it counts from."""
    parts = path.split("/")
    stem, _, suffix = parts[-1].rpartition(".")
    kind = _KINDS.get(suffix)
    inside = len(parts) >= 3 and parts[-2] == "@v" and not any(part in {"", ".", ".."} for part in parts)
    if kind is None or not stem or not inside or "\0" in path:
        raise MalformedPath(f"not the path of a stored file: {path!r}")
    return kind
