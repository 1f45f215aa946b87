"""Who asks, and by which URL: also where a reverse proxy stands between (setting trusted_proxies)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.config.address import is_authority
from goproxy_vm.config.networks import within

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multidict import CIMultiDictProxy

    from goproxy_vm.config.values import Network

MOST_ADDRESSES = 32
"""Addresses of X-Forwarded-For that are looked at, from its end: more proxies in a row there are not."""


PRIVATE = frozenset(
    ("corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost", "private", "test")
)
"""Last labels of names that the public DNS does not have (RFC 6761, RFC 6762 appendix G)."""
_PORT = re.compile(r":[0-9]+$")


@dataclass(frozen=True, slots=True)
class Requester:
    """The ``client`` for whom a request was made (an IP address, or ``unix``), and the ``url`` that it used
    of this server, without a path; "" where no good Host says so. ``stranger``: the Host, where it is well
    formed, but a name that may not be this server's."""

    client: str
    url: str
    stranger: str = ""


class Forwarded:
    """Believes X-Forwarded-For, -Proto and -Host of the proxies in ``networks``, and of local sockets if
    there are any; of nobody else, for whoever reaches the port can write anything there.

    ``names`` are this server's own. A page in a browser on a VM can have any other name of the public DNS
    lead here (DNS rebinding), and would read what is answered by that name; an address, or a name that nobody
    can register, leads here for whoever runs the network alone.
    """

    def __init__(self, networks: Sequence[Network], names: Iterable[str] = ()) -> None:
        self._networks = networks
        self._names = frozenset(name.lower().rstrip(".") for name in names)

    def trusts(self, peer: str) -> bool:
        """Whether what this address says of others is believed."""
        return bool(self._networks) and (peer == "unix" or within(self._networks, peer))

    def requester(self, peer: str, headers: CIMultiDictProxy[str]) -> Requester:
        """Where a request came from that ``peer`` brought."""
        hosts = headers.getall("Host", [])
        if not self.trusts(peer):
            url = _url("http", hosts)
            return Requester(peer, url) if not url or self._knows(hosts[0]) else Requester(peer, "", hosts[0])
        scheme = _items(headers.getall("X-Forwarded-Proto", []))[-1:]
        hosts = _items(headers.getall("X-Forwarded-Host", []))[-1:] or hosts
        client = self._client(peer, _items(headers.getall("X-Forwarded-For", [])))
        return Requester(client, _url("https" if scheme == ["https"] else "http", hosts))

    def _knows(self, authority: str) -> bool:
        name = _PORT.sub("", authority).lower().rstrip(".")
        labels = name.split(".")
        # An IPv6 address is in brackets; no name ends in a number.
        if name.startswith("[") or labels[-1].isdecimal() or len(labels) == 1 or labels[-1] in PRIVATE:
            return True
        return name in self._names or name.endswith(".home.arpa")

    def _client(self, peer: str, addresses: list[str]) -> str:
        """The last address that no proxy of ours has; each proxy writes down who asked it, at the end."""
        client = peer
        for text in reversed(addresses[-MOST_ADDRESSES:]):
            try:
                client = _address(text)
            except ValueError:
                return client
            if not within(self._networks, client):
                return client
        return client


def _address(text: str) -> str:
    """An IP address, with or without a port or a zone, as connections show it: one client has one name.
    ValueError."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _items(values: Sequence[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",")]


def _url(scheme: str, hosts: Sequence[str]) -> str:
    return f"{scheme}://{hosts[0]}" if len(hosts) == 1 and is_authority(hosts[0]) else ""
