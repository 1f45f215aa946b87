"""The air gap: a cache directory is copied to a host without any network, and its VMs go on building.

Where it may be (root) that host is a network namespace with nothing but loopback, for server and VMs alike.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import outage
from tests.e2e.outage import Day, Yesterday, air_gapped, assert_same, copied, live

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def _apart(cache: Path, tmp_path: Path, yesterday: Yesterday) -> Day:
    """The script on fresh VMs of a host without network."""
    with air_gapped(cache, *yesterday.settings) as (server, beside):
        return live(
            yesterday.script,
            lambda name: yesterday.vm(tmp_path / f"vm-{name}", server.url, inside=beside),
        )


@pytest.mark.parametrize("index", [True, False], ids=["with index.db", "without index.db"])
def test_the_whole_directory_is_copied(tmp_path: Path, yesterday: Yesterday, *, index: bool) -> None:
    cache = copied(yesterday.cache, tmp_path / "cache")
    if not index:
        outage.lose_index(cache)
    day = _apart(cache, tmp_path, yesterday)
    assert_same(yesterday.day, day, outage.without_hints)


def test_modules_alone_are_copied(tmp_path: Path, yesterday: Yesterday) -> None:
    """Whoever has a go.sum builds by it. What needs the checksum database's word says that this is missing,
    or does without."""
    cache = copied(yesterday.cache, tmp_path / "cache", "modules")
    day = _apart(cache, tmp_path, yesterday)
    by_sum = {
        each.name: day[each.name] for each in yesterday.script.without_lookups().without("upgrade").commands
    }
    for name in day.keys() - by_sum.keys():
        said = day[name].stderr + day[name].stdout
        assert not day[name].status or "/sumdb/" in said, f"{name}: {said}"
    assert_same(yesterday.day, by_sum, outage.without_hints)
