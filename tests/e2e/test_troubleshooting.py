"""What docs/troubleshooting.md says that ``go`` prints is what it prints."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.gocommand import Vm, serving
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.upstream import Reply

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
TEXT = {"Content-Type": "text/plain"}
KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


@dataclass(frozen=True)
class Case:
    """A server with these settings, an upstream that answers some paths otherwise, and what a VM gets."""

    arguments: tuple[str, ...] = ()
    glob: str = "*"
    reply: Reply | None = None
    get: str = "example.com/m@v1.0.0"
    gosumdb: str = "off"


CASES = {
    "unknown": Case(
        glob="*/nothing/*",
        reply=Reply(b"not found: no such module\n", 404, TEXT, reason="Not Found"),
        get="example.com/nothing@v1.0.0",
    ),
    "offline": Case(("--offline",)),
    "nosumdb": Case(("--sumdb", "sum.golang.org", "--nosumdb", "example.com/*"), gosumdb="sum.golang.org"),
    "credentials": Case(reply=Reply(b"log in first\n", 401, TEXT, reason="Unauthorized")),
    "deny": Case(("--deny", "example.com/m")),
    "clients": Case(("--allow-clients", "10.0.0.0/8")),
    "trouble": Case(reply=Reply(status=503, reason="Service Unavailable")),
    "down": Case(("--upstream", "http://127.0.0.1:1")),
    "name": Case(("--upstream", "http://goproxy.invalid")),
    "no zip": Case(glob="*.zip", reply=Reply(b"<html>log in</html>")),
    "cut": Case(glob="*.zip", reply=Reply(b"x" * 1000, send=10)),
    "unproven": Case(("--sumdb", f"{KEY} http://127.0.0.1:1")),
    "stall": Case(("--stall-timeout", "1"), glob="*.zip", reply=Reply(b"x" * 1000, send=10, then="stall")),
    "budget": Case(("--max-size", "2MiB"), get="example.com/big@v1.0.0"),
    "disk": Case(("--min-free", "1000TB")),
}


def generic(text: str, server: str, upstream: str) -> str:
    """A message of ``go`` without what differs from run to run, as the page has it."""
    text = text.replace(server, "http://HOST:8080").replace(upstream, "goproxy.example")
    text = text.replace("clients at 127.0.0.1 ", "clients at 192.168.122.7 ")
    return re.sub(r"\[request \w+\]|(?<=h1:)[\w/+]{43}=", "…", text)


@pytest.mark.parametrize("name", CASES)
def test_the_page_has_what_go_prints(name: str, tmp_path: Path, gocache: Path) -> None:
    case = CASES[name]
    with UpstreamThread() as upstream:
        upstream.fake.add_module("example.com/m", "v1.0.0")
        gomod = b"module example.com/big\n"
        upstream.fake.add_module("example.com/big", "v1.0.0", {"go.mod": gomod, "data": os.urandom(3 << 20)})
        if case.reply is not None:
            upstream.fake.on(case.glob, case.reply)
        arguments = ("--upstream", upstream.url, "--sumdb", "off", *case.arguments)
        with serving(tmp_path / "cache", *arguments) as server:
            vm = Vm(tmp_path / "vm", server.url, gocache, env={"GOSUMDB": case.gosumdb})
            printed = said(vm, case.get)
            expect(printed, server.url, upstream.fake.name)


def test_bytes_that_changed(tmp_path: Path, gocache: Path) -> None:
    with UpstreamThread() as upstream:
        upstream.fake.add_module("example.com/m", "v1.0.0")
        arguments = ("--upstream", upstream.url, "--sumdb", "off")
        for number in range(2):
            with serving(tmp_path / "cache", *arguments) as server:
                vm = Vm(tmp_path / f"vm{number}", server.url, gocache)
                printed = said(vm, "example.com/m@v1.0.0", ok=number == 0)
            (tmp_path / "cache/modules/example.com/m/@v/v1.0.0.zip").unlink(missing_ok=True)
            upstream.fake.add_module("example.com/m", "v1.0.0", {"m.go": b"package m // moved\n"})
        expect(printed, server.url, upstream.fake.name)


def said(vm: Vm, get: str, *, ok: bool = False) -> str:
    vm.write({"go.mod": "module example.com/program\n\ngo 1.21\n"})
    done = vm.go("get", get, ok=ok)
    assert (done.returncode == 0) == ok
    return "".join(line for line in done.stderr.splitlines(True) if not line.startswith("go: downloading "))


def expect(printed: str, server: str, upstream: str) -> None:
    """Some block of the page is this, and nothing else."""
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert generic(printed, server, upstream) in [generic(block, server, upstream) for block in blocks]
