"""Facts made of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.cache.facts import Removal, RemovedVersion
from goproxy_vm.cache.threads import slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.cache.rows import Victim

MOST_ITEMS = 10_000
"""Versions that one answer names."""


async def removal(victims: Sequence[Victim], answers: int, *, dry_run: bool) -> Removal:
    """What went, or would go, by version, in the order of the first file of each."""
    versions: dict[tuple[str, str], list[Victim]] = {}
    async for some in slices(victims):
        for victim in some:
            versions.setdefault((victim.module, victim.version), []).append(victim)
    items = []
    async for keys in slices(list(versions)[:MOST_ITEMS]):
        for key in keys:
            files = sorted(versions[key], key=lambda each: each.kind)
            kinds = tuple(each.kind.value for each in files)
            items.append(RemovedVersion(*key, kinds, sum(each.bytes for each in files)))
    return Removal(
        dry_run,
        len(versions),
        len(victims),
        sum(victim.bytes for victim in victims),
        answers,
        items,
        len(versions) > MOST_ITEMS,
    )
