"""Each error that docs/troubleshooting.md quotes is one that the code can say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"goproxy-vm: (.*?)(?: \[request \w+\])?$", PAGE, re.MULTILINE)
FIXED = 12
"""Characters of a sentence that must be fixed in the code, for it to say something about this quotation."""


def sentences() -> list[re.Pattern[str]]:
    """Every text of the package that may be a sentence; what is put into it may be anything."""
    found = []
    for file in (ROOT / "goproxy_vm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(each.value) if isinstance(each, ast.Constant) else None for each in node.values]
            elif isinstance(node, ast.Constant):
                value = node.value.decode("utf-8", "replace") if isinstance(node.value, bytes) else node.value
                parts = [str(value).removeprefix("goproxy-vm: ").strip()]
            else:
                continue
            if sum(len(each or "") for each in parts) >= FIXED:
                found.append(
                    re.compile("".join(".+?" if each is None else re.escape(each) for each in parts))
                )
    return found


SENTENCES = sentences()
BEFORE = re.compile(
    r"(\S+@\S+ (info|mod|zip): )?"  # what was asked for
    r"([\w.]+(:\d+)?: )*"  # the upstream, the part of it, or a setting
)
THEIRS = (
    "404 Not Found: not found: no such module",
    "401 Unauthorized: log in first",
    "503 Service Unavailable",
)
"""Quotations of an upstream."""


def test_there_are_quotations() -> None:
    assert len(QUOTED) > 20


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_code_says_it(quoted: str) -> None:
    rest = quoted[BEFORE.match(quoted).end() :]  # type: ignore[union-attr]
    if rest not in THEIRS:
        assert any(each.fullmatch(rest) or each.fullmatch(quoted) for each in SENTENCES), rest


def test_other_texts_are_not_taken_for_ours() -> None:
    for text in ("the proxy is on holiday today", "not fetched within 5 min (setting total_timeout)"):
        assert not any(each.fullmatch(text) for each in SENTENCES)
