"""What docs/module-caches.md promises of read-only trees and of an old module cache as an upstream."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gocommand import Vm, serving
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MODULES = ("example.com/Upper/lib", "example.com/m")


@pytest.fixture
def old(tmp_path: Path, gocache: Path) -> Iterator[Vm]:
    """A VM with a module cache as ``go`` leaves it."""
    with UpstreamThread() as upstream:
        for module in MODULES:
            upstream.fake.add_module(module, "v1.0.0")
        with serving(tmp_path / "first", "--upstream", upstream.url, "--sumdb", "off") as server:
            vm = Vm(tmp_path / "old", server.url, gocache, env={"GOFLAGS": ""})
            download(vm)
    yield vm
    vm.go("clean", "-modcache")
    assert not vm.modcache.exists()


def download(vm: Vm) -> None:
    vm.write({"go.mod": "module example.com/program\n\ngo 1.21\n"})
    vm.go("get", *(f"{module}@v1.0.0" for module in MODULES))


def test_directories_are_what_is_read_only(old: Vm) -> None:
    tree = old.modcache / "example.com" / "m@v1.0.0"
    assert stat.S_IMODE(tree.stat().st_mode) == 0o555
    assert stat.S_IMODE((tree / "go.mod").stat().st_mode) == 0o444


def test_an_old_cache_is_an_upstream(old: Vm, tmp_path: Path, gocache: Path) -> None:
    damaged = old.modcache / "cache/download/example.com/m/@v/v1.0.0.zip"
    whole = damaged.read_bytes()
    upstream = f"file://{old.modcache}/cache/download"
    with serving(tmp_path / "second", "--upstream", upstream, "--sumdb", "off") as server:
        vm = Vm(tmp_path / "new", server.url, gocache)
        damaged.write_bytes(whole[:-1])
        vm.write({"go.mod": "module example.com/program\n\ngo 1.21\n"})
        assert "not a valid zip file" in vm.go("get", "example.com/m@v1.0.0", ok=False).stderr
        damaged.write_bytes(whole)
        download(vm)
        modules = tmp_path / "second" / "modules"
    published = Vm(tmp_path / "third", f"file://{modules}", gocache)
    download(published)
