"""Module zips made for tests, the same bytes each time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

EPOCH = (2020, 1, 1, 0, 0, 0)


def build_zip(module: str, version: str, files: Mapping[str, bytes], *, stored: bool = False) -> bytes:
    """The zip of a module version with these files, named relative to its root."""
    return raw_zip({f"{module}@{version}/{name}": data for name, data in files.items()}, stored=stored)


def raw_zip(entries: Mapping[str, bytes], *, stored: bool = False) -> bytes:
    """A zip with exactly these entry names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()
