"""The pages for operators: links lead somewhere, commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from goproxy_vm import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from titles."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ["install.md", "kubernetes.md"])
def test_commands_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    commands = re.findall(
        r"(?:^# |sudo |goproxy-vm |-- )goproxy-vm ((?!-|status --)[a-z]+ ?[-a-z/ ]*)", text, re.MULTILINE
    )
    assert commands
    for command in commands:
        assert cli._parser().parse_args(command.split()).asked
