"""A git server in a process of its own: ``python -m benchmarks.repositories DIRECTORY NUMBER VERSIONS``.

It makes as many repositories, each of one module with so many versions, says in a line of JSON how they are
reached, and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.servers import CLIENT_CORE
from tests.fakes.authority import Authority
from tests.fakes.githttps import GitServer
from tests.fakes.gitnames import ConnectProxy, Names
from tests.fakes.gitrepos import Repositories

HOST = "git.corp.test"
SIZE = 20_000
"""Bytes that each version has and the one before it had not."""


@dataclass(frozen=True)
class Served:
    """``modules``: one in each repository, with versions v1.0.0, v1.1.0 and so on; ``proxy``: the URL of what
    leads there by CONNECT; ``certificate``: whom to trust."""

    modules: list[str]
    proxy: str
    certificate: str

    @property
    def options(self) -> tuple[str, ...]:
        """Of a server that has them as private."""
        return "--private", HOST, "--upstream-ca-file", self.certificate


def missing() -> str:
    """Which command there is none of, or ""."""
    return next((f"no {each} command" for each in ("git", "go") if shutil.which(each) is None), "")


@contextmanager
def served(root: Path, number: int, versions: int) -> Iterator[Served]:
    """Such a process, on the client's core."""
    command = [sys.executable, "-m", "benchmarks.repositories", str(root), str(number), str(versions)]
    process = subprocess.Popen(
        ["taskset", "-c", CLIENT_CORE, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the git server did not start")
        yield Served(**json.loads(line))
    finally:
        process.communicate(timeout=60)


async def main(root: Path, number: int, versions: int) -> None:
    """Serve."""
    names, authority = Names(), Authority(root / "authority")
    repositories = Repositories(root / "git", HOST)
    shapes = [repositories.wide(f"team/r{each}", versions, SIZE, every=1) for each in range(number)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(GitServer(repositories, authority, names))
        proxy = await stack.enter_async_context(ConnectProxy(names))
        found = Served([shape.module for shape in shapes], proxy.url, str(authority.certificate))
        print(json.dumps(asdict(found)), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
