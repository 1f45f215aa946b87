"""What operators ask of the gate: rules given and taken back, and what passes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.cache.facts import Listing, Selection
from goproxy_vm.errors import Unavailable
from goproxy_vm.ledger.facts import Sought

if TYPE_CHECKING:
    from goproxy_vm.admin.operations import Operations
    from goproxy_vm.protocol.policy import GateRule, Rule
    from goproxy_vm.proxy.ages import Age
    from goproxy_vm.proxy.gate import Gate, Refusal
    from goproxy_vm.proxy.needs import Need
    from goproxy_vm.proxy.proxy import Proxy
    from goproxy_vm.proxy.rulebook import Rulebook

LISTED = 10_000
"""Fetches that are looked at for the clients that a rule is about."""
PAGE = 1000
"""Stored versions that are looked at, and removed, at a time."""

_LITERAL = re.compile(r"[^*?\[\\]*")


@dataclass(frozen=True, slots=True)
class Stored:
    """How much of what a rule means is stored."""

    versions: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Passing:
    """Whether something passes: why not (None: it does), and the newest version that would."""

    refusal: Refusal | None
    newest: str | None
    age: Age | None = None
    """How old the version is, where that counts."""


class Gatekeeping:
    """The admin API's side of the gate."""

    def __init__(self, gate: Gate, rulebook: Rulebook, proxy: Proxy, operations: Operations) -> None:
        self._gate = gate
        self._rulebook = rulebook
        self._proxy = proxy
        self._operations = operations

    def rules(self, *, ended: bool) -> list[GateRule]:
        """The rules, the newest first, then those of the setting deny; with ``ended`` also former ones."""
        given = [each for each in self._rulebook.all() if ended or each.ended is None]
        return [*given, *self._gate.denied]

    def rule(self, number: int) -> GateRule | None:
        """The one of a number, None where there never was, or is no more."""
        return self._rulebook.find(number)

    async def give(
        self, kind: str, rule: Rule, *, reason: str, by: str, until: float | None
    ) -> tuple[GateRule, bool]:
        """Put a rule into force; whether it is new. Full; Unavailable: it could not be written."""
        return await self._rulebook.give(kind, rule, reason=reason, by=by, until=until)

    async def end(self, number: int) -> GateRule | None:
        """Take one back; None where none of that number is in force. Unavailable."""
        return await self._rulebook.end(number)

    async def stored(self, rule: Rule) -> Stored:
        """How much is stored of what a rule means. Unavailable: the index cannot be read."""
        versions = size = 0
        async for found in self._stored(rule):
            versions += len(found)
            size += sum(bytes_ for _, bytes_ in found)
        return Stored(versions, size)

    async def purge(self, rule: Rule) -> Stored:
        """Remove what is stored of what a rule means; the hashes seen first stay. Unavailable."""
        self._operations.keep_out(rule.covers)  # what is being fetched: it is not stored yet
        # Of all first: to remove while going from page to page might pass some over.
        names = [name async for found in self._stored(rule) for name, _ in found]
        versions = size = 0
        for at in range(0, len(names), PAGE):
            selection = Selection(match=tuple(names[at : at + PAGE]))
            removal = await self._operations.purge(selection, forget_hash=False, dry_run=False)
            versions, size = versions + removal.versions, size + removal.bytes
        return Stored(versions, size)

    async def _stored(self, rule: Rule) -> AsyncIterator[list[tuple[str, int]]]:
        """Names and sizes of the stored versions that a rule means, some at a time."""
        literal = _LITERAL.match(rule.pattern)
        asked: str | None = None
        while True:
            page = await self._operations.versions(
                Listing(prefix=literal[0] if literal else "", limit=PAGE, cursor=asked)
            )
            yield [
                (f"{each.module}@{each.version}", each.bytes)
                for each in page.items
                if rule.covers(each.module, each.version)
            ]
            asked = page.next_cursor
            if asked is None:
                return

    async def needs(self, module: str, version: str) -> tuple[list[Need], bool]:
        """What a version requires that is too young, and whether there may be more. GoproxyError: its go.mod
        cannot be had, or an age cannot be told."""
        return await self._proxy.needs(module, version)

    async def clients(self, rule: Rule) -> int | None:
        """How many different clients are known to have been sent what a rule means: of one module, among the
        ``LISTED`` that asked last; None of others, and where the ledger is off or cannot be read."""
        if not rule.exact:
            return None
        found: set[str] = set()
        cursor: str | None = None
        for _ in range(LISTED // PAGE):
            try:
                page = await self._operations.fetches(
                    Sought(rule.pattern, rule.versions, limit=PAGE, cursor=cursor)
                )
            except Unavailable:
                return None
            if page.ledger == "off":
                return None
            found.update(each.client for each in page.items if each.count)
            cursor = page.next_cursor
            if cursor is None:
                break
        return len(found)

    async def check(self, module: str, version: str) -> Passing:
        """Whether a version, or "" for a module, passes for everyone who may ask for it.

        NoRecord, Unproven, Unavailable: its age cannot be told now.
        """
        refusal, age = await self._proxy.check(module, version)
        return Passing(refusal, await self._proxy.newest_allowed(module), age)
