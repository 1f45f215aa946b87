"""The gate's pure rules: what ``PATTERN[@VERSIONS]`` means, and what of a list may be offered.

A rule without versions means whole modules, as GOPRIVATE's patterns do: whatever begins with what the pattern
matches. A rule with versions means that module path alone, for ``v1.2.3`` of a module says nothing of another
one's; and of these versions their code: the zip, and being offered. Their ``.mod`` and ``.info`` pass, for
every project whose graph only mentions the version needs them, and so does the way out of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from goproxy_vm.errors import MalformedPath
from goproxy_vm.lru import Lru
from goproxy_vm.protocol.lines import Steps
from goproxy_vm.protocol.names import check_path, check_pattern, compile_glob, is_glob, match_prefix_patterns
from goproxy_vm.protocol.semver import agrees, is_canonical, is_valid, order, rank

LONGEST = 1000
"""Characters of a rule."""
MOST_BOUNDS = 20
"""Bounds and globs in one rule."""
REMEMBERED = 1000
"""Modules of which it is remembered which rules are about them."""
A_STEP = 10
"""Versions that are held against rules at a time, of which there may be a thousand about one module."""

_BOUND = re.compile(r"(>=|<=|>|<|=)?(v\S*)")
_BARE_DATE = re.compile(r"[-.][0-9]{14}$")
_WILD = re.compile(r"[*?\[]")
_SET = re.compile(r"\[[^]]*\]")
_IN_NO_PATH = re.compile(r"[^A-Za-z0-9._~/*?\\-]")

Holds = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Versions:
    """A set of versions: alternatives, each of bounds that hold together; ``text`` as it was given."""

    text: str
    alternatives: tuple[tuple[Holds, ...], ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Versions:
        """``v1.2.3``; a glob, ``v1.2.*``; bounds in Go's order of versions, which hold together,
        ``>=v1.2.0 <v1.2.7``; and such alternatives, ``<v1.2.0 || =v1.4.0``. ValueError with a reason."""
        words = [part.split() for part in text.split("||")]
        if sum(map(len, words)) > MOST_BOUNDS:
            raise ValueError(f"it has more than {MOST_BOUNDS} bounds")
        if not all(words):
            raise ValueError("there is no version beside ||" if "||" in text else "no version follows the @")
        return cls(
            " ".join(text.split()),
            tuple(tuple(_bound(word, alone=len(part) == 1) for word in part) for part in words),
        )

    def __contains__(self, version: str) -> bool:
        return any(all(holds(version) for holds in bounds) for bounds in self.alternatives)


def _bound(word: str, *, alone: bool) -> Holds:
    if _WILD.search(word):
        if not alone or not word.startswith(("v", "*")):
            raise ValueError(f"{word!r}: a glob stands alone, and begins with v or *")
        glob = compile_glob(word)
        if glob is None or "[!" in word:
            raise ValueError(f"{word!r}: a malformed glob; [^0-9] is what is none of a set")
        return lambda version: glob.fullmatch(version) is not None
    found = _BOUND.fullmatch(word)
    if found is None or not is_valid(found[2]):
        raise ValueError(
            f"{word!r}: expected a version, v1.2.3, a glob, v1.2.*, or bounds by >= > <= < =, "
            "like >=v1.2.0 <v1.2.7"
        )
    operator, limit = found[1] or "=", found[2]
    if operator == "=":
        if not is_canonical(limit):
            raise ValueError(f"{word!r}: expected a whole version, vX.Y.Z; v1.2.* means all of v1.2")
        return limit.__eq__
    if not is_canonical(limit):
        if "+" in limit:
            raise ValueError(f"{word!r}: expected a version without +, which Go's order does not know")
        limit += ".0" * (2 - limit.count("."))
    if _BARE_DATE.search(limit):
        raise ValueError(f"{word!r}: a bare date comes before every pseudo-version: write {limit}-0")
    edge = _precedence(limit)
    compare: dict[str, Holds] = {
        ">=": lambda version: _precedence(version) >= edge,
        ">": lambda version: _precedence(version) > edge,
        "<": lambda version: _precedence(version) < edge,
        "<=": lambda version: _precedence(version) <= edge,
    }
    return compare[operator]


@lru_cache(maxsize=64)  # a version is held against one bound after the other
def _precedence(version: str) -> str:
    """Text by whose plain order versions compare; +incompatible does not count, as in Go."""
    return order(version).rpartition("\0")[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """Modules by a pattern, and which of their versions; None means the whole modules.

    ``whole``: everything of them is meant, ``.mod`` and ``.info`` as well; else the code alone.
    """

    text: str
    pattern: str
    versions: Versions | None
    whole: bool

    @classmethod
    def parse(cls, text: str, *, whole: bool = False) -> Rule:
        """``PATTERN`` or ``PATTERN@VERSIONS``. ValueError with a reason."""
        if len(text) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} characters")
        pattern, at, versions = text.strip().partition("@")
        if not pattern or "," in text or not text.isascii():
            raise ValueError("expected MODULE or MODULE@VERSIONS, without commas")
        check_pattern(pattern)
        pattern = pattern.removesuffix("/")
        alien = _IN_NO_PATH.search(_SET.sub("", pattern))
        if alien is not None:
            capital = ": write the capital that it stands for" if alien[0] == "!" else ""
            raise ValueError(f"holds {alien[0]!r}, which no module path does{capital}")
        if not at:
            return cls(pattern, pattern, None, whole=True)
        if not is_glob(pattern):
            try:
                check_path(pattern)
            except MalformedPath as error:
                raise ValueError(error.sentence) from None
        parsed = Versions.parse(versions)
        if not is_glob(pattern):
            for version in re.findall(r"[^\s|]+", versions):
                _check_major(pattern, version.removeprefix("="))
        return cls(f"{pattern}@{parsed.text}", pattern, parsed, whole)

    @property
    def exact(self) -> bool:
        """Whether one module path is meant, and nothing else."""
        return self.versions is not None and not is_glob(self.pattern)

    def covers(self, module: str, version: str) -> bool:
        """Whether a version of a module is meant."""
        return self.names(module) and (self.versions is None or version in self.versions)

    def names(self, module: str) -> bool:
        """Whether any version of a module is meant."""
        if self.versions is None:
            return match_prefix_patterns(self.pattern, module)
        return module.count("/") == self.pattern.count("/") and match_prefix_patterns(self.pattern, module)


def _check_major(module: str, version: str) -> None:
    """ValueError, with the way out, for a version that the module cannot have: the rule would be a hole."""
    if not is_canonical(version) or agrees(module, version):
        return
    other = f"{version}+incompatible"
    way = (
        f"write {other}, or name {module}/{version.partition('.')[0]}"
        if agrees(module, other)
        else "its path says which it has"
    )
    raise ValueError(f"{module} has no version {version}, by its major: {way}")


@dataclass(frozen=True, slots=True)
class GateRule:
    """A rule that is given, and why: ``kind`` is block or exempt, or deny, which the settings give.

    ``number`` is its own for ever; ``by`` whoever gave it; ``at``, ``until`` and ``ended`` are epoch seconds,
    None for never and for not yet.
    """

    kind: str
    rule: Rule
    number: int = 0
    reason: str = ""
    by: str = ""
    at: float = 0.0
    until: float | None = None
    ended: float | None = None


class RuleSet:
    """Some rules, those about one module found by it. They do not change."""

    def __init__(self, rules: Iterable[GateRule] = ()) -> None:
        self._exact: dict[str, list[GateRule]] = {}
        self._below: dict[str, list[GateRule]] = {}
        self._globs: list[GateRule] = []
        for each in rules:
            pattern = each.rule.pattern
            if is_glob(pattern):
                self._globs.append(each)
            else:
                (self._exact if each.rule.exact else self._below).setdefault(pattern, []).append(each)
        self._known: Lru[str, tuple[GateRule, ...]] = Lru(REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._exact or self._below or self._globs)

    def about(self, module: str) -> tuple[GateRule, ...]:
        """Those that mean the module, or any of its versions."""
        known = self._known.get(module)
        if known is None:
            known = tuple(self._found(module))
            self._known.keep(module, known)
        return known

    def _found(self, module: str) -> Iterator[GateRule]:
        yield from self._exact.get(module, ())
        if self._below:
            elements = module.split("/")
            for count in range(1, len(elements) + 1):
                yield from self._below.get("/".join(elements[:count]), ())
        for each in self._globs:
            if each.rule.names(module):
                yield each

    def find(self, module: str, version: str = "", *, code: bool = True) -> GateRule | None:
        """One that covers a version ("": the module as a whole); without ``code`` only one that means more
        than that."""
        for each in self.about(module):
            rule = each.rule
            if (code or rule.whole) and (rule.versions is None or (version and version in rule.versions)):
                return each
        return None


@dataclass(frozen=True, slots=True)
class Offer:
    """What of a list may be given: ``passed``, ``newest`` by ``go``'s choice, and how many versions may not
    for which reason."""

    passed: list[str]
    newest: str | None
    refused: Counter[str]


def offered(versions: Iterable[str], why: Callable[[str], str | None]) -> Steps[Offer]:
    """What may be given of a list; ``why`` a version may not, None where it may."""
    passed: list[str] = []
    refused: Counter[str] = Counter()
    newest: tuple[tuple[int, str, str], str] | None = None
    for number, version in enumerate(versions, 1):
        reason = why(version)
        if reason is None:
            passed.append(version)
            place = rank(version), version
            newest = place if newest is None else max(newest, place)
        else:
            refused[reason] += 1
        if number % A_STEP == 0:
            yield
    return Offer(passed, newest and newest[1], refused)
