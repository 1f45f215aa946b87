"""A VM's own side: what lies on its disk, what cleaning gives back, and what the next build costs then.

By the scripts that the server serves, the real ``go``, and the graph of the real client; no core is pinned:
``python -m benchmarks.vm --upstream URL``. Needs about 3 GB in ``/var/tmp``, and minutes for the first build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.client import GRAPH
from benchmarks.servers import Target, fetch, ours

BUILD = ("build", "-o", os.devnull, ".")
SIZE = "200M"
"""What ``clean.sh --size`` is to leave."""


@dataclass(frozen=True)
class Vm:
    """A home with one program, and its own caches."""

    home: Path
    host: Target

    @property
    def modcache(self) -> Path:
        return self.home / "mod"

    @property
    def gocache(self) -> Path:
        return self.home / "build"

    def environ(self, *, online: bool = True) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "GOENV": "off",
            "GOPATH": str(self.home / "go"),
            "GOMODCACHE": str(self.modcache),
            "GOCACHE": str(self.gocache),
            "GOFLAGS": "-mod=mod -buildvcs=false",
            "GOPROXY": self.host.url if online else "off",
            "GOTOOLCHAIN": "local",
            "GOTELEMETRY": "off",
            "CGO_ENABLED": "0",
        }

    def go(self, *arguments: str, online: bool = True) -> float:
        """Seconds that a command of ``go`` takes."""
        return self._timed(["go", *arguments], self.environ(online=online))

    def script(self, name: str, *arguments: str) -> float:
        """Seconds that a script of the host takes, once it is there."""
        text = fetch(f"{self.host.url}/vm/{name}")
        return self._timed(["sh", "-s", "--", *arguments], self.environ(), text)

    def _timed(self, command: list[str], environ: dict[str, str], text: bytes | None = None) -> float:
        started = time.monotonic()
        done = subprocess.run(command, input=text, cwd=self.home / "work", env=environ, capture_output=True)
        took = time.monotonic() - started
        if done.returncode != 0:
            raise SystemExit(f"{command} failed: {done.stderr.decode()}")
        return took


def disk(paths: Iterator[Path] | list[Path]) -> tuple[int, int, float]:
    """Files, directories and MiB on the disk of all that lies there."""
    files = directories = blocks = 0
    for top in paths:
        for path in (top, *top.rglob("*")):
            blocks += path.lstat().st_blocks
            directories += path.is_dir()
            files += not path.is_dir()
    return files, directories, blocks / 2048


def parts(vm: Vm) -> dict[str, list[Path]]:
    """What a module cache is made of, and what lies beside it."""
    download = vm.modcache / "cache" / "download"
    zips = list(download.rglob("*.zip"))
    small = [path for path in download.rglob("*") if path.is_file() and path.suffix != ".zip"]
    return {
        "extracted trees": [path for path in vm.modcache.iterdir() if path.name != "cache"],
        "zips": zips,
        "`.mod`, `.info`, `.ziphash`, lists, locks": small,
        "build cache after one build": [vm.gocache],
    }


def without_trees(vm: Vm) -> None:
    """The zips stay."""
    for top in parts(vm)["extracted trees"]:
        for path in (top, *top.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(top)


def size(vm: Vm) -> float:
    """MiB of the module cache."""
    return disk([vm.modcache])[2] if vm.modcache.exists() else 0.0


def cleaned(vm: Vm, rounds: int) -> Iterator[list[str]]:
    """A row for each way to clean: seconds that it took, MiB that it gave back, and the next build's."""

    def clean(*arguments: str) -> Callable[[], float]:
        return lambda: vm.script("clean.sh", "--no-report", *arguments)

    def by_hand() -> float:
        started = time.monotonic()
        without_trees(vm)
        return time.monotonic() - started

    ways: list[tuple[str, Callable[[], float], bool]] = [
        ("nothing", lambda: 0.0, False),
        ("`clean.sh --age 30 --dry-run`", clean("--age", "30", "--dry-run"), False),
        ("`clean.sh --zips`", clean("--zips"), False),
        ("all trees by hand; zips stay", by_hand, False),
        (f"`clean.sh --size {SIZE} --force`", clean("--size", SIZE, "--force"), True),
        ("`clean.sh --age 0 --force`", clean("--age", "0", "--force"), True),
        ("`go clean -modcache`", lambda: vm.go("clean", "-modcache"), True),
    ]
    for name, way, online in ways:
        took, back, build = [], [], []
        for _ in range(rounds):
            vm.go("mod", "download")
            vm.go(*BUILD)
            before = size(vm)
            took.append(way())
            back.append(before - size(vm))
            build.append(vm.go(*BUILD, online=online))
        row = [name, *(f"{statistics.median(each):.1f}" for each in (took, back, build))]
        row.append("host" if online else "off")
        print(*row, flush=True)
        yield row
    took = []
    for _ in range(rounds):
        vm.go("mod", "download")
        vm.script("clean.sh", "--no-report", "--zips")
        took.append(vm.go("mod", "download"))
    yield ["`clean.sh --zips`, then `go mod download`", "", "", f"{statistics.median(took):.1f}", "host"]


def installed(vm: Vm, version: str) -> list[list[str]]:
    """What Go from nothing costs, and a second run that finds it there."""
    arguments = ("--version", version, "--no-setup", "--no-report", "--dir", str(vm.home / "from-nothing"))
    fetch(f"{vm.host.url}/vm/toolchain/go{version}.linux-amd64.h1")  # the host has it by then
    first, again = vm.script("install.sh", *arguments), vm.script("install.sh", *arguments)
    files, directories, mib = disk([vm.home / "from-nothing"])
    return [
        [f"`install.sh --version {version}`", f"{first:.1f}", str(files), str(directories), f"{mib:.0f}"],
        ["the same again", f"{again:.2f}", "", "", ""],
    ]


def main() -> None:
    """Measure; the tables go to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--upstream", required=True, help="whom the host asks")
    parser.add_argument("--graph", type=Path, default=GRAPH, help="directory of go.mod, go.sum and main.go")
    parser.add_argument("--go", default="1.26.8", help="what install.sh installs")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        host = stack.enter_context(ours(root / "cache", options.upstream, "--access-log", "off"))
        vm = Vm(root / "vm", host)
        (vm.home / "work").mkdir(parents=True)
        for name in ("go.mod", "go.sum", "main.go"):
            source = options.graph / f"{name}.txt"
            shutil.copy(source if source.exists() else options.graph / name, vm.home / "work" / name)
        stack.callback(lambda: vm.go("clean", "-modcache"))
        download = vm.go("mod", "download")
        cold = vm.go(*BUILD)
        print(f"downloaded in {download:.0f} s, built in {cold:.0f} s", flush=True)
        rows = []
        for name, paths in parts(vm).items():
            files, directories, mib = disk(paths)
            rows.append([name, f"{files:,}", f"{directories:,}", f"{mib:.0f}"])
        sizes = load.table(["part", "files", "directories", "MiB on the disk"], rows)
        ways = load.table(
            ["what was done", "seconds", "MiB back", "the next build, seconds", "GOPROXY"],
            list(cleaned(vm, options.rounds)),
        )
        made = load.table(
            ["Go from nothing", "seconds", "files", "directories", "MiB"], installed(vm, options.go)
        )
    load.write(
        "A VM",
        f"The first `go mod download`, nothing on the host: {download:.0f} s; the first build: {cold:.0f} s."
        f"\n\n{sizes}\n\nWith a full build cache, medians of {options.rounds}:\n\n{ways}\n\n{made}",
    )


if __name__ == "__main__":
    main()
