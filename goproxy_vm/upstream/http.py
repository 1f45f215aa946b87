"""One HTTP upstream: GET, redirects as Go follows them, bounds, and what each failure means."""

from __future__ import annotations

import asyncio
import base64
import os
import string
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs
from yarl import URL

from goproxy_vm import __version__
from goproxy_vm.errors import Absent, ContentError, Refused, UpstreamError, UpstreamTimeout
from goproxy_vm.protocol.prefer import PREFER, PREFERENCE_APPLIED, is_under_way, preference
from goproxy_vm.upstream.failure import Failure, Outcome

if TYPE_CHECKING:
    from goproxy_vm.upstream.sink import Sink
    from goproxy_vm.upstream.spec import UpstreamSpec

MOST_REQUESTS = 10
"""Requests for one file, redirects included, as in Go."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TROUBLE = frozenset({429, 502, 503, 504})
REFUSALS = frozenset({401, 403, 451})
ABSENCE = frozenset({404, 410})
SENTENCE = 200
"""Bytes of an upstream's own sentence that are passed on."""
REASON = 40
"""Bytes of a status line's reason that are passed on."""
CHUNK = 1 << 20
WORD = 3
"""How often, within the time that an upstream may be silent, one that works on an answer is to say so."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect (name look-up and TLS included), without a byte, and for one file in all."""

    connect: float
    stall: float
    total: float


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
        limits: Limits,
        redirected: Callable[[str, Outcome, float], None],
    ) -> None:
        """``redirected`` is told of each request that it answered by sending us to itself again, or later."""
        self._base = URL(spec.url)
        self._name = spec.name
        self._label = spec.label
        self._session = session
        self._limits = limits
        self._redirect = redirected
        self._headers = {
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.USER_AGENT: f"goproxy-vm/{__version__}",
            PREFER: preference(limits.stall / WORD),
        }
        self._auth: str | None = None
        if spec.userinfo is not None:
            credentials = base64.b64encode(":".join(spec.userinfo).encode())
            self._auth = f"Basic {credentials.decode()}"

    async def fetch(self, path: str, sink: Sink, limit: int) -> None:
        """Copy one file into ``sink``, at most ``limit`` bytes. Raises Failure; NoRoom passes through."""
        try:
            await self._follow(self._url(path), sink, limit)
        except aiohttp.ConnectionTimeoutError:
            error = UpstreamTimeout(f"{self._name}: no connection within {self._limits.connect:g} s")
            raise Failure(error, "timeout", counts=True) from None
        except TimeoutError:
            error = UpstreamTimeout(f"{self._name}: no byte for {self._limits.stall:g} s")
            raise Failure(error, "timeout", counts=True) from None
        except (aiohttp.ClientPayloadError, zlib.error):
            cut = UpstreamError(f"{self._name}: the answer was cut off before its end")
            # Retried, but no reason to back off: an upstream that cuts one file off answers for all others.
            raise Failure(cut, "connection", passing=True) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientHttpProxyError) as problem:
            failed = UpstreamError(f"{self._name}: {_phrase(problem)}")
            raise Failure(failed, "connection", counts=True) from None
        except aiohttp.ClientError:
            broken = UpstreamError(f"{self._name}: no valid HTTP")
            raise Failure(broken, "connection", passing=True) from None

    def _url(self, path: str) -> URL:
        # Decoded once already: what a version may hold, as "%" and "#", must not mean anything here. Go sends
        # "!" as %21, and as it is in lookups (PROTOCOL §1).
        safe = "/+@!" if path.startswith(("sumdb/", "lookup/")) else "/+@"
        return URL(f"{self._base}/{quote(path, safe=safe)}", encoded=True)

    async def _follow(self, url: URL, sink: Sink, limit: int) -> None:
        for left in reversed(range(MOST_REQUESTS)):
            started = time.monotonic()
            async with await self._ask(url) as response:
                self.answered += 1
                if response.status not in REDIRECTS:
                    await self._receive(response, sink, limit)
                    return
                url = self._redirected(url, response.headers.get(hdrs.LOCATION))
            if left and url.origin() == self._base.origin():  # the last of too many ends as a failure
                self._redirect(self._label, "ok", time.monotonic() - started)
        raise self._failure("too many redirects")

    async def _ask(self, url: URL) -> aiohttp.ClientResponse:
        """The answer, however often the upstream says before that it is at work (another goproxy_vm does)."""
        first = time.monotonic()
        while True:
            started = time.monotonic()
            response = await self._get(url)
            if not is_under_way(response.status, response.headers.get(PREFERENCE_APPLIED, "")):
                return response
            response.release()
            now = time.monotonic()
            if url.origin() == self._base.origin():
                self._redirect(self._label, "ok", now - started)
            if now - first > self._limits.total:
                late = UpstreamTimeout(f"{self._name}: still at work after {self._limits.total:g} s")
                raise Failure(late, "timeout")
            await asyncio.sleep(
                self._limits.stall / WORD - (now - started)
            )  # one that does not wait as asked

    async def _get(self, url: URL) -> aiohttp.ClientResponse:
        try:
            return await self._session.get(
                url, headers=self._headers, allow_redirects=False, middlewares=(self._authorize,)
            )
        except aiohttp.ClientConnectionError:
            raise  # a certificate's error is a ValueError too
        except ValueError:  # such as a host that cannot be looked up, in a redirect's Location
            raise self._failure("a URL that cannot be asked") from None

    async def _authorize(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # Not among the headers given to aiohttp: with an entry in ~/.netrc as well it would take neither.
        if self._auth is not None and request.url.origin() == self._base.origin():
            request.headers[hdrs.AUTHORIZATION] = self._auth
        return await send(request)

    def _redirected(self, url: URL, location: str | None) -> URL:
        if not location:
            raise self._failure("a redirect without a Location")
        # As sent, signatures may depend on it; only what no request line may hold is quoted.
        safe = quote(location, safe=string.punctuation, errors="surrogateescape")
        try:
            target = url.join(URL(safe, encoded=True))
            known = target.scheme in ("http", "https") and target.host and target.port
        except ValueError:  # host and port are looked at only when they are asked for
            known = None
        if not known:
            raise self._failure("a redirect to no valid URL")
        if url.scheme == "https" and target.scheme == "http":
            raise self._failure("a redirect from https to http, refused")
        return target

    def _failure(self, reason: str) -> Failure:
        return Failure(UpstreamError(f"{self._name}: {reason}"), "unavailable")

    async def _receive(self, response: aiohttp.ClientResponse, sink: Sink, limit: int) -> None:
        if response.status != 200:
            raise await self._refusal(response)
        encoding = response.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise self._failure(f"content encoding {encoding[:20]!r}, which was not asked for")
        length = response.content_length if encoding == "identity" else None
        if (response.content_length or 0) > limit:
            raise self._too_large(limit)
        await sink.begin(length)
        if _stands_in(response):
            sink.stand_in()
        received = 0
        chunks = self._counted(response.content.iter_any())
        async for chunk in _gunzip(chunks) if encoding == "gzip" else chunks:
            received += len(chunk)
            if received > limit:
                response.close()
                raise self._too_large(limit)
            await sink.write(chunk)

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.received += len(chunk)
            yield chunk

    def _too_large(self, limit: int) -> Failure:
        error = ContentError(f"{self._name}: the file is over the limit of {limit} bytes")
        return Failure(error, "content")

    async def _refusal(self, response: aiohttp.ClientResponse) -> Failure:
        said = await self._first_line(response)
        reason = _shown(response.reason or "", REASON)
        sentence = f"{self._name}: {response.status} {reason}".rstrip() + (said and f": {said}")
        if response.status in ABSENCE:
            absent = Absent(sentence)
            absent.remembered = _stands_in(response)
            return Failure(absent, "not_found")
        if response.status in REFUSALS:
            return Failure(Refused(sentence), "refused")
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


def _stands_in(response: aiohttp.ClientResponse) -> bool:
    """Whether a server like this one says that it answers in place of upstreams that fail it."""
    status = response.headers.get("Cache-Status", "")
    return "goproxy-vm; " in status and ("detail=built-from-" in status or "detail=stale" in status)


async def _gunzip(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Decode gzip, of one member or more, in bounded pieces; zlib.error where it ends too early."""
    inflate = _inflater()
    async for chunk in chunks:
        left = chunk
        while left:
            if inflate.eof:
                inflate = _inflater()
            yield inflate.decompress(left, CHUNK)
            left = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    while not inflate.eof:
        rest = inflate.decompress(b"", CHUNK)
        if not rest:
            raise zlib.error("the gzip stream is cut off")
        yield rest


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


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
