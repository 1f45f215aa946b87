"""go.mod files, as far as they matter here: whether it is one, and what it retracts (go.dev/ref/mod)."""

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
LOOKED_AT = 1 << 20
"""Bytes of a go.mod that are read for them: the longest real ones have a tenth of it."""

# No version that is stored is longer: each is part of a file's name.
_QUOTED = r"""["`]?(v[^\s,\]"`]{1,254})["`]?"""
_RETRACTED = re.compile(rf"\s*(?:\[\s*{_QUOTED}\s*,\s*{_QUOTED}\s*\]|{_QUOTED})")
_RETRACT_BLOCK = re.compile(r"retract\s*\(")
_DIRECTIVE = re.compile(r"[a-z][0-9a-z-]*+(?![^ \t\r()\[\]{},])")
_PATH = re.compile(r"""(["`]?)[\w.~+-]+(?:/[\w.~+-]+)*\1""")
"""What may be imported from, and is one word."""
_SPACE = " \t\r"


def check_mod(data: bytes) -> Steps[None]:
    """ContentError unless ``data`` looks like a go.mod: lines that begin with a word, one of which is
    ``module`` and names a path (go.dev/ref/mod#go-mod-file). Words that are not known may be those of newer
    versions of Go; which path it names is not looked at: a fork that a replace directive puts in names
    another's.

    Lines end at a line feed, as they do for Go: other characters that break lines may be in comments.
    """
    named = cut = False
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
                if not _PATH.fullmatch(arguments):
                    raise ContentError(f"the go.mod names as its module {arguments[:80]!r}, which is no path")
                named = True
        cut = not whole
        yield
    if not named:
        raise ContentError("the go.mod names no module")


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
