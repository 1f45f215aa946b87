"""A module proxy in the test's own process that can stall, truncate, reset and lie.

It speaks raw HTTP/1.1 over asyncio streams, so that every byte of an answer is the test's choice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Self
from urllib.parse import unquote

from goproxy_vm.protocol.names import escape_path, escape_version
from goproxy_vm.protocol.semver import order
from tests.fakes.modules import build_zip
from tests.fakes.scripted import Scripted


@dataclass(frozen=True)
class Reply:
    """One answer.

    ``length``: the Content-Length declared (the body's by default; -1 for none). ``send``: how many bytes of
    the body are really sent, after which the connection is closed, reset, or left without a byte, or with one
    now and then.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    send: int | None = None
    then: Literal["close", "reset", "stall", "trickle"] = "close"
    reason: str = "Whatever"


Answer = Reply | Callable[[str], Reply | Awaitable[Reply]]
"""What is answered, or what says so of a path."""


class FakeUpstream(Scripted[Answer]):
    """``async with FakeUpstream() as upstream``: serves on a loopback port until the block ends.

    ``requests`` lists the paths asked for, percent-decoded; ``heads`` the raw request heads; ``sent`` is how
    many bytes of bodies were written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.heads: list[bytes] = []
        self.sent = 0
        self._server: asyncio.Server | None = None
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def name(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    def add_module(
        self,
        module: str,
        version: str,
        files: Mapping[str, bytes] | None = None,
        *,
        gomod: bytes | None = None,
        zipped: bytes | None = None,
    ) -> None:
        """Serve a version: its info, mod and zip; list and @latest follow from all versions added."""
        gomod = f"module {module}\n".encode() if gomod is None else gomod
        base = f"/{escape_path(module)}/@v/"
        name = escape_version(version)
        body = {"go.mod": gomod, "m.go": b"package m\n"} if files is None else files
        self.files[f"{base}{name}.info"] = json.dumps(
            {"Version": version, "Time": "2024-01-02T03:04:05Z"}
        ).encode()
        self.files[f"{base}{name}.mod"] = gomod
        self.files[f"{base}{name}.zip"] = build_zip(module, version, body) if zipped is None else zipped
        listed = self.files.get(f"{base}list", b"").decode().split()
        versions = sorted({*listed, version}, key=order)
        self.files[f"{base}list"] = "".join(f"{v}\n" for v in versions).encode()
        self.files[f"/{escape_path(module)}/@latest"] = self.files[
            f"{base}{escape_version(versions[-1])}.info"
        ]

    def count(self, glob: str) -> int:
        """How many requests for paths that match ``glob`` were seen."""
        return sum(fnmatchcase(path, glob) for path in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                path = unquote(head.split(b" ", 2)[1].decode())
                self.requests.append(path)
                if not await self._answer(await self.reply(path), writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def reply(self, path: str) -> Reply:
        answer = await self.ruled(path)
        if answer is not None:
            reply = answer(path) if callable(answer) else answer
            return reply if isinstance(reply, Reply) else await reply
        if path in self.files:
            return Reply(self.files[path])
        return Reply(b"not found: no such module\n", 404, {"Content-Type": "text/plain; charset=utf-8"})

    async def _answer(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        """Send one answer; whether the connection may serve another."""
        length = len(reply.body) if reply.length is None else reply.length
        head = [f"HTTP/1.1 {reply.status} {reply.reason}", *(f"{k}: {v}" for k, v in reply.headers.items())]
        if length >= 0:
            head.append(f"Content-Length: {length}")
        else:
            head.append("Connection: close")
        writer.write("\r\n".join([*head, "", ""]).encode())
        body = reply.body if reply.send is None else reply.body[: reply.send]
        self.sent += len(body)
        writer.write(body)
        await writer.drain()
        if reply.send is None:
            return length == len(reply.body)
        if reply.then == "stall":
            await self._closing.wait()
        elif reply.then == "trickle":
            while not self._closing.is_set():
                writer.write(b"\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        elif reply.then == "reset":
            writer.transport.abort()
        return False
