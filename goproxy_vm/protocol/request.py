"""What a request asks for, by its path alone (PROTOCOL §1 "Requests")."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import unquote_to_bytes

from goproxy_vm.errors import MalformedPath, MalformedSumdb
from goproxy_vm.protocol.artifact import LONGEST, Artifact, Kind, check_lengths
from goproxy_vm.protocol.names import escape_path, escape_version, unescape_path, unescape_version
from goproxy_vm.protocol.semver import agrees, is_canonical
from goproxy_vm.protocol.tlog import Tile

CACHED_ONLY = "/cached-only"
SumdbKind = Literal["supported", "latest", "lookup", "tile"]

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LOOKUP_VERSION = re.compile(
    r"v(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)(?:-[0-9A-Za-z.-]+)?(?:\+incompatible)?"
)


class Endpoint(enum.StrEnum):
    """The five module endpoints (go.dev/ref/mod#goproxy-protocol)."""

    LIST = "list"
    LATEST = "latest"
    INFO = "info"
    MOD = "mod"
    ZIP = "zip"


_FILES = {"info": Endpoint.INFO, "mod": Endpoint.MOD, "zip": Endpoint.ZIP}


@dataclass(frozen=True)
class ModuleResource:
    """One file of the module proxy protocol; ``version`` is unescaped, and empty for list and @latest."""

    module: str
    endpoint: Endpoint
    version: str = ""

    @cached_property
    def path(self) -> str:
        """The escaped path below the proxy's root, without a leading slash."""
        escaped = escape_path(self.module)
        if self.endpoint is Endpoint.LATEST:
            return f"{escaped}/@latest"
        if self.endpoint is Endpoint.LIST:
            return f"{escaped}/@v/list"
        return f"{escaped}/@v/{escape_version(self.version)}.{self.endpoint}"

    @cached_property
    def artifact(self) -> Artifact | None:
        """The file of a canonical version that agrees with the path: stored for good. None for all else."""
        if not (is_canonical(self.version) and agrees(self.module, self.version)):
            return None
        return Artifact(self.module, self.version, Kind(self.endpoint.value), self.path)


@dataclass(frozen=True, slots=True)
class SumdbResource:
    """One file of a checksum database; ``rest`` is what follows the kind in the path."""

    name: str
    kind: SumdbKind
    rest: str = ""

    @property
    def path(self) -> str:
        """The path below the proxy's root, without a leading slash."""
        return f"sumdb/{self.name}/{self.kind}" + (f"/{self.rest}" if self.rest else "")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, and whether only stored content may answer."""

    resource: ModuleResource | SumdbResource
    cached_only: bool = False


def parse(raw_path: str, sumdb_name: str | None) -> Request:
    """Dispatch a raw, still percent-encoded path without its query.

    ``sumdb_name`` is the configured checksum database, or None. Raises MalformedPath (404) for whatever is
    no valid request, MalformedSumdb (400) for a malformed lookup or tile of the configured database.
    """
    path = _decode(raw_path)
    cached_only = path.startswith(CACHED_ONLY + "/")
    if cached_only:
        path = path[len(CACHED_ONLY) :]
    if path.startswith("/sumdb/"):
        return Request(_sumdb(path[len("/sumdb/") :], sumdb_name), cached_only)
    if not path.startswith("/"):
        raise MalformedPath("not a module proxy path")
    return Request(_module(path[1:]), cached_only)


def _decode(raw_path: str) -> str:
    if "%" not in raw_path:
        path = raw_path
    else:
        if "%2f" in raw_path.lower():
            raise MalformedPath("an escaped slash in the path")
        if _BROKEN_ESCAPE.search(raw_path):
            raise MalformedPath("a percent sign without two hexadecimal digits in the path")
        try:
            path = unquote_to_bytes(raw_path).decode("ascii")
        except UnicodeError:
            raise MalformedPath("a byte outside ASCII in the path") from None
    if not path.isascii() or not path.isprintable():
        raise MalformedPath("a control or non-ASCII character in the path")
    return path


def _module(path: str) -> ModuleResource:
    escaped, found, rest = path.partition("/@")
    if not found:
        raise MalformedPath("not a module proxy path")
    module = unescape_path(escaped)
    check_lengths(escaped)
    endpoint, version = _endpoint(rest)
    resource = ModuleResource(module, endpoint, version)
    # Escaping is one to one: what has just been unescaped need not be checked and escaped again.
    vars(resource)["path"] = path
    if endpoint in (Endpoint.MOD, Endpoint.ZIP) and resource.artifact is None:
        raise MalformedPath(f"{version!r} is no canonical version of {module}")
    return resource


def _endpoint(rest: str) -> tuple[Endpoint, str]:
    if rest == "latest":
        return Endpoint.LATEST, ""
    if rest == "v/list":
        return Endpoint.LIST, ""
    name, dot, extension = rest.removeprefix("v/").rpartition(".")
    endpoint = _FILES.get(extension)
    if not rest.startswith("v/") or not dot or endpoint is None:
        raise MalformedPath("not a module proxy path")
    check_lengths("", name)
    version = unescape_version(name)
    if version == "latest":
        raise MalformedPath("latest is no version; ask for @latest")
    return endpoint, version


def _sumdb(path: str, name: str | None) -> SumdbResource:
    if name is None or not path.startswith(name + "/"):
        raise MalformedPath("not the checksum database that this server mirrors")
    kind, slash, rest = path[len(name) + 1 :].partition("/")
    if kind in ("supported", "latest") and not slash:
        return SumdbResource(name, "supported" if kind == "supported" else "latest")
    if kind == "lookup":
        return SumdbResource(name, "lookup", _lookup(rest))
    if kind == "tile":
        return SumdbResource(name, "tile", _tile(rest))
    raise MalformedPath("not a checksum database path")


def _lookup(rest: str) -> str:
    escaped, _, version = rest.rpartition("@")
    try:
        unescape_path(escaped)
        plain = unescape_version(version)
    except MalformedPath as error:
        raise MalformedSumdb(f"malformed lookup: {error.sentence}") from None
    if _LOOKUP_VERSION.fullmatch(plain) is None or len(rest) > 4 * LONGEST:
        raise MalformedSumdb("malformed lookup: expected MODULE@vX.Y.Z")
    return rest


def _tile(rest: str) -> str:
    return Tile.parse(f"tile/{rest}").path.removeprefix("tile/")
