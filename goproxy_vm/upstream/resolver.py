"""Names looked up in threads of their own.

A look-up cannot be cancelled, and a name server that is silent keeps its thread for half a minute. Upstreams
can have us look up whatever they redirect to: in the loop's own pool a few such names would hold up all files
that are read and written, and every other name.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import threading
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult

MOST = 128
"""Look-ups under way at once, those of configured hosts not counted."""

_Key = tuple[str, socket.AddressFamily]


class Resolver(AbstractResolver):
    """Looks up a name at most once at a time, and waits ``seconds`` for it. Hosts that are ``own``,
    configured, always find a thread; with ``MOST`` others under way, one more fails at once."""

    def __init__(self, own: Collection[str], seconds: float) -> None:
        self._own = frozenset(own)
        self._seconds = seconds
        self._under_way: dict[_Key, asyncio.Future[list[tuple[str, int]]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host; OSError where there are none, or none in time, UnicodeError where it can
        have none."""
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            kind = socket.AF_INET if address.version == 4 else socket.AF_INET6
            return [_result(host, port, host, kind)]
        key = host, family
        answer = self._under_way.get(key)
        if answer is None:
            answer = self._begin(key)
        done, _ = await asyncio.wait((answer,), timeout=self._seconds)
        if not done:
            raise OSError(errno.EAGAIN, f"no answer within {self._seconds:g} s")
        return [_result(host, port, numeric, kind) for numeric, kind in answer.result()]

    async def close(self) -> None:
        """Nothing: what is under way ends with its name server's patience, or with the process."""

    def _begin(self, key: _Key) -> asyncio.Future[list[tuple[str, int]]]:
        if key[0] not in self._own and sum(host not in self._own for host, _ in self._under_way) >= MOST:
            raise OSError(errno.EAGAIN, "too many names are being looked up")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[tuple[str, int]]] = loop.create_future()

        def land(found: list[tuple[str, int]] | Exception) -> None:
            del self._under_way[key]
            if isinstance(found, Exception):
                answer.set_exception(found)
                answer.exception()  # seen, even where nobody waits any more
            else:
                answer.set_result(found)

        def look_up() -> None:
            found: list[tuple[str, int]] | Exception
            try:
                found = _addresses(*key)
            except (OSError, UnicodeError) as error:
                found = error
            try:
                loop.call_soon_threadsafe(land, found)
            except RuntimeError:
                return  # the loop is closed: nobody wants to know

        # A daemon: a name server that is silent does not keep the process from its end.
        threading.Thread(target=look_up, name="resolver", daemon=True).start()
        self._under_way[key] = answer
        return answer


def _result(host: str, port: int, numeric: str, family: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=numeric,
        port=port,
        family=family,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


def _addresses(host: str, family: socket.AddressFamily) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for kind, _, _, _, address in socket.getaddrinfo(
        host, None, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
    ):
        # With the zone of a link-local address.
        numeric, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        found.append((numeric, kind))
    return found
