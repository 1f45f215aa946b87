"""The checksum database, relayed through the upstreams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.errors import Absent
from goproxy_vm.proxy.answer import UNCACHEABLE, Answer, Result, max_age
from goproxy_vm.upstream.sink import Memory

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.protocol.request import SumdbResource
    from goproxy_vm.proxy.proxy import Asker
    from goproxy_vm.upstream.chain import Upstreams

LIMIT = 1 << 20
"""Bytes allowed for a lookup, a tree head or a tile."""


class SumdbRelay:
    """Relays the configured database's answers, unchanged and bounded."""

    def __init__(self, settings: Settings, upstreams: Upstreams) -> None:
        self._settings = settings
        self._upstreams = upstreams

    async def get(self, resource: SumdbResource, asker: Asker) -> Answer:
        """Answer one request under ``/sumdb/NAME/``; raises what the upstreams raise."""
        text = "text/plain; charset=utf-8"
        if resource.kind == "supported":
            return Answer(b"", text, max_age(self._settings.fresh), "hit", Result.HIT)
        if not asker.fetch or self._settings.offline:
            raise Absent("not stored here, and this request may not fetch it")
        sink = Memory()

        async def check() -> None:
            """Clients verify what is relayed themselves."""

        await self._upstreams.fetch(resource.path, sink, limit=LIMIT, check=check)
        kind = "application/octet-stream" if resource.kind == "tile" else text
        return Answer(sink.data, kind, UNCACHEABLE, "fwd=miss", Result.MISS)
