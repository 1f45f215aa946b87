"""docs/incident.md and /vm/incident: every command of both, run in their order by the real commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.gocommand import Running, Vm, go_binary, serving
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "incident.md").read_text()
MODULE, BAD, GOOD = "example.com/Upper/lib", "v1.2.3-RC1", "v1.2.2"
CODE = b'package lib\n\nfunc Name() string { return "lib" }\n'
PROGRAM = {
    "go.mod": f"module example.com/program\n\ngo 1.21\n\nrequire {MODULE} {BAD}\n",
    "main.go": f'package main\n\nimport "{MODULE}"\n\nfunc main() {{ println(lib.Name()) }}\n',
}


def commands() -> list[list[str]]:
    """The page's lines for the host, in their order."""
    return [line.split() for line in re.findall(r"^# goproxy-vm (.*)$", PAGE, re.MULTILINE)]


def run(server: Running, line: list[str]) -> tuple[int, str]:
    """One of them, about our module."""
    text = " ".join(line).replace("github.com/x/y", MODULE).replace("v1.2.3", BAD).partition(" > ")[0]
    words = [re.sub(r"^'(.*)'$", r"\1", word) for word in re.findall(r"'[^']*'|\S+", text)]
    done = subprocess.run(
        [sys.executable, "-m", "goproxy_vm", words[0], "--admin-url", server.admin_url, *words[1:]],
        env={"GOPROXY_VM_ADMIN_TOKEN": "x" * 16},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def steps(url: str) -> list[str]:
    """The page for VMs, as far as it is to be run, about our module."""
    with urllib.request.urlopen(f"{url}/vm/incident", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        text = answer.read().decode()
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    assert lines[0] == "M=github.com/x/y V=v1.2.3 GOOD=v1.2.2"
    assert lines[1] == f"proxy={url}"
    return [f"M={MODULE} V={BAD} GOOD={GOOD}", *lines[1:]]


def sh(vm: Vm, text: str) -> str:
    environ = vm.environ()
    environ["PATH"] = f"{Path(go_binary()).parent}{os.pathsep}{environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu", "-c", text], cwd=vm.work, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_whole_procedure(tmp_path: Path) -> None:
    """One VM has the version: blocked, found, purged, cleaned, led out, verified, taken back."""
    with UpstreamThread() as upstream:
        for version in (GOOD, BAD):
            upstream.fake.add_module(
                MODULE, version, {"go.mod": f"module {MODULE}\n".encode(), "lib.go": CODE}
            )
        arguments = ("--sumdb", "off", "--upstream", upstream.url)
        with serving(tmp_path / "cache", *arguments, env={"GOPROXY_VM_ADMIN_TOKEN": "x" * 16}) as server:
            # The page empties the build cache: this VM has its own.
            vm = Vm(tmp_path / "vm", server.url, tmp_path / "gocache", {"GOFLAGS": "-buildvcs=false"})
            vm.write(PROGRAM)
            vm.go("mod", "tidy")
            vm.go("build", "-o", "program", ".")
            said = {}
            for line in commands():
                name = line[0]
                if name == "check":  # the fifth step: before it comes the fourth, on the VM
                    printed = sh(vm, "\n".join(steps(server.url)))
                    assert "go.sum" in printed
                    assert f"{MODULE}\t{BAD}" in printed, "the program that was built carries it"
                    assert "403" in printed.splitlines()[-1]
                status, text = run(server, line)
                assert status == (5 if name == "check" else 0), text
                said[name, len([each for each in said if each[0] == name])] = text
            assert f"block {MODULE}@{BAD} as rule 1" in said["block", 0]
            assert "127.0.0.1" in said["who", 0]
            assert "refused" in said["check", 0]
            assert "INC-4711 malware" in said["blocks", 0]
            escaped, bad = MODULE.replace("U", "!u"), BAD.replace("RC", "!r!c")
            assert (vm.modcache / f"{escaped}@{GOOD}").exists()
            assert not (vm.modcache / f"{escaped}@{bad}").exists()
            left = (vm.modcache / "cache/download" / escaped / "@v").glob(f"{bad}.*")
            assert {each.suffix for each in left} <= {".mod", ".info", ".lock"}, "and no code"
            assert f"{MODULE} {GOOD}" in (vm.work / "go.mod").read_text()
            vm.go("build", "./...")
            assert vm.go("mod", "download", f"{MODULE}@{BAD}").returncode == 0, "it is taken back"
