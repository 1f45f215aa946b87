"""Module paths, versions and file names: what is valid, and how it is escaped.

Sources: go.dev/ref/mod#module-path; PROTOCOL §1 "Escaping", "Valid P", "Valid V", §4 "Patterns".
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from goproxy_vm.errors import MalformedPath

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[1-9]|lpt[1-9])", re.IGNORECASE | re.ASCII)
_ELEMENT = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)
_FIRST = re.compile(r"[a-z0-9.-]+", re.ASCII)
_SHORT_NAME = re.compile(r".*~[0-9]+", re.ASCII | re.DOTALL)
_MAJOR = re.compile(r"(.*)/v([0-9.]+)", re.ASCII)
_GOPKG = re.compile(r"(gopkg\.in/.*)\.v(0|[1-9][0-9]*)(-unstable)?", re.ASCII)
_ASCII_FILE_NAME = re.compile(r"[A-Za-z0-9!#$%&()+,.=@\[\]^_{}~ -]+")
_UPPER = re.compile(r"[A-Z]")
_ESCAPED = re.compile(r"!([a-z])")


@lru_cache(maxsize=1024)
def split_path_version(path: str) -> tuple[str, str] | None:
    """A module path cut into prefix and major suffix (``/v2``, ``.v3-unstable`` or empty).

    None where the suffix is malformed: ``/v1``, ``/v02``, ``/v2.0``, gopkg.in without ``.vN``.
    """
    if path.startswith("gopkg.in/"):
        match = _GOPKG.fullmatch(path)
        if match is None or (match[2] == "0" and match[3]):
            return None
        return match[1], path[len(match[1]) :]
    match = _MAJOR.fullmatch(path)
    if match is None:
        return path, ""
    digits = match[2]
    if "." in digits or digits[0] == "0" or digits == "1":
        return None
    return match[1], path[len(match[1]) :]


def check_path(path: str) -> None:
    """Raise MalformedPath unless ``path`` is a valid module path (PROTOCOL §1 "Valid P")."""
    elements = path.split("/")
    for element in elements:
        if _ELEMENT.fullmatch(element) is None:
            raise MalformedPath(f"malformed module path {path!r}: invalid element {element!r}")
        if element[0] == "." or element[-1] == ".":
            raise MalformedPath(f"malformed module path {path!r}: an element starts or ends with a dot")
        stem = element.partition(".")[0]
        if _RESERVED.fullmatch(stem):
            raise MalformedPath(f"malformed module path {path!r}: {stem!r} is reserved on Windows")
        if "~" in stem and _SHORT_NAME.fullmatch(stem):
            raise MalformedPath(f"malformed module path {path!r}: an element ends in a tilde and digits")
    first = elements[0]
    if "." not in first or first[0] == "-" or _FIRST.fullmatch(first) is None:
        raise MalformedPath(f"malformed module path {path!r}: {first!r} is no domain name")
    if split_path_version(path) is None:
        raise MalformedPath(f"malformed module path {path!r}: invalid major version suffix")


def check_file_path(name: str, *, unassigned_ok: bool = True) -> None:
    """Raise MalformedPath unless ``name`` may name a file in a module zip (PROTOCOL §3).

    ``unassigned_ok``: take code points that this Python's Unicode tables do not know for letters; Go's
    tables are newer.
    """
    for element in name.split("/"):
        if not element or element in (".", "..") or element[-1] == ".":
            raise MalformedPath(f"malformed file path {name!r}: invalid element {element!r}")
        if _ASCII_FILE_NAME.fullmatch(element) is None:  # one match settles nearly every name
            for char in element:
                if not _file_char(char, unassigned_ok):
                    raise MalformedPath(f"malformed file path {name!r}: invalid char {char!r}")
        stem = element.partition(".")[0]
        if _RESERVED.fullmatch(stem):
            raise MalformedPath(f"malformed file path {name!r}: {stem!r} is reserved on Windows")


def _file_char(char: str, unassigned_ok: bool) -> bool:
    if char.isascii():
        return _ASCII_FILE_NAME.fullmatch(char) is not None
    category = unicodedata.category(char)
    return category[0] == "L" or (unassigned_ok and category == "Cn")


def check_version(version: str) -> None:
    """Raise MalformedPath unless ``version`` may be asked for: one ASCII file-name element without ``!``."""
    if "/" in version or "!" in version or not version.isascii():
        raise MalformedPath(f"malformed version {version!r}")
    try:
        check_file_path(version)
    except MalformedPath:
        raise MalformedPath(f"malformed version {version!r}") from None


def _escape(name: str) -> str:
    return _UPPER.sub(lambda match: "!" + match[0].lower(), name)


def _unescape(name: str) -> str:
    plain = _ESCAPED.sub(lambda match: match[1].upper(), name)
    # Every "!" must have been consumed, and no capital may have been there before.
    if "!" in plain or _UPPER.search(name):
        raise MalformedPath(f"malformed escaping in {name!r}")
    return plain


def escape_path(path: str) -> str:
    """The module path with each capital as ``!`` and its lower case; MalformedPath if it is no valid path."""
    check_path(path)
    return _escape(path)


def unescape_path(escaped: str) -> str:
    """The module path of an escaped one; MalformedPath if it is not the escaping of a valid path."""
    path = _unescape(escaped)
    check_path(path)
    return path


def escape_version(version: str) -> str:
    """As :func:`escape_path`, for a version."""
    check_version(version)
    return _escape(version)


def unescape_version(escaped: str) -> str:
    """As :func:`unescape_path`, for a version."""
    version = _unescape(escaped)
    check_version(version)
    return version


TOOLCHAIN = "golang.org/toolchain"
"""The module whose versions are Go releases (go.dev/doc/toolchain)."""


def match_prefix_patterns(globs: str, target: str) -> bool:
    """Whether a comma-separated GOPRIVATE-like list of globs matches a prefix of module path ``target``.

    The rules are Go's (PROTOCOL §4 "Patterns"): no trimming of spaces, one trailing slash dropped, empty
    and malformed globs skipped, a glob of n slashes matched against the first n+1 elements.
    """
    elements = target.split("/")
    for glob in globs.split(","):
        pattern = glob.removesuffix("/")
        depth = pattern.count("/") + 1
        if not pattern or depth > len(elements):
            continue
        compiled = compile_glob(pattern)
        if compiled is not None and compiled.fullmatch("/".join(elements[:depth])):
            return True
    return False


# The syntax of Go's path.Match, on a whole pattern.
_GLOB_CHARACTER = r"(?:\\.|[^\\\]\-])"
_GLOB = re.compile(
    rf"(?:\\.|[^\\\[]|\[\^?+(?:{_GLOB_CHARACTER}(?:-{_GLOB_CHARACTER})?)+\])*",
    re.DOTALL,
)
_SPECIAL = re.compile(r"[*?\[\\]")


def is_glob(pattern: str) -> bool:
    """Whether a pattern may match more than the path that it is."""
    return _SPECIAL.search(pattern) is not None


def check_pattern(pattern: str) -> None:
    """ValueError, with a reason, for one pattern that matches no module: a rule that never holds is a hole
    that nobody sees."""
    if not pattern.isprintable() or " " in pattern:
        raise ValueError("holds a space or control character, and can match nothing")
    if not _GLOB.fullmatch(pattern):
        raise ValueError("is malformed, and would match nothing")
    if pattern.startswith("/") or "//" in pattern:
        raise ValueError("has an empty part before a slash, as https:// has: it can match nothing")
    domain = pattern.partition("/")[0]
    if domain != domain.lower() and not {"[", "\\"} & {*domain}:
        raise ValueError("has a domain in capitals, but modules' are in lower case: it can match nothing")


def exempt(nosumdb: str, module: str) -> bool:
    """Whether the patterns ``nosumdb`` exempt a module from the checksum database; toolchains never are
    (PROTOCOL case 62)."""
    return module != TOOLCHAIN and match_prefix_patterns(nosumdb, module)


# As many as settings and rules may have, and more: one that is made anew each time takes 50 µs.
@lru_cache(maxsize=2048)
def compile_glob(pattern: str) -> re.Pattern[str] | None:
    """Go's path.Match as a regular expression; None where Go reports a bad pattern.

    What stands between two stars is taken where it is found first, once and for all: so that many stars cost
    no more than the pattern's length times the text's.
    """
    chunks: list[list[str]] = [[]]
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            chunks.append([])
            continue
        if char == "?":
            atom = "[^/]"
        elif char == "[":
            parsed = _glob_class(pattern, i)
            if parsed is None:
                return None
            atom, i = parsed
        elif char == "\\":
            if i == len(pattern):
                return None
            atom = re.escape(pattern[i])
            i += 1
        else:
            atom = re.escape(char)
        chunks[-1].append(atom)
    first, *rest = ("".join(chunk) for chunk in chunks)
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    between = "".join(f"(?>[^/]*?{chunk})" for chunk in middle if chunk)
    return re.compile(f"{first}{between}[^/]*{last}", re.DOTALL)


def _glob_class(pattern: str, i: int) -> tuple[str, int] | None:
    """A character class from behind its ``[``: the expression and where it ends; None if malformed."""
    negated = pattern[i : i + 1] == "^"
    i += negated
    ranges: list[str] = []
    while not (pattern[i : i + 1] == "]" and ranges):
        low = _class_char(pattern, i)
        if low is None:
            return None
        start, i = low
        end = start
        if pattern[i : i + 1] == "-":
            high = _class_char(pattern, i + 1)
            if high is None:
                return None
            end, i = high
        ranges.append(f"{re.escape(start)}-{re.escape(end)}" if start <= end else "")
    inside = "".join(ranges)
    if not inside:
        return ("." if negated else "(?!)"), i + 1
    return f"[{'^' if negated else ''}{inside}]", i + 1


def _class_char(pattern: str, i: int) -> tuple[str, int] | None:
    char = pattern[i : i + 1]
    if char == "\\":
        i += 1
        char = pattern[i : i + 1]
    elif char in ("-", "]"):
        return None
    return (char, i + 1) if char and i + 1 < len(pattern) else None
