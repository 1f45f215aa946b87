"""Modules from version control, by the paths of the module proxy protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

import aiofiles

from goproxy_vm.errors import ContentError, GoproxyError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.content import render_list
from goproxy_vm.protocol.request import Endpoint, ModuleResource, parse
from goproxy_vm.upstream import trail
from goproxy_vm.upstream.direct.judge import of_disk, outcome_of
from goproxy_vm.upstream.failure import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.upstream.direct.answer import Found, Kind
    from goproxy_vm.upstream.sink import Sink

CHUNK = 1 << 20

log = get_logger("upstream")

T = TypeVar("T")


class Brings(Protocol):
    """What runs the go command."""

    def traffic(self, *, private: bool) -> tuple[int, int]:
        """Bytes that came for private modules or for public ones, and connections that were made."""
        ...

    def found(
        self, module: str, query: str, kind: Kind, *, private: bool, client: str
    ) -> AbstractAsyncContextManager[Found]:
        """What a run brings, for as long as the context lasts. Raises Failure."""
        ...


_KINDS: dict[Endpoint, Kind] = {
    Endpoint.INFO: "stat",
    Endpoint.MOD: "stat",
    Endpoint.ZIP: "zip",
    Endpoint.LIST: "list",
    Endpoint.LATEST: "list",
}


class DirectSource:
    """Private modules, or public ones, from wherever their repositories are."""

    def __init__(self, direct: Brings, *, private: bool) -> None:
        self._direct = direct
        self._private = private

    @property
    def received(self) -> int:
        """Bytes that came from repositories, as they were sent."""
        return self._direct.traffic(private=self._private)[0]

    @property
    def answered(self) -> int:
        """Connections that were made."""
        return self._direct.traffic(private=self._private)[1]

    async def fetch(
        self, path: str, sink: Sink, limit: int, *, hurry: bool = False, again: bool = False
    ) -> str:
        """Copy one file into ``sink``; there is nothing to be said about it. Raises Failure; what the sink
        raises passes through. Who is cancelled waits no longer, and if nobody else does, the run ends."""
        try:
            resource = parse(f"/{path}", None).resource
        except GoproxyError as error:
            raise Failure(error, outcome_of(type(error))) from None
        if not isinstance(resource, ModuleResource):
            raise TypeError(f"{path} is no file of a module")
        query = resource.version or "latest"
        kind = _KINDS[resource.endpoint]
        client = trail.current().client
        async with self._direct.found(
            resource.module, query, kind, private=self._private, client=client
        ) as found:
            if found.zip is not None:
                await _copy(found.zip, resource, sink, limit)
                return ""
            data = _document(resource, found)
            if len(data) > limit:
                raise _too_large(resource, len(data), limit)
            await sink.begin(len(data))
            if data:
                await sink.write(data)
        return ""


def _document(resource: ModuleResource, found: Found) -> bytes:
    if resource.endpoint is Endpoint.LIST:
        return render_list(found.versions)
    if found.trouble is not None:  # of the latest version alone; there are others
        raise found.trouble.failure(resource.module)
    return found.mod if resource.endpoint is Endpoint.MOD else found.info


async def _copy(archive: Path, resource: ModuleResource, sink: Sink, limit: int) -> None:
    size = (await _own(resource, asyncio.to_thread(archive.stat))).st_size
    if size > limit:
        raise _too_large(resource, size, limit)
    source = await _own(resource, aiofiles.open(archive, "rb"))
    try:
        await sink.begin(size)
        while chunk := await _own(resource, source.read(CHUNK)):
            await sink.write(chunk)
    finally:
        await source.close()


async def _own(resource: ModuleResource, step: Awaitable[T]) -> T:
    """A step with a file of the run's, and not with the sink's."""
    try:
        return await step
    except OSError as error:
        log.warning("direct fetch broke off", module=resource.module, reason=error.strerror)
        raise of_disk(error).failure(_what(resource)) from error


def _what(resource: ModuleResource) -> str:
    return f"{resource.module}@{resource.version}" if resource.version else resource.module


def _too_large(resource: ModuleResource, size: int, limit: int) -> Failure:
    return Failure(ContentError(f"{_what(resource)}: {size} bytes are over the limit of {limit}"), "content")
