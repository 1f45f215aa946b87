"""The real govulncheck against the mirror of a small database of our own.

Marked ``live``: govulncheck is installed through the Go module proxy that ``go env GOPROXY`` names.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gocommand import Vm, go_binary, serving
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.vulndb import documents, entry

GOVULNCHECK = "golang.org/x/vuln/cmd/govulncheck@v1.1.4"
M = "example.com/m"
ID = "GO-2026-0001"
ADVISORY = entry(ID, {M: [{"introduced": "0"}, {"fixed": "1.1.0"}]}, symbols={M: ["Bad"]})
FOUND = 3
"""The exit status of govulncheck where it has found something."""
MAIN = f'package main\n\nimport "{M}"\n\nfunc main() {{ m.Bad() }}\n'


@pytest.fixture(scope="session")
def govulncheck(tmp_path_factory: pytest.TempPathFactory, real_upstream: str, gocache: Path) -> Path:
    """Installed once for all tests."""
    vm = Vm(tmp_path_factory.mktemp("govulncheck") / "vm", real_upstream, gocache)
    vm.env["GOBIN"] = str(vm.home / "bin")
    done = vm.go("install", GOVULNCHECK, ok=False)
    if done.returncode != 0:
        pytest.skip(f"govulncheck cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return vm.home / "bin" / "govulncheck"


def check(vm: Vm, program: Path, url: str, scan: str) -> set[tuple[str, str]]:
    """What govulncheck finds: advisories, and the versions that fix them."""
    packages = () if scan == "module" else ("./...",)
    done = run(vm, program, "-db", f"{url}/vulndb", "-scan", scan, "-json", *packages)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = [each["finding"] for each in messages(done.stdout) if "finding" in each]
    return {(each["osv"], each["fixed_version"]) for each in findings}


def run(vm: Vm, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = vm.environ()
    environ["PATH"] = f"{Path(go_binary()).parent}:{environ['PATH']}"
    return subprocess.run(
        [program, *arguments], cwd=vm.work, env=environ, capture_output=True, text=True, timeout=100
    )


def messages(text: str) -> list[dict[str, Any]]:
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text.rstrip()):
        message, at = decoder.raw_decode(text, at)
        found.append(message)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


@pytest.mark.live
@pytest.mark.soak  # a minute for installing it
@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_govulncheck(tmp_path: Path, gocache: Path, govulncheck: Path) -> None:
    with UpstreamThread() as upstream, UpstreamThread() as database:
        for version in ("v1.0.0", "v1.1.0"):
            upstream.fake.add_module(
                M,
                version,
                {"go.mod": f"module {M}\n".encode(), "m.go": b"package m\n\nfunc Bad() {}\n"},
            )
        database.fake.files = {f"/{path}": data for path, data in documents([ADVISORY]).items()}
        cache = tmp_path / "cache"
        flags = ("--upstream", upstream.url, "--sumdb", "off", "--vulndb", database.url)
        with serving(cache, *flags) as server:
            vm = Vm(tmp_path / "vm", server.url, gocache)
            vm.write({"main.go": MAIN, "go.mod": "module example.com/main\n\ngo 1.21\n"})
            vm.go("get", f"{M}@v1.0.0")
            for scan in ("module", "package", "symbol"):
                assert check(vm, govulncheck, server.url, scan) == {(ID, "v1.1.0")}
            told = run(vm, govulncheck, "-db", f"{server.url}/vulndb", "./...")
            assert told.returncode == FOUND
            assert "Fixed in: example.com/m@v1.1.0" in told.stdout
            database.stop()
            assert check(vm, govulncheck, server.url, "symbol") == {(ID, "v1.1.0")}
        with serving(cache, *flags, "--offline") as server:
            assert check(vm, govulncheck, server.url, "symbol") == {(ID, "v1.1.0")}
        with serving(cache, *flags) as server:
            vm.proxy = server.url
            vm.go("get", f"{M}@v1.1.0")
            assert check(vm, govulncheck, server.url, "symbol") == set()
