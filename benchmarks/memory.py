"""Memory: large zips pass through a server that may use little, as misses, as hits and in a scrub.

The limit is a control group's, v1 or v2, made below the benchmark's own group, or below ``--group``.
The cache lies on a disk and not on tmpfs, which would count as the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks import load, tree
from benchmarks.interference import api
from benchmarks.servers import Target, ours
from benchmarks.slow import counting

INTERVAL = 0.05
"""Seconds between two samples."""
DEADLINE = 300.0
"""Seconds for each phase."""
ENTER = 'echo $$ >"$0" && exec "$@"'
"""Has a shell enter the group and become the server, so that all it uses counts from the start."""


class Group:
    """A control group with a limit on memory, for the time of a run."""

    def __init__(self, parent: Path, limit: int) -> None:
        """OSError: this machine does not let us."""
        self.path = parent / f"goproxy-vm-memory-{os.getpid()}"
        self._v2 = (parent / "cgroup.controllers").exists()
        self.path.mkdir()
        try:
            (self.path / ("memory.max" if self._v2 else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError:
            self.path.rmdir()
            raise

    @classmethod
    def own(cls) -> Path:
        """The group that this process is in."""
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for mount in mounts:
                kind, options = mount[-3], mount[-1].split(",")
                v1 = kind == "cgroup" and controllers == "memory" and "memory" in options
                if v1 or (kind == "cgroup2" and not controllers):
                    return Path(mount[4]) / path.lstrip("/")
        raise OSError("no control group of this process is mounted")

    def sample(self) -> tuple[int, int]:
        """Bytes in use, page cache included; and what of them cannot be given back: anonymous memory."""
        name = "memory.current" if self._v2 else "memory.usage_in_bytes"
        return int((self.path / name).read_text()), self._number("memory.stat", "anon" if self._v2 else "rss")

    def summary(self) -> str:
        """What the kernel has counted."""
        peak = int((self.path / ("memory.peak" if self._v2 else "memory.max_usage_in_bytes")).read_text())
        kills = self._number("memory.events" if self._v2 else "memory.oom_control", "oom_kill")
        return f"The kernel's own count: {peak >> 20} MiB at most, page cache included; {kills} OOM kills."

    def remove(self) -> None:
        """After its processes have ended."""
        for _ in range(100):
            with suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.05)

    def _number(self, file: str, name: str) -> int:
        found = re.search(rf"^{name} (\d+)$", (self.path / file).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0


def sampled(target: Target) -> tuple[int, int]:
    """Without a control group: proportional memory of the server and its children, and the anonymous part."""
    total = anonymous = 0
    children = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().split()
    for pid in [str(target.pid), *children]:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0]) << 10
            anonymous += int(re.findall(r"^Pss_Anon: +(\d+)", text, re.MULTILINE)[0]) << 10
    return total, anonymous


@dataclass
class Most:
    """The largest samples so far."""

    total: int = 0
    anonymous: int = 0


@contextmanager
def watching(sample: Callable[[], tuple[int, int]]) -> Iterator[Most]:
    """Sample while the block runs."""
    most, over = Most(), threading.Event()

    def work() -> None:
        while not over.wait(INTERVAL):
            total, anonymous = sample()
            most.total, most.anonymous = max(most.total, total), max(most.anonymous, anonymous)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


async def download(urls: dict[str, str], at_once: int) -> int:
    """Get all of them, so many at a time; how many have the hash that they must have."""
    waiting = iter(urls.items())
    right = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE)) as session:

        async def one() -> None:
            nonlocal right
            for url, expected in waiting:
                digest = hashlib.sha256()
                async with session.get(url) as response:
                    response.raise_for_status()
                    async for chunk in response.content.iter_any():
                        digest.update(chunk)
                right += digest.hexdigest() == expected

        await asyncio.gather(*(one() for _ in range(at_once)))
    return right


def scrub(target: Target, cache: Path) -> int:
    """Hash all stored files anew; how many are sound."""
    begun = api(target, cache, "POST", "scrub", {"rate": 1 << 30})
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        for one in api(target, cache, "GET", "passes")["items"]:  # type: ignore[index]
            if one["id"] == begun["pass"] and one["finished"] is not None:  # type: ignore[index]
                return int(one["scrubbed"]["entries"] - one["scrubbed"]["corrupt"])
        time.sleep(0.2)
    raise SystemExit("the scrub did not end")


def main() -> None:
    """Measure; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zips", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=100, help="of each zip")
    parser.add_argument("--limit", type=int, default=512, help="MiB that the server may use")
    parser.add_argument("--at-once", type=int, default=4, help="zips")
    parser.add_argument("--directory", default="/var/tmp", help="on a disk, for zips and cache")
    parser.add_argument("--group", type=Path, help="the control group below which to make one")
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory)))
        versions = root / "tree" / tree.MODULE / "@v"
        versions.mkdir(parents=True)
        expected = {}
        for number in range(options.zips):
            tree.write(versions, f"v1.{number}.0", options.megabytes * 1_000_000 + number)
            with (versions / f"v1.{number}.0.zip").open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            expected[f"/{tree.MODULE}/@v/v1.{number}.0.zip"] = digest
        before: list[str] = []
        group = None
        try:
            group = Group(options.group or Group.own(), options.limit << 20)
            stack.callback(group.remove)
            before = ["sh", "-c", ENTER, str(group.path / "cgroup.procs")]
            how = f"In a control group with a limit of {options.limit} MiB."
        except OSError as error:
            how = (
                f"**No limit was in force**: no control group could be made ({error.strerror or error}). "
                "Memory is what server and worker map, shared parts counted once, without page cache."
            )
        upstream, _ = stack.enter_context(counting(root / "tree"))
        arguments = ("--sumdb", "off", "--max-size", "10GB", "--min-free", "0", "--scrub-interval", "0")
        target = stack.enter_context(ours(root / "cache", upstream, *arguments, core="0,1", before=before))
        urls = {target.url + path: digest for path, digest in expected.items()}
        phases: dict[str, Callable[[], int]] = {
            "misses": lambda: asyncio.run(download(urls, options.at_once)),
            "hits": lambda: asyncio.run(download(urls, options.at_once)),
            "scrub, .mod files too": lambda: scrub(target, root / "cache"),
        }
        rows = []
        for name, phase in phases.items():
            started = time.monotonic()
            with watching(group.sample if group else lambda: sampled(target)) as most:
                right = phase()
            seconds = time.monotonic() - started
            rows.append(
                [name, str(right), f"{seconds:.1f}", f"{most.total >> 20}", f"{most.anonymous >> 20}"]
            )
            print(*rows[-1], flush=True)
            if right < options.zips:
                raise SystemExit(f"{name}: only {right} files of {options.zips} were right")
        head = ["what", "files right", "s", "MiB at most", "of it anonymous"]
        about = f"{options.zips} zips of {options.megabytes} MB. {how}"
        if group:
            about += f" {group.summary()}"
        load.write(f"Memory, {options.at_once} zips at a time", f"{about}\n\n{load.table(head, rows)}")


if __name__ == "__main__":
    main()
