"""The rules of the gate: what the settings and ``gate.json`` say, and whether it is what somebody meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import Layout
from goproxy_vm.doctor.check import Finding
from goproxy_vm.errors import StartError
from goproxy_vm.protocol.names import TOOLCHAIN, escape_path
from goproxy_vm.proxy.gate import Gate
from goproxy_vm.proxy.rulebook import Rulebook

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.protocol.policy import Rule

NAMED = 3
"""Rules that are named, of those that mean nothing that is stored."""


def check_gate(settings: Settings) -> Finding:
    """Read the rules that are kept, as a start does (blocking)."""
    layout, gate = Layout.at(settings.cache_dir), Gate(settings)
    try:
        Rulebook(layout.root, gate.rule).load()
    except StartError as error:
        return Finding("failed", error.sentence, "a server does not start with it: put a backup in its place")
    counts = {kind: gate.count(kind) for kind in ("block", "exempt", "deny", "allow")}
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no rules"
    refusal = gate.refusal(TOOLCHAIN)
    if refusal is not None and refusal.rule == "allow":
        return Finding(
            "warning",
            f"{found}; allow does not name {TOOLCHAIN}: no VM can fetch the Go that a go.mod asks for",
            f"add {TOOLCHAIN} to allow, unless each VM is to have its Go from elsewhere",
        )
    unknown = [rule.text for rule in gate.refusing if rule.exact and not _stored(layout, rule)]
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        found += f"; of nothing that is stored: {', '.join(unknown[:NAMED])}{more}"
    return Finding("ok", found)


def _stored(layout: Layout, rule: Rule) -> bool:
    """Whether anything of the module of a rule is stored."""
    return (layout.modules / escape_path(rule.pattern)).is_dir()
