"""SECURITY.md: each bound that it names is the code's and held by a test, each attack has its row."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from goproxy_vm.config import keys

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
HOSTILE = ROOT / "tests" / "hostile"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "h": 3600, "d": 86400}
NUMBER = re.compile(r"(?<![\w/.-])\d[\d,.]*(?![\w-])")


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


BOUNDS = rows("Bounds")
ATTACKS = rows("Attacks")


def amount(text: str) -> float:
    """Bytes, seconds, permissions or a plain number."""
    number, _, unit = text.partition(" ")
    return int(number, 8) if number[0] == "0" else float(number.replace(",", "")) * UNITS.get(unit, 1)


def functions(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_there_are_tables() -> None:
    assert len(BOUNDS) > 20
    assert len(ATTACKS) > 10


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: row[0])
def test_a_bound_is_the_codes_and_held_by_a_test(row: list[str]) -> None:
    what, value, where, held = row
    assert what
    if where.startswith("setting "):
        assert where.removeprefix("setting ").strip("`") in keys()
    else:
        named, _, parameter = where.strip("`)").partition("(")
        module, _, name = named.rpartition(".")
        found = getattr(importlib.import_module(f"goproxy_vm.{module}"), name)
        if parameter:
            found = inspect.signature(found).parameters[parameter].default
        assert found == amount(value)
    for each in held.split(", "):
        file, _, test = each.strip("`").partition("::")
        assert test in [node.name for node in functions(ROOT / "tests" / file)]


def test_every_figure_is_a_bound() -> None:
    """Of what stands against an attack: each number and each setting has its row."""
    claims = " ".join(re.sub(r"\(\S*\)", "", row[2]) for row in rows("What it defends, and against whom"))
    text = " ".join(f"{what} {value} {where}" for what, value, where, _ in BOUNDS)
    assert set(NUMBER.findall(claims)) <= set(NUMBER.findall(text))
    settings = {name for name in re.findall(r"`(\w+)`", claims) if name in keys()}
    assert settings <= set(re.findall(r"`(\w+)`", text))


def measured() -> set[tuple[str, str]]:
    """The name of each attack that is measured, and its test."""
    found = set()
    for file in HOSTILE.glob("test_*.py"):
        for test in functions(file):
            for call in ast.walk(test):
                if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "measured":
                    name = call.args[1]
                    assert isinstance(name, ast.Constant), "the name is for SECURITY.md"
                    found.add((str(name.value), f"`{file.name}::{test.name}`"))
    return found


def test_every_attack_has_its_row() -> None:
    assert {(row[0], row[-1]) for row in ATTACKS} == measured()
