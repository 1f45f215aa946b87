"""``/vm/clean.sh`` on a made-up cache: what each option selects, that nothing else goes, and sound shell."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.fakes.modcache import DAY, FakeModcache, below, fake_gocache

FILE = Path(__file__).parents[2] / "goproxy_vm" / "web" / "clean.sh"
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox", "mksh", "yash") if shutil.which(shell)]
if "dash" in SHELLS and shutil.which("sh") and Path(shutil.which("sh") or "").resolve().name == "dash":
    SHELLS.remove("dash")  # tested as sh
ARGUMENTS = {"bash": ["--posix"], "busybox": ["sh"]}
PATH = ":".join(each for each in ("/usr/bin", "/bin") if not Path(each, "go").exists())

M, UPPER, V2, OLD = "example.com/m", "github.com/Azure/SDK", "example.com/big/v2", "example.com/old"
NESTED = "example.com/m/nested"
TOOLCHAIN = "golang.org/toolchain@v0.0.1-go1.{}.linux-amd64"
VERSIONS: dict[str, float] = {
    **{f"{M}@v1.{minor}.0": 60 - 8 * minor for minor in range(8)},  # 60, 52, … 4 days
    **{f"{UPPER}@v0.0.{patch}-RC1": 5 + 10 * patch for patch in range(10)},  # 5, 15, … 95
    **{f"{V2}@v2.{minor}.0": 0 for minor in range(3)},
    **{f"{OLD}@v{major}.0.0+incompatible": 100 * major for major in (2, 5, 7)},
    **{f"{NESTED}@v0.{minor}.0": 25.5 + 3 * minor for minor in range(3)},
    TOOLCHAIN.format("25.3"): 45,
    TOOLCHAIN.format("26.8"): 45,
    TOOLCHAIN.format("26.80"): 45,
}
assert len(VERSIONS) == 30
UNZIPPED, UNEXTRACTED = f"{M}@v1.3.0", f"{M}@v1.4.0"
GO_SUM = f"""\
{M} v1.0.0 h1:=
{M} v1.0.0/go.mod h1:=
{M} v1.1.0/go.mod h1:=
{UPPER} v0.0.9-RC1 h1:=
{OLD} v7.0.0+incompatible h1:=
"""
KEPT = {f"{M}@v1.0.0", f"{UPPER}@v0.0.9-RC1", f"{OLD}@v7.0.0+incompatible", TOOLCHAIN.format("26.8")}


@dataclass
class Cleaner:
    """A VM's caches in directories with blanks and umlauts, and the script; there is no go.

    The locale knows umlauts: without, yash takes no such argument.
    """

    home: Path
    env: dict[str, str] = field(default_factory=dict)
    shell: str = "sh"
    text: str = FILE.read_text()

    def __post_init__(self) -> None:
        self.cache = FakeModcache(self.home / "a blank, ä" / "mod")
        self.gocache = self.home / "a blank, ä" / "build"
        self.environ = {"PATH": PATH, "HOME": str(self.home), "LC_ALL": "C.UTF-8", **self.env}

    @property
    def mark(self) -> Path:
        return self.cache.top / "cache" / "goproxy-vm.cleaned"

    def fill(self) -> None:
        for name, days in VERSIONS.items():
            self.cache.add(name, days, zipped=3000 * (name != UNZIPPED), tree=name != UNEXTRACTED)

    def project(self) -> Path:
        """A directory that needs a part of it."""
        top = self.home / "src" / "a project"
        (top / "sub").mkdir(parents=True)
        (top / "go.mod").write_text("module example.com/p\n\ngo 1.21\n\ntoolchain go1.26.8\n")
        (top / "sub" / "go.sum").write_bytes(GO_SUM.replace("\n", "\r\n").encode())
        inside = top / "cache" / f"{M}@v1.2.0"  # of a module, not of the project
        inside.mkdir(parents=True)
        (inside / "go.sum").write_text(f"{M} v1.2.0 h1:=\n")
        return top

    def bare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = shutil.which(self.shell)
        assert program is not None
        return subprocess.run(
            [program, *ARGUMENTS.get(self.shell, []), "-s", "--", *arguments],
            input=self.text,
            cwd=self.home,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.bare("--modcache", str(self.cache.top), *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def list(self, *arguments: str) -> list[tuple[str, str]]:
        """Reason and name of what goes, in this order."""
        lines = [line.split("\t") for line in self.run("--list", *arguments).stdout.splitlines()]
        assert all(len(line) == 4 and line[2].isdecimal() and line[3].isdecimal() for line in lines)
        return [(line[0], line[1]) for line in lines]


@pytest.fixture
def vm(tmp_path: Path) -> Cleaner:
    return Cleaner(tmp_path)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def over(days: float) -> set[str]:
    return {name for name, unused in VERSIONS.items() if unused > days}


def like(pattern: str) -> set[str]:
    return {name for name in VERSIONS if re.fullmatch(pattern, name)}


WHOLE = set(VERSIONS) - {UNZIPPED, UNEXTRACTED}
"""Versions that are extracted, and have their zips."""
SELECTIONS = {
    "default": ([], {"age": over(30)}),
    "age": (["--age", "50"], {"age": over(50)}),
    "a day": (["--age", "1"], {"age": over(1)}),
    "today": (["--age", "0", "--force"], {"age": set(VERSIONS)}),
    "keep": (["--keep", "src"], {"unneeded": over(1) - KEPT}),
    "keep, all else": (["--keep", "src", "--force"], {"unneeded": set(VERSIONS) - KEPT}),
    "keep and age": (["--keep", "src/a project", "--age", "30"], {"age": over(30) - KEPT}),
    "keep and keep": (
        ["--keep", "src", "--keep", "more"],
        {"unneeded": over(1) - KEPT - like(f"{NESTED}@.*")},
    ),
    "module": (["--module", "example.com/*/v2"], {"module": like(f"{V2}@.*")}),
    "upper case": (
        ["--module", "github.com/Azure/*@v0.0.[12]-RC1"],
        {"module": like(f"{UPPER}@v0.0.[12]-.*")},
    ),
    "not escaped": (["--module", "github.com/!azure/*"], {}),
    "one": (["--module", "example.com/m@v1.?.0"], {"module": like(rf"{M}@v1\.\d\.0")}),
    "none": (["--module", "example.com/*[!a-z0-9]*@v9*"], {}),
    "two": (["--module", M, "--module", "*@*+incompatible"], {"module": like(f"{M}@.*|{OLD}@.*")}),
    "module and age": (["--module", V2, "--age", "90"], {"module": like(f"{V2}@.*"), "age": over(90)}),
    "module but kept": (["--module", M, "--keep", "src"], {"module": like(f"{M}@.*") - KEPT}),
    "zips": (["--zips"], {"zip": WHOLE}),
    "zips and age": (["--zips", "--age", "30"], {"zip": WHOLE - over(30), "age": over(30)}),
    "builds": (["--build-age", "3", "--gocache", "a blank, ä/build"], {}),
}

DELETED = ["default", "today", "keep", "keep and age", "module but kept", "two", "zips and age", "builds"]
"""Of these it is tried, however they were selected."""


def fill(vm: Cleaner) -> dict[str, tuple[int, bytes]]:
    """All that may be selected; what lies there then."""
    vm.fill()
    vm.project()
    fake_gocache(vm.gocache, {})
    (vm.home / "more").mkdir()
    (vm.home / "more" / "go.work.sum").write_text("".join(f"{NESTED} v0.{n}.0 h1:=\n" for n in range(3)))
    return below(vm.home)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cleaner, dict[str, tuple[int, bytes]]]:
    """One for all dry runs: they are to change nothing."""
    vm = Cleaner(tmp_path_factory.mktemp("untouched"))
    return vm, fill(vm)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selection(untouched: tuple[Cleaner, dict[str, tuple[int, bytes]]], selection: str) -> None:
    arguments, expected = SELECTIONS[selection]
    vm, before = untouched
    planned = vm.list("--dry-run", *arguments)
    assert below(vm.home) == before, "a dry run changes nothing"
    assert len(planned) == len(set(planned))
    assert {r: {n for reason, n in planned if reason == r} for r, _ in planned} == expected
    days = [VERSIONS[name] for _, name in planned]
    assert days == sorted(days, reverse=True), "what was used longest ago goes first"


@pytest.mark.parametrize("selection", DELETED)
def test_what_is_planned_is_what_goes(vm: Cleaner, selection: str) -> None:
    arguments, expected = SELECTIONS[selection]
    before = fill(vm)
    planned = {(reason, name) for reason, names in expected.items() for name in names}
    gone: set[str] = set()
    for reason, name in planned:
        gone |= {str(vm.cache.file(name, "zip"))} if reason == "zip" else vm.cache.of(name)
    assert set(vm.list(*arguments)) == planned
    after = below(vm.home)
    ours = {str(vm.mark), str(vm.mark.with_name("goproxy-vm.lock"))}
    assert set(after) - set(before) == ours
    assert set(before) - set(after) - empty_parents(after, vm, arguments) == gone
    assert all(after[path] == before[path] for path in set(after) - ours)
    if selection in {"default", "keep", "zips and age"}:
        assert vm.list(*arguments) == [], "a second run finds nothing"


def empty_parents(after: Iterable[str], vm: Cleaner, arguments: list[str]) -> set[str]:
    """Directories that may go with what was in them: without --force go may be about to use them."""
    trees = [vm.cache.tree(name) for name in VERSIONS]
    parents = {str(parent) for tree in trees for parent in tree.parents if vm.cache.top in parent.parents}
    return parents - set(after) if "--force" in arguments else set()


@pytest.mark.parametrize("shell", SHELLS)
def test_shells(vm: Cleaner, shell: str) -> None:
    """All kinds of selection at once, under each shell."""
    vm.shell = shell
    vm.fill()
    vm.project()
    fake_gocache(vm.gocache, {"0a/0a1-d": 9, "0a/0a2-a": 1})
    arguments = [
        "--zips",
        "--age",
        "30",
        "--keep",
        "src",
        "--module",
        UPPER,
        "--build-age",
        "3",
        "--size",
        "1T",
    ]
    arguments += ["--gocache", str(vm.gocache), "--every", "0"]
    dry = vm.list("--dry-run", *arguments)
    module = like(f"{UPPER}@.*") - KEPT
    age = over(30) - KEPT - module
    zips = WHOLE - age - module
    assert sorted(dry) == sorted(
        [("module", n) for n in module] + [("age", n) for n in age] + [("zip", n) for n in zips]
    )
    done = vm.run("--list", *arguments)
    assert [tuple(line.split("\t")[:2]) for line in done.stdout.splitlines()] == dry
    assert "in use" not in done.stderr
    assert {name for name in VERSIONS if vm.cache.file(name, "ziphash").exists()} == set(
        VERSIONS
    ) - age - module
    assert not any(vm.cache.tree(name).exists() for name in age | module)
    assert not any(vm.cache.file(name, "zip").exists() for name in zips)
    assert [path.name for path in sorted(vm.gocache.glob("0a/*"))] == ["0a2-a"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_version_that_go_extracts_is_left(vm: Cleaner, shell: str) -> None:
    vm.shell = shell
    for name in (f"{M}@v1.0.0", f"{M}@v1.1.0"):
        vm.cache.add(name, 60)
    with vm.cache.file(f"{M}@v1.0.0", "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = vm.run("--module", M)
        assert f"goproxy-vm: {M}@v1.0.0 is in use, and stays" in done.stderr.splitlines()
    assert vm.cache.state(f"{M}@v1.0.0") == "zip ziphash tree"
    assert vm.cache.state(f"{M}@v1.1.0") == ""
    assert re.search(r"^  - module +1 ", done.stdout, re.MULTILINE)
    assert re.search(r"^after +1 ", done.stdout, re.MULTILINE)
    vm.run("--module", M)
    assert vm.cache.state(f"{M}@v1.0.0") == ""


@pytest.mark.parametrize("used", ["before the rename", "after the rename"])
def test_a_version_that_is_used_meanwhile_is_put_back(vm: Cleaner, tmp_path: Path, used: str) -> None:
    """The use comes as the n-th stat looks, no earlier and no later; with what a killed run has left."""
    name = f"{M}@v1.0.0"
    vm.cache.add(name, 60)
    Path(f"{vm.cache.tree(name)}.tmp-clean").mkdir()
    tools = tmp_path / "bin"
    tools.mkdir()
    stat = shutil.which("stat")
    # The plan's, ours before the rename, ours after it: those of one file have two times and no name.
    (tools / "stat").write_text(
        f'#!/bin/sh\ncase $2 in "%X %Y")\n  echo >>{tmp_path}/calls\n'
        f'  [ "$(wc -l <{tmp_path}/calls)" = {1 if used.startswith("before") else 2} ] && touch -a "$3" ;;\n'
        f'esac\nexec {stat} "$@"\n'
    )
    (tools / "stat").chmod(0o755)
    vm.environ["PATH"] = f"{tools}:{PATH}"
    done = vm.run()
    assert f"{name} is in use, and stays" in done.stderr
    assert vm.cache.state(name) == ("zip ziphash tree" if used.startswith("before") else "ziphash tree")
    assert not list(vm.cache.top.rglob("*.tmp-clean"))
    assert sum(1 for path in below(vm.cache.tree(name))) == 4, "the tree is whole"


def test_size(vm: Cleaner) -> None:
    for number in range(10):
        vm.cache.add(f"{M}@v1.{number}.0", 40 - number, zipped=1 << 19)
    vm.cache.add(f"{V2}@v2.0.0", 0, zipped=1 << 20)  # of today
    (vm.home / "p").mkdir()
    (vm.home / "p" / "go.sum").write_text(f"{M} v1.1.0 h1:=\n")
    done = vm.run("--size", "4M", "--list", "--dry-run")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    sizes = {line[1]: int(line[2]) for line in rows}
    assert [line[0] for line in rows] == ["size"] * len(rows)
    assert list(sizes) == [f"{M}@v1.{number}.0" for number in range(len(rows))]
    total = float(re.findall(r"^before +\d+ +([\d.]+)$", done.stderr, re.MULTILINE)[0]) * 1024
    assert total - sum(sizes.values()) <= 4096 < total - sum(list(sizes.values())[:-1]), (
        "and no more than that"
    )

    kept = [name for _, name in vm.list("--dry-run", "--size", "4M", "--keep", "p")]
    assert f"{M}@v1.1.0" not in kept
    assert len(kept) == len(rows)
    assert vm.list("--dry-run", "--size", "5M", "--zips")[0][0] == "zip", (
        "zips first: then nothing else need go"
    )
    assert len(vm.list("--dry-run", "--size", "1GiB")) == 0
    done = vm.run("--size", "1K", "--keep", "p")
    assert "MiB are left: what is kept, or was used within a day, stays" in done.stderr
    assert [vm.cache.state(f"{M}@v1.{n}.0") != "" for n in range(10)] == [n == 1 for n in range(10)]
    assert vm.cache.state(f"{V2}@v2.0.0") == "zip ziphash tree"


def test_build_cache(vm: Cleaner) -> None:
    old = {"0a/0a1-a": 9.0, "0a/0a1-d": 9.0, "ff/ff2-d/x": 4.0}
    stays = {"0b/0b1-d": 2.9, "0b/0b1-a": 0.0, "fe/fe1-d/x": 0.1, "fuzz/0a/0a1-d": 99.0, "0b/other": 99.0}
    fake_gocache(vm.gocache, {**old, **stays})
    vm.cache.add(f"{M}@v1.0.0", 90)
    arguments = ["--build-age", "3", "--gocache", str(vm.gocache)]
    before = below(vm.home)
    dry = vm.run("--dry-run", *arguments)
    assert below(vm.home) == before
    assert re.search(
        r"^build cache +entries +MiB\nbefore +6 .*\n  - unused +3 .*\nafter +3 ", dry.stdout, re.MULTILINE
    )
    vm.run(*arguments)
    gone = {str(vm.gocache / name) for name in old} | {str(vm.gocache / "ff/ff2-d")}
    assert set(before) - set(below(vm.home)) == gone


def test_all_versions(vm: Cleaner) -> None:
    """The caches of the go that is current, of one that is used, and of one that is not."""
    caches = vm.home / "caches"
    made = {}
    for version, days in (("go1.24.1", 40), ("go1.25.3", 2), ("go1.26.8", 40)):
        made[version] = version_caches(caches, version, days)
        made[version].add(f"{M}@v1.1.0", 60)
    foreign = caches / "notes" / "go"
    foreign.mkdir(parents=True)
    (caches / "go1.23.0.tmp-clean" / "mod").mkdir(parents=True)  # of a run that was killed
    vm.cache = made["go1.26.8"]
    dry = vm.list("--all-versions", "--dry-run")
    assert dry == [
        ("age", f"{M}@v1.1.0"),
        ("age", f"{M}@v1.0.0"),
        ("version", "go1.24.1"),
        ("age", f"{M}@v1.1.0"),
    ]
    assert vm.list("--all-versions") == dry
    assert sorted(path.name for path in caches.iterdir()) == ["go1.25.3", "go1.26.8", "notes"]
    assert made["go1.25.3"].state(f"{M}@v1.0.0") == "zip ziphash tree"
    assert foreign.exists()
    assert vm.list("--all-versions", "--age", "1") == [("version", "go1.25.3")]


def version_caches(caches: Path, version: str, days: float) -> FakeModcache:
    """Both caches of a Go version, as setup.sh has them made, with one module; unused for so many days."""
    made = FakeModcache(caches / version / "mod")
    made.add(f"{M}@v1.0.0", days)
    build = caches / version / "build"
    fake_gocache(build, {"0a/0a1-d": days})
    for path in (build / "README", build / "trim.txt"):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return made


def test_what_is_no_cache_stays(vm: Cleaner) -> None:
    """After ``setup.sh --cache "$HOME"``: only what is a cache and nothing else goes as a whole."""
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    version_caches(vm.home, "go1.24.1", 40)
    for top in ("devel/src", "go1.20/src", "go1.19.1.tmp-clean/src", "go1.18/mod/src", "go2"):
        (vm.home / top).mkdir(parents=True)
        (vm.home / top / "main.go").write_text("package main\n")
    (vm.home / "go1.17").mkdir()
    for version in ("go1.21.1", "go1.21.2", "go1.21.3", "go1.21.4\n" + "go1.24.1"):
        version_caches(vm.home, version, 40)
    (vm.home / "go1.21.1" / "notes").write_text("mine")
    (vm.home / "go1.21.2" / "build" / "00").rmdir()
    (vm.home / "go1.21.3" / "mod").rename(vm.home / "elsewhere")
    (vm.home / "go1.21.3" / "mod").symlink_to(vm.home / "elsewhere")
    stays = set(names(vm.home)) - {"go1.24.1"}
    before = below(vm.home)
    assert [name for reason, name in vm.list("--all-versions") if reason == "version"] == ["go1.24.1"]
    assert set(names(vm.home)) == stays
    after = below(vm.home)
    assert not [path for path in set(before) - set(after) if path.endswith(("main.go", "notes"))]


def test_the_caches_of_versions_are_beside_each_other(vm: Cleaner) -> None:
    """Not two levels up, and not where the current one's parent only looks like a version."""
    caches = vm.home / "go1"
    vm.cache = version_caches(caches, "work", 40)
    version_caches(caches, "go1.24.1", 40)
    version_caches(vm.home, "go1.24.1", 40)
    vm.run("--all-versions")
    assert (caches / "go1.24.1").exists()
    assert (vm.home / "go1.24.1").exists()


def test_caches_that_cannot_be_read_count_as_used(vm: Cleaner, tmp_path: Path) -> None:
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    version_caches(vm.home, "go1.24.1", 40)
    find = shutil.which("find")
    for kept in ("mod/cache/download", "build"):
        tools = tmp_path / kept.replace("/", "-")
        tools.mkdir()
        (tools / "find").write_text(
            f'#!/bin/sh\ncase $1:$* in */go1.24.1/{kept}:*-mtime*) exit 1 ;; esac\nexec {find} "$@"\n'
        )
        (tools / "find").chmod(0o755)
        vm.environ["PATH"] = f"{tools}:{PATH}"
        vm.run("--all-versions")
        assert (vm.home / "go1.24.1" / "build" / "00").exists()
    vm.environ["PATH"] = PATH
    vm.run("--all-versions")
    assert not (vm.home / "go1.24.1").exists()


def blind(directory: Path) -> str:
    """A PATH whose cat leaves no time of access, as on a file system that is mounted so."""
    directory.mkdir()
    (directory / "cat").write_text(
        f'#!/bin/sh\ncase $* in *-probe*) ;; *) exec {shutil.which("cat")} "$@" ;; esac\n'
    )
    (directory / "cat").chmod(0o755)
    return f"{directory}:{PATH}"


def test_where_no_use_shows(vm: Cleaner, tmp_path: Path) -> None:
    """What goes by its use has to be named then, or to be forced."""
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    version_caches(vm.home, "go1.24.1", 40)
    vm.project()
    vm.environ["PATH"] = blind(tmp_path / "bin")
    for arguments in ([], ["--age", "30"], ["--size", "1K"], ["--zips", "--all-versions"]):
        done = vm.run(*arguments, code=2)
        assert "reading a file leaves no time of access here" in done.stderr
        assert "--keep, or give --force" in done.stderr
    assert vm.cache.state(f"{M}@v1.0.0") == "zip ziphash tree"
    assert vm.list("--zips") == [("zip", f"{M}@v1.0.0")], "that goes by what is there"
    done = vm.run("--age", "30", "--keep", "src", "--all-versions")
    assert "warning: reading a file leaves no time of access here" in done.stderr
    assert vm.cache.state(f"{M}@v1.0.0") == "ziphash tree", "it is kept"
    assert (vm.home / "go1.24.1").exists()
    vm.run("--all-versions", "--force")
    assert vm.cache.state(f"{M}@v1.0.0") == ""
    assert not (vm.home / "go1.24.1").exists()


@pytest.mark.parametrize("arguments", [["--age", "1"], ["--module", "golang.org/*"], ["--size", "1K"]])
def test_the_toolchain_that_runs_stays(vm: Cleaner, tmp_path: Path, arguments: list[str]) -> None:
    for version in ("25.3", "26.8"):
        vm.cache.add(TOOLCHAIN.format(version), 60)
    answers = (str(vm.cache.top), str(vm.gocache), "http://127.0.0.1:1", "linux", "amd64")
    vm.environ["PATH"] = fake_go(tmp_path / "bin", *answers, toolchain="go1.26.8+auto")
    vm.run(*arguments)
    assert vm.cache.state(TOOLCHAIN.format("26.8")) == "zip ziphash tree"
    assert vm.cache.state(TOOLCHAIN.format("25.3")) == ""


def on_call(tools: Path, name: str, pattern: str, action: str) -> str:
    """A PATH with a command that, before it does what it is asked to, does something else once."""
    tools.mkdir()
    (tools / name).write_text(
        f"#!/bin/sh\ncase $* in {pattern}) [ -e {tools}/done ] || {{ : >{tools}/done; {action}; }} ;; esac\n"
        f'exec {shutil.which(name)} "$@"\n'
    )
    (tools / name).chmod(0o755)
    return f"{tools}:{PATH}"


def test_a_version_whose_other_name_is_taken(vm: Cleaner, tmp_path: Path) -> None:
    """Neither a tree nor the caches of a version are moved into a directory of that name."""
    name = f"{M}@v1.0.0"
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    other = version_caches(vm.home, "go1.24.1", 40)
    taken = Path(f"{vm.cache.tree(name)}.tmp-clean")
    vm.environ["PATH"] = on_call(tmp_path / "a", "flock", "'-n 9'", f"mkdir '{taken}'")
    assert f"{name} could not be deleted" in vm.run(code=1).stderr
    assert len(below(vm.cache.tree(name))) == 4
    (vm.home / "go1.24.1.tmp-clean" / "notes").mkdir(parents=True)
    vm.run("--all-versions")
    assert names(vm.home / "go1.24.1.tmp-clean") == ["notes"]
    (vm.home / "go1.24.1.tmp-clean" / "notes").rename(vm.home / "go1.24.1.tmp-clean" / "mod")
    assert other.top.exists()
    assert vm.list("--all-versions") == [("version", "go1.24.1")]
    assert not list(vm.home.glob("go1.24.1*"))


def test_what_was_made_again_meanwhile_stays(vm: Cleaner, tmp_path: Path) -> None:
    """The way back is barred where go has begun anew: what was renamed is left for the next run."""
    vm.cache = version_caches(vm.home, "go1.26.8", 0)
    other = version_caches(vm.home, "go1.24.1", 40)
    moved = vm.home / "go1.24.1.tmp-clean"
    action = f"mkdir -p '{other.top}/new'; touch '{moved}/build/0a/0a1-d'"
    vm.environ["PATH"] = on_call(
        tmp_path / "bin", "find", f"'{moved}/mod/cache/download '*|'{moved}/build '*", action
    )
    vm.run("--all-versions")
    assert names(other.top) == ["new"]
    assert names(vm.home / "go1.24.1") == ["mod"]
    assert moved.exists()
    vm.run("--all-versions")
    assert not moved.exists()
    assert names(other.top) == ["new"]


def test_what_a_killed_run_has_left_goes(vm: Cleaner) -> None:
    """Even where go has extracted the version again, and it is to go once more."""
    name = f"{M}@v1.0.0"
    vm.cache.add(name, 60)
    vm.cache.tree(name).rename(f"{vm.cache.tree(name)}.tmp-clean")
    vm.cache.add(name, 60)
    vm.run("--dry-run")
    assert list(vm.cache.top.rglob("*.tmp-clean"))
    vm.run()
    assert vm.cache.state(name) == ""
    assert not list(vm.cache.top.rglob("*.tmp-clean"))


def test_names_that_are_two_lines(vm: Cleaner) -> None:
    """A path in the cache whose second line is another path is not taken for that."""
    vm.cache.add(f"{M}@v1.0.0", 60)
    fake_gocache(vm.gocache, {})
    mine = vm.home / "mine@v1.tmp-clean"
    for top in ("", f"{vm.cache.top}/a\n", f"{vm.cache.top}/cache/download/a\n", f"{vm.gocache}/00/a\n"):
        Path(f"{top}{mine}").mkdir(parents=True)
        for name in ("a.zip", "a.ziphash", "a-d"):
            file = Path(f"{top}{mine}", name)
            file.write_text("x")
            os.utime(file, (time.time() - 60 * DAY,) * 2)
    vm.run("--build-age", "3", "--age", "30", "--gocache", str(vm.gocache))
    assert names(mine) == ["a-d", "a.zip", "a.ziphash"]
    assert vm.cache.state(f"{M}@v1.0.0") == ""


def test_empty_directories(vm: Cleaner) -> None:
    """They stay while a go may be about to extract into them: no lock keeps it from that."""
    vm.cache.add(f"{M}@v1.0.0", 60)
    vm.cache.add(f"{NESTED}@v1.0.0", 60)
    vm.run()
    assert list(vm.cache.tree(f"{NESTED}@v1.0.0").parent.iterdir()) == []
    vm.cache.add(f"{NESTED}@v1.0.0", 60)
    vm.run("--force")
    assert [path.name for path in vm.cache.top.iterdir()] == ["cache"]


def test_watermark(vm: Cleaner) -> None:
    name = f"{M}@v1.0.0"
    vm.cache.add(name, 60)
    vm.run("--every", "20", "--dry-run")
    assert not vm.mark.exists(), "a dry run is none"
    before = time.time()
    vm.run("--every", "20", "--module", "none")
    assert before - 1 <= vm.mark.stat().st_mtime <= time.time()
    assert "cleaned less than 20 h ago" in vm.run("--every", "20").stderr
    assert vm.cache.state(name) == "zip ziphash tree"
    os.utime(vm.mark, (time.time() + DAY,) * 2)  # the clock was set back since
    vm.run("--every", "20")
    assert vm.cache.state(name) == ""
    assert vm.mark.stat().st_mtime <= time.time()
    os.utime(vm.mark, (time.time() - 19 * 3600,) * 2)
    assert "nothing to do" in vm.run("--every", "20").stderr
    assert "nothing to do" not in vm.run("--every", "18").stderr


def test_a_run_that_is_killed_sets_no_mark(vm: Cleaner, tmp_path: Path) -> None:
    vm.cache.add(f"{M}@v1.0.0", 60)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chmod").write_text("#!/bin/sh\nkill -TERM 0\n")
    (tmp_path / "bin" / "chmod").chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    vm.environ |= {"PATH": f"{tmp_path}/bin:{PATH}", "TMPDIR": str(scratch)}
    done = subprocess.run(
        ["sh", str(FILE), "--modcache", str(vm.cache.top)], env=vm.environ, capture_output=True,
        start_new_session=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert not vm.mark.exists()
    assert list(scratch.iterdir()) == []
    vm.environ["PATH"] = PATH
    vm.run("--every", "20")
    assert vm.mark.exists()
    assert vm.cache.state(f"{M}@v1.0.0") == ""


def test_what_cannot_be_deleted_is_named(vm: Cleaner, tmp_path: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        vm.cache.add(f"{M}@{version}", 60)
    (tmp_path / "bin").mkdir()
    mv = shutil.which("mv")
    refused = f"{vm.cache.tree(f'{M}@v1.1.0').relative_to(vm.cache.top)}"
    (tmp_path / "bin" / "mv").write_text(f'#!/bin/sh\n[ "$2" != {refused} ] && exec {mv} "$@"\nexit 1\n')
    (tmp_path / "bin" / "mv").chmod(0o755)
    vm.environ["PATH"] = f"{tmp_path}/bin:{PATH}"
    done = vm.run("--age", "30", code=1)
    assert f"goproxy-vm: {M}@v1.1.0 could not be deleted" in done.stderr.splitlines()
    assert vm.cache.state(f"{M}@v1.1.0") == "ziphash tree"
    assert [vm.cache.state(f"{M}@{version}") for version in ("v1.0.0", "v1.2.0")] == ["", ""]
    assert re.search(r"^after +1 ", done.stdout, re.MULTILINE)
    assert not vm.mark.exists(), "it says so again the next time"


def test_one_at_a_time(vm: Cleaner) -> None:
    vm.cache.add(f"{M}@v1.0.0", 60)
    with (vm.cache.top / "cache" / "goproxy-vm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another clean.sh is at work" in vm.run().stderr
        assert vm.list("--dry-run") == [("age", f"{M}@v1.0.0")]
    vm.run()
    assert vm.cache.state(f"{M}@v1.0.0") == ""


def tools_but(directory: Path, *left_out: str) -> str:
    """A PATH that has what the script needs, but for some."""
    directory.mkdir()
    needed = "awk cat chmod date df du find flock head id mkdir mktemp mv printf rm rmdir sed sh sort stat"
    needed += " timeout touch tr wc xargs"
    for name in set(needed.split()) - set(left_out):
        found = shutil.which(name)
        assert found is not None, name
        (directory / name).symlink_to(found)
    return str(directory)


def test_without_flock(vm: Cleaner, tmp_path: Path) -> None:
    vm.cache.add(f"{M}@v1.0.0", 60)
    vm.environ["PATH"] = tools_but(tmp_path / "bin", "flock")
    assert vm.run().stderr == ""
    assert vm.cache.state(f"{M}@v1.0.0") == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_no_room_for_notes(vm: Cleaner, tmp_path: Path, shell: str) -> None:
    """Where mktemp gives no directory, what the script deletes at its end is not the one it was called in."""
    vm.shell = shell
    vm.cache.add(f"{M}@v1.0.0", 60)
    (tmp_path / "sources").write_text("x")
    tools = Path(tools_but(tmp_path / "tools", "mktemp"))
    for text in ("exit 1", "exit 0", "echo /nowhere/x"):
        (tools / "mktemp").write_text(f"#!/bin/sh\n{text}\n")
        (tools / "mktemp").chmod(0o755)
        vm.environ["PATH"] = str(tools)
        before = below(vm.home)
        assert "no directory could be made in " in vm.run(code=1).stderr
        assert below(vm.home) == before
    vm.environ |= {"PATH": PATH, "TMPDIR": str(tmp_path / "nowhere")}
    assert f"no directory could be made in {tmp_path}/nowhere" in vm.run(code=1).stderr
    assert (tmp_path / "sources").exists()
    assert vm.cache.state(f"{M}@v1.0.0") == "zip ziphash tree"


def fake_go(directory: Path, *answers: str, toolchain: str = "local") -> str:
    """A PATH on which go says this of its caches, proxy, system and architecture."""
    directory.mkdir()
    lines = " ".join(f"'{answer}'" for answer in answers)
    (directory / "go").write_text(
        f"#!/bin/sh\ncase $* in\n'env GOTOOLCHAIN') echo {toolchain} ;;\n"
        f"env*) printf '%s\\n' {lines} ;;\nversion) echo go version go1.24.11 linux/amd64 ;;\nesac\n"
    )
    (directory / "go").chmod(0o755)
    return f"{directory}:{PATH}"


def test_a_go_that_names_no_caches(vm: Cleaner, tmp_path: Path) -> None:
    """What the script is called in is not taken for them."""
    vm.home = vm.cache.top
    vm.cache.add(f"{M}@v1.0.0", 60)
    vm.environ["PATH"] = fake_go(tmp_path / "bin", "", "off", "off", "linux", "amd64")
    done = vm.bare()
    assert done.returncode == 1
    assert "go names no module cache" in done.stderr
    assert vm.cache.state(f"{M}@v1.0.0") == "zip ziphash tree"
    fake_gocache(vm.home / "off", {"0a/0a1-d": 9})
    vm.run("--build-age", "3")
    assert (vm.home / "off" / "0a" / "0a1-d").exists()


def test_each_version_has_its_own_lock(vm: Cleaner) -> None:
    """Another clean.sh may be at work in the caches of another version: those stay, and are not dropped."""
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    others = [version_caches(vm.home, version, days) for version, days in (("go1.24.1", 40), ("go1.25.1", 0))]
    others[1].add(f"{M}@v1.1.0", 40)
    before = [below(other.top) for other in others]
    with ExitStack() as stack:
        for other in others:
            lock = stack.enter_context((other.top / "cache" / "goproxy-vm.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = vm.run("--all-versions")
        for version in ("go1.24.1", "go1.25.1"):
            assert f"another clean.sh is at work in {vm.home}/{version}: it stays" in done.stderr
    for other, was in zip(others, before, strict=True):
        (other.top / "cache" / "goproxy-vm.lock").unlink()
        assert below(other.top) == was
    assert vm.cache.state(f"{M}@v1.0.0") == ""
    assert vm.list("--all-versions") == [("version", "go1.24.1"), ("age", f"{M}@v1.1.0")]


def test_one_at_a_time_without_flock(vm: Cleaner, tmp_path: Path) -> None:
    """A directory is the lock then; a run that was killed holds none."""
    name = f"{M}@v1.0.0"
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    other = version_caches(vm.home, "go1.24.1", 40)
    vm.environ["PATH"] = tools_but(tmp_path / "bin", "flock")
    for cache in (vm.cache, other):
        held = cache.top / "cache" / "goproxy-vm.lock.d"
        held.mkdir()
        (held / "pid").write_text(f"{os.getpid()}\n")
    assert "another clean.sh is at work here" in vm.run("--all-versions").stderr
    assert vm.cache.state(name) == "zip ziphash tree"
    with subprocess.Popen(["true"]) as ended:
        pass
    (vm.cache.top / "cache" / "goproxy-vm.lock.d" / "pid").write_text(f"{ended.pid}\n")
    assert f"another clean.sh is at work in {vm.home}/go1.24.1" in vm.run("--all-versions").stderr
    assert vm.cache.state(name) == ""
    assert other.state(name) == "zip ziphash tree"
    assert not (vm.cache.top / "cache" / "goproxy-vm.lock.d").exists(), "it is given back"
    (other.top / "cache" / "goproxy-vm.lock.d" / "pid").unlink()
    assert "at work" in vm.run("--all-versions").stderr, "it has just begun"
    os.utime(other.top / "cache" / "goproxy-vm.lock.d", (time.time() - 2 * DAY,) * 2)
    assert vm.list("--all-versions") == [("version", "go1.24.1")]


def test_root_in_the_cache_of_somebody_else(vm: Cleaner) -> None:
    """Who could have left links there, for root to write and delete by."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    vm.cache = version_caches(vm.home, "go1.26.8", 40)
    other = version_caches(vm.home, "go1.24.1", 40)
    for path in (other.top, vm.cache.top):
        os.chown(path / "cache", 65534, -1)
        before = below(vm.home)
        done = vm.run("--all-versions", code=2 if path == vm.cache.top else 0)
        assert ", and this is root: " in done.stderr
        assert (below(vm.home) == before) is (path == vm.cache.top)
        assert other.state(f"{M}@v1.0.0") == "zip ziphash tree"
    assert re.search(r"run it as that user, as by su \S+ -c", done.stderr)


def test_an_empty_cache(vm: Cleaner) -> None:
    done = vm.run("--zips", "--age", "1")
    assert re.search(r"^before +0 +0\.0\nafter +0 +0\.0$", done.stdout, re.MULTILINE)
    assert done.stderr == ""


# What it refuses


def test_refusals(vm: Cleaner, tmp_path: Path) -> None:
    name = f"{M}@v1.0.0"
    vm.cache.add(name, 60)
    (tmp_path / "src").mkdir()
    fake_home = Cleaner(tmp_path / "user")
    for arguments, home, said in (
        (["--modcache", "/"], tmp_path, "/ is no module cache"),
        (["--modcache", str(vm.cache.top)], vm.cache.top, "is no module cache"),
        (["--modcache", str(tmp_path)], vm.cache.top, "it has no cache/download"),
        (["--modcache", str(vm.cache.top), "--gocache", "src"], tmp_path, "src is no build cache"),
        (
            ["--modcache", str(vm.cache.top), "--keep", "src"],
            tmp_path,
            "there is no go.mod and no go.sum below",
        ),
    ):
        vm.environ["HOME"] = str(home)
        done = vm.bare(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert vm.cache.state(name) == "zip ziphash tree"
    assert fake_home.run().stderr == ""


@pytest.mark.parametrize("kind", ["nfs4", "virtiofs", "fuse.sshfs"])
def test_shared_file_systems(vm: Cleaner, tmp_path: Path, kind: str) -> None:
    vm.cache.add(f"{M}@v1.0.0", 60)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "df").write_text(f"#!/bin/sh\necho Filesystem\necho host:/x {kind} 9 5 4 56% /mnt\n")
    (tmp_path / "bin" / "df").chmod(0o755)
    vm.environ["PATH"] = f"{tmp_path}/bin:{PATH}"
    assert f"is on a shared file system ({kind})" in vm.run(code=2).stderr
    assert vm.cache.state(f"{M}@v1.0.0") == "zip ziphash tree"
    vm.run("--force")
    assert vm.cache.state(f"{M}@v1.0.0") == ""


MISUSES = [
    (["--ag"], "unknown option --ag"),
    (["clean"], "unknown option clean"),
    (["--age"], "--age: a whole number"),
    (["--age", "-1"], "--age: a whole number"),
    (["--age", "010"], "--age: a whole number"),
    (["--age", "0"], "--age: at least 1"),
    (["--every", "1h"], "--every: a whole number"),
    (["--build-age", "0", "--force"], "--build-age: at least 1"),
    (["--size", "300"], "--size: a size like 500M or 2G"),
    (["--size", "G"], "--size: a size like 500M or 2G"),
    (["--size", "1.5G"], "--size: a size like 500M or 2G"),
    (["--size", "2GB"], "--size: a size like 500M or 2G"),
    (["--module"], "--module: a pattern"),
    (["--module", "a b"], "--module: a pattern"),
    (["--module", "$(reboot)"], "--module: a pattern"),
    (["--keep"], "--keep: a directory"),
    (["--keep", "/nowhere"], "--keep: there is no directory /nowhere"),
    (["--modcache", "/nowhere"], "--modcache: there is no directory /nowhere"),
    (["--gocache", ""], "--gocache: a directory"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_misuse_and_help(vm: Cleaner, shell: str) -> None:
    vm.shell = shell
    for arguments, said in MISUSES if shell == "sh" else MISUSES[::6]:
        done = vm.bare(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.startswith(f"goproxy-vm: {said}"), done.stderr
        assert "\nusage: clean.sh" in done.stderr
    done = vm.bare("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: clean.sh")
    done = vm.bare()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("goproxy-vm: there is no go command on PATH")
    assert done.stderr.count("\n") == 1


# The shell


def test_shellcheck() -> None:
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([program, "--norc", "--shell=sh", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_a_cut_download_runs_nothing(vm: Cleaner, shell: str) -> None:
    vm.shell = shell
    vm.environ["PATH"] = "/nowhere"
    vm.cache.add(f"{M}@v1.0.0", 60)
    before = below(vm.home)
    whole = vm.text
    last = whole.rindex("{ main")
    lines = [i for i, c in enumerate(whole[:last]) if c == "\n"]
    for cut in [*lines[::200], *range(last - 5, len(whole) - 1, 1 if shell == "sh" else 4)]:
        vm.text = whole[:cut]
        done = vm.bare("--modcache", str(vm.cache.top))
        assert not done.stdout, whole[cut - 20 : cut]
    assert below(vm.home) == before


# The report


@pytest.fixture
def host() -> Iterator[tuple[str, list[str]]]:
    """A host that knows nothing, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("client", ["curl", "wget", "busybox"])
def test_report(vm: Cleaner, tmp_path: Path, host: tuple[str, list[str]], client: str) -> None:
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    url, asked = host
    tools = Path(tools_but(tmp_path / "tools"))
    (tools / client.replace("busybox", "wget")).symlink_to(shutil.which(client) or "")
    vm.text = vm.text.replace("proxy=''", f"proxy={url}", 1)
    vm.cache.add(f"{M}@v1.0.0", 60, zipped=3 << 20)
    vm.cache.add(f"{M}@v1.1.0", 0, zipped=5 << 20)
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin" / "go"
    go.write_text(
        "#!/bin/sh\ncase $* in\n"
        f"'env GOTOOLCHAIN') echo go1.26.8+auto ;;\nenv*) printf '%s\\n' x x {url} linux amd64 ;;\n"
        "version) echo go version go1.24.11 linux/amd64 ;;\nesac\n"
    )
    go.chmod(0o755)
    vm.environ["PATH"] = f"{tmp_path}/bin:{tools}"
    vm.run("--dry-run")
    vm.run("--no-report", "--module", "none")
    assert asked == [], "not of these"
    done = vm.run()
    assert f"the next go build fetches what it lacks from {url}" in done.stdout
    assert asked == [
        "/vm/seen?script=clean&go=go1.26.8&bootstrap=go1.24.11&os=linux&arch=amd64&modcache_mib=5&gocache_mib=0"
    ]
    vm.text = vm.text.replace(url, "http://127.0.0.1:1", 1)
    assert vm.run().stderr == "", "nobody there is no error"
