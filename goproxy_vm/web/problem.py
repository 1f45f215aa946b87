"""The one place where the error tree becomes an HTTP response for ``go`` (PROTOCOL §2, case 80)."""

from __future__ import annotations

import math

from aiohttp import web

from goproxy_vm.errors import Absent, GoproxyError
from goproxy_vm.proxy.answer import CACHE_STATUS, UNCACHEABLE, Result
from goproxy_vm.web.identity import CACHE_NAME, SERVER

MOST_BYTES = 648
"""``go`` hides a first line that is longer than this (PROTOCOL §2)."""


def error_text(about: str, sentence: str, request_id: str) -> bytes:
    """One line of printable text: what was asked for, why not, and the request's id for the log."""
    tail = f" [request {request_id}]\n".encode()
    head = f"goproxy-vm: {about}: {sentence}" if about else f"goproxy-vm: {sentence}"
    line = "".join(c if c.isprintable() else "?" for c in " ".join(head.split()))
    data = line.encode("utf-8", "replace")
    room = MOST_BYTES - len(tail)
    if len(data) > room:
        data = data[: room - 3].decode("utf-8", "ignore").encode() + "…".encode()
    return data + tail


def error_response(
    error: GoproxyError, about: str, request_id: str, negative: float, *, forwarded: bool
) -> web.Response:
    """The response for ``error``; absence may be cached for ``negative`` seconds, nothing else may."""
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": UNCACHEABLE,
        "Cache-Status": f"{CACHE_NAME}; fwd=uri-miss" if forwarded else f"{CACHE_NAME}; detail=refused",
        "X-Content-Type-Options": "nosniff",
        "Server": SERVER,
    }
    if error.result == Result.NEGATIVE:
        headers["Cache-Control"] = f"public, max-age={int(negative)}"
        headers["Cache-Status"] = f"{CACHE_NAME}; {CACHE_STATUS[Result.NEGATIVE]}"
    if isinstance(error, Absent) and (error.remembered or error.reserved):
        headers["Cache-Control"] = UNCACHEABLE
    if isinstance(error, Absent) and error.remembered:
        headers["Cache-Status"] += "; detail=stale"
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return web.Response(
        status=error.status, headers=headers, body=error_text(about, error.sentence, request_id)
    )
