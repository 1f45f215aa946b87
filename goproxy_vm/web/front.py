"""The short cut for hits: plain requests for what is stored are answered before aiohttp sees them.

A request is plain if its head is whole, alone in the buffer, GET or HEAD, without a body, a range, a
condition, or anything else that changes the answer. Its target leads to an answer prepared earlier; a
stored file that is not prepared yet is opened, at once where the kernel need not wait for a disk. Everything
else goes to aiohttp, and comes back here with the next request on the connection
(docs/decisions/0006-the-short-cut-for-hits.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.config.networks import allowed
from goproxy_vm.errors import GoproxyError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.request import ModuleResource, parse
from goproxy_vm.proxy.answer import IMMUTABLE
from goproxy_vm.web import fileio
from goproxy_vm.web.prepared import Prepared
from goproxy_vm.web.ready import Ready
from goproxy_vm.web.send import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Executor

    from goproxy_vm.config.values import Network
    from goproxy_vm.protocol.artifact import Artifact
    from goproxy_vm.protocol.request import SumdbResource
    from goproxy_vm.proxy.answer import Answer
    from goproxy_vm.proxy.proxy import Proxy
    from goproxy_vm.web.connection import Connection
    from goproxy_vm.web.forwarded import Forwarded
    from goproxy_vm.web.tally import Tally

MOST_TAILS = 1_000
"""Different heads remembered as plain, their targets left out: each client program sends its own."""
MOST_HEADS = 1_000
"""Heads kept whole for as long as their date is right."""
A_TURN = 256
"""Files that are closed before others have their turn."""
LONGEST_HEAD = 8 << 10

_END = b" HTTP/1.1\r\n"
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+\r\n")
_NAMES = re.compile(rb"^[^:\r]+(?=:)", re.MULTILINE)
_MATTERS = re.compile(
    rb"range|if-.*|expect|content-.*|transfer-encoding|upgrade|(?:proxy-)?connection|keep-alive|te|trailer"
    rb"|http2-settings"
)
"""Fields that change the answer, or what follows the head."""

log = get_logger("web")


class Front:
    """Prepared answers of one listener, by the target as it stands in the request."""

    def __init__(
        self,
        proxy: Proxy,
        tally: Tally,
        reader: Executor,
        touch: Callable[[str], None],
        networks: Sequence[Network],
        forwarded: Forwarded,
        most_files: int,
    ) -> None:
        """``touch`` notes a hit on a stored file; only clients of the ``networks``, if any, are answered.
        ``most_files``: descriptors kept open for files that are too large to prepare."""
        self._proxy = proxy
        self._tally = tally
        self._reader = reader
        self._touch = touch
        self.networks = networks
        self._forwarded = forwarded
        self._prepared = Prepared(most_files)
        self._left: list[Ready] = []
        """Files that are yet to be closed."""
        self._heads: dict[Ready, bytes] = {}
        """Whole heads, of this second."""
        self._forgotten = 0
        self.generation = 0
        """Raised by whatever may make an answer that is under way wrong for those who ask after it."""
        self._tails: set[bytes] = set()
        self._date = (0, b"")
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what is under way, and release all files."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.forget(None)
        while self._left:
            self._release()

    def allows(self, client: str) -> bool:
        """Whether who connects from here is answered: a proxy is not, for each request may be another's."""
        return allowed(self.networks, client) and not self._forwarded.trusts(client)

    def take(self, connection: Connection, data: bytes) -> bool:
        """Answer the request ``data`` if it is a plain one for a hit; False: it is aiohttp's.

        Where that shows only later, the connection gets it back by :meth:`Connection.hand_over`.
        """
        started = time.monotonic()
        end = data.find(_END)
        if end < 5 or not self._plain(data[end + len(_END) :]):
            return False
        if data.startswith(b"GET /"):
            head_only, target = False, data[5:end].decode("latin-1")
        elif data.startswith(b"HEAD /"):
            head_only, target = True, data[6:end].decode("latin-1")
        else:
            return False
        ready = self._prepared.find(target)
        if ready is None:
            return self._look(connection, data, target, head_only=head_only, started=started)
        if not ready.sound(started):
            self._prepared.forget(ready.path)
            return False
        self._answer(connection, ready, head_only=head_only, started=started)
        return True

    def offer(
        self, target: str, resource: ModuleResource | SumdbResource, answer: Answer, since: int
    ) -> None:
        """Prepare a document that was just answered, if it will be the same for whoever asks next.

        ``since``: the ``generation`` before it was made, and before it was asked whether it may be given.
        """
        if since != self.generation:
            return  # it may be older than what is known now, or is refused from now on
        lasting = (
            answer.cache_control == IMMUTABLE if answer.until is None else answer.until > time.monotonic()
        )
        if isinstance(answer.body, bytes) and lasting and target.isascii() and target.startswith("/"):
            endpoint = resource.endpoint.value if isinstance(resource, ModuleResource) else "sumdb"
            self._keep(target[1:], Ready(resource.path, endpoint, answer, answer.body))

    def _keep(self, target: str, ready: Ready) -> Ready:
        """Have an answer for the next requests."""
        self._prepared.keep(ready)
        self._prepared.spell(target, ready.path)
        return ready

    def forget(self, path: str | None) -> None:
        """The stored file is gone; None stands for all: the settings may refuse them now."""
        self._forgotten += 1
        if path is None:
            self.generation += 1
            self._left += self._prepared.take_all()
            self._release()
        else:
            self._prepared.forget(path)

    def _release(self) -> None:
        """Close files that are not prepared any more, some in a turn: ten thousand take 50 ms."""
        for ready in self._left[-A_TURN:]:
            ready.close()
        del self._left[-A_TURN:]
        if self._left:
            asyncio.get_running_loop().call_soon(self._release)

    def forget_documents(self) -> None:
        """Lists and the like may be older than what is known now."""
        self.generation += 1
        self._prepared.forget_documents()

    def forget_records(self, _: Sequence[str]) -> None:
        """Some of what the checksum database's answers are made of is gone: a memory of it would keep it from
        being brought again."""
        self.generation += 1
        self._prepared.forget_below("sumdb/")

    def date(self) -> bytes:
        """The last lines of a head, made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._heads = {}
            self._date = now, f"Date: {formatdate(now, usegmt=True)}\r\n\r\n".encode()
        return self._date[1]

    def _plain(self, tail: bytes) -> bool:
        """Whether the rest of a head, from its first field to its end, changes nothing about the answer."""
        if tail in self._tails:
            return True
        if len(tail) > LONGEST_HEAD or not _FIELDS.fullmatch(tail):
            return False
        names = _NAMES.findall(tail.lower())
        if names.count(b"host") != 1 or any(_MATTERS.fullmatch(name) for name in names):
            return False
        if len(self._tails) >= MOST_TAILS:
            self._tails.clear()
        self._tails.add(tail)
        return True

    def _look(
        self, connection: Connection, data: bytes, target: str, *, head_only: bool, started: float
    ) -> bool:
        """A stored file that is not prepared: open it, beside the loop where that may take a while."""
        if "/@v/" not in target or b"disable-module-fetch" in data.lower():
            return False  # with that field not even what is fetched ahead may be fetched for it
        ready = self._at_once(target, target)
        if ready is None:
            try:
                wanted = parse(f"/{target}", None)
            except GoproxyError:
                return False
            resource = wanted.resource
            if not isinstance(resource, ModuleResource) or resource.artifact is None or wanted.cached_only:
                return False
            if target != resource.path:  # another spelling
                ready = self._prepared.find(resource.path) or self._at_once(target, resource.path)
            if ready is None or not ready.sound(started):
                opening = self._open(connection, data, target, resource.artifact, head_only, started)
                self._begin(connection, opening)
                return True
            self._prepared.spell(target, ready.path)
        self._answer(connection, ready, head_only=head_only, started=started)
        return True

    def _at_once(self, target: str, path: str) -> Ready | None:
        """The answer to the request for a stored file, prepared without any waiting; None: that cannot be."""
        answer = self._proxy.stored_at_once(path, SMALL)
        if answer is None:
            return None
        body = answer.body
        if isinstance(body, StoredFile) and body.data is not None:
            if body.length > SMALL:  # a large one that awaits its commit
                return None
            body = body.data
        return self._keep(target, Ready(path, path.rpartition(".")[2], answer, body))

    async def _open(
        self,
        connection: Connection,
        data: bytes,
        target: str,
        artifact: Artifact,
        head_only: bool,
        started: float,
    ) -> None:
        forgotten = self._forgotten
        try:
            answer = await self._proxy.stored(artifact)
            body = None if answer is None else await self._body(answer)
        except (GoproxyError, OSError):
            answer = body = None  # aiohttp's way finds the same, and says it
        except Exception:
            self._tally.failed(artifact.kind.value, "error", started)
            raise
        if answer is None or body is None:
            if connection.transport.is_closing():  # nobody is there any more, but they have asked
                self._tally.failed(artifact.kind.value, "refused", started)
            connection.hand_over(data)
            return
        ready = Ready(artifact.path, artifact.kind.value, answer, body)
        if not self._proxy.passes(artifact):  # any more, since it was opened
            ready.close()
            connection.hand_over(data)
            return
        if forgotten == self._forgotten:
            self._keep(target, ready)
            await self._send(connection, ready, head_only=head_only, started=started)
        else:  # perhaps this very file: a request after this one must not see it
            with contextlib.closing(ready):
                await self._send(connection, ready, head_only=head_only, started=started)

    async def _body(self, answer: Answer) -> bytes | StoredFile | None:
        """What to keep of an answer: the bytes of a small file, a larger one itself. OSError.

        None: a large one that is in memory still, until it has its name; aiohttp's way sends it.
        """
        stored = answer.body
        if isinstance(stored, bytes):
            return stored
        if stored.length > SMALL:
            if stored.data is None:
                return stored
            stored.close()
            return None
        with stored:
            data = stored.read_cached()
            if data is not None:
                return data
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._reader, stored.pread, 0, stored.length)
        if len(data) != stored.length:
            raise OSError("shorter than on record")
        return data

    def _answer(self, connection: Connection, ready: Ready, *, head_only: bool, started: float) -> None:
        if ready.stored:
            self._touch(ready.path)
        rest = self._write(connection, ready, head_only=head_only, started=started)
        if rest is not None:
            self._begin(connection, rest)

    async def _send(self, connection: Connection, ready: Ready, *, head_only: bool, started: float) -> None:
        rest = self._write(connection, ready, head_only=head_only, started=started)
        if rest is not None:
            await rest

    def _write(
        self, connection: Connection, ready: Ready, *, head_only: bool, started: float
    ) -> Coroutine[object, object, None] | None:
        """Send an answer, as far as it goes at once; what is left to do."""
        body = ready.body
        sent = 0
        if head_only:
            connection.transport.write(self._head(ready, started))
        elif isinstance(body, bytes):
            sent = min(ready.length, SMALL)
            # The slice of a small one is itself.
            connection.transport.write(self._head(ready, started) + body[:sent])
            if sent < ready.length:
                return self._rest(connection, ready, body, sent, started)
        else:
            sent = fileio.begin(connection, self._head(ready, started), body)
            if sent < ready.length:
                return self._rest(connection, ready, body.share(), sent, started)
        self._tally.hit(connection.client, ready, "HEAD" if head_only else "GET", started, sent)
        return None

    def _head(self, ready: Ready, now: float) -> bytes:
        date = self.date()
        head = self._heads.get(ready)
        if head is None:
            head = b"".join((*ready.head(now), date))
            if ready.until is None and len(self._heads) < MOST_HEADS:
                self._heads[ready] = head
        return head

    async def _rest(
        self, connection: Connection, ready: Ready, body: bytes | StoredFile, sent: int, started: float
    ) -> None:
        """``body`` is closed at the end; ``sent`` bytes of it have gone."""
        try:
            if isinstance(body, bytes):
                sent = await fileio.pieces(connection, body, sent, ready.length)
            else:
                with body:
                    path = f"/{ready.path}"
                    sent = await fileio.go_on(connection, body, sent, ready.length, self._reader, path)
        finally:
            self._tally.hit(connection.client, ready, "GET", started, sent)
        if sent < ready.length:
            connection.transport.abort()  # never a part that looks like the whole

    def _begin(self, connection: Connection, work: Coroutine[object, object, None]) -> None:
        connection.answering += 1
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("hit crashed", client=connection.client, reason=repr(error))
                connection.transport.abort()
            connection.answered()

        task.add_done_callback(done)
