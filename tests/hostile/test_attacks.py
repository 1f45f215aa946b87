"""Attacks on a server in a process of its own, seen from outside: its memory, another client, its end.

Small in ``make test``, large in ``make attack``; each has a row in the table of SECURITY.md.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.upstream import Reply
from tests.hostile.conftest import Attack, Scale
from tests.hostile.victim import BIG, SMALL

GREEDY = "127.0.0.2"
"""Whence attacks come: limits are by address."""
LONG_LIST = b"".join(b"v1.%d.0-%b\n" % (number, b"x" * 100) for number in range(18_000))
"""Nearly 2 MiB of versions."""


def connect(
    url: str, *, receive_buffer: int | None = None, segment: int | None = None, address: str = GREEDY
) -> socket.socket:
    """A connection from the attacker's address. With a small ``segment`` the server's kernel keeps little of
    what is not read: of the loopback's large ones up to 3 MB."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    sock = socket.socket()
    if segment is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(20)
    sock.bind((address, 0))
    sock.connect((host, int(port)))
    return sock


def request(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def pour(socks: list[socket.socket], data: bytes) -> None:
    """Send on each as much of ``data`` as the server takes, until none takes any for half a second."""

    async def one(sock: socket.socket) -> None:
        sock.setblocking(False)
        with suppress(OSError, TimeoutError):
            rest = memoryview(data)
            while rest:
                async with asyncio.timeout(0.5):
                    await asyncio.get_running_loop().sock_sendall(sock, rest[:65536])
                rest = rest[65536:]

    async def every() -> None:
        await asyncio.gather(*(one(sock) for sock in socks))

    asyncio.run(every())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def answer(sock: socket.socket) -> bytes:
    """What comes of an answer with its head, which is all of a small one."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += sock.recv(65536)
    return came


def test_asks_and_never_reads(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    connections, requests = scale(5, 40), scale(1000, 3000)
    victim = attack.start()
    with attack.measured(
        victim,
        "asks and never reads",
        f"{connections} connections, {requests:,} requests each for 60 kB, one a segment",
    ):
        socks = [stack.enter_context(connect(victim.url, receive_buffer=4096)) for _ in range(connections)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        taking = set(socks)
        pause = threading.Event()
        for _ in range(requests):
            pause.wait(0.002)  # that the server finds each alone
            for sock in list(taking):
                try:
                    sock.send(request(SMALL))
                except OSError:  # the server takes no more
                    taking.discard(sock)


def test_ranges_that_nobody_reads(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    connections = scale(10, 90)
    victim = attack.start()
    with attack.measured(
        victim, "ranges that nobody reads", f"{connections} connections, 16 MiB each, nine requests in line"
    ):
        socks = [stack.enter_context(connect(victim.url, receive_buffer=4096)) for _ in range(connections)]
        pour(socks, request(BIG, "Range: bytes=1-") * 9)


def test_lists_that_nobody_reads(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """Of each an answer of its own: those that the short cut has prepared are one for all."""
    connections = scale(64, 500)
    upstream = stack.enter_context(UpstreamThread())
    upstream.fake.on("*", Reply(LONG_LIST))
    victim = attack.start({"upstream": upstream.url, "stall-timeout": "20s"})
    with attack.measured(
        victim, "lists that nobody reads", f"{connections} connections, 2 MiB each", memory=64.0
    ):
        for _ in range(connections):
            sock = stack.enter_context(connect(victim.url, receive_buffer=4096, segment=536))
            sock.sendall(request("/example.com/m/@v/list", "Connection: keep-alive"))
            assert answer(sock).startswith(b"HTTP/1.1 200 ")
    dropped = [line for line in victim.lines() if line["event"] == "unread answer dropped"]
    assert dropped
    assert {line["client"] for line in dropped} == {GREEDY}


def test_sippers(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """A byte now and then, below the least rate: all are cut off after ``send_timeout``."""
    connections = scale(10, 90)
    victim = attack.start({"send-timeout": "2s"})
    with attack.measured(victim, "sips", f"{connections} connections, 16 MiB each, 200 bytes a second"):
        socks = [stack.enter_context(connect(victim.url, receive_buffer=4096)) for _ in range(connections)]
        pour(socks, request(BIG))
        pause = threading.Event()

        def cut() -> int:
            return sum(line["event"] == "send without progress" for line in victim.lines()) + sum(
                int(line["lines"]) for line in victim.lines() if line["event"] == "lines left out"
            )

        for _ in range(200):
            alive = 0
            for sock in socks:
                with suppress(OSError):
                    alive += len(sock.recv(20))
            if victim.descriptors() < connections or cut() >= connections:
                break
            pause.wait(0.1)
        assert victim.descriptors() < 60


def test_abandoned_misses(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """Distinct slow lists, each connection hung up as soon as it has asked."""
    rounds, connections = scale(2, 60), scale(100, 400)
    upstream = stack.enter_context(UpstreamThread())
    gate = upstream.fake.hold("/example.com/slow*")
    victim = attack.start({"upstream": upstream.url, "stall-timeout": "60s"})
    asked = rounds * connections
    with attack.measured(
        victim, "abandoned misses", f"{asked:,} distinct slow lists, {connections} connections at a time"
    ):
        for turn in range(rounds):
            with ExitStack() as opened:
                socks = [opened.enter_context(connect(victim.url)) for _ in range(connections)]
                for number, sock in enumerate(socks):
                    sock.sendall(request(f"/example.com/slow{turn}x{number}/@v/list"))
    upstream.open(gate)


def test_greedy_misses(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """It waits for slow files on all connections that it may have; another's miss is served meanwhile."""
    connections = scale(100, 1000)
    upstream = stack.enter_context(UpstreamThread())
    upstream.fake.add_module("example.com/popular", "v1.0.0")
    gate = upstream.fake.hold("/example.com/slow*")
    victim = attack.start({"upstream": upstream.url, "stall-timeout": "60s"})
    popular = "/example.com/popular/@v/v1.0.0.zip"
    with attack.measured(victim, "greedy misses", f"{connections:,} slow files, and last a popular one"):
        for number in range(connections):
            sock = stack.enter_context(connect(victim.url))
            sock.sendall(request(f"/example.com/slow{number}/@v/v1.0.0.mod"))
        stack.enter_context(connect(victim.url)).sendall(request(popular))
        other = stack.enter_context(connect(victim.url, address="127.0.0.3"))
        other.sendall(request(popular, "Connection: close"))
        assert other.recv(15) == b"HTTP/1.1 200 OK"
    upstream.open(gate)


def test_idle_connections(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """More than one address may have, of both listeners."""
    main, admin = scale(150, 1200), scale(70, 200)
    victim = attack.start({"max-client-connections": str(scale(100, 1024))})
    with attack.measured(victim, "idle connections", f"{main:,} connections, and {admin} to the admin port"):
        for url, count in ((victim.url, main), (victim.admin_url, admin)):
            for _ in range(count):
                stack.enter_context(connect(url))


def test_heads_without_an_end(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    connections = scale(100, 1000)
    victim = attack.start()
    head = b"GET / HTTP/1.1\r\n" + (b"X-Some-Field: " + b"y" * 4000 + b"\r\n") * 250
    with attack.measured(victim, "heads that do not end", f"{connections:,} connections, 1 MB each"):
        pour([stack.enter_context(connect(victim.url)) for _ in range(connections)], head)


def test_half_heads(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """As much as is held of a head without an answer: 64 KiB for each connection of an address."""
    connections = scale(50, 500)
    victim = attack.start()
    head = b"GET / HTTP/1.1\r\n" + (b"X-Some-Field: " + b"y" * 4000 + b"\r\n") * 15
    with attack.measured(victim, "half heads", f"{connections} connections, 60 kB each"):
        pour([stack.enter_context(connect(victim.url)) for _ in range(connections)], head)


@pytest.mark.parametrize("lines", [(), ("Upgrade: h2c", "Connection: upgrade")], ids=["pipelines", "upgrade"])
def test_what_follows_a_request(
    attack: Attack, scale: Scale[int], stack: ExitStack, lines: tuple[str, ...]
) -> None:
    connections = scale(20, 400)
    upstream = stack.enter_context(UpstreamThread())
    gate = upstream.fake.hold("*")
    victim = attack.start({"upstream": upstream.url, "stall-timeout": "60s"})
    follows = request("/healthz", "X: " + "y" * 3000) * 330
    with attack.measured(
        victim,
        "bytes behind a request that is answered slowly",
        f"{connections} connections, 1 MB each, as a pipeline or after an Upgrade",
    ):
        socks = [stack.enter_context(connect(victim.url)) for _ in range(connections)]
        for number, sock in enumerate(socks):
            sock.sendall(request(f"/example.com/slow{number}/@v/list", *lines))
        pour(socks, follows)
    upstream.open(gate)


def test_compressed_bodies(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """4 KB that would be 4 MiB, to both listeners."""
    times = scale(20, 400)
    bomb = gzip.compress(bytes(4 << 20))
    lines = ("Content-Encoding: gzip", f"Content-Length: {len(bomb)}", "Content-Type: application/json")
    victim = attack.start()
    with attack.measured(victim, "compressed bodies", f"{times} of 4 MiB in 4 KB, to each listener"):
        for _ in range(times):
            for url, path in ((victim.url, "/healthz"), (victim.admin_url, "/api/v1/purge")):
                with connect(url) as sock:
                    sock.sendall(request(path, *lines, method="POST"))
                    with suppress(OSError):
                        sock.sendall(bomb)
                        sock.recv(1000)


def test_long_targets(attack: Attack, scale: Scale[int]) -> None:
    """What one client writes into the log is bounded, whatever it asks."""
    requests = scale(500, 30_000)
    victim = attack.start()
    before = victim.log_bytes()
    with (
        attack.measured(victim, "long targets", f"{requests:,} requests of 8 kB that are refused"),
        connect(victim.url) as sock,
    ):
        for number in range(requests):
            sock.sendall(request(f"/{number}{'x' * 8000}"))
            assert answer(sock).startswith(b"HTTP/1.1 404")
    assert victim.log_bytes() - before < 600 * 2000 * (1 + requests // 10_000)


def test_nonsense(attack: Attack, scale: Scale[int]) -> None:
    """Neither listener takes it for HTTP, or logs more than it must."""
    times = scale(100, 5000)
    chance = random.Random(1)
    victim = attack.start()
    before = victim.log_bytes()
    with attack.measured(
        victim, "nonsense", f"{times:,} connections with bytes at random, half of them admin"
    ):
        for number in range(times):
            with connect((victim.url, victim.admin_url)[number % 2]) as sock, suppress(OSError):
                sock.sendall(chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n")
                sock.recv(1000)
    assert victim.log_bytes() - before < 400_000


def test_a_stampede(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """One file that nobody has, asked for on many connections at once, is fetched once."""
    connections = scale(50, 1000)
    upstream = stack.enter_context(UpstreamThread())
    upstream.fake.add_module("example.com/m", "v1.0.0")
    path = "/example.com/m/@v/v1.0.0.zip"
    held = upstream.fake.hold(path)
    victim = attack.start({"upstream": upstream.url, "stall-timeout": "60s"})
    with attack.measured(victim, "a stampede", f"{connections:,} connections ask for one file"):
        socks = [stack.enter_context(connect(victim.url)) for _ in range(connections)]
        for sock in socks:
            sock.sendall(request(path))
        upstream.wait(held)
        upstream.open(held)
        for sock in socks:
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
    assert upstream.fake.count(path) == 1


def test_failing_upstream(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """Every answer of the upstream fails: misses cost little, and the log is bounded."""
    requests = scale(100, 3000)
    upstream = stack.enter_context(UpstreamThread())
    upstream.fake.on("*", Reply(b"x" * 100_000, 500, send=50_000, then="reset"))
    victim = attack.start({"upstream": upstream.url, "stall-timeout": "5s"})
    before = victim.log_bytes()
    with (
        attack.measured(victim, "misses that fail", f"{requests:,} of them, each upstream answer is reset"),
        connect(victim.url) as sock,
    ):
        for number in range(requests):
            sock.sendall(request(f"/example.com/m{number}/@v/list"))
            answer(sock)
    assert victim.log_bytes() - before < 3_000_000


def test_reports_of_very_many_vms(attack: Attack, scale: Scale[int], stack: ExitStack) -> None:
    """Each from another address, as a proxy that is trusted can have them."""
    reports = scale(1_000, 50_000)
    victim = attack.start({"trusted-proxies": GREEDY})
    path = (
        "/vm/seen?script=clean&go=go1.{}&bootstrap=go1.24.11&os=linux&arch=amd64&modcache_mib=1&gocache_mib=2"
    )
    with attack.measured(
        victim, "reports of very many VMs", f"{reports:,} addresses, each another Go version"
    ):
        sock = stack.enter_context(connect(victim.url))
        for start in range(0, reports, 20):
            some = range(start, start + 20)
            sock.sendall(
                b"".join(
                    request(path.format(n), f"X-Forwarded-For: 10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
                    for n in some
                )
            )
            came = b""
            while came.count(b"\r\n\r\n") < len(some):
                came += sock.recv(65536)
            assert came.count(b"HTTP/1.1 200 ") == len(some)
