"""docs/architecture.md says what the tree is, and the tree is as it should be."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "goproxy_vm"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
LONGEST = 400
"""Lines of a module at most."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def layers() -> list[list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = project["tool"]["importlinter"]["contracts"]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def imported(path: Path) -> set[str]:
    """Modules of ours that a module imports, those for its types alone included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & MODULES.keys()


@cache
def classes() -> dict[str, ast.ClassDef]:
    trees = [ast.parse(path.read_text()) for path in MODULES.values()]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: node for node in nodes}


def test_the_floors_are_those_of_the_import_contract() -> None:
    table = PAGE[PAGE.index("| floor |") : PAGE.index("The cache has two wings")]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in rows] == [sorted(layer) for layer in layers()]


def test_every_package_and_module_at_the_top_is_a_floor() -> None:
    top = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    named = {name for layer in layers() for name in layer}
    assert named <= top
    assert {name for name in top if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()} == (
        named | {"__init__"}
    )


def test_every_wing_is_named() -> None:
    wings = [path for path in PACKAGE.glob("*/*") if (path / "__init__.py").exists()]
    assert wings
    for wing in wings:
        assert f"`{wing.relative_to(PACKAGE)}`" in PAGE


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+\.)+\w+)`", PAGE))))
def test_what_is_named_is_there(name: str) -> None:
    """Each name with a dot is that of a module, or of something in one, a class's attribute perhaps."""
    parts = name.split(".")
    whole = f"goproxy_vm.{name}"
    if whole in MODULES:
        return
    if parts[0] in classes():
        assert re.search(rf"\b{parts[1]}\b", ast.unparse(classes()[parts[0]])), name
        return
    if name in ("index.db", "ledger.db") or parts[0] == "admission":
        return
    for size in range(len(parts) - 1, 0, -1):
        module = ".".join(["goproxy_vm", *parts[:size]])
        if module in MODULES:
            found = importlib.import_module(module)
            for part in parts[size:]:
                found = getattr(found, part)
            return
    pytest.fail(f"nothing is called {name}")


def test_the_threads_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("| threads |") : PAGE.index("A hit waits for")]
    named = re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    code = "\n".join(path.read_text() for path in MODULES.values())
    assert len(named) == 16
    for name in named:
        assert f'"{name}"' in code, name


def test_no_module_is_part_of_a_circle() -> None:
    graph = {name: imported(path) - {name} for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_name_has_one_meaning() -> None:
    trees = [ast.parse(path.read_text()) for path in MODULES.values()]
    named = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in named.items() if count > 1] == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_can_be_read_in_one_go(name: str) -> None:
    assert MODULES[name].read_text().count("\n") <= LONGEST
