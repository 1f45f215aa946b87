"""The launcher: what it confines the commands of a run to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.upstream.direct import jail
from goproxy_vm.upstream.direct.jail import NOT_RUN, landlock_abi

LAUNCHER = Path(jail.__file__)
needs_landlock = pytest.mark.skipif(landlock_abi() < 1, reason="the kernel has no Landlock")
needs_tcp = pytest.mark.skipif(landlock_abi() < 4, reason="the kernel's Landlock does not know TCP")
needs_scopes = pytest.mark.skipif(landlock_abi() < 6, reason="the kernel's Landlock does not know signals")
READ = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", sys.prefix, sys.base_prefix]


def launch(code: str, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Python code below the launcher; keywords change the job."""
    job = {
        "argv": [sys.executable, "-I", "-S", "-c", code, *arguments],
        "parent": os.getpid(),
        "cwd": "/",
        "read": READ,
        "write": ["/dev/null"],
        "port": 0,
        "limits": {"CORE": 0},
        "landlock": True,
        **changes,
    }
    return subprocess.run(
        [sys.executable, "-I", "-S", LAUNCHER, json.dumps(job)], capture_output=True, text=True, timeout=60
    )


def test_it_becomes_the_command(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), sys.argv[1], oct(os.umask(0)), os.nice(0) >= 5)"
    run = launch(code, "a b", cwd=str(tmp_path), write=[str(tmp_path)])
    assert run.stdout == f"{tmp_path} a b 0o77 True\n", run.stderr
    assert launch("raise SystemExit(7)").returncode == 7


def test_limits() -> None:
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_DATA))"
    run = launch(code, limits={"NOFILE": 99, "DATA": 1 << 30})
    assert run.stdout == f"(99, 99) ({1 << 30}, {1 << 30})\n", run.stderr
    more = "bytearray(1 << 30)"
    assert "MemoryError" in launch(more, limits={"DATA": 256 << 20}).stderr


def test_not_without_its_parent() -> None:
    """Who started it has died meanwhile: nobody would end it."""
    run = launch("print('ran')", parent=1)
    assert (run.returncode, run.stdout) == (NOT_RUN, "")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """By the kernel, for whoever is killed can end nothing."""
    job = {"argv": ["/bin/sleep", "60"], "cwd": "/", "read": [], "write": [], "port": 0, "limits": {}}
    parent = (
        "import json, os, subprocess, sys\n"
        f"job = {job!r} | {{'parent': os.getpid(), 'landlock': False}}\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', {str(LAUNCHER)!r}, json.dumps(job)])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        command = Path(f"/proc/{child}/cmdline")
        while not command.read_bytes().startswith(b"/bin/sleep"):
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    while command.exists() and command.read_bytes():  # a zombie has no command line
        os.sched_yield()


def test_what_cannot_be_run() -> None:
    run = launch("", argv=["/nonexistent/go"], landlock=False)
    assert run.returncode == NOT_RUN
    assert run.stderr == "jail: No such file or directory\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that the run has no business with."""
    file = tmp_path / "secret"
    file.write_text("secret")
    return file


@needs_landlock
def test_files_that_are_not_named_cannot_be_read(secret: Path) -> None:
    read = "import sys; print(open(sys.argv[1]).read())"
    assert "PermissionError" in launch(read, str(secret)).stderr
    assert launch(read, str(secret), read=[*READ, str(secret)]).stdout == "secret\n"
    assert launch(read, str(secret), landlock=False).stdout == "secret\n"
    assert "PermissionError" in launch(read, "/etc/hostname").stderr
    assert "PermissionError" in launch(read, f"/proc/{os.getpid()}/environ").stderr


@needs_landlock
def test_only_below_some_directories_can_be_written(secret: Path, tmp_path: Path) -> None:
    write = "import sys; open(sys.argv[1], 'w').write('x')"
    ours = tmp_path / "run"
    ours.mkdir()
    assert "PermissionError" in launch(write, str(tmp_path / "other"), write=[str(ours)]).stderr
    assert "PermissionError" in launch(write, str(secret), read=[*READ, str(secret)]).stderr
    assert launch(write, str(ours / "x"), write=[str(ours)]).returncode == 0
    run = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    program = ours / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert "PermissionError" in launch(run, str(program)).stderr


@pytest.fixture
def listener() -> Iterator[int]:
    """A port of this host that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@needs_tcp
def test_one_port_can_be_connected_to(listener: int) -> None:
    connect = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print('there')"
    assert launch(connect, str(listener), port=listener).stdout == "there\n"
    assert "PermissionError" in launch(connect, str(listener), port=1).stderr
    assert "PermissionError" in launch("import socket; socket.create_server(('', 0))", port=listener).stderr


@needs_scopes
def test_no_signals_to_the_server() -> None:
    assert "PermissionError" in launch(f"import os; os.kill({os.getpid()}, 0)").stderr


def test_without_landlock_the_rest_holds(secret: Path) -> None:
    code = "import os, resource as r, sys; print(open(sys.argv[1]).read(), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    run = launch(code, str(secret), landlock=False, limits={"NOFILE": 99})
    assert run.stdout == "secret 99\n", run.stderr
