"""Go's h1: hash of a module's files (PROTOCOL §3 "h1")."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from goproxy_vm.errors import ContentError


def h1_lines(files: Iterable[tuple[bytes, bytes]]) -> str:
    """``h1:`` of (raw name, SHA-256 digest) pairs, directory entries included.

    ContentError for a line feed in a name, as in Go.
    """
    summary = hashlib.sha256()
    for name, digest in sorted(files, key=lambda file: file[0]):
        if b"\n" in name:
            raise ContentError(f"zip: file name {name!r} contains a line feed")
        summary.update(b"%s  %s\n" % (digest.hex().encode(), name))
    return "h1:" + base64.b64encode(summary.digest()).decode()


def h1_mod(data: bytes) -> str:
    """``h1:`` of a ``.mod``: that of one file named ``go.mod``."""
    return h1_lines([(b"go.mod", hashlib.sha256(data).digest())])
