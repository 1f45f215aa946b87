"""How many files and connections the server may hold open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from goproxy_vm.doctor.check import Finding
from goproxy_vm.hostos import open_files_hard_limit, open_files_limit
from goproxy_vm.web.shares import least, most_connections, most_of_one

if TYPE_CHECKING:
    from goproxy_vm.config import Settings


def check_descriptors(settings: Settings, holder: int | None) -> Finding:
    """The limit of the running server, the process ``holder``; without one, what it would have (blocking)."""
    limit = open_files_limit(holder) if holder else open_files_hard_limit()
    if limit is None:
        return Finding("skipped", f"the system does not tell the limit of process {holder}")
    whose = f"process {holder}" if holder else "a process started from here"
    return judge_limit(settings, limit, whose)


def judge_limit(settings: Settings, limit: int, whose: str) -> Finding:
    """Whether ``limit`` descriptors are enough for ``whose`` process, and what they are shared out to."""
    needed = least(settings.max_misses)
    in_all = most_connections(limit, settings.max_misses)
    one = most_of_one(in_all, settings.max_client_connections)
    shown = "any number of" if limit == sys.maxsize else f"{limit:,}"
    found = f"{whose} may open {shown} files"
    found += f": {one:,} connections from one address" + (
        "" if limit == sys.maxsize else f", {in_all:,} in all"
    )
    raising = "set LimitNOFILE=65536 in the systemd unit, or ulimit -Hn 65536 before goproxy-vm serve"
    if limit < needed:
        return Finding("failed", f"{found}; {needed:,} files are needed beside them", raising)
    if one < settings.max_client_connections:
        return Finding(
            "warning", f"{found}; max_client_connections is {settings.max_client_connections:,}", raising
        )
    return Finding("ok", found)
