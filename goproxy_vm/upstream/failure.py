"""How one request to an upstream went wrong."""

from __future__ import annotations

from typing import Literal

from goproxy_vm.errors import GoproxyError

Outcome = Literal[
    "ok", "not_found", "refused", "unavailable", "timeout", "connection", "redirect", "content", "probe"
]
"""The ``outcome`` label of ``goproxy_vm_upstream_requests_total``; ``redirect``: a host that it redirected to
failed; ``probe``: a failure nobody waited for."""


class Failure(Exception):
    """One request that did not bring the file.

    ``error`` is what the client gets if no other upstream helps; ``counts`` whether it counts against the
    upstream (connect, TLS, stall, 429, 502, 503, 504), so that it is backed off from; ``passing`` whether it
    may pass by itself, so that it is retried: whatever counts, and an answer that broke on its way;
    ``retry_after`` the seconds that the upstream asked for; ``untried`` whether it was given up only because
    another may have the file.
    """

    def __init__(
        self,
        error: GoproxyError,
        outcome: Outcome,
        *,
        counts: bool = False,
        passing: bool = False,
        retry_after: float | None = None,
        untried: bool = False,
    ) -> None:
        super().__init__(error.sentence)
        self.error = error
        self.outcome = outcome
        self.counts = counts
        self.passing = passing or counts
        self.retry_after = retry_after
        self.untried = untried
