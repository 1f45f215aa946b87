"""``GET /api/v1/fetches``: who got a module, or what a client got."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from goproxy_vm.admin import bodies
from goproxy_vm.admin.call import BASE, Call, Route, answer, cursor_of_ours
from goproxy_vm.admin.details import malformed
from goproxy_vm.admin.rendering import timestamp
from goproxy_vm.ledger.facts import SomeVersions, Sought
from goproxy_vm.protocol.policy import Versions

if TYPE_CHECKING:
    from aiohttp import web

    from goproxy_vm.admin.operations import Operations
    from goproxy_vm.admin.rendering import Json
    from goproxy_vm.ledger.facts import Fetched, FetchPage

LONGEST_CLIENT = 200
"""Characters of a client's address or name."""


class FetchRoutes:
    """The route, and what it does."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.routes = (Route(f"{BASE}/fetches", {"GET": ("fetches", self._fetches)}),)

    async def _fetches(self, call: Call) -> web.Response:
        wanted = wanted_of(call.query)
        with cursor_of_ours(wanted.cursor):
            page = await self._operations.fetches(wanted)
        return answer(rendered(page))


def wanted_of(members: bodies.Members) -> Sought:
    """What a query asks for. Problem where it is malformed."""
    module = members.take("module", bodies.module, "")
    versions = members.take("version", versions_of, None)
    client = members.take("client", client_of, "")
    since = members.take("since", bodies.seconds, None)
    limit, cursor = bodies.page(members)
    if bool(module) == bool(client):
        raise malformed("module", "either a module is needed or a client")
    if client and versions is not None:
        raise malformed("version", "it belongs to a module")
    return Sought(module, versions, client, since, limit, cursor)


def versions_of(value: object) -> SomeVersions | None:
    """The versions that a text stands for. ValueError."""
    return Versions.parse(str(value))


def client_of(value: object) -> str:
    """A client as the ledger has it: one address has one spelling. ValueError."""
    text = str(value)
    if not text or len(text) > LONGEST_CLIENT or not text.isprintable():
        raise ValueError(f"an address or a name of up to {LONGEST_CLIENT} characters is needed")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def rendered(page: FetchPage) -> Json:
    """A page of the ledger."""
    return {
        "ledger": page.ledger,
        "trusted_proxies": page.proxies,
        "items": [_fetched(each) for each in page.items],
        "next_cursor": page.next_cursor,
        "total": page.total,
    }


def _fetched(facts: Fetched) -> Json:
    return {
        "module": facts.module,
        "version": facts.version,
        "client": facts.client,
        "name": facts.name or None,
        "first": timestamp(facts.first),
        "last": timestamp(facts.last),
        "count": facts.count,
        "refused": facts.refused,
    }
