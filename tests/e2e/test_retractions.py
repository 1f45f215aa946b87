"""Offline ``go`` chooses no retracted version that it would not choose online."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.gocommand import Vm, serving
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

M = "example.com/m"
PROGRAM = {
    "go.mod": f"module example.com/program\n\ngo 1.21\n\nrequire {M} v1.0.0\n",
    "main.go": f'package main\n\nimport _ "{M}"\n\nfunc main() {{}}\n',
}


def chosen(vm: Vm) -> tuple[str, str, str]:
    """What is listed, what an update would be, and what @latest is."""
    vm.write(PROGRAM)
    listed = vm.go("list", "-m", "-versions", M).stdout
    update = json.loads(vm.go("list", "-m", "-u", "-json", M).stdout).get("Update", {}).get("Version", "")
    vm.go("get", f"{M}@latest")
    return listed, update, vm.go("list", "-m", "-f", "{{.Version}}", M).stdout.strip()


@pytest.mark.parametrize(
    ("newest", "retract", "choice"),
    [
        ("v1.3.0", "retract [v1.2.0, v1.3.0]", "v1.1.0"),
        ("v1.3.0", "retract (\n\tv1.2.0 // broken\n\t[v1.3.0, v1.3.0]\n)", "v1.1.0"),
        ("v1.3.0", "retract v1.3.0", "v1.2.0"),
    ],
)
def test_what_a_stored_mod_retracts(
    tmp_path: Path, gocache: Path, newest: str, retract: str, choice: str
) -> None:
    """Its zip is not stored: nobody had use for a version that retracts itself."""
    with UpstreamThread() as upstream:
        for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
            upstream.fake.add_module(M, version)
        arguments = (
            "--upstream",
            upstream.url,
            "--sumdb",
            "off",
            "--fresh",
            "0",
            "--stale-while-revalidate",
            "0",
        )
        with serving(tmp_path / "cache", *arguments) as server:
            vm = Vm(tmp_path / "before", server.url, gocache)
            for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
                vm.go("mod", "download", f"{M}@{version}")
            upstream.fake.add_module(M, newest, gomod=f"module {M}\n\n{retract}\n".encode())
            online = chosen(Vm(tmp_path / "online", server.url, gocache))
            assert online[2] == choice
            assert not upstream.fake.count(f"*/{newest}.zip")
        with serving(tmp_path / "cache", *arguments, "--offline") as server:
            offline = chosen(Vm(tmp_path / "offline", server.url, gocache))
    assert offline == online
