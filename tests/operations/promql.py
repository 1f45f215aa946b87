"""What a PromQL expression asks for: enough of the language to find each metric and label that it names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s+
    | \#[^\n]*
    | "(?P<text>(?:[^"\\]|\\.)*)"
    | \$(?P<variable>\w+|\{\w+\})
    | (?P<duration>\[[^\]]*\] | \b\d+(?:ms|[smhdwy])\b)
    | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)? )
    | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<mark>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])
    """,
    re.VERBOSE,
)
_GROUPING = ("by", "without", "on", "ignoring", "group_left", "group_right")
_WORDS = ("and", "or", "unless", "bool", "offset", "inf", "nan")
# fmt: off
FUNCTIONS = (
    "absent", "abs", "avg", "avg_over_time", "count", "histogram_quantile", "increase", "max", "min", "rate",
    "round", "sum",
)
# fmt: on
"""Those that our expressions may use; another one is a spelling mistake until it is added here."""


@dataclass
class Selector:
    """A metric with its matchers: label, operator, value."""

    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Query:
    """What one expression names."""

    selectors: list[Selector] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    """Those that it groups by or matches on."""


def tokens(expression: str) -> list[tuple[str, str]]:
    """The expression's tokens: kind and text, without white space and durations. ValueError for others."""
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"no PromQL: {expression[at:]!r}")
        at = match.end()
        if match.lastgroup in ("text", "name", "mark"):
            found.append((match.lastgroup, match[match.lastgroup]))
    return found


def parse(expression: str) -> Query:
    """Everything that the expression names. ValueError where it is unlike PromQL."""
    query = Query()
    left = tokens(expression)
    while left:
        kind, text = left.pop(0)
        following = left[0][1] if left and left[0][0] == "mark" else ""
        if kind == "mark" and text == "{":
            raise ValueError("a selector without a metric")
        if kind != "name" or text.lower() in _WORDS:
            continue
        if text in _GROUPING:
            if following == "(":
                query.labels.update(_names(left))
        elif following == "(" or (left and left[0][1] in ("by", "without")):
            if text not in FUNCTIONS:
                raise ValueError(f"no function that is known: {text}")
        else:
            query.selectors.append(Selector(text, _matchers(left) if following == "{" else []))
    return query


def _names(left: list[tuple[str, str]]) -> list[str]:
    inside = _until(left, ")")
    return [text for kind, text in inside if kind == "name"]


def _matchers(left: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    inside = [each for each in _until(left, "}") if each != ("mark", ",")]
    if len(inside) % 3:
        raise ValueError(f"no matchers: {inside}")
    return [(inside[at][1], inside[at + 1][1], inside[at + 2][1]) for at in range(0, len(inside), 3)]


def _until(left: list[tuple[str, str]], end: str) -> list[tuple[str, str]]:
    at = left.index(("mark", end))
    inside = left[1:at]
    del left[: at + 1]
    return inside
