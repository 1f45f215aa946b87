"""The server that runs: where it is, and what it runs with, as it says itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import Layout
from goproxy_vm.config import Shown
from goproxy_vm.config.address import Address, parse_address
from goproxy_vm.config.token import SOCKET_NAME
from goproxy_vm.console.client import Client, Token, find_owners, find_server, find_token
from goproxy_vm.errors import ConfigError, NoServer, NotDone, NotFound
from goproxy_vm.hostos import lock_holder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from goproxy_vm.config import Settings

STOCK = Path("/var/cache/goproxy-vm")
"""Where the systemd unit has its cache, by a variable that nobody but the unit has."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the running server says: its cache directory, its settings, its proxies, where it really listens.

    No settings: it is of a version that does not tell them.
    """

    directory: Path
    settings: Mapping[str, Shown] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict)
    listen: tuple[Address, ...] = ()
    admin_listen: Address | None = None


def ask_running(settings: Settings) -> Told | None:
    """What the running server tells (blocking, ten seconds for each way); None where none tells anything.

    The one that holds the settings' cache directory is asked there; where nobody holds it, the one at
    ``admin_listen`` with the settings' token, then the one at the socket in :data:`STOCK`.
    """
    for url, token in _ways(settings):
        try:
            client = Client(url, token, find_owners(settings, None))
            client.readiness()  # within seconds, or not at all
            return _told(client)
        except (ConfigError, NoServer, NotDone, LookupError, TypeError, AttributeError, ValueError):
            continue  # no server of ours, or none that tells us
    return None


def _told(client: Client) -> Told:
    directory = Path(client.get("status")["cache"]["dir"])
    try:
        answer = client.get("settings")
    except NotFound:
        return Told(directory)
    shown = {name: Shown(each["value"], str(each["origin"])) for name, each in answer["settings"].items()}
    proxies = {name: str(value) for name, value in answer["proxies"].items()}
    return Told(
        directory, shown, proxies, tuple(map(_address, answer["urls"])), _address(answer["admin_url"])
    )


def _address(url: str) -> Address:
    return parse_address(url.removeprefix("http://"))


def _ways(settings: Settings) -> Iterator[tuple[str, Token]]:
    try:
        token = find_token(settings, None)
    except ConfigError:
        token = Token(None)  # the check of the token says so
    place = find_server(settings)
    if not place.missed:
        yield place.url, Token(None)  # who may connect there needs none, and a wrong one is refused
    elif token.text is not None:
        yield place.url, token
    if not lock_holder(Layout.at(settings.cache_dir).lock):
        yield f"unix:{STOCK / SOCKET_NAME}", Token(None)
