"""Scale: 100,000 versions: time to the first hit, memory, rate of hits; memory while a large zip passes."""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load, tree
from benchmarks.servers import Target, fetch, ours
from benchmarks.stored import populate
from goproxy_vm.protocol.artifact import Kind

LARGE = 490 << 20
SMALL = 100
"""Bytes of each of the many files."""


def main() -> None:
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        populate(root / "cache", options.versions, dict.fromkeys(Kind, SMALL))
        (root / "tree").mkdir()
        large(root / "tree")
        hit = "/example.com/m5/p/@v/v1.5.0.info"
        for number in range(options.rounds):
            started = time.monotonic()
            with ours(root / "cache", f"file://{root}/tree", "--sumdb", "off") as target:
                fetch(target.url + hit)
                ready = time.monotonic() - started
                recovered = target.settled()
                idle = peak(target)
                run = load.wrk(target, hit, 32, 2)
                fetch(f"{target.url}/{tree.MODULE}/@v/v1.{number}.0.zip")
                rows.append(
                    [
                        f"{ready:.2f}",
                        f"{recovered:.1f}",
                        f"{idle >> 20}",
                        f"{run.rate:,.0f}",
                        f"{(peak(target) - idle) / (1 << 20):.0f}",
                    ]
                )
                print(*rows[-1], flush=True)
                os.kill(target.pid or 0, signal.SIGKILL)
    head = ["first hit s", "recovered s", "RSS at most, MiB", "hits/s", "more for a zip of 490 MiB, MiB"]
    load.write(
        "Scale",
        f"{options.versions} versions, killed with -9 between the rounds.\n\n{load.table(head, rows)}",
    )


def peak(target: Target) -> int:
    """Bytes of memory at most so far, of the server alone."""
    status = Path(f"/proc/{target.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def large(root: Path) -> None:
    """Versions with a zip near Go's limit."""
    versions = root / tree.MODULE / "@v"
    versions.mkdir(parents=True)
    for number in range(3):
        tree.write(versions, f"v1.{number}.0", LARGE if number == 0 else LARGE + number)


if __name__ == "__main__":
    main()
