"""A small module graph with what real ones have, an upstream that serves it, and a log that has it all.

Tags and pseudo-versions, nested modules, commands, a major version, a version from before modules, a
retraction, a module whose upstream has no ``@latest``, upper case: each is a way of its own to be asked for.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.modzip import check_zip
from goproxy_vm.protocol.names import escape_path
from tests.e2e.outage import Command, Script
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.sumdb import FakeSumdb
from tests.fakes.upstream import Reply

DATABASE = "127.0.0.1:1/log"
"""Reached through the upstream alone: where it is said to be, nothing listens."""
TAGLESS = "v0.0.0-20240102030405-0123456789ab"
SNAPSHOT = "v0.6.1-0.20240319094008-0393e58bdf10"
NEWER_SNAPSHOT = "v0.6.1-0.20241121165744-79df5c4772f2"
PSEUDO = re.compile(r".*(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)-.*")
"""Its time is the commit's, by which ``go`` tells what is newer."""


@dataclass(frozen=True)
class Module:
    """A module version: what its go.mod requires, and what each of its packages imports, by folder."""

    path: str
    version: str
    requires: tuple[str, ...] = ()
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    more: str = ""
    commands: tuple[str, ...] = ()
    gomod: bool = True

    def files(self) -> tuple[bytes, dict[str, bytes]]:
        """The go.mod as the proxy serves it, and the files of the zip."""
        lines = [f"module {self.path}\n"]
        if self.gomod:
            lines += ["\ngo 1.21\n", *(f"\nrequire {each}\n" for each in self.requires), self.more]
        gomod = "".join(lines).encode()
        files = {"go.mod": gomod} if self.gomod else {}
        for folder, imports in self.packages.items():
            command = folder in self.commands
            text = f"package {'main' if command else 'p'}\n" + "".join(f'\nimport _ "{i}"\n' for i in imports)
            files[f"{folder}/p.go".lstrip("/")] = (text + "\nfunc main() {}\n" * command).encode()
        return gomod, files


M = "example.com/m"
_M = {
    "": ("example.com/dep",),
    "sub": ("gopkg.in/tests.v3",),
    "cmd/tool": ("example.com/m/sub", "example.com/old"),
}
_M_REQUIRES = ("example.com/dep v1.0.0", "example.com/old v2.0.0+incompatible", "gopkg.in/tests.v3 v3.0.1")
MODULES = (
    *(Module(M, version, _M_REQUIRES, _M, commands=("cmd/tool",)) for version in ("v1.0.0", "v1.1.0")),
    Module("example.com/m/nested", "v0.1.0", ("example.com/dep v1.1.0",), {"": ("example.com/dep",)}),
    Module("example.com/dep", "v1.0.0"),
    Module("example.com/dep", "v1.1.0"),
    Module("example.com/dep", "v1.2.0-rc.1"),
    Module("example.com/big/v2", "v2.0.0", ("example.com/deep v0.1.0",), {"": ("example.com/deep/down",)}),
    Module("example.com/big/v2", "v2.1.0", ("example.com/deep v0.2.0",), {"": ("example.com/deep/down",)}),
    Module("example.com/deep", "v0.1.0", packages={"down": ()}),
    Module("example.com/deep", "v0.2.0", packages={"down": ()}),
    Module("example.com/old", "v2.0.0+incompatible", gomod=False),
    Module("example.com/tagless", TAGLESS),
    Module("example.com/snapshot", "v0.6.0"),
    Module("example.com/snapshot", SNAPSHOT),
    Module("example.com/snapshot", NEWER_SNAPSHOT),
    Module("example.com/retracting", "v1.0.0"),
    Module("example.com/retracting", "v1.1.0", more="\nretract v1.1.0 // published by accident\n"),
    Module("example.com/Upper/Case", "v1.0.0"),
    Module("gopkg.in/tests.v3", "v3.0.1"),
    Module("example.com/generator", "v1.3.0", packages={"cmd/gen": ()}, commands=("cmd/gen",)),
)

IMPORTS = (
    M,
    "example.com/m/nested",
    "example.com/big/v2",
    "example.com/tagless",
    "example.com/snapshot",
    "example.com/retracting",
    "example.com/Upper/Case",
)
MAIN = "package main\n" + "".join(f'\nimport _ "{each}"\n' for each in IMPORTS) + "\nfunc main() {}\n"
BARE = "module example.com/program\n\ngo 1.24\n"
GOMOD = f"""{BARE}
tool example.com/generator/cmd/gen

require (
	example.com/Upper/Case v1.0.0
	example.com/big/v2 v2.0.0
	example.com/generator v1.3.0
	example.com/m v1.0.0
	example.com/m/nested v0.1.0
	example.com/retracting v1.0.0
	example.com/snapshot {SNAPSHOT}
	example.com/tagless {TAGLESS}
)
"""
STATES = {
    "bare": {"go.mod": BARE, "main.go": MAIN},
    "required": {"go.mod": GOMOD, "main.go": MAIN},
}
TIDY = Command("tidy", ("mod", "tidy"), "required", looks_up=True)
SCRIPT = (
    TIDY,
    Command("find", ("mod", "tidy"), "bare", looks_up=True),
    Command("build", ("build", "./...")),
    Command("get latest", ("get", f"{M}@latest"), looks_up=True),
    Command("get exact", ("get", f"{M}@v1.0.0")),
    Command("get package", ("get", f"{M}/sub@v1.1.0"), looks_up=True),
    Command("get nested", ("get", f"{M}/nested@latest"), "bare", looks_up=True),
    Command("get upgrades", ("get", "-u", "./..."), looks_up=True),
    Command("install", ("install", f"{M}/cmd/tool@v1.0.0"), looks_up=True),
    Command("download", ("mod", "download")),
    Command("download all", ("mod", "download", "-json", "all"), looks_up=True),
    Command("list", ("list", "-m", "-json", "all"), looks_up=True),
    Command("updates", ("list", "-m", "-u", "all"), looks_up=True),
    Command("versions", ("list", "-m", "-versions", M), looks_up=True),
    Command("upgrade", ("list", "-m", "example.com/snapshot@upgrade")),
)


class World:
    """An upstream that serves the graph, and carries the checksum database that has recorded it."""

    def __init__(self, upstream: UpstreamThread) -> None:
        self.upstream = upstream
        self.database = FakeSumdb.make(300, name=DATABASE)
        fake = upstream.fake
        for module in MODULES:
            gomod, files = module.files()
            fake.add_module(module.path, module.version, files, gomod=gomod)
            zipped = fake.files[f"/{escape_path(module.path)}/@v/{module.version}.zip"]
            h1 = check_zip(io.BytesIO(zipped), module.path, module.version).h1
            self.database.add(module.path, module.version, h1, h1_mod(gomod))
            if time := PSEUDO.fullmatch(module.version):
                told = {"Version": module.version, "Time": time.expand(r"\1-\2-\3T\4:\5:\6Z")}
                fake.files[f"/{module.path}/@v/{module.version}.info"] = json.dumps(told).encode()
        fake.files["/example.com/tagless/@v/list"] = b""
        fake.files["/example.com/tagless/@latest"] = fake.files[f"/example.com/tagless/@v/{TAGLESS}.info"]
        del fake.files["/example.com/snapshot/@latest"]
        del fake.files[f"/{M}/@latest"]
        self.revive()

    def revive(self) -> None:
        """Be in good health."""

        def answer(path: str) -> Reply:
            status, body = self.database.answer(path.removeprefix(f"/sumdb/{DATABASE}/"))
            return Reply(body, status, {"Content-Type": "text/plain"})

        self.upstream.fake.forget_rules()
        self.upstream.fake.on(f"/sumdb/{DATABASE}/*", answer)

    @property
    def environment(self) -> dict[str, str]:
        """What each VM has in its environment."""
        return {"GOSUMDB": str(self.database.key), "GOFLAGS": "-modcacherw -buildvcs=false -mod=mod"}

    @property
    def settings(self) -> tuple[str, ...]:
        """Of the server, but for its upstream; no list and no absence stays fresh."""
        return ("--sumdb", str(self.database.key), "--fresh", "0.1", "--negative", "0.1")


@contextmanager
def world() -> Iterator[World]:
    """A world for the time of a block."""
    with UpstreamThread() as upstream:
        yield World(upstream)


def script(tidied: Mapping[str, str]) -> Script:
    """The commands, from a project whose go.mod and go.sum ``go mod tidy`` wrote."""
    return Script(SCRIPT, {**STATES, "tidied": {**tidied, "main.go": MAIN}})
