"""How a connection leaves this host: by an address that was judged, or by the environment's proxy."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yarl import URL

from goproxy_vm.upstream.direct.addresses import is_public
from goproxy_vm.upstream.direct.ticket import Blocked, Ticket
from goproxy_vm.upstream.resolver import Resolver

if TYPE_CHECKING:
    from goproxy_vm.upstream.environment import Environment

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LookUp = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, for a port; OSError or UnicodeError where there are none."""
Connect = Callable[[str, int], Awaitable[Streams]]
"""A connection to an address and a port; OSError where there is none."""


@dataclass(frozen=True, slots=True)
class Roads:
    """How names are looked up and connections are made; None: as this host does."""

    look_up: LookUp | None = None
    connect: Connect | None = None


MOST_ADDRESSES = 4
"""Addresses of one name that are tried."""
LIMIT = 64 << 10
"""Bytes that a connection's reader holds, and of the head by which a proxy answers."""


class Dial:
    """Makes connections. ``seconds``: for the name, and for each address, of which all together get twice as
    long; ``trust``: whom to believe that they are the proxy, where that is asked by https."""

    def __init__(
        self,
        environment: Environment,
        trust: ssl.SSLContext,
        seconds: float,
        roads: Roads,
    ) -> None:
        self._environment = environment
        self._trust = trust
        self._seconds = seconds
        self._resolver = Resolver(environment.proxy_hosts, 2 * seconds)  # our own patience ends first
        self._look_up = roads.look_up or self._resolve
        self._connect = roads.connect or _connect

    async def __call__(self, ticket: Ticket, host: str, port: int) -> Streams:
        """Connect on behalf of a run. Raises Blocked.

        Behind a proxy the name is looked up as well, where it can be, lest one that is known here to lead
        inside the network is asked for; but it is the proxy that connects.
        """
        public = not ticket.target.private
        proxy = self._environment.proxy(URL.build(scheme="https", host=host, port=port))
        try:
            async with asyncio.timeout(2 * self._seconds):
                if proxy is None:
                    return await self._open(await self._addresses(host, port, public=public), port)
                if public:
                    with contextlib.suppress(_NoName):
                        await self._addresses(host, port, public=True)
                return await self._through(proxy, host, port)
        except TimeoutError:
            raise Blocked("timeout") from None

    async def _addresses(self, host: str, port: int, *, public: bool) -> list[str]:
        if _is_address(host):  # from a setting: there is nothing to be looked up
            return _judged([host], public=public)
        try:
            async with asyncio.timeout(self._seconds):
                found = await self._look_up(host, port)
        except TimeoutError:
            raise
        except (OSError, UnicodeError):
            raise _NoName from None
        if not found:
            raise _NoName
        return _judged(found, public=public)

    async def _resolve(self, host: str, port: int) -> list[str]:
        return [each["host"] for each in await self._resolver.resolve(host, port, family=socket.AF_UNSPEC)]

    async def _open(self, addresses: list[str], port: int) -> Streams:
        late = False
        for address in addresses[:MOST_ADDRESSES]:
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._connect(address, port)
            except TimeoutError:
                late = True
            except OSError:
                late = False
        raise Blocked("timeout" if late else "refused")

    async def _through(self, proxy: URL, host: str, port: int) -> Streams:
        proxy_host, proxy_port = proxy.host or "", proxy.port or 0
        addresses = await self._addresses(proxy_host, proxy_port, public=False)
        reader, writer = await self._open(addresses, proxy_port)
        taken = False
        try:
            if proxy.scheme == "https":
                await writer.start_tls(self._trust, server_hostname=proxy_host)
            name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            head = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n"
            if proxy.user is not None:
                secret = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
                head += f"Proxy-Authorization: Basic {secret}\r\n"
            writer.write(f"{head}\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            taken = answer.split(b" ", 2)[1:2] == [b"200"]
        except TimeoutError:
            raise
        except (OSError, EOFError, asyncio.LimitOverrunError):  # an error of TLS is an OSError, too
            pass
        finally:
            if not taken:
                writer.transport.abort()
        if not taken:
            raise Blocked("refused")
        return reader, writer


class _NoName(Blocked):
    """A host has no address."""

    def __init__(self) -> None:
        super().__init__("dns")


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _judged(addresses: list[str], *, public: bool) -> list[str]:
    if not public:
        return addresses
    if usable := [address for address in addresses if is_public(address)]:
        return usable
    raise Blocked("denied")


async def _connect(address: str, port: int) -> Streams:
    return await asyncio.open_connection(address, port, limit=LIMIT)
