"""What the proxy answers, described so that any writer can send it.

An :class:`Answer` holds no HTTP machinery: the aiohttp writer in ``web`` and a later short cut for
hits send the same value (docs/decisions/0001-one-process-proves-and-serves.md).
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.protocol.artifact import Kind
from goproxy_vm.protocol.request import Endpoint
from goproxy_vm.protocol.tarball import Tarball

CONTENT_TYPES = {
    Endpoint.LIST: "text/plain; charset=utf-8",
    Endpoint.LATEST: "application/json",
    Endpoint.INFO: "application/json",
    Endpoint.MOD: "text/plain; charset=utf-8",
    Endpoint.ZIP: "application/zip",
}

RESERVED = "private, no-cache"
"""Of what not everyone may have: no cache between us and the client is to give it to others."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""For bytes that can never change: verified ``.mod`` and ``.zip`` (PROTOCOL §2)."""
STABLE = "public, max-age=86400"
"""For a canonical ``.info``: practically stable, but never authenticated (PROTOCOL §2)."""
UNCACHEABLE = "no-store"


class Result(enum.StrEnum):
    """How a request was answered: the ``result`` label of ``goproxy_vm_requests_total``."""

    HIT = "hit"
    MISS = "miss"
    COLLAPSED = "collapsed"
    STALE = "stale"
    NEGATIVE = "negative"
    REFUSED = "refused"
    PENDING = "pending"
    ERROR = "error"


@dataclass(slots=True)
class Answer:
    """A whole 200 answer.

    ``body`` is bytes or an open file that the sender closes; ``etag`` is quoted, or None where the
    bytes are not stored; ``cache_status`` is the RFC 9211 member without the cache's name.
    """

    body: bytes | StoredFile
    content_type: str
    cache_control: str
    cache_status: str
    result: Result
    etag: str | None = None
    until: float | None = None
    """Until when it is fresh, by the monotonic clock; None for what never changes or is stale already."""
    tarball: Tarball | None = None
    """What is sent is this, made of ``body``, which is a zip."""

    @property
    def length(self) -> int:
        """The length in bytes of what is sent."""
        if self.tarball is not None:
            return self.tarball.length
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    async def read(self, most: int) -> bytes:
        """So many bytes of the body at most; it is closed then. OSError."""
        try:
            if isinstance(self.body, bytes):
                return self.body[:most]
            return await asyncio.to_thread(self.body.pread, 0, min(self.body.length, most))
        finally:
            self.close()

    def close(self) -> None:
        """Release the body's descriptor, if it has one."""
        if not isinstance(self.body, bytes):
            self.body.close()


def max_age(seconds: float) -> str:
    """A Cache-Control value for an answer that is fresh for that many more seconds."""
    return f"public, max-age={max(0, int(seconds))}"


_ENDPOINTS = {kind: Endpoint(kind.value) for kind in Kind}

CACHE_STATUS = {
    Result.HIT: "hit",
    Result.MISS: "fwd=uri-miss; stored",
    Result.COLLAPSED: "fwd=uri-miss; collapsed",
    Result.STALE: "hit; detail=stale",
    Result.NEGATIVE: "fwd=uri-miss; fwd-status=404",
}


def file_answer(kind: Kind, stored: StoredFile, result: Result) -> Answer:
    """The answer to a request for a file of a version, which closes ``stored``."""
    return Answer(
        stored,
        CONTENT_TYPES[_ENDPOINTS[kind]],
        STABLE if kind is Kind.INFO else IMMUTABLE,
        CACHE_STATUS[result],
        result,
        stored.etag,
    )
