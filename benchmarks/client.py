"""The real client: ``go mod download`` of a module graph, ours and directly, and a replay without the client.

Needs ``go`` and an upstream: ``python -m benchmarks.client --upstream URL [--graph DIR]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
from yarl import URL

from benchmarks import load
from benchmarks.servers import fetch, nginx, ours

GRAPH = Path(__file__).parents[1] / "tests" / "e2e" / "live_small"
CONNECTIONS = 20
"""What ``go mod download`` uses at once."""


def download(graph: Path, proxy: str, *, go_sum: bool, name: str = "vm") -> float:
    """Seconds that a fresh VM needs for all modules of a graph; GOMODCACHE on tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix=name) as home:
        work = Path(home) / "work"
        work.mkdir()
        for file in ("go.mod", "go.sum", "main.go"):
            source = next(each for each in (graph / file, graph / f"{file}.txt") if each.exists())
            if go_sum or file != "go.sum":
                shutil.copy(source, work / file)
        environ = {
            **{key: os.environ[key] for key in ("PATH", "HTTPS_PROXY", "NO_PROXY") if key in os.environ},
            "HOME": home,
            "GOENV": "off",
            "GOPROXY": proxy,
            "GOFLAGS": "-modcacherw -mod=mod",
            "GOMODCACHE": f"{home}/mod",
            "GOPATH": f"{home}/go",
            "GOTOOLCHAIN": "local",
            "GOSUMDB": "sum.golang.org",
        }
        started = time.monotonic()
        subprocess.run(["go", "mod", "download"], cwd=work, env=environ, check=True, timeout=600)
        return time.monotonic() - started


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
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--graph", type=Path, default=GRAPH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vms", type=int, default=8, help="at once, warm")
    options = parser.parse_args()
    rows: list[list[str]] = []
    for go_sum in (True, False):
        cold, warm, direct, crowd = [], [], [], []
        for _ in range(options.rounds):
            with (
                tempfile.TemporaryDirectory(dir="/dev/shm") as name,
                ours(Path(name) / "cache", options.upstream, core="0,1") as target,
            ):
                cold.append(download(options.graph, target.url, go_sum=go_sum))
                direct.append(download(options.graph, options.upstream, go_sum=go_sum))
                warm.append(download(options.graph, target.url, go_sum=go_sum))
                crowd.append(at_once(options.graph, target.url, options.vms, go_sum=go_sum))
        base = statistics.median(direct)
        for what, times in (("cold", cold), ("warm", warm), (f"warm, {options.vms} VMs at once", crowd)):
            mine = statistics.median(times)
            rows.append([what, "yes" if go_sum else "no", f"{mine:.2f}", f"{base:.2f}", f"{mine / base:.2f}"])
            print(*rows[-1], flush=True)
    text = load.table(["run", "go.sum", "s", "directly s", "ratio"], rows)
    load.write("Real client", f"`go mod download` of {options.graph.name}; all on the same cores.\n\n{text}")
    load.write("Replay", replays(options.graph, options.upstream, options.rounds))


def at_once(graph: Path, proxy: str, vms: int, *, go_sum: bool) -> float:
    """Seconds until the last of several VMs is done."""

    async def all_of_them() -> None:
        await asyncio.gather(*(asyncio.to_thread(download, graph, proxy, go_sum=go_sum) for _ in range(vms)))

    started = time.monotonic()
    asyncio.run(all_of_them())
    return time.monotonic() - started


def replays(graph: Path, upstream: str, rounds: int) -> str:
    """The recorded requests of a warm run, asked for again without a client's work: ours against nginx."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        log = root / "log"
        options = ("--access-log", "all", "--log-format", "json")
        with ours(root / "cache", upstream, *options, core="0,1", log=log) as target:
            download(graph, target.url, go_sum=True)
            time.sleep(2)
            before = log.read_text().count("\n")
            download(graph, target.url, go_sum=True)
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
