"""An upstream in the file system, in the layout of GOMODCACHE/cache/download (PROTOCOL §5)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles

from goproxy_vm.errors import Absent, ContentError, Refused
from goproxy_vm.upstream.failure import Failure

if TYPE_CHECKING:
    from goproxy_vm.upstream.sink import Sink
    from goproxy_vm.upstream.spec import UpstreamSpec

CHUNK = 1 << 20


class FileUpstream:
    """Reads files below ``spec.url``. An absent file is 404, an unreadable one 403, as for ``go``."""

    received = 0
    """Bytes read."""
    answered = 0
    """Nothing answers."""

    def __init__(self, spec: UpstreamSpec) -> None:
        self._root = Path(spec.url)
        self._name = spec.name

    async def fetch(
        self, path: str, sink: Sink, limit: int, *, hurry: bool = False, again: bool = False
    ) -> str:
        """Copy one file into ``sink``; there is nothing to be said about it. Raises Failure; NoRoom passes
        through."""
        file = self._root / path
        try:
            async with aiofiles.open(file, "rb") as source:
                size = (await asyncio.to_thread(file.stat)).st_size
                if size > limit:
                    error = ContentError(f"{self._name}: {size} bytes are over the limit of {limit}")
                    raise Failure(error, "content")
                await sink.begin(size)
                while chunk := await source.read(CHUNK):
                    self.received += len(chunk)
                    await sink.write(chunk)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Failure(Absent(f"{self._name}: no such file"), "not_found") from None
        except OSError as os_error:
            refused = Refused(f"{self._name}: {os_error.strerror}")
            raise Failure(refused, "refused") from os_error
        return ""
