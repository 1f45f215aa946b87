"""The rules that operators give while the server runs, kept in ``gate.json`` in the cache directory.

Not in the index, which recovery may build anew: a block must not vanish with it. What was answered is on
disk; a file that cannot be read ends the start, for no rules are not what was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from goproxy_vm.cache import tree
from goproxy_vm.errors import StartError, Unavailable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.policy import GateRule, Rule
from goproxy_vm.waiting import to_the_end

NAME = "gate.json"
FORMAT = 1
MOST = 1000
"""Rules that are in force at a time, and ended ones that are kept."""
KEPT = 90 * 86400.0
"""Seconds for which ended ones are listed."""
LONGEST = 16 << 20
"""Bytes of the file: of the longest rules and reasons, as many as may be."""
LONGEST_REASON = 200
"""Characters of a reason, and of the name of whoever gave it."""
KINDS = ("block", "exempt")
LATEST = 253402300800.0
"""Epoch seconds that no time reaches: the year 10000."""
NAP = 60.0
"""Seconds at most until the clock is looked at again: it may be set."""

log = get_logger("gate")


class Full(Exception):
    """As many rules as may are in force."""


class Rulebook:
    """Rules by their number; :meth:`load` them first. ``changed`` is told of those in force before
    :meth:`give` and :meth:`end` return; ``wall`` in epoch seconds."""

    def __init__(
        self,
        root: Path,
        changed: Callable[[list[GateRule]], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._changed = changed
        self._wall = wall
        self._rules: dict[int, GateRule] = {}
        self._next = 1
        self._writing = asyncio.Lock()
        self._given = asyncio.Event()

    def load(self) -> None:
        """Read the file, and have what it says in force (blocking). StartError."""
        file = self._root / NAME
        try:
            data = tree.read(file, self._root, LONGEST + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StartError(f"{file}: the gate's rules cannot be read: {error.strerror}") from None
        try:
            self._next, self._rules = _parsed(data)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise StartError(
                f"{file}: this is no file of the gate's rules ({error}); put a backup of it in its place, or "
                "move it away to start without any rule that was given by block or exempt"
            ) from None
        self._expire()
        self._changed(self.in_force())

    def all(self) -> list[GateRule]:
        """All that are known, the newest first."""
        return sorted(self._rules.values(), key=lambda each: -each.number)

    def in_force(self) -> list[GateRule]:
        """Those that count now."""
        return [each for each in self._rules.values() if each.ended is None]

    def find(self, number: int) -> GateRule | None:
        """The one of a number."""
        return self._rules.get(number)

    async def give(
        self, kind: str, rule: Rule, *, reason: str, by: str, until: float | None
    ) -> tuple[GateRule, bool]:
        """Put a rule into force, for the next request and after every restart; whether it is new: the same
        one again changes nothing. Full; Unavailable: it could not be written, and is not in force."""
        async with self._writing:
            for each in self.in_force():
                same = (each.kind, each.rule, each.until) == (kind, rule, until)
                if same and each.reason == reason:
                    return each, False
            if len(self.in_force()) >= MOST:
                raise Full
            given = GateRule(kind, rule, self._next, reason, by, self._wall(), until)
            await to_the_end(self._write({**self._rules, given.number: given}, self._next + 1))
            return given, True

    async def end(self, number: int) -> GateRule | None:
        """Take one back; None where none of that number is in force. Unavailable, as :meth:`give`."""
        async with self._writing:
            rule = self._rules.get(number)
            if rule is None or rule.ended is not None:
                return None
            ended = replace(rule, ended=self._wall())
            await to_the_end(self._write({**self._rules, number: ended}, self._next))
            return ended

    async def run(self) -> None:
        """End those whose time has come, until cancelled."""
        while True:
            self._given.clear()
            now = self._wall()
            left = min((each.until - now for each in self.in_force() if each.until is not None), default=NAP)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, NAP))):
                    await self._given.wait()
            if self._expire():
                self._changed(self.in_force())

    async def _write(self, rules: dict[int, GateRule], following: int) -> None:
        kept = _kept(rules, self._wall())
        data = json.dumps({"format": FORMAT, "next": following, "rules": [*map(_members, kept.values())]})
        try:
            await asyncio.to_thread(
                tree.write, f"{data}\n".encode(), self._root / NAME, self._root, self._root / "tmp"
            )
        except OSError as error:
            raise Unavailable(
                f"{self._root / NAME} cannot be written, and nothing was changed: {error.strerror}"
            ) from error
        self._rules, self._next = kept, following
        self._given.set()
        self._changed(self.in_force())

    def _expire(self) -> bool:
        """Whether the time of any has come, or is to come again, for the clock was ahead: a block must not be
        over for that. The file need not say so: it says until when."""
        now = self._wall()
        again = [
            each
            for each in self._rules.values()
            if each.ended is not None and each.ended == each.until and now < each.ended
        ]
        for each in again:
            self._rules[each.number] = replace(each, ended=None)
            log.warning("rule in force again", rule=each.rule.text, number=each.number, kind=each.kind)
        due = [each for each in self.in_force() if each.until is not None and each.until <= now]
        for each in due:
            self._rules[each.number] = replace(each, ended=each.until)
            log.info("rule expired", rule=each.rule.text, number=each.number, kind=each.kind)
        return bool(due or again)


def _kept(rules: dict[int, GateRule], now: float) -> dict[int, GateRule]:
    """Without those that ended long ago, and the oldest of too many that have ended."""
    ended = [each for each in rules.values() if each.ended is not None]
    ended.sort(key=lambda each: each.number)
    gone = {each.number for each in ended[: max(0, len(ended) - MOST)]}
    gone |= {each.number for each in ended if each.ended is not None and each.ended < now - KEPT}
    return {number: each for number, each in rules.items() if number not in gone}


def _members(rule: GateRule) -> dict[str, Any]:
    return {
        "number": rule.number,
        "kind": rule.kind,
        "rule": rule.rule.text,
        "whole": rule.rule.whole,
        "reason": rule.reason,
        "by": rule.by,
        "at": rule.at,
        "until": rule.until,
        "ended": rule.ended,
    }


def _parsed(data: bytes) -> tuple[int, dict[int, GateRule]]:
    """What the file says. ValueError and its kin: it is none of ours."""
    if len(data) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} bytes")
    found = json.loads(data.decode())
    if found["format"] != FORMAT:
        raise ValueError(f"its format is {found['format']!r}, and this version knows {FORMAT}")
    rules = {}
    for each in found["rules"]:
        rule = GateRule(
            kind=_one_of(each["kind"]),
            rule=Rule.parse(each["rule"], whole=_flag(each["whole"])),
            number=_number(each["number"]),
            reason=_words(each["reason"]),
            by=_words(each["by"]),
            at=_moment(each["at"]),
            until=None if each["until"] is None else _moment(each["until"]),
            ended=None if each["ended"] is None else _moment(each["ended"]),
        )
        rules[rule.number] = rule
    following = _number(found["next"])
    if len(rules) != len(found["rules"]) or following <= max(rules, default=0):
        raise ValueError("its numbers are not in order")
    return following, rules


def _one_of(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"it has a rule of the kind {kind!r}")
    return kind


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"whole is {value!r:.50}")  # noqa: TRY004 (what is wrong with a file, not a bug)
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"a number is {value!r:.50}")
    return value


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        raise ValueError(f"a time is {value!r:.50}")
    return float(value)


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_REASON:
        raise ValueError(f"a text is {value!r:.50}")
    return value
