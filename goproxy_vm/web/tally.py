"""What is noted of a request that the short cut has answered."""

from __future__ import annotations

import time
from secrets import token_hex
from typing import TYPE_CHECKING

from goproxy_vm.observe.access import Line

if TYPE_CHECKING:
    from goproxy_vm.ledger.notes import Notes
    from goproxy_vm.observe.access import AccessLog
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.web.ready import Ready


class Tally:
    """Notes it in the metrics, in the access log where that has hits, and in the ledger if it was a zip."""

    def __init__(self, metrics: Metrics, access: AccessLog, notes: Notes) -> None:
        self._metrics = metrics
        self._access = access
        self._fetched = notes.fetched

    def hit(self, client: str, ready: Ready, method: str, started: float, sent: int) -> None:
        """A client was sent so many bytes of an answer's body."""
        now = time.monotonic()
        self._metrics.request(ready.endpoint, "hit", now - started, sent)
        if ready.zip and sent == ready.length:  # to HEAD nothing is sent, and no zip is empty
            self._fetched(client, ready.path, now)
        if self._access.hits:
            about = (ready.endpoint, *ready.about())
            seconds = now - started
            self._access.add(
                Line(token_hex(6), client, method, f"/{ready.path}", *about, 200, "hit", seconds, sent)
            )

    def failed(self, endpoint: str, result: str, started: float) -> None:
        """What looked like a hit was none, and nobody else counts it."""
        self._metrics.request(endpoint, result, time.monotonic() - started, 0)
