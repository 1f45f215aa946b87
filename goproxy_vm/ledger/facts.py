"""What the ledger tells, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from goproxy_vm.cache.facts import Page


class SomeVersions(Protocol):
    """Some of the versions of a module."""

    def __contains__(self, version: str, /) -> bool:
        """Whether a version, unescaped, is one of them."""
        ...


@dataclass(frozen=True, slots=True)
class Noted:
    """What one client had of one zip, by its escaped ``path``, in a while: so many times whole, so many times
    refused; ``first`` and ``last`` are epoch seconds."""

    client: str
    path: str
    first: int
    last: int
    count: int
    refused: int


@dataclass(frozen=True, slots=True)
class Sought:
    """What an operator asks for: who had a ``module``, all of it or the ``versions``; or what a ``client``
    had, an address or a name of the setting client_names.

    ``since``: seconds before now, None for all; ``limit``: at most so many; ``cursor``: where the last page
    ended.
    """

    module: str = ""
    versions: SomeVersions | None = None
    client: str = ""
    since: float | None = None
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """One client and one version; ``name`` is the client's, or nothing."""

    module: str
    version: str
    client: str
    name: str
    first: int
    last: int
    count: int
    refused: int


@dataclass(frozen=True, slots=True)
class FetchPage(Page[Fetched]):
    """What was fetched, the last first; ``ledger`` is the setting, and ``proxies`` says whether the setting
    trusted_proxies names any: where none is named, all who come through a reverse proxy are one client."""

    ledger: str
    proxies: bool
