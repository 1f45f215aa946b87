"""Everything mixed, for many minutes: nothing grows, and what the index says is what the disk says.

Marked ``soak``: ``GOPROXY_VM_SOAK_MINUTES`` is how long (``make soak MINUTES=…``).
"""

from __future__ import annotations

import http.client
import os
import random
import sqlite3
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from goproxy_vm.config.token import SOCKET_NAME
from goproxy_vm.console.client import Client, Token
from goproxy_vm.errors import NotDone
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.disk import allocated, under
from tests.fakes.modules import build_zip
from tests.fakes.upstream import Reply
from tests.hostile.test_attacks import connect, request
from tests.hostile.victim import BIG, Victim

MINUTES = float(os.environ.pop("GOPROXY_VM_SOAK_MINUTES", "20"))  # no setting of the server
LIMIT = 48 << 20
MODULES = 120
SAMPLE = 2.0
"""Seconds between two looks at the server."""
SETTLED = 60.0
"""Seconds after which nothing may be under way any more."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * MINUTES + 300)]


def fill(upstream: UpstreamThread, chance: random.Random) -> list[str]:
    """Modules that together are several times the budget; the paths of all that may be asked for."""
    paths = []
    for number in range(MODULES):
        module = f"example.com/s{number}"
        for version in ("v1.0.0", "v1.1.0"):
            data = chance.randbytes(chance.choice([2_000, 60_000, 400_000, 2_000_000]))
            files = {"go.mod": f"module {module}\n".encode(), "data": data}
            upstream.fake.add_module(module, version, zipped=build_zip(module, version, files, stored=True))
            paths += [f"/{module}/@v/{version}.{kind}" for kind in ("info", "mod", "zip")]
        paths += [f"/{module}/@v/list", f"/{module}/@latest"]
    return paths


def moody(upstream: UpstreamThread, chance: random.Random) -> Callable[[str], Reply]:
    """An upstream that fails in one of twelve answers, in every way that it can."""

    def answer(path: str) -> Reply:
        body = upstream.fake.files.get(path)
        if body is None:
            return Reply(b"not found\n", 404, {"Content-Type": "text/plain"})
        if chance.random() > 1 / 12:
            return Reply(body)
        return chance.choice(
            [
                Reply(b"<html>log in", 200, {"Content-Type": "text/html"}),
                Reply(b"out of order\n", 500),
                Reply(b"", 429, {"Retry-After": "1"}),
                Reply(body, send=len(body) // 2),
                Reply(body, send=len(body) // 2, then="reset"),
                Reply(body, send=len(body) // 2, then="stall"),
                Reply(body, length=len(body) + 7, send=len(body)),
            ]
        )

    return answer


class Crowd:
    """Clients of every kind, each in a thread of its own, until they are told to stop."""

    def __init__(self, victim: Victim, upstream: UpstreamThread, paths: list[str], admin: Client) -> None:
        self._victim = victim
        self._files = upstream.fake.files
        self._paths = paths
        self._admin = admin
        self._over = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        kinds = [
            *[self._builds] * 4,
            self._hangs_up,
            self._reads_slowly,
            self._talks_nonsense,
            self._operates,
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(kind, random.Random(number)))
            for number, kind in enumerate(kinds)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def _run(self, kind: Callable[[random.Random], None], chance: random.Random) -> None:
        while not self._over.is_set():
            try:
                kind(chance)
            except OSError:
                self.done[f"{kind.__name__}: cut off"] += 1
            except Exception as error:
                self.wrong.append(f"{kind.__name__}: {error!r}")
                raise

    def _builds(self, chance: random.Random) -> None:
        """Asks for some files on one connection, and compares them: hits, misses, what was evicted."""
        host, _, port = self._victim.url.removeprefix("http://").rpartition(":")
        where = (f"127.0.1.{chance.randrange(1, 9)}", 0)
        with closing(http.client.HTTPConnection(host, int(port), 60, source_address=where)) as client:
            for _ in range(chance.randrange(1, 60)):
                # Some are asked for often.
                path = self._paths[int(len(self._paths) * chance.random() ** 3)]
                client.request("GET", path)
                answer = client.getresponse()
                body = answer.read()
                self.statuses[answer.status] += 1
                if answer.status == 200 and path.endswith((".mod", ".zip")) and body != self._files[path]:
                    self.wrong.append(path)
                elif answer.status not in (200, 502, 503, 504):
                    self.wrong.append(f"{path}: {answer.status} {body[:200]!r}")

    def _hangs_up(self, chance: random.Random) -> None:
        with ExitStack() as stack:
            socks = [stack.enter_context(connect(self._victim.url)) for _ in range(chance.randrange(1, 30))]
            for sock in socks:
                slow = f"/example.com/absent{chance.randrange(10**9)}/@v/list"
                sock.sendall(request(chance.choice([slow, *chance.choices(self._paths, k=3)])))
            self._over.wait(chance.random() / 10)
        self.done["hung up"] += len(socks)

    def _reads_slowly(self, chance: random.Random) -> None:
        with connect(self._victim.url, receive_buffer=4096, address="127.0.0.3") as sock:
            path = chance.choice([BIG, *(path for path in self._paths if path.endswith(".zip"))])
            sock.sendall(request(path, *(["Range: bytes=7-"] if chance.random() < 0.3 else [])))
            rate = chance.choice([20, 20_000, 500_000])
            end = time.monotonic() + 8
            while time.monotonic() < end and not self._over.wait(0.05) and sock.recv(rate // 20):
                pass
        self.done["read slowly"] += 1

    def _talks_nonsense(self, chance: random.Random) -> None:
        url = chance.choice([self._victim.url, self._victim.admin_url])
        with connect(url, address="127.0.0.4") as sock:
            head = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * chance.randrange(0, 20_000)
            with suppress(OSError):
                sock.sendall(chance.choice([head, chance.randbytes(300), request("/healthz") * 50]))
                self._over.wait(0.1)
        self.done["talked nonsense"] += 1

    def _operates(self, chance: random.Random) -> None:
        module = f"example.com/s{chance.randrange(MODULES)}"
        ask = self._admin
        with suppress(NotDone):
            chance.choice(
                [
                    lambda: ask.post("purge", match=f"{module}@*"),
                    lambda: ask.post("purge", match=f"{module}@v1.0.0", forget_hash=True),
                    lambda: ask.post("evict", target_bytes=chance.randrange(LIMIT)),
                    lambda: ask.post("scrub", match=f"{module}@*"),
                    lambda: ask.post("refresh", module=module),
                    lambda: ask.ask("PUT", ("pins", f"{module}@*")),
                    lambda: ask.ask("DELETE", ("pins", f"{module}@*")),
                    lambda: ask.get("status"),
                    lambda: ask.get("modules", limit=1000),
                ]
            )()
        self.done["operated"] += 1
        self._over.wait(0.3)


def on_record(cache: Path) -> int:
    """Bytes allocated for the files on record."""
    with closing(sqlite3.connect(f"{(cache / 'index.db').as_uri()}?mode=ro", uri=True)) as index:
        (files,) = index.execute("SELECT coalesce(sum(blocks), 0) FROM files").fetchone()
    return int(files) * 512


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLED
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_everything_mixed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    chance = random.Random(1)
    with UpstreamThread() as upstream:
        paths = fill(upstream, chance)
        upstream.fake.on("*", moody(upstream, chance))
        flags = {
            "upstream": upstream.url,
            "max-size": str(LIMIT),
            "min-free": "0",
            "pins": "example.com/small@*",  # what the other client asks for
            "fresh": "1s",
            "negative": "1s",
            "stall-timeout": "1s",
            "send-timeout": "3s",
            "janitor-interval": "2s",
            "recency-flush": "1s",
            "answers-max-size": "2MiB",
        }
        with Victim(tmp_path, flags) as victim:
            admin = Client(f"unix:{cache / SOCKET_NAME}", Token(None), frozenset({os.geteuid()}))
            quiet = victim.descriptors()
            samples: list[tuple[float, int, int]] = []
            highest = 0
            with victim.beside() as latencies:
                crowd = Crowd(victim, upstream, paths, admin)
                try:
                    end = time.monotonic() + 60 * MINUTES
                    while time.monotonic() < end and not crowd.wrong:
                        time.sleep(SAMPLE)
                        samples.append((victim.resident(), victim.descriptors(), victim.threads()))
                        highest = max(highest, admin.get("status")["cache"]["used_bytes"])
                finally:
                    crowd.stop()
            assert not crowd.wrong, crowd.wrong[:5]

            upstream.fake.forget_rules()
            until(lambda: admin.get("status")["fetches_in_flight"] == 0, "fetches go on")
            until(
                lambda: admin.get("status")["cache"]["used_bytes"] == under(cache),
                "what is counted is not what is on disk",
            )
            left = victim.descriptors()
            used = under(cache)
            stop = victim.stop()
            assert "Traceback" not in "".join(str(line) for line in victim.lines())
    assert on_record(cache) == allocated(cache / "modules")
    assert not list((cache / "tmp").iterdir())

    second, last = samples[len(samples) // 4 : len(samples) // 2], samples[-len(samples) // 4 :]
    print(f"\n{MINUTES:g} minutes: {dict(crowd.statuses)}, {dict(crowd.done)}")
    print(f"MiB, descriptors, threads: {middle(second)} in the second quarter, {middle(last)} in the last,")
    print(f"at most {most(samples)}; {quiet} descriptors before, {left} after; a stop took {stop:.1f} s")
    print(f"used at most {highest}, at the end {used}, of {LIMIT}")
    print(f"another client: {latencies[0] * 1000:.1f} ms, at most {latencies[1] * 1000:.0f} ms")
    assert highest <= LIMIT
    assert middle(last)[0] < middle(second)[0] * 1.1 + 8
    assert most(last)[1] < most(second)[1] * 1.3 + 50
    assert most(last)[2] <= most(second)[2] + 4
    assert left <= quiet + 256 + 30  # what the short cut keeps open


def middle(samples: list[tuple[float, int, int]]) -> tuple[float, ...]:
    return tuple(round(statistics.median(each), 1) for each in zip(*samples, strict=True))


def most(samples: list[tuple[float, int, int]]) -> tuple[float, ...]:
    return tuple(round(max(each), 1) for each in zip(*samples, strict=True))
