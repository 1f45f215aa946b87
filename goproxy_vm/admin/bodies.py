"""What a request to the admin API says, as validated values: its query, its JSON body, its path.

Whatever is unknown, of another type or out of bounds is a 400 that names the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeGuard, TypeVar
from urllib.parse import parse_qsl

from goproxy_vm.admin.details import Problem, malformed
from goproxy_vm.cache.facts import Listing, Selection, Sort
from goproxy_vm.config import values
from goproxy_vm.config.text import printable
from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol import names, selector
from goproxy_vm.protocol.artifact import KINDS

_T = TypeVar("_T")

MOST_GLOBS = 1000
"""Globs in one body."""
MOST_PARTS = 2 * MOST_GLOBS
"""Commas and opening braces in a body: what is made of very many small parts takes long to read."""
LONGEST_NUMBER = 100
"""Characters of a whole number."""
MOST_BYTES = (1 << 63) - 1
"""What the index can count to."""
MOST_PARAMETERS = 20
REPEATED = frozenset({"match"})
"""Parameters that may come several times; a comma separates as well."""
LONGEST_PREFIX = 1000
LONGEST_CURSOR = 4096
SORTS: dict[str, Sort] = {"name": "name", "size": "size", "idle": "idle", "hits": "hits"}
SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,99}", re.ASCII)
NOW = "now"
"""Stands for the present in a comparison, and is no snapshot's name."""

_DURATION = values.duration(positive=False)
_SIZE = values.size(0, MOST_BYTES, "8EiB")
_PASS = values.count(1, MOST_BYTES)
_MISSING = object()


class Members:
    """The members of a body or a query: each is taken by name, and what is left over is refused."""

    def __init__(self, members: Mapping[str, object], unknown: str) -> None:
        self._members = dict(members)
        self._unknown = unknown

    def take(self, name: str, check: Callable[[object], _T], default: _T) -> _T:
        """The value as ``check`` returns it, or the default where it is missing. Problem if wrong."""
        value = self._members.pop(name, _MISSING)
        if value is _MISSING:
            return default
        try:
            return check(value)
        except (ValueError, OverflowError) as error:
            raise malformed(name, str(error)) from None

    def finish(self) -> None:
        """Problem where something is left that nobody took."""
        for name in sorted(self._members):
            raise malformed(printable(name[:100]), self._unknown)


@dataclass(frozen=True, slots=True)
class Purge:
    """``POST /api/v1/purge``."""

    selection: Selection
    forget_hash: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Evict:
    """``POST /api/v1/evict``; no target means the low water mark."""

    target_bytes: int | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Scrub:
    """``POST /api/v1/scrub``; ``rate`` in bytes a second."""

    match: tuple[str, ...] | None
    rate: int | None


def query(raw: str) -> Members:
    """A raw query string. Problem where it is malformed or names a parameter twice, save :data:`REPEATED`."""
    try:
        pairs = parse_qsl(
            raw,
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError:
        raise Problem(400, "the query is malformed") from None
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found and name in REPEATED:
            found[name] = f"{found[name]},{value}"
        elif name in found:
            raise malformed(printable(name[:100]), "given twice")
        else:
            found[name] = value
    return Members(found, "no such parameter")


def body(data: bytes) -> Members:
    """A JSON object. Problem where it is none, or has too many parts."""
    if data.count(b",") + data.count(b"{") > MOST_PARTS:
        raise Problem(400, f"the body has more than {MOST_PARTS} parts")
    try:
        found = json.loads(
            data.decode(), object_pairs_hook=_once, parse_int=_whole, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Problem(400, "the body is not a JSON object")
    return Members(found, "no such field")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem(400, "a field is given twice")
    return found


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:  # to make it takes the square of that
        raise ValueError
    return int(text)


def _no_number(_: str) -> NoReturn:
    raise ValueError


def purge(members: Members) -> Purge:
    """Problem too where no condition is given: nobody deletes everything by an empty object."""
    match = members.take("match", _globs, None)
    idle_for = members.take("idle_for", seconds, None)
    older_than = members.take("older_than", seconds, None)
    larger_than = members.take("larger_than", _bytes, None)
    kinds: tuple[str, ...] = members.take("kinds", _kinds, KINDS)
    forget_hash = members.take("forget_hash", boolean, default=False)
    dry_run = members.take("dry_run", boolean, default=False)
    members.finish()
    if match is None and idle_for is None and older_than is None and larger_than is None:
        raise malformed(
            "match", 'a match, idle_for, older_than or larger_than is needed; "*" means everything'
        )
    return Purge(Selection(match, idle_for, older_than, larger_than, kinds), forget_hash, dry_run)


def evict(members: Members) -> Evict:
    """The members of an eviction."""
    target = members.take("target_bytes", _bytes, None)
    dry_run = members.take("dry_run", boolean, default=False)
    members.finish()
    return Evict(target, dry_run)


def refresh(members: Members) -> str:
    """The module to refresh."""
    found = members.take("module", module, "")
    members.finish()
    if not found:
        raise malformed("module", "is needed")
    return found


def scrub(members: Members) -> Scrub:
    """What to hash anew, and how fast."""
    match = members.take("match", _globs, None)
    rate = members.take("rate", _rate, None)
    members.finish()
    return Scrub(match, rate)


def snapshot(members: Members) -> str | None:
    """The name of a new snapshot, or None for the server to choose."""
    name = members.take("name", _snapshot_name, None)
    members.finish()
    return name


def nothing(members: Members) -> None:
    """A body or query that has no members."""
    members.finish()


def listing(members: Members) -> Listing:
    """Which part of the list of versions."""
    match = members.take("match", _listed_globs, None)
    prefix = members.take("prefix", _text(LONGEST_PREFIX), "")
    sort: Sort = members.take("sort", _sort, SORTS["name"])
    limit = members.take("limit", _limit, 100)
    cursor = members.take("cursor", _text(LONGEST_CURSOR), None)
    members.finish()
    return Listing(match, prefix, sort, limit, cursor)


def page(members: Members) -> tuple[int, str | None]:
    """The query of a list that has nothing but pages."""
    limit = members.take("limit", _limit, 100)
    cursor = members.take("cursor", _text(LONGEST_CURSOR), None)
    members.finish()
    return limit, cursor


def limit_alone(members: Members) -> int:
    """The query of a list that has no pages."""
    limit = members.take("limit", _limit, 100)
    members.finish()
    return limit


def removal_flags(members: Members) -> tuple[bool, bool]:
    """``forget_hash`` and ``dry_run`` in the query of a DELETE."""
    forget_hash = members.take("forget_hash", true_or_false, default=False)
    dry_run = members.take("dry_run", true_or_false, default=False)
    members.finish()
    return forget_hash, dry_run


def module_in_path(text: str) -> str:
    """A module path, unescaped."""
    try:
        return module(text)
    except ValueError as error:
        raise malformed("module", str(error)) from None


def version_in_path(text: str) -> str:
    """A version, unescaped."""
    try:
        return version(text)
    except ValueError as error:
        raise malformed("version", str(error)) from None


def pass_in_path(text: str) -> int:
    """The number of a pass from a path."""
    try:
        return _PASS.parse(text)
    except ValueError:
        raise malformed("pass", f"expected {_PASS.allowed}") from None


def pattern_in_path(text: str) -> str:
    """A pin's pattern, normalized."""
    try:
        return selector.normalize(text)
    except ValueError as error:
        raise malformed("pattern", str(error)) from None


def module(value: object) -> str:
    """A module path. ValueError, as all that follow."""
    if not isinstance(value, str):
        raise ValueError("a module path is needed")  # noqa: TRY004 (what is wrong with a value, not a bug)
    try:
        names.check_path(value)
    except MalformedPath as error:
        raise ValueError(error.sentence) from None
    return value


def version(value: object) -> str:
    """A version."""
    text = str(value)
    try:
        names.check_version(text)
    except MalformedPath as error:
        raise ValueError(error.sentence) from None
    return text


def boolean(value: object) -> bool:
    """A member of a body that is true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")  # noqa: TRY004
    return value


def true_or_false(value: object) -> bool:
    """The same in a query."""
    if value not in ("true", "false"):
        raise ValueError("true or false is needed")
    return value == "true"


def seconds(value: object) -> float | None:
    """A duration, in seconds or as text."""
    if isinstance(value, str):
        return _parsed(_DURATION, value)
    if not _is_number(value) or not 0 <= value <= values.LONGEST:
        raise ValueError(f"expected {_DURATION.allowed}, ten years at most")
    return float(value)


def _bytes(value: object) -> int | None:
    if isinstance(value, str):
        return _parsed(_SIZE, value)
    if not _is_number(value) or value != int(value) or not 0 <= value <= MOST_BYTES:
        raise ValueError(f"expected {_SIZE.allowed}")
    return int(value)


def _rate(value: object) -> int | None:
    if _is_number(value) and value == int(value):
        value = str(int(value))
    return _parsed(values.SCRUB_RATE, value if isinstance(value, str) else "")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _parsed(form: values.Form[_T], text: str) -> _T:
    try:
        return form.parse(text)
    except (ValueError, OverflowError) as error:
        reason = f"{error}; " if str(error) else ""
        raise ValueError(f"{reason}expected {form.allowed}") from None


def _globs(value: object) -> tuple[str, ...] | None:
    globs = [value] if isinstance(value, str) else value
    if not isinstance(globs, list) or not all(isinstance(each, str) for each in globs):
        raise ValueError("a glob or a list of globs is needed")
    if not 1 <= len(globs) <= MOST_GLOBS:
        raise ValueError(f"1 to {MOST_GLOBS} globs are needed")
    return tuple(selector.normalize(each) for each in globs)


def _listed_globs(value: object) -> tuple[str, ...] | None:
    return _globs(str(value).split(","))


def _kinds(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(each in KINDS for each in value):
        raise ValueError("a list of info, mod and zip is needed")
    return tuple(kind for kind in KINDS if kind in value)


def _snapshot_name(value: object) -> str | None:
    if not isinstance(value, str) or not SNAPSHOT_NAME.fullmatch(value):
        raise ValueError("up to 100 letters, digits and _ . : + - are needed, a letter or digit first")
    if value == NOW:
        raise ValueError("now stands for the present")
    return value


def _sort(value: object) -> Sort:
    if value not in SORTS:
        raise ValueError(f"expected {', '.join(SORTS)}")
    return SORTS[str(value)]


def _limit(value: object) -> int:
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= 1000:
        raise ValueError("a whole number from 1 to 1000 is needed")
    return int(text)


def _text(longest: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = str(value)
        if len(text) > longest:
            raise ValueError(f"it is longer than {longest} characters")
        return text

    return check
