"""Stampede: 200 clients ask for one cold zip at once. Upstream requests, and the time to the last byte."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp

from benchmarks import load, tree
from benchmarks.servers import CLIENT_CORE, fetch, nginx, ours
from benchmarks.slow import counting

CLIENTS = 200


async def all_at_once(url: str, clients: int) -> tuple[float, set[int]]:
    """Seconds until the last of the clients has the whole file, and the lengths they got."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one() -> int:
            async with session.get(url) as response:
                response.raise_for_status()
                return sum([len(chunk) async for chunk in response.content.iter_any()])

        started = time.monotonic()
        lengths = await asyncio.gather(*(one() for _ in range(clients)))
        return time.monotonic() - started, set(lengths)


def main() -> None:
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    path = f"/{tree.MODULE}/@v/v1.4.0.zip"
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            root = Path(name)
            tree.make(root / "tree")
            with (
                counting(root / "tree") as (upstream, requests),
                ours(root / "cache", upstream, "--sumdb", "off", "--max-size", "1GB") as target,
                nginx(root / "tree") as static,
            ):
                fetch(target.url + "/healthz")
                cold, lengths = asyncio.run(all_at_once(target.url + path, CLIENTS))
                warm, _ = asyncio.run(all_at_once(target.url + path, CLIENTS))
                peer, _ = asyncio.run(all_at_once(static.url + path, CLIENTS))
                asked = requests().count(path)
                rows.append(
                    [
                        str(number + 1),
                        str(asked),
                        str(len(lengths)),
                        f"{cold:.2f}",
                        f"{warm:.2f}",
                        f"{peer:.2f}",
                    ]
                )
    head = ["round", "upstream GETs", "different lengths", "cold s", "warm s", "nginx, warm s"]
    text = f"{CLIENTS} clients (core {CLIENT_CORE}), one zip of 4 MiB.\n\n{load.table(head, rows)}"
    load.write("Stampede", text)


if __name__ == "__main__":
    main()
