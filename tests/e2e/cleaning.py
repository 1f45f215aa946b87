"""A VM whose cache ``/vm/clean.sh`` is run on, and what may befall the one module that is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.gocommand import go_binary

FILE = Path(__file__).parents[2] / "goproxy_vm" / "web" / "clean.sh"
M, V = "example.com/Up/m", "v1.0.0"
ESCAPED = "example.com/!up/m"
DAY = 86400
MAIN = f'package main\n\nimport "{M}/sub"\n\nfunc main() {{ println(sub.Name()) }}\n'
GO_MOD = f"module example.com/p\n\ngo 1.21\n\nrequire {M} {V}\n"
MODULE = {
    "go.mod": f"module {M}\n\ngo 1.21\n".encode(),
    "m.go": b"package m\n",
    "sub/sub.go": b"package sub\n\n// Name is a name.\nfunc Name() string { return part() }\n",
    "sub/part.go": b'package sub\n\nfunc part() string { return "m" }\n',
}
BUILD = ("build", "-o", os.devnull, ".")


@dataclass
class Vm:
    """A user who builds one program, whose module has two packages."""

    home: Path
    proxy: str
    gocache: Path
    go_command: str = field(default_factory=go_binary)
    before: tuple[str, ...] = ()
    """What runs its commands as somebody else."""

    def __post_init__(self) -> None:
        self.work = self.home / "work"
        self.work.mkdir(parents=True)
        (self.work / "go.mod").write_text(GO_MOD)
        (self.work / "main.go").write_text(MAIN)
        self.env = {
            "PATH": f"{Path(self.go_command).parent}:/usr/bin:/bin",
            "HOME": str(self.home),
            "GOENV": "off",
            "GOPATH": str(self.home / "go"),
            "GOMODCACHE": str(self.modcache),
            "GOCACHE": str(self.gocache),
            "GOFLAGS": "-mod=mod -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "GOTELEMETRY": "off",
            "GOSUMDB": "off",
            "CGO_ENABLED": "0",
        }

    @property
    def modcache(self) -> Path:
        return self.home / "mod"

    @property
    def tree(self) -> Path:
        return self.modcache / f"{ESCAPED}@{V}"

    def file(self, kind: str) -> Path:
        return self.modcache / "cache" / "download" / ESCAPED / "@v" / f"{V}.{kind}"

    def try_go(self, *arguments: str, online: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.before, self.go_command, *arguments],
            cwd=self.work,
            env={**self.env, "GOPROXY": self.proxy if online else "off"},
            capture_output=True,
            text=True,
            timeout=200,
        )

    def go(self, *arguments: str, online: bool = True) -> str:
        done = self.try_go(*arguments, online=online)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}, with {self.state()}"
        return done.stdout

    def clean(
        self, *arguments: str, code: int = 0, path: str = "", shell: tuple[str, ...] = ("sh",)
    ) -> subprocess.CompletedProcess[str]:
        env = {**self.env, "GOPROXY": self.proxy}
        if path:
            env["PATH"] = f"{path}:{env['PATH']}"
        done = subprocess.run(
            [*self.before, *shell, str(FILE), *arguments],
            cwd=self.home,
            env=env,
            capture_output=True,
            text=True,
            start_new_session=True,  # a kill of the whole group is one of the script
            timeout=200,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def age(self, days: float) -> None:
        """Have the last use, and the download, be so many days ago."""
        when = time.time() - days * DAY
        os.utime(self.file("ziphash"), (when, when))

    def state(self) -> str:
        kinds = [kind for kind in ("zip", "ziphash", "partial") if self.file(kind).exists()]
        moved = self.tree.with_name(f"{self.tree.name}.tmp-clean").exists()
        return " ".join(kinds + ["tree"] * self.tree.exists() + ["moved"] * moved)


def make_writable(top: Path) -> None:
    """So that pytest can remove it."""
    for path in (top, *top.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def remove(path: Path) -> None:
    if path.is_dir():
        make_writable(path)
        shutil.rmtree(path)
    else:
        path.unlink()


def cut(vm: Vm) -> None:
    remove(vm.tree)
    whole = vm.file("zip").read_bytes()
    vm.file("zip").chmod(0o644)
    vm.file("zip").write_bytes(whole[: len(whole) // 2])


def halve(vm: Vm) -> None:
    (vm.tree / "sub").chmod(0o755)
    (vm.tree / "sub" / "part.go").unlink()


def check_kills(vm: Vm, tmp_path: Path, then: str) -> None:
    """After the n-th mv, rm, rmdir or chmod all of the script is gone; then ``go`` comes, or the next run
    (``clean``)."""
    tools, counter = tmp_path / "bin", tmp_path / "count"
    mark = vm.modcache / "cache" / "goproxy-vm.cleaned"
    tools.mkdir()
    for name in ("mv", "rm", "rmdir", "chmod"):
        real = shutil.which(name)
        (tools / name).write_text(
            f'#!/bin/sh\n{real} "$@"\nstatus=$?\necho >>{counter}\n'
            f'[ "$(wc -l <{counter})" -lt "$LIMIT" ] || kill -9 0\nexit $status\n'
        )
        (tools / name).chmod(0o755)
    seen = []
    for limit in range(1, 100):
        counter.write_text("")
        mark.unlink(missing_ok=True)
        vm.age(60)
        vm.env["LIMIT"] = str(limit)
        env = {**vm.env, "PATH": f"{tools}:{vm.env['PATH']}", "TMPDIR": str(tmp_path), "GOPROXY": vm.proxy}
        done = subprocess.run(
            ["sh", str(FILE)], env=env, capture_output=True, text=True, start_new_session=True, timeout=100
        )
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        state = vm.state()
        known = state in seen
        seen.append(state)
        assert not mark.exists() or state == "", "it says that a run was complete"
        if known:
            pass
        elif then == "clean":
            vm.clean()
            assert vm.state() == "", state
            assert not any(vm.tree.parent.iterdir()), state
        elif state in {"zip ziphash tree", "ziphash tree"}:
            vm.go(*BUILD, online=False)
        vm.go(*BUILD)
        if then == "go" and not known:
            vm.go("mod", "verify")
    assert {"zip ziphash tree", "ziphash tree", "ziphash moved", "moved", ""} <= set(seen), seen


def atimes_show(directory: Path) -> bool:
    probe = directory / "probe"
    probe.write_text("x")
    os.utime(probe, (0, 0))
    probe.read_text()
    return probe.stat().st_atime > 0


USES = {
    "build": (BUILD, True),
    "list -deps": (("list", "-deps", "."), True),
    "vet": (("vet", "."), True),
    "mod download": (("mod", "download"), True),
    "list -m": (("list", "-m", "all"), False),
    "version": (("version",), False),
}


def check_uses(vm: Vm) -> None:
    """What cleaning by age stands on: a go that no longer reads that file has to be found here."""
    for name, (command, uses) in USES.items():
        vm.age(10)
        vm.go(*command)
        assert (vm.file("ziphash").stat().st_atime > time.time() - DAY) is uses, name
