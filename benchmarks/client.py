"""The real client: ``go mod download`` of a module graph, ours and directly, and a replay without the client.

Needs ``go`` and an upstream: ``python -m benchmarks.client --upstream URL [--graph DIR] [--far MS]
[--peer NAME=COMMAND] [--older PYTHON]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from yarl import URL

from benchmarks import load
from benchmarks.servers import CLIENT_CORE, SERVER_CORE, Target, far, fetch, nginx, ours, peer

GRAPH = Path(__file__).parents[1] / "tests" / "e2e" / "live_small"
CONNECTIONS = 20
"""What ``go mod download`` uses at once."""


@dataclass(frozen=True)
class Vm:
    """A client: what it downloads, on which cores, and how far from everything but loopback."""

    graph: Path
    core: str
    environ: dict[str, str]

    def download(self, proxy: str, *, go_sum: bool) -> float:
        """Seconds that a fresh VM needs for all modules of the graph; GOMODCACHE on tmpfs."""
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="vm") as home:
            work = Path(home) / "work"
            work.mkdir()
            for file in ("go.mod", "main.go", *(["go.sum"] if go_sum else [])):
                source = next(
                    each for each in (self.graph / file, self.graph / f"{file}.txt") if each.exists()
                )
                shutil.copy(source, work / file)
            environ = {
                **{key: os.environ[key] for key in ("PATH", "HTTPS_PROXY", "NO_PROXY") if key in os.environ},
                **self.environ,
                "HOME": home,
                "GOENV": "off",
                "GOPROXY": proxy,
                "GOFLAGS": "-modcacherw -mod=mod",
                "GOMODCACHE": f"{home}/mod",
                "GOPATH": f"{home}/go",
                "GOTOOLCHAIN": "local",
                "GOSUMDB": "sum.golang.org",
            }
            command = ["taskset", "-c", self.core, "go", "mod", "download"]
            started = time.monotonic()
            subprocess.run(command, cwd=work, env=environ, check=True, timeout=600)
            return time.monotonic() - started


async def crowd(vms: list[Vm], proxy: str, *, go_sum: bool) -> float:
    """Seconds until the last of several VMs is done."""
    started = time.monotonic()
    await asyncio.gather(*(asyncio.to_thread(vm.download, proxy, go_sum=go_sum) for vm in vms))
    return time.monotonic() - started


def different(vm: Vm, vms: int, root: Path) -> list[Vm]:
    """VMs of which each requires a share of what ``vm`` does, half of it in common with the next one."""
    lines = (vm.graph / "go.mod").read_text().splitlines()
    (version,) = (line for line in lines if line.startswith("go "))
    required = [line.split("//")[0].strip() for line in lines if line.startswith("\t")]
    found = []
    for number in range(vms):
        share = [line for at, line in enumerate(required) if (at - number) % vms in (0, 1)]
        graph = root / str(number)
        graph.mkdir()
        (graph / "go.mod").write_text(
            "\n".join([f"module example.com/vm{number}", version, *_require(share)])
        )
        (graph / "main.go").write_text("package main\n\nfunc main() {}\n")
        found.append(replace(vm, graph=graph))
    return found


def _require(lines: list[str]) -> list[str]:
    return ["require (", *lines, ")", ""]


async def replay(url: str, paths: list[str]) -> float:
    """Seconds to ask for the recorded paths in their order, on as many connections as the client has."""
    waiting = iter(paths)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def one() -> None:
            for path in waiting:
                async with session.get(URL(url + path, encoded=True)) as response:
                    response.raise_for_status()
                    async for _ in response.content.iter_any():
                        pass

        started = time.monotonic()
        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        return time.monotonic() - started


def main() -> None:
    """Measure; the tables go to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--graph", type=Path, default=GRAPH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vms", type=int, default=8, help="at once, warm")
    parser.add_argument(
        "--far", type=float, default=0.0, metavar="MS", help="the upstream's round trip longer by so much"
    )
    parser.add_argument("--shared", action="store_true", help="server and client on both cores")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND", help="see servers.peer"
    )
    parser.add_argument("--only-cold", action="store_true")
    parser.add_argument("--older", metavar="PYTHON", help="see benchmarks.hits")
    options = parser.parse_args()
    what = f"{options.graph.name}, {'shared cores' if options.shared else 'a core each'}"
    what += f", upstream {options.far:g} ms further away" if options.far else ""
    with far(options.far) as environ:
        rows = measure(options, environ)
    head = ["run", "go.sum", "server", "s", "directly s", "ratio"]
    load.write(
        f"Real client: {what}", f"`go mod download`, medians of {options.rounds}.\n\n{load.table(head, rows)}"
    )
    if not options.only_cold:
        load.write("Replay", replays(options.graph, options.upstream, options.rounds))


def measure(options: argparse.Namespace, environ: dict[str, str]) -> list[list[str]]:
    """A row for each kind of run and server; all are asked in each round."""
    server_core, client_core = ("0,1", "0,1") if options.shared else (SERVER_CORE, CLIENT_CORE)
    vm = Vm(options.graph, client_core, environ)
    times: dict[tuple[str, bool, str], list[float]] = {}

    def note(run: str, go_sum: bool, name: str, seconds: float) -> None:
        times.setdefault((run, go_sum, name), []).append(seconds)
        print(run, "with" if go_sum else "without", "go.sum:", name, f"{seconds:.2f} s", flush=True)

    servers = ["", *(["older"] if options.older else []), *options.peer]

    def server(command: str, root: str) -> AbstractContextManager[Target]:
        cache = Path(root) / "cache"
        if command in ("", "older"):
            python = options.older if command else sys.executable
            return ours(cache, options.upstream, core=server_core, environ=environ, python=python)
        return peer(command, cache, options.upstream, server_core, environ)

    def name(command: str, target: Target) -> str:
        return "older" if command == "older" else target.name

    crowded = f"{options.vms} VMs with different graphs at once"
    for _ in range(options.rounds):
        for go_sum in (True, False):
            note("directly", go_sum, "", vm.download(options.upstream, go_sum=go_sum))
            for command in servers:
                with tempfile.TemporaryDirectory(dir="/dev/shm") as root, server(command, root) as target:
                    mine = name(command, target)
                    note("cold", go_sum, mine, vm.download(target.url, go_sum=go_sum))
                    note("warm", go_sum, mine, vm.download(target.url, go_sum=go_sum))
                    if not options.only_cold:
                        seconds = asyncio.run(crowd([vm] * options.vms, target.url, go_sum=go_sum))
                        note(f"warm, {options.vms} VMs at once", go_sum, mine, seconds)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as graphs:
            vms = different(vm, options.vms, Path(graphs))
            note(f"directly, {crowded}", False, "", asyncio.run(crowd(vms, options.upstream, go_sum=False)))
            for command in servers:
                with tempfile.TemporaryDirectory(dir="/dev/shm") as root, server(command, root) as target:
                    for run in (f"cold, {crowded}", f"warm, {crowded}"):
                        seconds = asyncio.run(crowd(vms, target.url, go_sum=False))
                        note(run, False, name(command, target), seconds)
    rows = []
    for (run, go_sum, server_name), seen in sorted(
        times.items(), key=lambda each: (each[0][0], not each[0][1])
    ):
        if server_name:
            direct = f"directly, {crowded}" if crowded in run else "directly"
            mine, base = statistics.median(seen), statistics.median(times[direct, go_sum, ""])
            given = "yes" if go_sum else "no"
            rows.append([run, given, server_name, f"{mine:.2f}", f"{base:.2f}", f"{mine / base:.2f}"])
    return rows


def replays(graph: Path, upstream: str, rounds: int) -> str:
    """The recorded requests of a warm run, asked for again without a client's work: ours against nginx."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        log = root / "log"
        options = ("--access-log", "all", "--log-format", "json")
        with ours(root / "cache", upstream, *options, core="0,1", log=log) as target:
            vm = Vm(graph, "0,1", {})
            vm.download(target.url, go_sum=True)
            time.sleep(2)
            before = log.read_text().count("\n")
            vm.download(target.url, go_sum=True)
            time.sleep(2)
            lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
        paths = [line["path"] for line in lines if line["event"] == "request"]
        mine = stack.enter_context(ours(root / "cache", upstream, "--offline"))
        static = stack.enter_context(nginx(root / "cache" / "modules"))
        times: dict[str, list[float]] = {mine.name: [], static.name: []}
        for target in (mine, static):
            fetch(target.url + paths[0])
            asyncio.run(replay(target.url, paths))
        for _ in range(rounds):
            for target in (mine, static):
                times[target.name].append(asyncio.run(replay(target.url, paths)))
        ours_s, nginx_s = (statistics.median(times[target.name]) for target in (mine, static))
        row = [str(len(paths)), f"{ours_s:.3f}", f"{nginx_s:.3f}", f"{ours_s / nginx_s:.2f}"]
        table = load.table(["requests", "s", "nginx s", "ratio"], [row])
        about = f"The requests of a warm `go mod download` of {graph.name}, on {CONNECTIONS} connections."
        return f"{about}\n\n{table}"


if __name__ == "__main__":
    main()
