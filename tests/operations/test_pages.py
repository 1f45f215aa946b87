"""The pages for operators: commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from goproxy_vm import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["install.md", "kubernetes.md"])
def test_commands_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    commands = re.findall(
        r"(?:^# |sudo |goproxy-vm |-- )goproxy-vm ((?!-|status --)[a-z]+ ?[-a-z/ ]*)", text, re.MULTILINE
    )
    assert commands
    for command in commands:
        assert cli.command_line().parse_args(command.split()).asked


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_commands_have_their_names(page: Path) -> None:
    (commands,) = (each.choices for each in cli.command_line()._actions if isinstance(each.choices, dict))
    assert set(re.findall(r"(?:`|\$ |# |sudo )goproxy-vm ([a-z]+)", page.read_text())) <= set(commands)
