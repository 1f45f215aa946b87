"""Hits while toolchains are repacked for ``install.sh``: p99, against the same server idle, in one run."""

from __future__ import annotations

import argparse
import io
import itertools
import random
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load
from benchmarks.interference import beside
from benchmarks.servers import CLIENT_CORE, SERVER_CORE, fetch, ours
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.protocol.modzip import check_zip
from goproxy_vm.protocol.names import TOOLCHAIN
from goproxy_vm.proxy.toolchains import KEPT
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.modules import build_zip
from tests.fakes.sumdb import FakeSumdb
from tests.fakes.upstream import Reply

FILES, SIZE = 11_500, 6_000
"""Of a toolchain, as large as that of Go 1.26."""
CURL = ("taskset", "-c", CLIENT_CORE, "curl", "-fsS", "-o", "/dev/null")
NAMES = [f"go1.99.{number}.linux-amd64" for number in range(KEPT + 1)]
"""One more than plans are kept of: whoever asks for them in turn has each planned anew."""


def record(upstream: UpstreamThread) -> FakeSumdb:
    """Have the upstream serve the toolchains, and a database that has them."""
    database = FakeSumdb.make(600, name="127.0.0.1:1/log")
    padding = random.Random(1).randbytes(SIZE)
    files = {f"src/p{number}/f.go": padding[number % SIZE :] + padding for number in range(FILES)}
    files = {name: data[:SIZE] for name, data in files.items()}
    for name in NAMES:
        version = f"v0.0.1-{name}"
        zipped = build_zip(TOOLCHAIN, version, {"VERSION": name.encode(), **files})
        upstream.fake.add_module(TOOLCHAIN, version, zipped=zipped)
        gomod = upstream.fake.files[f"/{TOOLCHAIN}/@v/{version}.mod"]
        database.add(TOOLCHAIN, version, check_zip(io.BytesIO(zipped), TOOLCHAIN, version).h1, h1_mod(gomod))
    database.grow(40)
    start = f"/sumdb/{database.name}/"

    def answer(path: str) -> Reply:
        status, body = database.answer(path.removeprefix(start))
        return Reply(body, status, {"Content-Type": "text/plain"})

    upstream.fake.on(f"{start}*", answer)
    return database


def main() -> None:
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        upstream = stack.enter_context(UpstreamThread())
        database = record(upstream)
        arguments = ("--sumdb", str(database.key), "--max-size", "2GB", "--access-log", "off")
        target = stack.enter_context(ours(root / "cache", upstream.url, *arguments, "--scrub-interval", "0"))
        hit = f"/{TOOLCHAIN}/@v/v0.0.1-{NAMES[0]}.mod"
        for name in NAMES:
            fetch(f"{target.url}/vm/toolchain/{name}.h1")
        fetch(target.url + hit)
        target.settled()

        def asking(
            names: list[str], options: list[str], done: list[str]
        ) -> Callable[[threading.Event], None]:
            """Asks for these in turn until it is over."""

            def ask(over: threading.Event) -> None:
                for name in itertools.cycle(names):
                    if over.is_set():
                        return
                    subprocess.run([*CURL, *options, f"{target.url}/vm/toolchain/{name}.tar.gz"], check=True)
                    done.append(name)

            return ask

        rows = []
        for what, names, curl in (
            ("plans alone", NAMES, ["--head"]),
            ("a plan that is kept, sent", NAMES[:1], []),
            ("each planned and sent", NAMES, []),
        ):
            idle, busy = [], []
            done: list[str] = []
            for _ in range(options.rounds):
                idle.append(load.wrk(target, hit, 8, options.seconds))
                with beside(asking(names, curl, done)):
                    busy.append(load.wrk(target, hit, 8, options.seconds))
            quiet, noisy = load.median(idle), load.median(busy)
            ratios = f"{noisy.p99 / quiet.p99:.1f}", f"{noisy.rate / quiet.rate:.2f}"
            rows.append([what, str(len(done)), f"{quiet.p99:.2f}", f"{noisy.p99:.2f}", *ratios])
            print(*rows[-1], flush=True)
    text = load.table(["beside", "done", "p99 idle ms", "p99 ms", "ratio", "requests/s, ratio"], rows)
    size = f"{FILES:,} files and {FILES * SIZE / 1e6:.0f} MB"
    load.write(
        "Interference, toolchains",
        f"8 connections on one `.mod`; {len(NAMES)} toolchains of {size}, {options.rounds} rounds of"
        f" {options.seconds} s; server and worker on core {SERVER_CORE}.\n\n{text}",
    )


if __name__ == "__main__":
    main()
