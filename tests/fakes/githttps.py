"""Git's own HTTP server behind TLS, in the test's process, with every way to go wrong on the way to it.

``git http-backend`` answers for the repositories; go-import pages, who may see what, redirects, stalls and
broken answers are the test's choice.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from tests.fakes.gitrepos import git_command, git_environment
from tests.fakes.scripted import Scripted

if TYPE_CHECKING:
    from tests.fakes.authority import Authority
    from tests.fakes.gitnames import Names
    from tests.fakes.gitrepos import Repositories

CHUNK = 1 << 14


@dataclass(frozen=True)
class Fault:
    """What is wrong with an answer.

    ``status``: it is said, with ``body``, in place of the honest answer. ``silent``: nothing is said at all.
    ``after``: as many bytes of the body are sent, then the connection is closed, reset, left as it is, or
    given ``filler`` without end. ``rate``: bytes a second at most.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"as the test wants it\n"
    silent: bool = False
    after: int | None = None
    then: Literal["close", "reset", "stall", "endless"] = "close"
    filler: bytes = b"<p>more</p>\n" * 1000
    rate: int | None = None


PACK = {"Content-Type": "application/x-git-upload-pack-result"}
ENDLESS_PACK = Fault(
    200, PACK, b"000dpackfile\n", after=13, then="endless", filler=b"0014\x02still counting\r" * 800
)
"""A pack of which nothing ever comes but messages of progress, for ``#fetch``."""


@dataclass(frozen=True)
class Seen:
    """One request. ``key`` is what globs match: host, path and query, for a pack with ``#fetch`` or
    ``#ls-refs``; ``user`` who it says it is, with the password, or nothing."""

    key: str
    user: str
    agent: str


@dataclass(frozen=True)
class _Request:
    method: str
    host: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class GitServer(Scripted[Fault]):
    """``async with GitServer(repositories, authority, names)``: serves ``https://HOST/GROUP/NAME.git``.

    ``pages`` has the content of a go-import meta tag by ``HOST/PATH``, in place of the one that the
    repositories give; None: a page without one. ``users`` has ``USER:PASSWORD`` by ``GROUP/NAME``, for who
    may see that repository, and ``hidden`` those that are 404 for others. ``requests`` is all that was asked.
    """

    def __init__(
        self,
        repositories: Repositories,
        authority: Authority,
        names: Names,
        *hosts: str,
        public: bool = False,
    ) -> None:
        super().__init__()
        self._repositories = repositories
        self._authority = authority
        self._names = names
        self._hosts = (repositories.host, *hosts)
        self._public = public
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self.pages: dict[str, str | None] = {}
        self.users: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.closed_pages: set[str] = set()
        """Those of ``users`` whose go-import page is for them alone, too."""
        self.requests: list[Seen] = []
        self.connections = 0
        self.sent = 0
        """Bytes of bodies."""

    async def __aenter__(self) -> Self:
        git_command()
        await self.listen(*self._hosts, context=self._authority.server(self._hosts))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self, *hosts: str, context: ssl.SSLContext) -> None:
        """Serve these hosts, too, with a certificate of the test's choice."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        for host in hosts:
            self._names.lead(host, 443, server.sockets[0].getsockname()[1], public=self._public)

    def count(self, glob: str) -> int:
        """How many requests that match ``glob`` were seen."""
        return sum(fnmatchcase(seen.key, glob) for seen in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while request := await _read(reader):
                if not await self._answer(request, writer):
                    return
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if self._closing.is_set() else writer.close()

    async def _answer(self, request: _Request, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may serve another."""
        key = _key(request)
        self.requests.append(Seen(key, _user(request), request.headers.get("user-agent", "")))
        fault = await self.ruled(key) or Fault()
        if fault.silent:
            await self._closing.wait()
            return False
        sending = _Sending(self, writer, fault)
        if fault.status:
            return await sending.whole(fault.status, fault.headers, fault.body)
        url = urlsplit(request.target)
        if "go-get=1" in url.query:
            return await self._page(request, url.path.strip("/"), sending)
        name = self._repository(url.path.strip("/"))
        if (refused := self._refused(name, request)) is not None:
            return await sending.whole(*refused)
        if name is None:
            return await sending.whole(404, {}, b"no such page\n")
        return await self._git(request, sending)

    def _repository(self, path: str) -> str | None:
        """The repository that a path begins with; that it ends in ``.git`` need not be said, as with git."""
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[:length]).removesuffix(".git")
            if (self._repositories.root / f"{name}.git").is_dir():
                return name
        return None

    def _refused(self, name: str | None, request: _Request) -> tuple[int, dict[str, str], bytes] | None:
        if name is None or name not in self.users or _user(request) == self.users[name]:
            return None
        if name in self.hidden:
            return 404, {}, b"no such page\n"
        return 401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who are you?\n"

    async def _page(self, request: _Request, path: str, sending: _Sending) -> bool:
        whole = f"{request.host}/{path}"
        name = self._repository(path)
        if name in self.closed_pages and (refused := self._refused(name, request)) is not None:
            return await sending.whole(*refused)
        written = [page for page in self.pages if whole == page or whole.startswith(f"{page}/")]
        if written:
            content = self.pages[written[0]]
        elif name is None:
            return await sending.whole(404, {}, b"no such page\n")
        else:
            content = f"{request.host}/{name} git https://{request.host}/{name}.git"
        meta = "" if content is None else f'<meta name="go-import" content="{content}">'
        body = f"<!DOCTYPE html><html><head>{meta}</head></html>\n".encode()
        return await sending.whole(200, {"Content-Type": "text/html"}, body)

    async def _git(self, request: _Request, sending: _Sending) -> bool:
        url = urlsplit(request.target)
        environment = git_environment(
            GIT_PROJECT_ROOT=str(self._repositories.root),
            GIT_HTTP_EXPORT_ALL="1",
            PATH_INFO=url.path,
            QUERY_STRING=url.query,
            REQUEST_METHOD=request.method,
            CONTENT_TYPE=request.headers.get("content-type", ""),
            CONTENT_LENGTH=str(len(request.body)),
            HTTP_CONTENT_ENCODING=request.headers.get("content-encoding", ""),
            GIT_PROTOCOL=request.headers.get("git-protocol", ""),
        )
        process = await asyncio.create_subprocess_exec(
            git_command(),
            "http-backend",
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(request.body)
                await process.stdin.drain()
            process.stdin.close()
            status, headers = 200, {}
            while line := (await process.stdout.readline()).decode().strip():
                name, _, value = line.partition(":")
                if name.lower() == "status":
                    status = int(value.split()[0])
                else:
                    headers[name] = value.strip()
            return await sending.chunked(status, headers, process.stdout)
        finally:
            await end_group(process)


class _Sending:
    """One answer on its way, with its fault."""

    def __init__(self, server: GitServer, writer: asyncio.StreamWriter, fault: Fault) -> None:
        self._server = server
        self._writer = writer
        self._fault = fault
        self._left = fault.after
        self._framed = False

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        if self._fault.after is not None:  # else the length would tell that it is cut
            reader = asyncio.StreamReader()
            reader.feed_data(body)
            reader.feed_eof()
            return await self.chunked(status, headers, reader)
        self._head(status, headers, f"Content-Length: {len(body)}")
        for start in range(0, len(body), CHUNK):
            await self._send(body[start : start + CHUNK])
        await self._writer.drain()
        return True

    async def chunked(self, status: int, headers: Mapping[str, str], body: asyncio.StreamReader) -> bool:
        self._framed = True
        self._head(status, headers, "Transfer-Encoding: chunked")
        while chunk := await body.read(CHUNK):
            if self._left is None:
                await self._send(chunk)
                continue
            part, self._left = chunk[: self._left], max(0, self._left - len(chunk))
            if part:
                await self._send(part)
            if not self._left:
                break
        if self._fault.after is not None:
            return await self._then()
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _then(self) -> bool:
        await self._writer.drain()
        if self._fault.then == "stall":
            await self._server._closing.wait()
        elif self._fault.then == "endless":
            while not self._server._closing.is_set():
                await self._send(self._fault.filler)
        elif self._fault.then == "reset":
            self._writer.transport.abort()
        return False

    def _head(self, status: int, headers: Mapping[str, str], length: str) -> None:
        first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
        lines = [first, *(f"{name}: {value}" for name, value in headers.items()), length]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())

    async def _send(self, chunk: bytes) -> None:
        self._server.sent += len(chunk)
        self._writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk) if self._framed else chunk)
        await self._writer.drain()
        if self._fault.rate is not None:
            await asyncio.sleep(len(chunk) / self._fault.rate)


async def _read(reader: asyncio.StreamReader) -> _Request | None:
    """The next request; None at the end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:size]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    host = headers.get("host", "").partition(":")[0]
    return _Request(method, host, target, headers, body)


def _key(request: _Request) -> str:
    command = ""
    if request.method == "POST":
        command = "#ls-refs" if b"command=ls-refs" in request.body else "#fetch"
    return f"{request.host}{request.target}{command}"


def _user(request: _Request) -> str:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return base64.b64decode(given).decode() if kind.lower() == "basic" else ""


async def end_group(process: asyncio.subprocess.Process) -> None:
    """End a process that leads a group, and the rest of it: where this process is given the orphans, they
    would stay as zombies."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:  # what is left unread would keep the wait from its end
        await process.stdout.read()
    await process.wait()
    with contextlib.suppress(ChildProcessError):
        while await asyncio.to_thread(os.waitpid, -process.pid, 0):
            pass
