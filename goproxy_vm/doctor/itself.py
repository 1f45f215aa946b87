"""Whether an upstream is the very server that would ask it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.config.address import Address
    from goproxy_vm.upstream.spec import UpstreamSpec


def is_itself(settings: Settings, spec: UpstreamSpec) -> bool:
    """Whether ``spec`` is an address that the server listens on, or its ``public_url`` (blocking)."""
    if spec.kind == "file":
        return False
    host, port = _host_and_port(spec.url)
    if settings.public_url and _host_and_port(settings.public_url) == (host, port):
        return True
    listening = [address for address in settings.listen if address.port == port and port]
    return any(_serves(address, ip) for ip in _addresses(host) for address in listening)


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


def _addresses(host: str) -> set[str]:
    with contextlib.suppress(OSError, UnicodeError):
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return set()


def _serves(address: Address, ip: str) -> bool:
    """Whether what listens there is reached by ``ip``."""
    hosts = _addresses(address.host)
    return ip in hosts or (any(ipaddress.ip_address(each).is_unspecified for each in hosts) and _ours(ip))


def _ours(ip: str) -> bool:
    """Whether an address is one of this host's: no other can be bound."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((ip, 0))
        except OSError:
            return False
    return True
