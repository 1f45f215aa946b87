"""What private modules lead to: repositories that are named rather than asked for, and further hosts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from goproxy_vm.config.address import is_authority
from goproxy_vm.config.text import quoted
from goproxy_vm.protocol.names import match_prefix_patterns

PORTS = {"https": 443, "ssh": 22}
"""How a repository may be reached, and the port where a URL names none."""
_PREFIX = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/(?:\*|[A-Za-z0-9._~-]+))*")
_URL = re.compile(
    r"(?:https|ssh)://(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::([0-9]{1,5}))?"
    r"(?:/(?:[A-Za-z0-9._~-]|\{[1-9]\})+)+"
)
_REFERENCE = re.compile(r"\{(\d)\}")


@dataclass(frozen=True, slots=True)
class Mapped:
    """The repository of every module whose path begins with ``prefix``, of which each element may be ``*``.

    ``url`` is https or ssh; in it ``{1}`` is what the first ``*`` stands for, ``{2}`` the next. ValueError,
    with a sentence, for what cannot be used.
    """

    prefix: str
    url: str

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(
                f"{quoted(self.prefix)} is no beginning of module paths like git.corp.example/*/*"
            )
        match = _URL.fullmatch(self.url)
        if match is None or not 0 < int(match[1] or 1) < 1 << 16:
            raise ValueError(
                f"{quoted(self.url)} is no URL like ssh://git@HOST[:PORT]/PATH or https://HOST[:PORT]/PATH"
            )
        known = self.prefix.split("/").count("*")
        for number in _REFERENCE.findall(self.url):
            if int(number) > known:
                raise ValueError(f"{{{number}}} stands for a * that {quoted(self.prefix)} does not have")

    @property
    def target(self) -> str:
        """The host and port of the repository."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"

    def repository(self, elements: list[str]) -> tuple[str, str] | None:
        """The root and the URL of the repository that has a module, whose path is given by its elements; None
        if that is another's."""
        wanted = self.prefix.split("/")
        if len(elements) < len(wanted) or not self.leads_on(elements):
            return None
        stars = [have for want, have in zip(wanted, elements, strict=False) if want == "*"]
        url = _REFERENCE.sub(lambda match: stars[int(match[1]) - 1], self.url)
        return "/".join(elements[: len(wanted)]), url

    def leads_on(self, elements: list[str]) -> bool:
        """Whether the path agrees with the prefix, as far as both go."""
        return all(want in ("*", have) for want, have in zip(self.prefix.split("/"), elements, strict=False))

    def within(self, patterns: str) -> bool:
        """Whether Go's patterns, as of ``private``, name any of its modules."""
        prefix = self.prefix.split("/")
        return any(
            all(
                have == "*" or match_prefix_patterns(want, have)
                for want, have in zip(pattern.split("/"), prefix, strict=False)
            )
            for pattern in patterns.split(",")
        )


def parse_mapped(items: list[str]) -> tuple[Mapped, ...]:
    """Read ``PREFIX=URL`` each. ValueError."""
    found = []
    for item in items:
        prefix, equals, url = item.partition("=")
        if not equals:
            raise ValueError(f"{quoted(item)} has no =")
        found.append(Mapped(prefix, url))
    return tuple(found)


def parse_hosts(items: list[str]) -> frozenset[str]:
    """Read ``HOST:PORT`` each. ValueError."""
    for item in items:
        host, _, port = item.rpartition(":")
        if not (is_authority(item) and host and port.isdecimal()) or host != host.lower():
            raise ValueError(f"{quoted(item)} is no HOST:PORT in lower case")
    return frozenset(items)
