"""A client that writes bytes as it likes, and reads when it likes."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Self

LIMIT = 4096
"""Bytes that are read ahead: whoever does not read must not seem to."""
WITHIN = 10.0
"""Seconds that anything may take."""


@dataclass
class Heard:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """``async with Wire(url) as wire``: one connection to ``http://HOST:PORT`` or ``unix:PATH``."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        self._url = url
        self._receive_buffer = receive_buffer
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        if self._url.startswith("unix:"):
            path = self._url.removeprefix("unix:")
            self.reader, self.writer = await asyncio.open_unix_connection(path, limit=LIMIT)
            return self
        host, _, port = self._url.removeprefix("http://").rpartition(":")
        host = host.strip("[]")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        except OSError:
            sock.close()
            raise
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=LIMIT)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            return

    def ask(self, path: str, *lines: str, method: str = "GET") -> None:
        """Send a request; ``lines`` are further header lines."""
        head = [f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""]
        self.writer.write("\r\n".join(head).encode())

    async def head(self) -> Heard:
        """The head of the next answer."""
        async with asyncio.timeout(WITHIN):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:-2])
        return Heard(int(lines[0].split()[1]), {name: value for name, _, value in pairs}, b"")

    async def answer(self) -> Heard:
        """The next answer, whole."""
        heard = await self.head()
        async with asyncio.timeout(WITHIN):
            heard.body = await self.reader.readexactly(int(heard.headers.get("Content-Length", "0")))
        return heard

    async def rest(self) -> bytes:
        """All that still comes, until the server closes or cuts the connection."""
        data = bytearray()
        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    more = await self.reader.read(LIMIT)
                except ConnectionError:
                    return bytes(data)
                if not more:
                    return bytes(data)
                data += more


async def until(condition: object) -> None:
    """Wait until the callable ``condition`` holds; AssertionError if it does not soon."""
    assert callable(condition)
    for _ in range(int(WITHIN / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")
