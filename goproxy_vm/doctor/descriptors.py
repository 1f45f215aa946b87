"""How many files and connections the server may hold open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from goproxy_vm.doctor.check import Finding
from goproxy_vm.hostos import open_files_limit

if TYPE_CHECKING:
    from goproxy_vm.config import Settings

OWN = 512
"""Descriptors beside connections: files that the short cut keeps open, databases, listeners, workers."""
EACH = 2
"""For a fetch, its connection and its file; for a VM's connection, that and the file being sent."""


def check_descriptors(settings: Settings, holder: int | None) -> Finding:
    """The limit of the running server, the process ``holder``; without one, of this process (blocking)."""
    limit = open_files_limit(holder or 0)
    if limit is None:
        return Finding("skipped", f"the system does not tell the limit of process {holder}")
    whose = f"process {holder}" if holder else "a process started from here"
    return judge_limit(settings, limit, whose)


def judge_limit(settings: Settings, limit: int, whose: str) -> Finding:
    """Whether ``limit`` descriptors are enough for ``whose`` process."""
    least = OWN + EACH * settings.max_misses
    wanted = least + EACH * settings.max_client_connections
    shown = "any number of" if limit == sys.maxsize else f"{limit:,}"
    found = (
        f"{whose} may open {shown} files; {wanted:,} serve {settings.max_client_connections:,} connections"
    )
    found += f" and {settings.max_misses:,} fetches at a time"
    raising = "set LimitNOFILE=65536 in the systemd unit, or ulimit -n 65536 before goproxy-vm serve"
    if limit < least:
        return Finding("failed", f"{found}, {least:,} the fetches alone", raising)
    if limit < wanted:
        return Finding(
            "warning", found, f"{raising}; or lower max_client_connections, which one VM may use up"
        )
    return Finding("ok", found)
