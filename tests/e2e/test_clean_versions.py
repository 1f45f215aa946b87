"""What ``/vm/clean.sh`` stands on, with each version of ``go``: which states of a cache it works with, and
which file it reads. All agree; one that does not has to be found here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cleaning import (
    BUILD,
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
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(900)]

COMMANDS = {
    "build": BUILD,
    "list": ("list", "-deps", "."),
    "verify": ("mod", "verify"),
    "download": ("mod", "download"),
    "vendor": ("mod", "vendor", "-o", "../vendor"),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        thread.fake.add_module(M, V, MODULE)
        yield thread


@pytest.fixture
def vm(tmp_path: Path, upstream: UpstreamThread, gocache: Path, other_go: str) -> Iterator[Vm]:
    made = Vm(tmp_path / "vm", upstream.url, gocache, go_command=other_go)
    made.go(*BUILD)
    yield made
    make_writable(made.modcache)


ALL = " ".join(COMMANDS)
WITHOUT = "build list download vendor"
STATES: dict[str, tuple[str, str]] = {
    "": ("", ""),
    "-zip": ("", "download"),
    "-zip -ziphash": ("", WITHOUT),
    "-ziphash": ("verify", "verify"),
    "-tree": ("", ""),
    "-tree -zip": ("", WITHOUT),
    "-tree -ziphash": ("verify", "verify"),
    "-tree -zip -ziphash": ("", WITHOUT),
    "cut": (ALL, ALL),
    "half": ("build verify", "build verify"),
    "-tree/sub": ("build verify vendor", "build verify vendor"),
    "half +partial": ("", ""),
    "half +partial -zip": ("", WITHOUT),
    "half +partial -zip -ziphash": ("", WITHOUT),
    "empty": ("build verify vendor", "build verify vendor"),
    "empty -zip": ("build verify vendor", "build verify download vendor"),
    "+partial": ("", ""),
    "+partial -zip": ("", WITHOUT),
    "-info": ("", "download"),
    "-mod": ("", ALL),
    "-lock": ("", ""),
    "-list": ("", ""),
    "-info -mod -zip -ziphash -lock": ("", ALL),
    "-info -mod -zip -ziphash -lock -tree": ("", ALL),
}
"""Of what is there of a version: the commands that fail, with a proxy and without."""


def leave(vm: Vm, state: str) -> None:
    """Bring the cache into it: ``-`` is gone, ``+`` has come, the rest is as it is called."""
    for word in state.split():
        if word == "cut":
            cut(vm)
        elif word == "half":
            halve(vm)
        elif word == "empty":
            remove(vm.tree)
            vm.tree.mkdir()
        elif word == "+partial":
            vm.file("partial").touch()
        elif word.startswith("-tree"):
            make_writable(vm.tree)
            remove(vm.tree.joinpath(*word.split("/")[1:]))
        elif word == "-list":
            vm.file("list").with_name("list").unlink(missing_ok=True)
        else:
            vm.file(word[1:]).unlink()


def test_states(vm: Vm) -> None:
    """Each state, with each command, with a proxy and without."""
    saved = vm.home / "saved"
    vm.go("mod", "download")
    shutil.copytree(vm.modcache, saved)
    found = {}
    for state in STATES:
        failed: dict[bool, list[str]] = {True: [], False: []}
        for online, names in failed.items():
            for name, command in COMMANDS.items():
                remove(vm.modcache)
                shutil.copytree(saved, vm.modcache)
                shutil.rmtree(vm.home / "vendor", ignore_errors=True)
                leave(vm, state)
                if vm.try_go(*command, online=online).returncode != 0:
                    names.append(name)
        found[state] = " ".join(failed[True]), " ".join(failed[False])
    make_writable(saved)
    assert found == STATES


@pytest.mark.parametrize("then", ["go", "clean"])
def test_kills(vm: Vm, tmp_path: Path, then: str) -> None:
    check_kills(vm, tmp_path, then)


def test_uses(vm: Vm, tmp_path: Path) -> None:
    if not atimes_show(tmp_path):
        pytest.skip(f"reading a file in {tmp_path} leaves no time of access")
    check_uses(vm)
    vm.age(60)
    vm.clean("--zips", "--age", "90")
    assert vm.state() == "ziphash tree"
    vm.go(*BUILD, online=False)
    vm.age(60)
    vm.clean("--age", "30")
    assert vm.state() == ""
    vm.go(*BUILD)
