"""A real module graph through the proxy from the machine's own Go module proxy.

Marked ``live``: needs the Go module proxy that ``go env GOPROXY`` names, and skips without it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.gocommand import Vm, serving

GRAPH = Path(__file__).parent / "live_small"


@pytest.fixture
def make_vm(tmp_path: Path, gocache: Path) -> Callable[..., Vm]:
    """Makes VMs that hold the module graph, with its go.sum or without."""

    def make(name: str, url: str, *, sums: bool = True) -> Vm:
        env = {"GOSUMDB": "sum.golang.org", "GOFLAGS": "-modcacherw -mod=mod"}
        vm = Vm(tmp_path / name, url, gocache, env=env)
        for file in GRAPH.iterdir():
            if sums or "go.sum" not in file.name:
                shutil.copy(file, vm.work / file.name.removesuffix(".txt"))
        return vm

    return make


@pytest.mark.live
@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "sums",
    [pytest.param(True, marks=pytest.mark.soak, id="with go.sum"), pytest.param(False, id="without go.sum")],
)
def test_module_graph_cold_verified_warm_and_offline(
    tmp_path: Path, make_vm: Callable[..., Vm], real_upstream: str, *, sums: bool
) -> None:
    """Without go.sum each VM asks the checksum database, which it reaches through the proxy alone."""
    env = {"GOPROXY_VM_UPSTREAM": real_upstream} | {
        key: os.environ[key] for key in ("SSL_CERT_FILE",) if key in os.environ
    }
    with serving(tmp_path / "cache", env=env) as server:
        cold = make_vm("cold", server.url, sums=sums)
        cold.go("mod", "download")
        assert "all modules verified" in cold.go("mod", "verify").stdout
        make_vm("warm", server.url, sums=sums).go("mod", "download")
    with serving(tmp_path / "cache", "--offline") as server:
        offline = make_vm("offline", server.url, sums=sums)
        offline.go("mod", "download")
        assert "all modules verified" in offline.go("mod", "verify").stdout
        assert (offline.work / "go.sum").read_text() == (cold.work / "go.sum").read_text()
