"""The server's state, as operators ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from goproxy_vm.cache.facts import Recovery
from goproxy_vm.observe.metrics import RULES
from goproxy_vm.observe.traffic import Served
from goproxy_vm.proxy.ages import Aging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from goproxy_vm.cache.facts import CacheStatus, Pass
    from goproxy_vm.config import Shown
    from goproxy_vm.upstream.backoff import Condition


@dataclass(frozen=True, slots=True)
class Activity:
    """What goes on: what was served, who asks, and who is asked.

    ``upstreams`` and ``database`` are by name, the latter None where there is none; ``addresses`` counts the
    different ones among those who hold ``connections`` to the main listener.
    """

    since_start: Served = field(default_factory=Served)
    last_day: Served = field(default_factory=Served)
    requests_per_second: float = 0.0
    addresses: int = 0
    connections: int = 0
    upstreams: Sequence[tuple[str, Condition]] = ()
    database: tuple[str, Condition] | None = None
    rules: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    """How many of the gate's rules are in force, by their kind."""
    aging: Aging = field(default_factory=lambda: Aging(0.0, 0.0))


@dataclass(frozen=True, slots=True)
class InForce:
    """What the server runs with: each setting and the variables that name proxies, without passwords.

    ``urls`` and ``admin_url`` are where it really listens: at the port that port 0 became, at systemd's
    sockets.
    """

    settings: Mapping[str, Shown] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict)
    urls: Sequence[str] = ()
    admin_url: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The server's state: ``state`` is ``recovering`` or ``ready``."""

    version: str
    started: float
    uptime_seconds: float
    state: Literal["recovering", "ready"]
    cache: CacheStatus
    fetches_in_flight: int
    activity: Activity = field(default_factory=Activity)
    recovery: Recovery = field(default_factory=Recovery)
    last_pass: Pass | None = None
    last_scrub: Pass | None = None
