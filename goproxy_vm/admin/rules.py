"""The routes of the gate's rules: validated values in, an operation, its facts out."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from goproxy_vm.admin import bodies
from goproxy_vm.admin.call import BASE, Call, Route, answer, body_of, no_body
from goproxy_vm.admin.details import Problem, malformed
from goproxy_vm.admin.rendering import timestamp, timestamp_or_none
from goproxy_vm.errors import Absent, GoproxyError, NoRecord, Overloaded, Unavailable, UpstreamError
from goproxy_vm.protocol.policy import GateRule, Rule
from goproxy_vm.protocol.semver import agrees, is_canonical
from goproxy_vm.proxy import rulebook

if TYPE_CHECKING:
    from goproxy_vm.admin.gatekeeping import Gatekeeping, Passing, Stored
    from goproxy_vm.proxy.ages import Age


@dataclass(frozen=True, slots=True)
class Giving:
    """``POST /api/v1/gate/rules``; ``until`` in epoch seconds."""

    kind: str
    rule: Rule
    reason: str
    by: str
    until: float | None
    purge: bool
    dry_run: bool


class RuleActions:
    """The routes below ``/gate``."""

    def __init__(self, gate: Gatekeeping) -> None:
        self._gate = gate
        self.routes = (
            Route(f"{BASE}/gate/rules", {"GET": ("rules", self._rules), "POST": ("rule", self._give)}),
            Route(
                f"{BASE}/gate/rules/{{number}}", {"GET": ("rule", self._one), "DELETE": ("end", self._end)}
            ),
            Route(f"{BASE}/gate/check", {"GET": ("check", self._check)}),
            Route(f"{BASE}/gate/needs", {"GET": ("needs", self._needs)}),
        )

    async def _rules(self, call: Call) -> web.Response:
        ended = call.query.take("all", bodies.true_or_false, default=False)
        call.query.finish()
        return answer({"items": [_rendered(each) for each in self._gate.rules(ended=ended)]})

    async def _one(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return answer(_rendered(self._found(call)))

    async def _give(self, call: Call) -> web.Response:
        asked = _giving(await body_of(call))
        call.action, call.what, call.dry_run = asked.kind, asked.rule.text, asked.dry_run
        if asked.dry_run:
            given = GateRule(asked.kind, asked.rule, 0, asked.reason, asked.by, time.time(), asked.until)
            return answer(await self._told(given, await self._gate.stored(asked.rule)))
        try:
            given, new = await self._gate.give(
                asked.kind, asked.rule, reason=asked.reason, by=asked.by or call.who, until=asked.until
            )
        except rulebook.Full:
            raise Problem(
                409, f"{rulebook.MOST} rules are in force, and no more may be: end some (see blocks)"
            ) from None
        try:
            stored = await (self._gate.purge if asked.purge else self._gate.stored)(asked.rule)
        except (Unavailable, Overloaded) as error:
            error.sentence = (
                f"rule {given.number} is in force, but what is stored of it is not known: {error.sentence}"
            )
            raise
        return answer(await self._told(given, stored, purged=asked.purge), status=201 if new else 200)

    async def _told(self, given: GateRule, stored: Stored, *, purged: bool = False) -> dict[str, Any]:
        return {
            **_rendered(given),
            "purged": purged,
            "stored": {"versions": stored.versions, "bytes": stored.bytes},
            "clients": await self._gate.clients(given.rule),
        }

    async def _end(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        no_body(call)
        found = self._found(call)
        call.action, call.what = f"un{found.kind}", found.rule.text
        ended = await self._gate.end(found.number)
        if ended is None:
            raise Problem(404, f"rule {found.number} has ended already")
        return answer(_rendered(ended))

    async def _check(self, call: Call) -> web.Response:
        module = call.query.take("module", bodies.module, "")
        version = call.query.take("version", bodies.version, "")
        call.query.finish()
        if not module:
            raise malformed("module", "is needed")
        _check_whole(module, version)
        try:
            found = await self._gate.check(module, version)
        except UpstreamError as error:
            raise Problem(503, f"how old it is cannot be told now: {error.sentence}") from None
        except NoRecord as error:
            raise Problem(404, error.sentence) from None
        return answer(_passing(module, version, found))

    async def _needs(self, call: Call) -> web.Response:
        module = call.query.take("module", bodies.module, "")
        version = call.query.take("version", bodies.version, "")
        call.query.finish()
        for name, value in (("module", module), ("version", version)):
            if not value:
                raise malformed(name, "is needed")
        _check_whole(module, version)
        try:
            needs, more = await self._gate.needs(module, version)
        except (Absent, NoRecord) as error:
            raise Problem(404, error.sentence) from None
        except GoproxyError as error:
            raise Problem(503, f"what it requires cannot be told now: {error.sentence}") from None
        items = [
            {"module": each.module, "version": each.version, "reason": each.refusal.why} for each in needs
        ]
        return answer({"module": module, "version": version, "items": items, "truncated": more})

    def _found(self, call: Call) -> GateRule:
        number = call.parts["number"]
        found = self._gate.rule(int(number)) if re.fullmatch("[0-9]{1,18}", number, re.ASCII) else None
        if found is None:
            raise Problem(404, f"there is no rule {number}")
        return found


def _check_whole(module: str, version: str) -> None:
    """Problem for what is no version of the module; "" stands for all of them."""
    if version and not (is_canonical(version) and agrees(module, version)):
        raise malformed("version", f"{module} has no such version, whole and of its major, like v1.2.3")


def _giving(members: bodies.Members) -> Giving:
    kind = members.take("kind", _kind, "")
    whole = members.take("whole", bodies.boolean, default=False)
    rule = members.take("rule", lambda value: _rule(value, whole=whole), None)
    reason = members.take("reason", _words, "")
    by = members.take("by", _words, "")
    until = members.take("until", _time, None)
    lasts = members.take("for", bodies.seconds, None)
    purge = members.take("purge", bodies.boolean, default=False)
    dry_run = members.take("dry_run", bodies.boolean, default=False)
    members.finish()
    for name, value in (("kind", kind), ("rule", rule), ("reason", reason)):
        if not value:
            raise malformed(name, "is needed")
    if rule is None:
        raise malformed("rule", "is needed")
    if lasts is not None and until is not None:
        raise malformed("for", "until says how long already")
    if lasts is not None:
        if not lasts:
            raise malformed("for", "it must be more than 0")
        until = time.time() + lasts
    if kind == "exempt":
        if until is None:
            raise malformed("for", "an exemption needs an end, like 14d")
        if purge or whole:
            raise malformed("purge" if purge else "whole", "is for blocks")
    if purge and dry_run:
        raise malformed("purge", "a dry run removes nothing")
    return Giving(kind, rule, reason, by, until, purge, dry_run)


def _kind(value: object) -> str:
    if value not in rulebook.KINDS:
        raise ValueError(f"expected {' or '.join(rulebook.KINDS)}")
    return str(value)


def _rule(value: object, *, whole: bool) -> Rule:
    if not isinstance(value, str):
        raise ValueError("expected MODULE or MODULE@VERSIONS")  # noqa: TRY004 (what is wrong with a value)
    return Rule.parse(value, whole=whole)


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > rulebook.LONGEST_REASON:
        raise ValueError(f"up to {rulebook.LONGEST_REASON} printable characters are needed")
    return value.strip()


def _time(value: object) -> float:
    try:
        seconds = datetime.fromisoformat(value if isinstance(value, str) else "").timestamp()
    except (ValueError, OverflowError):
        raise ValueError("expected a time like 2030-01-31T12:00:00Z") from None
    if not math.isfinite(seconds) or not time.time() < seconds < rulebook.LATEST:
        raise ValueError("expected a time to come")
    return seconds


def _rendered(given: GateRule) -> dict[str, Any]:
    """A rule as JSON; those of the settings have no number."""
    return {
        "id": given.number or None,
        "kind": given.kind,
        "rule": given.rule.text,
        "whole": given.rule.whole,
        "reason": given.reason,
        "by": given.by,
        "at": timestamp(given.at) if given.at else None,
        "until": timestamp_or_none(given.until),
        "ended": timestamp_or_none(given.ended),
        "source": "config" if given.kind == "deny" else "api",
    }


def _passing(module: str, version: str, found: Passing) -> dict[str, Any]:
    refusal = found.refusal
    return {
        "module": module,
        "version": version or None,
        "verdict": "passes" if refusal is None else "refused",
        "rule": None if refusal is None else refusal.rule,
        "reason": None if refusal is None else refusal.why,
        "newest_allowed": found.newest,
        "age": None if found.age is None else _aged(found.age),
    }


def _aged(age: Age) -> dict[str, Any]:
    return {
        "seconds": None if age.seconds is None else round(age.seconds),
        "evidence": age.evidence,
        "number": age.number,
        "noted": timestamp_or_none(age.noted),
        "passes_after": timestamp_or_none(age.passes_after),
    }
