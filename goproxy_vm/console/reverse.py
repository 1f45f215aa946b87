"""What addresses are called, by the DNS: for people, and when they ask."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECONDS = 1.0
"""That the look-up of an address may take."""
AT_ONCE = 16
"""Addresses that are looked up at a time."""
MOST = 1_000
"""Addresses that are looked up at most; in silence of the DNS that takes a minute."""

Json = dict[str, Any]


class Reverse:
    """Looks up names, each address once. ``name_of`` is asked for one, and may block; OSError where it has
    none."""

    def __init__(
        self, name_of: Callable[[str], str] = lambda address: socket.gethostbyaddr(address)[0]
    ) -> None:
        self._name_of = name_of

    def add(self, items: Iterable[Json]) -> None:
        """Say in ``dns`` of each fetch, whose client has no other name, what the DNS calls it; null where it
        says nothing, or not in time."""
        asked: dict[str, list[Json]] = {}
        for each in items:
            each["dns"] = None
            if each["name"] is None and _is_address(each["client"]):
                asked.setdefault(each["client"], []).append(each)
        for client, name in self._names(list(asked)[:MOST]).items():
            for each in asked[client]:
                each["dns"] = name

    def _names(self, addresses: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for start in range(0, len(addresses), AT_ONCE):
            some = addresses[start : start + AT_ONCE]
            heard: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
            for each in some:
                # A look-up cannot be cut short: who takes too long is left behind, and ends with the command.
                threading.Thread(target=self._look, args=(each, heard), daemon=True).start()
            until = time.monotonic() + SECONDS
            try:
                for _ in some:
                    address, name = heard.get(timeout=max(0.0, until - time.monotonic()))
                    if name:
                        found[address] = name
            except queue.Empty:
                continue
        return found

    def _look(self, address: str, heard: queue.SimpleQueue[tuple[str, str]]) -> None:
        try:
            name = self._name_of(address)
        except (OSError, UnicodeError):
            name = ""
        heard.put((address, name))


def _is_address(client: str) -> bool:
    try:
        ipaddress.ip_address(client)
    except ValueError:  # unix, or a hash
        return False
    return True
