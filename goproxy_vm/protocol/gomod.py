"""go.mod files, as far as they matter here: whether it is one, what it retracts and requires
(go.dev/ref/mod)."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.lines import Steps, blocks

MOST_RETRACTED = 1_000
"""Lines of a go.mod that retract something. Real ones have some dozens."""
MOST_REQUIRED = 10_000
"""Requirements of a go.mod: ten times as many as the longest real ones have."""
LOOKED_AT = 1 << 20
"""Bytes of a go.mod that are read for them: the longest real ones have a tenth of it."""

# No version that is stored is longer: each is part of a file's name.
_QUOTED = r"""["`]?(v[^\s,\]"`]{1,254})["`]?"""
_RETRACTED = re.compile(rf"\s*(?:\[\s*{_QUOTED}\s*,\s*{_QUOTED}\s*\]|{_QUOTED})")
_REQUIRE_BLOCK = re.compile(r"require\s*\(")
_REQUIRED = re.compile(rf"""\s*["`]?([\w.~/+-]{{1,800}})["`]?\s+{_QUOTED}""", re.ASCII)
_RETRACT_BLOCK = re.compile(r"retract\s*\(")
_DIRECTIVE = re.compile(r"[a-z][0-9a-z-]*+(?![^ \t\r()\[\]{},])")
_PATH = re.compile(r"""(["`]?)(?!-)((?:[\w.~+-]*[\w~+-]/)*[\w.~+-]*[\w~+-])\1""", re.ASCII)
"""What may be imported from: no element of it ends in a dot, as a sentence does."""
_TELLING = {"go": re.compile(r"\d+\.\d"), "require": re.compile(r"\S+[ \t]+v\d")}
"""What begins the arguments of directives as nothing but a go.mod has them."""
_SPACE = " \t\r"


def check_mod(data: bytes, module: str) -> Steps[None]:
    """ContentError unless ``data`` looks like a go.mod, of ``module`` or another: lines that begin with a
    word, one of which is ``module`` and names a path (go.dev/ref/mod#go-mod-file). Words that are not known
    may be those of newer versions of Go.

    The path may be another one: that of the module for which a replace directive puts in a fork. Mostly it
    begins with a domain. One that does not, as in ``module unavailable``, may be a page's word: a line that
    says a version of Go, or requires something, has to be there as well.

    Lines end at a line feed, as they do for Go: other characters that break lines may be in comments.
    """
    named = ""
    cut = telling = False
    within = ""  # the directive of a block
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block, whole in blocks(data, 2048):
        try:
            lines = decoder.decode(block, final=whole).split("\n")
        except UnicodeDecodeError:
            raise ContentError("the go.mod is no UTF-8 text") from None
        for line in lines[cut:]:  # of a line that is cut the beginning counts
            code = line.partition("//")[0].strip(_SPACE)
            if not code:
                continue
            if within and code == ")":
                within = ""
                continue
            directive, arguments = within, code
            if not within:
                match = _DIRECTIVE.match(code)
                if match is None:
                    raise ContentError(f"the go.mod has a line that begins with {code[:20]!r}")
                directive, arguments = match[0], code[match.end() :].strip(_SPACE)
                if code[-1] == "(":
                    within = directive
                    if arguments == "(":
                        continue
            if directive == "module":
                if named:
                    raise ContentError("the go.mod names a module twice")
                path = _PATH.fullmatch(arguments)
                if path is None:
                    raise ContentError(f"the go.mod names as its module {arguments[:80]!r}, which is no path")
                named = path[2]
            elif directive in _TELLING and not telling:
                telling = _TELLING[directive].match(arguments) is not None
        cut = not whole
        yield
    if not named:
        raise ContentError("the go.mod names no module")
    if named != module and "." not in named.partition("/")[0] and not telling:
        raise ContentError(f"the go.mod names as its module {named[:80]!r}, and has nothing else of a go.mod")


@dataclass(frozen=True, slots=True)
class Retractions:
    """Spans of versions, both ends included: sorted, and none touches another."""

    _lows: list[str]
    _highs: list[str]

    def __contains__(self, version: str) -> bool:
        place = semver.order(version)
        at = bisect_right(self._lows, place) - 1
        return at >= 0 and place <= self._highs[at]


def retractions(mod: bytes) -> Steps[Retractions]:
    """What a go.mod retracts (go.dev/ref/mod#go-mod-file-retract); its other lines, and those that are
    malformed, do not matter. After ``MOST_RETRACTED`` no more are looked for."""
    spans: set[tuple[str, str]] = set()
    lines = 0
    within = cut = False
    for block, whole in blocks(mod[:LOOKED_AT], 1024):
        # Nearly all blocks of a long one have nothing of it, and are passed over.
        text = block.decode("utf-8", "replace") if within or b"retract" in block else ""
        for line in text.split("\n")[cut:]:
            code = line.partition("//")[0].strip()
            span = _RETRACTED.fullmatch(code if within else code.removeprefix("retract"))
            if within and code == ")":
                within = False
            elif _RETRACT_BLOCK.fullmatch(code):
                within = True
            elif span and (within or code.startswith("retract")):
                low, high = span[1] or span[3], span[2] or span[3]
                spans.add((semver.order(low), semver.order(high)))
                lines += 1
        if lines >= MOST_RETRACTED:
            break
        cut = not whole
        yield
    return _merged(spans)


def _merged(spans: Iterable[tuple[str, str]]) -> Retractions:
    lows: list[str] = []
    highs: list[str] = []
    for low, high in sorted(spans):
        if high < low:
            continue
        if highs and low <= highs[-1]:
            highs[-1] = max(highs[-1], high)
        else:
            lows.append(low)
            highs.append(high)
    return Retractions(lows, highs)


def not_retracted(versions: Iterable[str], retracted: Retractions) -> Steps[list[str]]:
    """The versions that are not retracted, in their order."""
    left: list[str] = []
    for number, each in enumerate(versions, 1):
        if each not in retracted:
            left.append(each)
        if number % 100 == 0:
            yield
    return left


def requirements(mod: bytes) -> Steps[list[tuple[str, str]]]:
    """The modules that a go.mod requires, each with its version (go.dev/ref/mod#go-mod-file-require);
    its other lines, and those that are malformed, do not matter. After ``MOST_REQUIRED`` no more are looked
    for."""
    found: list[tuple[str, str]] = []
    within = cut = False
    for block, whole in blocks(mod[:LOOKED_AT], 1024):
        for line in block.decode("utf-8", "replace").split("\n")[cut:]:
            code = line.partition("//")[0].strip()
            if within and code == ")":
                within = False
            elif _REQUIRE_BLOCK.fullmatch(code):
                within = True
            elif within or code.startswith(("require ", "require\t")):
                required = _REQUIRED.fullmatch(code if within else code.removeprefix("require"))
                if required:
                    found.append((required[1], required[2]))
        if len(found) >= MOST_REQUIRED:
            break
        cut = not whole
        yield
    return found[:MOST_REQUIRED]
