"""Sending a stored file from its descriptor, without ever waiting for a cold disk in the loop."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from goproxy_vm.cache.files import StoredFile
    from goproxy_vm.web.connection import Connection

AT_ONCE = 512 << 10
"""Bytes up to which a file is copied into one write: less work than the set-up of sendfile."""
CHUNK = 2 << 20
"""Bytes that one sendfile is given."""
PROBE = 128 << 10
"""Bytes between two looks whether the page cache holds a file: what the kernel reads ahead at once."""

log = get_logger("web")


async def stream(connection: Connection, head: bytes, file: StoredFile, reader: Executor) -> int:
    """Send a head and a whole file; the bytes of it that went, fewer where the client left or the disk
    failed."""
    loop = asyncio.get_running_loop()
    transport = connection.transport
    fd, length = file.fd, file.length
    if fd is None:
        transport.write(head + (file.data or b""))
        return length
    if length <= AT_ONCE:
        body = _resident(fd, length)
        if body is None:
            body = await loop.run_in_executor(reader, file.pread, 0, length)
        if len(body) < length:
            return 0
        transport.write(head + body)
        return length
    transport.write(head)
    sent = 0
    source = file.raw
    while sent < length:
        count = min(CHUNK, length - sent)
        if not _is_resident(fd, sent, count):
            await loop.run_in_executor(reader, file.pread, sent, count)
        try:
            went = await loop.sendfile(transport, source, sent, count, fallback=False)
        except (ConnectionError, RuntimeError, asyncio.SendfileNotAvailableError) as error:
            log.debug("client left", client=connection.client, left=length - sent, reason=repr(error))
            break
        if went == 0:
            break
        sent += went
        connection.progress += went
    return sent


def _resident(fd: int, length: int) -> bytes | None:
    """The first bytes of a file if the page cache holds them all, else None."""
    buffer = bytearray(length)
    try:
        if os.preadv(fd, [buffer], 0, os.RWF_NOWAIT) == length:
            return bytes(buffer)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EOPNOTSUPP}:
            raise
    return None


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
