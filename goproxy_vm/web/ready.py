"""A prepared answer of the short cut."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.protocol.request import ModuleResource, parse
from goproxy_vm.proxy.answer import max_age
from goproxy_vm.web.identity import CACHE_NAME, SERVER

if TYPE_CHECKING:
    from goproxy_vm.proxy.answer import Answer


class Ready:
    """A prepared answer: what its head is made of, and the body as bytes or as an open file. Small, for there
    are tens of thousands of them."""

    __slots__ = ("_etag", "_frame", "body", "endpoint", "length", "path", "stored", "until", "zip")

    def __init__(self, path: str, endpoint: str, answer: Answer, body: bytes | StoredFile) -> None:
        """``path``: below the proxy's root; ``endpoint``: as the metrics have it; ``body`` belongs to it."""
        self.path = path
        self.endpoint = endpoint
        self.zip = endpoint == "zip"
        """Whether the ledger has who got it."""
        self.body = body
        self.length = len(body) if isinstance(body, bytes) else body.length
        self.until = answer.until
        """Until when it is fresh, by the monotonic clock; None for good."""
        self.stored = answer.etag is not None
        """Whether a stored file is behind it, whose use counts."""
        self._etag = None if answer.etag is None else answer.etag.encode()
        lasting = answer.cache_control if self.until is None else None
        self._frame = _frame(answer.content_type, lasting, stored=self.stored)

    def head(self, now: float) -> tuple[bytes, ...]:
        """The pieces of the head, its date left out."""
        start, middle, end = self._frame
        length = b"%d" % self.length
        if self.until is not None:
            return start, length, middle, b"\r\nCache-Control: %b\r\n" % max_age(self.until - now).encode()
        return start, length, middle, self._etag or b"", end

    def about(self) -> tuple[str, str]:
        """Module and version, unescaped; empty where there are none."""
        resource = parse(f"/{self.path}", None).resource if self.endpoint != "sumdb" else None
        return (resource.module, resource.version) if isinstance(resource, ModuleResource) else ("", "")

    def sound(self, now: float) -> bool:
        """Whether it is still fresh, and the file as long as it was."""
        if self.until is not None and self.until <= now:
            return False
        return isinstance(self.body, bytes) or os.fstat(self.body.raw.fileno()).st_size == self.length

    def close(self) -> None:
        """Release the file, if it is one."""
        if isinstance(self.body, StoredFile):
            self.body.close()


@cache
def _frame(content_type: str, cache_control: str | None, *, stored: bool) -> tuple[bytes, bytes, bytes]:
    """What heads have in common: before the length, after it, and after the ETag of what is ``stored``.

    Few of them: as many as there are types and ways to cache.
    """
    start = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nCache-Status: {CACHE_NAME}; hit"
    start += "\r\nContent-Length: "
    middle = f"\r\nServer: {SERVER}" + ("\r\nETag: " if stored else "")
    end = ("\r\nAccept-Ranges: bytes" if stored else "") + f"\r\nCache-Control: {cache_control}\r\n"
    return start.encode(), middle.encode(), end.encode()
