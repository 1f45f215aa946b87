"""A whole server in the test's own loop, in front of a fake upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from goproxy_vm.config import Settings
from goproxy_vm.config.address import Address
from goproxy_vm.config.values import RULES
from goproxy_vm.server import Server
from goproxy_vm.upstream.dates import DatedClock
from goproxy_vm.upstream.direct.dial import Roads
from goproxy_vm.upstream.upstream import Pace
from tests.fakes.stores import OpenStore
from tests.fakes.tasks import under_way
from tests.fakes.upstream import FakeUpstream

LOOPBACK = Address("127.0.0.1", 0)


@dataclass
class Got:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Host:
    """A running server and a client of it; ``settings`` are those it was started with."""

    server: Server
    session: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)
    settings: Settings | None = None

    @property
    def store(self) -> OpenStore:
        """The server's store, where ``serve`` has started it."""
        assert isinstance(self.server.store, OpenStore)
        return self.server.store

    async def quiet(self) -> None:
        """Wait until nothing is under way, for a client or by itself, and everything is on disk."""
        while self.server.proxy.fetches_in_flight or self.server.store.uncommitted or under_way("backlog"):
            await asyncio.sleep(0)

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Got:
        """Ask for a raw path, sent as it is written; header names use ``_`` for ``-``."""
        sent = {"Accept-Encoding": "identity"} | {key.replace("_", "-"): v for key, v in headers.items()}
        url = URL(self.server.url + path, encoded=True)
        async with self.session.request(method, url, headers=sent, allow_redirects=False) as response:
            return Got(response.status, response.headers, await response.read())

    async def admin(self, path: str) -> Got:
        """Ask the admin listener."""
        async with self.session.get(self.server.admin_url + path) as response:
            return Got(response.status, response.headers, await response.read())

    async def metric(self, sample: str) -> float:
        """One sample of ``/metrics``, named with its labels as the page writes them."""
        page = (await self.admin("/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(sample))


def _parsed(name: str, value: object) -> object:
    """Rules may be given as text."""
    return RULES.parse(value) if name in ("deny", "allow") and isinstance(value, str) else value


Serve = Callable[..., Awaitable[Host]]


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """An upstream with versions v0.9.0 and v1.0.0 of example.com/m."""
    async with FakeUpstream() as fake:
        fake.add_module("example.com/m", "v0.9.0")
        fake.add_module("example.com/m", "v1.0.0")
        yield fake


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start servers: ``await serve(upstream, fresh=0)``; keywords are settings, but for ``store``: what
    :meth:`Store.open` is to be given, and the server's ``roads``, ``pace`` and ``clock``."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))

        async def start(
            upstream: FakeUpstream | str,
            *,
            store: Mapping[str, object] | None = None,
            roads: Roads | None = None,
            pace: Pace | None = None,
            clock: DatedClock | None = None,
            **settings: object,
        ) -> Host:
            url = upstream if isinstance(upstream, str) else upstream.url
            given = {
                "listen": (LOOPBACK,),
                "admin_listen": LOOPBACK,
                "cache_dir": tmp_path / "cache",
                "upstream": url,
                "sumdb": None,
                "stall_timeout": 2.0,
                "stale_while_revalidate": 0.0,
                "shutdown_timeout": 5.0,
                **{name: _parsed(name, value) for name, value in settings.items()},
            }
            chosen = Settings(**given)
            server = Server(
                chosen,
                open_store=partial(OpenStore.open, **(store or {})),
                roads=roads,
                pace=pace,
                clock=clock,
            )
            await server.start()
            stack.push_async_callback(server.stop)
            return Host(server, session, settings=chosen)

        yield start
