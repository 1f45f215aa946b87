"""Where to listen, and what a Host header or a URL may name."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from goproxy_vm.config.text import quoted

UNIX_PATH_MAX = 107
"""Bytes in the path of a Unix socket: Linux's ``sun_path`` less its final NUL."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``host`` (a name, IPv4 or IPv6 address without brackets) and ``port``, or the
    ``path`` of a Unix socket. Port 0 lets the system choose one.
    """

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def overlaps(self, other: Address) -> bool:
        """Whether both cannot be listened at together: they are one, or one is every address at that port."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        if self.port != other.port or not self.port:
            return False
        hosts = {self.host, other.host}
        return len(hosts) == 1 or "::" in hosts or ("0.0.0.0" in hosts and ":" not in "".join(hosts))  # noqa: S104


_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_PORT = re.compile(r"[0-9]{1,5}")


def parse_address(text: str) -> Address:
    """``HOST:PORT``, ``[v6]:PORT`` or ``unix:PATH``; raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError("unix: needs a path")
        if len(path.encode(errors="surrogateescape")) > UNIX_PATH_MAX:
            raise ValueError(f"the path of a Unix socket has at most {UNIX_PATH_MAX} bytes")
        return Address("", 0, path)
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{quoted(text)} has no port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    if not _HOST.fullmatch(host):
        raise ValueError(f"{quoted(host)} is no host name or IP address")
    if host.replace(".", "").isdigit():
        ipaddress.IPv4Address(host)
    return Address(host, int(port))


_AUTHORITY = re.compile(rf"(?:{_HOST.pattern}|\[([0-9A-Fa-f:.]+)\])(?::({_PORT.pattern}))?")
_LONGEST_AUTHORITY = 253 + len(":65535")


def is_authority(text: str) -> bool:
    """Whether a text is ``HOST``, ``HOST:PORT``, ``[v6]`` or ``[v6]:PORT``, without a zone."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or len(text) > _LONGEST_AUTHORITY:
        return False
    try:
        ipaddress.IPv6Address(match[1] or "::")
    except ValueError:
        return False
    return 0 < int(match[2] or 80) <= 65535


_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")


def parse_url(text: str) -> str:
    """``http(s)://HOST[:PORT][/PATH]``, or nothing; without its last slash. ValueError."""
    scheme, _, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    if text and not (
        scheme in ("http", "https") and is_authority(authority) and _URL_PATH.fullmatch(slash + path)
    ):
        raise ValueError
    return text.rstrip("/")
