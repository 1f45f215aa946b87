"""Who asks, as far as the decision needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asker:
    """``client`` is its address, by which miss slots are shared; ``fetch`` is False where the request
    forbids upstream traffic (``Disable-Module-Fetch: true``, ``/cached-only``); ``patience`` the seconds
    after which it wants to hear that a fetch is under way (UnderWay), or None; ``authorization`` the value of
    its header of that name, or nothing.
    """

    client: str
    fetch: bool = True
    patience: float | None = None
    authorization: str = ""
