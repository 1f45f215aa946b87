"""A cache directory with many files in it, as after they were fetched."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path

from goproxy_vm.cache.database import Database
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.rows import Row
from goproxy_vm.protocol.artifact import Artifact, Kind

VERSIONS = 10
"""Of each module."""


def populate(root: Path, versions: int, sizes: Mapping[Kind, int]) -> list[str]:
    """Make a cache directory of that many versions, with files of so many bytes; their paths below the
    proxy's root, with a slash before them."""
    layout = Layout.at(root)
    layout.prepare()
    layout.lock.touch()
    database = Database.open(layout.index)
    index = Index(database)
    now = time.time()
    rows: list[Row] = []
    paths = []
    source = random.Random(versions)
    for number in range(versions):
        module, version = f"example.com/m{number // VERSIONS}/p", f"v1.{number % VERSIONS}.0"
        (layout.modules / module / "@v").mkdir(parents=True, exist_ok=True)
        for kind, size in sizes.items():
            content = source.randbytes(size)
            artifact = Artifact.of(module, version, kind)
            file = layout.modules / artifact.path
            file.write_bytes(content)
            blocks = file.stat().st_blocks
            rows.append(Row(artifact, size, blocks, hashlib.sha256(content).hexdigest(), "h1:x"))
            paths.append(f"/{artifact.path}")
        if len(rows) >= 3000 or number == versions - 1:
            index.add(rows, now, now + number)
            rows = []
    database.close()
    return paths
