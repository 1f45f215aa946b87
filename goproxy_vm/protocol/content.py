"""The small documents of the protocol: ``.info``, ``@latest``, ``list`` (PROTOCOL §1 and §3)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol import semver

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{1,2}:\d{2}:\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:\d{2})", re.ASCII)
_ORIGIN_TEXTS = frozenset({"vcs", "url", "subdir", "hash", "tagprefix", "tagsum", "ref", "reposum"})


def check_info(data: bytes, module: str, version: str) -> str:
    """The Version that a ``.info`` names; ContentError if a client would refuse it (cases 11–15, 16a, 26).

    For a canonical version that agrees with the module path the two must be equal; for any other query the
    Version must be canonical and agree.
    """
    named = check_latest(data, module)
    if semver.is_canonical(version) and semver.agrees(module, version) and named != version:
        raise ContentError(f"the info of {version} names version {named!r}")
    return named


def check_latest(data: bytes, module: str) -> str:
    """The Version that an ``@latest`` names: canonical, and of the module's major."""
    fields = _object(data)
    version = fields.get("version")
    if not isinstance(version, str) or not version:
        raise ContentError("the info names no Version")
    if not semver.is_canonical(version) or not semver.agrees(module, version):
        raise ContentError(f"the info names {version!r}, which is no canonical version of the module")
    _check_time(fields.get("time"))
    origin = fields.get("origin")
    if origin is not None:
        if not isinstance(origin, dict):
            raise ContentError("the info's Origin is no object")
        for key, value in origin.items():
            if key.lower() in _ORIGIN_TEXTS and not isinstance(value, str | None):
                raise ContentError(f"the info's Origin.{key} is no string")
    return version


def _object(data: bytes) -> dict[str, Any]:
    if data.startswith(b"\xef\xbb\xbf"):
        raise ContentError("the info begins with a byte order mark")
    try:
        value = json.loads(data.decode("utf-8", "replace"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ContentError("the info is no JSON") from None
    if not isinstance(value, dict):
        raise ContentError("the info is no JSON object")
    return {key.lower(): item for key, item in value.items()}


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _check_time(value: object) -> None:
    if value is None:
        return
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            datetime.fromisoformat(re.sub(r"[.,]\d+", "", value))
        except ValueError:
            pass
        else:
            return
    raise ContentError(f"the info's Time {str(value)[:40]!r} is no RFC 3339 time")


def parse_list(data: bytes, module: str) -> list[str]:
    """The versions a list may offer: canonical, of the module's major, no pseudo-versions; in semver order.

    Lines are split at white space and the first field counts; anything else is dropped (cases 1, 7).
    """
    versions = set()
    for line in data.decode("utf-8", "replace").split("\n"):
        fields = line.split()
        if not fields:
            continue
        version = fields[0]
        if semver.is_canonical(version) and semver.agrees(module, version) and not semver.is_pseudo(version):
            versions.add(version)
    return sorted(versions, key=semver.Key)


def render_list(versions: Iterable[str]) -> bytes:
    """A list document: one version a line."""
    return "".join(f"{version}\n" for version in versions).encode()
