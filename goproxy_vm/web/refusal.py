"""What a client is told before a request of it is read: whole answers as bytes, the connection's last."""

from __future__ import annotations

import http
import json
from collections.abc import Callable

from goproxy_vm.web.details import PROBLEM, members

RETRY_AFTER = 5
"""Seconds after which whoever is told 503 may ask again."""

Refusal = Callable[[int, str], bytes]
"""Makes the answer with a status and a sentence."""


def plain(status: int, sentence: str) -> bytes:
    """For ``go``: one line of text."""
    text = f"goproxy-vm: {sentence}\n".encode()
    return _answer(status, "text/plain; charset=utf-8", text, "Cache-Status: goproxy-vm; detail=refused")


def problem(status: int, sentence: str) -> bytes:
    """For clients of the admin API: problem details (RFC 9457)."""
    return _answer(status, PROBLEM, f"{json.dumps(members(status, sentence))}\n".encode())


def _answer(status: int, kind: str, body: bytes, *fields: str) -> bytes:
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
