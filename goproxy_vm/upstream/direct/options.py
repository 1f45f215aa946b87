"""What an operator says about modules from version control."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from goproxy_vm.upstream.direct.find import find_go

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.config import Settings
    from goproxy_vm.config.mapped import Mapped


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

    def elsewhere(self, root: Path) -> Options:
        """The same, with another directory."""
        return replace(self, root=root)

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """What the settings say (blocking). StartError: there is no go command that will do."""
        return cls(
            root=settings.cache_dir.absolute() / "direct",
            go=find_go(settings.go),
            git_home=settings.git_home,
            repos=settings.private_repos,
            hosts=settings.private_hosts,
            private=settings.private,
            modules=settings.direct_modules,
            processes=settings.direct_processes,
            max_memory=settings.direct_max_memory,
            max_size=settings.direct_max_size,
            timeout=settings.direct_timeout,
            stall=settings.stall_timeout,
            connect=settings.connect_timeout,
            ca_file=settings.upstream_ca_file,
        )
