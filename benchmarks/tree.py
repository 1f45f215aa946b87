"""The files that the benchmarks serve: one module with zips of several sizes, and a checksum database."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.fakes.modules import build_zip
from tests.fakes.sumdb import FakeSumdb

MODULE = "example.com/m"
ZIPS = {"v1.0.2": 1_500, "v1.0.300": 299_500, "v1.4.0": (4 << 20) - 500, "v1.64.0": (64 << 20) - 500}
"""Versions and about the bytes of their zips."""
TILE = "tile/8/0/000"


def make(root: Path) -> FakeSumdb:
    """Write the tree below ``root``, in the layout of a file:// upstream."""
    versions = root / MODULE / "@v"
    versions.mkdir(parents=True)
    for version, size in ZIPS.items():
        write(versions, version, size)
    (versions / "list").write_text("".join(f"{version}\n" for version in ZIPS))
    database = FakeSumdb.make(600, name="127.0.0.1:1/log")
    base = root / "sumdb" / database.name
    for path in ("latest", TILE, "tile/8/0/001", "tile/8/0/002.p/88", "tile/8/1/000.p/2"):
        file = base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(database.answer(path)[1])
    return database


def write(versions: Path, version: str, size: int) -> None:
    """The three files of one version."""
    block = random.Random(size).randbytes(min(size, 1 << 20))
    padding = block * (size // len(block)) + block[: size % len(block)]
    info = {"Version": version, "Time": "2024-01-02T03:04:05Z", "Origin": {"VCS": "git", "Hash": "0" * 40}}
    (versions / f"{version}.info").write_text(json.dumps(info))
    (versions / f"{version}.mod").write_text(f"module {MODULE}\n\ngo 1.22\n")
    files = {"go.mod": f"module {MODULE}\n\ngo 1.22\n".encode(), "data": padding}
    (versions / f"{version}.zip").write_bytes(build_zip(MODULE, version, files, stored=True))
