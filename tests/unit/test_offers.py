"""proxy/offers.py: what of lists may be offered, and what it costs to know."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from goproxy_vm.config import Settings
from goproxy_vm.protocol.content import render_list
from goproxy_vm.protocol.policy import GateRule, Rule
from goproxy_vm.proxy.agelimit import AgeLimit
from goproxy_vm.proxy.gate import Gate, Refusal
from goproxy_vm.proxy.offers import KEPT, Offers

M = "github.com/x/y"
VERSIONS = [f"v1.{n}.0" for n in range(500)]


class Counting(Gate):
    """Counts what it is asked."""

    asked = 0

    def refusal(self, module: str, version: str = "", *, code: bool = True) -> Refusal | None:
        self.asked += 1
        return super().refusal(module, version, code=code)


class Listed:
    """Documents that know one list, of every module."""

    async def known(self, _: str) -> bytes:
        return render_list(VERSIONS)


def made(*rules: str) -> tuple[Counting, Offers]:
    gate = Counting(Settings(cache_dir=Path("/nowhere")))
    gate.rule([GateRule("block", Rule.parse(each), n) for n, each in enumerate(rules, 1)])
    return gate, Offers(gate, AgeLimit(gate), cast("Any", Listed()), cast("Any", None))


async def test_what_passes_is_remembered_until_the_rules_change() -> None:
    """Whoever asks for what is refused again and again has the list looked through once."""
    gate, offers = made(f"{M}@>=v1.400.0")
    for _ in range(3):
        assert await offers.newest(M) == "v1.399.0"
    assert gate.asked == len(VERSIONS)
    gate.rule([])
    assert await offers.newest(M) == "v1.499.0"
    assert gate.asked == 2 * len(VERSIONS)
    for n in range(KEPT):
        await offers.newest(f"{M}{n}")
    assert len(offers._offers) == KEPT


async def test_rules_that_change_while_a_list_is_looked_through() -> None:
    """All of it is held against the later ones."""
    gate, offers = made(f"{M}@>=v1.400.0")
    asked = asyncio.create_task(offers.newest(M))
    while not gate.asked:
        await asyncio.sleep(0)
    assert gate.asked < len(VERSIONS), "it is not done in one go"
    gate.rule([GateRule("block", Rule.parse(f"{M}@<v1.499.0"), 2)])
    assert await asked == "v1.499.0"
