"""A module cache and a build cache as ``go`` leaves them, without ``go``."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from goproxy_vm.protocol.names import escape_path, escape_version

DAY = 86400


@dataclass
class FakeModcache:
    """``top`` is its GOMODCACHE; versions are named ``module@version``."""

    top: Path
    days: dict[str, float] = field(default_factory=dict)
    """How long each version has not been used."""

    def __post_init__(self) -> None:
        (self.top / "cache" / "download").mkdir(parents=True)
        (self.top / "cache" / "lock").touch()

    def stem(self, name: str) -> str:
        """Where the files of a version are, without what each ends with."""
        module, version = name.split("@")
        return f"{self.top}/cache/download/{escape_path(module)}/@v/{escape_version(version)}"

    def file(self, name: str, kind: str) -> Path:
        """A file of a version, as its ``zip``."""
        return Path(f"{self.stem(name)}.{kind}")

    def tree(self, name: str) -> Path:
        """Where a version is extracted."""
        module, version = name.split("@")
        return self.top / f"{escape_path(module)}@{escape_version(version)}"

    def add(self, name: str, days: float = 0, *, zipped: int = 3000, tree: bool = True) -> None:
        """Download a version, extract it, and not use it for ``days``; ``zipped``: bytes, 0 for no zip."""
        module = name.partition("@")[0]
        self.days[name] = days
        self.file(name, "zip").parent.mkdir(parents=True, exist_ok=True)
        for kind, text in (("info", "{}"), ("mod", f"module {module}\n"), ("lock", ""), ("ziphash", "h1:=")):
            self.file(name, kind).write_text(text)
        self.file(name, "ziphash").with_name("list").write_text("")
        if zipped:
            self.file(name, "zip").write_bytes(b"x" * zipped)
        if tree:
            inner = self.tree(name) / "inner"
            inner.mkdir(parents=True)
            for path in (inner.parent / "go.mod", inner.parent / "go.sum", inner / "ä b.go"):
                path.write_text("example.com/other v1.0.0 h1:=\n")
                path.chmod(0o444)
            inner.chmod(0o555)
            inner.parent.chmod(0o555)
        self.use(name, days)

    def use(self, name: str, days: float) -> None:
        """Have a version's last use and download be so many days ago."""
        when = time.time() - days * DAY
        os.utime(self.file(name, "ziphash"), (when, when))

    def of(self, name: str) -> set[str]:
        """What of the version's removal goes: its zip, the hash, and the tree."""
        gone = {str(self.file(name, "zip")), str(self.file(name, "ziphash")), str(self.tree(name))}
        return {path for path in gone if Path(path).exists()} | set(below(self.tree(name)))

    def state(self, name: str) -> str:
        """What is there of a version."""
        kinds = [kind for kind in ("zip", "ziphash", "partial") if self.file(name, kind).exists()]
        return " ".join(kinds + ["tree"] * self.tree(name).exists())


def below(top: Path) -> dict[str, tuple[int, bytes]]:
    """All that lies below a directory, with mode and contents."""
    found = {}
    for path in top.rglob("*"):
        mode = path.lstat().st_mode
        found[str(path)] = (mode, _read(path) if stat.S_ISREG(mode) else b"")
    return found


def _read(path: Path) -> bytes:
    """Without leaving a time of access: that would be a use."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOATIME)) as file:
        return file.read()


def fake_gocache(top: Path, days: dict[str, float]) -> None:
    """A build cache; ``days``: for each path in it, how long it has not been used.

    A path that ends in ``/x`` is that of an executable: it is its directory that counts. Of the 256
    directories that ``go`` makes it has the first and the last, and those of ``days``.
    """
    for name in ("00", "ff"):
        (top / name).mkdir(parents=True)
    (top / "README").write_text("This directory holds cached build artifacts from the Go build system.\n")
    (top / "trim.txt").write_text("1")
    for name, unused in days.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
        when = time.time() - unused * DAY
        for each in [path, path.parent] if name.endswith("/x") else [path]:
            os.utime(each, (when, when))
