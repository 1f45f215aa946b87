"""Which modules may be fetched from version control, and which hosts that may lead to.

The module path chooses whom this host contacts, and any VM chooses the path: so everything is forbidden that
is not allowed here. What is decided by addresses, the egress gate decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent, Denied
from goproxy_vm.protocol.names import match_prefix_patterns

if TYPE_CHECKING:
    from goproxy_vm.upstream.direct.options import Options

ANY = "*"
"""The pattern of ``modules`` by which any public host may be asked."""
_NAMED = re.compile(r"(?!-)[a-z0-9._-]*[a-z0-9]\.[a-z]([a-z0-9-]*[a-z0-9])?", re.ASCII)
"""A host with a name: no address ends in a label that begins with a letter."""
_GLOB = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class Target:
    """What the fetch of one module may reach.

    ``first``: the ``host:port`` that is asked first, whose health counts; ``reachable``: those that may be
    connected to; ``anywhere``: so may any other at port 443, save those of ``closed`` and the hosts that the
    patterns ``reserved`` match; ``private``: with the credentials of this host, and by addresses of any kind;
    ``page``: the root and the URL of the repository, where they are named by a setting and not asked for.
    """

    module: str
    private: bool
    first: str
    reachable: frozenset[str]
    anywhere: bool = False
    page: tuple[str, str] | None = None
    closed: frozenset[str] = frozenset()
    reserved: str = ""

    def allows(self, target: str) -> bool:
        """Whether ``host:port`` may be connected to, its address permitting."""
        if target in self.reachable:
            return True
        host, _, port = target.rpartition(":")
        return (
            self.anywhere
            and port == "443"
            and _NAMED.fullmatch(host) is not None
            and target not in self.closed
            and not match_prefix_patterns(self.reserved, host)
        )


class Rules:
    """What the settings allow."""

    def __init__(self, options: Options) -> None:
        self._private = options.private
        self._modules = options.modules
        self._repos = options.repos
        self._hosts = frozenset(host.lower() for host in options.hosts) | {
            each.target for each in options.repos
        }
        entries = [entry.partition("/")[0] for entry in options.modules.split(",")]
        self._anywhere = ANY in options.modules.split(",")
        self._public = frozenset(f"{host}:443" for host in entries if host and not _GLOB.search(host))

    @property
    def private_hosts(self) -> list[str]:
        """The hosts that the patterns of private modules name, each once."""
        entries = [entry.partition("/")[0] for entry in self._private.split(",")]
        return list(dict.fromkeys(host for host in entries if host and not _GLOB.search(host)))

    def fetches(self, module: str) -> bool:
        """Whether a module may ever be fetched from version control."""
        return any(match_prefix_patterns(patterns, module) for patterns in (self._private, self._modules))

    def target(self, module: str, *, private: bool) -> Target:
        """What a fetch of a module may reach.

        Denied: it is not to be fetched from version control. Absent: there is nobody to ask, for it is but
        the beginning of paths whose repositories are named, or a public one that the proxies alone may have.
        """
        elements = module.split("/")
        host = elements[0]
        if not private and not match_prefix_patterns(self._modules, module):
            raise Absent(f"{module}: not fetched from version control by this proxy (setting direct_modules)")
        if private and not match_prefix_patterns(self._private, module):
            raise Denied(f"{module}: not fetched from version control by this proxy (setting private)")
        if _NAMED.fullmatch(host) is None:
            raise Denied(f"{module}: {host} is no host that modules are fetched from")
        if not private:
            # A host of private modules may tell this one, by its address alone, what others are not to see.
            reachable = self._public | ({f"{host}:443"} - self._hosts)
            closed, reserved = self._hosts, self._private
            first = f"{host}:443"
            return Target(module, False, first, reachable, self._anywhere, closed=closed, reserved=reserved)
        beginning = False
        for mapped in self._repos:
            if page := mapped.repository(elements):
                return Target(module, True, mapped.target, self._hosts, page=page)
            beginning = beginning or mapped.leads_on(elements)
        if beginning:
            raise Absent(f"{module}: only paths below it have a repository (setting private_repos)")
        return Target(module, True, f"{host}:443", self._hosts | {f"{host}:443", f"{host}:22"})
