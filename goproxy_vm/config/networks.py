"""Which clients are meant by networks (settings allow_clients, private_clients)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.config.values import Network


def allowed(networks: Sequence[Network], client: str) -> bool:
    """Whether a client is in one, by IP address; ``unix``, a local socket, is. Without networks all are."""
    return not networks or client == "unix" or within(networks, client)


def within(networks: Sequence[Network], client: str) -> bool:
    """Whether an IP address is in one of the networks."""
    address = ipaddress.ip_address(client)
    return any(address in network for network in networks)
