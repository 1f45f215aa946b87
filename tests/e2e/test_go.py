"""The real ``go`` through the real command, from a made-up module graph."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.gocommand import Vm, serving
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.modules import build_zip
from tests.fakes.upstream import Reply

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PSEUDO = "v0.0.0-20240102030405-abcdefabcdef"
BRANCH = "v0.0.0-20240102030405-0123456789ab"
NO_SUMDB = ("--sumdb", "off")

# Every kind of path and version: go prints the names that the packages carry. println needs no package of
# the standard library, so that a build is quick.
REQUIRED = {
    "example.com/Upper/lib": "v1.1.0",
    "example.com/m/v2": "v2.1.0",
    "example.com/old": "v2.0.0+incompatible",
    "example.com/pseudo": PSEUDO,
    "gopkg.in/tests.v3": "v3.0.1",
}
PACKAGES = {path: f"p{number}" for number, path in enumerate(REQUIRED)}
MAIN = (
    "package main\n\nimport (\n"
    + "".join(f'\t{name} "{path}"\n' for path, name in PACKAGES.items())
    + ")\n\nfunc main() {\n"
    + "".join(f"\tprintln({name}.Name())\n" for name in PACKAGES.values())
    + "}\n"
)
PRINTED = [
    "example.com/Upper/lib v1.1.0",
    "example.com/m/v2 v2.1.0 over deep v0.1.0",
    "example.com/old v2.0.0+incompatible",
    f"example.com/pseudo {PSEUDO}",
    "gopkg.in/tests.v3 v3.0.1",
]
BARE = "module example.com/program\n\ngo 1.21\n"
GOMOD = (
    BARE + "\nrequire (\n" + "".join(f"\t{path} {version}\n" for path, version in REQUIRED.items()) + ")\n"
)


def source(text: str) -> bytes:
    return f'package p\n\nfunc Name() string {{ return "{text}" }}\n'.encode()


def add(upstream: UpstreamThread, module: str, version: str) -> None:
    """A module version whose one package names it."""
    upstream.fake.add_module(
        module,
        version,
        {"go.mod": f"module {module}\n".encode(), "p.go": source(f"{module} {version}")},
    )


@pytest.fixture
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        for version in ("v1.0.0", "v1.1.0"):
            add(thread, "example.com/Upper/lib", version)
        add(thread, "example.com/deep", "v0.1.0")
        add(thread, "example.com/pseudo", PSEUDO)
        add(thread, "gopkg.in/tests.v3", "v3.0.1")
        thread.fake.add_module("example.com/old", "v2.0.0+incompatible", {
            "p.go": source("example.com/old v2.0.0+incompatible"),
        })  # fmt: skip
        gomod = b"module example.com/m/v2\n\nrequire example.com/deep v0.1.0\n"
        thread.fake.add_module(
            "example.com/m/v2",
            "v2.1.0",
            {
                "go.mod": gomod,
                "p.go": b'package p\n\nimport deep "example.com/deep"\n\n'
                b'func Name() string { return "example.com/m/v2 v2.1.0 over deep " + deep.Name()[17:] }\n',
            },
            gomod=gomod,
        )
        yield thread


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def make_vm(tmp_path: Path, gocache: Path) -> Callable[[str, str], Vm]:
    """Makes VMs, by a name each and the GOPROXY they use; all hold the program, without requirements."""

    def make(name: str, proxy: str) -> Vm:
        vm = Vm(tmp_path / name, proxy, gocache)
        vm.write({"go.mod": BARE, "main.go": MAIN})
        return vm

    return make


def build_and_run(vm: Vm) -> None:
    """``go build``, then the program says what it was built from (println writes to stderr)."""
    vm.go("mod", "download")
    vm.go("build", "-o", "program", ".")
    done = vm.go("run", ".")
    assert done.stderr.splitlines() == PRINTED
    assert "all modules verified" in vm.go("mod", "verify").stdout


def resolved(vm: Vm) -> Vm:
    """A VM that asked for exact versions and has its go.sum from ``go mod tidy``."""
    vm.write({"go.mod": GOMOD})
    vm.go("mod", "tidy")
    return vm


def same_program(vm: Vm, other: Vm) -> Vm:
    """``vm`` with the other's go.mod and go.sum: whatever it downloads must be the same bytes."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(other.work / name, vm.work / name)
    return vm


def cache_status(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as response:
        return str(response.headers["Cache-Status"])


def test_cold_warm_and_offline(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url) as server:
        cold = resolved(make_vm("cold", server.url))
        build_and_run(cold)
        asked = list(upstream.fake.requests)
        assert len(asked) == len(set(asked)), "no file is asked for twice"
        build_and_run(same_program(make_vm("warm", server.url), cold))
        assert upstream.fake.requests == asked, "the second VM costs the upstream nothing"
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url, "--offline") as server:
        offline = same_program(make_vm("offline", server.url), cold)
        build_and_run(offline)
        listed = offline.go("list", "-m", "-versions", "example.com/Upper/lib").stdout
        assert listed == "example.com/Upper/lib v1.1.0\n", "built from what is stored whole"
        refused = offline.go("mod", "download", "example.com/Upper/lib@v1.0.0", ok=False)
        assert refused.returncode == 1
        assert "404 Not Found" in refused.stderr
        assert "not stored here, and this server asks no upstream (setting offline)" in refused.stderr
    assert upstream.fake.requests == asked


def test_upstream_dead(cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]) -> None:
    arguments = (*NO_SUMDB, "--upstream", upstream.url, "--fresh", "0", "--connect-timeout", "2s")
    with serving(cache, *arguments) as server:
        before = resolved(make_vm("before", server.url))
        build_and_run(before)
        before.go("list", "-m", "-versions", "example.com/Upper/lib")
        upstream.stop()
        after = same_program(make_vm("after", server.url), before)
        build_and_run(after)
        listed = after.go("list", "-m", "-versions", "example.com/Upper/lib").stdout
        assert listed == "example.com/Upper/lib v1.0.0 v1.1.0\n"
        status = cache_status(f"{server.url}/example.com/!upper/lib/@v/list")
        assert status == "goproxy-vm; hit; detail=stale"
        unknown = after.go("mod", "download", "example.com/Upper/lib@v1.0.0", ok=False)
        assert unknown.returncode == 1
        assert "502 Bad Gateway" in unknown.stderr


def test_stored_files_are_a_file_proxy(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url) as server:
        online = resolved(make_vm("online", server.url))
        online.go("mod", "download")
    upstream.stop()
    build_and_run(same_program(make_vm("files", f"file://{cache}/modules"), online))


def test_tidy_finds_every_module(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url) as server:
        vm = make_vm("vm", server.url)
        vm.go("mod", "tidy")
        build_and_run(vm)
        required = vm.go(
            "list", "-m", "-f", "{{if not .Indirect}}{{.Path}} {{.Version}}{{end}}", "all"
        ).stdout
        assert set(required.splitlines()) - {"example.com/program ", ""} == {
            f"{path} {version}" for path, version in REQUIRED.items()
        }
        asked = list(upstream.fake.requests)
        assert "/example.com/!upper/@v/list" in asked, "prefixes of a path are probed, and are absent"
        make_vm("again", server.url).go("mod", "tidy")
        assert upstream.fake.requests == asked, "absence and lists are remembered too"


def test_get_latest_branch_and_versions(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    module = "example.com/pseudo"
    upstream.fake.add_module(
        module, BRANCH, {"go.mod": f"module {module}\n".encode(), "p.go": source("main")}
    )
    info = upstream.fake.files[f"/{module}/@v/{BRANCH}.info"]
    upstream.fake.files[f"/{module}/@v/main.info"] = info
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url) as server:
        vm = resolved(make_vm("vm", server.url))
        vm.go("get", "example.com/Upper/lib@v1.0.0")
        assert "example.com/Upper/lib v1.0.0\n" in (vm.work / "go.mod").read_text()
        vm.go("get", "example.com/Upper/lib@latest", "example.com/old@latest", "example.com/m/v2@latest")
        vm.go("get", f"{module}@main")
        gomod = (vm.work / "go.mod").read_text()
        assert "example.com/Upper/lib v1.1.0\n" in gomod
        assert "example.com/old v2.0.0+incompatible\n" in gomod
        assert "example.com/m/v2 v2.1.0\n" in gomod
        assert f"{module} {BRANCH}\n" in gomod
        for path, versions in {
            "example.com/Upper/lib": " v1.0.0 v1.1.0",
            "example.com/old": " v2.0.0+incompatible",
            "gopkg.in/tests.v3": " v3.0.1",
            module: "",
        }.items():
            assert vm.go("list", "-m", "-versions", path).stdout == f"{path}{versions}\n"


def test_update_is_seen_once_the_list_is_old(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    fresh = ("--fresh", "0", "--stale-while-revalidate", "0")
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url, *fresh) as server:
        vm = resolved(make_vm("vm", server.url))
        vm.go("get", "example.com/Upper/lib@latest")
        add(upstream, "example.com/Upper/lib", "v1.2.0")
        vm.go("get", "example.com/Upper/lib@latest")
        assert "example.com/Upper/lib v1.2.0\n" in (vm.work / "go.mod").read_text()


def said(vm: Vm, module: str) -> str:
    """What ``go`` prints about a download that must fail."""
    done = vm.go("mod", "download", module, ok=False)
    assert done.returncode == 1
    assert not done.stdout
    return done.stderr


def test_sentences_that_go_prints(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    upstream.fake.on("/example.com/broken/*", Reply(b"try later\n", 503))
    add(upstream, "example.com/secret/code", "v1.0.0")
    arguments = (*NO_SUMDB, "--upstream", upstream.url, "--deny", "example.com/secret")
    with serving(cache, *arguments) as server:
        vm = make_vm("vm", server.url)
        name = upstream.url.removeprefix("http://")

        unknown = said(vm, "example.com/unknown@v1.0.0")
        assert f"{server.url}/example.com/unknown/@v/v1.0.0.info: 404 Not Found" in unknown
        assert "server response: goproxy-vm: example.com/unknown@v1.0.0 info: " in unknown

        broken = said(vm, "example.com/broken@v1.0.0")
        assert "502 Bad Gateway" in broken
        assert f"server response: goproxy-vm: example.com/broken@v1.0.0 info: {name}: " in broken
        assert "503" in broken

        denied = said(vm, "example.com/secret/code@v1.0.0")
        assert "403 Forbidden" in denied
        assert (
            "module denied on this host (setting deny: example.com/secret); ask the host's operators"
            in denied
        )
        assert upstream.fake.count("/example.com/secret/*") == 0


def test_zip_that_changed_since_first_seen(
    cache: Path, upstream: UpstreamThread, make_vm: Callable[[str, str], Vm]
) -> None:
    module, version = "example.com/deep", "v0.1.0"
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url) as server:
        make_vm("first", server.url).go("mod", "download", f"{module}@{version}")
    (cache / "modules" / module / "@v" / f"{version}.zip").unlink()
    changed = build_zip(
        module, version, {"go.mod": f"module {module}\n".encode(), "p.go": source("something else")}
    )
    upstream.fake.files[f"/{module}/@v/{version}.zip"] = changed
    with serving(cache, *NO_SUMDB, "--upstream", upstream.url) as server:
        printed = said(make_vm("second", server.url), f"{module}@{version}")
        assert "502 Bad Gateway" in printed
        assert f"server response: goproxy-vm: {module}@{version} zip: " in printed
        assert "when first seen" in printed
    assert not (cache / "modules" / module / "@v" / f"{version}.zip").exists()
