"""Whether this host can prove how old versions are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.heads import growth_file
from goproxy_vm.cache.layout import Layout
from goproxy_vm.console.tables import age
from goproxy_vm.doctor.check import Finding
from goproxy_vm.protocol.growth import EVERY, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.config import Settings

LATE = 48 * 3600.0
"""Seconds without a larger head after which something is wrong; sum.golang.org grows by thousands a day."""


def check_ages(settings: Settings, now: Callable[[], float] = time.time) -> Finding:
    """Whether heads of the checksum database were noted lately, where ``min_age`` needs them (blocking)."""
    if not settings.min_age:
        return Finding("ok", "not asked for: min_age is 0")
    if settings.sumdb is None:
        return Finding("ok", "versions age from when they were first seen here: sumdb is off")
    layout, name = Layout.at(settings.cache_dir), settings.sumdb.name
    try:
        growth, _ = parse(tree.read(growth_file(layout, name), layout.sumdb))
    except FileNotFoundError:
        return Finding(
            "warning",
            f"no head of {name} has been noted yet: what was published since this release is young",
            "start the server, which asks for one within an hour",
        )
    except PermissionError as error:
        return Finding("skipped", f"{error.filename or layout.sumdb}: {error.strerror}")
    except (OSError, ValueError) as error:
        return Finding(
            "warning",
            f"the noted heads of {name} cannot be read: {error}",
            "the next start begins them anew, and versions age from then on",
        )
    last = growth.last or 0.0
    late = now() - last
    if late < -EVERY:
        return Finding(
            "warning",
            f"the last head of {name} was noted {age(-late)} from now: the clock ran ahead, or is behind",
            "set the clock, as by: timedatectl set-ntp true",
        )
    found = f"{len(growth):,} heads of {name} noted, the last one {age(max(0.0, late))} ago"
    if late > LATE:
        return Finding(
            "warning",
            f"{found}: what was published since then stays young",
            "see the checks of upstreams and the checksum database; the server asks for a head each hour",
        )
    return Finding("ok", found)
