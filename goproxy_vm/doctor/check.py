"""What one check found, and how all of them are shown."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from goproxy_vm.config.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Status = Literal["ok", "warning", "failed", "skipped"]
"""``skipped`` says that there was nothing to look at, or that an earlier check must be put right first."""

TITLES = {
    "configuration": "Configuration",
    "directory": "Cache directory",
    "disk": "Disk space",
    "listener": "Listener",
    "admin_listener": "Admin listener",
    "upstreams": "Upstreams",
    "database": "Checksum database",
    "ages": "Ages of versions",
    "toolchain": "Go of the VMs",
    "version_control": "Version control",
    "gate": "Gate",
    "clock": "Clock",
    "descriptors": "File descriptors",
    "server": "Running server",
    "token": "Admin token",
}
"""Every check by its id, in their order."""

WIDTH = 110
"""Characters of a line of text, where words allow it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``found`` is a sentence with figures; ``remedy`` what to do, empty where nothing is to be done."""

    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A finding with the id of its check, a key of ``TITLES``."""

    id: str
    finding: Finding

    @property
    def title(self) -> str:
        """What people call it."""
        return TITLES[self.id]

    @property
    def failed(self) -> bool:
        """Whether the server cannot work like this."""
        return self.finding.status == "failed"


def merged(findings: Iterable[Finding]) -> Finding:
    """Several findings of one check: the worst one's status and remedy, and every sentence."""
    order: list[Status] = ["skipped", "ok", "warning", "failed"]
    every = list(findings)
    worst = max(every, key=lambda each: order.index(each.status))
    return Finding(worst.status, "; ".join(each.found for each in every), worst.remedy)


def healthy(checks: Iterable[Check]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return not any(check.failed for check in checks)


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "healthy": healthy(checks),
        "checks": [
            {
                "id": check.id,
                "title": check.title,
                "status": check.finding.status,
                "found": check.finding.found,
                "remedy": check.finding.remedy,
            }
            for check in checks
        ],
    }


def as_text(checks: Sequence[Check]) -> str:
    """A line for each check, its remedy indented below it, and a last line that sums up."""
    wide = max(len(title) for title in TITLES.values())
    indent = " " * (wide + 11)
    lines: list[str] = []
    for check in checks:
        finding = check.finding
        lines.append(f"{finding.status:<7}  {check.title:<{wide}}  {printable(finding.found)}")
        if finding.remedy:
            lines += textwrap.wrap(
                printable(finding.remedy),
                WIDTH,
                initial_indent=f"{indent}-> ",
                subsequent_indent=f"{indent}   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join([*lines, _summary(checks)])


def _summary(checks: Sequence[Check]) -> str:
    counts = {
        status: sum(check.finding.status == status for check in checks)
        for status in ("failed", "warning", "skipped")
    }
    words = [
        f"{counts['failed']} failed",
        f"{counts['warning']} warning{'' if counts['warning'] == 1 else 's'}",
        f"{counts['skipped']} skipped",
    ]
    told = ", ".join(word for word in words if not word.startswith("0 "))
    return ("healthy" if healthy(checks) else "not healthy") + (f": {told}" if told else "")
