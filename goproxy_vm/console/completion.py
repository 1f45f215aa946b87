"""Shell completion, made from the parser of the command line by shtab."""

from __future__ import annotations

import argparse

import shtab


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script for a shell that shtab knows: commands, flags, choices, files and directories."""
    _mark_paths(parser)
    made: str = shtab.complete(parser, shell)
    return made


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    """Say where paths go: argparse does not know."""
    kinds = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
    for action in parser._actions:  # noqa: SLF001 (argparse has no public list of them)
        if isinstance(action.metavar, str) and action.metavar in kinds:
            vars(action)["complete"] = kinds[action.metavar]
        elif isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (nor a public name of this)
            for each in action.choices.values():
                _mark_paths(each)
