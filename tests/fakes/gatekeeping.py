"""The gate behind the admin API, its rules in memory alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from goproxy_vm.admin.gatekeeping import Gatekeeping
from goproxy_vm.admin.routes import routes
from goproxy_vm.config import Settings
from goproxy_vm.config.values import RULES
from goproxy_vm.errors import Absent
from goproxy_vm.protocol.policy import GateRule, Rule
from goproxy_vm.proxy.ages import Age
from goproxy_vm.proxy.gate import Gate, Refusal
from goproxy_vm.proxy.needs import Need
from goproxy_vm.proxy.rulebook import Full

DENIED = "example.com/denied@v9.*"
"""A rule of the settings."""


class FakeRulebook:
    """As the real one; ``most`` rules may be in force."""

    def __init__(self, changed: Callable[[list[GateRule]], None], most: int = 50) -> None:
        self._changed = changed
        self._most = most
        self._rulings: dict[int, GateRule] = {}

    def all(self) -> list[GateRule]:
        return list(reversed(self._rulings.values()))

    def in_force(self) -> list[GateRule]:
        return [each for each in self._rulings.values() if each.ended is None]

    def find(self, number: int) -> GateRule | None:
        return self._rulings.get(number)

    async def give(
        self, kind: str, rule: Rule, *, reason: str, by: str, until: float | None
    ) -> tuple[GateRule, bool]:
        for each in self.in_force():
            if (each.kind, each.rule, each.reason) == (kind, rule, reason):
                return each, False
        if len(self.in_force()) >= self._most:
            raise Full
        ruling = GateRule(kind, rule, len(self._rulings) + 1, reason, by, 1_750_000_000.0, until)
        self._rulings[ruling.number] = ruling
        self._changed(self.in_force())
        return ruling, True

    async def end(self, number: int) -> GateRule | None:
        ruling = self._rulings.get(number)
        if ruling is None or ruling.ended is not None:
            return None
        self._rulings[number] = ended = replace(ruling, ended=1_750_000_100.0)
        self._changed(self.in_force())
        return ended


class FakeProxy:
    """Knows one newest version, and that one is young."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def check(self, module: str, version: str) -> tuple[Refusal | None, Age | None]:
        age = Age(False, "log", 3600.0, 7, 1_750_000_000.0, 1_750_600_000.0) if version == "v1.1.0" else None
        return self._gate.refusal(module, version), age

    async def needs(self, module: str, version: str) -> tuple[list[Need], bool]:
        if module != "example.com/a":
            raise Absent("not there")
        return [Need("example.com/b", version, Refusal("age", "too young", whole=False))], True

    async def newest_allowed(self, module: str) -> str | None:
        return "v1.1.0" if module == "example.com/a" else None


def every_route(operations: Any, most: int = 50) -> Any:
    """All routes of the admin API, over fakes."""
    gate = Gate(Settings(cache_dir=Path("/nowhere"), deny=RULES.parse(DENIED)))
    book = FakeRulebook(gate.rule, most)
    return routes(
        operations, Gatekeeping(gate, cast("Any", book), cast("Any", FakeProxy(gate)), operations), None
    )
