"""Sending a stored file from its descriptor, without ever waiting for a cold disk in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import READ_AHEAD
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    import io
    from concurrent.futures import Executor

    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.web.connection import Connection
    from goproxy_vm.web.repacked import Repacked

AT_ONCE = 1 << 20
"""Bytes sent at most before other connections have their turn."""
CHUNK = 4 << 20
"""Bytes that one sendfile of the loop is given."""
PIECE = 64 << 10
"""Bytes of an answer in memory that are written at a time."""
log = get_logger("web")


def begin(connection: Connection, head: bytes, file: StoredFile) -> int:
    """Send a head, and as much of a file as the socket and the page cache give at once; so many bytes."""
    transport = connection.transport
    count = min(AT_ONCE, file.length)
    if transport.get_write_buffer_size() or transport.is_closing() or not file.cached(0, count):
        transport.write(head)
        return 0
    try:
        went = connection.sock.send(head, socket.MSG_MORE)  # so that the first bytes share its packet
    except OSError:  # a full socket; a client that left, which the transport finds out
        went = 0
    if went < len(head):
        transport.write(head[went:])
        return 0
    with contextlib.suppress(OSError):  # the same; what a disk has to say, the rest of the file finds out
        return os.sendfile(connection.sock.fileno(), file.raw.fileno(), 0, count)
    return 0


async def go_on(
    connection: Connection, file: StoredFile, at: int, end: int, reader: Executor, path: str
) -> int:
    """Send a file from ``at`` to ``end``; how far it came, less far where the client left or the disk failed.

    Nothing of it is held in memory: the kernel takes from the file what the client has room for. ``path`` is
    for the log.
    """
    loop = asyncio.get_running_loop()
    source = file.raw
    while at < end:
        count = min(CHUNK, end - at)
        try:
            if not file.cached(at, count):
                await loop.run_in_executor(reader, _warm, file, at, count)
            went = await _sent(connection, source, at, count)
        except ConnectionError as error:
            log.debug("client left", client=connection.client, left=end - at, reason=repr(error))
            break
        except OSError as error:
            log.error("answer cut off", path=path, left=end - at, reason=error.strerror)
            break
        if went == 0:
            log.error("answer cut off", path=path, left=end - at, reason="the file is shorter than on record")
            break
        at += went
        connection.progress += went
    return at


async def _sent(connection: Connection, source: io.FileIO, at: int, count: int) -> int:
    """Send a part of a file; how many bytes it had. ConnectionError: the client left. OSError."""
    if connection.transport.is_closing():
        raise ConnectionResetError("the connection is closing")
    loop = asyncio.get_running_loop()
    connection.sending_file = True
    try:
        return await loop.sendfile(connection.transport, source, at, count, fallback=False)
    except asyncio.SendfileNotAvailableError as error:  # the file system has none, or it is a closing socket
        raise ConnectionResetError(str(error)) from error
    finally:
        connection.sending_file = False


async def pieces(connection: Connection, body: bytes, at: int, end: int) -> int:
    """Send bytes as :func:`go_on` sends a file, a few at a time as the client takes them; so long they count
    as unread."""
    unread = connection.unread
    unread.add(connection, body)
    try:
        while at < end:
            try:
                await connection.taken()
            except ConnectionError as error:
                log.debug("client left", client=connection.client, left=end - at, reason=repr(error))
                break
            unread.taken(connection)
            # A copy: of a view the transport would keep the whole body, for as long as its last piece waits.
            connection.transport.write(body[at : min(at + PIECE, end)])
            at = min(at + PIECE, end)
            await asyncio.sleep(0)  # a client that is quick takes 16 MiB in 0.3 s: others have their turns
    finally:
        unread.remove(connection)
    return at


async def copy(connection: Connection, body: Repacked, at: int, end: int, reader: Executor, path: str) -> int:
    """Send what no file has as it is, as :func:`go_on` sends a file: a piece is read when the client has
    taken the one before, and so much of it is in memory."""
    loop = asyncio.get_running_loop()
    while at < end:
        try:
            await connection.taken()
            data = await loop.run_in_executor(reader, body.pread, at, min(PIECE, end - at))
        except ConnectionError as error:
            log.debug("client left", client=connection.client, left=end - at, reason=repr(error))
            break
        except OSError as error:
            log.error("answer cut off", path=path, left=end - at, reason=error.strerror)
            break
        if not data:
            log.error("answer cut off", path=path, left=end - at, reason="the file is shorter than on record")
            break
        connection.transport.write(data)
        at += len(data)
    return at


def _warm(file: StoredFile, at: int, count: int) -> None:
    """Have the page cache hold a part of a file, and the memory of this process none of it (blocking)."""
    for offset in range(at, at + count, READ_AHEAD):
        file.pread(offset, min(READ_AHEAD, at + count - offset))
