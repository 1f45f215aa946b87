"""Interference: the p99 of hits while something else goes on, against the same server idle, in one run."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks import load, repositories, tree, wide
from benchmarks.servers import CLIENT_CORE, SERVER_CORE, Target, fetch, ours
from benchmarks.slow import counting
from tests.fakes.modules import build_zip

HIT = f"/{tree.MODULE}/@v/v1.0.2.info"
MISSES = 50
SMALL_ZIPS = 10_000
LARGE = 80 << 20
VERSIONS = 200
"""Of each repository, of which each round has one of its own."""
CONTROL = "cold versions from version control"
LONGER = 3
"""How many times longer that goes on: beside a busy server, which comes before it, each takes seconds."""


def many(root: Path, count: int) -> None:
    """Versions with small zips, to be evicted."""
    versions = root / "example.com/many/@v"
    versions.mkdir(parents=True)
    for number in range(count):
        version = f"v1.{number}.0"
        gomod = b"module example.com/many\n"
        (versions / f"{version}.mod").write_bytes(gomod)  # else each is asked for, and its absence is slow
        (versions / f"{version}.zip").write_bytes(build_zip("example.com/many", version, {"go.mod": gomod}))


def api(target: Target, cache: Path, method: str, path: str, body: object = None) -> object:
    """One request to the admin API."""
    token = (cache / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{target.admin}/api/v1/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have work go on in a thread while the block runs."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    time.sleep(0.3)
    try:
        yield
    finally:
        over.set()
        thread.join(120)


def main() -> None:
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--zips", type=int, default=SMALL_ZIPS, help="to evict")
    parser.add_argument("--python", default=sys.executable, help="of the environment of what to measure")
    parser.add_argument("--wide", action="store_true", help="hits on the .mod of all versions with such zips")
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        cache = root / "cache"
        tree.make(root / "tree")
        many(root / "tree", options.zips)
        write_large(root / "tree")
        upstream, _ = stack.enter_context(counting(root / "tree", 0.2))
        arguments = ["--sumdb", "off", "--max-size", "2GB", "--access-log", "off", "--scrub-interval", "0"]
        environ, modules = {}, []
        if lacking := repositories.missing():
            print(f"{CONTROL}: left out: {lacking}", flush=True)
        else:
            control = stack.enter_context(repositories.served(root / "control", options.rounds, VERSIONS))
            environ, modules = {"HTTPS_PROXY": control.proxy}, control.modules
            arguments += control.options
        target = stack.enter_context(
            ours(cache, upstream, *arguments, environ=environ, python=options.python)
        )
        fetch(target.url + HIT)
        listed = root / "list"
        listed.write_text(
            "".join(f"/example.com/many/@v/v1.{number}.0.mod\n" for number in range(options.zips))
        )

        def hits(seconds: int) -> load.Run:
            if not options.wide:
                return load.wrk(target, HIT, 8, seconds)
            return load.wrk(target, "/", 8, seconds, *wide.script(listed, "uniform"))

        def misses(over: threading.Event) -> None:
            process = client(target, "/example.com/many/@v/v9.{}.0.info", 100_000, MISSES)
            over.wait(60)
            process.kill()
            process.wait()

        def evict(over: threading.Event) -> None:
            api(target, cache, "POST", "evict", {"target_bytes": 0})

        def scrub(over: threading.Event) -> None:
            api(target, cache, "POST", "scrub", {})
            over.wait(60)

        def prove(over: threading.Event) -> None:
            number = 0
            while not over.is_set() and number < 20:
                fetch(f"{target.url}/example.com/large/@v/v1.{number}.0.zip")
                number += 1

        def fetch_cold(over: threading.Event) -> None:
            module = modules.pop()
            brought.append(0)
            process = client(target, f"/{module}/@v/v1.{{}}.0.zip", VERSIONS, 4)
            over.wait(60)
            process.kill()
            process.wait()
            with suppress(urllib.error.HTTPError):  # there is none
                brought[-1] = len(fetch(f"{target.url}/cached-only/{module}/@v/list").split())

        rows = []
        brought: list[int] = []
        for name, work in (
            ("50 slow misses", misses),
            (f"evicting {options.zips} zips", evict),
            ("a scrub", scrub),
            ("proving zips of 80 MB", prove),
            *([(CONTROL, fetch_cold)] if modules else []),
        ):
            idle, busy = [], []
            seconds = options.seconds * (LONGER if work is fetch_cold else 1)
            for _ in range(options.rounds):
                if work is evict or work is scrub or not idle:
                    fill(target, options.zips)
                idle.append(hits(seconds))
                with beside(work):
                    busy.append(hits(seconds))
            quiet, noisy = load.median(idle), load.median(busy)
            rows.append(
                [
                    name,
                    f"{quiet.p99:.2f}",
                    f"{noisy.p99:.2f}",
                    f"{noisy.p99 / quiet.p99:.1f}",
                    f"{noisy.rate / quiet.rate:.2f}",
                ]
            )
            print(*rows[-1], flush=True)
    text = load.table(["beside", "p99 idle ms", "p99 ms", "ratio", "requests/s, ratio"], rows)
    what = f"the `.mod` of {options.zips} versions" if options.wide else "one `.info`"
    said = f"8 connections on {what}; server, worker, go and git on core {SERVER_CORE}."
    if brought:
        said += f" Version control: {' + '.join(map(str, brought))} versions in {options.rounds} rounds."
    load.write("Interference, wide" if options.wide else "Interference", f"{said}\n\n{text}")


def write_large(root: Path) -> None:
    """Twenty versions with the same large zip's contents, under names of their own."""
    versions = root / "example.com/large/@v"
    versions.mkdir(parents=True)
    padding = random.Random(1).randbytes(LARGE // 4000)
    for number in range(20):
        version = f"v1.{number}.0"
        files = {f"f{i}": padding for i in range(4000)} | {"go.mod": b"module example.com/large\n"}
        (versions / f"{version}.zip").write_bytes(build_zip("example.com/large", version, files, stored=True))
        (versions / f"{version}.mod").write_bytes(b"module example.com/large\n")


def client(target: Target, pattern: str, count: int, at_once: int) -> subprocess.Popen[bytes]:
    """A process that asks for numbered versions, on the client's core."""
    command = ["taskset", "-c", CLIENT_CORE, sys.executable, "-m", "benchmarks.clients"]
    return subprocess.Popen([*command, target.url, pattern, str(count), str(at_once)])


def fill(target: Target, count: int) -> None:
    """Bring the small zips into the store."""
    process = client(target, "/example.com/many/@v/v1.{}.0.zip", count, 64)
    if process.wait(300):
        raise SystemExit("the store could not be filled")


if __name__ == "__main__":
    main()
