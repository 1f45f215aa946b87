"""What a block makes ``go`` do: the table of docs/decisions/0016-what-a-block-refuses.md."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gocommand import Running, Vm, serving, start
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.upstream import Reply

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODULES: dict[str, dict[str, str]] = {
    "m": {"v1.0.0": "", "v1.1.0": "", "v1.2.0": ""},
    "d": {"v1.0.0": "require example.com/m v1.2.0"},
    "f": {"v1.1.0": "", "v1.2.0": ""},
    "e": {"v1.0.0": "require example.com/f v1.1.0"},
    "r": {"v1.0.0": "", "v1.1.0": "", "v1.2.0": "retract v1.1.0"},
    "s": {"v1.0.0": ""},
}
PSEUDO = "v1.2.1-0.20240102030405-abcdefabcdef"
BLOCKED = ["m@v1.2.0", f"m@{PSEUDO}", "f@v1.1.0", "r@v1.2.0", "s@v1.0.0"]
WHY = "blocked on this host: INC-4711 malware (block "


def required(*modules: str) -> str:
    lines = "\n".join(f"require example.com/{each}" for each in modules)
    return f"module example.com/program\n\ngo 1.21\n\n{lines}\n"


def importing(*modules: str) -> str:
    return (
        "package main\n\n"
        + "".join(f'import _ "example.com/{each}"\n' for each in modules)
        + "\nfunc main() {}\n"
    )


def command(server: Running, *arguments: str, status: int = 0) -> str:
    """What an operator's command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "goproxy_vm", arguments[0], "--admin-url", server.admin_url, *arguments[1:]],
        env={"GOPROXY_VM_ADMIN_TOKEN": "x" * 16},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        for name, versions in MODULES.items():
            for version, line in versions.items():
                gomod = f"module example.com/{name}\n\ngo 1.21\n\n{line}\n".encode()
                code = b"package p\n" + (b'import _ "example.com/m"\n' if name == "d" else b"")
                files = {"go.mod": gomod, "p.go": code}
                thread.fake.add_module(f"example.com/{name}", version, files, gomod=gomod)
        served = thread.fake.files
        before = served["/example.com/m/@v/list"]
        thread.fake.add_module("example.com/m", PSEUDO)
        served["/example.com/m/@v/list"] = before
        served["/example.com/m/@latest"] = served["/example.com/m/@v/v1.2.0.info"]
        served["/example.com/m/@v/master.info"] = served[f"/example.com/m/@v/{PSEUDO}.info"]
        yield thread


@pytest.fixture(scope="module")
def server(upstream: UpstreamThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    cache = tmp_path_factory.mktemp("gate") / "cache"
    arguments = ("--sumdb", "off", "--upstream", upstream.url)
    with serving(cache, *arguments, env={"GOPROXY_VM_ADMIN_TOKEN": "x" * 16}) as running:
        for rule in BLOCKED:
            said = command(running, "block", f"example.com/{rule}", "--reason", "INC-4711 malware")
            assert said.startswith(f"block example.com/{rule} as rule ")
        yield running


Go = Callable[..., tuple[bool, str, str]]


@pytest.fixture
def go(server: Running, tmp_path: Path, gocache: Path) -> Go:
    """Runs one command in a program of its own: whether it did well, what it said, and go.mod after it."""
    numbers = count()

    def run(
        *arguments: str, gomod: str = required(), main: str = importing(), proxy: str = ""
    ) -> tuple[bool, str, str]:
        vm = Vm(tmp_path / f"vm{next(numbers)}", proxy or server.url, gocache, {"GONOSUMDB": "*"})
        vm.write({"go.mod": gomod, "main.go": main})
        done = vm.go(*arguments, ok=False)
        return done.returncode == 0, done.stdout + done.stderr, (vm.work / "go.mod").read_text()

    return run


def required_of(gomod: str, module: str) -> str:
    """The version that a go.mod requires; nothing for none."""
    found = [line.split() for line in gomod.splitlines() if f"example.com/{module} " in line]
    return found[0][found[0].index(f"example.com/{module}") + 1] if found else ""


@pytest.mark.parametrize(
    ("asked", "before"),
    [
        (("get", "example.com/m"), ""),
        (("get", "example.com/m@latest"), ""),
        (("get", "-u", "./..."), "m v1.1.0"),
    ],
)
def test_the_newest_that_passes(go: Go, asked: tuple[str, ...], before: str) -> None:
    ok, said, gomod = go(*asked, gomod=required(*filter(None, [before])), main=importing("m"))
    assert ok, said
    assert required_of(gomod, "m") == "v1.1.0"


@pytest.mark.parametrize("asked", ["v1.2.0", "master"])
def test_what_is_blocked_says_why(go: Go, asked: str) -> None:
    ok, said, _ = go("get", f"example.com/m@{asked}")
    assert not ok
    assert WHY in said
    assert "newest version allowed: v1.1.0; if a VM has it already, see /vm/incident" in said


def test_a_prefix_has_no_room_for_a_sentence(go: Go) -> None:
    ok, said, _ = go("get", "example.com/m@v1.2")
    assert not ok
    assert "no matching versions" in said


def test_the_way_out(go: Go) -> None:
    ok, said, gomod = go("get", "example.com/m@v1.1.0", gomod=required("m v1.2.0"), main=importing("m"))
    assert ok, said
    assert required_of(gomod, "m") == "v1.1.0"


@pytest.mark.parametrize(
    ("asked", "gomod", "main"),
    [
        (("get", "example.com/d"), required(), importing()),
        (("mod", "tidy"), required("d v1.0.0"), importing("d", "m")),
        (("mod", "download"), required("m v1.2.0"), importing("m")),
        (("build", "-mod=mod", "./..."), required("m v1.2.0"), importing("m")),
    ],
)
def test_what_needs_it_fails_and_says_why(go: Go, asked: tuple[str, ...], gomod: str, main: str) -> None:
    ok, said, _ = go(*asked, gomod=gomod, main=main)
    assert not ok
    assert WHY in said


def test_what_is_only_mentioned_is_no_hindrance(go: Go) -> None:
    gomod, main = required("e v1.0.0", "f v1.2.0"), importing("e", "f")
    ok, said, after = go("mod", "tidy", gomod=gomod, main=main)
    assert ok, said
    assert required_of(after, "f") == "v1.2.0"
    ok, said, _ = go("get", "example.com/f@v1.2.0", gomod=required("e v1.0.0"), main=main)
    assert ok, said


@pytest.mark.parametrize("version", ["v1.1.0", "v1.2.0"])
def test_looking_for_updates(go: Go, version: str) -> None:
    ok, said, _ = go(
        "list", "-mod=mod", "-m", "-u", "all", gomod=required(f"m {version}"), main=importing("m")
    )
    assert ok, said
    assert "[v1.2.0]" not in said


def test_the_list(go: Go) -> None:
    ok, said, _ = go("list", "-m", "-versions", "example.com/m")
    assert ok
    assert said.split() == ["example.com/m", "v1.0.0", "v1.1.0"]


def test_retractions_of_what_is_blocked_are_ignored(go: Go) -> None:
    ok, said, gomod = go("get", "example.com/r")
    assert ok, said
    assert required_of(gomod, "r") == "v1.1.0"


def test_a_module_of_which_nothing_is_left(go: Go) -> None:
    ok, said, _ = go("get", "example.com/s")
    assert not ok
    assert "every version is refused here: 1 blocked on this host: INC-4711 malware (block " in said


def test_another_proxy_behind_a_comma_is_not_asked(go: Go, server: Running, upstream: UpstreamThread) -> None:
    both = f"{server.url},{upstream.url}"
    for asked in ("example.com/m@v1.2.0", "example.com/s"):
        ok, said, _ = go("get", asked, proxy=both)
        assert not ok
        assert WHY in said
    # A block holds only where VMs name no second proxy behind a bar.
    ok, said, _ = go("get", "example.com/m@v1.2.0", proxy=both.replace(",", "|"))
    assert ok, said


def test_a_toolchain_that_is_blocked(go: Go, server: Running, upstream: UpstreamThread) -> None:
    upstream.fake.on("/golang.org/toolchain/*", Reply(b"PK", 200))
    command(server, "block", "golang.org/toolchain@v0.0.1-go1.99.*", "--reason", "INC-1")
    ok, said, _ = go("mod", "tidy", gomod="module x\n\ngo 1.99.0\n")
    assert not ok
    assert "1.99" in said


def test_the_commands(server: Running) -> None:
    assert command(server, "check", "example.com/m@v1.2.0", status=5).split()[:2] == ["verdict", "refused"]
    assert command(server, "check", "example.com/zzz").split() == ["verdict", "passes"]
    listed = command(server, "blocks")
    assert "example.com/m@v1.2.0" in listed
    said = command(
        server, "block", "example.com/other@*", "--reason", "for a test", "--for", "1h", "--dry-run"
    )
    assert "a dry run, nothing was changed" in said
    given = command(
        server, "block", "example.com/other@*", "--reason", "for a test", "--for", "1h", "--by", "me"
    )
    assert ", until 20" in given
    assert "(rule " in command(server, "unblock", "example.com/other@ * ")
    command(server, "unblock", "example.com/other@*", status=4)
    command(server, "unblock", "99999", status=4)
    exempt = command(server, "exempt", "example.com/other@v1.0.0", "--reason", "a fix", "--for", "14d")
    number = exempt.partition(" as rule ")[2].partition(",")[0]
    assert "exempt" in command(server, "blocks")
    command(server, "unblock", number)
    assert "ended" in command(server, "blocks", "--all")
    command(server, "exempt", "example.com/other@v1.0.0", "--reason", "for ever", status=2)
    command(server, "block", "example.com/other@^v1", "--reason", "x", status=2)
    command(server, "block", "example.com/other", status=2)


def test_a_kill_right_after_the_answer(upstream: UpstreamThread, tmp_path: Path) -> None:
    """What was answered is on disk; what was under way is whole, or was never given."""
    cache, token = tmp_path / "cache", {"GOPROXY_VM_ADMIN_TOKEN": "x" * 16}
    arguments = ("--sumdb", "off", "--upstream", upstream.url)
    for number in range(1, 6):
        running = start(cache, *arguments, env=token)
        try:
            given = post(running, f"example.com/k@v1.{number}.0")
            under_way = threading.Thread(target=attempt, args=(running, f"example.com/k@v2.{number}.0"))
            under_way.start()
        finally:
            running.process.kill()
            running.process.communicate()
        under_way.join()
        kept = json.loads((cache / "gate.json").read_text())["rules"]
        assert f"example.com/k@v1.{number}.0" in [each["rule"] for each in kept]
        assert given["id"] in [each["number"] for each in kept]
    with serving(cache, *arguments, env=token) as server:
        listed = command(server, "blocks")
        assert all(f"example.com/k@v1.{number}.0" in listed for number in range(1, 6))


def post(server: Running, rule: str) -> dict[str, Any]:
    body = json.dumps({"kind": "block", "rule": rule, "reason": "r"}).encode()
    headers = {"Authorization": f"Bearer {'x' * 16}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.admin_url}/api/v1/gate/rules", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answered: dict[str, Any] = json.loads(answer.read())
    return answered


def attempt(server: Running, rule: str) -> None:
    """What the server may be killed in the middle of."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        post(server, rule)
