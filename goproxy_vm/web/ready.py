"""A prepared answer of the short cut."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.protocol.request import ModuleResource, SumdbResource, parse
from goproxy_vm.proxy.answer import max_age
from goproxy_vm.web.identity import CACHE_NAME, SERVER

if TYPE_CHECKING:
    from goproxy_vm.proxy.answer import Answer

Resource = ModuleResource | SumdbResource


class Ready:
    """A prepared answer: the head up to its date, and the body as bytes or as an open file."""

    __slots__ = ("_head", "body", "endpoint", "length", "path", "stored", "until")

    def __init__(self, resource: Resource, answer: Answer, body: bytes | StoredFile) -> None:
        self.path = resource.path
        self.endpoint = resource.endpoint.value if isinstance(resource, ModuleResource) else "sumdb"
        self.body = body
        self.length = len(body) if isinstance(body, bytes) else body.length
        self.until = answer.until
        """Until when it is fresh, by the monotonic clock; None for good."""
        self.stored = answer.etag is not None
        """Whether a stored file is behind it, whose use counts."""
        lines = [
            "HTTP/1.1 200 OK",
            f"Content-Type: {answer.content_type}",
            f"Cache-Status: {CACHE_NAME}; hit",
            f"Content-Length: {self.length}",
            f"Server: {SERVER}",
        ]
        if answer.etag is not None:
            lines += [f"ETag: {answer.etag}", "Accept-Ranges: bytes"]
        if self.until is None:
            lines.append(f"Cache-Control: {answer.cache_control}")
        self._head = "\r\n".join([*lines, ""]).encode()

    def head(self, now: float) -> tuple[bytes, ...]:
        """The pieces of the head, its date left out."""
        if self.until is None:
            return (self._head,)
        return self._head, b"Cache-Control: %b\r\n" % max_age(self.until - now).encode()

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
