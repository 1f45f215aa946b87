"""docs/logs.md has each event of the package with its logger, levels and fields, and no other."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from goproxy_vm.observe.logs import PRIORITIES, render_json, render_text

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception"}
OWN = (("log lines dropped", ("lines", "in_all")), ("lines left out", ("client", "left_out", "lines")))
"""The log's lines about itself, which no logger writes."""


@dataclass
class Event:
    """What the package logs under one phrase: all its places together."""

    loggers: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def in_the_package() -> dict[str, Event]:
    found: dict[str, Event] = {}
    for file in sorted((ROOT / "goproxy_vm").rglob("*.py")):
        for name, logger, level, fields in logged(ast.parse(file.read_text())):
            event = found.setdefault(name, Event())
            event.loggers.add(logger)
            event.levels.add("error" if level == "exception" else level)
            event.fields |= set(fields)
    for name, own in OWN:
        found[name] = Event({"logs"}, {"warning"}, set(own))
    return found


def logged(tree: ast.Module) -> Iterator[tuple[str, str, str, list[str]]]:
    """Event, logger, level and fields of each call of the module's ``log``."""
    named = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    if "log" not in named:
        return
    (logger,) = texts(named["log"].args, named)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        levels = [each.attr for each in choices(call.func, named) if is_level(each)]
        for level in levels:
            fields = [key for each in call.keywords for key in keys(each, named)]
            yield from ((event, logger, level, fields) for event in texts(call.args, named))


def choices(node: ast.expr, named: dict[str, ast.expr]) -> list[ast.expr]:
    """What an expression may be: both of ``a if … else b``, also behind a name."""
    if isinstance(node, ast.Name) and isinstance(named.get(node.id), ast.IfExp):
        node = named[node.id]
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def is_level(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "log"
        and node.attr in LEVELS
    )


def texts(arguments: list[ast.expr], named: dict[str, ast.expr]) -> list[str]:
    """The one argument, which must be text known here: an event is a fixed phrase."""
    (argument,) = arguments
    return [ast.literal_eval(each) for each in choices(argument, named)]


def keys(keyword: ast.keyword, named: dict[str, ast.expr]) -> list[str]:
    """The name of a field, or those of ``**fields``."""
    if keyword.arg is not None:
        return [keyword.arg]
    return [
        ast.literal_eval(key) for each in choices(keyword.value, named) for key in getattr(each, "keys", [])
    ]


def in_the_docs() -> dict[str, Event]:
    section = (ROOT / "docs" / "logs.md").read_text().partition("\n## Events\n")[2]
    found: dict[str, Event] = {}
    for line in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        name, logger, levels, fields, meaning = (cell.strip() for cell in f"{line} ".split("|"))
        assert name.strip("`") not in found, f"{name} is there twice"
        assert meaning
        found[name.strip("`")] = Event(
            {logger.strip("`")}, set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields))
        )
    return found


def test_every_event_is_in_the_docs() -> None:
    package, docs = in_the_package(), in_the_docs()
    assert sorted(package) == sorted(docs)
    for name, event in package.items():
        assert event == docs[name], name


def test_the_examples_are_one_line_in_both_formats() -> None:
    page = (ROOT / "docs" / "logs.md").read_text()
    (as_text,) = re.findall(r"^```text\n(.*)\n```$", page, re.MULTILINE)
    (as_json,) = re.findall(r"^```json\n(.*)\n```$", page, re.MULTILINE)
    assert render_text(json.loads(as_json)) == as_text
    assert render_json(json.loads(as_json)) == as_json


def test_the_priorities_are_in_the_docs() -> None:
    page = (ROOT / "docs" / "logs.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d) \|$", page, re.MULTILINE)
    assert {level: int(priority) for level, priority in rows} == PRIORITIES
