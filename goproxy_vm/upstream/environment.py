"""What the environment says about the way to upstreams, read as Go reads it: proxies and netrc.

The rules for proxies are those of golang.org/x/net/http/httpproxy. What Go would pass over in silence, or
could use and we cannot, ends the start.
"""

from __future__ import annotations

import ipaddress
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from yarl import URL

from goproxy_vm.config.text import redacted
from goproxy_vm.errors import StartError
from goproxy_vm.observe.logs import get_logger

SCHEMES = ("http", "https")
"""How a proxy can be asked, and what for."""
_PROXIES = (*(f"{scheme.upper()}_PROXY" for scheme in SCHEMES), "NO_PROXY")

log = get_logger("upstream")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class _Exception:
    """One entry of NO_PROXY: a network, or a name with those below it (``itself`` too); ``port`` if named."""

    network: _Network | None = None
    below: str = ""
    itself: bool = False
    port: str = ""

    def matches(self, host: str, address: _Address | None, port: str) -> bool:
        if self.port not in ("", port):
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return host.endswith(self.below) or (self.itself and host == self.below[1:])


class Environment:
    """Proxies by HTTP_PROXY, HTTPS_PROXY and NO_PROXY (or in lower case), credentials by $NETRC or ~/.netrc.

    Reads the variables and the file (blocking). StartError names a variable that cannot be used.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._proxies = {scheme: _proxy(environ, f"{scheme.upper()}_PROXY") for scheme in SCHEMES}
        self._all_direct, self._exceptions = _exceptions(_value(environ, "NO_PROXY")[1])
        self._credentials = _credentials(environ.get("NETRC", ""))

    @property
    def proxy_hosts(self) -> list[str]:
        """The hosts of the proxies."""
        return [host for proxy in self._proxies.values() if proxy is not None and (host := proxy.raw_host)]

    def proxy(self, url: URL) -> URL | None:
        """The proxy by which ``url`` is asked, or None; this host itself is never asked through one."""
        proxy = self._proxies.get(url.scheme)
        host = (url.raw_host or "").lower()
        if proxy is None or self._all_direct or host == "localhost":
            return None
        address = _address(host)
        if address is not None and address.is_loopback:
            return None
        direct = any(each.matches(host, address, str(url.port)) for each in self._exceptions)
        return None if direct else proxy

    def credentials(self, host: str) -> tuple[str, str] | None:
        """User and password that netrc has for ``host`` by its name; its ``default`` counts for nobody."""
        return self._credentials.get(host)


def proxy_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that name proxies, by their names in capitals, as they count; without passwords."""
    return {name: redacted(value) for name in _PROXIES if (value := _value(environ, name)[1])}


def with_proxies(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with these proxies, as :func:`proxy_variables` tells them, instead of its own; of those
    that are the same the passwords are kept."""
    own = proxy_variables(environ)
    taken = {
        name: _value(environ, name)[1] if own.get(name) == value else value
        for name, value in variables.items()
    }
    return {name: value for name, value in environ.items() if name.upper() not in _PROXIES} | taken


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts, and its value: the one in capitals, unless it is empty."""
    for each in (name, name.lower()):
        if value := environ.get(each, ""):
            return each, value
    return name, ""


def _proxy(environ: Mapping[str, str], name: str) -> URL | None:
    name, text = _value(environ, name)
    if not text:
        return None
    try:
        parts = urlsplit(text if "//" in text else f"http://{text}")  # as in proxy.example:3128
        if parts.scheme not in ("", *SCHEMES):  # the value is not shown: it may hold a password
            raise StartError(
                f"{name}: a proxy of kind {parts.scheme}:// cannot be used; http:// and https:// can"
            )
        url = URL(parts.geturl())
        usable = parts.netloc and url.host and url.port
    except ValueError:
        usable = None
    if not usable or not url.scheme:
        raise StartError(f"{name}: no valid URL of a proxy; HOST:PORT, http:// and https:// are taken")
    return url.origin().with_user(url.user).with_password(url.password)


def _exceptions(text: str) -> tuple[bool, list[_Exception]]:
    """Whether everything is asked directly, and else what is."""
    found: list[_Exception] = []
    for entry in (each.strip().lower() for each in text.split(",")):
        if entry == "*":
            return True, []
        network = _network(entry)
        host, port = _host_and_port(entry)
        address = _address(host)
        if network is not None:
            found.append(_Exception(network))
        elif address is not None:
            found.append(_Exception(ipaddress.ip_network(address), port=port))
        elif host:
            host = host[1:] if host.startswith("*.") else host
            itself = not host.startswith(".")
            found.append(_Exception(None, f".{host}" if itself else host, itself, port))
    return False, found


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, closed, port = entry[1:].partition("]:")
        return (host, port) if closed else (entry, "")
    host, _, port = entry.partition(":")
    return (entry, "") if ":" in port else (host, port)


def _network(text: str) -> _Network | None:
    base, slash, bits = text.partition("/")
    if not slash or not bits.isdecimal():
        return None
    try:
        return ipaddress.ip_network(text, strict=False) if base else None
    except ValueError:
        return None


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _credentials(named: str) -> dict[str, tuple[str, str]]:
    try:
        file = Path(named or "~/.netrc").expanduser()
        entries = netrc.netrc(file).hosts
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # none, or nobody's home
        return {}
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no netrc file"
        log.warning("netrc cannot be read", file=str(file), reason=reason)
        return {}
    return {
        host: (user, password)
        for host, (user, _, password) in entries.items()
        if host != "default" and user and password
    }
