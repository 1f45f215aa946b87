"""The access log: one line a request, collected by the loop and written by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from goproxy_vm.observe.logs import get_logger

log = get_logger("access")

INTERVAL = 0.25
"""Seconds between two batches."""
MOST = 100_000
"""Lines that may wait; more are dropped, and their number is told."""


@dataclass(frozen=True, slots=True)
class Line:
    """One answered request; ``seconds`` until its last byte went to the system, ``sent`` bytes of body."""

    request_id: str
    client: str
    method: str
    path: str
    endpoint: str
    module: str
    version: str
    status: int
    result: str
    seconds: float
    sent: int


class AccessLog:
    """``which``: ``off``, ``misses`` (all but plain hits) or ``all``. Lines are of level info."""

    def __init__(self, which: str) -> None:
        self.hits = which == "all"
        """Whether hits are wanted."""
        self.others = which != "off"
        """Whether anything else is."""
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        """Write from now on."""
        if self.others:
            self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopped.set()
        if self.others:
            self._thread.join()

    def add(self, line: Line) -> None:
        """Take one line; never waits."""
        if len(self._lines) < MOST:
            self._lines.append(line)
        else:
            self._dropped += 1

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._write()
        self._write()

    def _write(self) -> None:
        while self._lines:
            line = self._lines.popleft()
            log.info(
                "request",
                request_id=line.request_id,
                client=line.client,
                method=line.method,
                path=line.path,
                endpoint=line.endpoint,
                module=line.module,
                version=line.version,
                status=line.status,
                result=line.result,
                seconds=round(line.seconds, 6),
                bytes=line.sent,
            )
            time.sleep(0)  # the loop goes first
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("access log lines dropped", lines=dropped)
