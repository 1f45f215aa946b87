"""The ``live`` vectors and the scripts made after them, against the real ``go`` of this machine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.address import Address
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.server import Server
from goproxy_vm.upstream import upstream as one_upstream
from tests.e2e.gocommand import Vm
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.live import SCENARIOS, SCRIPTS, database
from tests.fakes.sumdb import NAME
from tests.fakes.upstream import FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

KEPT = 300
"""Characters of an error that the vectors keep."""
WORDINGS = (
    (r"^go list -m: ", "go: "),
    (r"/go\.mod: verifying module: ", ": verifying go.mod: "),
    (r'invalid version: version "feat/x" invalid: ', "invalid version: "),
    (
        r": (parsing time|invalid character|json: cannot unmarshal array)",
        r': invalid response from proxy "U": \1',
    ),
    (r'""([^"]*)""', r'"\1"'),
    (r'"""', '""'),
    (r": found (go\.mod file .*) \((.*)\)", r": \2: \1"),
)
"""The vectors have an error in the words of the oldest release that fared alike; 1.27 says the same so."""
NO_HOST = re.compile(r"dial tcp: lookup sumdb\.example\.com on [0-9.:]+: no such host$")

UNREACHED = re.compile(r"proxyconnect tcp: dial tcp 127\.0\.0\.1:1: connect: connection refused$")


@pytest.fixture
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as server:
        yield server


def as_recorded(requests: list[str]) -> list[str]:
    """Tiles are asked for in parallel: the vectors have them sorted."""
    recorded: list[str] = []
    for is_tile, run in groupby(requests, lambda path: "/tile/" in path):
        paths = list(run)
        recorded += sorted(paths) if is_tile else paths
    return recorded


def outcome_of(case: dict[str, Any], release: str) -> dict[str, Any]:
    """What the vectors record for one release line."""
    (found,) = (outcome for outcome in case["outcomes"] if release in outcome["go"])
    recorded: dict[str, Any] = found
    return recorded


def make_vm(home: Path, gocache: Path, name: str, proxy: str) -> Vm:
    """The VM of a scenario."""
    env = {
        "GOPATH": str(home),
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": str(home / "pkg" / "mod"),
        "GOSUMDB": "off" if SCRIPTS[name].sumdb is None else str(database().key),
        # The database's own host is out of reach wherever the test runs.
        "HTTPS_PROXY": "http://127.0.0.1:1",
        **SCENARIOS[name]["env"],
    }
    return Vm(home, proxy, gocache, env=env)


def release_of(vm: Vm) -> str:
    """The release line of the ``go`` that a VM runs, as ``1.27``."""
    return vm.go("env", "GOVERSION").stdout.strip().removeprefix("go").rsplit(".", 1)[0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_real_client_does_what_the_vectors_say(
    upstream: UpstreamThread, tmp_path: Path, gocache: Path, name: str
) -> None:
    case, script = SCENARIOS[name], SCRIPTS[name]
    script.on(upstream.fake)
    home = tmp_path / "vm"
    vm = make_vm(home, gocache, name, case["goproxy"].replace("{u}", upstream.url))
    expected = outcome_of(case, release_of(vm))
    done = vm.go(*case["args"].split(), ok=False)
    assert as_recorded([head.split(b" ")[1].decode() for head in upstream.fake.heads]) == expected["requests"]
    assert (done.returncode == 0) is expected["ok"], done.stderr
    printed = done.stderr.strip()
    if done.stdout.startswith("{"):
        printed = json.loads(done.stdout).get("Error", "")
    printed = printed.replace(upstream.url, "U").replace(str(home), "TMP") if not expected["ok"] else ""
    printed = printed.removeprefix("go: -d flag is deprecated. -d=true is a no-op\n")
    error = expected["error"]
    for old, new in WORDINGS if expected["go"][0] == "1.15" else ():
        error = re.sub(old, new, error)
    printed, error = UNREACHED.sub("", printed), NO_HOST.sub("", error)
    assert printed[:KEPT] == error


@pytest.mark.parametrize("name", SCENARIOS)
async def test_real_client_fares_behind_the_proxy_as_without(
    tmp_path: Path, gocache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case, script = SCENARIOS[name], SCRIPTS[name]
    monkeypatch.setattr(one_upstream, "TRIES", 1)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    async with FakeUpstream() as fake:
        script.on(fake)
        here = Address("127.0.0.1", 0)
        settings = Settings(
            listen=(here,),
            admin_listen=here,
            cache_dir=tmp_path / "cache",
            upstream=case["goproxy"].replace("{u}", fake.url),
            sumdb=None if script.sumdb is None else SumdbSpec(NAME, str(database().key)),
            nosumdb=script.nosumdb,
        )
        server = Server(settings)
        await server.start()
        try:
            vm = make_vm(tmp_path / "vm", gocache, name, server.url)
            release = await asyncio.to_thread(release_of, vm)
            done = await asyncio.to_thread(vm.go, *case["args"].split(), ok=False)
        finally:
            await server.stop()
    expected = outcome_of(case, release)["ok"] is not (release in script.differing)
    assert (done.returncode == 0) is expected, done.stderr + done.stdout
