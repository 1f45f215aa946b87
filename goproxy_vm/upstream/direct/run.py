"""One run of the go command: below the launcher, watched, and ended with everything that it started."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from goproxy_vm.observe.logs import get_logger
from goproxy_vm.waiting import to_the_end

OUTPUT_MOST = 4 << 20
"""Bytes of what a run says that are kept, on each of its two ways: 100,000 versions have 3 MB."""
TICK = 0.25
"""Seconds between two looks at a run."""
_STEPS = ((0, 0.3), (signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0))
"""Signals to the whole group, and the seconds that it then has: git removes its locks when it is asked to
end, and leaves them for good when it is killed."""
_POLL = 0.01
_DRAIN = 2.0
"""Seconds for the last of what was said, once everybody has gone."""
_JAIL = Path(__file__).with_name("jail.py")
_PR_SET_CHILD_SUBREAPER = 36

log = get_logger("upstream")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """What is run. ``jail``: what the launcher is told; ``environ``: the whole environment."""

    jail: Mapping[str, object]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """What a run said. ``killed``: whether anything of it had to be told to end."""

    out: bytes
    err: bytes
    status: int | None
    killed: bool


def adopt_orphans() -> None:
    """Become the parent of what git leaves behind when go is killed, so that it can be waited for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def run(job: Job, watch: Callable[[], None]) -> Said:
    """Run to the end. ``watch`` is called all the time, and ends the run by raising; so does whoever cancels.

    However it ends, no process of its group is left. OSError: it cannot be started.
    """
    stop = asyncio.Event()
    task = asyncio.create_task(_supervise(job, watch, stop), name="direct")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Exception):
            await to_the_end(task)
        raise


class _Child(asyncio.SubprocessProtocol):
    """Collects what a process says."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.said = {1: bytearray(), 2: bytearray()}
        self.exited: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        """It has ended, or says nothing more."""
        self.silent: asyncio.Future[None] = loop.create_future()
        """Nobody holds its output any more."""
        self._open = set(self.said)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what there is room for."""
        kept = self.said[fd]
        kept += data[: OUTPUT_MOST - len(kept)]

    def pipe_connection_lost(self, fd: int, _error: Exception | None) -> None:
        """The end of one way."""
        self._open.discard(fd)
        if fd == 1:
            _set(self.over)
        if not self._open:
            _set(self.silent)

    def process_exited(self) -> None:
        """The end of the process itself."""
        _set(self.exited)
        _set(self.over)


async def _supervise(job: Job, watch: Callable[[], None], stop: asyncio.Event) -> Said:
    told = json.dumps({**job.jail, "parent": os.getpid()})
    transport, child = await asyncio.get_running_loop().subprocess_exec(
        _Child,
        sys.executable,
        *("-I", "-S", str(_JAIL), told),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        env=dict(job.environ),
    )
    stopping = asyncio.create_task(stop.wait())
    killed = True
    try:
        while not (child.over.done() or stopping.done()):
            watch()
            await asyncio.wait((child.over, stopping), timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        killed = await _end(transport, child)
        await asyncio.wait((child.exited, child.silent), timeout=_DRAIN)
        transport.close()
    return Said(bytes(child.said[1]), bytes(child.said[2]), transport.get_returncode(), killed)


async def _end(transport: asyncio.SubprocessTransport, child: _Child) -> bool:
    """End the whole group, and wait for it: git does not end with go. Whether it had to be told to."""
    group = transport.get_pid()
    for number, patience in _STEPS if child.over.done() else _STEPS[1:]:
        until = time.monotonic() + patience
        try:
            os.killpg(group, number)
            while time.monotonic() < until:
                if child.exited.done():  # only then: whoever waits for the leader would miss it
                    _reap(group)
                    os.killpg(group, 0)
                await asyncio.sleep(_POLL)
        except ProcessLookupError:
            return number != 0
    log.error("processes cannot be ended", group=group)
    return True


def _reap(group: int) -> None:
    """Collect those of the group that were left to us, and no other child."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def _set(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
