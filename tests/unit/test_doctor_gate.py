"""doctor/gate.py: the rules that a server would start with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.values import RULES
from goproxy_vm.doctor.gate import check_gate
from goproxy_vm.protocol.policy import Rule
from goproxy_vm.proxy.rulebook import NAME, Rulebook


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    return tmp_path


def given(cache: Path, *rules: str) -> None:
    book = Rulebook(cache, lambda _: None)
    for rule in rules:
        asyncio.run(book.give("block", Rule.parse(rule), reason="r", by="b", until=None))


def test_none(cache: Path) -> None:
    assert check_gate(Settings(cache_dir=cache)) == check_gate(Settings(cache_dir=cache / "not-there"))
    assert check_gate(Settings(cache_dir=cache)).found == "no rules"


def test_rules_are_counted(cache: Path) -> None:
    given(cache, "a.b/c@v1.0.0", "x.y/*", "a.b/D@v1.0.0")
    (cache / "modules" / "a.b" / "!d").mkdir(parents=True)
    denied = RULES.parse(",".join(f"a.b/m{number}@v1.0.0" for number in range(3)))
    settings = Settings(cache_dir=cache, deny=denied, allow=RULES.parse("a.b,x.y,golang.org/toolchain"))
    finding = check_gate(settings)
    assert finding.status == "ok"
    assert finding.found == (
        "3 block, 3 deny, 3 allow; of nothing that is stored: "
        "a.b/c@v1.0.0, a.b/m0@v1.0.0, a.b/m1@v1.0.0 and 1 more"
    )


def test_no_toolchain(cache: Path) -> None:
    finding = check_gate(Settings(cache_dir=cache, allow=RULES.parse("a.b")))
    assert (finding.status, "allow does not name golang.org/toolchain" in finding.found) == ("warning", True)
    denied = Settings(cache_dir=cache, allow=RULES.parse("a.b"), deny=RULES.parse("golang.org/toolchain"))
    assert check_gate(denied).status == "ok", "that is what was meant"


def test_a_damaged_file(cache: Path) -> None:
    (cache / NAME).write_text("{")
    finding = check_gate(Settings(cache_dir=cache))
    assert finding.status == "failed"
    assert "this is no file of the gate's rules" in finding.found
