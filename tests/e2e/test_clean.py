"""``/vm/clean.sh`` and the real ``go``: what it may leave behind, builds beside it, and what is a use."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cleaning import (
    BUILD,
    DAY,
    FILE,
    GO_MOD,
    MODULE,
    M,
    V,
    Vm,
    atimes_show,
    check_kills,
    check_uses,
    cut,
    halve,
    make_writable,
    remove,
)
from tests.e2e.gocommand import goroot
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        thread.fake.add_module(M, V, MODULE)
        yield thread


@pytest.fixture
def vm(tmp_path: Path, upstream: UpstreamThread, gocache: Path) -> Iterator[Vm]:
    made = Vm(tmp_path / "vm", upstream.url, gocache)
    made.go(*BUILD)
    yield made
    make_writable(made.modcache)


# What a half cleaned version does to go: the ground that the order of deletion stands on


@pytest.mark.parametrize(
    ("gone", "offline"),
    [
        (("zip",), True),
        (("tree",), True),
        (("ziphash",), True),
        (("tree", "zip"), False),
        (("zip", "ziphash"), False),
        (("tree", "zip", "ziphash"), False),
    ],
    ids=["zip", "tree", "hash", "tree and zip", "zip and hash", "all three"],
)
def test_what_go_makes_of_what_may_be_left(vm: Vm, gone: tuple[str, ...], offline: bool) -> None:
    """With a proxy all is well; without, where nothing of it has to be fetched."""
    for each in gone:
        remove(vm.tree if each == "tree" else vm.file(each))
    assert (vm.try_go(*BUILD, online=False).returncode == 0) is offline
    for command in (BUILD, ("list", "-deps", "."), ("mod", "download"), ("mod", "verify")):
        vm.go(*command)
    assert vm.state() == "zip ziphash tree"


@pytest.mark.parametrize("harm", [halve, cut])
def test_what_is_never_left(vm: Vm, harm: Callable[[Vm], None]) -> None:
    """Why a tree is renamed and not deleted in its place, and a zip goes as a whole: go mends neither."""
    harm(vm)
    assert vm.try_go(*BUILD).returncode == 1
    assert vm.try_go(*BUILD).returncode == 1


# kill -9 after each command


@pytest.mark.soak
@pytest.mark.parametrize("then", ["go", "clean"])
def test_kills(vm: Vm, tmp_path: Path, then: str) -> None:
    check_kills(vm, tmp_path, then)


# Beside builds


def race(vm: Vm, starts: int, seed: int = 1) -> tuple[int, int]:
    """Builds and cleaners that start together: how often the version was removed, and how often left."""
    rng = random.Random(seed)
    removed = left = 0
    started = time.monotonic()
    vm.clean("--dry-run")
    took = time.monotonic() - started
    for _ in range(starts):
        vm.go(*BUILD)
        vm.age(10)
        failures: list[str] = []
        delay = took * rng.uniform(0.4, 1.1)  # about when the script begins to delete

        def build(delay: float = delay, failures: list[str] = failures) -> None:
            threading.Event().wait(delay)
            done = vm.try_go(*BUILD)
            if done.returncode != 0:
                failures.append(done.stderr)

        thread = threading.Thread(target=build)
        thread.start()
        done = vm.clean("--age", "1", "--list")
        thread.join()
        assert not failures, failures
        removed += done.stdout.count("\n")
        left += not done.stdout
    return removed, left


@pytest.mark.soak
def test_builds_that_start_together_with_it(vm: Vm) -> None:
    assert sum(race(vm, 3)) == 3


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_two_hundred_builds_that_start_together_with_it(vm: Vm) -> None:
    removed, left = race(vm, 200)
    print(f"200 builds, 0 failed: {removed} times removed, {left} times left for the build")
    assert removed
    assert left


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_zips_go_beside_builds(vm: Vm) -> None:
    """For 20 s; each build that finds no zip still builds, and each download brings it back."""
    ended = threading.Event()
    failures: list[str] = []

    def build() -> None:
        while not ended.is_set():
            for command in (BUILD, ("mod", "download")):
                done = vm.try_go(*command)
                if done.returncode != 0:
                    failures.append(done.stderr)

    thread = threading.Thread(target=build)
    thread.start()
    removed, end = 0, time.monotonic() + 20
    while time.monotonic() < end:
        removed += vm.clean("--zips", "--list").stdout.count("zip\t")
    ended.set()
    thread.join()
    assert not failures, failures
    assert removed


# What is a use


def test_which_commands_are_a_use(vm: Vm, tmp_path: Path) -> None:
    if not atimes_show(tmp_path):
        pytest.skip(f"reading a file in {tmp_path} leaves no time of access")
    check_uses(vm)


def root_or_skip() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount, and be somebody else")


def test_noatime_is_noticed(vm: Vm, tmp_path: Path) -> None:
    """The mount is one of a namespace that ends with the script."""
    root_or_skip()
    point = tmp_path / "noatime"
    point.mkdir()
    script = (
        'mount -t tmpfs -o noatime none "$1" && cp -a "$2" "$1/mod" && shift 2 &&'
        ' { sh "$@" --modcache "$0/mod" --age 30; [ $? = 2 ]; } &&'
        ' sh "$@" --modcache "$0/mod" --list --age 30 --force'
    )
    vm.age(60)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(point), str(point), str(vm.modcache), str(FILE)],
        env=vm.env,
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    said = "reading a file leaves no time of access here"
    assert (done.stderr.count(said), done.stderr.count(f"warning: {said}")) == (2, 1), done.stderr
    assert done.stdout.startswith(f"age\t{M}@{V}\t"), "days count from the download"
    assert "warning" not in vm.clean("--age", "90").stderr or not atimes_show(tmp_path)


# As somebody who is not root, for whom read-only directories are that


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where anybody may go: pytest's own directories are one user's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_not_root(open_directory: Path, upstream: UpstreamThread) -> None:
    root_or_skip()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    before = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    go = str(goroot() / "bin" / "go")
    if subprocess.run([*before, "sh", "-c", f"exec '{go}' version"], capture_output=True).returncode != 0:
        pytest.skip(f"{go} is root's alone")
    vm = Vm(open_directory / "vm", upstream.url, open_directory / "vm" / "gocache", go, before)
    for path in (vm.home, *vm.home.rglob("*")):
        os.chown(path, 65534, 65534)
    vm.go("mod", "download")
    assert vm.tree.stat().st_mode & 0o222 == 0
    vm.age(60)
    assert vm.clean().stderr == ""
    assert vm.state() == ""
    vm.go("mod", "download")
    vm.age(60)
    os.chown(vm.file("zip").parent, 0, 0)  # somebody ran go as root
    assert f"{M}@{V} could not be deleted" in vm.clean(code=1).stderr
    vm.go("mod", "verify")
    make_writable(vm.modcache)


# The whole way


def test_toolchains_are_versions(vm: Vm) -> None:
    """As extracted for GOTOOLCHAIN; the one of the project stays."""
    for version in ("1.25.3", "1.26.8"):
        name = f"v0.0.1-go{version}.linux-amd64"
        stem = vm.modcache / "cache" / "download" / "golang.org" / "toolchain" / "@v"
        stem.mkdir(parents=True, exist_ok=True)
        for kind in ("zip", "ziphash"):
            (stem / f"{name}.{kind}").write_text("x")
            os.utime(stem / f"{name}.{kind}", (time.time() - 60 * DAY,) * 2)
        (vm.modcache / "golang.org" / f"toolchain@{name}").mkdir(parents=True)
    (vm.work / "go.mod").write_text(GO_MOD + "\ntoolchain go1.26.8\n")
    done = vm.clean("--keep", ".", "--force", "--list")
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [
        ["unneeded", "golang.org/toolchain@v0.0.1-go1.25.3.linux-amd64"]
    ]
    assert vm.state() == "zip ziphash tree", "the project's go.sum names it"


def test_with_what_go_says(vm: Vm) -> None:
    """GOMODCACHE and GOCACHE are asked for; the build goes on afterwards."""
    vm.age(40)
    done = vm.clean("--zips", "--age", "60", "--build-age", "900")
    assert f"the next go build fetches what it lacks from {vm.proxy}" in done.stdout
    assert "build cache" in done.stdout
    assert vm.state() == "ziphash tree"
    vm.go(*BUILD, online=False)
    vm.age(40)
    vm.clean()
    assert vm.state() == ""
    vm.go(*BUILD)


def test_no_cache_yet(tmp_path: Path, gocache: Path) -> None:
    vm = Vm(tmp_path / "vm", "off", gocache)
    assert "nothing to clean: there is no module cache" in vm.clean().stderr
    assert not vm.modcache.exists()
