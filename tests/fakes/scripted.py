"""A server of which a test says how it answers: the rules, the newest first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Gate:
    """Holds requests back until it is opened."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        self.opened.set()


@dataclass
class Rule(Generic[T]):
    """What is answered to requests that match; or the gate that they pass first."""

    glob: str
    answer: T | None
    left: int | None
    gate: Gate | None = None


class Scripted(Generic[T]):
    """What such servers share; an answer is a ``T``."""

    def __init__(self) -> None:
        self.rules: list[Rule[T]] = []

    def on(self, glob: str, answer: T, *, times: int | None = None) -> None:
        """Have matching requests answered so, for good or ``times`` times; the latest rule wins."""
        self.rules.insert(0, Rule(glob, answer, times))

    def hold(self, glob: str) -> Gate:
        """Hold answers to matching requests until the gate is opened."""
        gate = Gate()
        self.rules.insert(0, Rule(glob, None, None, gate))
        return gate

    def forget_rules(self) -> None:
        """Be an honest server again."""
        self.rules.clear()

    async def ruled(self, key: str) -> T | None:
        """What the rules say of a request, once its gates are open; None: nothing."""
        for rule in self.rules:
            if not fnmatchcase(key, rule.glob) or rule.left == 0:
                continue
            if rule.gate is not None:
                rule.gate.arrived.set()
                await rule.gate.opened.wait()
                continue
            if rule.left is not None:
                rule.left -= 1
            assert rule.answer is not None
            return rule.answer
        return None
