"""What the attacks need: a whole server, and its connections from inside; or one in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from goproxy_vm import server as server_module
from goproxy_vm.web import connections
from goproxy_vm.web.connection import Connection
from goproxy_vm.web.connections import Connections
from tests.hostile.victim import Amounts, Victim
from tests.integration.conftest import serve, upstream  # noqa: F401 (fixtures)

T = TypeVar("T")
# Not for the servers that are started: it is no setting of theirs.
LARGE = os.environ.pop("GOPROXY_VM_ATTACK", "small") == "large"
"""Whether attacks are as large as SECURITY.md says (``make attack``)."""
LONGEST = 600
"""Seconds that a large one may take."""
MEMORY = 96.0 if LARGE else 32.0
"""MiB that a server may grow under any attack."""
LATENCY = 5.0
"""Seconds that another client may wait: no measure of speed, for attackers take most of the machine."""
STOP = 10.0
"""Seconds to a stop, of which ``shutdown_timeout`` is two."""

_AMOUNTS = pytest.StashKey[list[tuple[str, str, str, Amounts]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if LARGE else ():
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the rows of the table in SECURITY.md."""
    rows = config.stash.get(_AMOUNTS, [])
    if not rows or not LARGE:
        return
    terminalreporter.section("attacks")
    for name, amount, test, found in rows:
        terminalreporter.write_line(
            f"| {name} | {amount} | {found.before:.0f} to {found.most:.0f} | {found.median * 1000:.1f}, "
            f"{found.worst * 1000:.0f} | {found.stop:.1f} | `{test}` |"
        )


Scale = Callable[[T, T], T]


@pytest.fixture
def scale() -> Scale[Any]:
    """``scale(small, large)``: the first in ``make test``, the second in ``make attack``."""
    return lambda small, large: large if LARGE else small


class Attack:
    """Starts servers to be attacked, and holds what an attack did to one to what none may do."""

    def __init__(self, directory: Path, stack: ExitStack, request: pytest.FixtureRequest) -> None:
        self._directory = directory
        self._stack = stack
        self._test = f"{request.path.name}::{request.function.__name__}"
        self._rows = request.config.stash.setdefault(_AMOUNTS, [])

    def start(self, flags: Mapping[str, str] | None = None) -> Victim:
        """A server with these flags, offline unless they name an ``upstream``."""
        return self._stack.enter_context(Victim(self._directory, flags or {}))

    @contextmanager
    def measured(self, victim: Victim, name: str, amount: str, memory: float = MEMORY) -> Iterator[None]:
        """The attack ``name``, which SECURITY.md has in its table, is the block; ``amount`` says how large it
        is. Afterwards the server is stopped. It may have grown by ``memory`` MiB."""
        with victim.watched() as found:
            yield
        (amounts,) = found
        self._rows.append((name, amount, self._test, amounts))
        assert amounts.most - amounts.before < memory
        assert amounts.worst < LATENCY
        assert amounts.stop < STOP


@pytest.fixture
def attack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Attack]:
    """What measures an attack from outside."""
    with ExitStack() as stack:
        yield Attack(tmp_path, stack, request)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers are looked at often."""
    monkeypatch.setattr(connections, "SWEEP", 0.02)
    monkeypatch.setattr(connections, "DRAIN_POLL", 0.01)


class Inside:
    """All connections of all servers of a test."""

    def __init__(self) -> None:
        self.all: set[Connection] = set()

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
        def add(self, connection: Connection) -> str:
            refused = super().add(connection)
            if not refused:
                seen.all.add(connection)
            return refused

        def remove(self, connection: Connection) -> None:
            super().remove(connection)
            seen.all.discard(connection)

    monkeypatch.setattr(server_module, "Connections", Kept)
    return seen
