"""A server that is attacked: in a process of its own, for its memory and its end are what is measured."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from goproxy_vm.cache.store import Store
from tests.fakes.stores import artifact

SMALL = "/example.com/small/@v/v1.0.0.zip"
BIG = "/example.com/big/@v/v1.0.0.zip"
SIZES = {SMALL: 60_000, BIG: 16 << 20}
FEWEST = 40
"""Requests of the other client at the least."""
STARTS = 30.0
"""Seconds that a server may take to start."""

BYSTANDER = """
import http.client, json, sys, threading, time
host, port, path, fewest = sys.argv[1:]
took, over = [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
client = http.client.HTTPConnection(host, int(port), timeout=60, source_address=("127.0.0.9", 0))
while not over.is_set() or len(took) < int(fewest):
    began = time.monotonic()
    client.request("GET", path)
    answer = client.getresponse()
    assert answer.status == 200 and answer.read(), answer.status
    took.append(time.monotonic() - began)
    if len(took) == 1:
        print("begun", flush=True)
    time.sleep(0.02)
took.sort()
print(json.dumps([took[len(took) // 2], took[-1], len(took)]))
"""


async def fill(cache: Path) -> None:
    """Store ``SIZES``, so that a server finds them."""
    store = await Store.open(cache)
    try:
        for path, size in SIZES.items():
            download = store.download()
            await download.begin(size)
            await download.write(random.Random(size).randbytes(size))
            (await store.adopt(artifact(path[1:]), download, h1="h1:x")).close()
    finally:
        await store.close()


@dataclass(frozen=True)
class Amounts:
    """What an attack came to: MiB of memory before and at most, seconds of the other client and to a stop."""

    before: float
    most: float
    median: float
    worst: float
    stop: float


class Victim:
    """``with Victim(directory, flags) as victim``: a server that has ``SIZES`` stored."""

    def __init__(self, directory: Path, flags: Mapping[str, str]) -> None:
        self._directory = directory
        self._log = directory / "log"
        given = {
            "listen": "127.0.0.1:0",
            "admin-listen": "127.0.0.1:0",
            "sumdb": "off",
            "upstream": "http://127.0.0.1:9",
            "shutdown-timeout": "2s",
            "log-format": "json",
            **flags,
        }
        self._argv = [f"--{name}={value}" for name, value in given.items()]
        self.url = ""
        self.admin_url = ""
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        cache = self._directory / "cache"
        asyncio.run(fill(cache))
        argv = [sys.executable, "-m", "goproxy_vm", "serve", f"--cache-dir={cache}", *self._argv]
        # A pipe that nobody reads would hold the log up.
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(argv, stderr=stderr)
        deadline = time.monotonic() + STARTS
        while not self.url:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
            for line in self.lines():
                if line["event"] == "serving":
                    self.url, self.admin_url = line["url"], line["admin_url"]
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def lines(self) -> list[dict[str, str]]:
        """The log so far."""
        text = self._log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in text.splitlines()]

    def log_bytes(self) -> int:
        """How long the log is."""
        return self._log.stat().st_size

    def _memory(self, name: str) -> float:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"no {name}")

    def resident(self) -> float:
        """MiB that are resident."""
        return self._memory("VmRSS")

    def descriptors(self) -> int:
        """How many files are open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """How many threads there are."""
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    @contextmanager
    def watched(self) -> Iterator[list[Amounts]]:
        """Measure what the block does to the server, from its first byte to the server's end: the one item
        of the list, once the block is over."""
        found: list[Amounts] = []
        with self.beside() as latencies:
            before = self.resident()
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
            yield found
            most = self._memory("VmHWM")
        stop = self.stop()
        median, worst = latencies
        found.append(Amounts(before, most, median, worst, stop))

    @contextmanager
    def beside(self) -> Iterator[list[float]]:
        """Another client asks for a stored file, all the time, from an address of its own: what it waits in
        the middle and at most, in seconds, once the block is over."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        argv = [sys.executable, "-c", BYSTANDER, host, port, SMALL, str(FEWEST)]
        found: list[float] = []
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            try:
                assert other.stdout.readline() == "begun\n"
                yield found
                out, _ = other.communicate("", timeout=90)
            finally:
                other.kill()
        assert other.returncode == 0, "the other client was not served"
        found += json.loads(out)[:2]

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended, cleanly and with no traceback in its log."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(90) == 0
        assert "Traceback" not in (text := self._log.read_text()), text[-5000:]
        return time.monotonic() - began
