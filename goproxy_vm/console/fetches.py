"""The ledger as text for people: who got what, and what the list does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from goproxy_vm.console.tables import moment, plural, table

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]


def who(answer: Json) -> list[str]:
    """The clients that got a module."""
    items = answer["items"]
    rows = [(each["client"], named(each), each["version"], *_facts(each)) for each in items]
    clients = {each["client"] for each in items}
    told = f"{len(items):,} of {plural(answer['total'], 'pair')} of client and version"
    if items:
        told += f", {plural(len(clients), 'client')}"
    return [*_table(("CLIENT", "NAME", "VERSION"), rows), *_remarks(answer, clients), told]


def what(answer: Json) -> list[str]:
    """The versions that a client got, or all clients of one name."""
    items = answer["items"]
    rows = [
        (f"{each['module']}@{each['version']}", each["client"], named(each), *_facts(each)) for each in items
    ]
    told = f"{len(items):,} of {plural(answer['total'], 'pair')} of client and version"
    return [*_table(("VERSION", "CLIENT", "NAME"), rows), *_remarks(answer, set()), told]


def named(one: Json) -> str:
    """What a client is called: by the server's settings, else by the DNS where that was asked."""
    return one["name"] or one.get("dns") or ""


def _facts(one: Json) -> tuple[str, str, str, str]:
    refused = f"{one['refused']:,}" if one["refused"] else ""
    return moment(one["first"]), moment(one["last"]), f"{one['count']:,}", refused


def _table(about: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    return table((*about, "FIRST", "LAST", "COUNT", "REFUSED"), rows, "COUNT REFUSED") if rows else []


OFF = "nothing is noted: the setting ledger is off"
HASHED = "addresses are not noted (setting ledger): each ~ is a client, and another one after the next start"
PROXY = "behind a reverse proxy all VMs are one client, unless the setting trusted_proxies names it"


def _remarks(answer: Json, clients: set[str]) -> list[str]:
    """Why the list may not be what it seems to be."""
    if answer["ledger"] == "off":
        return [OFF]
    if answer["ledger"] == "hashed":
        return [HASHED]
    return [PROXY] if len(clients) == 1 and not answer["trusted_proxies"] else []
