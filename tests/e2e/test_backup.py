"""Backup and restore as docs/install.md describes them, with its own commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.gocommand import Running, Vm, serving
from tests.e2e.test_verified import M, V, World
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PRIVATE = "corp.example/private"
SECTION = (Path(__file__).parents[2] / "docs/install.md").read_text().partition("\n## Backup\n")[2]
COMMANDS = re.findall(r"^# (.*)$", SECTION, re.MULTILINE)


def recovered(server: Running, cache: Path) -> None:
    """Wait until what was found at the start has been put right."""
    token = (cache / "admin.token").read_text().strip()
    request = urllib.request.Request(
        f"{server.admin_url}/api/v1/status", headers={"Authorization": f"Bearer {token}"}
    )
    while True:
        with urllib.request.urlopen(request, timeout=30) as response:
            if json.load(response)["state"] == "ready":
                return
        time.sleep(0.05)


def run(command: str, cache: Path, backup: Path) -> None:
    command = command.replace("/var/cache/goproxy-vm", str(cache)).replace("/backup", str(backup))
    subprocess.run(command.replace("python3", sys.executable), shell=True, check=True)


def operate(server: Running, cache: Path, *arguments: str) -> str:
    """What a command prints that asks the server."""
    where = ("--admin-url", server.admin_url, "--token-file", str(cache / "admin.token"))
    command = [sys.executable, "-m", "goproxy_vm", arguments[0], *where, *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("tool", [pytest.param("sqlite3", marks=pytest.mark.soak), "python3"])
def test_backup_of_a_running_server(tool: str, tmp_path: Path, gocache: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    cache, backup = tmp_path / "cache", tmp_path / "backup"
    backup.mkdir()
    with UpstreamThread() as upstream:
        world = World(upstream)
        world.add(PRIVATE, V, recorded=False)
        arguments = (*world.arguments, "--nosumdb", "corp.example")
        env = {"GOSUMDB": str(world.database.key), "GONOSUMDB": "corp.example"}

        def vm(name: str, server: Running) -> Vm:
            made = Vm(tmp_path / f"vm-{name}", server.url, gocache, env=env)
            made.write({"go.mod": "module example.com/program\n\ngo 1.21\n"})
            return made

        with serving(cache, *arguments) as server:
            first = vm("first", server)
            first.go("get", f"{M}@{V}", f"{PRIVATE}@{V}")
            operate(server, cache, "block", "corp.example/bad@v1.0.0", "--reason", "INC-1")
            for command in COMMANDS:
                if command.startswith((tool, "cp", "rm", "test ")):
                    run(command, cache, backup)
        names = {"modules", "sumdb", "admin.token", "gate.json", "index.db"}
        assert {each.name for each in backup.iterdir()} == names

        # All of it: everything is there again, and needs nobody.
        whole = tmp_path / "whole"
        shutil.copytree(backup, whole)
        with serving(whole, *arguments, "--offline") as server:
            recovered(server, whole)
            assert "corp.example/bad@v1.0.0" in operate(server, whole, "blocks")
            offline = vm("offline", server)
            offline.write({name: (first.work / name).read_text() for name in ("go.mod", "go.sum")})
            offline.go("mod", "download")

        # Without the files: they are fetched, and held to the hashes seen first.
        known = tmp_path / "known"
        shutil.copytree(backup, known, ignore=shutil.ignore_patterns("modules"))
        upstream.fake.add_module(PRIVATE, V, {"m.go": b"package m // moved\n"})
        with serving(known, *arguments) as server:
            recovered(server, known)
            vm("known", server).go("get", f"{M}@{V}")
            moved = vm("moved", server).go("get", f"{PRIVATE}@{V}", ok=False)
            assert "when first seen; refused" in moved.stderr

        # Without the index: all is adopted, and needs nobody.
        lost = tmp_path / "lost"
        shutil.copytree(backup, lost, ignore=shutil.ignore_patterns("index.db"))
        asked = upstream.fake.count(f"/{M}/@v/{V}.zip")
        with serving(lost, *arguments) as server:
            recovered(server, lost)
            vm("lost", server).go("get", f"{M}@{V}")
            assert upstream.fake.count(f"/{M}/@v/{V}.zip") == asked
        shutil.rmtree(lost)
        shutil.copytree(backup, lost, ignore=shutil.ignore_patterns("index.db"))
        with serving(lost, *arguments, "--offline") as server:
            recovered(server, lost)
            without = vm("without", server)
            without.write({name: (first.work / name).read_text() for name in ("go.mod", "go.sum")})
            without.go("mod", "download")

    # What nobody has any more comes from the copy.
    copied = f"file://{backup}/modules|{arguments[1]}"
    with serving(tmp_path / "empty", "--upstream", copied, "--sumdb", "off") as server:
        vm("copy", server).go("mod", "download", f"{PRIVATE}@{V}")
