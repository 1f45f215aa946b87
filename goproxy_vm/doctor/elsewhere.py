"""The server that runs though nobody holds the cache directory of the settings: it is asked where it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import Layout
from goproxy_vm.config.token import SOCKET_NAME
from goproxy_vm.console.client import Client, Token, admin_url, find_owners, find_token
from goproxy_vm.errors import ConfigError, NoServer, NotDone
from goproxy_vm.hostos import lock_holder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from goproxy_vm.config import Settings

STOCK = Path("/var/cache/goproxy-vm")
"""Where the systemd unit has its cache, by a variable that nobody but the unit has."""


def running_elsewhere(settings: Settings) -> Path | None:
    """The cache directory of the running server, as it says itself (blocking, ten seconds for each way).

    None where the settings' own is held, and where nobody tells. It is asked at ``admin_listen`` with the
    settings' token, then at the socket in :data:`STOCK`.
    """
    root = Layout.at(settings.cache_dir).root
    if lock_holder(Layout.at(root).lock):
        return None
    for url, token in _ways(settings):
        try:
            client = Client(url, token, find_owners(settings, None))
            client.readiness()  # within seconds, or not at all
            told = Path(client.get("status")["cache"]["dir"])
        except (ConfigError, NoServer, NotDone, LookupError, TypeError):
            continue  # no server of ours, or none that tells us
        return None if told == root else told
    return None


def _ways(settings: Settings) -> Iterator[tuple[str, Token]]:
    try:
        token = find_token(settings, None)
    except ConfigError:
        token = Token(None)  # the check of the token says so
    if token.text is not None:
        yield admin_url(settings.admin_listen), token
    yield f"unix:{STOCK / SOCKET_NAME}", Token(None)
