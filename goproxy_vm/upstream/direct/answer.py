"""What one run of the go command says, and the files that it brings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from goproxy_vm.protocol.names import escape_path, escape_version
from goproxy_vm.upstream.direct import judge
from goproxy_vm.upstream.direct.run import Said

Kind = Literal["stat", "zip", "list"]
"""``stat``: info and mod of a version or a query; ``zip``: these and the zip of a version; ``list``: all
versions, and info and mod of the latest."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a run brought. ``version``: what the query stands for, or "" where a list has no latest version;
    ``zip``: in the run's directory; ``trouble``: why a list has none; ``commit``: where it is known;
    ``retracted``: whether its author has taken that version back."""

    version: str
    info: bytes = b""
    mod: bytes = b""
    zip: Path | None = None
    versions: tuple[str, ...] = ()
    commit: str = ""
    trouble: judge.Ruling | None = None
    retracted: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What go says, and what of it is a failure, or ""."""

    fields: Mapping[str, Any]
    text: str

    @property
    def origin(self) -> Mapping[str, Any]:
        """Where it came from."""
        found = self.fields.get("Origin")
        return found if isinstance(found, dict) else {}


def heard(said: Said) -> Heard:
    """What go says; of a failure that it says nothing of in JSON, what it and git print."""
    fields: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(said.out)
        fields = parsed if isinstance(parsed, dict) else {}
    error = fields.get("Error")
    if isinstance(error, dict):
        error = error.get("Err")
    if error:
        return Heard(fields, str(error))
    if fields.get("Version") or fields.get("Versions"):
        return Heard(fields, "")
    return Heard({}, said.err.decode("utf-8", "replace") or f"exit status {said.status}")


def read(place: Path, module: str, kind: Kind, answer: Heard, trouble: judge.Ruling | None) -> Found:
    """The files of a run (blocking)."""
    versions = tuple(each for each in answer.fields.get("Versions") or () if isinstance(each, str))
    version = answer.fields.get("Version")
    if trouble is not None or not isinstance(version, str):
        return Found("", versions=versions, trouble=trouble or judge.UNKNOWN)
    stem = place / "cache" / "download" / escape_path(module) / "@v" / escape_version(version)
    archive = Path(f"{stem}.zip")
    if kind == "zip" and not archive.is_file():
        raise FileNotFoundError(str(archive))
    return Found(
        version,
        info=_without_userinfo(Path(f"{stem}.info").read_bytes()),
        mod=Path(f"{stem}.mod").read_bytes(),
        zip=archive if kind == "zip" else None,
        versions=versions,
        commit=str(answer.origin.get("Hash", "")),
        retracted=bool(answer.fields.get("Retracted")),
    )


def _without_userinfo(info: bytes) -> bytes:
    """An ``.info`` whose origin tells no user: as it is, where it has none."""
    parsed = json.loads(info)
    origin = parsed.get("Origin")
    url = origin.get("URL") if isinstance(origin, dict) else None
    if not isinstance(url, str) or "@" not in url:
        return info
    parts = urlsplit(url)
    origin["URL"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return json.dumps(parsed, separators=(",", ":")).encode()
