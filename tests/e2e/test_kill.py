"""kill -9 of a real server under load, again and again: nothing wrong is served, nothing is lost count of.

``GOPROXY_VM_KILLS`` is the number of rounds (CONTRIBUTING.md).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.gocommand import Running, start
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.disk import allocated, under
from tests.fakes.modules import build_zip

ROUNDS = int(os.environ.get("GOPROXY_VM_KILLS", "15"))
LIMIT = 3 << 20
MODULES = 48
VERSION = "v1.0.0"
WITHIN = 60.0
"""Seconds after which a client that does not notice the kill fails the test."""

pytestmark = pytest.mark.timeout(120 + 4 * ROUNDS)


def fill(upstream: UpstreamThread, chance: random.Random) -> list[str]:
    """Modules that together are several times the budget; the paths of their files."""
    paths = []
    for i in range(MODULES):
        module = f"example.com/k{i}"
        gomod = f"module {module}\n".encode()
        data = chance.randbytes(chance.choice([2_000, 60_000, 400_000]))
        zipped = build_zip(module, VERSION, {"go.mod": gomod, "data": data}, stored=True)
        upstream.fake.add_module(module, VERSION, zipped=zipped)
        paths += [f"/{module}/@v/{VERSION}.{kind}" for kind in ("info", "mod", "zip")]
    return paths


class Load:
    """Clients that ask for files at random until the server is gone, and compare every byte."""

    def __init__(self, server: Running, upstream: UpstreamThread, paths: list[str], seed: float) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._where = urlsplit(server.url)
        self._files = upstream.fake.files
        self._threads = [
            threading.Thread(target=self._ask, args=(paths, random.Random(f"{seed} {i}"))) for i in range(6)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the clients, whose server is gone."""
        for thread in self._threads:
            thread.join(WITHIN)
            assert not thread.is_alive()

    def _ask(self, paths: list[str], chance: random.Random) -> None:
        with closing(http.client.HTTPConnection(str(self._where.hostname), self._where.port, 30)) as client:
            try:
                while True:
                    self._one(client, chance.choice(paths))
            except (OSError, http.client.HTTPException):
                return  # killed

    def _one(self, client: http.client.HTTPConnection, path: str) -> None:
        client.request("GET", path)
        answer = client.getresponse()
        body = answer.read()
        self.statuses[answer.status] += 1
        if answer.status == 200 and body != self._files[path]:
            self.wrong.append(path)
        elif answer.status not in (200, 503):
            self.wrong.append(f"{path}: {answer.status} {body[:200]!r}")


def get(server: Running, path: str) -> tuple[int, bytes]:
    where = urlsplit(server.url)
    with closing(http.client.HTTPConnection(str(where.hostname), where.port, 30)) as client:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read()


def recovered(server: Running) -> dict[str, int]:
    """Wait until the server says that it has recovered; what it found."""
    assert server.process.stderr is not None
    log = iter(server.log)
    while (event := next(log, None) or json.loads(server.process.stderr.readline()))["event"] != "recovered":
        pass
    return {name: event[name] for name in ("temporary", "dying", "ghosts", "adopted", "discarded")}


def on_record(cache: Path) -> int:
    """Bytes allocated for the files on record, strays included."""
    with closing(sqlite3.connect(f"{(cache / 'index.db').as_uri()}?mode=ro", uri=True)) as index:
        index.execute("BEGIN")
        (files,) = index.execute("SELECT coalesce(sum(blocks), 0) FROM files").fetchone()
        (strays,) = index.execute("SELECT coalesce(sum(blocks), 0) FROM strays").fetchone()
    return int(files + strays) * 512


def assert_accounted(cache: Path) -> None:
    """The index comes to say what the disk says; an eviction that a kill interrupted goes on meanwhile."""
    deadline = time.monotonic() + WITHIN
    while (recorded := on_record(cache)) != (used := allocated(cache / "modules")):
        assert time.monotonic() < deadline, f"{recorded} bytes on record, {used} on disk"
        time.sleep(0.01)


def reap(server: Running) -> None:
    server.process.kill()
    server.process.wait()
    assert server.process.stderr is not None
    server.process.stderr.close()


def test_killed_at_random_points(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    seed = int(os.environ.get("GOPROXY_VM_SEED", "1"))
    chance = random.Random(seed)
    statuses: Counter[int] = Counter()
    found: Counter[str] = Counter()
    highest = 0
    with UpstreamThread() as upstream:
        paths = fill(upstream, chance)
        arguments = (
            "--sumdb",
            "off",
            "--upstream",
            upstream.url,
            "--max-size",
            str(LIMIT),
            "--min-free",
            "0",
        )
        for _ in range(ROUNDS):
            server = start(cache, *arguments)
            try:
                if chance.random() < 0.5:  # else clients come while it recovers
                    found.update(recovered(server))
                    assert not list((cache / "tmp").iterdir())
                    assert_accounted(cache)
                load = Load(server, upstream, paths, chance.random())
                # Where in its work the kill finds the server is the point: any moment will do.
                time.sleep(chance.uniform(0.0, 0.25))
            finally:
                reap(server)
            load.join()
            highest = max(highest, under(cache))
            assert highest <= LIMIT, "a killed server leaves no more than its budget"
            assert not load.wrong, load.wrong[:5]
            statuses += load.statuses
        server = start(cache, *arguments, "--offline")
        try:
            recovered(server)
            for path in paths:
                status, body = get(server, path)
                # The .info of a version whose .mod alone was stored is made of that.
                made_up = path.endswith(".info") and body == b'{"Version": "v1.0.0"}'
                assert status == 404 or made_up or body == upstream.fake.files[path], path
        finally:
            assert server.stop() == 0
    assert statuses[200] > ROUNDS
    assert not list((cache / "tmp").iterdir())
    assert on_record(cache) == allocated(cache / "modules")
    print(
        f"{ROUNDS} kills (seed {seed}): {dict(statuses)}; highest du {highest} of {LIMIT}; "
        f"found at the starts: {dict(found)}"
    )
