"""The gate's answers as text for people."""

from __future__ import annotations

from typing import Any

from goproxy_vm.config.text import size
from goproxy_vm.console.tables import age, facts, moment, plural, table

Json = dict[str, Any]


def given(answer: Json) -> list[str]:
    """A rule that was given, or would be."""
    stored = answer["stored"]
    number = f" as rule {answer['id']}" if answer["id"] is not None else ": a dry run, nothing was changed"
    lines = [f"{answer['kind']} {answer['rule']}{number}{_until(answer)}"]
    what = f"{plural(stored['versions'], 'version')}, {size(stored['bytes'])}"
    if answer["purged"]:
        lines.append(f"removed: {what}")
    elif stored["versions"] and answer["kind"] == "block":
        lines.append(f"stored: {what}; to remove it as well, give the same again with --purge")
    else:
        lines.append(f"stored: {what}")
    if answer["clients"] and answer["kind"] == "block":
        lines.append(f"{plural(answer['clients'], 'client')} got it: goproxy-vm who '{answer['rule']}'")
    return lines


def ended(answer: Json) -> list[str]:
    """A rule that was taken back."""
    return [f"{answer['kind']} {answer['rule']} (rule {answer['id']}) has ended"]


def rules(answer: Json) -> list[str]:
    """All rules."""
    rows = [
        (
            each["id"] if each["id"] is not None else "config",
            each["kind"],
            f"{each['rule']} (whole)" if each["whole"] and "@" in each["rule"] else each["rule"],
            each["reason"],
            each["by"],
            moment(each["at"]) if each["at"] else "",
            _state(each),
        )
        for each in answer["items"]
    ]
    if not rows:
        return ["no rules"]
    return table(("ID", "KIND", "RULE", "REASON", "BY", "SINCE", "STATE"), rows, "ID")


def passing(answer: Json) -> list[str]:
    """Whether something passes."""
    pairs = [("verdict", answer["verdict"])]
    pairs += [(name, answer[name]) for name in ("rule", "reason") if answer[name]]
    if answer["age"] is not None:
        known = answer["age"]["seconds"]
        old = "not proven" if known is None else age(known)
        pairs.append(("age", f"{old} ({answer['age']['evidence']})"))
    if answer["newest_allowed"]:
        pairs.append(("newest allowed", answer["newest_allowed"]))
    return facts(pairs)


def _until(answer: Json) -> str:
    return f", until {moment(answer['until'])}" if answer["until"] else ""


def _state(answer: Json) -> str:
    if answer["ended"]:
        return f"ended {moment(answer['ended'])}"
    return f"until {moment(answer['until'])}" if answer["until"] else "in force"
