"""Which addresses are of the public internet."""

from __future__ import annotations

import ipaddress

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 behind a translator (RFC 6052)."""
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
"""The same by a network's own rules (RFC 8215): nobody can say what is behind."""
_COMPATIBLE = ipaddress.IPv6Network("::/96")
"""IPv4 as IPv6 once wrote it (RFC 4291 §2.5.5.1)."""
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""Where global addresses of IPv6 are given out (RFC 4291 §2.4)."""
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")
"""6to4's relays, given up (RFC 7526)."""


def is_public(text: str) -> bool:
    """Whether an address is one of a public host: global, of one host, and if IPv4 is wrapped into it, that
    too. False for what is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # with a zone it is a neighbour's at best; Python takes that for an address
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return _is_public4(address)
    if address.scope_id is not None:
        return False
    inner = _wrapped(address)
    if inner is not None:
        return _is_public4(inner)
    return address in _UNICAST and address.is_global and address not in _NAT64_LOCAL


def _is_public4(address: ipaddress.IPv4Address) -> bool:
    return (
        address.is_global and not address.is_multicast and not address.is_reserved and address not in _RELAYS
    )


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
