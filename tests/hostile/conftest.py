"""What the attacks need: a whole server, and its connections from inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from goproxy_vm import server as server_module
from goproxy_vm.web import connection
from goproxy_vm.web.connection import Connection, Connections
from tests.integration.conftest import serve, upstream  # noqa: F401 (fixtures)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers are looked at often."""
    monkeypatch.setattr(connection, "SWEEP", 0.02)
    monkeypatch.setattr(connection, "DRAIN_POLL", 0.01)


class Inside:
    """All connections of all servers of a test."""

    def __init__(self) -> None:
        self.made: list[Connections] = []

    @property
    def all(self) -> list[Connection]:
        return [each for connections in self.made for each in connections._all]

    def buffered(self) -> int:
        """Bytes of answers that wait in memory."""
        return sum(each.transport.get_write_buffer_size() for each in self.all)

    def held(self) -> int:
        """Bytes of requests that wait in memory."""
        return sum(len(each._held) for each in self.all)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Inside:
    seen = Inside()

    class Kept(Connections):
        def __init__(self, inner: Callable[[], asyncio.Protocol], *given: Any, **more: Any) -> None:
            super().__init__(inner, *given, **more)
            seen.made.append(self)

    monkeypatch.setattr(server_module, "Connections", Kept)
    return seen
