"""What was meant by arguments that are not understood: a misspelt flag, one left out, one in front."""

from __future__ import annotations

import argparse
import difflib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.config import values
from goproxy_vm.config.text import printable, redacted
from goproxy_vm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def _said(*beginnings: str) -> Callable[[str], bool]:
    return lambda text: text.startswith(beginnings)


def _file(text: str) -> bool:
    return text.endswith(".toml") or Path(text).is_file()


SIZE = values.size(0, (1 << 63) - 1, "8EiB")
_FORMS: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("--limit", values.count(1, 1_000_000).parse),
    ("--target", SIZE.parse),
    ("--rate", values.SCRUB_RATE.parse),
    ("--idle-for", values.duration(positive=True).parse),
    ("--larger-than", SIZE.parse),
    ("--admin-url", _said("http://", "https://", "unix:")),
    ("--config", _file),
    ("--cache-dir", _said("/", "./", "~/")),
    ("--upstream", _said("http://", "https://", "file:")),
    ("--listen", values.ADDRESS.parse),
)
"""Flags that people leave out in front of what has only one meaning, and what is told from its form."""


def left_out(parser: argparse.ArgumentParser, text: str) -> str:
    """``; did you mean --target 1GB?`` of a value that ``parser`` takes behind a flag; "" if none fits."""
    for flag, fits in _FORMS:
        if flag in _flags(parser):
            try:
                if fits(text):
                    return f"; did you mean {flag} {printable(text)}?"
            except (ValueError, OverflowError, OSError):  # a path that is too long, or not for us
                continue
    return ""


def near(parser: argparse.ArgumentParser, given: str, known: Iterable[str]) -> str:
    """``; did you mean --limit?`` of what is nearly one of those ``known``, else where they are listed."""
    close = difflib.get_close_matches(given.replace("_", "-"), known, n=1)
    return f"; did you mean {close[0]}?" if close else f" (see {parser.prog} --help)"


def check_order(parser: argparse.ArgumentParser, given: Sequence[str]) -> None:
    """ConfigError for a command's flag in front of it, with the line as it should be.

    ``parser`` itself would not know whether a value belongs to the flag, and take it for the command.
    """
    known = {flag: action for each in _parsers(parser) for flag, action in _flags(each).items()}
    known |= _flags(parser)
    rest, moved, early = list(given), list[str](), list[str]()
    while rest and rest[0].startswith("-") and rest[0] != "--":
        moved.append(rest.pop(0))
        flag, equals, _ = moved[-1].partition("=")
        if flag not in known:
            raise ConfigError(f"{printable(flag)}: no such flag or argument{near(parser, flag, known)}")
        if known[flag].nargs != 0 and not equals:
            moved.append(rest.pop(0) if rest else str(known[flag].metavar))
        early += [flag] if flag not in _flags(parser) else []
    if not early:
        return
    command, words = parser, list[str]()
    while rest and rest[0] in _subcommands(command):
        command = _subcommands(command)[rest[0]]
        words.append(rest.pop(0))
    if not words:
        words = [rest.pop(0) if rest else "COMMAND"]
    elif not _subcommands(command):
        for flag in early:
            if flag not in _flags(command):
                raise ConfigError(f"{flag}: no such flag of this command (see {command.prog} --help)")
    # Not the passwords of URLs: what is said may go to a log.
    line = shlex.join(
        redacted(word) if "://" in word else word for word in [parser.prog, *words, *moved, *rest]
    )
    raise ConfigError(f"{early[0]} comes after the command: {printable(line)}")


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return parser._option_string_actions  # noqa: SLF001 (argparse tells it nobody)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001 (as above)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Those of all commands below this one."""
    for each in _subcommands(parser).values():
        yield each
        yield from _parsers(each)
