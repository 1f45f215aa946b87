"""What an operator says about modules from version control."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PORTS = {"https": 443, "ssh": 22}
"""How a repository may be reached, and the port where a URL names none."""
_REFERENCE = re.compile(r"\{(\d*)\}")
_HOST = re.compile(r"[0-9a-z]([0-9a-z.-]*[0-9a-z])?", re.ASCII)
_USER = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Modules whose repository is named rather than asked for: setting ``private_repos``.

    ``prefix``: a module path, of which each element may be ``*``; ``url``: the repository's, https or ssh, in
    which ``{1}`` is what the first ``*`` stands for, and so on. ValueError, with a sentence, for what cannot
    be used.
    """

    prefix: str
    url: str

    def __post_init__(self) -> None:
        stars = self.prefix.split("/").count("*")
        if not self.prefix or self.prefix.startswith("*") or "" in self.prefix.split("/"):
            raise ValueError(f"{self.prefix!r} is no beginning of a module path, as in git.corp/*/*")
        if any(not 1 <= int(number or 0) <= stars for number in _REFERENCE.findall(self.url)):
            raise ValueError(f"{self.url!r} names a * that {self.prefix!r} does not have")
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise ValueError(f"{self.url!r} is no valid URL") from None
        if parts.scheme not in PORTS or not parts.hostname or _HOST.fullmatch(parts.hostname) is None:
            raise ValueError(f"{self.url!r} is no https:// or ssh:// URL of a repository on a named host")
        if port == 0 or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(f"{self.url!r} is no URL of a repository: passwords belong into git_home/.netrc")
        if not self.url.isascii() or not self.url.isprintable() or set(self.url) & set(" \"'<>\\"):
            raise ValueError(f"{self.url!r} has a character that no URL has")
        if parts.username is not None and _USER.fullmatch(parts.username) is None:
            raise ValueError(f"{self.url!r} has no valid user")

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


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of modules from version control; each is described in docs/configuration.md.

    ``root``: the directory for clones and runs; ``go``: the command (see ``find_go``); ``git_home``: HOME of
    fetches of private modules; ``repos``: setting ``private_repos``; ``hosts``: further ``host:port`` that
    private modules may lead to; ``private``, ``modules``: patterns of the modules that are fetched with and
    without credentials; ``processes``: runs at a time; ``max_memory``: bytes of data of each process;
    ``max_size``: bytes of clones that are kept, and that one run may receive; ``timeout``: seconds of one
    run; ``stall``: seconds without a byte while an answer is waited for; ``connect``: seconds for a
    connection; ``ca_file``: further certificates that are trusted.
    """

    root: Path
    go: Path
    git_home: Path | None = None
    repos: tuple[Mapped, ...] = ()
    hosts: frozenset[str] = frozenset()
    private: str = ""
    modules: str = ""
    processes: int = 4
    max_memory: int = 2 << 30
    max_size: int = 2 << 30
    timeout: float = 600.0
    stall: float = 30.0
    connect: float = 10.0
    ca_file: Path | None = None
