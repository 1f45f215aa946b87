"""The small documents of the protocol: ``.info``, ``@latest``, ``list`` (PROTOCOL §1 and §3)."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.lines import Steps, blocks

LONGEST_LIST = 2 << 20
"""Bytes. The longest real one is that of the toolchains: some five thousand lines of forty bytes."""
MOST_VERSIONS = 50_000
"""Versions in a list: ten times as many as that has."""
LONGEST_INFO = 8 << 10
"""Bytes of an ``.info`` or ``@latest``. Real ones have some hundred."""

# RFC 3339 as clients read it: an hour of one digit, a comma and an offset up to 24:60 pass, too.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d{1,2}):(\d\d):(\d\d)(?:[.,]\d+)?(?:Z|[+-](?:[01]\d|2[0-4]):(?:[0-5]\d|60))",
    re.ASCII,
)
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
    """The Version that an ``@latest`` names: canonical, and of the module's major.

    Keys are read as clients read them: case is ignored, each value of a repeated key must fit and the last
    one counts, null is as good as absent. ContentError if a client would refuse the document.
    """
    version = ""
    for key, value in _fields(data):
        if value is None:
            continue
        if key == "version":
            if not isinstance(value, str):
                raise ContentError("the info's Version is no string")
            version = value
        elif key == "time":
            _check_time(value)
        elif key == "origin":
            _check_origin(value)
    if not version:
        raise ContentError("the info names no Version")
    if not semver.is_canonical(version) or not semver.agrees(module, version):
        raise ContentError(f"the info names {version[:80]!r}, which is no canonical version of the module")
    return version


def commit_time(info: bytes) -> float | None:
    """When a version was committed, as its ``.info`` says and its committer wanted: epoch seconds; None where
    it says nothing of it."""
    try:
        (told, *_) = [value for key, value in _fields(info) if key == "time"] or [None]
        when = datetime.fromisoformat(told) if isinstance(told, str) else None
        return None if when is None or when.tzinfo is None else when.timestamp()
    except (ContentError, ValueError, OverflowError):
        return None


def minimal_info(version: str) -> bytes:
    """An ``.info`` that says what the version itself does: it alone, and of a pseudo-version its time, by
    which ``go get -u`` moves to nothing older."""
    commit = semver.pseudo(version)
    info = {"Version": version}
    if commit is not None and _is_time(commit.timestamp):
        info["Time"] = commit.timestamp
    return json.dumps(info).encode()


def check_supported(data: bytes) -> None:
    """ContentError where what says that a checksum database is carried is a page, of HTML or JSON: clients do
    not look at the text, which is mostly none."""
    if data.lstrip()[:1] in (b"<", b"{", b"["):
        raise ContentError("a page in place of the checksum database")


class _Object(list[tuple[str, Any]]):
    """A JSON object: all of its members in their order, the case of their keys folded."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__([(key.casefold(), value) for key, value in members])


def _fields(data: bytes) -> _Object:
    if data.startswith(b"\xef\xbb\xbf"):
        raise ContentError("the info begins with a byte order mark")
    try:
        value = json.loads(
            data.decode("utf-8", "replace"),
            object_pairs_hook=_Object,
            parse_constant=_no_constant,
            parse_int=float,  # no number is used, and int() refuses long ones
        )
    except (ValueError, RecursionError):
        raise ContentError("the info is no JSON") from None
    if not isinstance(value, _Object):
        raise ContentError("the info is no JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _check_time(value: object) -> None:
    if not _is_time(value):
        raise ContentError(f"the info's Time {str(value)[:40]!r} is no RFC 3339 time")


def _is_time(value: object) -> bool:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        year, month, day, hour, minute, second = map(int, match.groups())
        try:
            datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            return False
        return True
    return False


def _check_origin(value: object) -> None:
    if not isinstance(value, _Object):
        raise ContentError("the info's Origin is no object")
    for key, text in value:
        if key in _ORIGIN_TEXTS and not isinstance(text, str | None):
            raise ContentError(f"the info's Origin.{key} is no string")


def parse_list(data: bytes, module: str) -> Steps[list[str]]:
    """The versions a list may offer: canonical, of the module's major; in semver order.

    Lines are split at white space and the first field counts; anything else is dropped (cases 1, 7). Pseudo-
    versions stay: clients pass over them unless their ``@latest`` finds nothing, and then take the newest
    (PROTOCOL §1 "latest"); many a proxy has no ``@latest``, and then the choice must be the same as directly.
    ContentError where there are lines, and none begins with a version, be it a short or of another major: a
    page, not a list; and where it has more than ``MOST_VERSIONS``.
    """
    lines = valid = False
    found: set[str] = set()
    runs: list[list[str]] = []
    cut = False
    for block, whole in blocks(data, 1024):
        each_line = block.decode("utf-8", "replace").split("\n")
        lines = lines or any(map(str.strip, each_line))
        # No version is as long as a line that is cut.
        fields = {line.split(None, 1)[0] for line in each_line[cut : None if whole else -1] if line.strip()}
        cut = not whole
        valid = valid or any(map(semver.is_valid, fields))
        fields -= found
        new = [each for each in fields if semver.is_canonical(each) and semver.agrees(module, each)]
        found.update(new)
        if len(found) > MOST_VERSIONS:
            raise ContentError(f"the list has more than {MOST_VERSIONS} versions")
        runs.append(sorted(map(semver.order, new)))
        yield
    if lines and not valid:
        raise ContentError("the list has no line that begins with a version")
    found.clear()
    yield
    versions: list[str] = []
    for each in heapq.merge(*runs):
        versions.append(semver.ordered(each))
        if len(versions) % 100 == 0:
            yield
    return versions


def render_list(versions: Iterable[str]) -> bytes:
    """A list document: one version a line."""
    return "\n".join([*versions, ""]).encode()
