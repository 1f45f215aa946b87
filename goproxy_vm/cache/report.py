"""Facts made of rows."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from goproxy_vm.cache.facts import Removal, RemovedVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.cache.index import Victim

MOST_ITEMS = 10_000
"""Versions that one answer names."""


def removal(victims: Sequence[Victim], answers: int, *, dry_run: bool) -> Removal:
    """What went, or would go, by version."""
    ordered = sorted(victims, key=lambda each: (each.module, each.version, each.kind))
    items = []
    for (module, version), group in groupby(ordered, key=lambda each: (each.module, each.version)):
        files = list(group)
        kinds = tuple(each.kind.value for each in files)
        items.append(RemovedVersion(module, version, kinds, sum(each.bytes for each in files)))
    return Removal(
        dry_run,
        len(items),
        len(victims),
        sum(victim.bytes for victim in victims),
        answers,
        items[:MOST_ITEMS],
        len(items) > MOST_ITEMS,
    )
