"""What a VM's scripts tell of it (``/vm/seen``): a few words and numbers, no names and no paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

from goproxy_vm.errors import MalformedReport

WORDS = ("script", "go", "bootstrap", "os", "arch")
"""What every report has."""
SIZES = ("modcache_mib", "gocache_mib")
"""What those have whose script has measured it."""
_KEYS = (*WORDS, *SIZES)
_WORD = re.compile(r"[a-z0-9.+-]{1,32}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_SMALL = "(?:0|[1-9][0-9]?)"
_RELEASE = re.compile(rf"go(1\.{_SMALL}(?:\.{_SMALL}|(?:rc|beta)[1-9])?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM as its ``script`` saw it: ``go`` is the version that runs there, ``bootstrap`` the one that is
    installed, as ``go version`` has them. Sizes in MiB, None where they were not measured."""

    script: str
    go: str
    bootstrap: str
    os: str
    arch: str
    modcache_mib: int | None = None
    gocache_mib: int | None = None

    @property
    def release(self) -> str:
        """The release of Go that ``go`` is, without the word; empty where it is none. The numbers of releases
        have two digits at most."""
        found = _RELEASE.fullmatch(self.go)
        return found[1] if found else ""

    @property
    def query(self) -> str:
        """It as it was sent."""
        text = f"script={self.script}&go={self.go}&bootstrap={self.bootstrap}&os={self.os}&arch={self.arch}"
        if self.modcache_mib is not None:
            text += f"&modcache_mib={self.modcache_mib}"
        return text if self.gocache_mib is None else f"{text}&gocache_mib={self.gocache_mib}"


def parse_report(query: str) -> VmReport:
    """The report in a query as it came on the wire. MalformedReport.

    Nothing is decoded: what may be in it has no escapes.
    """
    words: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for pair in query.split("&", len(_KEYS)):
        name, _, value = pair.partition("=")
        if name in words or name in sizes:
            raise MalformedReport(f"{name} is given twice")
        if name in WORDS:
            if not _WORD.fullmatch(value):
                raise MalformedReport(f"{name}: 1 to 32 of the characters a-z 0-9 . + - are needed")
            words[name] = value
        elif name in SIZES:
            if not _NUMBER.fullmatch(value):
                raise MalformedReport(f"{name}: a whole number of 1 to 9 digits is needed")
            sizes[name] = int(value)
        else:
            raise MalformedReport(f"a report has {', '.join(_KEYS)} and nothing else")
    for name in WORDS:
        if name not in words:
            raise MalformedReport(f"{name} is missing")
    script, go, bootstrap, os, arch = (words[name] for name in WORDS)
    return VmReport(script, go, bootstrap, os, arch, *(sizes.get(name) for name in SIZES))
