"""Sending a stored file from its descriptor, without ever waiting for a cold disk in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.web.connection import Connection

AT_ONCE = 1 << 20
"""Bytes sent at most before other connections have their turn."""
CHUNK = 4 << 20
"""Bytes that one sendfile of the loop is given."""
PROBE = 128 << 10
"""Bytes between two looks whether the page cache holds a file: what the kernel reads ahead at once."""

log = get_logger("web")


def begin(connection: Connection, head: bytes, file: StoredFile) -> int:
    """Send a head, and as much of a file as the socket and the page cache give at once; so many bytes."""
    transport = connection.transport
    sock = transport.get_extra_info("socket")
    corked = sock.family != socket.AF_UNIX and not transport.is_closing()
    if corked:  # so that the head and the first bytes share a packet
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    transport.write(head)
    count = min(AT_ONCE, file.length)
    fd = file.raw.fileno()
    sent = 0
    if not (transport.get_write_buffer_size() or transport.is_closing()) and _is_resident(fd, 0, count):
        with contextlib.suppress(OSError):  # a full socket; a client that left, which the next write shows
            sent = os.sendfile(sock.fileno(), fd, 0, count)
    if corked:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    return sent


async def go_on(connection: Connection, file: StoredFile, sent: int, reader: Executor) -> int:
    """Send the rest of a file; the bytes of it that went in all, fewer where the client left or the disk
    failed."""
    loop = asyncio.get_running_loop()
    source = file.raw
    while sent < file.length:
        count = min(CHUNK, file.length - sent)
        if not _is_resident(source.fileno(), sent, count):
            await loop.run_in_executor(reader, file.pread, sent, count)
        try:
            went = await loop.sendfile(connection.transport, source, sent, count, fallback=False)
        except (ConnectionError, RuntimeError, asyncio.SendfileNotAvailableError) as error:
            log.debug("client left", client=connection.client, left=file.length - sent, reason=repr(error))
            break
        if went == 0:
            break
        sent += went
        connection.progress += went
    return sent


def _is_resident(fd: int, offset: int, count: int) -> bool:
    """Whether the page cache seems to hold a part of a file: looked at once in what is read ahead at once."""
    byte = bytearray(1)
    try:
        for at in range(offset, offset + count, PROBE):
            os.preadv(fd, [byte], at, os.RWF_NOWAIT)
    except OSError as error:
        # A file system that cannot say (EOPNOTSUPP) is in memory, as tmpfs of old kernels.
        return error.errno != errno.EAGAIN
    return True
