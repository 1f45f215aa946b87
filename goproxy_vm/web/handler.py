"""The main listener's requests: module files, the checksum database, pages and probes."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from goproxy_vm.cache.health import readiness
from goproxy_vm.config.networks import allowed
from goproxy_vm.errors import (
    Barred,
    Denied,
    GoproxyError,
    Looped,
    MalformedPath,
    Refused,
    RequestError,
    Unconfirmed,
    UnderWay,
)
from goproxy_vm.lru import Lru
from goproxy_vm.observe.access import Line
from goproxy_vm.observe.logs import cut, get_logger
from goproxy_vm.protocol import loop
from goproxy_vm.protocol.artifact import KINDS
from goproxy_vm.protocol.prefer import PREFER, PREFERENCE_APPLIED, RESPOND_ASYNC, patience
from goproxy_vm.protocol.request import Endpoint, ModuleResource, Request, parse
from goproxy_vm.protocol.vulndb import PREFIX as VULNDB
from goproxy_vm.protocol.vulndb import parse_path
from goproxy_vm.proxy.answer import UNCACHEABLE, Answer, Result
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.toolchains import zip_of
from goproxy_vm.upstream import trail
from goproxy_vm.web import pages
from goproxy_vm.web.connection import Connection
from goproxy_vm.web.problem import error_response
from goproxy_vm.web.scripts import Scripts
from goproxy_vm.web.seen import PATH as SEEN
from goproxy_vm.web.seen import seen
from goproxy_vm.web.send import finish, send

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.ledger.notes import Notes
    from goproxy_vm.observe.access import AccessLog
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.protocol.request import SumdbResource
    from goproxy_vm.proxy.mirror import SumdbMirror
    from goproxy_vm.proxy.proxy import Proxy
    from goproxy_vm.proxy.toolchains import Toolchains
    from goproxy_vm.proxy.vulndb import VulndbMirror
    from goproxy_vm.web.forwarded import Forwarded, Requester
    from goproxy_vm.web.front import Front

log = get_logger("web")

_TEXT = "text/plain; charset=utf-8"
_PAGES = frozenset({"/", "/robots.txt", "/healthz", "/readyz"})


TOLD_AGAIN = 3600.0
"""Seconds until it is logged again that the same client is refused the same version."""
TOLD_MOST = 10_000
"""Of how many of these it is remembered."""


class _MethodNotAllowed(RequestError):
    status = 405


class _NotHttp(RequestError):
    status = 400


class Handler:
    """Answers every request on the main listener; one metric, one request id, one error text each."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        proxy: Proxy,
        sumdb: SumdbMirror | None,
        metrics: Metrics,
        upstreams: list[str],
        name: str,
        reader: Executor,
        access: AccessLog,
        notes: Notes,
        forwarded: Forwarded,
        toolchains: Toolchains,
        front: Front | None = None,
        vulndb: VulndbMirror | None = None,
    ) -> None:
        """``name`` is this server's in CDN-Loop; ``vulndb`` None where no such database is mirrored."""
        self._settings = settings
        self._name = name
        self._front = front
        self._access = access
        self._notes = notes
        self._store = store
        self._proxy = proxy
        self._sumdb = sumdb
        self._toolchains = toolchains
        self._vulndb = vulndb
        self._metrics = metrics
        self._upstreams = upstreams
        self._reader = reader
        self._sumdb_name = settings.sumdb.name if settings.sumdb else None
        self.networks = settings.allow_clients
        """Whose clients may ask; empty for everyone."""
        self._refusals: Lru[tuple[str, str, str], float] = Lru(TOLD_MOST)
        """When they were logged last, by client, module and version."""
        self._scripts = Scripts(settings)
        self._forwarded = forwarded

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The handler for ``aiohttp.web.Server``."""
        transport = request.transport
        connection = transport.get_protocol() if transport is not None else None
        if not isinstance(connection, Connection):
            # Nobody is there any more: fetch nothing on their behalf, but they have asked.
            asked = _Asked()
            asked.guess(_raw_path(request))
            self._metrics.request(asked.endpoint, Result.REFUSED, 0.0, 0)
            return web.Response(status=503)
        return await self._handle(request, self._forwarded.requester(connection.client, request.headers))

    def malformed(self, request: web.BaseRequest, reason: str) -> web.Response:
        """The answer to what is no HTTP; ``reason`` is the parser's, for the log."""
        error = _NotHttp("not a valid HTTP/1.1 request, or its head is too long")
        request_id = secrets.token_hex(6)
        text = error_response(error, "", request_id, 0, forwarded=False)
        self._metrics.request("other", error.result, 0.0, text.content_length or 0)
        client = request.remote or "unix"
        log.debug("request failed", request_id=request_id, client=client, status=error.status, reason=reason)
        return text

    def refused(self, status: int, sent: int) -> None:
        """Count an answer of ``sent`` bytes that the connection gave unread."""
        result = Result.ERROR if status >= 500 else Result.REFUSED
        self._metrics.request("other", result, 0.0, sent)

    async def _handle(self, request: web.BaseRequest, requester: Requester) -> web.StreamResponse:
        client = requester.client
        request_id = secrets.token_hex(6)
        started = time.monotonic()
        asked = _Asked()
        result: str = Result.MISS  # until an answer says otherwise: hits do not wait
        try:
            answer = await self._answer(request, requester, asked)
            result = answer.result
            length = answer.length
            response, sent = await send(request, answer, {}, self._reader)
            result = Result.REFUSED if response.status == 416 else answer.result
            if asked.zip and response.status == 200 and sent == length:
                self._notes.fetched(client, asked.zip, time.monotonic())
        except asyncio.CancelledError:  # the client has gone; what it got is not known
            self._metrics.request(asked.endpoint, result, time.monotonic() - started, 0)
            raise
        except GoproxyError as error:
            result = error.result
            if isinstance(error, Barred):
                self._barred(error, client, asked)
            level = log.warning if _is_trouble(error) else log.debug
            if not isinstance(error, UnderWay):
                level(
                    "request failed",
                    request_id=request_id,
                    client=client,
                    path=request.raw_path,
                    status=error.status,
                    reason=error.sentence,
                    seconds=round(time.monotonic() - started, 3),
                )
            failed = error_response(
                error, asked.about, request_id, self._settings.negative, forwarded=asked.endpoint != "other"
            )
            if isinstance(error, _MethodNotAllowed):
                failed.headers[hdrs.ALLOW] = "GET, HEAD"
            elif isinstance(error, UnderWay):
                failed.headers[PREFERENCE_APPLIED] = RESPOND_ASYNC
            if asked.zip and error.status == 403:
                self._notes.refused(client, asked.zip, time.monotonic())
            response, sent = failed, await finish(request, failed)
        except Exception:
            log.exception("request crashed", request_id=request_id, client=client, path=request.raw_path)
            result = Result.ERROR
            crash = GoproxyError("internal error; the server's log has the cause")
            response = error_response(crash, asked.about, request_id, 0, forwarded=False)
            sent = await finish(request, response)
        seconds = time.monotonic() - started
        self._metrics.request(asked.endpoint, result, seconds, sent)
        if self._access.others and (self._access.hits or result != Result.HIT):
            about = (asked.endpoint, asked.module, asked.version)
            path = cut(request.raw_path)  # many lines may wait
            self._access.add(
                Line(request_id, client, request.method, path, *about, response.status, result, seconds, sent)
            )
        return response

    def _barred(self, error: Barred, client: str, asked: _Asked) -> None:
        """Count it; a line for each client and version once an hour, for it asks again and again."""
        self._metrics.barred(error.rule)
        key, now = (client, asked.module, asked.version), time.monotonic()
        if now - self._refusals.get(key, -math.inf) >= TOLD_AGAIN:
            self._refusals.keep(key, now)
            log.info("refused", client=client, module=asked.module, version=asked.version, rule=error.rule)

    async def _answer(self, request: web.BaseRequest, requester: Requester, asked: _Asked) -> Answer:
        path = _raw_path(request)
        if path in _PAGES:
            self._check_method(request)
            return await self._page(path, request, requester.url)
        asked.guess(path)
        self._check_client(requester.client)
        self._check_method(request)
        if path in self._scripts:
            return self._scripts.answer(path, requester.url, requester.stranger)
        if path == SEEN:
            keep = request.method == hdrs.METH_GET
            return seen(self._store.vms, requester.client, _raw_query(request), keep=keep)
        if path.startswith(VULNDB):
            return await self._advisories(path, request, requester.client)
        toolchain = zip_of(path)
        wanted = parse(path, self._sumdb_name) if toolchain is None else Request(toolchain)
        asker = self._asker(request, requester.client, cached_only=wanted.cached_only)
        resource = wanted.resource
        asked.resource(resource)
        if request.method != hdrs.METH_GET or path.endswith(".h1"):
            asked.zip = ""
        self._begin(request, requester.client)
        front = self._front
        since = 0 if front is None else front.generation
        if toolchain is not None:
            return await self._toolchains.get(path, toolchain, asker)
        if isinstance(resource, ModuleResource):
            answer = await self._proxy.get(resource, asker)
        elif self._sumdb is None:
            raise MalformedPath("no checksum database is mirrored here")
        else:
            answer = await self._sumdb.get(resource, asker)
        if front is not None and not wanted.cached_only:
            front.offer(request.raw_path, resource, answer, since)
        return answer

    async def _advisories(self, path: str, request: web.BaseRequest, client: str) -> Answer:
        if self._vulndb is None:
            raise MalformedPath("no vulnerability database is mirrored here (setting vulndb)")
        file = parse_path(path)
        if file is None:
            raise MalformedPath("not a file of a Go vulnerability database")
        self._begin(request, client)
        return await self._vulndb.get(file, self._asker(request, client))

    def _asker(self, request: web.BaseRequest, client: str, *, cached_only: bool = False) -> Asker:
        forbidden = request.headers.get("Disable-Module-Fetch", "").lower() == "true"
        return Asker(
            client,
            fetch=not (forbidden or cached_only),
            patience=patience(request.headers.getall(PREFER, ())),
            authorization=_only(request.headers.getall(hdrs.AUTHORIZATION, ())),
        )

    def _begin(self, request: web.BaseRequest, client: str) -> None:
        """From here on upstreams are asked on behalf of this request. Looped: it is one of our own."""
        through = loop.names(request.headers.getall(loop.FIELD, ()))
        if self._name in through:
            raise Looped("this server asked for it itself: an upstream leads back here (setting upstream)")
        trail.begin(through, client)

    def _check_client(self, client: str) -> None:
        if not allowed(self.networks, client):
            raise Denied(f"clients at {client} are not allowed (setting allow_clients)")

    def _check_method(self, request: web.BaseRequest) -> None:
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise _MethodNotAllowed(f"method {request.method} is not allowed; GET and HEAD are")

    async def _page(self, path: str, request: web.BaseRequest, url: str) -> Answer:
        if path == "/":
            url = self._settings.public_url or url or f"http://{self._own_host(request)}"
            page = await pages.landing(
                self._store, self._settings, self._upstreams, self._metrics.served(0.0), url
            )
            return Answer(page, "text/html; charset=utf-8", UNCACHEABLE, "detail=page", Result.HIT)
        text = {
            "/robots.txt": pages.ROBOTS,
            "/healthz": b"ok\n",
            "/readyz": readiness(self._store).encode() + b"\n",
        }[path]
        return Answer(text, _TEXT, UNCACHEABLE, "detail=page", Result.HIT)

    def _own_host(self, request: web.BaseRequest) -> str:
        name = request.get_extra_info("sockname")
        if not isinstance(name, tuple):
            return "localhost"
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"


def _only(values: Sequence[str]) -> str:
    """The value of a field that may be there once."""
    return values[0] if len(values) == 1 else ""


def _is_trouble(error: GoproxyError) -> bool:
    """Whether a failed request gets its one warning: other lines about it are none."""
    # go get asks for every prefix of an import path: that those have no record is no trouble.
    return (error.status >= 500 or isinstance(error, Refused)) and not isinstance(error, Unconfirmed)


class _Asked:
    """What a request was about, as far as it is known when it fails."""

    def __init__(self) -> None:
        self.endpoint = "other"
        self.about = ""
        self.module = ""
        self.version = ""
        self.zip = ""
        """The escaped path of the zip that is sent to who asks, or what is made of it; "" for all else."""

    def guess(self, path: str) -> None:
        """The metric's endpoint by the look of the path: malformed ones are counted too."""
        if path.startswith(VULNDB):
            self.endpoint = "vulndb"
            return
        if "/@" not in path:
            self.endpoint = "sumdb" if "/sumdb/" in path else "other"
            return
        last = path.rpartition("/")[2]
        extension = last.rpartition(".")[2]
        if last in ("list", "@latest"):
            self.endpoint = last.lstrip("@")
        elif extension in KINDS:
            self.endpoint = extension

    def resource(self, resource: ModuleResource | SumdbResource) -> None:
        """A well-formed request."""
        if not isinstance(resource, ModuleResource):
            self.endpoint = "sumdb"
            return
        self.endpoint = resource.endpoint
        self.module, self.version = resource.module, resource.version
        if resource.endpoint is Endpoint.ZIP and resource.artifact is not None:
            self.zip = resource.path
        version = f"@{resource.version}" if resource.version else ""
        self.about = f"{resource.module}{version} {resource.endpoint}"


def _raw_query(request: web.BaseRequest) -> str:
    """The query as it came on the wire."""
    return request.raw_path.partition("?")[2]


def _raw_path(request: web.BaseRequest) -> str:
    """The path as it came on the wire, without its query (case 49), of an absolute-form target too."""
    path = request.raw_path.partition("?")[0].partition("#")[0]
    if path.lower().startswith(("http://", "https://")):
        _, _, path = path.partition("://")[2].partition("/")
        path = f"/{path}"
    return path
