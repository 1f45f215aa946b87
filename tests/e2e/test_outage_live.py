"""The outage day and the air gap on a real module graph, whose upstream is a relay that can die.

Marked ``live`` and ``soak``: it takes many minutes, and the relay needs the Go module proxy that
``go env GOPROXY`` names; it skips without it.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e import outage
from tests.e2e.outage import Command, Script, Yesterday, assert_same, copied, host, live
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.upstream import Reply

pytestmark = [pytest.mark.live, pytest.mark.soak, pytest.mark.e2e, pytest.mark.timeout(900)]

GRAPH = Path(__file__).parent / "live_small"
FILES = {file.name.removesuffix(".txt"): file.read_text() for file in GRAPH.iterdir()}
SCRIPT = Script(
    (
        Command("get exact", ("get", "github.com/spf13/viper@v1.21.0")),
        Command("get latest", ("get", "github.com/redis/go-redis/v9@latest")),
        Command("tidy", ("mod", "tidy"), "required"),
        Command("packages", ("list", "-deps", "./...")),
        Command("install", ("install", "github.com/pelletier/go-toml/v2/cmd/tomljson@v2.2.4")),
        Command("download", ("mod", "download", "-json")),
        Command("list", ("list", "-m", "-json", "all")),
        Command("updates", ("list", "-m", "-u", "all")),
        Command("versions", ("list", "-m", "-versions", "github.com/spf13/viper")),
    ),
    {"tidied": FILES, "required": {name: text for name, text in FILES.items() if name != "go.sum"}},
)
SETTINGS = ("--fresh", "0.1", "--negative", "0.1")
ENVIRONMENT = {"GOSUMDB": "sum.golang.org", "GOFLAGS": "-modcacherw -buildvcs=false -mod=mod"}


class Relay:
    """Answers as another upstream does, and remembers what that said."""

    def __init__(self, upstream: UpstreamThread, origin: str) -> None:
        self.upstream = upstream
        self._origin = origin
        self._kept: dict[str, Reply] = {}
        self.revive()

    def revive(self) -> None:
        """Be in good health."""
        self.upstream.fake.forget_rules()
        self.upstream.fake.on("*", self._answer)

    async def _answer(self, path: str) -> Reply:
        if path not in self._kept:
            self._kept[path] = await asyncio.to_thread(self._ask, path)
        return self._kept[path]

    def _ask(self, path: str) -> Reply:
        url = self._origin + quote(path, safe="/@!+")
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return Reply(response.read(), 200, {"Content-Type": response.headers["Content-Type"]})
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.read(), error.code, {"Content-Type": "text/plain; charset=utf-8"})


@pytest.fixture(scope="module")
def relay(real_upstream: str) -> Iterator[Relay]:
    with UpstreamThread() as upstream:
        yield Relay(upstream, real_upstream)


@pytest.fixture(scope="module")
def real_day(tmp_path_factory: pytest.TempPathFactory, gocache: Path, relay: Relay) -> Yesterday:
    """One VM's good day on the real graph, from an empty cache directory."""
    top = tmp_path_factory.mktemp("real-day")
    made = Yesterday(SCRIPT, {}, top / "cache", SETTINGS, ENVIRONMENT, gocache)
    with host(made.cache, "--upstream", relay.upstream.url, *SETTINGS) as server:
        vm = made.vm(top / "vm", server.url)
        made.day = live(SCRIPT, lambda _: vm, one_vm=True)
    outage.assert_good(made.day)
    return made


@pytest.mark.parametrize("death", [*outage.DEATHS, "name gone"])
def test_the_upstream_dies(tmp_path: Path, real_day: Yesterday, relay: Relay, death: str) -> None:
    cache = copied(real_day.cache, tmp_path / "cache")
    elsewhere = {"refused": outage.REFUSED, "name gone": outage.GONE}.get(death)
    asked = len(relay.upstream.fake.requests)
    if elsewhere is None:
        outage.DEATHS[death](relay.upstream)
    try:
        with host(cache, "--upstream", elsewhere or relay.upstream.url, *SETTINGS) as server:
            vm = real_day.vm(tmp_path / "vm", server.url)
            assert_same(real_day.day, live(SCRIPT, lambda _: vm, one_vm=True))
    finally:
        relay.revive()
    assert not [path for path in relay.upstream.fake.requests[asked:] if path.endswith(".zip")]


def test_offline(tmp_path: Path, real_day: Yesterday) -> None:
    cache = copied(real_day.cache, tmp_path / "cache")
    with host(cache, "--offline", *SETTINGS) as server:
        vm = real_day.vm(tmp_path / "vm", server.url)
        assert_same(real_day.day, live(SCRIPT, lambda _: vm, one_vm=True), outage.without_hints)


@pytest.mark.parametrize("index", [True, False], ids=["with index.db", "without index.db"])
def test_the_air_gap(tmp_path: Path, real_day: Yesterday, *, index: bool) -> None:
    cache = copied(real_day.cache, tmp_path / "cache")
    if not index:
        outage.lose_index(cache)
    with outage.air_gapped(cache, *SETTINGS) as (server, beside):
        vm = real_day.vm(tmp_path / "vm", server.url, inside=beside)
        assert_same(real_day.day, live(SCRIPT, lambda _: vm, one_vm=True), outage.without_hints)
