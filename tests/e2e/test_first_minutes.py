"""docs/first-five-minutes.md is what happens: its commands are run, with the real upstream and ``go``.

Figures, times and addresses may be others; words may not.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.gocommand import go_binary
from tests.fakes.ports import closed_port

pytestmark = [pytest.mark.e2e, pytest.mark.live, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "first-five-minutes.md"
HOST = "http://192.168.122.1:8080"
"""How the page calls the server."""
SERVE = "make serve"
NOT_RUN = ("git clone ", "cd ")
UPSTREAM = "https://proxy.golang.org"
READY = re.compile(r"^  admin .*$", re.MULTILINE)


def steps() -> list[tuple[str, str]]:
    """Each command of the page, and what it prints there."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


@dataclass
class Scene:
    """A host and a VM in directories of their own; ``url`` is the server's while it runs."""

    top: Path
    upstream: str
    port: int = field(default_factory=closed_port)
    url: str = ""
    server: subprocess.Popen[bytes] | None = None
    terminal: int = -1

    def environ(self, name: str) -> dict[str, str]:
        home = self.top / name
        (home / "work").mkdir(parents=True, exist_ok=True)
        path = os.environ["PATH"]
        if name == "vm":
            go = {"GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw", "LANG": "en_US.UTF-8"}
            return {"PATH": f"{Path(go_binary()).parent}{os.pathsep}{path}", "HOME": str(home), **go}
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        return {"PATH": path, "HOME": str(home), **proxies}

    def serve(self, flags: list[str]) -> str:
        """Start the server on a terminal; what it greets with."""
        command = [str(Path(sys.executable).parent / "goproxy-vm"), "serve", *flags]
        command += ["--listen", f"0.0.0.0:{self.port}", "--admin-listen", "127.0.0.1:0"]
        command += ["--upstream", self.upstream]
        self.terminal, end = pty.openpty()
        self.server = subprocess.Popen(command, env=self.environ("host"), stdin=end, stdout=end, stderr=end)
        os.close(end)
        said = ""
        while not (said and READY.search(said) and said.endswith("\n\n")):
            said += os.read(self.terminal, 65536).decode().replace("\r\n", "\n")
        found = re.search(r"GOPROXY=(\S+)", said)
        assert found is not None, said
        self.url = found[1]
        return said

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            status = self.server.wait(60)
            os.close(self.terminal)
            self.server = None
            assert status == 0

    def run(self, command: str) -> str:
        """What a command prints: those of goproxy-vm run on the host, others on the VM."""
        if command.startswith(SERVE):
            self.stop()
            flags = re.search(r"ARGS='(.*)'", command)
            return self.serve(flags[1].split() if flags else [])
        on_host = command.startswith(".venv/bin/goproxy-vm")
        words = command.replace(".venv/bin/goproxy-vm", f"{Path(sys.executable).parent}/goproxy-vm")
        environ = self.environ("host" if on_host else "vm")
        done = subprocess.run(
            ["/bin/sh", "-c", words.replace(HOST, self.url)],
            cwd=Path(environ["HOME"]) / "work",
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout


@contextmanager
def scene(top: Path, upstream: str) -> Iterator[Scene]:
    made = Scene(top, upstream)
    try:
        yield made
    finally:
        made.stop()


def generic(text: str, made: Scene) -> list[str]:
    """What is printed, without what differs from run to run and from host to host."""
    name = urlsplit(made.upstream).netloc
    text = text.replace(made.url or HOST, HOST).replace(name, UPSTREAM.partition("://")[2])
    text = text.replace(f"{made.top}/host", "/home/gopher").replace(
        f"{Path(sys.executable).parent}", "/home/gopher/goproxy_vm/.venv/bin"
    )
    text = re.sub(r"(?m)^go: downloading .*\n", "", text)
    text = re.sub(r"\[request \w+\]", "[request …]", text)
    text = re.sub(r"\b(http://)?(\d{1,3}\.){3}\d{1,3}:\d+", "ADDRESS", text)
    text = re.sub(r"\b(\d+[dhms] )?\d+[dhms]\b", "AGE", text)
    text = re.sub(r"\d[\d.,]*( [KMGT]i?B| B)?", "N", text)
    text = re.sub(r"\b(N \w+?)s\b", r"\1", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_page_is_what_happens(tmp_path: Path, real_upstream: str) -> None:
    with scene(tmp_path, real_upstream) as made:
        for command, printed in steps():
            if command.startswith(NOT_RUN):
                continue
            said = made.run(command)
            print(f"$ {command}\n{said}")  # with -s, what a new recording is made of
            assert generic(said, made) == generic(printed, made), command
