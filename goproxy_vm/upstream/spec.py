"""The upstream list, in GOPROXY's own syntax (go.dev/ref/mod#module-proxy)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

ALLOWED = "http(s):// URLs and file:///… paths, separated by , or |, optionally ending in direct or off"
DIRECT: Literal["direct"] = "direct"
"""The entry that means version control."""
HOST = re.compile(r"[0-9a-z_-]{1,63}(\.[0-9a-z_-]{1,63})*\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One entry of the list.

    ``url`` has no userinfo and no trailing slash; ``userinfo`` is (user, password) or None; ``name`` is what
    people see: host and port, the path of a file upstream, or ``direct``. ``falls_through`` is True before a
    ``|`` and another entry, to which a failure goes on; before a ``,`` only a 404 or 410 does.
    """

    kind: Literal["http", "file", "direct"]
    url: str
    name: str
    userinfo: tuple[str, str] | None
    falls_through: bool

    @property
    def label(self) -> str:
        """The name in metrics: always with the port."""
        parts = urlsplit(self.url)
        if self.kind != "http" or parts.port is not None:
            return self.name
        return f"{self.name}:{443 if parts.scheme == 'https' else 80}"


@dataclass(frozen=True, slots=True)
class UpstreamList:
    """The entries in their order."""

    entries: tuple[UpstreamSpec, ...]

    @property
    def direct(self) -> bool:
        """Whether version control is asked."""
        return any(each.kind == DIRECT for each in self.entries)


PRIVATE = UpstreamList((UpstreamSpec(DIRECT, DIRECT, "private", None, falls_through=False),))
"""Where private modules come from: version control, under a name of its own."""


def parse_upstreams(text: str) -> UpstreamList:
    """Read an upstream list; ValueError with a sentence of what is allowed.

    ``direct`` and ``off`` end the list: what no entry before ``off`` has is absent.
    """
    parts = re.split(r"([,|])", text.strip())
    entries: list[UpstreamSpec] = []
    for index in range(0, len(parts), 2):
        entry = parts[index].strip()
        falls_through = parts[index + 1 : index + 2] == ["|"]
        if not entry:
            continue
        if entry == "off":
            return UpstreamList(_ended(entries))
        if entry == DIRECT:
            entries.append(UpstreamSpec(DIRECT, DIRECT, DIRECT, None, falls_through=False))
            break
        entries.append(_parse_entry(entry, falls_through=falls_through))
    if not entries:
        raise ValueError(f"no upstream; allowed are {ALLOWED}")
    return UpstreamList(_ended(entries))


def _ended(entries: list[UpstreamSpec]) -> tuple[UpstreamSpec, ...]:
    """The entries, of which the last has none to fall through to, whatever stood behind it."""
    return (*entries[:-1], *(replace(last, falls_through=False) for last in entries[-1:]))


def _parse_entry(entry: str, *, falls_through: bool) -> UpstreamSpec:
    try:
        parts = urlsplit(entry)
        port = parts.port
    except ValueError:
        raise ValueError(f"no valid URL; allowed are {ALLOWED}") from None
    if parts.query or parts.fragment:
        raise ValueError(f"an upstream has no query and no fragment; allowed are {ALLOWED}")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"a file upstream is written file:///absolute/path; allowed are {ALLOWED}")
        path = unquote(parts.path).rstrip("/") or "/"
        if not path.isprintable():
            raise ValueError(f"the path of a file upstream is printable text; allowed are {ALLOWED}")
        return UpstreamSpec("file", path, path, None, falls_through)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"no upstream that this server knows; allowed are {ALLOWED}")
    if port == 0 or not _is_host(parts.hostname):
        raise ValueError(
            f"no valid host and port (a name outside ASCII is written xn--…); allowed are {ALLOWED}"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    name = f"{host}:{port}" if port else host
    userinfo = None
    if parts.username is not None:
        userinfo = (unquote(parts.username), unquote(parts.password or ""))
    url = urlunsplit((parts.scheme, name, parts.path.rstrip("/"), "", ""))
    return UpstreamSpec("http", url, name, userinfo, falls_through)


def _is_host(host: str) -> bool:
    """Whether ``host`` can be looked up: what passes here cannot fail in the resolver's own encoding."""
    try:
        if ":" in host:
            return bool(ipaddress.IPv6Address(host))
        return len(host) <= 253 and HOST.fullmatch(host) is not None and bool(host.encode().decode("idna"))
    except ValueError:
        return False
