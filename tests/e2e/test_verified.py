"""The real ``go`` verifies through the mirror alone; no attack on the proxy's upstream side reaches it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.modzip import check_zip
from tests.e2e.gocommand import Vm, serving
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.modules import build_zip
from tests.fakes.sumdb import FakeSumdb, Signer
from tests.fakes.upstream import Reply

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

M, V = "example.com/m", "v1.0.0"
NAME = "127.0.0.1:1/log"
LOOKUP = f"lookup/{M}@{V}"
TOOLCHAIN = "golang.org/toolchain"


class World:
    """An upstream that carries an honest checksum database."""

    def __init__(self, upstream: UpstreamThread) -> None:
        self.upstream = upstream
        self.database = FakeSumdb.make(300, name=NAME)
        for version in (V, "v1.1.0"):
            self.add(M, version)
            self.database.grow(20)
        self.carry(self.database)

    def add(self, module: str, version: str, *, recorded: bool = True) -> None:
        fake = self.upstream.fake
        fake.add_module(module, version)
        zipped = fake.files[f"/{module}/@v/{version}.zip"]
        if recorded:
            h1 = check_zip(io.BytesIO(zipped), module, version).h1
            mod = h1_mod(fake.files[f"/{module}/@v/{version}.mod"])
            self.database.add(module, version, h1, mod)

    def carry(self, database: FakeSumdb) -> None:
        def answer(path: str) -> Reply:
            status, body = database.answer(path.removeprefix(f"/sumdb/{NAME}/"))
            return Reply(body, status, {"Content-Type": "text/plain"})

        self.upstream.fake.on(f"/sumdb/{NAME}/*", answer)

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--upstream", self.upstream.url, "--sumdb", str(self.database.key))


@pytest.fixture
def world() -> Iterator[World]:
    with UpstreamThread() as upstream:
        yield World(upstream)


@pytest.fixture
def make_vm(tmp_path: Path, gocache: Path, world: World) -> Callable[..., Vm]:
    def make(name: str, proxy: str, **env: str) -> Vm:
        env = {"GOSUMDB": str(world.database.key), "GOFLAGS": "-modcacherw -mod=mod"} | env
        return Vm(tmp_path / name, proxy, gocache, env=env)

    return make


def test_honest_database_fresh_grown_and_offline(
    tmp_path: Path, world: World, make_vm: Callable[..., Vm]
) -> None:
    cache = tmp_path / "cache"
    with serving(cache, *world.arguments) as server:
        vm = make_vm("first", server.url)
        vm.go("mod", "download", f"{M}@{V}")
        world.database.grow(500)
        vm.go("mod", "download", f"{M}@v1.1.0")  # with the head of before, persisted in its GOPATH
        make_vm("second", server.url).go("mod", "download", f"{M}@{V}", f"{M}@v1.1.0")
        assert sum(path.startswith("lookup/") for path in world.database.requests) == 2
    with serving(cache, *world.arguments, "--offline") as server:
        make_vm("offline", server.url).go("mod", "download", f"{M}@v1.1.0", f"{M}@{V}")


def forked(world: World) -> None:
    world.carry(world.database.fork(7))


ATTACKS: dict[str, tuple[Callable[[World], object], str]] = {
    "zip of another content": (
        lambda w: w.upstream.fake.files.update(
            {f"/{M}/@v/{V}.zip": build_zip(M, V, {"evil.go": b"package m"})}
        ),
        "its zip has h1:",
    ),
    "mod of another content": (
        lambda w: w.upstream.fake.files.update({f"/{M}/@v/{V}.mod": b"module evil\n"}),
        "its mod has h1:",
    ),
    "no record": (lambda w: w.database.lose(LOOKUP), "404"),
    "record of another module": (lambda w: w.database.redirect(LOOKUP, 3), "is not about"),
    "forged record": (lambda w: w.database.forge(LOOKUP, b" h1:", b" h1:A"), "is not record"),
    "number outside the tree": (lambda w: w.database.renumber(LOOKUP, 9999), "outside its tree"),
    "tampered tile": (lambda w: w.database.tamper("tile/8/0/001.p/86"), "inconsistent tile"),
    "broken signature": (lambda w: w.database.break_signature(), "signature"),
    "unknown signer": (lambda w: w.database.sign_as(Signer.make("evil.example", bytes(32))), "sign"),
    "no database": (lambda w: w.upstream.fake.on("/sumdb/*", Reply(b"", 500)), "not proven"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attack_is_refused_with_a_sentence(
    tmp_path: Path, world: World, make_vm: Callable[..., Vm], attack: str
) -> None:
    """Also for a VM that checks nothing itself: the proxy has."""
    act, words = ATTACKS[attack]
    act(world)
    with serving(tmp_path / "cache", *world.arguments, "--connect-timeout", "1s") as server:
        for name, sumdb in (("checks", str(world.database.key)), ("trusts", "off")):
            done = make_vm(name, server.url, GOSUMDB=sumdb).go("mod", "download", f"{M}@{V}", ok=False)
            assert done.returncode != 0
            assert "server response: goproxy-vm: " in done.stderr
            assert words in done.stderr, done.stderr


def test_fork_after_a_good_head(tmp_path: Path, world: World, make_vm: Callable[..., Vm]) -> None:
    with serving(tmp_path / "cache", *world.arguments) as server:
        make_vm("before", server.url).go("mod", "download", f"{M}@{V}")
        forked(world)
        done = make_vm("after", server.url).go("mod", "download", f"{M}@v1.1.0", ok=False)
        assert "SECURITY ERROR" in done.stderr
        make_vm("stored", server.url).go("mod", "download", f"{M}@{V}")
    assert len(list((tmp_path / "cache" / "sumdb").rglob("forks/*.txt"))) >= 1


def test_toolchain_switch_is_proven(tmp_path: Path, world: World, make_vm: Callable[..., Vm]) -> None:
    """Up to the client's own check: the made-up toolchain is no program."""
    for version, recorded in (("v0.0.1-go1.99.1.linux-amd64", True), ("v0.0.1-go1.99.2.linux-amd64", False)):
        world.add(TOOLCHAIN, version, recorded=recorded)
    with serving(tmp_path / "cache", *world.arguments, "--nosumdb", "*") as server:
        vm = make_vm("vm", server.url, GOTOOLCHAIN="go1.99.1")
        done = vm.go("version", ok=False)
        assert "go1.99.1" in done.stderr
        assert "goproxy-vm" not in done.stderr  # nothing was refused: the unpacked zip has no bin/go
        vm.env["GOTOOLCHAIN"] = "go1.99.2"
        assert "not proven by checksum database" in vm.go("version", ok=False).stderr
    with serving(tmp_path / "off", "--upstream", world.upstream.url, "--sumdb", "off") as server:
        vm = make_vm("unproven", server.url, GOTOOLCHAIN="go1.99.1")
        assert "setting sumdb" in vm.go("version", ok=False).stderr
