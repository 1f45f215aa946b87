"""The names of clients: what their addresses stand for (setting ``client_names``)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from goproxy_vm.config.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[!-+\--~]{1,100}")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class ClientNames:
    """A name for all clients of a network, which may be one address."""

    names: Mapping[_Network, str] = field(default_factory=dict)

    @cached_property
    def _lengths(self) -> list[tuple[int, int]]:
        """IP version and length of the prefixes that there are, the longest first."""
        return sorted({(each.version, each.prefixlen) for each in self.names}, reverse=True)

    def of(self, client: str) -> str:
        """The name of a client, by the smallest network that has its address; "" where it has none."""
        try:
            address = ipaddress.ip_address(client)
        except ValueError:  # unix, or a hash in place of an address
            return ""
        for version, length in self._lengths:
            if version == address.version:
                name = self.names.get(ipaddress.ip_network((address, length), strict=False))
                if name is not None:
                    return name
        return ""

    def __contains__(self, name: str) -> bool:
        """Whether any network has that name."""
        return name in self.names.values()


def parse_client_names(items: list[str]) -> ClientNames:
    """Read ``NETWORK=NAME`` each. ValueError."""
    found: dict[_Network, str] = {}
    for item in items:
        where, equals, name = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"{quoted(item)} has no =")
        network = ipaddress.ip_network(where)
        if network in found:
            raise ValueError(f"{quoted(where)} has a name already")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{quoted(name)} is no name of up to 100 visible ASCII characters")
        found[network] = name
    return ClientNames(found)
