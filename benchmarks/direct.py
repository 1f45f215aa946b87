"""Private modules: what a version costs from an empty clone, from a kept one and as a hit, beside a client
that drives git itself.
Needs ``git`` and ``go``: ``python -m benchmarks.direct``. A small repository behind TLS on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from benchmarks import load
from benchmarks.servers import Target, fetch, ours
from tests.fakes.authority import Authority
from tests.fakes.githttps import GitServer
from tests.fakes.gitnames import ConnectProxy, Names
from tests.fakes.gitplain import plain_direct
from tests.fakes.gitrepos import Repositories

HOST = "git.corp.test"
KINDS = ("info", "mod", "zip")
SAMPLE = 0.05
"""Seconds between two looks at the memory of a run."""


def resident(root: Path) -> int:
    """Bytes in use by everything that has its temporary files below ``root``."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(root).encode() in (process / "environ").read_bytes():
                rollup = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
        except OSError:
            continue
    return total


class Bench:
    """A git server, and one of ours in front of it."""

    def __init__(self, root: Path, target: Target, direct: Path) -> None:
        self.root = root
        self.target = target
        self.direct = direct
        self.peak = 0

    def _cpu(self) -> float:
        """Seconds of CPU that the server and all that it has ended have used."""
        fields = Path(f"/proc/{self.target.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / 100

    async def ask(self, module: str, version: str) -> tuple[float, float]:
        """Seconds, and those of CPU, for the three files of a version."""
        watching = asyncio.create_task(self._watch())
        before, started = self._cpu(), time.monotonic()
        for kind in KINDS:
            await asyncio.to_thread(fetch, f"{self.target.url}/{module}/@v/{version}.{kind}")
        seconds = time.monotonic() - started
        watching.cancel()
        await asyncio.sleep(0.5)  # for what it does behind the answer
        return seconds, self._cpu() - before

    async def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(resident, self.direct))
            await asyncio.sleep(SAMPLE)


async def measure(rounds: int) -> str:
    """The table."""
    seen: dict[str, list[tuple[float, float]]] = {}
    peak = 0
    for number in range(rounds):
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
            names, authority = Names(), Authority(root / "authority")
            repositories = Repositories(root / "git", HOST)
            module = repositories.versions("team/lib", 3).module
            async with AsyncExitStack() as closing:
                await closing.enter_async_context(GitServer(repositories, authority, names))
                proxy = await closing.enter_async_context(ConnectProxy(names))
                options = (
                    "--private",
                    HOST,
                    "--upstream-ca-file",
                    str(authority.certificate),
                    "--sumdb",
                    "off",
                )
                target = await asyncio.to_thread(
                    stack.enter_context,
                    ours(root / "cache", "off", *options, environ={"HTTPS_PROXY": proxy.url}),
                )
                bench = Bench(root, target, root / "cache" / "direct")
                for what, version in (("empty clone", "v1.0.0"), ("kept clone", "v1.1.0"), ("hit", "v1.1.0")):
                    seen.setdefault(what, []).append(await bench.ask(module, version))
                home = root / "plain"
                for what, version in (("empty clone", "v1.0.0"), ("kept clone", "v1.1.0")):
                    started = time.monotonic()
                    await plain_direct(names, authority, home, [(module, version)])
                    seen.setdefault(f"{what}, directly", []).append((time.monotonic() - started, 0.0))
                shutil.rmtree(home, ignore_errors=True)
                peak = max(peak, bench.peak)
        print(f"round {number + 1}", flush=True)
    rows = []
    for what in ("empty clone", "kept clone", "hit"):
        seconds, cpu = (statistics.median(column) for column in zip(*seen[what], strict=True))
        plain = [each for each, _ in seen.get(f"{what}, directly", [])]
        base = f"{statistics.median(plain):.2f}" if plain else ""
        rows.append([what, f"{seconds:.2f}", f"{cpu:.2f}", base])
    table = load.table(["info, mod and zip from", "s", "CPU s of the host", "directly s"], rows)
    return f"Medians of {rounds}; git and go had {peak / (1 << 20):.0f} MiB together at most.\n\n{table}"


def main() -> None:
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    load.write("Private modules", asyncio.run(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
