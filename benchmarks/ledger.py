"""The ledger: what a note costs a hit, how long notes take to be written, and how long who and what take.

``--rows`` pairs of 40 clients and their versions (800,000) are in a ledger.db below ``--directory``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from goproxy_vm.config.clients import parse_client_names
from goproxy_vm.ledger.facts import Noted, Sought
from goproxy_vm.ledger.notes import FULL, Notes
from goproxy_vm.ledger.table import FetchTable
from goproxy_vm.observe.access import AccessLog
from goproxy_vm.observe.metrics import Metrics
from goproxy_vm.proxy.answer import IMMUTABLE, Answer, Result
from goproxy_vm.web.ready import Ready
from goproxy_vm.web.tally import Tally

CLIENTS = 40
CHUNK = 500
"""Notes in a transaction, as the server has them."""
TURNS = 30
NOW = 1_800_000_000
NAMES = parse_client_names([f"10.0.0.{n}=vm-{n}" for n in range(0, CLIENTS, 2)])


def module(n: int) -> str:
    """Of a version; ten versions of each."""
    return f"github.com/organisation{n // 1000}/module{n // 10}"


def noted(n: int, client: int, at: int = NOW) -> Noted:
    """One fetch of one of many versions."""
    return Noted(f"10.0.0.{client}", f"{module(n)}/@v/v1.{n % 10}.0.zip", at, at, 1, 0)


def best(work: Callable[[], object], *, before: Callable[[], object] = lambda: None) -> float:
    """Seconds, the least of some turns."""
    found = []
    for _ in range(TURNS):
        before()
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def a_note() -> None:
    """Microseconds of the count of one hit, and how much of that is the note."""
    access = AccessLog("misses")
    answers = {
        kind: [
            Ready(
                f"{module(n)}/@v/v1.{n % 10}.0.{kind}",
                kind,
                Answer(b"x", "application/zip", IMMUTABLE, "hit", Result.HIT, '"e"'),
                b"x",
            )
            for n in range(FULL - 1)
        ]
        for kind in ("mod", "zip")
    }
    figures = {}
    for kind, ready in answers.items():
        for on in (False, True):
            notes = Notes(lambda: None)
            notes.switch(on=on)
            hit = Tally(Metrics("benchmark"), access, notes).hit

            def all_new(ready: list[Ready] = ready, hit: Callable[..., None] = hit) -> None:
                for each in ready:
                    hit("10.0.0.7", each, "GET", 0.0, 1)

            figures[kind, on, "new"] = best(all_new, before=notes.take) / len(ready) * 1e6
            figures[kind, on, "known"] = best(all_new) / len(ready) * 1e6
    for name in ("new", "known"):
        others, off, noted_ = (
            figures[kind, on, name] for kind, on in (("mod", True), ("zip", False), ("zip", True))
        )
        print(
            f"a hit is counted, client and zip {name}: .mod {others:.3f} µs, zip {noted_:.3f} µs, with the "
            f"ledger off {off:.3f} µs: {noted_ - off:+.3f} µs"
        )


def a_file(directory: Path, rows: int) -> None:
    """Milliseconds of writes and reads."""
    path = directory / "ledger.db"
    versions = rows // CLIENTS
    with closing(FetchTable.open(path)) as table:
        started = time.perf_counter()
        for client in range(CLIENTS):
            for start in range(0, versions, CHUNK):
                table.write(
                    [noted(n, client, NOW - n) for n in range(start, min(start + CHUNK, versions))], rows
                )
        print(f"{table.rows:,} rows written in {time.perf_counter() - started:.0f} s")
        for count in (100, 1000, 10_000):
            for what, shift in (("known", 0), ("new", versions)):
                some = [noted(n + shift, n % CLIENTS) for n in range(count)]
                started = time.perf_counter()
                for start in range(0, count, CHUNK):
                    table.write(some[start : start + CHUNK], 2 * rows)
                print(f"a flush of {count:,} {what}: {(time.perf_counter() - started) * 1000:.1f} ms")
        for what, sought in (
            ("who MODULE@VERSION", Sought(module(500), frozenset({"v1.0.0"}), limit=1000)),
            ("who MODULE", Sought(module(500), limit=1000)),
            ("who MODULE --since", Sought(module(500), since=10.0 * 86400, limit=1000)),
            ("what ADDRESS, a page", Sought(client="10.0.0.7", limit=1000)),
            ("what NAME, a page", Sought(client="vm-8", limit=1000)),
        ):
            found: list[float] = []
            items = 0
            for _ in range(TURNS):
                started = time.perf_counter()
                page = table.find(sought, NAMES, NOW)
                found.append((time.perf_counter() - started) * 1000)
                items = page.total
            print(f"{what}: {statistics.median(found):.2f} ms, {max(found):.2f} at most; {items:,} in all")
        started = time.perf_counter()
        table.trim(NOW - versions + 300, 2 * rows)
        print(f"1,000 rows forgotten: {(time.perf_counter() - started) * 1000:.1f} ms")
        kept = table.rows
    print(f"{path.stat().st_size / kept:.0f} bytes a row")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--directory", type=Path, help="where the file is made (default: as tempfile has it)")
    given = parser.parse_args()
    a_note()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        a_file(Path(directory), given.rows)


if __name__ == "__main__":
    main()
