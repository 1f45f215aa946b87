"""What the tests of modules from version control share: real servers, and a Direct in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.errors import GoproxyError
from goproxy_vm.protocol.modzip import MAX_ZIP, check_zip
from goproxy_vm.protocol.names import escape_path, escape_version
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.sink import Buffer
from goproxy_vm.upstream.source import Source
from tests.fakes.authority import Authority
from tests.fakes.githttps import GitServer
from tests.fakes.gitnames import Names
from tests.fakes.gitplain import go_command
from tests.fakes.gitrepos import Repositories, git_command

HOST = "git.corp.test"
STALL = 1.5
"""Seconds: short, for the tests wait for it."""


@dataclass
class Bed:
    """A test's network with a git server, and a Direct that goes out into it."""

    directory: Path
    names: Names
    authority: Authority
    repositories: Repositories
    server: GitServer
    stack: AsyncExitStack
    directs: list[Direct] = field(default_factory=list)
    earlier: set[str] = field(default_factory=lambda: set(zombies()))
    """Zombies of what ran before: who was a Direct once is given the orphans of others, too."""

    @property
    def root(self) -> Path:
        """Where the Direct keeps clones and runs."""
        return self.directory / "direct"

    async def start(self, room: Callable[[], bool] = lambda: True, **options: Any) -> Direct:
        """A Direct; keywords are options, or its own."""
        own = {name: options.pop(name) for name in ("known_mod", "now", "confined") if name in options}
        given = {
            "root": self.root,
            "go": go_command(),
            "private": HOST,
            "ca_file": self.authority.certificate,
            "stall": STALL,
            "connect": STALL,
            "timeout": 60.0,
            **options,
        }
        # A client may have a quarter; here all are one.
        slots = given.pop("slots", None) or FairSlots(4 * given.get("processes", 4))
        direct = Direct(Options(**given), slots, room=room, roads=self.names.roads, **own)
        await direct.start()
        self.directs.append(direct)
        self.stack.push_async_callback(direct.close)
        return direct

    async def source(self, **options: Any) -> Source:
        """The source of private modules of a new Direct."""
        return (await self.start(**options)).source(private=True)

    def home(self, name: str = "home", *, netrc: str = "") -> Path:
        """A home for private fetches, with a .netrc."""
        home = self.directory / name
        home.mkdir(mode=0o700)
        if netrc:
            (home / ".netrc").write_text(netrc)
            (home / ".netrc").chmod(0o600)
        return home

    def clones(self) -> list[Path]:
        """The clones that are kept."""
        return [info.with_suffix("") for info in (self.root / "vcs").rglob("*.info")]

    def locks(self) -> list[Path]:
        """What a git that was killed leaves in clones: for ever in the way."""
        return [
            path
            for clone in self.clones()
            for path in (*clone.rglob("*.lock"), *clone.glob("objects/*/tmp_*"))
        ]

    async def nothing_runs(self) -> None:
        """No process of a run is left, no zombie stays one, and no run has its directory any more."""
        for left in (processes(self.root), list((self.root / "runs").iterdir())):
            assert not left, left
        # The git server's own are waited for as soon as the loop comes to them; what a run left, by nobody.
        await until(lambda: not set(zombies()) - self.earlier)


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    """A bed with an empty git server."""
    git_command()
    go_command()
    names = Names()
    authority = Authority(tmp_path / "authority")
    repositories = Repositories(tmp_path / "git", HOST)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(GitServer(repositories, authority, names))
        made = Bed(tmp_path, names, authority, repositories, server, stack)
        yield made
        for direct in made.directs:
            await direct.close()
        if made.directs:
            await made.nothing_runs()


async def fetch(source: Source, path: str, *, limit: int = MAX_ZIP) -> bytes:
    """What a path brings."""
    sink = Buffer()
    await source.fetch(path, sink, limit)
    return sink.data


async def failure(source: Source, path: str) -> GoproxyError:
    """What a client would be told of a path that brings nothing."""
    with pytest.raises(Failure) as caught:
        await fetch(source, path)
    assert not caught.value.counts
    return caught.value.error


def info(module: str, version: str) -> str:
    """The path of an .info."""
    return f"{escape_path(module)}/@v/{escape_version(version)}.info"


def mod(module: str, version: str) -> str:
    """The path of a .mod."""
    return f"{escape_path(module)}/@v/{escape_version(version)}.mod"


def zipped(module: str, version: str) -> str:
    """The path of a .zip."""
    return f"{escape_path(module)}/@v/{escape_version(version)}.zip"


def listed(module: str) -> str:
    """The path of the list."""
    return f"{escape_path(module)}/@v/list"


async def h1(source: Source, module: str, version: str) -> str:
    """The h1 of a zip that every go accepts."""
    return check_zip(io.BytesIO(await fetch(source, zipped(module, version))), module, version).h1


async def resolved(source: Source, module: str, query: str) -> str:
    """The version that a query means."""
    version: str = json.loads(await fetch(source, info(module, query)))["Version"]
    return version


def members(root: Path) -> list[int]:
    """All that runs with its temporary files below ``root``, by number."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(root).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it ended, or is another user's
    return found


def processes(root: Path) -> list[str]:
    """The command lines of all that runs with its temporary files below ``root``."""
    found = []
    for number in members(root):
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        found.append(words.replace(b"\0", b" ").decode().strip())
    return found


def reap(orphans: Iterable[int]) -> None:
    """Ask about what a server left when it was killed: it is left to us, if we had a Direct before."""
    for orphan in orphans:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(orphan, 0)


def zombies() -> list[str]:
    """Children of this process that ended and that nobody asked about."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "stat").read_text().rpartition(") ")
        except OSError:
            continue
        state, parent, group = words[2].split()[:3]
        # Of our own group are those of the servers that tests run, which are adopted as well.
        if state == "Z" and int(parent) == os.getpid() and int(group) != os.getpgrp():
            found.append(words[0])
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait for what cannot be waited for otherwise: another process's doing."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
