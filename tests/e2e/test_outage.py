"""The outage day: what was built yesterday is built today, whatever died or was lost in between.

The judge is the real ``go``: fresh VMs repeat every command of a good day, and must have what it left.
With ``-s`` each test prints the seconds that every command took on both days.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import graph, outage
from tests.e2e.gocommand import Vm
from tests.e2e.outage import Host, Script, Yesterday, assert_good, assert_same, copied, host, live

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CONNECTIONS = 64
"""Requests that an upstream may see before it is known to be silent: as many as are fetched at a time."""
SPARE = 1 << 20
"""Bytes that the small disk has beyond what is stored, until it is filled."""


@pytest.fixture
def fresh(tmp_path: Path, yesterday: Yesterday) -> Callable[[Host], Callable[[str], Vm]]:
    """Makes what makes fresh VMs of a server."""
    made: Counter[str] = Counter()

    def of(server: Host) -> Callable[[str], Vm]:
        def make(name: str) -> Vm:
            made[name] += 1
            return yesterday.vm(tmp_path / f"vm-{name}-{made[name]}", server.url)

        return make

    return of


Fresh = Callable[[Host], Callable[[str], Vm]]


@pytest.fixture
def world() -> Iterator[graph.World]:
    with graph.world() as made:
        yield made


def test_a_good_day_is_as_without_a_proxy(tmp_path: Path, yesterday: Yesterday, world: graph.World) -> None:
    directly = live(yesterday.script, lambda name: yesterday.vm(tmp_path / name, world.upstream.url))
    assert_good(directly)
    assert_same(directly, yesterday.day)


OFTEN = {"403", "500"}
"""Ways to die of which the integration tests have all; here others stand for them but in soaks."""


@pytest.mark.parametrize(
    "death",
    [pytest.param(death, marks=pytest.mark.soak if death in OFTEN else ()) for death in outage.DEATHS],
)
def test_the_upstream_dies(
    tmp_path: Path, project: Script, world: graph.World, fresh: Fresh, yesterday: Yesterday, death: str
) -> None:
    """Under a running server. What is stored is not asked for; a dead upstream is asked no more than it was
    on the good day. A ``stall_timeout`` waited for twice is more than this test may take in all."""
    upstream = world.upstream
    arguments = ("--upstream", upstream.url, *world.settings, "--stall-timeout", "60s")
    with host(tmp_path / "cache", *arguments) as server:
        one = yesterday.vm(tmp_path / "healthy", server.url)
        healthy = live(project, lambda _: one, one_vm=True)
        assert_good(healthy)
        asked = len(upstream.fake.requests)
        outage.DEATHS[death](upstream)
        assert_same(healthy, live(project, fresh(server)))
        since = upstream.fake.requests[asked:]
    files = [path for path in since if path.endswith((".mod", ".zip"))]
    known = [path for path in files if path in upstream.fake.files]
    assert not known, "what is stored is asked for"
    assert len(since) <= (CONNECTIONS if death == "silent" else asked), Counter(since).most_common(10)


def test_the_upstreams_name_is_gone(tmp_path: Path, yesterday: Yesterday, fresh: Fresh) -> None:
    """And the server was started anew since."""
    cache = copied(yesterday.cache, tmp_path / "cache")
    with host(cache, "--upstream", outage.GONE, *yesterday.settings) as server:
        assert_same(yesterday.day, live(yesterday.script, fresh(server)))


def test_offline(tmp_path: Path, yesterday: Yesterday, fresh: Fresh) -> None:
    cache = copied(yesterday.cache, tmp_path / "cache")
    with host(cache, "--offline", *yesterday.settings) as server:
        assert_same(yesterday.day, live(yesterday.script, fresh(server)), outage.without_hints)


BY_LATEST = ("upgrade", "get upgrades")
"""Commands whose choice depends on there being no ``@latest``."""
LOSSES: dict[str, tuple[Callable[[Path], None], str]] = {
    "index, upstream dead": (outage.lose_index, "dead"),
    "index, offline": (outage.lose_index, "offline"),
    "answers, offline": (outage.lose_answers, "offline"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_after_a_loss(tmp_path: Path, yesterday: Yesterday, fresh: Fresh, loss: str) -> None:
    """Where ``answers/`` is gone and an upstream is dead, nobody knows what does not exist; nor, offline,
    that the upstream had no ``@latest`` of a module."""
    lose, how = LOSSES[loss]
    cache = copied(yesterday.cache, tmp_path / "cache")
    lose(cache)
    arguments = ("--offline",) if how == "offline" else ("--upstream", outage.REFUSED)
    seen = outage.without_hints if how == "offline" else outage.exactly
    script = yesterday.script.without(*(BY_LATEST if loss == "answers, offline" else ()))
    with host(cache, *arguments, *yesterday.settings) as server:
        assert_same(yesterday.day, live(script, fresh(server)), seen)


def test_after_kill_9(
    tmp_path: Path, project: Script, world: graph.World, fresh: Fresh, yesterday: Yesterday
) -> None:
    """At the end of the last command: what was answered is there."""
    cache = tmp_path / "cache"
    with host(cache, "--upstream", world.upstream.url, *world.settings) as server:
        one = yesterday.vm(tmp_path / "healthy", server.url)
        healthy = live(project, lambda _: one, one_vm=True)
        assert_good(healthy)
        server.kill()
    with host(cache, "--upstream", outage.REFUSED, *world.settings) as server:
        assert_same(healthy, live(project, fresh(server)))


YESTERDAYS = {
    # Not "list": it wants the times of versions that the graph names and nobody needs.
    "tidied": ("tidy", ("tidy", "build", "download")),
    "installed": ("install", ("install",)),
    "got": ("get exact", ("get exact",)),
}


@pytest.mark.parametrize("offline", [False, True], ids=["upstream dead", "offline"])
@pytest.mark.parametrize("had", YESTERDAYS)
def test_only_this_was_done_yesterday(
    tmp_path: Path, yesterday: Yesterday, world: graph.World, fresh: Fresh, had: str, *, offline: bool
) -> None:
    """The first command brought all that these need; the times of versions it may have done without."""
    first, then = YESTERDAYS[had]
    cache = tmp_path / "cache"
    with host(cache, "--upstream", world.upstream.url, *world.settings) as server:
        assert_good(live(yesterday.script.only(first), fresh(server)))
    arguments = ("--offline",) if offline else ("--upstream", outage.REFUSED)
    with host(cache, *arguments, *world.settings) as server:
        assert_same(yesterday.day, live(yesterday.script.only(*then), fresh(server)), outage.without_times)


# A disk without a free byte: a small tmpfs in a mount namespace of its own.

MOUNTED = ("unshare", "-m", "sh", "-c")
FILL = 'cat /dev/zero > "$1/filler" 2>/dev/null'
BEGIN = """
size=$(($(du -sk "$2" | cut -f1) * 1024 + $3))
mount -t tmpfs -o size="$size" none "$1" && cp -a "$2" "$1/cache" || exit 1
[ "$4" = later ] || cat /dev/zero > "$1/filler" 2>/dev/null
shift 4
exec "$@"
"""


@pytest.mark.parametrize("when", ["before the start", "later"])
def test_on_a_full_disk(tmp_path: Path, yesterday: Yesterday, fresh: Fresh, when: str) -> None:
    """Its upstream is dead too."""
    if why := outage.impossible(*MOUNTED, "mount -t tmpfs none /mnt"):
        pytest.skip(f"no tmpfs can be mounted here: {why}")
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = (*MOUNTED, BEGIN, "sh", str(disk), str(yesterday.cache), str(SPARE), when)
    arguments = ("--upstream", outage.REFUSED, *yesterday.settings)
    with host(disk / "cache", *arguments, "--min-free", "0", inside=inside) as server:
        within = ("nsenter", "-m", "-t", str(server.running.process.pid))
        if when == "later":
            subprocess.run([*within, "sh", "-c", FILL, "sh", str(disk)], timeout=60)
        free = subprocess.run([*within, "stat", "-f", "-c", "%f", str(disk)], capture_output=True, text=True)
        assert free.stdout == "0\n", free
        assert_same(yesterday.day, live(yesterday.script, fresh(server)))
