"""Who asks, as far as the decision needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from goproxy_vm.errors import Absent


@dataclass(frozen=True, slots=True)
class Asker:
    """``client`` is its address, by which miss slots are shared; ``fetch`` is False where the request
    forbids upstream traffic (``Disable-Module-Fetch: true``, ``/cached-only``); ``patience`` the seconds
    after which it wants to hear that a fetch is under way (UnderWay), or None.
    """

    client: str
    fetch: bool = True
    patience: float | None = None


def not_here(*, offline: bool) -> Absent:
    """What is not stored and may not be fetched: this server is ``offline``, else the request forbids it."""
    if offline:
        return Absent(
            "not stored here, and this server asks no upstream (setting offline): "
            "have it fetched once by a server that may"
        )
    return Absent("not stored here, and this request may not fetch it")
