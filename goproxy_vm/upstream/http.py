"""One HTTP upstream: GET, redirects as Go follows them, bounds, and what each failure means."""

from __future__ import annotations

import asyncio
import base64
import os
import string
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs
from yarl import URL

from goproxy_vm import __version__
from goproxy_vm.errors import Absent, ContentError, Looped, Refused, UpstreamError, UpstreamTimeout
from goproxy_vm.lru import Lru
from goproxy_vm.protocol import loop
from goproxy_vm.protocol.prefer import PREFER, PREFERENCE_APPLIED, is_under_way, preference
from goproxy_vm.upstream.backoff import Backoff
from goproxy_vm.upstream.failure import Failure, Outcome
from goproxy_vm.upstream.gzip import BadGzip, gunzip
from goproxy_vm.upstream.trail import current
from goproxy_vm.upstream.wire import Portion, watch_body

if TYPE_CHECKING:
    from goproxy_vm.upstream.environment import Environment
    from goproxy_vm.upstream.sink import Sink
    from goproxy_vm.upstream.spec import UpstreamSpec

MOST_REQUESTS = 10
"""Requests for one file, redirects included, as in Go."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TROUBLE = frozenset({429, 502, 503, 504})
REFUSALS = frozenset({401, 403, 451})
LOOP = 508
ABSENCE = frozenset({404, 410})
SENTENCE = 200
"""Bytes of an upstream's own sentence that are passed on."""
REASON = 40
"""Bytes of a status line's reason that are passed on."""
PIECE = 64 << 10
"""Bytes that are read of a body at once, where that is not quick enough to read all that is there."""
ELSEWHERE = 100
"""Hosts that an upstream redirects to whose failures are remembered."""
WORD = 3
"""How often, within the time that an upstream may be silent, one that works on an answer is to say so."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect (name look-up and TLS included), without a byte, and for one file in all."""

    connect: float
    stall: float
    total: float


@dataclass(frozen=True, slots=True)
class Way:
    """How requests leave this host: its name in CDN-Loop, and what the environment says of proxies."""

    name: str
    environment: Environment


@dataclass(frozen=True, slots=True)
class _Peer:
    """Who is asked: ``name`` for people; ``backoff`` of one that the upstream redirects to, else None."""

    name: str
    backoff: Backoff | None = None


class HttpUpstream:
    """Fetches files below ``spec.url`` through a shared session; credentials go to its origin only."""

    received = 0
    """Bytes of bodies that came from it, as they were sent."""
    answered = 0
    """Heads of answers that came from it."""

    def __init__(
        self,
        spec: UpstreamSpec,
        session: aiohttp.ClientSession,
        timeouts: Timeouts,
        way: Way,
        redirected: Callable[[str, Outcome, float], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``redirected`` is told of each request that it answered by sending us to itself again, or later."""
        self._base = URL(spec.url)
        self._name = spec.name
        self._label = spec.label
        self._session = session
        self._timeouts = timeouts
        self._way = way
        self._redirect = redirected
        self._now = now
        self._elsewhere: Lru[URL, _Peer] = Lru(ELSEWHERE)
        self._headers = {
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.USER_AGENT: f"goproxy-vm/{__version__}",
            PREFER: preference(timeouts.stall / WORD),
        }
        userinfo = spec.userinfo or way.environment.credentials(self._base.host or "")
        self._auth: str | None = None
        if userinfo is not None:
            credentials = base64.b64encode(":".join(userinfo).encode())
            self._auth = f"Basic {credentials.decode()}"

    async def fetch(
        self, path: str, sink: Sink, limit: int, *, hurry: bool = False, again: bool = False
    ) -> str:
        """Copy one file into ``sink``, at most ``limit`` bytes. Raises Failure; NoRoom passes through.

        ``hurry``: do not ask a host that it redirects to and that is backed off from. ``again``: this is not
        the first try. Returns what may explain why the file is not the one expected, as the beginning of a
        sentence, or nothing.
        """
        url = self._url(path)
        for left in reversed(range(MOST_REQUESTS)):
            peer = self._peer(url)
            if hurry and not again and peer.backoff is not None and not peer.backoff.admit():
                raise Failure(UpstreamError(f"{peer.name}: it failed before"), "redirect", untried=True)
            started = time.monotonic()
            try:
                said = await self._hop(url, peer, sink, limit)
            except Failure as failure:
                raise _against(peer, failure, again=again) from None
            except (aiohttp.ClientError, TimeoutError, BadGzip) as problem:
                raise _against(peer, self._broken(peer, problem), again=again) from None
            if not isinstance(said, URL):
                return said
            url = said
            if left and url.origin() == self._base.origin():  # the last of too many ends as a failure
                self._redirect(self._label, "ok", time.monotonic() - started)
        raise _failure(self._name, "too many redirects")

    def _peer(self, url: URL) -> _Peer:
        origin = url.origin()
        if origin == self._base.origin():
            return _Peer(self._name)
        peer = self._elsewhere.get(origin)
        if peer is None:
            host = _shown(url.authority.rpartition("@")[2], SENTENCE)
            backoff = Backoff(self._now, self._timeouts.stall)
            peer = _Peer(f"{self._name}: redirected to {host}", backoff)
            self._elsewhere.keep(origin, peer)
        return peer

    def _broken(self, peer: _Peer, problem: Exception) -> Failure:
        """What failed without an answer, or in the middle of it."""
        name = peer.name
        if isinstance(problem, aiohttp.ConnectionTimeoutError):
            late = UpstreamTimeout(f"{name}: no connection within {self._timeouts.connect:g} s")
            return Failure(late, "timeout", counts=True)
        if isinstance(problem, TimeoutError):
            silent = UpstreamTimeout(f"{name}: no byte for {self._timeouts.stall:g} s")
            return Failure(silent, "timeout", counts=True)
        # Retried, but no reason to back off: an upstream that cuts one file off answers for all others.
        if isinstance(problem, BadGzip):
            bad = UpstreamError(f"{name}: the answer is no valid gzip, though its Content-Encoding says so")
            return Failure(bad, "connection", passing=True)
        if isinstance(problem, aiohttp.ClientPayloadError):
            cut = UpstreamError(f"{name}: the answer was cut off before its end")
            return Failure(cut, "connection", passing=True)
        if isinstance(problem, aiohttp.ClientConnectionError | aiohttp.ClientHttpProxyError):
            return Failure(UpstreamError(f"{name}: {_phrase(problem)}"), "connection", counts=True)
        return Failure(UpstreamError(f"{name}: no valid HTTP"), "connection", passing=True)

    def _url(self, path: str) -> URL:
        # Decoded once already: what a version may hold, as "%" and "#", must not mean anything here. Go sends
        # "!" as %21, and as it is in lookups (PROTOCOL §1).
        safe = "/+@!" if path.startswith(("sumdb/", "lookup/")) else "/+@"
        return URL(f"{self._base}/{quote(path, safe=safe)}", encoded=True)

    async def _hop(self, url: URL, peer: _Peer, sink: Sink, limit: int) -> URL | str:
        """One answer: where it redirects to, or what is to be said about the file that came."""
        async with await self._ask(url, peer) as response:
            self.answered += 1
            watch_body(response)
            if peer.backoff is not None and response.status not in TROUBLE:
                peer.backoff.succeeded()
            if response.status in REDIRECTS:
                return _redirected(peer, url, response.headers.get(hdrs.LOCATION))
            await self._receive(response, peer, sink, limit)
            return _remark(response, peer.name.removeprefix(f"{self._name}: "), peer.backoff is not None)

    async def _ask(self, url: URL, peer: _Peer) -> aiohttp.ClientResponse:
        """The answer, however often the upstream says before that it is at work (another goproxy_vm does)."""
        first = time.monotonic()
        while True:
            started = time.monotonic()
            response = await self._get(url, peer)
            if not is_under_way(response.status, response.headers.get(PREFERENCE_APPLIED, "")):
                return response
            response.release()
            now = time.monotonic()
            if url.origin() == self._base.origin():
                self._redirect(self._label, "ok", now - started)
            if now - first > self._timeouts.total:
                late = UpstreamTimeout(f"{peer.name}: still at work after {self._timeouts.total:g} s")
                raise Failure(late, "timeout")
            # One that does not wait as asked is made to.
            await asyncio.sleep(self._timeouts.stall / WORD - (now - started))

    async def _get(self, url: URL, peer: _Peer) -> aiohttp.ClientResponse:
        headers = self._headers | {loop.FIELD: loop.value(current(), self._way.name)}
        if self._auth is not None and peer.backoff is None:
            headers[hdrs.AUTHORIZATION] = self._auth
            url = url.with_user(None)  # what it redirects to itself with: aiohttp would take neither
        try:
            return await self._session.get(
                url, headers=headers, allow_redirects=False, proxy=self._way.environment.proxy(url)
            )
        except aiohttp.ClientConnectionError:
            raise  # a certificate's error is a ValueError too
        except ValueError:  # such as a host that cannot be looked up, in a redirect's Location
            raise _failure(peer.name, "a URL that cannot be asked") from None

    async def _receive(self, response: aiohttp.ClientResponse, peer: _Peer, sink: Sink, limit: int) -> None:
        if response.status != 200:
            raise await self._refusal(response, peer)
        # Any other encoding is none, as for Go: what was not asked for is mostly the storage's own note.
        zipped = response.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() == "gzip"
        if (response.content_length or 0) > limit:
            raise _too_large(peer, limit)
        await sink.begin(None if zipped else response.content_length)
        if _stands_in(response):
            sink.stand_in()
        received = 0
        chunks = self._counted(response.content, peer, limit)
        async for chunk in gunzip(chunks) if zipped else chunks:
            received += len(chunk)
            if received > limit:
                raise _too_large(peer, limit)
            await sink.write(chunk)

    async def _counted(self, content: aiohttp.StreamReader, peer: _Peer, limit: int) -> AsyncIterator[bytes]:
        """The body as it was sent, at most ``limit`` bytes, in portions that cost no more than others can
        wait for: it may come in pieces of a byte."""
        portion = Portion(PIECE)
        taken = 0
        while True:
            buffered = content.total_bytes > taken
            started = time.perf_counter()
            if portion.bytes == portion.most:
                chunk = await content.readany()
            else:
                chunk = await content.read(portion.bytes)
            if buffered:  # else it had to be waited for
                portion.took(time.perf_counter() - started)
            if not chunk:
                return
            taken += len(chunk)
            self.received += len(chunk)
            if taken > limit:
                raise _too_large(peer, limit)
            yield chunk
            if portion.bytes < portion.most:
                await asyncio.sleep(0)  # reading what is there already lets nobody else have a turn

    async def _refusal(self, response: aiohttp.ClientResponse, peer: _Peer) -> Failure:
        said = await self._first_line(response)
        reason = _shown(response.reason or "", REASON)
        sentence = f"{peer.name}: {response.status} {reason}".rstrip() + (said and f": {said}")
        if response.status in ABSENCE:
            absent = Absent(sentence)
            absent.remembered = _stands_in(response)
            absent.upstreams = response.status
            return Failure(absent, "not_found")
        if response.status in REFUSALS:
            return Failure(Refused(sentence), "refused")
        if response.status == LOOP:
            return Failure(Looped(sentence), "unavailable")
        counts = response.status in TROUBLE
        retry_after = _seconds(response.headers.get(hdrs.RETRY_AFTER)) if counts else None
        return Failure(UpstreamError(sentence), "unavailable", counts=counts, retry_after=retry_after)

    async def _first_line(self, response: aiohttp.ClientResponse) -> str:
        """The first line of a text/plain answer, as far as it can be shown; empty where there is none."""
        if response.content_type != "text/plain" or hdrs.CONTENT_ENCODING in response.headers:
            return ""
        try:
            async with asyncio.timeout(5):
                head = await response.content.read(4 * SENTENCE)
        except (aiohttp.ClientError, TimeoutError):
            return ""
        self.received += len(head)
        return _shown(head.decode("utf-8", "replace").strip().partition("\n")[0], SENTENCE)


def _against(peer: _Peer, failure: Failure, *, again: bool) -> Failure:
    """A failure as the upstream's that sent us there: of a host elsewhere it is innocent."""
    if peer.backoff is None or not (failure.counts or failure.passing):
        return failure
    passing = again or not peer.backoff.failing
    if failure.counts:
        peer.backoff.failed(failure.retry_after, str(failure))
    return Failure(failure.error, "redirect", passing=passing, retry_after=failure.retry_after)


def _redirected(peer: _Peer, url: URL, location: str | None) -> URL:
    if not location:
        raise _failure(peer.name, "a redirect without a Location")
    # As sent, signatures may depend on it; only what no request line may hold is quoted.
    safe = quote(location, safe=string.punctuation, errors="surrogateescape")
    try:
        target = url.join(URL(safe, encoded=True))
        known = target.scheme in ("http", "https") and target.host and target.port
    except ValueError:  # host and port are looked at only when they are asked for
        known = None
    if not known:
        raise _failure(peer.name, "a redirect to no valid URL")
    if url.scheme == "https" and target.scheme == "http":
        raise _failure(peer.name, "a redirect from https to http, refused")
    return target


def _failure(name: str, reason: str) -> Failure:
    return Failure(UpstreamError(f"{name}: {reason}"), "unavailable")


def _too_large(peer: _Peer, limit: int) -> Failure:
    return Failure(ContentError(f"{peer.name}: the file is over the limit of {limit} bytes"), "content")


def _remark(response: aiohttp.ClientResponse, name: str, elsewhere: bool) -> str:
    """What may explain why an answer is not the file that was asked for; begins a sentence."""
    said = [name] if elsewhere else []
    encoding = response.headers.get(hdrs.CONTENT_ENCODING, "").strip()
    if encoding.lower() not in ("", "identity", "gzip"):
        said.append(f"content encoding {_shown(encoding, REASON)!r}, which was not asked for")
    if response.content_type in ("text/html", "application/xhtml+xml"):
        said.append("an HTML page, for a login perhaps")
    return "".join(f"{each}: " for each in said)


def _stands_in(response: aiohttp.ClientResponse) -> bool:
    """Whether a server like this one says that it answers in place of upstreams that fail it."""
    status = response.headers.get("Cache-Status", "")
    return "goproxy-vm; " in status and ("detail=built-from-" in status or "detail=stale" in status)


def _shown(text: str, most: int) -> str:
    """The text as people may see it: one line, printable, at most ``most`` bytes."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable.encode()[:most].decode("utf-8", "ignore").strip()


def _seconds(retry_after: str | None) -> float | None:
    """The seconds that a Retry-After asks for, as a number or a date (RFC 9110 §10.2.3); None if unclear."""
    value = (retry_after or "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _phrase(problem: aiohttp.ClientError) -> str:
    """The problem in a few words, without addresses."""
    if isinstance(problem, aiohttp.ClientHttpProxyError):
        return f"the proxy on the way to it answered {problem.status}"
    if isinstance(problem, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted: " + _shown(str(problem.certificate_error), SENTENCE)
    if isinstance(problem, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(problem, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(problem, aiohttp.ClientConnectorError):
        whom = " to the proxy" if isinstance(problem, aiohttp.ClientProxyConnectionError) else ""
        number = problem.os_error.errno or 0
        return f"cannot connect{whom}" + (f": {os.strerror(number)}" if number > 0 else "")
    return "the connection was closed before an answer"
