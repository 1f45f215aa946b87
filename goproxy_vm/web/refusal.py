"""What a client is told before a request of it is read: whole answers as bytes, the connection's last."""

from __future__ import annotations

import http
from collections.abc import Callable

RETRY_AFTER = 5
"""Seconds after which whoever is told 503 may ask again."""

Refusal = Callable[[int, str], bytes]
"""Makes the answer with a status and a sentence."""


def plain(status: int, sentence: str) -> bytes:
    """For ``go``: one line of text."""
    text = f"goproxy-vm: {sentence}\n".encode()
    return whole(status, "text/plain; charset=utf-8", text, "Cache-Status: goproxy-vm; detail=refused")


def whole(status: int, kind: str, body: bytes, *fields: str) -> bytes:
    """Such an answer, its body of a media type ``kind``; ``fields`` are further lines of its head."""
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        f"Content-Type: {kind}",
        "Cache-Control: no-store",
        *fields,
    ]
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        lines.append(f"Retry-After: {RETRY_AFTER}")
    lines += ["Connection: close", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body
