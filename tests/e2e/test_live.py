"""A real module graph through the proxy from the machine's own Go module proxy.

Marked ``live``: needs the Go module proxy that ``go env GOPROXY`` names, and skips without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.gocommand import Vm, go_binary, serving

GRAPH = Path(__file__).parent / "live_small"
PROBE = "golang.org/x/mod/@v/v0.12.0.info"


@pytest.fixture(scope="module")
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


@pytest.mark.live
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_module_graph_cold_verified_warm_and_offline(
    tmp_path: Path, gocache: Path, real_upstream: str
) -> None:
    def vm(name: str, url: str) -> Vm:
        made = Vm(tmp_path / name, url, gocache, env={"GOSUMDB": "sum.golang.org"})
        for file in GRAPH.iterdir():
            shutil.copy(file, made.work / file.name.removesuffix(".txt"))
        return made

    env = {"GOPROXY_VM_UPSTREAM": real_upstream} | {
        key: os.environ[key] for key in ("SSL_CERT_FILE",) if key in os.environ
    }
    with serving(tmp_path / "cache", env=env) as server:
        cold = vm("cold", server.url)
        cold.go("mod", "download")
        assert "all modules verified" in cold.go("mod", "verify").stdout
        vm("warm", server.url).go("mod", "download")
    with serving(tmp_path / "cache", "--offline") as server:
        offline = vm("offline", server.url)
        offline.go("mod", "download")
        assert "all modules verified" in offline.go("mod", "verify").stdout
