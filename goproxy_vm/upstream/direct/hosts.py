"""How the hosts of modules do: one that fails is left alone for a while, and others are not.

What does not answer is a port: a host whose sshd is down may have pages and repositories all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from goproxy_vm.lru import Lru
from goproxy_vm.upstream.backoff import Backoff, Condition
from goproxy_vm.upstream.direct.judge import Ruling

MOST = 256
"""Hosts of public modules, and of private ones, that are known, each with a port."""


class _Host:
    def __init__(self, now: Callable[[], float], probe_time: float) -> None:
        self.backoff = Backoff(now, probe_time)
        self.latest: Ruling | None = None


class Hosts:
    """Those of private modules, or those of public ones. ``probe_time``: seconds that whoever tries one again
    has for it."""

    def __init__(self, now: Callable[[], float], probe_time: float) -> None:
        self._now = now
        self._probe_time = probe_time
        self._hosts: Lru[str, _Host] = Lru(MOST)

    def trouble(self, host: str) -> Ruling | None:
        """What went wrong with it last, while it is backed off from. Who is told nothing is to try."""
        known = self._hosts.get(host)
        if known is None or known.backoff.admit():
            return None
        return known.latest

    def failed(self, host: str, ruling: Ruling) -> None:
        """It is in trouble."""
        known = self._known(host)
        known.latest = ruling
        known.backoff.failed(None, f"{_name(host)}: {ruling.phrase}")

    def succeeded(self, host: str) -> None:
        """It answers."""
        self._known(host).backoff.succeeded()

    def conditions(self, configured: list[str]) -> list[tuple[str, Condition]]:
        """How each does: those that settings name, and those that were asked; that of https by its name."""
        names = dict.fromkeys([*configured, *sorted(self._hosts)])
        untried = Condition("untried")
        return [
            (_name(each), untried if (known := self._hosts.get(each)) is None else known.backoff.condition)
            for each in names
        ]

    def _known(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            known = _Host(self._now, self._probe_time)
            self._hosts.keep(host, known)
        return known


def _name(host: str) -> str:
    return host.removesuffix(":443")
