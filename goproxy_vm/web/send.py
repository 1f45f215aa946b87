"""Writes an Answer through aiohttp: whole, HEAD, a range, or not modified."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import Unavailable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.proxy.answer import UNCACHEABLE
from goproxy_vm.web import fileio
from goproxy_vm.web.connection import Connection
from goproxy_vm.web.identity import CACHE_NAME, SERVER
from goproxy_vm.web.repacked import Repacked

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from goproxy_vm.proxy.answer import Answer

SMALL = 64 << 10
"""Stored files up to this many bytes are read at once and sent in one write with their head."""

log = get_logger("web")

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class Unsatisfiable(ValueError):
    """A range that begins past the end: 416 (PROTOCOL case 54)."""


def parse_range(value: str, length: int) -> tuple[int, int] | None:
    """Offset and length of a single byte range, or None to send the whole (RFC 9110 §14.2).

    Several ranges, other units and malformed ones are ignored, as the RFC allows.
    """
    match = _RANGE.fullmatch(value.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if max(len(first), len(last)) > 18:  # no file is that long, and int() has a limit of its own
        return None
    if not first:
        count = min(int(last), length)
        if count == 0:
            raise Unsatisfiable
        return length - count, count
    start = int(first)
    end = min(int(last), length - 1) if last else length - 1
    if last and int(last) < start:
        return None
    if start >= length:
        raise Unsatisfiable
    return start, end - start + 1


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an If-None-Match names this ETag, weakly compared (RFC 9110 §13.1.2)."""
    value = if_none_match.strip()
    return value == "*" or etag in (part.strip().removeprefix("W/") for part in value.split(","))


async def send(
    request: web.BaseRequest, answer: Answer, headers: dict[str, str], reader: Executor
) -> tuple[web.StreamResponse, int]:
    """Send ``answer`` to the client that made ``request`` and close it; returns the response, which has been
    written whole, and the bytes of its body.

    ``headers`` are added to the answer's own. ``reader`` does the blocking reads. Unavailable: the stored
    file cannot be read, and nothing has been sent. What goes wrong later aborts the connection, so that the
    client never takes a part for the whole.
    """
    try:
        sent = await _send(request, answer, headers, reader)
        return sent if isinstance(sent, tuple) else (sent, await finish(request, sent))
    finally:
        answer.close()


async def finish(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Write a response whole, now and not after the handler; the bytes of its body."""
    body = response.body if isinstance(response, web.Response) and request.method != "HEAD" else None
    try:
        await _prepare(request, response)
        await response.write_eof()
    except ConnectionError:
        log.debug("client left", path=request.raw_path)
        return 0
    return len(body) if isinstance(body, bytes) and response.status != 304 else 0


async def _prepare(request: web.BaseRequest, response: web.StreamResponse) -> Connection:
    """Begin a response, its head saying whether another may follow. ConnectionError: the client left."""
    transport = request.transport
    connection = transport.get_protocol() if transport is not None else None
    if not isinstance(connection, Connection):
        raise ConnectionResetError("nobody is there any more")
    if connection.last:
        response.force_close()
    await response.prepare(request)
    return connection


async def _send(
    request: web.BaseRequest, answer: Answer, headers: dict[str, str], reader: Executor
) -> web.StreamResponse | tuple[web.StreamResponse, int]:
    headers = {
        "Content-Type": answer.content_type,
        "Cache-Control": answer.cache_control,
        "Cache-Status": f"{CACHE_NAME}; {answer.cache_status}",
        "Server": SERVER,
        **headers,
    }
    offset, count, status = 0, answer.length, 200
    if answer.etag is not None:
        headers |= {"ETag": answer.etag, "Accept-Ranges": "bytes"}
        if matches(request.headers.get("If-None-Match", ""), answer.etag):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
        wanted = request.headers.get("Range")
        if wanted is not None and request.headers.get("If-Range", answer.etag) == answer.etag:
            try:
                part = parse_range(wanted, answer.length)
            except Unsatisfiable:
                headers |= {"Content-Range": f"bytes */{answer.length}", "Cache-Control": UNCACHEABLE}
                headers["Content-Type"] = "text/plain; charset=utf-8"
                text = b"goproxy-vm: the range begins past the end of the file\n"
                return web.Response(status=416, headers=headers, body=text)
            if part is not None:
                offset, count = part
                status = 206
                headers["Content-Range"] = f"bytes {offset}-{offset + count - 1}/{answer.length}"
    body: bytes | StoredFile | Repacked = answer.body
    if isinstance(body, StoredFile) and answer.tarball is not None:
        body = Repacked(body, answer.tarball)
    elif isinstance(body, StoredFile) and body.data is not None:
        body = body.data
    if request.method == "HEAD":
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = count
        return response
    if count > SMALL:
        return await _stream(request, body, offset, count, status, headers, reader)
    if not isinstance(body, bytes):
        body = await _read(body, offset, count, reader)
        offset = 0
    return web.Response(status=status, headers=headers, body=body[offset : offset + count])


async def _stream(
    request: web.BaseRequest,
    body: bytes | StoredFile | Repacked,
    offset: int,
    count: int,
    status: int,
    headers: dict[str, str],
    reader: Executor,
) -> tuple[web.StreamResponse, int]:
    at, end = offset, offset + count
    if not isinstance(body, bytes):
        await _read(body, at, 1, reader)  # while the failure can still be told
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = count
    try:
        connection = await _prepare(request, response)
        if isinstance(body, bytes):
            at = await fileio.pieces(connection, body, at, end)
        elif isinstance(body, Repacked):
            at = await fileio.copy(connection, body, at, end, reader, request.raw_path)
        else:
            at = await fileio.go_on(connection, body, at, end, reader, request.raw_path)
        if at == end:
            await response.write_eof()
    except ConnectionError:
        log.debug("client left", path=request.raw_path, left=end - at)
    finally:
        if at < end and request.transport is not None:
            request.transport.abort()
    return response, at - offset


async def _read(file: StoredFile | Repacked, offset: int, n: int, reader: Executor) -> bytes:
    """Exactly ``n`` bytes of a stored file; Unavailable where it has no such bytes, or the disk fails."""
    try:
        data = await asyncio.get_running_loop().run_in_executor(reader, file.pread, offset, n)
    except OSError as error:
        raise Unavailable(f"this host cannot read the stored file: {error.strerror}") from error
    if len(data) < n:
        raise Unavailable("the stored file is shorter than on record; ask again")
    return data
